---------
-- Which models there are, as far as the caller may use them.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")
local policies = require("policies")

local fake, model_list, asked, result

local OPENAI = cjson.encode({
    object = "list",
    data = {
        { id = "a:latest", object = "model", created = 1, owned_by = "x", path = "CANARY" },
        { id = "b", object = "model", created = 2, owned_by = "x", max_model_len = 9 },
        { object = "model" }, "x", { id = 1 },
    },
    models = { { name = "CANARY" } },
})
local OLLAMA = cjson.encode({
    models = {
        { name = "a:latest", model = "a:latest", details = { families = {} } },
        { name = "b:latest", model = "b:latest", capabilities = { "x" } },
        { name = "a:latest", model = "b:latest" },
    },
})

--- A policy in force of these models for a role, and limits of users in place of the role's.
local function put_policy(models, users, names)
    local listed = policies.listed()
    listed.roles.user.limits = models and { models = models }
    listed.users, listed.model_names = users or {}, names or "ollama"
    policies.put(fake, listed)
end

--- The ID of the caller's token, or API key.
local credential

before_each(function()
    credential = ("A"):rep(22)
    fake = fake_ngx.install()
    model_list = fake.load("portero.answer.model_list")
    result = { status = 200, body = OPENAI }
    package.loaded["portero.server.inner_door"].ask = function(target, headers)
        asked = { target = target, headers = headers }
        return result.status, result.status and result.body or result.why
    end
    put_policy(nil)
end)

local function answer(target, upstream_target)
    fake.request({ method = "GET", target = target })
    local var = fake.ngx.var
    var.upstream_target, var.auth_user, var.auth_role = upstream_target or target, "USRSA", "user"
    var.auth_token_id = credential
    model_list.answer()
    return cjson.decode(fake.answer.body), fake.answer
end

local function ids(target)
    local found = {}
    for _, entry in ipairs(answer(target).data) do
        found[#found + 1] = entry.id
    end
    return table.concat(found, " ")
end

describe("answer", function()
    it("asks the LLM server what the caller asked, in the caller's name", function()
        answer("/base/v1/models?x=1")
        assert.equal("/pool", asked.target)
        assert.equal("/base/v1/models", asked.headers["X-Portero-Target"])
        assert.equal("USRSA", asked.headers["X-Auth-User"])
        assert.equal("user", asked.headers["X-Auth-Role"])
    end)

    it("shows all models to a caller without limits, and no more of each than its place", function()
        assert.equal("a:latest b", ids("/v1/models"))
        local list, whole = answer("/v1/models")
        assert.same({ id = "b", object = "model", created = 2, owned_by = "x", max_model_len = 9 },
            list.data[2])
        assert.is_nil(whole.body:find("CANARY", 1, true))
        assert.equal("no-store", whole.headers["cache-control"])
    end)

    it("shows a caller with limits what it may use and nothing else", function()
        put_policy({ "a" })
        assert.equal("a:latest", ids("/v1/models"))
        put_policy({})
        assert.equal('{"object":"list","data":[]}', (select(2, answer("/v1/models"))).body)
    end)

    it("takes a user's own limits in place of the role's, and their absence too", function()
        put_policy({ "a" }, { USRSA = { limits = { models = { "b" } } } })
        assert.equal("b", ids("/v1/models"))
        put_policy({ "a" }, { USRSA = {} })
        assert.equal("a:latest b", ids("/v1/models"))
        put_policy({ "a" }, { USRSB = {} })
        assert.equal("a:latest", ids("/v1/models"))
    end)

    it("shows all models to a caller whose limits are of other things", function()
        local listed = policies.listed()
        listed.roles.user.limits = { requests_per_minute = 5 }
        policies.put(fake, listed)
        assert.equal("a:latest b", ids("/v1/models"))
    end)

    it("shows a caller with an API key no more than the key is narrowed to", function()
        local api_keys = fake.load("portero.token.api_keys")
        credential = ("K"):rep(16)
        local record = { digest = ("0"):rep(64), sub = "USRSA", iat = 1, models = { "b" } }
        assert(api_keys.put(credential, fake.clock.now + 60, record, fake.clock.now))
        assert.equal("b", ids("/v1/models"))
        put_policy({ "a" })
        assert.equal("", ids("/v1/models"))
    end)

    it("goes by the policy in force when it is asked", function()
        put_policy({ "b" })
        assert.equal("b", ids("/v1/models"))
        put_policy({ "a" })
        assert.equal("a:latest", ids("/v1/models"))
    end)

    it("compares names by their bytes where the LLM server is not Ollama", function()
        put_policy({ "a" }, nil, "exact")
        assert.equal("", ids("/v1/models"))
        put_policy({ "a:latest" }, nil, "exact")
        assert.equal("a:latest", ids("/v1/models"))
        assert.equal("a:latest", answer("/v1/models/a:latest").id)
        assert.equal("model_not_found", answer("/v1/models/A").error.code)
    end)

    it("leaves Ollama's lists as they are for a caller without limits", function()
        result.body = OLLAMA
        for _, path in ipairs({ "/api/tags", "/api/ps" }) do
            answer(path)
            assert.equal(OLLAMA, fake.answer.body)
        end
    end)

    it("filters Ollama's lists by every name that an entry has", function()
        result.body = OLLAMA
        put_policy({ "a" })
        local list = answer("/api/tags")
        assert.equal(1, #list.models)
        assert.equal("a:latest", list.models[1].name)
        assert.equal(cjson.null, list.models[1].details.families)
    end)

    it("goes by the path that was asked for, whatever the LLM server's own begins with", function()
        result.body = OLLAMA
        put_policy({ "a" })
        assert.equal(1, #answer("/llm/api/tags", "/v1/models/x/api/tags").models)
        assert.equal("/v1/models/x/api/tags", asked.headers["X-Portero-Target"])
        result.body = OPENAI
        assert.equal("a:latest", answer("/models", "/api/v1/models").data[1].id)
    end)

    it("finds one model's entry in the list, however its name is written", function()
        for _, name in ipairs({ "a", "a:latest", "A", "library%2Fa", "a%3Alatest" }) do
            assert.equal("a:latest", answer("/v1/models/" .. name).id)
            assert.equal("/v1/models", asked.headers["X-Portero-Target"])
        end
    end)

    -- _h3
    for id, path in pairs({
        ["/models/Qwen3"] = "/models/Qwen3", [ [[C:\models\x.gguf]] ] = "C:%5Cmodels%5Cx.gguf",
        ["a/v1/models/b"] = "a/v1/models/b", ["100% (a+b)?#"] = "100%25%20(a+b)%3F%23",
        ["模型"] = "%E6%A8%A1%E5%9E%8B", ["../models/x"] = "..%2Fmodels%2Fx", ["x/"] = "x/",
        ["/api/tags"] = "%2Fapi%2Ftags",
    }) do
        it("finds an ID of any characters, and sends none of it: " .. path, function()
            result.body = cjson.encode({ data = { { id = id:upper() }, { id = id } } })
            assert.equal(id, answer("/base/v1/models/" .. path).id)
            assert.equal("/base/v1/models", asked.headers["X-Portero-Target"])
        end)
    end

    it("does not find a model that is not in the list", function()
        local body, whole = answer("/v1/models/c")
        assert.equal(404, whole.exit)
        assert.equal("model_not_found", body.error.code)
    end)

    -- What the LLM server says, and what the caller is told.
    for said, told in pairs({ [404] = 404, [503] = 503, [504] = 504, [500] = 502, [401] = 502 }) do
        it(("tells the LLM server's %d as %d, without its words"):format(said, told), function()
            result = { status = said, body = '{"error":"CANARY"}' }
            answer("/v1/models")
            assert.equal(told, fake.answer.exit)
            assert.is_nil(fake.answer.body:find("CANARY", 1, true))
        end)
    end

    it("refuses a list that is cut off, or is none", function()
        for _, bad in ipairs({
            { why = "cut off" }, { why = "too long" }, { why = "no http" },
            { status = 200, body = "x" }, { status = 200, body = "1" },
        }) do
            result = bad
            answer("/v1/models")
            assert.equal(502, fake.answer.exit)
        end
    end)

    it("tells a list that did not come in time as such", function()
        result = { why = "timeout" }
        answer("/v1/models")
        assert.equal(504, fake.answer.exit)
    end)

    it("takes a list without entries for an empty one", function()
        result.body = '{"data":1}'
        assert.equal("", ids("/v1/models"))
    end)
end)
