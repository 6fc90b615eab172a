---------
-- Leaps over the text of a JSON string, sixteen bytes at a time, for the scan of `json_body`, which
-- alone would go byte by byte. It leaps over nothing that the scan would refuse (decision 19).
-- Pure. It must never leap over what it does not know to be good, nor look behind the last byte:
-- where it is not sure it answers an earlier place, and the scan judges from there.
-- A byte of a word is told by its high bit alone. Sums and differences carry into the bytes above,
-- so of the bits that are set only the lowest is to be believed; the lowest is the first byte, as
-- on every machine that LuaJIT compiles for.
-- There are three loops, as LuaJIT compiles them one by one: for plain ASCII, for ASCII with the
-- escapes of source code, and for other letters. No branch in them depends on the text. They judge
-- a place by the bytes before it, and keep nothing in mind. What ends a round is looked at again
-- from the bytes: LuaJIT would make an object of each word that outlives it.

local bit = require("bit")
local ffi = require("ffi")

local band, bor, bxor, bnot = bit.band, bit.bor, bit.bxor, bit.bnot
local lshift, rshift = bit.lshift, bit.rshift
local byte, cast = string.byte, ffi.cast

local words_at = ffi.typeof("const uint64_t *")
local STEP = 16
--- Nothing is looked at so many bytes behind a place: two words, or an escape behind another.
local ROOM = STEP + 8

local _M = {}

local function in_each_byte(value)
    return 0x0101010101010101ULL * value
end

local HIGH, ONE = in_each_byte(0x80), in_each_byte(1)
local LOW_4, LOW_7 = in_each_byte(0x0F), in_each_byte(0x7F)
local SPACE, QUOTE, BACKSLASH = in_each_byte(0x20), in_each_byte(0x22), in_each_byte(0x5C)
local LETTER_N, LETTER_T = in_each_byte(byte("n")), in_each_byte(byte("t"))

--- By byte: whether it is one of these.
local function set_of(bytes)
    local set = ffi.new("uint8_t[256]")
    for place = 1, #bytes do
        set[byte(bytes, place)] = 1
    end
    return set
end

local BACKSLASH_BYTE, LETTER_U = byte("\\u", 1, 2)
local ESCAPED, HEX = set_of('"\\/bfnrt'), set_of("0123456789abcdefABCDEF")
--- Whoever meets something odd loses as much time as so many bytes take one by one: who has met it
--- more often than once in so many, but for the first times, is better off going byte by byte.
local ODD_BYTES, ODD_FREE = 8, 16

--- In which byte the lowest of the high bits is.
local function lowest(bits)
    return tonumber(rshift(band(bits - 1, bnot(bits), ONE) * ONE, 56)) - 1
end

---------
-- ASCII and escapes.

local function is_unicode(bytes, at)
    return bytes[at + 1] == LETTER_U and HEX[bytes[at + 2]] + HEX[bytes[at + 3]]
        + HEX[bytes[at + 4]] + HEX[bytes[at + 5]] == 4
end

--- Over many escapes, one behind the other: first those of the form \uXXXX.
local function over_many_escapes(bytes, at, last)
    while at <= last and bytes[at] == BACKSLASH_BYTE and is_unicode(bytes, at) do
        at = at + 6
    end
    while at <= last and bytes[at] == BACKSLASH_BYTE and ESCAPED[bytes[at + 1]] == 1 do
        at = at + 2
    end
    return at
end

--- Over the escapes that stand here. Most are one or two, for which no loop is begun.
local function over_escapes(bytes, at, last)
    if ESCAPED[bytes[at + 1]] == 1 then
        at = at + 2
        if bytes[at] ~= BACKSLASH_BYTE then
            return at
        elseif ESCAPED[bytes[at + 1]] == 1 then
            at = at + 2
        end
    end
    return over_many_escapes(bytes, at, last)
end

--- High bits: all but printable ASCII, quotes and backslashes.
local function plain_signs(word)
    return bor(word, word - SPACE, bxor(word, QUOTE) - ONE, bxor(word, BACKSLASH) - ONE)
end

--- High bits: no ASCII, control characters, quotes that are not escaped, escaped bytes but for a
--- quote, a backslash, n and t, and the third of three backslashes. The other words are one and two
--- bytes earlier; what they say of bytes before the first must be that of a place between two
--- characters, or in an escape.
local function ascii_signs(word, before, earlier)
    local no_backslash = bxor(word, BACKSLASH) + LOW_7
    local none_before = bxor(before, BACKSLASH) + LOW_7
    local none_earlier = bxor(earlier, BACKSLASH) + LOW_7
    local no_quote = bxor(word, QUOTE) + LOW_7
    local escaped = band(bnot(none_before), none_earlier)
    local odd = band(escaped, no_quote, no_backslash, bxor(word, LETTER_N) + LOW_7,
        bxor(word, LETTER_T) + LOW_7)
    return bor(word, word - SPACE, odd, bnot(bor(no_quote, escaped)),
        bnot(bor(no_backslash, none_before, none_earlier)))
end

local function ascii_signs_at(bytes, at)
    return ascii_signs(cast(words_at, bytes + at)[0], cast(words_at, bytes + at - 1)[0],
        cast(words_at, bytes + at - 2)[0])
end

local function are_ascii(bytes, at)
    return band(bor(ascii_signs_at(bytes, at), ascii_signs_at(bytes, at + 8)), HIGH) == 0
end

--- The place of the first sign in two words.
local function first_ascii_sign(bytes, at)
    local signs = band(ascii_signs_at(bytes, at), HIGH)
    if signs ~= 0 then
        return at + lowest(signs)
    end
    return at + 8 + lowest(band(ascii_signs_at(bytes, at + 8), HIGH))
end

--- Whether the byte before a place begins an escape. As many backslashes as stand before a place
--- between two characters are pairs.
local function is_escaped(bytes, at)
    return bytes[at - 1] == BACKSLASH_BYTE and bytes[at - 2] ~= BACKSLASH_BYTE
end

--- From a place between two characters, the one before of ASCII.
local function over_ascii(bytes, at, last)
    local least = at - ODD_FREE
    while at <= last do
        if are_ascii(bytes, at) then
            at = at + STEP
        else
            local sign = first_ascii_sign(bytes, at)
            if bytes[sign] ~= BACKSLASH_BYTE then
                if not is_escaped(bytes, sign) then
                    return sign
                end
                sign = sign - 1
            end
            at = sign <= last and over_escapes(bytes, sign, last) or sign
            least = least + ODD_BYTES
            if at == sign or at < least then
                return at
            end
        end
    end
    return is_escaped(bytes, at) and at - 1 or at
end

--- Over what is no more than ASCII: pictures in base64, above all. To no place before a sign.
local function over_plain(bytes, at, last)
    while at <= last do
        local words = cast(words_at, bytes + at)
        if band(bor(plain_signs(words[0]), plain_signs(words[1])), HIGH) ~= 0 then
            return at
        end
        at = at + STEP
    end
    return at
end

---------
-- UTF-8 (RFC 3629 section 4), of up to three bytes a character; those of four are met one by one.

local BIT_4 = in_each_byte(0x10)
local TWO, BELOW_QUOTE = in_each_byte(0x02), in_each_byte(0x21)
local FROM_C2, FROM_F0 = in_each_byte(0x80 - 0x42), in_each_byte(0x80 - 0x70)
--- The low four bits of 0xED, and that the byte behind it is 0xA0 or more.
local SURROGATE = in_each_byte(0x1D)

--- High bits where these rules end: control characters and quotes, which are what is below 0x21
--- when a bit is turned, backslashes, and bytes that look like the beginning of a character but
--- begin none of two or three bytes.
local function letter_signs(word, leads)
    local ascii = bor(bxor(word, TWO) - BELOW_QUOTE, bxor(word, BACKSLASH) - ONE)
    local low = band(word, LOW_7)
    return bor(band(ascii, bnot(word)), band(leads, bnot(bxor(low + FROM_C2, low + FROM_F0))))
end

--- High bits where the bytes are no UTF-8: where one goes on that none has begun, or the other way,
--- and behind 0xE0 and 0xED where the character would be too short or half a pair. `before` and
--- `earlier` are the words one and two bytes earlier: no character's beginning is kept in mind.
local function letter_faults(word, leads, before, earlier)
    local lead_before = band(before, lshift(before, 1))
    local goes_on = bor(lead_before, band(earlier, lshift(earlier, 1), lshift(earlier, 2)))
    local second = bor(band(before, LOW_4), band(rshift(word, 1), BIT_4))
    local is_good = band(second + LOW_7, bxor(second, SURROGATE) + LOW_7)
    return bor(bxor(word, leads, goes_on),
        band(lead_before, lshift(before, 2), bnot(is_good)))
end

local function letters_at(bytes, at)
    local word = cast(words_at, bytes + at)[0]
    local leads = band(word, lshift(word, 1))
    return letter_signs(word, leads), letter_faults(word, leads,
        cast(words_at, bytes + at - 1)[0], cast(words_at, bytes + at - 2)[0])
end

local function are_letters(bytes, at)
    local signs, faults = letters_at(bytes, at)
    local signs_2, faults_2 = letters_at(bytes, at + 8)
    return band(bor(signs, faults, signs_2, faults_2), HIGH) == 0
end

--- The place of the first sign in a word; nil for a fault before it, and -1 for neither.
local function letter_sign(bytes, at)
    local signs, faults = letters_at(bytes, at)
    signs = band(signs, HIGH)
    if band(faults, HIGH, bxor(signs, signs - 1)) ~= 0 then
        return nil
    end
    return signs == 0 and -1 or at + lowest(signs)
end

--- The same in two words, of which one has a sign or a fault.
local function first_letter_sign(bytes, at)
    local sign = letter_sign(bytes, at)
    return sign ~= -1 and sign or sign and letter_sign(bytes, at + 8)
end

--- The beginning of the character that ends before a place, where it is not one of ASCII; no
--- character begins before `first`, which is between two.
local function lead_before(bytes, at, first)
    if at == first or bytes[at - 1] < 0x80 then
        return at
    elseif bytes[at - 1] > 0xBF then
        return at - 1
    elseif bytes[at - 2] > 0xBF then
        return at - 2
    end
    return bytes[at - 3] > 0xBF and at - 3 or at - 4
end

local function has_four_bytes(bytes, at)
    local lead, second = bytes[at], bytes[at + 1]
    return lead > 0xEF and lead < 0xF5 and band(second, 0xC0) == 0x80
        and (lead > 0xF0 or second > 0x8F) and (lead < 0xF4 or second < 0x90)
        and band(bytes[at + 2], 0xC0) == 0x80 and band(bytes[at + 3], 0xC0) == 0x80
end

local function over_four_bytes(bytes, at, last)
    while at <= last and has_four_bytes(bytes, at) do
        at = at + 4
    end
    return at
end

local function over_odd(bytes, at, last)
    if bytes[at] == BACKSLASH_BYTE then
        return at <= last and over_escapes(bytes, at, last) or at
    end
    return over_four_bytes(bytes, at, last)
end

--- Where no other letter was for so long, the loop for ASCII is quicker.
local LONG = 32

local function has_no_letter(bytes, at)
    local words = cast(words_at, bytes + at)
    return band(bor(words[0], words[1], words[2], words[3]), HIGH) == 0
end

--- From a place between two characters.
local function over_letters(bytes, at, last)
    local first, least = at, at - ODD_FREE
    while at <= last do
        if are_letters(bytes, at) then
            at = at + STEP
        else
            local sign = first_letter_sign(bytes, at)
            if not sign then
                return lead_before(bytes, at, first)
            end
            at = over_odd(bytes, sign, last)
            least = least + ODD_BYTES
            if at == sign or at < least
                or sign - first > LONG and has_no_letter(bytes, sign - LONG) then
                return at
            end
        end
    end
    return lead_before(bytes, at, first)
end

---------
-- The leap.

--- Leaps over text of a string, from a place between two of its characters to another.
---@param bytes ffi.cdata* const unsigned char *
---@param at integer 2 or more
---@param stop integer behind the last byte that may be looked at
---@return integer at never before the one that was given
function _M.leap(bytes, at, stop)
    local last = stop - ROOM
    if at > last then
        return at
    end
    if bytes[at - 1] < 0x80 then
        at = over_ascii(bytes, over_plain(bytes, at, last), last)
        if bytes[at] < 0x80 then
            return at
        end
    end
    return over_letters(bytes, at, last)
end

-- LuaJIT compiles a loop as it goes round when it first becomes hot: these should go on, and not
-- end. Of the same type as a body's bytes, or they would be other loops.
local function practise(text)
    text = ".." .. text:rep(1024) .. ("."):rep(ROOM)
    _M.leap(cast("const unsigned char *", text), 2, #text)
end

local EMOJI = "\240\159\152\128"
for _, text in ipairs({ "plain", "\\n", "pr\195\161ctica", "\\u00e9", "\\r", EMOJI }) do
    practise(text)
end

return _M
