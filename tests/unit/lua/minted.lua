---------
-- Tokens as the issuer mints them (docs/http-api.md), and what an attacker makes of them.
-- Header and payload are texts here, so that a spec can write what no encoder would.

local cjson = require("cjson.safe")
local crypto = require("portero.token.crypto")
local fake_ngx = require("fake_ngx")
local ffi = require("ffi")
local jwt = require("portero.token.jwt")
local sealing = require("sealing")

local minted = {}

minted.NOW = 1700000000
minted.SECRET = "a secret of the specs, 32 bytes."
minted.JTI = "AAAAAAAAAAAAAAAAAAAAAA"
minted.SYNC_KEY = "SYNC-KEY-OF-A-SPEC-0123456789abcd"
minted.HISTORY = "a history of the keys"

local ORDER = { "jti", "iss", "aud", "sub", "role", "iat", "exp" }

--- Base64url without padding (RFC 4648 section 5).
---@param raw string
---@return string
function minted.encode(raw)
    return (fake_ngx.encode_base64(raw):gsub("[+/=]", { ["+"] = "-", ["/"] = "_", ["="] = "" }))
end

--- What canonical base64url stands for, as the gateway reads it; nil for what is none.
---@param text string
---@param from integer|nil
---@param to integer|nil
---@return string|nil raw
function minted.decode(text, from, to)
    local length, bytes = jwt.bytes(text, from or 1, to or #text)
    return length and ffi.string(bytes, length)
end

--- The raw JSON values of good claims, by name.
function minted.claims()
    return {
        iss = '"portero"',
        aud = '"portero-gateway"',
        sub = '"USRSABC123"',
        role = '"user"',
        iat = tostring(minted.NOW),
        exp = tostring(minted.NOW + 900),
        jti = '"' .. minted.JTI .. '"',
    }
end

--- The JSON text of a payload.
---@param changes table|nil claim -> raw JSON value, or false for none at all
---@param extra string|nil members to append as they stand
---@return string
function minted.payload(changes, extra)
    local members = {}
    local claims = minted.claims()
    for _, name in ipairs(ORDER) do
        local value = changes and changes[name]
        if value == nil then
            value = claims[name]
        end
        if value then
            members[#members + 1] = '"' .. name .. '":' .. value
        end
    end
    members[#members + 1] = extra
    return "{" .. table.concat(members, ",") .. "}"
end

--- The kid of a secret, as `issuer/keys` has it.
---@param secret string
---@return string
function minted.kid(secret)
    return minted.encode(crypto.hmac("HS256", secret, "portero key id"):sub(1, 12))
end

--- One entry of a list of keys.
---@param algorithm string|nil
---@param key string|nil
---@param kid string|nil
function minted.entry(algorithm, key, kid)
    key = key or minted.SECRET
    return {
        kid = kid or minted.kid(key),
        alg = algorithm or "HS256",
        key = fake_ngx.encode_base64(key),
    }
end

--- A list of keys as the issuer seals it.
---@param ... table entries
---@return string
function minted.sealed(...)
    return minted.seal(cjson.encode({ keys = { ... } }))
end

--- Any text sealed as a list of keys is.
---@param text string
---@param sync_key string|nil
---@return string
function minted.seal(text, sync_key)
    local key = crypto.hmac("HS256", sync_key or minted.SYNC_KEY, "portero-keys-1")
    return fake_ngx.encode_base64(sealing.seal(key, "portero-keys-1", text))
end

local serial = 0

--- Put one key in force in place of all others, as the issuer would.
---@param fake table the nginx
---@param algorithm string|nil
---@param key string|nil
---@param kid string|nil
function minted.put_key(fake, algorithm, key, kid)
    serial = serial + 1
    local keys = fake.load("portero.token.keys")
    keys.start({ sync_key = minted.SYNC_KEY })
    local sealed = minted.sealed(minted.entry(algorithm, key, kid))
    assert(keys.put(minted.HISTORY, serial, sealed))
end

--- The JSON text of a header.
---@param algorithm string|nil
---@param kid string|nil
---@return string
function minted.header(algorithm, kid)
    return ('{"alg":"%s","kid":"%s","typ":"JWT"}')
        :format(algorithm or "HS256", kid or minted.kid(minted.SECRET))
end

--- A compact JWS of two texts, signed with a secret.
---@param payload string|nil
---@param header string|nil
---@param algorithm string|nil the one that signs, whatever the header says
---@param secret string|nil
---@return string
function minted.token(payload, header, algorithm, secret)
    local signed = minted.encode(header or minted.header(algorithm))
        .. "." .. minted.encode(payload or minted.payload())
    local mac = crypto.hmac(algorithm or "HS256", secret or minted.SECRET, signed)
    return signed .. "." .. minted.encode(mac)
end

return minted
