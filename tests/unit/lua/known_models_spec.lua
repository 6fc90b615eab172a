---------
-- Lists of models of the servers that a policy names, as each caller may know them.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")
local policies = require("policies")

local fake, known_models, state, policy, OPENAI, OLLAMA

local function row(name, kind, changes)
    local is_ollama = kind == "ollama"
    local found = {
        name = name, kind = kind, dialect = is_ollama and "ollama" or "openai", weight = 1,
        model_names = is_ollama and "ollama" or "exact", scheme = "http", host = "10.0.0.1",
        port = 8000, authority = "10.0.0.1:8000", path = "",
    }
    for field, value in pairs(changes or {}) do
        found[field] = value
    end
    return found
end

local TAGS = {
    {
        name = "llama3:latest", model = "llama3:latest", size = 7,
        modified_at = "2024-05-01T02:00:00.5+02:00",
    },
    { name = "me/own:1b", model = "else", size = 8 },
}
local RUNNING = { { name = "llama3:latest", model = "llama3:latest", size_vram = 5 } }
local DATA = { { id = "qwen3", object = "model", created = 9, owned_by = "vllm" } }

before_each(function()
    fake = fake_ngx.install()
    known_models = fake.load("portero.answer.known_models")
    state = fake.load("portero.server.server_state")
    local dialects = fake.load("portero.dialect.dialects")
    OPENAI, OLLAMA = dialects.named("openai").model_list, dialects.named("ollama").model_list
    local listed = policies.listed()
    listed.servers = { row("box", "ollama"), row("rack", "vllm") }
    listed.aliases = {
        { name = "fast", models = { "gone", "llama3" } }, { name = "big", models = { "qwen3" } },
        { name = "claude-*", models = { "qwen3" } }, { name = "none", models = { "gone" } },
    }
    listed.roles.user.limits = { models = { "llama3", "qwen*" } }
    policy = policies.put(fake, listed)
    state.listed(policy.servers[1], { entries = TAGS, running = RUNNING })
    state.listed(policy.servers[2], { entries = DATA })
end)

local function text_of(form, ask)
    ask = ask or {}
    ask.policy, ask.form = policy, form
    return known_models.text(ask)
end

local function names(form, ask)
    local text, code = text_of(form, ask)
    if not text then
        return code
    end
    local found = {}
    for index, entry in ipairs(cjson.decode(text)[form.field]) do
        found[index] = entry.id or entry.name
    end
    return table.concat(found, " ")
end

local function limits()
    return policy.roles.user.limits
end

describe("text", function()
    it("is the union of all servers, in the policy's order, and plain aliases", function()
        assert.equal("llama3:latest me/own:1b qwen3 fast big", names(OPENAI))
    end)

    it("is of Ollama's dialect what servers have that speak it", function()
        assert.equal("llama3:latest me/own:1b fast", names(OLLAMA))
        assert.equal("llama3:latest fast", names(OLLAMA, { is_running = true }))
    end)

    it("is what the caller may use, aliases by what they lead to", function()
        assert.equal("llama3:latest qwen3 fast big", names(OPENAI, { limits = limits() }))
        local none = policy.roles.user.limits
        none.models = { exact = {}, prefixes = {} }
        none.exact_models = none.models
        assert.equal('{"object":"list","data":[]}', (text_of(OPENAI, { limits = none })))
    end)

    it("has each ID once, of the server that comes first", function()
        local entries = { { id = "me/own:1b", created = 3 }, DATA[1] }
        state.listed(policy.servers[2], { entries = entries })
        assert.equal("llama3:latest me/own:1b qwen3 fast big", names(OPENAI))
    end)

    it("has an alias in the place of a model of its name", function()
        state.listed(policy.servers[2], { entries = { { id = "fast", created = 3 }, DATA[1] } })
        local text = text_of(OPENAI)
        assert.equal("llama3:latest me/own:1b qwen3 fast big", names(OPENAI))
        assert.is_nil(text:find('"created":3', 1, true))
    end)

    it("says of a model what its server does, and of an alias what its model's does", function()
        local data = cjson.decode((text_of(OPENAI))).data
        assert.same({ id = "qwen3", object = "model", created = 9, owned_by = "vllm" }, data[3])
        assert.same({ id = "big", object = "model", created = 9, owned_by = "vllm" }, data[5])
        assert.same({ id = "llama3:latest", object = "model", created = 1714521600,
            owned_by = "library" }, data[1])
        assert.same({ id = "me/own:1b", object = "model", created = 0, owned_by = "me" }, data[2])
        local models = cjson.decode((text_of(OLLAMA))).models
        assert.equal("me/own:1b", models[2].model)
        assert.same({ name = "fast", model = "fast", size = 7,
            modified_at = "2024-05-01T02:00:00.5+02:00" }, models[3])
        local running = cjson.decode((text_of(OLLAMA, { is_running = true }))).models
        assert.equal(5, running[2].size_vram)
    end)

    it("leaves out a server that is ejected, and shows it again", function()
        for _ = 1, 3 do
            state.failed(policy, "box")
        end
        assert.equal("qwen3 big", names(OPENAI))
        assert.equal("", names(OLLAMA))
        fake.clock.now = fake.clock.now + 1.1
        assert.equal("llama3:latest me/own:1b qwen3 fast big", names(OPENAI))
    end)

    it("is what is known yet, and 503 where nothing is and some server was not asked", function()
        fake.shared.portero_servers.entries = {}
        assert.equal("not_ready", names(OPENAI))
        state.listed(policy.servers[2], { entries = DATA })
        assert.equal("qwen3 big", names(OPENAI))
        assert.equal("not_ready", names(OLLAMA))
        state.silent(policy.servers[1], "no answer")
        assert.equal("", names(OLLAMA))
    end)

    it("is one server's alone where that was asked for, however it is", function()
        for _ = 1, 3 do
            state.failed(policy, "box")
        end
        assert.equal("llama3:latest me/own:1b", names(OPENAI, { server = "box" }))
        assert.equal("llama3:latest me/own:1b", names(OLLAMA, { server = "box" }))
        assert.equal("qwen3", names(OPENAI, { server = "rack" }))
    end)
end)

describe("text of one model", function()
    local function one(name, ask)
        ask = ask or {}
        ask.name = name
        local text, code = text_of(OPENAI, ask)
        return text and cjson.decode(text).id or code
    end

    it("is found as a request for it would be", function()
        assert.equal("llama3:latest", one("llama3"))
        assert.equal("llama3:latest", one("LLAMA3:latest"))
        assert.equal("qwen3", one("qwen3"))
        assert.equal("model_not_found", one("QWEN3"))
        assert.equal("fast", one("fast"))
        assert.equal("claude-3", one("claude-3"))
        assert.equal("model_not_found", one("none"))
        assert.equal("model_not_found", one("x"))
    end)

    it("is not there for who may not use it", function()
        assert.equal("model_not_found", one("me/own:1b", { limits = limits() }))
        assert.equal("fast", one("fast", { limits = limits() }))
    end)

    it("is 503 where its servers are not up, or may have it yet", function()
        for _ = 1, 3 do
            state.failed(policy, "rack")
        end
        assert.equal("not_ready", one("qwen3"))
        fake.shared.portero_servers.entries = {}
        assert.equal("not_ready", one("x"))
    end)

    it("is one server's alone where that was asked for", function()
        assert.equal("qwen3", one("qwen3", { server = "rack" }))
        assert.equal("model_not_found", one("qwen3", { server = "box" }))
        assert.equal("model_not_found", one("fast", { server = "box" }))
        assert.equal("model_not_found",
            one("me/own:1b", { server = "box", limits = limits() }))
    end)
end)
