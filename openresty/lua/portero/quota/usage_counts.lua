---------
-- What was used: requests that an LLM server got, and their tokens, by day (UTC), user, credential,
-- model and server; until the reconciler has it in the store.
-- It owns the dictionary `portero_usage`, which is there with USAGE=on alone. A request adds to
-- this worker's memory; each second that is added to the dictionary, under a lock that nobody
-- holds longer than that takes. It must never evict what is not in the store yet, nor hand one
-- count out twice: what is fetched is frozen as a batch under a number, and is the same batch
-- until the next fetch says that the store has it.

local cjson = require("cjson.safe")

local dict = ngx.shared.portero_usage
local floor = math.floor
local find, match, sub = string.find, string.match, string.sub

local SECONDS_A_DAY = 86400
--- What a model counts as that is none: not named, or not so that it is read in one way.
local OTHER = "other"
local MAX_MODEL = 200
--- A caller may make models up: so many rows are kept of a worker's second, and in the
--- dictionary; what is more counts under OTHER.
local MOST_ROWS, MOST_KEPT = 500, 20000
local MOST_NAMES = 1000
local MOST_OF_BATCH = 5000
--- Who holds the lock does not pause; one that was killed there frees it so.
local LOCK_SECONDS, MOST_TRIES, PAUSE_SECONDS = 1, 200, 0.001

local ROW = "+"
local NUMBER, FROZEN, LOCK, COUNT = "number", "frozen", "lock", "count"

--- This worker's rows, each { requests, prompt tokens, completion tokens, key }; and those of today
--- by user, credential, model and server: a key is made once a second, not with each request.
local rows, of_today = {}, {}
local day_number, day = 0, ""
local is_on = false
--- model -> its name in a row; of the models that are asked for.
local names, known_names = {}, 0

local _M = {}

--- Begin, in each worker.
---@param settings table
function _M.start(settings)
    is_on = settings.has_usage
end

--- Whether anything is counted.
---@return boolean
function _M.is_on()
    return is_on
end

--- See to it that rows are those of a day (UTC). What was counted before stays until it is flushed.
local function begin_day(now)
    local number = floor(now / SECONDS_A_DAY)
    if number ~= day_number then
        day_number, day, of_today = number, os.date("!%Y-%m-%d", now), {}
    end
end

local function is_name(model)
    return #model <= MAX_MODEL and not find(model, "[^ -~]")
end

local function learn_name(model)
    if known_names >= MOST_NAMES then
        names, known_names = {}, 0
    end
    names[model], known_names = is_name(model) and model or OTHER, known_names + 1
    return names[model]
end

--- A model's name that any reader of a row reads alike.
---@param model string|nil
---@return string
function _M.name_of(model)
    return model and (names[model] or learn_name(model)) or OTHER
end

local function child(parent, name)
    parent[name] = parent[name] or {}
    return parent[name]
end

local function new_row(user, credential, model, server)
    local by_server = child(child(child(of_today, user), credential), model)
    local key = day .. "\n" .. user .. "\n" .. credential .. "\n" .. model .. "\n" .. server
    local row = { 0, 0, 0, key }
    by_server[server], rows[#rows + 1] = row, row
    return row
end

local function row_of(user, credential, model, server)
    local by_credential = of_today[user]
    local by_model = by_credential and by_credential[credential]
    local by_server = by_model and by_model[model]
    local row = by_server and by_server[server]
    if row then
        return row
    elseif #rows >= MOST_ROWS and model ~= OTHER then
        return row_of(user, credential, OTHER, server)
    end
    return new_row(user, credential, model, server)
end

--- Count one request that an LLM server got.
---@param now integer Unix seconds
---@param user string
---@param credential string "token", or an API key's ID
---@param model string|nil the real name; nil where none can be told
---@param server string
---@param prompt integer tokens
---@param completion integer tokens
function _M.count(now, user, credential, model, server, prompt, completion)
    begin_day(now)
    local row = row_of(user, credential, _M.name_of(model), server)
    row[1], row[2], row[3] = row[1] + 1, row[2] + prompt, row[3] + completion
    if ngx.worker.exiting() then
        _M.flush()
    end
end

--- Do something that no other worker does meanwhile; nil where another is at it for too long.
local function alone(work, may_wait)
    for _ = 1, MOST_TRIES do
        if dict:safe_add(LOCK, true, LOCK_SECONDS) then
            local ok, answer = pcall(work)
            dict:delete(LOCK)
            return assert(ok, answer) and answer
        elseif may_wait then
            ngx.sleep(PAUSE_SECONDS)
        end
    end
end

--- The key of a row under OTHER, with the same day, user, credential and server.
local function other_key(key)
    return (key:gsub("^([^\n]*\n[^\n]*\n[^\n]*\n)[^\n]*", "%1" .. OTHER))
end

--- Add a row to the dictionary's. What finds no room stays here for the next second.
local function add(key, row)
    local known = dict:get(ROW .. key)
    if not known and (dict:get(COUNT) or 0) >= MOST_KEPT then
        key = other_key(key)
        known = dict:get(ROW .. key)
    end
    local requests, prompt, completion = match(known or "0 0 0", "^(%d+) (%d+) (%d+)$")
    local text = ("%d %d %d"):format(requests + row[1], prompt + row[2], completion + row[3])
    local is_kept = dict:safe_set(ROW .. key, text)
    if is_kept and not known then
        dict:incr(COUNT, 1, 0)
    end
    return is_kept
end

--- What finds no room stays for the next time; what found it is 0 here.
local function add_all()
    for _, row in ipairs(rows) do
        if row[1] > 0 and not add(row[4], row) then
            ngx.log(ngx.ERR, "usage: no room to count in; the issuer has fetched nothing for long")
            return
        end
        row[1], row[2], row[3] = 0, 0, 0
    end
    rows, of_today = {}, {}
end

--- Add this worker's counts to the shared ones, each second.
function _M.flush()
    if rows[1] then
        alone(add_all)
    end
end

local function listed(key, text)
    local date, user, credential, model, server =
        match(key, "^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$")
    local requests, prompt, completion = match(text, "^(%d+) (%d+) (%d+)$")
    return {
        date, user, credential, model, server,
        tonumber(requests), tonumber(prompt), tonumber(completion),
    }
end

--- Take rows out of the dictionary and freeze them under the next number.
local function freeze(number)
    local batch, keys = {}, {}
    for _, key in ipairs(dict:get_keys(0)) do
        local text = sub(key, 1, 1) == ROW and #batch < MOST_OF_BATCH and dict:get(key)
        if text then
            batch[#batch + 1], keys[#keys + 1] = listed(sub(key, 2), text), key
        end
    end
    -- First it is in the batch, then it is no row any more: where there is no room it stays one.
    if not batch[1] or not dict:safe_set(FROZEN, cjson.encode(batch)) then
        return
    end
    dict:safe_set(NUMBER, number)
    for _, key in ipairs(keys) do
        dict:delete(key)
    end
    dict:incr(COUNT, -#keys, 0)
end

--- What is to be put into the store: the batch that was handed out and is not said to be there,
--- else the next.
---@param taken integer the number of the last batch of this life that the store has
---@return table|nil batch { number, rows: each { day, user, credential, model, server,
---     requests, prompt_tokens, completion_tokens } }; nil where nothing was used, or is counted
function _M.fetch(taken)
    if not is_on then
        return nil
    end
    return alone(function()
        local number = dict:get(NUMBER) or 0
        if taken >= number then
            dict:delete(FROZEN)
            freeze(taken + 1)
        end
        local frozen = dict:get(FROZEN)
        return frozen and { number = dict:get(NUMBER), rows = cjson.decode(frozen) }
    end, true) or nil
end

--- What of today, and of its month, is in no batch that the store has, by user.
local function add_row(of_day, of_month, day_asked, row)
    local user, tokens = row[2], row[7] + row[8]
    if row[1] == day_asked then
        of_day[user] = (of_day[user] or 0) + tokens
    end
    if sub(row[1], 1, 7) == sub(day_asked, 1, 7) then
        of_month[user] = (of_month[user] or 0) + tokens
    end
end

--- Tokens that are counted here and not in the store, but for what is in workers' memory.
---@param taken integer the number of the last batch that the store has
---@param day_asked string a date
---@return table|nil of_day user -> tokens; nil where that cannot be told now: another worker is at
---     it, or was killed there
---@return table|nil of_month user -> tokens
function _M.waiting(taken, day_asked)
    local of_day, of_month = {}, {}
    local has_looked = alone(function()
        local frozen = (dict:get(NUMBER) or 0) > taken and dict:get(FROZEN)
        for _, row in ipairs(frozen and cjson.decode(frozen) or {}) do
            add_row(of_day, of_month, day_asked, row)
        end
        for _, key in ipairs(dict:get_keys(0)) do
            local text = sub(key, 1, 1) == ROW and dict:get(key)
            if text then
                add_row(of_day, of_month, day_asked, listed(sub(key, 2), text))
            end
        end
        return true
    end, true)
    if has_looked then
        return of_day, of_month
    end
end

return _M
