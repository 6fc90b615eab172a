---------
-- Anthropic's dialect.

local anthropic = require("portero.dialect.anthropic")
local openai = require("portero.dialect.openai")

describe("error_body", function()
    it("is Anthropic's envelope, with the request's ID", function()
        assert.same({
            type = "error",
            error = { type = "not_found_error", message = "m" },
            request_id = "abc",
        }, anthropic.error_body({
            status = 404, message = "m", code = "c", param = "model", request_id = "abc",
        }))
    end)

    it("has a type for every status", function()
        for status, name in pairs({
            [400] = "invalid_request_error", [401] = "authentication_error",
            [403] = "permission_error", [404] = "not_found_error",
            [405] = "invalid_request_error", [409] = "invalid_request_error",
            [413] = "request_too_large", [415] = "invalid_request_error",
            [422] = "invalid_request_error", [429] = "rate_limit_error", [500] = "api_error",
            [502] = "api_error", [503] = "overloaded_error", [504] = "api_error",
        }) do
            assert.equal(name, anthropic.error_body({ status = status }).error.type)
        end
    end)
end)

describe("error_event", function()
    it("has a name, without which no client of Anthropic's reads it", function()
        assert.equal('event: error\ndata: {}\n\n', anthropic.error_event.sse:format("{}"))
        local error = { status = 401, message = "m", request_id = "abc" }
        assert.same(anthropic.error_body(error), anthropic.event_body(error))
    end)
end)

describe("stream_format and short_paths", function()
    it("are OpenAI's, as all of /v1 is named and streamed alike", function()
        assert.equal(openai.stream_format, anthropic.stream_format)
        assert.same({ "/llm/messages" }, anthropic.short_paths("/v1/messages"))
    end)
end)
