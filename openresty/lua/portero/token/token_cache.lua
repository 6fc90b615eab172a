---------
-- Tokens and API keys this worker has verified, kept by their whole text, so that a known one costs
-- a look-up. A text is the token, or what it came in: then where the token begins is part of the
-- question.
-- Only verified tokens enter, the cache is bounded, and it says nothing of being active: that is
-- asked of the active-token set, which notes its answer in the claims. It must never log a token.

local ffi = require("ffi")
local api_keys = require("portero.token.api_keys")
local decision = require("portero.policy.decision")
local jwt = require("portero.token.jwt")
local keys = require("portero.token.keys")
local recent = require("portero.token.recent")
local shared_versions = require("portero.shared_versions")

local C = ffi.C
local sub = string.sub
local bytes_at = ffi.typeof("const unsigned char *")

local MAX_TOKENS = 4000
--- A token that holds begins a text, or stands behind the name of its scheme.
local PLACES = 2

--- Where the token begins -> claims by text: the same text from another place is another token.
local caches = {}
--- Which version of the keys and which policy what is remembered here was judged by.
local version, policy
--- What the policy's issuer says in a payload.
local members
--- The header under which a signature held last, and its key: the issuer writes one header a key.
local last_header, last_key = "", nil

local _M = {}

local function start_of(text, from)
    return ffi.cast(bytes_at, text) + (from - 1)
end

local function cache_of(from)
    local cache = caches[from]
    if not cache then
        cache = recent.new(MAX_TOKENS / PLACES)
        caches[from] = cache
    end
    return cache
end

--- The key that a header names. Answers the header's text too where it is not the last one's.
local function key_of(text, from, to)
    local length = to - from + 1
    if length == #last_header and C.memcmp(start_of(text, from), last_header, length) == 0 then
        return last_key
    end
    local header_text = sub(text, from, to)
    local header = jwt.header(header_text)
    local key = header and keys.find(header.kid)
    if key and key.algorithm == header.alg then
        return key, header_text
    end
end

--- Verify in the order of RFC 7519 section 7.2: nothing of the payload before the signature.
local function verify_token(text, from, now)
    local first, second = jwt.dots(text, from)
    if not first then
        return nil, "form"
    end
    local key, header_text = key_of(text, from, first - 1)
    if not key then
        return nil, "key"
    end
    local length, signature = jwt.bytes(text, second + 1, #text)
    if not length or not key.verify(start_of(text, from), second - from, signature, length) then
        return nil, "signature"
    end
    if header_text then
        last_header, last_key = header_text, key
    end
    local claims, reason = jwt.claims(text, first + 1, second - 1, members, policy.roles, now)
    if claims then
        claims.limits = decision.limits(policy, claims.sub, claims.role)
    end
    return claims, reason
end

local function verify(text, from, now)
    if api_keys.is_one(text, from) then
        return api_keys.claims(text, from, policy)
    end
    return verify_token(text, from, now)
end

--- Other keys, or another policy: what was judged by the former ones is forgotten, in every worker
--- before its next request.
local function follow(current)
    if version == shared_versions.keys() and policy == current then
        return
    end
    policy = current
    members = jwt.claims_of_issuer(policy.issuer)
    caches = {}
    if version ~= shared_versions.keys() then
        version = shared_versions.keys()
        keys.load()
        last_header, last_key = "", nil
    end
end

--- The claims of a token, or an API key, that is authentic and in its time.
---@param text string
---@param from integer where the token begins in it
---@param now integer Unix seconds
---@param current table the policy that the request is judged by
---@return table|nil claims with `limits` where the caller has any
---@return string|nil reason "expired" (of tokens alone), "no keys", "untold" (an API key that this
--- gateway may not have been told of), or why it is not authentic
function _M.claims(text, from, now, current)
    follow(current)
    if version == 0 then
        return nil, "no keys"
    end
    local cache = caches[from]
    local claims = cache and cache:get(text)
    if not claims then
        local reason
        claims, reason = verify(text, from, now)
        if not claims then
            return nil, reason
        end
        cache_of(from):set(text, claims)
    end
    if claims.iat > now then
        return nil, "not yet issued"
    end
    if claims.exp <= now then
        return nil, claims.is_api_key and "key expired" or "expired"
    end
    return claims
end

return _M
