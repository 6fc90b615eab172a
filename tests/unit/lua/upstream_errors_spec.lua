---------
-- The LLM server's errors and nginx's own, as the caller is told: contract section 5.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")
local shipped = require("shipped")

local fake, upstream_errors

before_each(function()
    fake = fake_ngx.install()
    upstream_errors = fake.load("portero.upstream_errors")
    upstream_errors.start(shipped.settings())
end)

local function refuse(name, target, upstream_status)
    fake.request({ method = "GET", target = target }) -- nginx forgot the method on the way
    fake.ngx.var.uri = "/refused/" .. name
    fake.ngx.var.upstream_status = upstream_status
    upstream_errors.refuse()
    return fake.answer.exit, cjson.decode(fake.answer.body).error
end

describe("refuse", function()
    local CHAT = "/v1/chat/completions"

    -- What nginx was to refuse with, what the LLM server had said, and what the caller is told.
    for _, case in ipairs({
        { "not_found", CHAT, "404", 404, "model_not_found" },
        { "not_found", "/llm/chat/completions?x", "405", 404, "model_not_found" },
        { "not_found", "/health", "404", 404, "not_found" },
        { "not_found", "/api/pull", "404", 404 },
        { "not_found", CHAT, nil, 404, "not_found" },
        { "not_found", CHAT, "-", 404, "not_found" },
        { "internal_error", CHAT, "500", 502, "upstream_unavailable" },
        { "internal_error", CHAT, nil, 500, "internal_error" },
        { "internal_error", CHAT, "", 500, "internal_error" },
        { "upstream_refused", CHAT, "401", 502, "upstream_unavailable" },
        { "not_offered", CHAT, "501", 404, "not_found" },
        { "upstream_unavailable", CHAT, "502", 502, "upstream_unavailable" },
        { "not_ready", CHAT, "503", 503, "not_ready" },
        { "upstream_timeout", CHAT, "504", 504, "upstream_timeout" },
        { "request_too_large", CHAT, nil, 413, "request_too_large" },
        { "invalid_request", "/", nil, 400, "invalid_request" },
    }) do
        local name, target, said, status, code = unpack(case, 1, 5)
        it(("tells %s of %s, the LLM server having said %s, as %d %s"):format(
            name, target, tostring(said), status, tostring(code)), function()
            local told, err = refuse(name, target, said)
            assert.equal(status, told)
            assert.equal(code, type(err) == "table" and err.code or nil)
        end)
    end

    it("speaks Ollama's dialect where that was spoken", function()
        local _, err = refuse("not_found", "/api/chat", "404")
        assert.is_string(err)
    end)
end)

describe("start", function()
    it("decides which routes there are", function()
        upstream_errors.start({ policy = {} })
        local _, err = refuse("not_found", "/v1/chat/completions", "404")
        assert.equal("not_found", err.code)
    end)
end)
