---------
-- How many LLM tokens users and groups of users have used today and this month (UTC), over all
-- gateways: what the reconciler has told of the store, and what was counted here since.
-- It owns the dictionary `portero_budgets`, and fails closed: before it was told once, or where it
-- cannot count, a caller with a budget is refused. It must never evict a count.
--
-- What is told of a name replaces what stands here, with what this gateway has counted and the
-- store has not yet (`usage_counts.waiting`). What is in a worker's memory meanwhile, and what
-- other gateways have counted and not handed out, is missing for a moment: a budget is overshot by
-- what is used within two seconds, over all gateways.

local usage_counts = require("portero.quota.usage_counts")

local dict = ngx.shared.portero_budgets
local floor, max = math.floor, math.max
local sub = string.sub

local SECONDS_A_DAY = 86400
local DAY_TTL, MONTH_TTL = 2 * SECONDS_A_DAY, 33 * SECONDS_A_DAY
local MAX_TRIES = 3
--- Characters of a date that are its month.
local MONTH = 7
local KNOWN = "known"
--- What a name begins with.
local USER, GROUP = "u:", "g:"

local day_number, day, month = 0, "", ""

local _M = {}

--- Today, and its month; texts for as long as it is the same day.
local function look(now)
    local number = floor(now / SECONDS_A_DAY)
    if number ~= day_number then
        day_number, day = number, os.date("!%Y-%m-%d", now)
        month = sub(day, 1, MONTH)
    end
end

--- Seconds until a day, or a month, is over.
local function seconds_left(now, is_month)
    if not is_month then
        return SECONDS_A_DAY - now % SECONDS_A_DAY
    end
    local date = os.date("!*t", now)
    -- The first of the next month, as a number of days from now.
    local days = 1
    while os.date("!*t", now + days * SECONDS_A_DAY).month == date.month do
        days = days + 1
    end
    return days * SECONDS_A_DAY - now % SECONDS_A_DAY
end

local function name_of(budget, user)
    return budget.group and GROUP .. budget.group or USER .. user
end

local function is_spent(period, name, most)
    return most and (dict:get(period .. name) or 0) >= most
end

--- Whether a caller has used up a budget of its own, or of a group.
---@param user string
---@param budgets table[] each { group: its name, none for the user's own, day, month: the most }
---@param now integer Unix seconds
---@return string|nil code "budget_spent", or "not_ready" where it is not known
---@return integer|nil seconds until there is something to spend again
function _M.refusal(user, budgets, now)
    if not dict or not dict:get(KNOWN) then
        return "not_ready"
    end
    look(now)
    local wait
    for _, budget in ipairs(budgets) do
        local name = name_of(budget, user)
        if is_spent(month, name, budget.month) then
            wait = max(wait or 0, seconds_left(now, true))
        elseif is_spent(day, name, budget.day) then
            wait = max(wait or 0, seconds_left(now, false))
        end
    end
    return wait and "budget_spent", wait
end

local function add(key, tokens, ttl)
    for _ = 1, MAX_TRIES do
        local _, err = dict:incr(key, tokens)
        if err ~= "not found" then
            return
        end
        local ok, fault = dict:safe_add(key, 0, ttl)
        if not ok and fault ~= "exists" then
            return ngx.log(ngx.ERR, "budgets: cannot count: ", fault)
        end
    end
end

--- Count what a caller with budgets has used.
---@param user string
---@param budgets table[] as above
---@param tokens integer
---@param now integer
function _M.spend(user, budgets, tokens, now)
    look(now)
    for _, budget in ipairs(budgets) do
        local name = name_of(budget, user)
        if budget.day then
            add(day .. name, tokens, DAY_TTL)
        end
        if budget.month then
            add(month .. name, tokens, MONTH_TTL)
        end
    end
end

--- What waits here of a name, by whom it is of.
local function waiting_of(name, members, waiting)
    if sub(name, 1, #USER) == USER then
        return waiting[sub(name, #USER + 1)] or 0
    end
    local sum = 0
    for _, member in ipairs(members or {}) do
        sum = sum + (waiting[member] or 0)
    end
    return sum
end

--- Take what the store has.
---@param message table { day, number: the last batch of this gateway that is in it, rows: each
---     { name, tokens of the day, tokens of the month, members of a group }, complete: whether it
---     ends what a gateway must know }
---@return boolean|nil ok nil where it does not fit, or what waits here cannot be told now: what
---     stands here stays, for without that it would be less than was used
function _M.put(message)
    local its_day, its_month = message.day, sub(message.day, 1, MONTH)
    local of_day, of_month = usage_counts.waiting(message.number, its_day)
    if not of_day then
        return nil
    end
    for _, row in ipairs(message.rows) do
        local name = row[1]
        local on_day = row[2] + waiting_of(name, row[4], of_day)
        local in_month = row[3] + waiting_of(name, row[4], of_month)
        if not dict:safe_set(its_day .. name, on_day, DAY_TTL)
            or not dict:safe_set(its_month .. name, in_month, MONTH_TTL) then
            return nil
        end
    end
    if message.complete then
        dict:safe_set(KNOWN, true)
    end
    return true
end

return _M
