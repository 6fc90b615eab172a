---------
-- Who guesses secrets waits: how many were wrong from one address, for one user and in all
-- (docs/threats.md, P4 and P5). Exact over all workers.
-- It owns the dictionaries `portero_guesses` and `portero_right_secrets`. It must never evict a
-- count, never let one pass that it cannot count, and never keep a secret: of one that was right it
-- keeps a MAC, under a key that ends with this process, and so knows a caller who is no guesser.
--
-- A count is one number, moved by `incr` alone: wrong secrets, and from ASKING up those that are
-- with the issuer at this moment. Both together are never more than may be wrong at once, so who
-- sends a hundred guesses in one moment has five of them answered: the others stand here until
-- they are.
--
-- Behind that many a gate stands for as long as the address must wait. When it has gone one may
-- try, and takes it for the time of the try: a gate is an entry, and `safe_add` lets one alone.
--
-- What comes when it is full: an entry that does not fit ends the login with 503. It takes 60,000
-- addresses, each with a wrong secret that was checked within the last five minutes.

local crypto = require("portero.token.crypto")

local dict = ngx.shared.portero_guesses
local right = ngx.shared.portero_right_secrets
local rep, sub = string.rep, string.sub

--- How many may be wrong before an address waits: for one user, and in all.
local MOST_FOR_USER, MOST_FROM_ADDRESS = 5, 50
local WINDOW_SECONDS = 300
--- For one user, who guessed so often is known for so long behind the last one.
local GUESSER_SECONDS = 3600
local LONGEST_WAIT_SECONDS = 60
--- Who goes on through ten waits. Then it is less than one a minute: with the first, which came
-- faster, no hour has more than sixty.
local TIRELESS_WAITS, TIRELESS_SECONDS = 10, 75
--- The issuer is waited for 8 seconds. A killed worker gives nothing back.
local ASKING_SECONDS = 30
local ASKING = 65536
local RIGHT_SECONDS = 3600
--- Another worker's clock may be this far ahead.
local CLOCK_SECONDS = 1
local MAX_TRIES = 3
local CLEAR_SECONDS = 1
--- How long one stands here while others are asked about, and how many in a worker.
local LONGEST_TURN_SECONDS, FIRST_SLEEP_SECONDS, LONGEST_SLEEP_SECONDS = 8, 0.005, 0.1
local MOST_IN_LINE = 512

--- What a gate is.
local WAIT, TRY = 1, 2
local KEY = "key"
local KEY_BYTES, MAC_BYTES = 32, 16

--- Addresses of IPv4 in IPv6: as they are mapped (RFC 4291), and translated (RFC 6052).
local OF_IPV4 = {
    [rep("\0", 10) .. "\255\255"] = true,
    ["\0\100\255\155" .. rep("\0", 8)] = true,
}
local IPV6_BYTES, PREFIX_BYTES = 16, 8

local key
local in_line, cleared_at = 0, 0

local _M = {}

--- Begin, in the master. The key is as old as the dictionaries, which live through a reload.
function _M.start()
    right:safe_add(KEY, assert(crypto.random(KEY_BYTES)))
    key = right:get(KEY)
end

--- Whose address it is: for IPv6 the network, of which one host has all addresses.
local function place_of(address)
    if #address ~= IPV6_BYTES then
        return address
    elseif OF_IPV4[sub(address, 1, 12)] then
        return sub(address, 13)
    end
    return sub(address, 1, PREFIX_BYTES)
end

--- Write an entry; where ended ones fill the dictionary they are cleared. Who looks for them walks
--- through all of it, so a flood must not make that happen again and again.
local function write(how, name, value, ttl)
    local ok, err = dict[how](dict, name, value, ttl)
    local now = ngx.now()
    if err == "no memory" and math.abs(now - cleared_at) >= CLEAR_SECONDS then
        cleared_at = now
        dict:flush_expired()
        ok, err = dict[how](dict, name, value, ttl)
    end
    return ok, err
end

local function add(name, value, ttl)
    return write("safe_add", name, value, ttl)
end

--- Move a count, and begin one where there is none.
local function move(name, by)
    for _ = 1, MAX_TRIES do
        local number, err = dict:incr(name, by)
        if err ~= "not found" then
            return number, err
        end
        local ok, fault = add(name, 0, ASKING_SECONDS)
        if not ok and fault ~= "exists" then
            return nil, fault
        end
    end
    return nil, "guesses: a count does not stand"
end

--- Of a count that has ended meanwhile another may have begun, which holds none of ours. Who begins
--- to ask between the two last calls is not counted while he asks; if he is wrong, he is.
local function take_back(scope, by)
    local number = dict:incr(scope.count, by)
    if number and number < 0 then
        number = dict:incr(scope.count, ASKING)
    end
    if number == 0 then
        dict:delete(scope.count)
    end
    return number
end

local function wrong_of(number)
    return number % ASKING
end

--- How long an address waits behind so many wrong secrets.
local function wait_behind(wrong, most)
    local waits = wrong - most
    if waits >= TIRELESS_WAITS then
        return TIRELESS_SECONDS
    end
    return math.min(2 ^ waits, LONGEST_WAIT_SECONDS)
end

--- Whether a gate stands, and for how long. One that would last longer than gates do is from
--- before the clock was set back.
local function standing(scope)
    local kind = dict:get(scope.gate)
    if not kind then
        return nil
    end
    local seconds = dict:ttl(scope.gate) or 0
    if seconds > TIRELESS_SECONDS + CLOCK_SECONDS then
        dict:delete(scope.gate)
        return nil
    end
    return kind, math.min(math.max(seconds, CLOCK_SECONDS), LONGEST_WAIT_SECONDS)
end

--- Take the one try behind a gate that has gone.
local function take_try(scope)
    local ok, err = add(scope.gate, TRY, ASKING_SECONDS)
    if ok then
        scope.is_held, scope.is_try = true, true
        return true
    end
    take_back(scope, -ASKING)
    return nil, err == "exists" and "too_many_guesses" or "not_ready"
end

--- Take the place of one that is asked about.
---@return boolean|nil ok nil with a code; false where others must be answered first
local function reserve(scope, has_waited)
    local number = move(scope.count, ASKING)
    if not number then
        return nil, "not_ready"
    end
    local wrong = wrong_of(number)
    if wrong + (number - wrong) / ASKING <= scope.most then
        scope.is_held = true
        return true
    elseif wrong >= scope.most and not has_waited then
        return take_try(scope)
    end
    take_back(scope, -ASKING)
    if wrong < scope.most then
        return false
    end
    return nil, "too_many_guesses"
end

--- Give back what an attempt holds of a count, and its gate if that is its own still.
local function give_back(scope)
    if scope.is_held then
        take_back(scope, -ASKING)
    end
    if scope.is_try and dict:get(scope.gate) == TRY then
        dict:delete(scope.gate)
    end
    scope.is_held, scope.is_try = nil, nil
end

local function mac_of(text)
    return sub(assert(crypto.hmac("HS256", key, text)), 1, MAC_BYTES)
end

local function is_known(attempt)
    return right:get(attempt.user.count) == attempt.mac
end

--- Try to have an attempt asked about; false where it must stand in line.
local function enter(attempt, has_waited)
    attempt.is_known = is_known(attempt)
    for _, scope in ipairs(attempt) do
        local kind, seconds = standing(scope)
        if kind == WAIT or kind and not attempt.is_known then
            return nil, "too_many_guesses", seconds
        end
    end
    for place, scope in ipairs(attempt.is_known and {} or attempt) do
        local ok, code = reserve(scope, has_waited)
        if not ok then
            if place > 1 then
                give_back(attempt[1])
            end
            return ok, code, CLOCK_SECONDS
        end
    end
    return true
end

--- Until there is a turn, an answer, or no time any more.
local function stand_in_line(attempt)
    local waited, sleep = 0, FIRST_SLEEP_SECONDS
    while waited < LONGEST_TURN_SECONDS do
        ngx.sleep(sleep)
        waited, sleep = waited + sleep, math.min(2 * sleep, LONGEST_SLEEP_SECONDS)
        local ok, code, seconds = enter(attempt, true)
        if ok ~= false then
            return ok, code, seconds
        end
    end
    return nil, "not_ready"
end

--- Begin an attempt. It must be ended by `wrong`, `right` or `undecided`.
---@param address string bytes of the client's address
---@param name string the user's, whether there is one or not
---@param offered string bytes that hold the secret
---@return table|nil attempt
---@return string|nil code of the refusal
---@return number|nil seconds until the address may come again
function _M.begin(address, name, offered)
    local place = place_of(address)
    local who = place .. mac_of(name)
    local user = { most = MOST_FOR_USER, count = "u" .. who, gate = "w" .. who }
    local attempt = {
        user, { most = MOST_FROM_ADDRESS, count = "a" .. place, gate = "b" .. place },
        user = user, mac = mac_of(offered),
    }
    local ok, code, seconds = enter(attempt)
    if ok == false then
        if in_line >= MOST_IN_LINE then
            return nil, "not_ready"
        end
        in_line = in_line + 1
        ok, code, seconds = stand_in_line(attempt)
        in_line = in_line - 1
    end
    return ok and attempt, code, seconds
end

--- Count one that was asked about as wrong.
local function count_wrong(scope)
    local number = scope.is_held and dict:incr(scope.count, 1 - ASKING)
    if number and number < 0 then
        number = dict:incr(scope.count, ASKING)
    end
    number = number or move(scope.count, 1)
    return number and wrong_of(number)
end

local function shut(scope, wrong)
    write("safe_set", scope.gate, WAIT, wait_behind(wrong, scope.most))
end

--- The secret was wrong. A user's count lasts from the last one on, an address's from the first:
--- many are behind one, and shall not pay for what was long ago.
---@param attempt table
function _M.wrong(attempt)
    for _, scope in ipairs(attempt) do
        local wrong = count_wrong(scope)
        if wrong and (scope == attempt.user or wrong == 1) then
            local is_guesser = scope == attempt.user and wrong >= scope.most
            dict:expire(scope.count, is_guesser and GUESSER_SECONDS or WINDOW_SECONDS)
        end
        if wrong and wrong >= scope.most then
            shut(scope, wrong)
        end
        scope.is_held, scope.is_try = nil, nil
    end
end

--- Forget what was wrong for a user from an address.
local function forget(scope)
    local number = dict:get(scope.count)
    local wrong = number and wrong_of(number) or 0
    if wrong > 0 then
        take_back(scope, -wrong)
        dict:delete(scope.gate)
    end
end

--- The secret was right.
---@param attempt table
function _M.right(attempt)
    for _, scope in ipairs(attempt) do
        give_back(scope)
    end
    forget(attempt.user)
    right:safe_set(attempt.user.count, attempt.mac, RIGHT_SECONDS)
end

--- Nobody said whether it was right or wrong.
---@param attempt table
function _M.undecided(attempt)
    for _, scope in ipairs(attempt) do
        give_back(scope)
    end
end

return _M
