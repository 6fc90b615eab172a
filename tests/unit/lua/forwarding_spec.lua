---------
-- A request on its way: the next server where one could not be reached or was not ready, never
-- where a request may have begun; and each place given back once, whatever the end.

local fake_ngx = require("fake_ngx")
local minted = require("minted")
local policies = require("policies")

local CLAIMS = { sub = "AGIAX1", jti = minted.JTI, exp = minted.NOW + 900, iat = minted.NOW }

local fake, forwarding, in_flight, server_state, policy, aimed, errors_of_aim

local function row(name, changes)
    local found = {
        name = name, kind = "vllm", model_names = "exact", models = { "tiny" }, weight = 1,
        scheme = "http", host = name, port = 80,
    }
    for field, value in pairs(changes or {}) do
        found[field] = value
    end
    return found
end

before_each(function()
    fake = fake_ngx.install(minted.NOW)
    aimed, errors_of_aim = {}, {}
    package.loaded["portero.server.places"] = {
        aim = function(one)
            if errors_of_aim[one.name] then
                return nil, errors_of_aim[one.name]
            end
            aimed[#aimed + 1] = one.name
            return one.suffix or ""
        end,
    }
    local active_tokens = fake.load("portero.token.active_tokens")
    active_tokens.end_snapshot(active_tokens.begin_snapshot())
    active_tokens.activate(CLAIMS.jti, CLAIMS.exp, minted.NOW)
    fake.load("portero.shared_versions").look()
    in_flight = fake.load("portero.server.in_flight")
    in_flight.start()
    server_state = fake.load("portero.server.server_state")
    forwarding = fake.load("portero.server.forwarding")
    policy = { servers = { row("a"), row("b"), row("c") } }
end)

after_each(function()
    package.loaded["portero.server.places"] = nil
end)

--- What the caller is told where the request was led away.
local function refused()
    assert.equal("@no_server", fake.answer.exec)
    forwarding.refuse()
    forwarding.finish()
    return fake.answer.status
end

--- A request that may go to some servers.
local function begin(rows, claims)
    fake.request({ target = "/v1/chat/completions" })
    forwarding.begin({ policy = policy, rows = rows or policy.servers }, claims or CLAIMS)
end

--- An admin takes servers out, in the policy that comes behind the one that requests began with.
local serial = 0
local function take_out(...)
    local listed = policies.listed()
    listed.servers, serial = {}, serial + 1
    for index, one in ipairs(policy.servers) do
        listed.servers[index] = row(one.name)
    end
    for _, index in ipairs({ ... }) do
        listed.servers[index].taken_out = true
    end
    assert(fake.load("portero.policy.in_force").put(policies.HISTORY, serial, listed))
end

--- What nginx notes of the server that was asked: status, bytes sent, whether an answer began.
local function note(status, sent, header_time)
    local var = fake.ngx.var
    for name, value in pairs({
        upstream_status = status, upstream_bytes_sent = sent or "300",
        upstream_header_time = header_time or "0.010",
    }) do
        var[name] = var[name] and var[name] .. " : " .. value or value
    end
end

local function cannot_be_reached()
    note("502", "0", "-")
end

local function counts()
    return { in_flight.count("a"), in_flight.count("b"), in_flight.count("c") }
end

local function is_first(name)
    return server_state.view(policy)[name].is_first
end

--- Names of the servers asked so far, in their order of the alphabet.
local function asked()
    table.sort(aimed)
    return table.concat(aimed, " ")
end

describe("enter", function()
    it("aims at a server and holds a place there until the request ends", function()
        begin()
        forwarding.enter()
        assert.equal(1, #aimed)
        assert.equal(1, in_flight.count(aimed[1]))
        assert.equal(0, fake.answer.endings)
        note("200")
        forwarding.finish()
        assert.same({ 0, 0, 0 }, counts())
    end)

    it("goes on to where a server's certificates are trusted, and passes there", function()
        begin({ row("a", { suffix = "_ca_2" }) })
        forwarding.enter()
        assert.equal("@server_ca_2", fake.answer.exec)
        forwarding.enter()
        assert.same({ 1, 1 }, { #aimed, fake.answer.endings })
    end)

    it("takes the next where one could not be reached, each once, and says so", function()
        begin()
        forwarding.enter()
        cannot_be_reached()
        forwarding.enter()
        cannot_be_reached()
        forwarding.enter()
        assert.equal("a b c", asked())
        assert.equal(0, fake.answer.endings)
        local first, second, third = is_first("a"), is_first("b"), is_first("c")
        assert.equal(1, (first and 1 or 0) + (second and 1 or 0) + (third and 1 or 0))
    end)

    it("takes the next where one answers 503 before its first byte", function()
        begin()
        forwarding.enter()
        note("503")
        forwarding.enter()
        assert.equal(2, #aimed)
        assert.is_false(is_first(aimed[1]))
    end)

    it("never sends again what may have begun", function()
        local ENDS = { { "502", "300", "-" }, { "504", "300", "-" }, { "502", "300" } }
        for _, ended in ipairs(ENDS) do
            begin()
            aimed = {}
            forwarding.enter()
            note(unpack(ended))
            forwarding.enter()
            assert.equal(1, #aimed)
            assert.equal("@llm_refused", fake.answer.exec)
            forwarding.finish()
            assert.same({ 0, 0, 0 }, counts())
        end
    end)

    it("says 503 with Retry-After where none of several can be reached", function()
        begin()
        for _ = 1, 3 do
            forwarding.enter()
            cannot_be_reached()
        end
        forwarding.enter()
        assert.equal(503, refused())
        assert.equal("1", fake.answer.headers["retry-after"])
        assert.same({ 0, 0, 0 }, counts())
    end)

    it("says of the only one what it did, however often it has failed", function()
        policy = { servers = { row("a") } }
        for _ = 1, 5 do
            begin()
            aimed = {}
            forwarding.enter()
            assert.same({ "a" }, aimed)
            cannot_be_reached()
            forwarding.enter()
            assert.equal("@llm_refused", fake.answer.exec)
        end
        assert.is_true(server_state.view(policy).a.is_ejected)
    end)

    it("passes over one that was ejected, as long as there are others", function()
        for _ = 1, 3 do
            server_state.failed(policy, "a")
        end
        for _ = 1, 6 do
            begin()
            forwarding.enter()
            note("200")
            forwarding.finish()
        end
        assert.equal("b b b c c c", asked())
    end)

    it("is as of one that cannot be reached where there is no aiming at it", function()
        errors_of_aim = { a = "its name has no address" }
        for _ = 1, 3 do
            begin()
            forwarding.enter()
            note("200")
            forwarding.finish()
        end
        assert.is_nil(asked():find("a"))
        assert.is_false(is_first("a"))
        assert.matches("the LLM server a cannot be reached: its name has no address",
            table.concat(fake.logged, "\n"))
        begin({ policy.servers[1] })
        forwarding.enter()
        assert.equal(502, refused())
    end)

    it("ends before nginx does, which leads a request ten times elsewhere", function()
        policy = { servers = {} }
        for index = 1, 12 do
            policy.servers[index] = row("s" .. index)
        end
        begin()
        local entered = 0
        repeat
            forwarding.enter()
            entered = entered + 1
            cannot_be_reached()
        until fake.answer.endings > 0
        assert.equal("@llm_refused", fake.answer.exec)
        assert.equal(8, entered)
    end)

    it("waits where all are full, and says 503 when that was in vain", function()
        policy = { servers = { row("a", { max_concurrent = 1 }) } }
        in_flight.take(policy.servers)
        begin()
        local began = fake.clock.now
        forwarding.enter()
        assert.equal(503, refused())
        assert.is_true(fake.clock.now - began >= 10)
        begin()
        fake.meanwhile = function() in_flight.release("a") end
        forwarding.enter()
        assert.same({ "a" }, aimed)
    end)

    it("takes none that was taken out since the request began, nor the next one", function()
        begin()
        take_out(1, 2)
        forwarding.enter()
        assert.equal("c", asked())
        begin()
        forwarding.enter()
        cannot_be_reached()
        take_out(1, 2, 3)
        forwarding.enter()
        assert.equal("c c", asked())
        assert.equal(503, refused())
        take_out()
        begin()
        forwarding.enter()
        assert.equal(3, #aimed)
    end)

    it("says 503 where the only one is taken out, as one that may be back", function()
        policy = { servers = { row("a", { taken_out = true }) } }
        take_out(1)
        begin()
        forwarding.enter()
        assert.equal(503, refused())
        assert.same({}, aimed)
    end)

    it("gives a place back that has come where the server was taken out meanwhile", function()
        policy = { servers = { row("a", { max_concurrent = 1 }), row("b") } }
        for _, rows in ipairs({ { policy.servers[1] }, policy.servers }) do
            take_out()
            in_flight.take({ policy.servers[1] })
            policy.servers[2].max_concurrent = 1
            in_flight.take({ policy.servers[2] })
            begin(rows)
            fake.meanwhile = function()
                fake.meanwhile = nil
                take_out(1)
                in_flight.release("a")
                policy.servers[2].max_concurrent = 2
            end
            forwarding.enter()
            assert.equal(0, in_flight.count("a"))
            if #rows == 1 then
                assert.equal(503, refused())
            end
            in_flight.release("b")
        end
        assert.same({ "b" }, aimed)
    end)

    it("asks for the token again that may have ended while the request waited", function()
        policy = { servers = { row("a", { max_concurrent = 1 }) } }
        for text, ended in pairs({
            ["token expired"] = { exp = minted.NOW + 1, jti = CLAIMS.jti },
            ["Invalid or missing token."] = { exp = CLAIMS.exp, jti = ("B"):rep(22) },
        }) do
            in_flight.take(policy.servers)
            begin(nil, { sub = CLAIMS.sub, exp = ended.exp, jti = ended.jti })
            fake.meanwhile = function()
                fake.clock.now = fake.clock.now + 2
                in_flight.release("a")
                fake.meanwhile = nil
            end
            forwarding.enter()
            assert.equal(401, refused())
            assert.is_truthy(fake.answer.body:find(text, 1, true))
            assert.equal(0, in_flight.count("a"))
        end
    end)
end)

describe("finish", function()
    it("tells how the server did that was asked last", function()
        for _, case in ipairs({
            { "401", { is_misconfigured = true } }, { "403", { is_misconfigured = true } },
            { "503", { is_first = false } },
            { "200", { is_first = true, is_misconfigured = false } },
        }) do
            policy = { servers = { row("x" .. case[1]) } }
            begin()
            forwarding.enter()
            note(case[1])
            forwarding.finish()
            local state = server_state.view(policy)["x" .. case[1]]
            for name, value in pairs(case[2]) do
                assert.equal(value, state[name], case[1] .. " " .. name)
            end
        end
    end)

    it("tells nothing of one that did not answer: the request may be to blame", function()
        local ENDS = { { "504", "300", "-" }, { "502", "300", "-" }, { "-", "300", "-" } }
        for _, ended in ipairs(ENDS) do
            policy = { servers = { row("a") } }
            begin()
            forwarding.enter()
            note(unpack(ended))
            forwarding.finish()
            assert.is_true(server_state.view(policy).a.is_first)
        end
    end)

    it("gives back what was waited for, or has come meanwhile, once", function()
        policy = { servers = { row("a", { max_concurrent = 1 }) } }
        in_flight.take(policy.servers)
        begin()
        -- The client leaves: the log phase comes, and nobody runs on behind the wait.
        fake.meanwhile = function()
            fake.meanwhile = nil
            in_flight.release("a")
            error("the client has left")
        end
        assert.has_error(forwarding.enter)
        assert.equal(1, in_flight.count("a"))
        forwarding.finish()
        forwarding.finish()
        assert.equal(0, in_flight.count("a"))
    end)
end)

describe("next, for a connection that Lua opens", function()
    it("holds a place at one server after the other, until it has one or there is none", function()
        begin()
        local first = forwarding.next()
        assert.equal(1, in_flight.count(first.name))
        assert.equal(first.name, fake.ngx.var.llm_server)
        assert.is_true(forwarding.pass_over(502, false))
        assert.is_false(is_first(first.name))
        local second = forwarding.next()
        assert.is_true(forwarding.pass_over(503, true))
        assert.is_false(is_first(second.name))
        local third = forwarding.next()
        assert.same({ 0, 0, 1 }, (function(found) table.sort(found) return found end)(counts()))
        forwarding.opened()
        assert.is_true(is_first(third.name))
        forwarding.finish()
        assert.same({ 0, 0, 0 }, counts())
    end)

    it("goes on behind no other answer, and says of the only server what it did", function()
        begin()
        forwarding.next()
        assert.is_false(forwarding.pass_over(500, true))
        forwarding.finish()
        begin({ policy.servers[1] })
        assert.equal("a", forwarding.next().name)
        assert.is_false(forwarding.pass_over(503, true))
        assert.same({ nil, "upstream_unavailable" }, { forwarding.next() })
        assert.same({ 0, 0, 0 }, counts())
    end)
end)

describe("refuse", function()
    it("is 503 where nobody was asked", function()
        begin()
        forwarding.refuse()
        assert.equal(503, fake.answer.status)
    end)
end)
