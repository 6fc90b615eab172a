---------
-- Tokens this worker has verified, kept by their whole text, so that a known one costs a look-up.
-- Only verified tokens enter, the cache is bounded, and it says nothing of being active: that is
-- asked of the active-token set every time. It must never log a token.

local jwt = require("portero.jwt")
local keys = require("portero.keys")
local recent = require("portero.recent")
local state = require("portero.state")

local MOST_TOKENS = 20000

local roles
local limits
local cache
--- Which version of the keys the cache and the keys of this worker are of.
local version
--- The key of each header under which a signature held: the issuer writes one header a key.
local keys_of_headers = {}

local _M = {}

--- Begin, in each worker.
---@param settings table
function _M.start(settings)
    roles = settings.roles
    limits = settings.limits
    cache = recent.new(MOST_TOKENS)
end

local function key_of(header_text)
    local header = jwt.header(header_text)
    local key = header and keys.find(header.kid)
    if key and key.algorithm == header.alg then
        return key
    end
end

--- Verify in the order of RFC 7519 section 7.2: nothing of the payload before the signature.
local function verify(token, now)
    local header_text, payload_text, signature_text = jwt.split(token)
    if not header_text then
        return nil, "form"
    end
    local key = keys_of_headers[header_text] or key_of(header_text)
    if not key then
        return nil, "key"
    end
    local signature = jwt.decode(signature_text)
    local signed_length = #header_text + 1 + #payload_text
    if not signature or not key.verify(token, signed_length, signature) then
        return nil, "signature"
    end
    keys_of_headers[header_text] = key
    return jwt.claims(payload_text, roles, now)
end

--- The user's own limits where there are any (false says none), else the role's.
local function limits_of(claims)
    local own = limits.users[claims.sub]
    if own ~= nil then
        return own or nil
    end
    return limits.roles[claims.role]
end

--- Other keys: what was verified by the former ones is forgotten, in every worker before its next
--- request.
local function follow_keys()
    if version == state.version() then
        return
    end
    version = state.version()
    keys.load()
    keys_of_headers = {}
    cache:clear()
end

--- The claims of a token that is authentic and in its time.
---@param token string
---@param now integer Unix seconds
---@return table|nil claims, string|nil reason "expired", "no keys", or why it is not authentic
function _M.claims(token, now)
    follow_keys()
    if version == 0 then
        return nil, "no keys"
    end
    local claims = cache:get(token)
    if not claims then
        local reason
        claims, reason = verify(token, now)
        if not claims then
            return nil, reason
        end
        claims.limits = limits_of(claims)
        cache:set(token, claims)
    end
    if claims.iat > now then
        return nil, "not yet issued"
    end
    if claims.exp <= now then
        return nil, "expired"
    end
    return claims
end

return _M
