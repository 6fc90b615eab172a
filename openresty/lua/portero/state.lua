---------
-- What a request must know to be judged by the newest state, in one number: the least valid
-- generation of the active-token set, and the version of the keys.
-- It owns the dictionary `portero_sync`. A request reads the number at its beginning, and again
-- where it has waited; in between nothing yields, so what was read stays true for it. The number is
-- only ever moved by `incr`: two writers cannot undo each other.

local dict = ngx.shared.portero_sync

--- Versions of the keys are counted above this, generations below.
local VERSION = 2 ^ 30

local seen
local least, version = 0, 0

local _M = {}

--- Read the number, once a request.
function _M.look()
    local number = dict:get("gate")
    if number ~= seen then
        seen = number
        least = (number or 0) % VERSION
        version = ((number or 0) - least) / VERSION
    end
end

--- The least valid generation as of the last look; 0 before the first snapshot is whole.
---@return integer
function _M.least()
    return least
end

--- The version of the keys as of the last look; 0 before there are any.
---@return integer
function _M.version()
    return version
end

--- Whether requests can be judged: there are keys, and a whole snapshot. Looks.
---@return boolean
function _M.is_ready()
    _M.look()
    return least > 0 and version > 0
end

--- Raise the least valid generation. Two workers may do it at once: the one that sees it too high
--- takes its move back, and looks again.
---@param generation integer
function _M.raise_least(generation)
    _M.look()
    local move = generation - least
    if move <= 0 then
        return
    end
    local number = assert(dict:incr("gate", move, 0))
    if number % VERSION > generation then
        assert(dict:incr("gate", -move))
        return _M.raise_least(generation)
    end
end

--- Say that the keys have changed: every worker reads them again before its next request.
function _M.raise_version()
    assert(dict:incr("gate", VERSION, 0))
end

--- Count one up and answer it.
---@param name string
---@return integer
function _M.count(name)
    return assert(dict:incr(name, 1, 0))
end

--- Keep a value for all workers.
---@param name string
---@param value any
function _M.set(name, value)
    assert(dict:safe_set(name, value))
end

--- Keep a value unless there is one.
---@param name string
---@param value any
function _M.add(name, value)
    dict:safe_add(name, value)
end

--- A value that was kept, or nil.
---@param name string
function _M.get(name)
    return dict:get(name)
end

return _M
