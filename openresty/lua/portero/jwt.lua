---------
-- The form of a token (RFC 7515 section 7.1, RFC 7519; contract section 7): segments, canonical
-- base64url, the flat JSON of header and claims, and what the claims must say.
-- Pure: key, clock and roles come in. It must never read the payload before the caller has checked
-- the signature, and must agree with `issuer/tokens.py` on every token there is.

local ffi = require("ffi")

local byte, find, sub, match = string.byte, string.find, string.sub, string.match

local ISSUER = "portero"
local AUDIENCE = "portero-gateway"
local MOST_CHARACTERS = 2048
local MOST_DIGITS = 15
local CODE_LENGTH = 4
local INVALID = 255

local SPACES = { [0x20] = true, [0x09] = true, [0x0A] = true, [0x0D] = true }
local QUOTE, BACKSLASH, OPEN, CLOSE, COLON, COMMA = 0x22, 0x5C, 0x7B, 0x7D, 0x3A, 0x2C
local ZERO, NINE = 0x30, 0x39

local HEADER = { alg = "string", kid = "string", typ = "string" }
local CLAIMS = {
    iss = "string", aud = "string", sub = "string", role = "string",
    iat = "number", exp = "number", jti = "string",
}

local decoded = ffi.new("uint8_t[?]", MOST_CHARACTERS)
local sextets = ffi.new("uint8_t[256]")
ffi.fill(sextets, 256, INVALID)
local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
for i = 1, #ALPHABET do
    sextets[byte(ALPHABET, i)] = i - 1
end

local _M = {}

--- The three segments of a compact JWS, or nil.
---@param token string
---@return string|nil header, string|nil payload, string|nil signature
function _M.split(token)
    if #token > MOST_CHARACTERS then
        return nil
    end
    local first = find(token, ".", 1, true)
    local second = first and find(token, ".", first + 1, true)
    if not second or find(token, ".", second + 1, true) then
        return nil
    end
    return sub(token, 1, first - 1), sub(token, first + 1, second - 1), sub(token, second + 1)
end

--- Canonical base64url (RFC 4648 section 5) without padding: only what encodes back to itself.
---@param text string
---@return string|nil raw
function _M.decode(text)
    local length, rest = #text, #text % 4
    if length == 0 or length > MOST_CHARACTERS or rest == 1 then
        return nil
    end
    local bits, held, out = 0, 0, 0
    for i = 1, length do
        local sextet = sextets[byte(text, i)]
        if sextet == INVALID then
            return nil
        end
        held = held * 64 + sextet
        bits = bits + 6
        if bits >= 8 then
            bits = bits - 8
            local unit = 2 ^ bits
            local whole = (held - held % unit) / unit
            decoded[out] = whole
            held, out = held - whole * unit, out + 1
        end
    end
    if held ~= 0 then
        return nil
    end
    return ffi.string(decoded, out)
end

local function skip_spaces(text, at)
    while SPACES[byte(text, at)] do
        at = at + 1
    end
    return at
end

--- A string of plain printable characters, without escapes; answers it and the place behind.
local function read_string(text, at)
    if byte(text, at) ~= QUOTE then
        return nil
    end
    local stop = at + 1
    while true do
        local c = byte(text, stop)
        if c == QUOTE then
            return sub(text, at + 1, stop - 1), stop + 1
        end
        if not c or c < 0x20 or c > 0x7E or c == BACKSLASH then
            return nil
        end
        stop = stop + 1
    end
end

--- A non-negative integer below 10^15 without leading zeros; answers it and the place behind.
local function read_integer(text, at)
    local value, stop = 0, at
    while true do
        local c = byte(text, stop)
        if not c or c < ZERO or c > NINE then
            break
        end
        value, stop = value * 10 + (c - ZERO), stop + 1
    end
    local digits = stop - at
    if digits == 0 or digits > MOST_DIGITS or (digits > 1 and byte(text, at) == ZERO) then
        return nil
    end
    return value, stop
end

--- One `"name": value` into `object`; answers the place of the comma or brace behind it.
local function read_member(text, at, object)
    local name, value
    name, at = read_string(text, skip_spaces(text, at))
    if not name or object[name] ~= nil then
        return nil
    end
    at = skip_spaces(text, at)
    if byte(text, at) ~= COLON then
        return nil
    end
    at = skip_spaces(text, at + 1)
    local read = byte(text, at) == QUOTE and read_string or read_integer
    value, at = read(text, at)
    if value == nil then
        return nil
    end
    object[name] = value
    return skip_spaces(text, at)
end

--- A flat JSON object of plain strings and integers, no name twice, and nothing behind it.
---@param text string
---@return table|nil object
function _M.flat_object(text)
    local object = {}
    local at = skip_spaces(text, 1)
    local delimiter = byte(text, at)
    if delimiter ~= OPEN then
        return nil
    end
    repeat
        at = read_member(text, at + 1, object)
        delimiter = at and byte(text, at)
    until delimiter ~= COMMA
    if delimiter ~= CLOSE or skip_spaces(text, at + 1) <= #text then
        return nil
    end
    return object
end

local function has_exactly(object, shape)
    for name, kind in pairs(shape) do
        if type(object[name]) ~= kind then
            return false
        end
    end
    for name in pairs(object) do
        if not shape[name] then
            return false
        end
    end
    return true
end

--- The header's parameters, if it is exactly alg, kid and typ "JWT".
---@param segment string
---@return table|nil header
function _M.header(segment)
    local raw = _M.decode(segment)
    local header = raw and _M.flat_object(raw)
    if not header or not has_exactly(header, HEADER) or header.typ ~= "JWT" then
        return nil
    end
    return header
end

local function is_subject_of(role, subject)
    return #subject <= CODE_LENGTH + 60
        and sub(subject, 1, CODE_LENGTH) == role.code
        and match(subject, "^[%w._-]+$", CODE_LENGTH + 1) ~= nil
end

--- The claims of a payload whose signature holds.
---@param segment string
---@param roles table by name: code, ttl_seconds
---@param now integer Unix seconds
---@return table|nil claims, string|nil reason "expired" for an authentic token past its time
function _M.claims(segment, roles, now)
    local raw = _M.decode(segment)
    local claims = raw and _M.flat_object(raw)
    if not claims or not has_exactly(claims, CLAIMS) then
        return nil, "claims"
    end
    if claims.iss ~= ISSUER or claims.aud ~= AUDIENCE or not _M.is_jti(claims.jti) then
        return nil, "claims"
    end
    local role = roles[claims.role]
    if not role or not is_subject_of(role, claims.sub) then
        return nil, "role"
    end
    local lifetime = claims.exp - claims.iat
    if lifetime <= 0 or lifetime > role.ttl_seconds then
        return nil, "lifetime"
    end
    if claims.iat > now then
        return nil, "not yet issued"
    end
    if claims.exp <= now then
        return nil, "expired"
    end
    return claims
end

--- Whether a text has the one shape of a `jti`: 22 characters of base64url.
---@param text any
---@return boolean
function _M.is_jti(text)
    return type(text) == "string" and #text == 22 and match(text, "^[%w_-]+$") ~= nil
end

return _M
