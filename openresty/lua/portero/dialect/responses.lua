---------
-- OpenAI's Responses: /v1/responses and what is below it. It is OpenAI's dialect but for its
-- streams, whose events have names, and for how it counts. dialects.lua tells what each field
-- means. Pure.

local openai = require("portero.dialect.openai")

local _M = {
    paths = { "/v1/responses" },
    short_paths = openai.short_paths,
    id_headers = openai.id_headers,
    error_body = openai.error_body,
    error_event = { sse = "event: error\ndata: %s\n\n", lines = "%s\n" },
    stream_format = openai.stream_format,
    -- "response.completed" tells them, in the response that it holds.
    usage_counts = {
        { object = "usage", "total_tokens" },
        {
            object = "usage", "input_tokens", "output_tokens",
            prompt = { "input_tokens" }, completion = { "output_tokens" },
        },
    },
    asks_for_usage = {},
    keeps = { ["/v1/responses"] = true },
    model_list = openai.model_list,
}

--- The event "error" of the API, and beside it what OpenAI's libraries look for in any event: an
--- `error`, for which they raise.
---@param error table
---@return table
function _M.event_body(error)
    local body = openai.error_body(error)
    body.type = "error"
    body.code, body.message, body.param = error.code, error.message, body.error.param
    return body
end

return _M
