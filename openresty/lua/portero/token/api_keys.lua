---------
-- API keys (docs/http-api.md): what the issuer pushed of each, and what a key that is shown may do.
-- It owns the dictionaries `portero_api_keys` (ID -> SHA-256 of the whole key, and what it is for)
-- and `portero_key_uses` (ID -> when it was used last). Whether a key is active is asked of the
-- active-token set, in which its ID is one as any `jti`.
-- A key is its owner's: role and limits are those that the policy in force gives the owner, and its
-- own list of models can only take away. It must never keep or log a key, nor find one by less than
-- the whole of it.

local cjson = require("cjson.safe")
local ffi = require("ffi")
local active_tokens = require("portero.token.active_tokens")
local crypto = require("portero.token.crypto")
local decision = require("portero.policy.decision")

local byte, sub = string.byte, string.sub
local bytes_at = ffi.typeof("const unsigned char *")

local PREFIX = "sk-portero-"
local FIRST_BYTE = byte(PREFIX)
local ID_CHARACTERS, SECRET_CHARACTERS = 16, 43
local CHARACTERS = #PREFIX + ID_CHARACTERS + 1 + SECRET_CHARACTERS
local DIGEST_BYTES = 32
local DIGEST_FORM = "^" .. ("%x"):rep(2 * DIGEST_BYTES) .. "$"
local MIN_TTL_SECONDS = 0.001
--- The reconciler asks every minute when keys were used.
local USES_KEPT_SECONDS = 300
local FLUSHED_AT_ONCE = 10000
local TIDY_SECONDS = 60

local records, uses = ngx.shared.portero_api_keys, ngx.shared.portero_key_uses

--- IDs of the keys that this worker has let pass since it last told the others.
local used = {}
local tidied_at = 0

local _M = {}

--- Whether what stands in a text has the beginning of an API key, as no token has.
---@param text string
---@param from integer where it begins
---@return boolean
function _M.is_one(text, from)
    return byte(text, from) == FIRST_BYTE and sub(text, from, from + #PREFIX - 1) == PREFIX
end

--- Whether a text has the one shape of a key's ID.
---@param text any
---@return boolean
function _M.is_id(text)
    return type(text) == "string" and #text == ID_CHARACTERS and not text:find("[^%w_-]")
end

local function are_models(models)
    if models == nil then
        return true
    end
    if type(models) ~= "table" or #models == 0 then
        return false
    end
    for _, pattern in ipairs(models) do
        if type(pattern) ~= "string" then
            return false
        end
    end
    return true
end

--- Whether a table says what must be known of a key (docs/sync.md).
---@param record any { digest = SHA-256 in hex, sub, iat, models = patterns or nil }
---@return boolean
function _M.is_record(record)
    return type(record) == "table" and type(record.sub) == "string"
        and type(record.digest) == "string" and record.digest:find(DIGEST_FORM) ~= nil
        and type(record.iat) == "number" and record.iat % 1 == 0 and are_models(record.models)
end

local function from_hex(text)
    return (text:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end

--- Keep what is known of a key, until its end.
---@param id string
---@param exp integer Unix seconds
---@param record table that `is_record`
---@param now number Unix seconds
---@return boolean|nil ok, string|nil err "no memory"
function _M.put(id, exp, record, now)
    if exp <= now then
        return true
    end
    local value = from_hex(record.digest) .. cjson.encode({
        sub = record.sub, iat = record.iat, exp = exp, models = record.models,
    })
    local ttl = math.max(exp - now, MIN_TTL_SECONDS)
    local ok, err = records:safe_set(id, value, ttl)
    if not ok and err == "no memory" and records:flush_expired(FLUSHED_AT_ONCE) > 0 then
        ok, err = records:safe_set(id, value, ttl)
    end
    return ok, err
end

--- Forget what is known of a key that was revoked.
---@param id string
function _M.forget(id)
    records:delete(id)
end

local function limits_of(known, policy, user, role)
    local limits = decision.limits(policy, user, role and role.name)
    if not known.models then
        return limits
    end
    local server_side = role and role.api_keys and role.api_keys.server_side
    return decision.narrowed(policy, limits, known.models, server_side)
end

--- The limits of a caller whose credential has this ID, by the policy in force: its user's, which
--- an API key may narrow.
---@param policy table
---@param user string
---@param role string
---@param id string of a token or of a key
---@return table|nil limits
function _M.limits(policy, user, role, id)
    local record = #id == ID_CHARACTERS and records:get(id)
    local known = record and cjson.decode(sub(record, DIGEST_BYTES + 1))
    return limits_of(known or {}, policy, user, policy.roles[role])
end

--- A key that is not known here: one that is nothing, or one that nobody could tell of, or whose
--- record a clock that was set has ended before its time.
local function unknown(id)
    local now = ngx.now()
    local active, known = active_tokens.is_active(id)
    local is_untold = active ~= false or (not known and active_tokens.may_be_behind(now, now))
    return nil, is_untold and "untold" or "unknown"
end

--- What the key of a record may do; nil where its owner's role has no keys.
local function claims_of(id, known, policy)
    local role = decision.role_of(policy, known.sub)
    if not role or not role.api_keys then
        return nil, "role"
    end
    return {
        jti = id, sub = known.sub, role = role.name, iat = known.iat,
        exp = math.min(known.exp, known.iat + role.api_keys.longest_seconds),
        is_api_key = true, limits = limits_of(known, policy, known.sub, role),
    }
end

--- The claims of a key, as of a token; whether it is active and in its time is not asked here.
---@param text string
---@param from integer where the key begins in it; it ends with the text
---@param policy table
---@return table|nil claims
---@return string|nil reason "untold" where this gateway may not have been told of it
function _M.claims(text, from, policy)
    if #text - from + 1 ~= CHARACTERS then
        return nil, "form"
    end
    local id = sub(text, from + #PREFIX, from + #PREFIX + ID_CHARACTERS - 1)
    local record = records:get(id)
    if not record then
        return unknown(id)
    end
    if not crypto.has_sha256(ffi.cast(bytes_at, text) + (from - 1), CHARACTERS, record) then
        return nil, "digest"
    end
    return claims_of(id, cjson.decode(sub(record, DIGEST_BYTES + 1)), policy)
end

--- Note that a key was used.
---@param id string
function _M.note_use(id)
    used[id] = true
end

--- Tell the other workers of the uses that this one has noted. Where there is no room for one, it
--- is not known.
---@param now integer Unix seconds
function _M.flush_uses(now)
    for id in pairs(used) do
        uses:safe_set(id, now, USES_KEPT_SECONDS)
        used[id] = nil
    end
end

--- When keys were used last, of those used within the last minutes.
---@return table used ID -> Unix seconds
function _M.uses()
    local found = {}
    for _, id in ipairs(uses:get_keys(0)) do
        found[id] = uses:get(id)
    end
    return found
end

--- Clear away what has expired, a bounded part at a time. It looks at every entry, of which few end
--- in a minute.
---@param now integer Unix seconds
function _M.tidy(now)
    if math.abs(now - tidied_at) < TIDY_SECONDS then
        return
    end
    tidied_at = now
    records:flush_expired(FLUSHED_AT_ONCE)
    uses:flush_expired(FLUSHED_AT_ONCE)
end

--- Memory of the keys, for the metrics.
---@return integer free_bytes, integer capacity_bytes
function _M.memory()
    return records:free_space(), records:capacity()
end

return _M
