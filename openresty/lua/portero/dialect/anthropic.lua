---------
-- Anthropic's dialect: /v1/messages and what is below it, of every kind of LLM server. Names
-- outside, types of streams and lists of models are OpenAI's. dialects.lua tells what each field
-- means. Pure.

local openai = require("portero.dialect.openai")

local INVALID = "invalid_request_error"
--- What kind of error a status is; every other is the request's fault below 500, and ours above.
local TYPES = {
    [401] = "authentication_error",
    [403] = "permission_error",
    [404] = "not_found_error",
    [413] = "request_too_large",
    [429] = "rate_limit_error",
    [503] = "overloaded_error",
}

local _M = {
    paths = { "/v1/messages" },
    short_paths = openai.short_paths,
    id_headers = { "request-id" },
    -- Its clients read no event that has no name.
    error_event = { sse = "event: error\ndata: %s\n\n", lines = "%s\n" },
    stream_format = openai.stream_format,
    -- What was read from a cache, or written to it, is not among the tokens of the input. A stream
    -- tells the input as it begins ("message_start"), and the output as it ends ("message_delta").
    usage_counts = {
        {
            object = "usage", "input_tokens", "output_tokens",
            "cache_creation_input_tokens", "cache_read_input_tokens",
            prompt = {
                "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens",
            },
            completion = { "output_tokens" },
        },
    },
    asks_for_usage = {},
    keeps = {},
    model_list = openai.model_list,
}

--- What an error says. There is no place for a code or a parameter.
---@param error table
---@return table
function _M.error_body(error)
    return {
        type = "error",
        error = {
            type = TYPES[error.status] or (error.status < 500 and INVALID or "api_error"),
            message = error.message,
        },
        request_id = error.request_id,
    }
end

--- The same at the end of a stream.
_M.event_body = _M.error_body

return _M
