---------
-- Asking LLM servers whether they live and what they have: who asks, how often, what is believed.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")
local minted = require("minted")
local policies = require("policies")

local fake, health, inner_door, state, policy, answers, asked

local function row(name, changes)
    local found = {
        name = name, kind = "vllm", dialect = "openai", model_names = "exact", weight = 1,
        scheme = "http", host = "10.0.0.1", port = 8000, authority = "10.0.0.1:8000", path = "",
    }
    for field, value in pairs(changes or {}) do
        found[field] = value
    end
    return found
end

local function put_servers(...)
    local listed = policies.listed()
    listed.servers, listed.management = { ... }, {}
    for _, route in ipairs(listed.routes) do
        route.servers = (route.answered_by == "llm" or route.answered_by == "discovery") and { 0 }
            or nil
    end
    policy = policies.put(fake, listed)
    return policy
end

before_each(function()
    fake = fake_ngx.install()
    inner_door = fake.load("portero.server.inner_door")
    inner_door.start({ sync_key = minted.SYNC_KEY })
    answers, asked = {}, {}
    inner_door.ask = function(target)
        asked[#asked + 1] = target
        local answer = answers[target] or { 404, "" }
        return answer[1], answer[2]
    end
    state = fake.load("portero.server.server_state")
    health = fake.load("portero.server.health")
    health.start()
end)

local function say(target, status, body)
    answers[target] = { status, type(body) == "table" and cjson.encode(body) or body }
end

local function later(seconds)
    fake.clock.now = fake.clock.now + seconds
    fake.tick()
end

local function seen(name)
    return state.view(policy)[name]
end

local function error_of(index)
    return state.status(policy)[index or 1].last_error
end

describe("start", function()
    it("asks nobody where the policy names no server, or there is none", function()
        fake.tick()
        policies.put(fake)
        fake.tick()
        assert.same({}, asked)
        assert.is_nil(fake.shared.portero_servers:get("asker"))
    end)

    it("asks each server at once, and again every two seconds", function()
        put_servers(row("a"), row("b"))
        say("/servers/a/v1/models", 200, { data = { { id = "m" } } })
        say("/servers/b/v1/models", 200, { data = { { id = "n" } } })
        fake.tick()
        assert.same({ "/servers/a/v1/models", "/servers/b/v1/models" }, asked)
        assert.same({ m = "m" }, seen("a").models)
        later(1.5)
        assert.equal(2, #asked)
        later(0.5)
        assert.equal(4, #asked)
    end)

    it("asks in one worker alone, and in another soon after that one dies", function()
        put_servers(row("a"))
        say("/servers/a/v1/models", 200, { data = { { id = "m" } } })
        fake.tick()
        fake.worker_pid = 101
        later(2)
        assert.equal(1, #asked)
        later(1.1)
        assert.equal(2, #asked)
    end)

    it("lets another worker ask at once where this one ends", function()
        put_servers(row("a"))
        fake.tick()
        fake.timers[1].callback(true)
        fake.worker_pid = 101
        later(2)
        assert.equal(2, #asked)
    end)

    it("asks a server of Ollama's dialect for what it has and what runs", function()
        put_servers(row("a", { dialect = "ollama", model_names = "ollama" }))
        say("/servers/a/api/tags", 200, { models = { { name = "M:latest", size = 1 } } })
        say("/servers/a/api/ps", 200, { models = { { name = "M:latest", size_vram = 2 } } })
        fake.tick()
        assert.same({ m = "M:latest" }, seen("a").models)
        assert.equal(2, seen("a").running[1].size_vram)
    end)

    it("asks it in the common dialect where it has no list in its own", function()
        put_servers(row("a", { dialect = "ollama" }))
        say("/servers/a/v1/models", 200, { data = { { id = "m" } } })
        fake.tick()
        assert.same({ m = "m" }, seen("a").models)
    end)

    it("takes a server without any list for one that is up, with the names given", function()
        put_servers(row("a", { models = { "m", "x*" } }))
        fake.tick()
        assert.same({ m = "m" }, seen("a").models)
        assert.is_true(seen("a").is_first)
    end)

    it("asks one that failed again after half a second, three times, then every two", function()
        put_servers(row("a"))
        say("/servers/a/v1/models", 502, "")
        fake.tick()
        for count, seconds in ipairs({ 0.5, 0.5, 0.5, 0.5, 0.5, 0.5 }) do
            later(seconds)
            assert.equal(({ 2, 3, 3, 3, 3, 4 })[count], #asked)
        end
        assert.is_true(seen("a").is_ejected)
        say("/servers/a/v1/models", 200, { data = {} })
        later(2)
        assert.is_true(seen("a").is_first)
    end)

    it("goes on where one of them breaks", function()
        put_servers(row("a"))
        inner_door.ask = function() error("broken") end
        fake.tick()
        assert.matches("broken", fake.logged[1], 1, true)
        later(2)
        assert.equal(2, #fake.logged)
    end)

    it("logs a line of JSON for each change, and no key", function()
        put_servers(row("a", { credential = "CANARY" }))
        say("/servers/a/v1/models", 200, { data = { { id = "m" } } })
        fake.tick()
        later(0.5)
        assert.same({
            event = "llm_server", server = "a", state = "up", was = "unknown", models = 1,
        }, cjson.decode(fake.logged[1]))
        later(0.5)
        assert.equal(1, #fake.logged)
        say("/servers/a/v1/models", 401, "CANARY")
        later(2)
        later(0.5)
        assert.equal("misconfigured", cjson.decode(fake.logged[2]).state)
        assert.is_nil(table.concat(fake.logged):find("CANARY", 1, true))
    end)
end)

describe("a list", function()
    local MANY, TOO_MANY = {}, {}
    for index = 1, 5001 do
        TOO_MANY[index] = { id = "m" .. index }
        MANY[index] = index <= 5000 and TOO_MANY[index] or nil
    end

    --- What comes, and why that is no list.
    local LIES = {
        { 200, "hello", "not the JSON of such a list" },
        { 200, "[]", "not the JSON" }, { 200, "1", "not the JSON" }, { 200, "{}", "not the JSON" },
        { 200, '{"data":{"a":1}}', "not the JSON" }, { 200, '{"data":"x"}', "not the JSON" },
        { 200, '{"data":[{"id":"\255"}]}', "not the JSON" },
        { 200, '{"data":[{"id":"\237\160\128"}]}', "not the JSON" },
        { 200, cjson.encode({ data = TOO_MANY }), "more than 5000 models" },
        { 301, "", "it answered 301" }, { 500, "", "it answered 500" },
        { 503, "", "it answered 503" }, { 502, "", "could not be reached" },
        { 504, "", "did not answer within 2 s" },
        { nil, "too long", "longer than 2 MiB" }, { nil, "timeout", "not whole, within 2 s" },
        { nil, "cut off", "cut off" }, { nil, "no http", "no HTTP" },
        { nil, "connection refused", "connection refused" },
    }
    for _, lie in ipairs(LIES) do
        local what = ("%s %s"):format(lie[1] or "", lie[2]:sub(1, 30))
        it("is none, and the state says why: " .. what, function()
            put_servers(row("a"))
            say("/servers/a/v1/models", lie[1], lie[2])
            fake.tick()
            assert.is_true(seen("a").is_listed)
            assert.is_true(seen("a").is_silent)
            assert.matches(lie[3], error_of(), 1, true)
        end)
    end

    for status in pairs({ [401] = true, [403] = true, [407] = true }) do
        it(("that is refused with %d is no failure, but misconfigured"):format(status), function()
            put_servers(row("a"))
            say("/servers/a/v1/models", status, "")
            for _ = 1, 4 do
                later(2)
            end
            assert.is_true(seen("a").is_misconfigured)
            assert.is_true(seen("a").is_up)
        end)
    end

    it("has each model once, and no entry that is none", function()
        put_servers(row("a"))
        say("/servers/a/v1/models", 200, {
            data = {
                { id = "m", created = 1 }, { id = "m", created = 2 }, { id = 1 }, { id = "" }, "x",
                { id = "a\nb" }, { id = ("x"):rep(1025) }, { id = "模型", path = "CANARY" },
            },
        })
        fake.tick()
        assert.same({ m = "m", ["模型"] = "模型" }, seen("a").models)
        assert.equal(1, seen("a").entries[1].created)
        assert.is_nil(seen("a").entries[2].path)
    end)

    it("may be large, empty, or null", function()
        put_servers(row("a"))
        for _, body in ipairs({ { data = MANY }, { data = {} }, { data = cjson.null } }) do
            say("/servers/a/v1/models", 200, body)
            later(2)
            assert.is_true(seen("a").is_first)
        end
        assert.same({}, seen("a").models)
    end)
end)
