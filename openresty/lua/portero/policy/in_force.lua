---------
-- The policy in force: pushed by the issuer, kept in the dictionary `portero_policy`, and built by
-- each worker before its next request when the version has risen. A request takes the policy once
-- and is judged by it to its end. A policy that cannot be built is refused, and the former stays.

local cjson = require("cjson.safe")
local decision = require("portero.policy.decision")
local pushed_text = require("portero.pushed_text")
local shared_versions = require("portero.shared_versions")

local kept = pushed_text.new(ngx.shared.portero_policy)

local policy
--- Which version this worker's policy is.
local version = 0

local _M = {}

--- How the policy that is kept here is named, for the issuer.
---@return string
function _M.mark()
    return kept:mark()
end

--- Take a policy in place of the one before.
---@param history any names the issuer's store
---@param serial any which of that store's policies it is; an older one is refused
---@param listed any the policy, as `decision.load` takes it
---@return boolean|nil ok, string|nil err "form", "older", "no memory", "busy"
function _M.put(history, serial, listed)
    -- Loading adds to it what is no JSON.
    local text = cjson.encode(listed)
    if not pushed_text.is_name(history, serial) or type(listed) ~= "table"
        or not pcall(decision.load, listed) then
        return nil, "form"
    end
    return kept:write(history, serial, text, shared_versions.raise_policy)
end

local function load()
    version = shared_versions.policy()
    policy = version > 0 and decision.load(cjson.decode(kept:read())) or nil
end

--- The policy in force as of the last look; nil before there is one.
---@return table|nil policy as `decision.load` answers it
function _M.current()
    if version ~= shared_versions.policy() then
        load()
    end
    return policy
end

return _M
