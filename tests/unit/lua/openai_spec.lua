---------
-- OpenAI's dialect.

local cjson = require("cjson.safe")
local openai = require("portero.dialect.openai")

describe("short_paths", function()
    for path, names in pairs({
        ["/v1/chat/completions"] = { "/llm/chat/completions", "/chat/completions" },
        ["/v1/models/{model}"] = { "/llm/models/{model}", "/models/{model}" },
        ["/v1/rerank"] = { "/llm/rerank" },
        ["/completion"] = {}, ["/"] = {}, ["/v1"] = {}, ["/v10/x"] = {},
    }) do
        it("are those without /v1, on the bare host for the usual routes: " .. path, function()
            assert.same(names, openai.short_paths(path))
        end)
    end
end)

describe("error_body", function()
    it("is OpenAI's envelope, with null for no parameter", function()
        assert.same({
            error = {
                message = "m", type = "invalid_request_error", param = cjson.null, code = "c",
            },
        }, openai.error_body({ status = 404, message = "m", code = "c" }))
        assert.equal("model", openai.error_body({ status = 400, param = "model" }).error.param)
    end)

    it("has a type for every status, and another for a limit that is spent", function()
        for status, name in pairs({
            [400] = "invalid_request_error", [401] = "invalid_request_error",
            [403] = "permission_error", [413] = "invalid_request_error",
            [429] = "rate_limit_error", [500] = "server_error", [503] = "server_error",
        }) do
            assert.equal(name, openai.error_body({ status = status }).error.type)
        end
        assert.equal("tokens", openai.error_body({ status = 429, limit = "tokens" }).error.type)
    end)
end)

describe("stream_format", function()
    it("is events where no type is named, and none where another is", function()
        assert.equal("sse", openai.stream_format(""))
        assert.equal("sse", openai.stream_format("text/plain"))
        assert.is_falsy(openai.stream_format("application/json"))
    end)
end)

describe("asks_for_usage", function()
    local asked = openai.asks_for_usage["/v1/chat/completions"]

    it("adds its option to those of the client, and to none where the client has it", function()
        assert.same({ include_usage = true, x = 1 }, cjson.decode(asked.options('{"x":1}')))
        assert.equal('{"include_usage":true}', asked.options("null"))
        for _, text in ipairs({ '{"include_usage":true}', '"x"', "1", "{" }) do
            assert.is_nil(asked.options(text))
        end
    end)

    it("knows the event that tells the usage and nothing else", function()
        assert.is_true(asked.is_answer({ usage = {}, choices = {} }))
        for _, data in ipairs({
            { usage = {} }, { usage = {}, choices = { 1 } }, { choices = {} }, {},
        }) do
            assert.is_false(asked.is_answer(data))
        end
    end)
end)
