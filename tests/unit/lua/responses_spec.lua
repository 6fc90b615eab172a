---------
-- OpenAI's Responses.

local cjson = require("cjson.safe")
local openai = require("portero.dialect.openai")
local responses = require("portero.dialect.responses")

local ERROR = { status = 502, message = "m", code = "c", request_id = "abc" }

describe("error_body", function()
    it("is OpenAI's envelope", function()
        assert.same(openai.error_body(ERROR), responses.error_body(ERROR))
    end)
end)

describe("event_body", function()
    it("is the event of the API, and the error that OpenAI's libraries raise for", function()
        assert.same({
            type = "error", code = "c", message = "m", param = cjson.null,
            error = { type = "server_error", code = "c", message = "m", param = cjson.null },
        }, responses.event_body(ERROR))
        assert.equal("model", responses.event_body({ status = 404, param = "model" }).param)
    end)

    it("leaves nothing on the refusals", function()
        responses.event_body(ERROR)
        assert.is_nil(responses.error_body(ERROR).type)
    end)
end)

describe("error_event", function()
    it("has a name, as every event of its streams has", function()
        assert.equal('event: error\ndata: {}\n\n', responses.error_event.sse:format("{}"))
    end)
end)
