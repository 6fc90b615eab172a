---------
-- How many requests each LLM server is answering, exact over all workers, which one is next, and
-- who waits for a place where `max_concurrent` leaves none.
-- It owns the dictionary `portero_in_flight`. Each worker writes its own counts there and nobody
-- else's, so nothing is ever added twice or lost: they are leases that it renews, and a worker that
-- was killed is forgotten with them; one on its way out after a reload leaves its own for as long
-- as it may live. A place is taken by counting first and looking after: two that meet both step
-- back, so there is never one too many.
--
-- Who waits has a rank: its user's turn, then when it came. Each worker tells the best rank that
-- waits in it for a server, and gives a free place to nobody while another worker's is better; who
-- comes new goes behind all that wait. What a worker that was killed told ends by itself.

local semaphore = require("ngx.semaphore")

local ngx = ngx
local dict = ngx.shared.portero_in_flight
local floor, max, min = math.floor, math.max, math.min
local insert, remove = table.insert, table.remove

local LEASE_SECONDS = 30
local RENEW_SECONDS = 10
--- `worker_shutdown_timeout`: a worker on its way out has no timer to renew with, and no longer.
local LAST_LEASE_SECONDS = 600
--- A worker's place among workers outlives its counts: the next one finds none.
local MORE_SECONDS = 5
--- The best rank that waits is told again with each look.
local TOLD_SECONDS = 1
local FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.02, 0.1
--- How long a user's turn is remembered: longer than anybody waits.
local TURN_SECONDS = 15
--- How far a server may be ahead of its share, or behind it, in rounds of all.
local MOST_ROUNDS = 16
local RANK = "%014.0f%014.0f"

--- Server -> this worker's own count.
local own = {}
--- Row of the policy -> what is due to it of all that was sent since that policy came.
local due = setmetatable({}, { __mode = "k" })
--- This worker's place among all, and when its counts are renewed.
local place, renew_at
--- Who waits in this worker, best rank first; and which servers it told of.
local waiting, told = {}, {}

local _M = {}

local function lease_seconds()
    return ngx.worker.exiting() and LAST_LEASE_SECONDS or LEASE_SECONDS
end

local function put(key, value, seconds)
    local ok, err = dict:safe_set(key, value, seconds)
    if not ok then
        ngx.log(ngx.ERR, "portero_in_flight: ", key, " not written: ", err)
    end
    return ok
end

--- The first place that no worker has; how many there were is known to all.
local function take_place()
    place = 1
    while not dict:safe_add("worker:" .. place, true, LEASE_SECONDS + MORE_SECONDS) do
        place = place + 1
    end
    while (dict:get("places") or 0) < place do
        assert(dict:incr("places", 1, 0))
    end
end

--- Begin, in each worker.
function _M.start()
    take_place()
    renew_at = ngx.now() + RENEW_SECONDS
end

local function count_key(worker, name)
    return "count:" .. worker .. ":" .. name
end

local function publish(name)
    local count = own[name]
    if count == 0 then
        own[name] = nil
        return dict:delete(count_key(place, name))
    end
    return put(count_key(place, name), count, lease_seconds())
end

local function add(name, by)
    own[name] = (own[name] or 0) + by
    return publish(name)
end

--- How many requests a server is answering.
---@param name string
---@return integer
function _M.count(name)
    local count = own[name] or 0
    for worker = 1, dict:get("places") do
        if worker ~= place then
            count = count + (dict:get(count_key(worker, name)) or 0)
        end
    end
    return count
end

--- The best rank that waits for a server in any other worker.
local function best_elsewhere(name)
    local best
    for worker = 1, dict:get("places") do
        local rank = worker ~= place and dict:get("waits:" .. worker .. ":" .. name)
        if rank and (not best or rank < best) then
            best = rank
        end
    end
    return best
end

--- Tell the best rank that waits here for each server, and of which none does any more.
local function tell()
    local now_told = {}
    for _, waiter in ipairs(waiting) do
        for _, row in ipairs(waiter.rows) do
            now_told[row.name] = now_told[row.name] or waiter.rank
        end
    end
    for name in pairs(told) do
        if not now_told[name] then
            dict:delete("waits:" .. place .. ":" .. name)
        end
    end
    for name, rank in pairs(now_told) do
        put("waits:" .. place .. ":" .. name, rank, TOLD_SECONDS)
    end
    told = now_told
end

--- Whether a server has a place for who has this rank; without one, for who did not wait.
local function is_free(row, count, rank)
    local most = row.max_concurrent
    if not most then
        return true
    elseif count >= most then
        return false
    end
    local best = best_elsewhere(row.name)
    if rank then
        return not best or rank < best
    end
    return not best and not told[row.name]
end

--- The one with the fewest requests for its weight; of several, the one that is most due.
local function least(rows, passed, rank)
    local chosen, chosen_level, weights = nil, nil, 0
    for _, row in ipairs(rows) do
        local name = row.name
        local count = not passed[name] and _M.count(name)
        if count and is_free(row, count, rank) then
            local level = floor(count / row.weight)
            weights = weights + row.weight
            due[row] = (due[row] or 0) + row.weight
            if not chosen or level < chosen_level
                or (level == chosen_level and due[row] > due[chosen]) then
                chosen, chosen_level = row, level
            end
        end
    end
    return chosen, weights
end

--- Who was slow for long is not owed all of that at once.
local function charge(row, weights)
    local bound = MOST_ROUNDS * weights
    due[row] = max(-bound, min(due[row] - weights, bound))
end

local NOBODY = {}

--- Take a place at the one of some servers that is next.
---@param rows table[] of the policy's servers
---@param rank string|nil of who has waited
---@return table|nil row nil where all are full
function _M.take(rows, rank)
    local passed = NOBODY
    while true do
        local row, weights = least(rows, passed, rank)
        if not row then
            return nil
        end
        charge(row, weights)
        local is_counted = add(row.name, 1)
        if not row.max_concurrent
            or (is_counted and _M.count(row.name) <= row.max_concurrent) then
            return row
        end
        add(row.name, -1)
        passed = passed == NOBODY and {} or passed
        passed[row.name] = true
    end
end

--- Give places to who waits here, the best first. A server that one of them could not have is not
--- for those behind.
local function serve()
    local closed = {}
    local at = 1
    while waiting[at] do
        local waiter = waiting[at]
        local open = {}
        for _, row in ipairs(waiter.rows) do
            open[#open + 1] = not closed[row.name] and row or nil
        end
        waiter.row = _M.take(open, waiter.rank)
        if waiter.row then
            remove(waiting, at)
            dict:safe_set("turn", max(dict:get("turn") or 0, waiter.turn))
            waiter.woken:post()
        else
            at = at + 1
        end
        for _, row in ipairs(not waiter.row and open or {}) do
            closed[row.name] = true
        end
    end
    tell()
end

--- Give a place back.
---@param name string of the server
function _M.release(name)
    add(name, -1)
    if waiting[1] then
        serve()
    end
end

--- The turn of a user's next request: behind those of its own that wait, and with the first of
--- everybody else's.
local function turn_of(user)
    local turn = max(dict:get("turn") or 0, dict:get("user:" .. user) or 0) + 1
    put("user:" .. user, turn, TURN_SECONDS)
    return turn
end

--- Begin to wait for a place.
---@param rows table[] the servers any of which will do
---@param user string
---@return table waiter
function _M.join(rows, user)
    local turn = turn_of(user)
    local waiter = {
        rows = rows, turn = turn, rank = RANK:format(turn, assert(dict:incr("came", 1, 0))),
        woken = semaphore.new(),
    }
    local at = 1
    while waiting[at] and waiting[at].rank < waiter.rank do
        at = at + 1
    end
    insert(waiting, at, waiter)
    tell()
    return waiter
end

--- Wait until there is a place, or the time is over.
---@param waiter table from `join`
---@param until_seconds number by `ngx.now`
---@return table|nil row the server with a place; who gets it releases it
function _M.wait(waiter, until_seconds)
    local look_seconds = FIRST_LOOK_SECONDS
    serve()
    while not waiter.row and ngx.now() < until_seconds do
        if not waiter.woken:wait(look_seconds) then
            serve()
        end
        look_seconds = min(look_seconds * 2, LAST_LOOK_SECONDS)
    end
    if not waiter.row then
        _M.leave(waiter)
    end
    return waiter.row
end

--- Wait no more; a place that was given meanwhile is for others.
---@param waiter table
function _M.leave(waiter)
    for at, other in ipairs(waiting) do
        if other == waiter then
            remove(waiting, at)
            return tell()
        end
    end
end

--- Renew what this worker has counted; called each second, and once more when the worker is on its
--- way out.
function _M.renew()
    local is_last = ngx.worker.exiting()
    if ngx.now() < renew_at and not is_last then
        return
    end
    renew_at = ngx.now() + RENEW_SECONDS
    put("worker:" .. place, true, lease_seconds() + MORE_SECONDS)
    for name in pairs(own) do
        publish(name)
    end
end

return _M
