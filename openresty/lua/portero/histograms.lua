---------
-- Histograms of what LLM servers do, by model, named after OpenTelemetry's conventions for gen_ai.
-- Kept in the worker, and added to the dictionary `portero_metrics` once a second, so that a
-- request pays for a few table entries alone. Which models have a label the policy's own lists say
-- (`decision.load`): it must never be given a name that a caller made up.

local dict = ngx.shared.portero_metrics

local SECONDS = {
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
}
local FIRST_SECONDS = {
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
}
local TOKENS = {
    1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864,
}

--- name, bounds, help; the conventions say the bounds.
local KINDS = {
    { "gen_ai_server_request_duration_seconds", SECONDS, "How long a request to an LLM took." },
    { "gen_ai_server_time_to_first_token_seconds", FIRST_SECONDS,
        "From a request to the first of its answer." },
    { "gen_ai_client_token_usage", TOKENS, "Tokens of a request, by their type." },
}
local BOUNDS = {}
--- The same, and behind them as many that no value exceeds that halving finds its place in them.
local HALVED, MOST_BOUNDS = {}, 31
for _, kind in ipairs(KINDS) do
    local name, bounds = kind[1], kind[2]
    local halved = {}
    for place = 1, MOST_BOUNDS do
        halved[place] = bounds[place] or math.huge
    end
    BOUNDS[name], HALVED[name] = bounds, halved
end

--- No name of a decision, or of a server's count, begins like this.
local MARK = "h\n"

local DURATION, FIRST, USED = KINDS[1][1], KINDS[2][1], KINDS[3][1]

--- model -> the four series of it, each { name, labels, halved bounds, counts by place, sum }; a
--- model's are made once, as there are few.
local series_of = {}

local _M = {}

local function new_series(name, labels)
    return { name = name, labels = labels, bounds = HALVED[name], places = {}, sum = 0 }
end

local function series_of_model(model)
    local label = 'gen_ai_request_model="' .. model .. '"'
    local series = {
        new_series(DURATION, label), new_series(FIRST, label),
        new_series(USED, label .. ',gen_ai_token_type="input"'),
        new_series(USED, label .. ',gen_ai_token_type="output"'),
    }
    series_of[model] = series
    return series
end

--- How many bounds a value exceeds. A loop would end the trace of the log phase.
local function exceeded(bounds, value)
    local count = value > bounds[16] and 16 or 0
    count = value > bounds[count + 8] and count + 8 or count
    count = value > bounds[count + 4] and count + 4 or count
    count = value > bounds[count + 2] and count + 2 or count
    return value > bounds[count + 1] and count + 1 or count
end

local function observe(series, value)
    local place, places = exceeded(series.bounds, value) + 1, series.places
    places[place] = (places[place] or 0) + 1
    series.sum = series.sum + value
end

local function observe_tokens(series, prompt, completion)
    if prompt + completion > 0 then
        observe(series[3], prompt)
        observe(series[4], completion)
    end
end

--- Note one request that an LLM server got.
---@param model string one that has a label, or "other"
---@param seconds number
---@param first_seconds number|nil nil where nothing came
---@param prompt integer tokens
---@param completion integer tokens
function _M.note(model, seconds, first_seconds, prompt, completion)
    local series = series_of[model] or series_of_model(model)
    observe(series[1], seconds)
    if first_seconds then
        observe(series[2], first_seconds)
    end
    observe_tokens(series, prompt, completion)
end

--- Note the tokens of one response over a WebSocket, which has no request of its own.
---@param model string one that has a label, or "other"
---@param prompt integer
---@param completion integer
function _M.note_tokens(model, prompt, completion)
    observe_tokens(series_of[model] or series_of_model(model), prompt, completion)
end

local function flush_series(series)
    local start = MARK .. series.name .. "\n" .. series.labels .. "\n"
    for place, count in pairs(series.places) do
        dict:incr(start .. place, count, 0)
    end
    if next(series.places) then
        dict:incr(start .. "sum", series.sum, 0)
        series.places, series.sum = {}, 0
    end
end

--- Add this worker's counts to the shared ones.
function _M.flush()
    for _, all in pairs(series_of) do
        for _, series in ipairs(all) do
            flush_series(series)
        end
    end
end

--- What all workers have: name -> labels -> place or "sum" -> value.
local function gathered()
    local found = {}
    for _, key in ipairs(dict:get_keys(0)) do
        local name, labels, place = key:match("^h\n([^\n]*)\n([^\n]*)\n(.*)$")
        if name then
            found[name] = found[name] or {}
            found[name][labels] = found[name][labels] or {}
            found[name][labels][tonumber(place) or place] = dict:get(key)
        end
    end
    return found
end

local function add_series(out, name, labels, series)
    local count = 0
    for place, bound in ipairs(BOUNDS[name]) do
        count = count + (series[place] or 0)
        out[#out + 1] = ('%s_bucket{%s,le="%s"} %d\n'):format(name, labels, bound, count)
    end
    count = count + (series[#BOUNDS[name] + 1] or 0)
    out[#out + 1] = ('%s_bucket{%s,le="+Inf"} %d\n'):format(name, labels, count)
    out[#out + 1] = ("%s_sum{%s} %s\n"):format(name, labels, series.sum or 0)
    out[#out + 1] = ("%s_count{%s} %d\n"):format(name, labels, count)
end

--- The text of all, for `/metrics`; empty where nothing was noted.
---@return string
function _M.exposition()
    _M.flush()
    local found, out = gathered(), {}
    for _, kind in ipairs(KINDS) do
        local name, of_name = kind[1], found[kind[1]]
        local all = {}
        for labels in pairs(of_name or {}) do
            all[#all + 1] = labels
        end
        table.sort(all)
        if of_name then
            out[#out + 1] = ("# HELP %s %s\n# TYPE %s histogram\n"):format(name, kind[3], name)
        end
        for _, labels in ipairs(all) do
            add_series(out, name, labels, of_name[labels])
        end
    end
    return table.concat(out)
end

return _M
