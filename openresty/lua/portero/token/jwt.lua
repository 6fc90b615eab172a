---------
-- The form of a token (RFC 7515 section 7.1, RFC 7519; docs/http-api.md): segments, canonical
-- base64url, the flat JSON of header and claims, and what the claims must say.
-- Pure: key, clock and roles come in. It must never read the payload before the caller has checked
-- the signature, and must agree with `issuer/tokens` on every token there is.
-- All of it is loops over bytes, which LuaJIT compiles; patterns and `pairs` it does not.

local bit = require("bit")
local ffi = require("ffi")
local new_table = require("table.new")

ffi.cdef("int memcmp(const void *a, const void *b, size_t length);")

local C = ffi.C
local band, bor, lshift, rshift = bit.band, bit.bor, bit.lshift, bit.rshift
local byte, find = string.byte, string.find

local AUDIENCE = "portero-gateway"
local MAX_CHARACTERS = 2048
local MAX_DIGITS = 15
local CODE_LENGTH = 4
local MAX_SUBJECT = CODE_LENGTH + 60
local JTI_LENGTH = 22
--- So many members find room at once: the claims that are kept, and what others note beside them.
local MAX_MEMBERS = 8

local QUOTE, BACKSLASH, OPEN, CLOSE, COLON, COMMA = 0x22, 0x5C, 0x7B, 0x7D, 0x3A, 0x2C
local ZERO, NINE = 0x30, 0x39
local MIN_PRINTABLE, MAX_PRINTABLE = 0x20, 0x7E

--- The members of an object, in the order in which the issuer writes them. A name is compared where
--- it stands, and a value that is always the same too: a text of its own for each would have to be
--- looked for among all the texts there are.
---@param list table[] { name, "string" or "number", value where it is always the same }; one that
---     is `optional` may be missing
---@return table members
local function members_of(list)
    local members = { required = 0 }
    for i, entry in ipairs(list) do
        local name, kind, value = unpack(entry, 1, 3)
        members.required = bor(members.required, entry.optional and 0 or lshift(1, i - 1))
        members[i] = {
            name = name, written = '"' .. name .. '"', bit = lshift(1, i - 1),
            is_number = kind == "number", fixed = value and '"' .. value .. '"',
        }
    end
    return members
end

local HEADER = members_of({ { "alg", "string" }, { "kid", "string" }, { "typ", "string", "JWT" } })

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
--- Not a sextet: its highest bits are set, so that it shows in any combination.
local INVALID = 0x40

local bytes_at, words_at = ffi.typeof("const uint8_t *"), ffi.typeof("int32_t *")
local decoded = ffi.new("uint8_t[?]", MAX_CHARACTERS)
local sextets = ffi.new("uint8_t[256]")
--- What a character adds to a word of three bytes, the first of which is the lowest, by its place
--- among four.
local INVALID_GROUP = 0x1000000
local firsts, seconds = ffi.new("int32_t[256]"), ffi.new("int32_t[256]")
local thirds, fourths = ffi.new("int32_t[256]"), ffi.new("int32_t[256]")
local is_space = ffi.new("bool[256]")
local is_subject_character = ffi.new("bool[256]")
ffi.fill(sextets, 256, INVALID)
for i = 1, #ALPHABET do
    sextets[byte(ALPHABET, i)] = i - 1
    is_subject_character[byte(ALPHABET, i)] = true
end
is_subject_character[byte(".")] = true
for c = 0, 255 do
    local value = sextets[c]
    local fault = value == INVALID and INVALID_GROUP or 0
    firsts[c] = bor(lshift(value, 2), fault)
    seconds[c] = bor(rshift(value, 4), lshift(band(value, 0xF), 12), fault)
    thirds[c] = bor(lshift(rshift(value, 2), 8), lshift(band(value, 0x3), 22), fault)
    fourths[c] = bor(lshift(value, 16), fault)
end
for _, character in ipairs({ " ", "\t", "\n", "\r" }) do
    is_space[byte(character)] = true
end

local _M = {}

_M.members_of = members_of

--- The members of a payload whose `iss` is this.
---@param issuer string
---@return table members
function _M.claims_of_issuer(issuer)
    return members_of({
        { "jti", "string" }, { "iss", "string", issuer }, { "aud", "string", AUDIENCE },
        { "sub", "string" }, { "role", "string" }, { "iat", "number" }, { "exp", "number" },
        { "scope", "string", optional = true },
    })
end

--- Where the two dots of a compact JWS stand, or nil. Its segments are read where they are: a text
--- of their own for each would cost more than a MAC.
---@param text string
---@param from integer where the token begins in it
---@return integer|nil first, integer|nil second
function _M.dots(text, from)
    if #text - from >= MAX_CHARACTERS then
        return nil
    end
    local first = find(text, ".", from, true)
    local second = first and find(text, ".", first + 1, true)
    if not second or find(text, ".", second + 1, true) then
        return nil
    end
    return first, second
end

--- The last two or three characters, whose unused bits must be zero; answers the new length.
local function decode_rest(text, at, out, rest)
    local a, b, c = byte(text, at, at + 2)
    local first, second, third = sextets[a], sextets[b], rest == 3 and sextets[c] or 0
    if bor(first, second, third) >= INVALID then
        return nil
    end
    decoded[out] = bor(lshift(first, 2), rshift(second, 4))
    if rest == 2 then
        return band(second, 0xF) == 0 and out + 1 or nil
    end
    decoded[out + 1] = band(bor(lshift(second, 4), rshift(third, 2)), 0xFF)
    return band(third, 0x3) == 0 and out + 2 or nil
end

--- The bytes of canonical base64url (RFC 4648 section 5) without padding, from one place of a text
--- to another: only what encodes back to itself. They stand until the next call, a NUL behind them.
--- Four characters are three bytes, written as a word of which the next one overwrites the fourth.
---@param text string
---@param from integer
---@param to integer
---@return integer|nil length
---@return ffi.cdata* bytes
function _M.bytes(text, from, to)
    local length = to - from + 1
    local rest = band(length, 3)
    if length <= 0 or length > MAX_CHARACTERS or rest == 1 then
        return nil
    end
    local characters, out = ffi.cast(bytes_at, text) + (from - 1), 0
    for at = 0, length - rest - 1, 4 do
        local group = bor(firsts[characters[at]], seconds[characters[at + 1]],
            thirds[characters[at + 2]], fourths[characters[at + 3]])
        if group >= INVALID_GROUP then
            return nil
        end
        ffi.cast(words_at, decoded + out)[0] = group
        out = out + 3
    end
    if rest > 0 then
        out = decode_rest(text, to - rest + 1, out, rest)
    end
    decoded[out or 0] = 0
    return out, decoded
end

local function skip_spaces(bytes, at)
    while is_space[bytes[at]] do
        at = at + 1
    end
    return at
end

--- A string of plain printable characters, without escapes; answers it and the place behind.
local function read_string(bytes, at)
    if bytes[at] ~= QUOTE then
        return nil
    end
    local stop = at + 1
    local c = bytes[stop]
    while c ~= QUOTE do
        if c < MIN_PRINTABLE or c > MAX_PRINTABLE or c == BACKSLASH then
            return nil
        end
        stop = stop + 1
        c = bytes[stop]
    end
    return ffi.string(bytes + at + 1, stop - at - 1), stop + 1
end

--- A non-negative integer below 10^15 without leading zeros; answers it and the place behind.
local function read_integer(bytes, at)
    local value, stop = 0, at
    local c = bytes[stop]
    while c >= ZERO and c <= NINE do
        value, stop = value * 10 + (c - ZERO), stop + 1
        c = bytes[stop]
    end
    local digits = stop - at
    if digits == 0 or digits > MAX_DIGITS or (digits > 1 and bytes[at] == ZERO) then
        return nil
    end
    return value, stop
end

--- Whether a text stands at a place. It holds no NUL, so it ends before the one behind the object;
--- and the buffer has room behind the longest.
local function stands(text, bytes, at)
    return C.memcmp(bytes + at, text, #text) == 0
end

--- Which member's name stands at a place: the expected one, or any other.
local function member_at(bytes, at, members, expected)
    local member = members[expected]
    if member and stands(member.written, bytes, at) then
        return member
    end
    for i = 1, #members do
        if stands(members[i].written, bytes, at) then
            return members[i]
        end
    end
end

--- A value into `object`, unless it is always the same; answers the place behind it.
local function read_value(bytes, at, member, object)
    local fixed = member.fixed
    if fixed then
        return stands(fixed, bytes, at) and at + #fixed or nil
    end
    local read = member.is_number and read_integer or read_string
    object[member.name], at = read(bytes, at)
    return at
end

--- One `"name": value` into `object`; answers the member and the place behind.
local function read_member(bytes, at, members, expected, object)
    at = skip_spaces(bytes, at)
    local member = member_at(bytes, at, members, expected)
    if not member then
        return nil
    end
    at = skip_spaces(bytes, at + #member.written)
    if bytes[at] ~= COLON then
        return nil
    end
    at = read_value(bytes, skip_spaces(bytes, at + 1), member, object)
    return member, at and skip_spaces(bytes, at)
end

--- A flat JSON object of these members alone, in any order, none twice, and nothing behind it.
---@param bytes ffi.cdata* as `bytes` answers them: no reader passes the NUL behind them
---@param length integer
---@param members table of `members_of`
---@return table|nil object without the values that are always the same
function _M.object(bytes, length, members)
    local object, found, count = new_table(0, MAX_MEMBERS), 0, 0
    local at = skip_spaces(bytes, 0)
    local delimiter = bytes[at]
    if delimiter ~= OPEN then
        return nil
    end
    repeat
        local member
        count = count + 1
        member, at = read_member(bytes, at + 1, members, count, object)
        if not at or band(found, member.bit) ~= 0 then
            return nil
        end
        found = bor(found, member.bit)
        delimiter = bytes[at]
    until delimiter ~= COMMA
    if band(found, members.required) ~= members.required or delimiter ~= CLOSE
        or skip_spaces(bytes, at + 1) ~= length then
        return nil
    end
    return object
end

local function object_of(text, from, to, members)
    local length, bytes = _M.bytes(text, from, to)
    return length and _M.object(bytes, length, members)
end

--- The header's alg and kid, if it is exactly these and typ "JWT".
---@param segment string
---@return table|nil header
function _M.header(segment)
    return object_of(segment, 1, #segment, HEADER)
end

local function is_subject_of(role, subject)
    local length = #subject
    if length <= CODE_LENGTH or length > MAX_SUBJECT
        or C.memcmp(subject, role.code, CODE_LENGTH) ~= 0 then
        return false
    end
    for at = CODE_LENGTH + 1, length do
        if not is_subject_character[byte(subject, at)] then
            return false
        end
    end
    return true
end

--- What is wrong with the times; nil when nothing is.
local function time_fault(claims, role, now)
    local lifetime = claims.exp - claims.iat
    if lifetime <= 0 or lifetime > role.ttl_seconds then
        return "lifetime"
    end
    if claims.iat > now then
        return "not yet issued"
    end
    if claims.exp <= now then
        return "expired"
    end
end

--- The classes that a token is narrowed to (RFC 6749 section 3.3): words of a-z, one blank between
--- two; nil for any other text.
local function classes_of(scope)
    if find(scope, "[^a-z ]") or find(" " .. scope .. " ", "  ", 1, true) then
        return nil
    end
    local classes = {}
    for class in scope:gmatch("%l+") do
        classes[class] = true
    end
    return classes
end

--- Read the one claim that need not be there; whether it is missing or good.
local function read_scope(claims)
    if claims.scope then
        claims.scope = classes_of(claims.scope)
        return claims.scope ~= nil
    end
    return true
end

--- The claims of a payload whose signature holds, from one place of a text to another: all but iss
--- and aud, which are always the same. `scope` is the set of the classes that a token is narrowed
--- to, nil where it is not.
---@param text string
---@param from integer
---@param to integer
---@param members table of `claims_of_issuer`
---@param roles table by name: code, ttl_seconds
---@param now integer Unix seconds
---@return table|nil claims, string|nil reason "expired" for an authentic token past its time
function _M.claims(text, from, to, members, roles, now)
    local claims = object_of(text, from, to, members)
    if not claims or not _M.is_jti(claims.jti) or not read_scope(claims) then
        return nil, "claims"
    end
    local role = roles[claims.role]
    if not role or not is_subject_of(role, claims.sub) then
        return nil, "role"
    end
    local fault = time_fault(claims, role, now)
    if fault then
        return nil, fault
    end
    return claims
end

--- Whether a text has the one shape of a `jti`: 22 characters of base64url.
---@param text any
---@return boolean
function _M.is_jti(text)
    if type(text) ~= "string" or #text ~= JTI_LENGTH then
        return false
    end
    for at = 1, JTI_LENGTH do
        if sextets[byte(text, at)] == INVALID then
            return false
        end
    end
    return true
end

return _M
