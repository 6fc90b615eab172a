---------
-- What a user with limits may still use: requests and LLM tokens a minute, and requests at once;
-- exact over all workers. Callers without limits never come here.
-- Several gateways share windows: each is told what the others have counted in a window, and when
-- it ends (`take`), and tells what it has counted itself (`counted_here`). A request waits for none
-- of it, and pays nothing for it. What is counted elsewhere within two seconds is not known here.
-- It owns the dictionary `portero_limits`, and fails closed: what cannot be counted is not allowed.
-- It must never evict a count to make room for another, so `incr` has no initial value here.
--
-- A window is a count that the first request begins and that ends by itself 60 seconds later. Only
-- `incr` moves it, which leaves its end alone: each of its first `most` requests sees another
-- number, and all behind them are refused, in whatever worker.
--
-- A slot is a lease: a key that one request holds, renewed by its worker and deleted at its end. A
-- worker that is killed renews no more.
--
-- Races. A dictionary has no compare-and-delete. A lease that ends between the two calls of
-- `release`, or of `keep`, may meanwhile be another's, which is then freed or lengthened: that
-- takes a worker that renewed nothing for 20 seconds, and microseconds. A request whose lease was
-- lost that way runs on, and tries for its place each second. A request that finds slot 1 taken,
-- then 2, may miss that 1 became free meanwhile: it is refused, never one too many allowed.
-- What others counted is written before the sum that holds it: whoever reads between the two tells
-- the others too little of this gateway, for a second. A window that gives way to the next one of
-- another gateway loses what is counted within those microseconds.

local dict = ngx.shared.portero_limits

local WINDOW_SECONDS = 60
--- Another worker's clock may be this far ahead.
local CLOCK_SECONDS = 1
local LEASE_SECONDS = 30
local RENEW_SECONDS = 10
--- `worker_shutdown_timeout`: a worker on its way out has no timer to renew with, and no longer.
local LAST_LEASE_SECONDS = 600
--- A slot is not renewed for ever, even if no one releases it.
local LONGEST_HOLD_SECONDS = 3600
--- A window may end between beginning it and counting in it.
local MAX_TRIES = 3
--- Gateways hear of each other within so long. A window that ends so soon is not told any more, and
--- gives way to the next one, where another gateway has begun that.
local ENDING_SECONDS = 2
--- What others counted ends before the sum does, so that it is never taken from the next window's.
local EARLIER_SECONDS = 0.05
--- How many windows are told at a time.
local MOST_TOLD = 20000
--- How many ended entries one refused write clears away.
local FLUSHED_AT_ONCE = 10000

--- Ids of slots are numbers, as texts that differ at their end alone fall into one place of
--- LuaJIT's table of all texts. A process has so many, in the order of their giving, which begins
--- by its second: nobody gives more than that in one. So where a process has the ID of one that
--- ended, its own come behind, and the leases of before have ended when they come around.
local IDS_OF_A_SECOND, IDS_OF_A_PROCESS = 2 ^ 20, 2 ^ 31
--- What the key of a user's window begins with.
local KEYS = { requests = "r:", tokens = "t:" }
--- What the caller is told of each, by name.
local function headers_of(kind)
    return {
        most = "x-ratelimit-limit-" .. kind, remaining = "x-ratelimit-remaining-" .. kind,
        reset = "x-ratelimit-reset-" .. kind,
    }
end
local HEADERS = { requests = headers_of("requests"), tokens = headers_of("tokens") }
--- Of the same window, what other gateways have counted in it.
local OTHERS = "o:"

--- This worker's slots: id -> key, and when to renew it.
local held = {}
--- What this worker's ids begin with, and the number of the last one.
local first_id, last_number
--- How many slots this worker has asked for: where to look first.
local turn = 0

local _M = { WINDOW_SECONDS = WINDOW_SECONDS }

--- Add an entry; where ended ones fill the dictionary they are cleared, once.
local function add(key, value, ttl)
    local ok, err = dict:safe_add(key, value, ttl)
    if err == "no memory" and dict:flush_expired(FLUSHED_AT_ONCE) > 0 then
        ok, err = dict:safe_add(key, value, ttl)
    end
    return ok, err
end

--- Begin, in each worker.
function _M.start()
    turn = ngx.worker.pid()
    first_id = turn * IDS_OF_A_PROCESS
    last_number = math.floor(ngx.now()) * IDS_OF_A_SECOND % IDS_OF_A_PROCESS
end

--- Count in a key's window, and begin one where there is none. Who comes second in beginning it
--- counts in the first one's.
local function count(key, by)
    for _ = 1, MAX_TRIES do
        local number, err = dict:incr(key, by)
        if err ~= "not found" then
            return number, err
        end
        local ok, fault = add(key, 0, WINDOW_SECONDS)
        if not ok and fault ~= "exists" then
            return nil, fault
        end
    end
    return nil, "limits: the window of a user does not stand"
end

--- Seconds until a window ends. One that would last longer than windows do is from before the
--- clock was set back, and ends a window from now.
local function reset_of(key)
    local seconds = dict:ttl(key) or 0
    if seconds > WINDOW_SECONDS + CLOCK_SECONDS then
        dict:expire(key, WINDOW_SECONDS)
    end
    return math.min(math.max(seconds, 0), WINDOW_SECONDS)
end

--- What is left to a user of a minute's limit; a request is counted by asking. It makes sure that
--- there is a window to spend tokens in: a full dictionary refuses here, where it still can.
---@param kind string "requests" or "tokens"
---@param user string
---@param most integer
---@return integer|nil left below 0 where the request is one too many; nil when it cannot be told
---@return number|string reset_seconds or why
function _M.left(kind, user, most)
    local key = KEYS[kind] .. user
    local used, err = count(key, kind == "requests" and 1 or 0)
    if not used then
        return nil, err
    end
    return most - used, reset_of(key)
end

--- Spend LLM tokens, when it is known how many they were.
---@param user string
---@param tokens integer
---@return boolean|nil ok, string|nil err
function _M.spend(user, tokens)
    local used, err = count(KEYS.tokens .. user, tokens)
    return used ~= nil or nil, err
end

--- Whether something is the key of a window.
---@param key any
---@return boolean
function _M.is_window(key)
    return type(key) == "string" and key:find("^[rt]:.") ~= nil
end

--- Begin the window that another gateway has begun.
local function adopt(key, sum, seconds, is_ending)
    local ok, err
    if is_ending then
        ok, err = dict:safe_set(key, sum, seconds)
    else
        ok, err = add(key, sum, seconds)
    end
    if ok then
        ok, err = dict:safe_set(OTHERS .. key, sum, seconds - EARLIER_SECONDS)
    end
    return ok, err
end

--- Add what others have counted since they were heard last; what they told once stays.
local function add_others(key, sum, seconds)
    local more = sum - (dict:get(OTHERS .. key) or 0)
    if more <= 0 then
        return true
    end
    local ok, err = dict:safe_set(OTHERS .. key, sum, math.max(seconds - EARLIER_SECONDS, 0.001))
    if ok then
        ok, err = dict:incr(key, more)
    end
    return ok ~= nil and ok ~= false or err == "not found"
end

--- Take what other gateways have counted in a user's window. Windows that were begun apart become
--- one, which ends with the earlier.
---@param key string
---@param sum integer of all others
---@param seconds number until the window ends there
---@return boolean ok false where there is no room
function _M.take(key, sum, seconds)
    local mine = dict:ttl(key) or 0
    local is_ending = mine > 0 and mine < ENDING_SECONDS and seconds > mine + ENDING_SECONDS
    if mine <= 0 or is_ending then
        local ok, err = adopt(key, sum, seconds, is_ending)
        if ok or err ~= "exists" then
            return ok == true
        end
        mine = dict:ttl(key) or 0
    end
    if seconds < mine then
        dict:expire(key, seconds)
    end
    return add_others(key, sum, math.min(seconds, math.max(mine, 0)))
end

--- What this gateway itself has counted, for the others.
---@return table[] windows each { key, count, seconds until it ends }
function _M.counted_here()
    local windows = {}
    for _, key in ipairs(dict:get_keys(0)) do
        if #windows < MOST_TOLD and _M.is_window(key) then
            local seconds = dict:ttl(key) or 0
            local count_here = (dict:get(key) or 0) - (dict:get(OTHERS .. key) or 0)
            if seconds >= ENDING_SECONDS and count_here > 0 then
                windows[#windows + 1] = { key, count_here, seconds }
            end
        end
    end
    return windows
end

local function lease_seconds()
    return ngx.worker.exiting() and LAST_LEASE_SECONDS or LEASE_SECONDS
end

--- Take one of a user's slots. The search begins at another place each time, so that it finds one
--- at once when there is room.
---@param user string
---@param most integer
---@return integer|false|nil slot false when all are taken, nil when it cannot be told
---@return string|nil err
function _M.acquire(user, most)
    turn = turn + 1
    last_number = (last_number + 1) % IDS_OF_A_PROCESS
    local id = first_id + last_number
    local lease = lease_seconds()
    for place = turn, turn + most - 1 do
        local key = "s:" .. user .. ":" .. place % most + 1
        local ok, err = add(key, id, lease)
        if ok then
            local now = ngx.now()
            held[id] = { key = key, due = now + RENEW_SECONDS, ends = now + LONGEST_HOLD_SECONDS }
            return id
        end
        if err ~= "exists" then
            return nil, err
        end
    end
    return false
end

--- Lengthen a lease. One that has ended is taken again; while another holds it, tried for.
local function keep(id, slot, now, lease)
    if now >= slot.ends then
        return nil
    end
    local ok
    if dict:get(slot.key) == id then
        ok = dict:expire(slot.key, lease)
    else
        ok = dict:safe_add(slot.key, id, lease)
    end
    slot.due = ok and now + RENEW_SECONDS or now
    return slot
end

--- Renew this worker's slots as they are due; called each second, and once more when the worker is
--- on its way out.
function _M.renew()
    local now, lease = ngx.now(), lease_seconds()
    for id, slot in pairs(held) do
        if now >= slot.due or lease > LEASE_SECONDS then
            held[id] = keep(id, slot, now, lease)
        end
    end
end

--- Give a slot back; once more does nothing, nor does it for one that another holds by now.
---@param id integer what `acquire` answered
function _M.release(id)
    local slot = held[id]
    held[id] = nil
    if slot and dict:get(slot.key) == id then
        dict:delete(slot.key)
    end
end

--- As Go writes a duration of whole milliseconds, below an hour: "12ms", "59.5s", "6m0s".
local function duration(seconds)
    local milliseconds = math.floor(seconds * 1000 + 0.5)
    if milliseconds > 0 and milliseconds < 1000 then
        return milliseconds .. "ms"
    end
    local minutes = math.floor(milliseconds / 60000)
    local rest = ("%.5gs"):format(milliseconds % 60000 / 1000)
    return minutes > 0 and minutes .. "m" .. rest or rest
end

--- Tell of a limit that is set.
---@param header table
---@param kind string "requests" or "tokens"
---@param most integer
---@param remaining integer
---@param reset_seconds number
function _M.headers(header, kind, most, remaining, reset_seconds)
    local names = HEADERS[kind]
    header[names.most], header[names.remaining] = most, remaining
    header[names.reset] = duration(reset_seconds)
end

local function tell_kind(names, told, header)
    if told[names.most] then
        header[names.most], header[names.remaining] = told[names.most], told[names.remaining]
        header[names.reset] = told[names.reset]
    end
end

--- Tell the caller of all limits that `headers` noted; one by one, as a loop would cost more than
--- all of them (decision 17).
---@param told table
---@param header table `ngx.header`
function _M.tell(told, header)
    tell_kind(HEADERS.requests, told, header)
    tell_kind(HEADERS.tokens, told, header)
end

--- The value of Retry-After.
---@param reset_seconds number
---@return integer
function _M.retry_after(reset_seconds)
    return math.max(math.ceil(reset_seconds), 1)
end

return _M
