---------
-- Ollama's dialect: /api/*, of Ollama and of LocalAI. Its streams are lines of JSON, whatever their
-- type says. dialects.lua tells what each field means. Pure.

local cjson = require("cjson.safe")

--- Where entries hold lists, which would else become objects where they are empty.
local LISTS = { "families", "capabilities" }

local _M = {
    paths = { "/api/" },
    id_headers = {},
    error_event = { sse = "data: %s\n\n", lines = "%s\n" },
    usage_counts = {
        {
            "prompt_eval_count", "eval_count",
            prompt = { "prompt_eval_count" }, completion = { "eval_count" },
        },
    },
    asks_for_usage = {},
    keeps = {},
}

local function entry(model)
    local details = type(model.details) == "table" and model.details or nil
    for _, place in ipairs({ model, details }) do
        for _, name in ipairs(LISTS) do
            if type(place[name]) == "table" and #place[name] == 0 then
                place[name] = cjson.null
            end
        end
    end
    return model
end

--- What other dialects tell of a model says nothing here but its name.
local function as(listed, name)
    local own = { name = name, model = name }
    for field, value in pairs(listed.name and listed or {}) do
        own[field] = own[field] or value
    end
    return own
end

_M.model_list = {
    path = "/api/tags", running = "/api/ps", field = "models", names = { "name", "model" },
    head = '{"models":[', entry = entry, as = as, is_private = false,
}

--- It has no other names.
---@return string[]
function _M.short_paths()
    return {}
end

--- What an error says.
---@param error table
---@return table
function _M.error_body(error)
    return { error = error.message }
end

--- The same at the end of a stream.
_M.event_body = _M.error_body

--- The format of an answer that still flows, its type being none of a stream.
---@return string
function _M.stream_format()
    return "lines"
end

return _M
