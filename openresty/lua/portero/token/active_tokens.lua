---------
-- The active-token set: the gateway's projection of the issuer's sessions, shared by all workers.
-- It owns the dictionary `portero_active_tokens` (jti -> number). Nothing live is ever evicted:
-- `set` is never used on it.
--
-- The number of a jti is the generation it was written in, or a tombstone far below zero. An entry
-- is active when its number is at least the least valid generation; there is none before the first
-- snapshot is whole. A snapshot writes a new generation beside the old one and raises the least
-- valid one at its end, so no moment shows half of it.
--
-- Races. Workers write at once, and a dictionary has no compare-and-set. Revoked must win:
-- `activate` only ever adds a missing key (`safe_add`) or moves a number by `incr`, which leaves a
-- tombstone far below zero whatever comes between; `revoke` overwrites. Two workers moving one
-- entry at once would move it twice: the one that sees too high a number takes its move back, and
-- looks again.

local monotonic_time = require("resty.core.time").monotonic_time
local shared_versions = require("portero.shared_versions")

local tokens = ngx.shared.portero_active_tokens

local TOMBSTONE = -2 ^ 50
--- How many expired entries one refused write clears away; the rest is cleared by the timer.
local FLUSHED_AT_ONCE = 10000
--- Clearing away looks at every entry while all others wait, so refused writes do it this seldom.
local FLUSH_SECONDS = 0.25
local MIN_TTL_SECONDS = 0.001
--- `proxy_read_timeout`: a stream silent for longer is ended by nginx.
local LONGEST_SILENCE_SECONDS = 600
--- The reconciler is heard every second; after this long it is silent.
local SILENCE_SECONDS = 3
--- Less than this is no step of the clock: a token's last second belongs to nobody.
local CLOCK_STEP_SECONDS = 1

local _M = {}

--- Notice that the clock was set. Entries end by it, so where it was set forward and back again
--- live ones may be gone. All that is here up to now is in doubt then: what is missing is not known
--- to be dead, and `status` asks for a snapshot.
function _M.watch_clock()
    local offset, known = ngx.now() - monotonic_time(), shared_versions.get("clock_offset")
    if known and math.abs(offset - known) < CLOCK_STEP_SECONDS then
        return
    end
    shared_versions.set("clock_offset", offset)
    if known then
        ngx.log(ngx.WARN, ("the clock was set by %.1f s; a snapshot is asked for"):format(
            offset - known))
        shared_versions.set("doubted", shared_versions.get("newest") or 0)
    end
end

local function is_in_doubt()
    return shared_versions.least() <= (shared_versions.get("doubted") or -1)
end

--- What to say of a token that is not here, or that a snapshot hid: nil where that is in doubt.
local function absent(is_hidden)
    _M.watch_clock()
    if is_in_doubt() then
        return nil, false
    end
    return false, is_hidden
end

--- Whether a token may be used, as of the request's look at the state.
---@param jti string
---@return boolean|nil active nil where it is not known: before the first snapshot is whole, and for
--- what is missing after the clock was set
---@return boolean known whether anything is known of it (a tombstone is)
function _M.is_active(jti)
    local least = shared_versions.least()
    if least == 0 then
        return nil, false
    end
    local number = tokens:get(jti)
    if number and (number >= least or number < 0) then
        return number >= least, true
    end
    return absent(number ~= nil)
end

--- The same of a verified token. What was found active is so as long as nothing was taken away; its
--- end is the verifier's question.
---@param claims table remembers for which count of changes the token was found active
---@return boolean|nil active
---@return boolean known
function _M.holds(claims)
    local changes = shared_versions.changes()
    if claims.active_as_of == changes then
        return true, true
    end
    local active, known = _M.is_active(claims.jti)
    if active then
        claims.active_as_of = changes
    end
    return active, known
end

local flushed_at = -FLUSH_SECONDS

local function make_room()
    local now = monotonic_time()
    if now - flushed_at < FLUSH_SECONDS then
        return false
    end
    flushed_at = now
    return tokens:flush_expired(FLUSHED_AT_ONCE) > 0
end

--- One write that may find the dictionary full of expired entries: they are cleared, once.
local function with_room(write, jti, number, ttl)
    local ok, err = write(tokens, jti, number, ttl)
    if not ok and err == "no memory" and make_room() then
        ok, err = write(tokens, jti, number, ttl)
    end
    return ok, err
end

local function raise(jti, generation)
    local number = tokens:get(jti)
    if not number or number < 0 or number >= generation then
        return true
    end
    local move = generation - number
    local moved, err = tokens:incr(jti, move)
    if moved and moved > generation then
        tokens:incr(jti, -move)
        return raise(jti, generation)
    end
    return moved ~= nil or err == "not found", err
end

--- The time an entry has left. Below a millisecond a dictionary would take it for "for ever".
local function remaining(exp, now)
    return math.max(exp - now, MIN_TTL_SECONDS)
end

--- Make a token active, unless it is revoked already.
---@param jti string
---@param exp integer Unix seconds
---@param now number Unix seconds
---@return boolean|nil ok, string|nil err "no memory" when the set is full
function _M.activate(jti, exp, now)
    if exp <= now then
        return true
    end
    local generation = shared_versions.get("newest") or 0
    local ok, err = with_room(tokens.safe_add, jti, generation, remaining(exp, now))
    if not ok and err == "exists" then
        return raise(jti, generation)
    end
    return ok, err
end

--- Revoke a token, known or not yet, also one whose time is over: a stream may outlive its token.
--- The tombstone stands until no stream that the token opened can still be silent: such a stream
--- must find it when it moves again.
---@param jti string
---@param exp integer Unix seconds
---@param now number Unix seconds
---@return boolean|nil ok, string|nil err
function _M.revoke(jti, exp, now)
    local ttl = remaining(exp, now) + LONGEST_SILENCE_SECONDS
    local ok, err = with_room(tokens.safe_set, jti, TOMBSTONE, ttl)
    shared_versions.changed()
    return ok or exp <= now, err
end

--- Begin a snapshot; what is activated from here on belongs to it.
---@return integer generation
function _M.begin_snapshot()
    return shared_versions.count("newest")
end

--- Whether this generation is the one being filled.
---@param generation any
---@return boolean
function _M.is_newest(generation)
    return type(generation) == "number" and shared_versions.get("newest") == generation
end

--- End a snapshot: its generation becomes the least valid one. What it did not name is gone.
---@param generation integer
function _M.end_snapshot(generation)
    shared_versions.raise_least(generation)
end

--- Remember which change of which history of the store has been applied last.
---@param epoch string
---@param position integer
function _M.set_position(epoch, position)
    -- One write, so that no one sees the one without the other.
    shared_versions.set("mark", position .. ":" .. epoch)
end

--- Remember that the issuer was heard, by the clock that no one sets.
function _M.heard()
    shared_versions.set("heard_at", monotonic_time())
end

--- Seconds since the issuer was heard, or nil if it never was.
---@return number|nil
function _M.staleness()
    local heard_at = shared_versions.get("heard_at")
    -- Each worker reads the clock at its own moment, so another's may be a little ahead.
    return heard_at and math.max(0, monotonic_time() - heard_at)
end

--- Whether a token issued at `iat` may be one this gateway has not been told of: the issuer has
--- been silent for longer than it ever is, and was not heard since.
---@param iat integer Unix seconds
---@param now number Unix seconds
---@return boolean
function _M.may_be_behind(iat, now)
    local silence = _M.staleness()
    return not silence or (silence > SILENCE_SECONDS and iat >= math.floor(now - silence))
end

--- Name this life of the dictionaries: they survive a reload, and are empty after a restart.
---@param boot string
function _M.start(boot)
    shared_versions.set("boot", shared_versions.get("boot") or boot)
end

--- Clear away what has expired, a bounded part at a time.
function _M.tidy()
    _M.watch_clock()
    tokens:flush_expired(FLUSHED_AT_ONCE)
end

--- How far this gateway has come, for the reconciler and the metrics.
---@return table
function _M.status()
    local position, epoch = (shared_versions.get("mark") or "0:"):match("^(%d+):(.*)$")
    return {
        ready = shared_versions.is_ready() and not is_in_doubt(),
        boot = shared_versions.get("boot"),
        newest = shared_versions.get("newest") or 0,
        least = shared_versions.least(),
        epoch = epoch,
        position = tonumber(position),
        free_bytes = tokens:free_space(),
        capacity_bytes = tokens:capacity(),
    }
end

return _M
