---------
-- OpenAI's dialect: /v1/*, of every LLM server, and all paths that are of no other dialect, as
-- llama-server's own. What other dialects of /v1 share with it stands here. dialects.lua tells what
-- each field means. Pure.

local cjson = require("cjson.safe")

--- What the bare host answers to beside /v1, for clients whose base URL has no path.
local BARE = {
    ["/v1/chat/completions"] = true,
    ["/v1/completions"] = true,
    ["/v1/embeddings"] = true,
    ["/v1/models"] = true,
    ["/v1/models/{model}"] = true,
}
--- What is passed on of a model object. The rest may hold paths and arguments.
local MODEL_FIELDS = { "id", "object", "created", "owned_by", "max_model_len" }
--- What kind of error a status is; of a limit that is spent, the limit says it.
local TYPES = { [403] = "permission_error", [429] = "rate_limit_error" }
--- A server that names no type for a stream means events.
local NO_TYPES = { [""] = true, ["text/plain"] = true }

--- The options of a stream with its usage asked for; nil when the client asked itself, or its own
--- options are none.
local function options_with_usage(text)
    local options = text == "null" and {} or cjson.decode(text)
    if type(options) ~= "table" or options.include_usage == true then
        return nil
    end
    options.include_usage = true
    return cjson.encode(options)
end

--- Whether an event tells the usage and nothing else.
local function is_usage_alone(data)
    return type(data.usage) == "table" and type(data.choices) == "table"
        and next(data.choices) == nil
end

local STREAM_OPTIONS = {
    field = "stream_options", options = options_with_usage,
    object = "usage", is_answer = is_usage_alone,
}

local _M = {
    paths = { "" },
    id_headers = {},
    error_event = { sse = "data: %s\n\n", lines = "%s\n" },
    usage_counts = {
        { object = "usage", "total_tokens" },
        { object = "usage", "prompt_tokens", "completion_tokens" },
        -- Of llama-server's own completions.
        { "tokens_evaluated", "tokens_predicted" },
    },
    asks_for_usage = {
        ["/v1/chat/completions"] = STREAM_OPTIONS, ["/v1/completions"] = STREAM_OPTIONS,
    },
}

local function entry(model)
    local kept = {}
    for _, name in ipairs(MODEL_FIELDS) do
        kept[name] = model[name]
    end
    return kept
end

_M.model_list = {
    path = "/v1/models", field = "data", names = { "id" }, head = '{"object":"list","data":[',
    entry = entry, is_private = true,
}

--- Its names without /v1.
---@param path string
---@return string[]
function _M.short_paths(path)
    local short = path:match("^/v1(/.*)$")
    return { short and "/llm" .. short, BARE[path] and short }
end

local function type_of(error)
    return error.limit or TYPES[error.status]
        or (error.status >= 500 and "server_error" or "invalid_request_error")
end

--- What an error says.
---@param error table
---@return table
function _M.error_body(error)
    return {
        error = {
            message = error.message, type = type_of(error), param = error.param or cjson.null,
            code = error.code,
        },
    }
end

--- The same at the end of a stream.
_M.event_body = _M.error_body

--- The format of an answer that still flows, its type being none of a stream.
---@param content_type string in small letters, without parameters
---@return string|nil
function _M.stream_format(content_type)
    return NO_TYPES[content_type] and "sse"
end

return _M
