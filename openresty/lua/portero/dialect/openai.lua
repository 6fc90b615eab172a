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
        {
            object = "usage", "prompt_tokens", "completion_tokens",
            prompt = { "prompt_tokens" }, completion = { "completion_tokens" },
        },
        -- Of llama-server's own completions.
        {
            "tokens_evaluated", "tokens_predicted",
            prompt = { "tokens_evaluated" }, completion = { "tokens_predicted" },
        },
    },
    keeps = {},
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

local DAYS_OF_400_YEARS, SECONDS_OF_DAY = 146097, 86400
--- From 1 March of the year 0, where leap days are the last of their years, to 1970.
local DAYS_BEFORE = 719468

local function days_of(year, month, day)
    year = month <= 2 and year - 1 or year
    local era = math.floor(year / 400)
    local of_era = year - era * 400
    local of_year = math.floor((153 * ((month + 9) % 12) + 2) / 5) + day - 1
    return era * DAYS_OF_400_YEARS + of_era * 365 + math.floor(of_era / 4)
        - math.floor(of_era / 100) + of_year - DAYS_BEFORE
end

--- The Unix seconds of a time in the form of RFC 3339; 0 for what is none.
local function seconds_of(text)
    local year, month, day, hour, minute, second, zone =
        tostring(text):match("^(%d%d%d%d)-(%d%d)-(%d%d)[Tt](%d%d):(%d%d):(%d%d)%.?%d*(.*)$")
    if not year then
        return 0
    end
    local sign, hours, minutes = zone:match("^([+-])(%d%d):(%d%d)$")
    local east = sign and (hours * 60 + minutes) * (sign == "+" and 60 or -60) or 0
    local days = days_of(tonumber(year), tonumber(month), tonumber(day))
    return days * SECONDS_OF_DAY + hour * 3600 + minute * 60 + second - east
end

--- What Ollama itself says in this dialect of a model that it lists in its own.
local function as(listed, name)
    local own = {
        object = "model", created = seconds_of(listed.modified_at),
        owned_by = name:match("([^/]+)/[^/]*$") or "library",
    }
    for field, value in pairs(listed.id and entry(listed) or {}) do
        own[field] = value
    end
    own.id = name
    return own
end

_M.model_list = {
    path = "/v1/models", running = "", field = "data", names = { "id" },
    head = '{"object":"list","data":[', entry = entry, as = as, is_private = true,
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
