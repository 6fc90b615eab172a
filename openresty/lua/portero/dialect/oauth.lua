---------
-- OAuth's endpoints, below /oauth: what the gateway itself refuses there, in the words of RFC 6749
-- section 5.2. No LLM server is asked there; the rest is OpenAI's. dialects.lua tells what each
-- field means. Pure.

local openai = require("portero.dialect.openai")

--- Of what passes RFC 6749 has a word in section 4.1.2.1 alone.
local WORDS = {
    [401] = "invalid_client", [429] = "temporarily_unavailable", [500] = "server_error",
    [503] = "temporarily_unavailable",
}

local _M = {
    paths = { "/oauth/" },
    short_paths = openai.short_paths,
    id_headers = openai.id_headers,
    error_event = openai.error_event,
    stream_format = openai.stream_format,
    usage_counts = openai.usage_counts,
    asks_for_usage = {},
    keeps = {},
    model_list = openai.model_list,
}

---@param error table
---@return table
function _M.error_body(error)
    return { error = WORDS[error.status] or "invalid_request", error_description = error.message }
end

_M.event_body = _M.error_body

return _M
