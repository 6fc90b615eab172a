---------
-- What a request must know to be judged by the newest state: the least valid generation of the
-- active-token set, the versions of the keys and of the policy, and how many changes there were
-- that may take away what was granted: of any of them, and revocations.
-- It owns the dictionary `portero_sync`. A request reads the count of changes at its beginning, and
-- again where it has waited; as long as the count stands, what was read and found before stands. So
-- whoever changes something must write first and count after, and must count whenever it is asked
-- to, also when it finds its change made: who made it may have ended before he could count it.

local dict = ngx.shared.portero_sync

local changes, least, keys, policy = 0, 0, 0, 0

local _M = {}

--- Read the count, once a request, and what it is the count of where it has moved.
function _M.look()
    local count = dict:get("changes") or 0
    if count ~= changes then
        changes = count
        least = dict:get("least") or 0
        keys, policy = dict:get("keys") or 0, dict:get("policy") or 0
    end
end

--- The count of changes as of the last look; 0 before there was one.
---@return integer
function _M.changes()
    return changes
end

--- Count a change that was written: every worker sees it at its next look.
function _M.changed()
    assert(dict:incr("changes", 1, 0))
end

--- The least valid generation as of the last look; 0 before the first snapshot is whole.
---@return integer
function _M.least()
    return least
end

--- The version of the keys as of the last look; 0 before there are any.
---@return integer
function _M.keys()
    return keys
end

--- The version of the policy as of the last look; 0 before there is one.
---@return integer
function _M.policy()
    return policy
end

--- Whether requests can be judged: there are keys, a policy, and a whole snapshot. Looks.
---@return boolean
function _M.is_ready()
    _M.look()
    return least > 0 and keys > 0 and policy > 0
end

--- Raise the least valid generation. Two workers may do it at once: the one that sees it too high
--- takes its move back, and looks again.
---@param generation integer
function _M.raise_least(generation)
    local move = generation - (dict:get("least") or 0)
    if move > 0 and assert(dict:incr("least", move, 0)) > generation then
        assert(dict:incr("least", -move))
        return _M.raise_least(generation)
    end
    _M.changed()
end

local function raising(name)
    return function()
        assert(dict:incr(name, 1, 0))
        _M.changed()
    end
end

--- Say that the keys have changed, or the policy: every worker reads them again before its next
--- request.
_M.raise_keys, _M.raise_policy = raising("keys"), raising("policy")

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

--- A value that was kept, or nil.
---@param name string
function _M.get(name)
    return dict:get(name)
end

return _M
