---------
-- Frames of WebSocket (RFC 6455 section 5) on their way from one end to the other: byte for byte,
-- but where each begins and ends is known, so that a close can be put between two of them.
-- Pure, over any two sockets. Of a long frame 16 KiB are held at a time; no more is read than the
-- other end takes. It must never begin a frame behind one that is not whole. What a client says
-- that is judged goes by messages.lua, which gathers it first.

local bit = require("bit")
local ffi = require("ffi")

local band, bor, bxor = bit.band, bit.bor, bit.bxor
local byte, char = string.byte, string.char
local floor, min = math.floor, math.min

local PIECE_BYTES = 16 * 1024
local MASKED, LENGTH, FINAL, RESERVED, OPCODE = 0x80, 0x7F, 0x80, 0x70, 0x0F
local CLOSE, FIRST_CONTROL, MOST_OF_CONTROL = 0x8, 0x8, 125
local TWO_BYTES, EIGHT_BYTES, MOST_OF_TWO = 126, 127, 65535
local MASK_BYTES = 4

local words_of = ffi.typeof("int32_t[?]")
local word_at = ffi.typeof("const int32_t *")

local _M = {}

--- One way through the gateway.
---@param from table a socket
---@param to table
---@param is_masked boolean whether frames must be masked: those of a client
---@param tap fun(head: table, piece: string, is_end: boolean)|nil is told each piece of a payload
---     before it goes on, and whether its frame ends with it
---@return table way `is_between`: no frame is under way; `is_ending`: set by who ends it, from the
---     next frame on nothing goes further
function _M.way(from, to, is_masked, tap)
    return {
        from = from, to = to, is_masked = is_masked, tap = tap, is_between = true,
        is_ending = false,
    }
end

local function number_of(bytes)
    local number = 0
    for place = 1, #bytes do
        number = number * 256 + byte(bytes, place)
    end
    return number
end

--- Whether two bytes may begin a frame of this way (sections 5.1 and 5.5).
local function may_begin(way, first_two)
    local opcode, second = band(byte(first_two, 1), OPCODE), byte(first_two, 2)
    if (band(second, MASKED) ~= 0) ~= way.is_masked then
        return false
    end
    return opcode < FIRST_CONTROL or band(byte(first_two, 1), FINAL) ~= 0
        and band(second, LENGTH) <= MOST_OF_CONTROL
end

--- The next frame's head.
---@param way table
---@return table|nil head { bytes: all of it, opcode, is_final, has_reserved: bits of an extension,
---     length: of the payload, mask: empty where there is none }
---@return string|nil why there is none: "gone" or "protocol"
function _M.head(way)
    local from = way.from
    local first_two = from:receive(2)
    if not first_two then
        return nil, "gone"
    elseif not may_begin(way, first_two) then
        return nil, "protocol"
    end
    local first, length = byte(first_two, 1), band(byte(first_two, 2), LENGTH)
    local told = length < TWO_BYTES and "" or from:receive(length == TWO_BYTES and 2 or 8)
    local mask = told and (way.is_masked and from:receive(MASK_BYTES) or not way.is_masked and "")
    if not mask then
        return nil, "gone"
    end
    return {
        bytes = first_two .. told .. mask, mask = mask,
        opcode = band(first, OPCODE), is_final = band(first, FINAL) ~= 0,
        has_reserved = band(first, RESERVED) ~= 0,
        length = told == "" and length or number_of(told),
    }
end

--- The head and the payload, in pieces; how the way ends with that, or nil.
local function pass_rest(way, head, is_dropped)
    local before, left = head.bytes, head.length
    repeat
        local piece = left == 0 and "" or way.from:receive(min(left, PIECE_BYTES))
        if not piece then
            return "gone"
        end
        left = left - #piece
        if way.tap then
            way.tap(head, piece, left == 0)
        end
        if not is_dropped and not way.to:send(before .. piece) then
            return "refused"
        end
        before = ""
    until left == 0
end

--- One frame; how the way ends with it, or nil where it goes on.
local function pass(way)
    local head, fault = _M.head(way)
    if not head then
        return fault
    end
    local is_dropped = way.is_ending
    way.is_between = is_dropped
    local why = pass_rest(way, head, is_dropped)
    if why then
        return why
    end
    way.is_between = true
    return head.opcode == CLOSE and "closed" or nil
end

--- Pass frames on until the end.
---@param way table
---@return string why "closed": a close frame was passed on, the last one; "gone": no more comes;
---     "refused": no more is taken; "protocol": what came is no frame
function _M.forward(way)
    local why
    repeat
        why = pass(way)
    until why
    return why
end

--- A payload with its mask laid on, or taken off (section 5.3).
---@param payload string
---@param mask string four bytes
---@return string
function _M.masked(payload, mask)
    local length = #payload
    local count = floor((length + MASK_BYTES - 1) / MASK_BYTES)
    local words, key = words_of(count), ffi.cast(word_at, mask)[0]
    ffi.copy(words, payload, length)
    for place = 0, count - 1 do
        words[place] = bxor(words[place], key)
    end
    return ffi.string(words, length)
end

local function bytes_of(number, count)
    local bytes = {}
    for place = count, 1, -1 do
        bytes[place], number = char(number % 256), floor(number / 256)
    end
    return table.concat(bytes)
end

local function length_of(length, is_masked)
    local bit_of_mask = is_masked and MASKED or 0
    if length < TWO_BYTES then
        return char(bor(bit_of_mask, length))
    elseif length <= MOST_OF_TWO then
        return char(bor(bit_of_mask, TWO_BYTES)) .. bytes_of(length, 2)
    end
    return char(bor(bit_of_mask, EIGHT_BYTES)) .. bytes_of(length, 8)
end

--- A whole frame (section 5.2).
---@param opcode integer
---@param payload string
---@param mask string|nil four random bytes where a client says it
---@return string
function _M.frame(opcode, payload, mask)
    local head = char(bor(FINAL, opcode)) .. length_of(#payload, mask ~= nil)
    if not mask then
        return head .. payload
    end
    return head .. mask .. _M.masked(payload, mask)
end

--- A close frame (section 5.5.1).
---@param code integer section 7.4
---@param reason string at most 123 bytes
---@param mask string|nil four random bytes where a client says it
---@return string
function _M.close(code, reason, mask)
    return _M.frame(CLOSE, bytes_of(code, 2) .. reason, mask)
end

return _M
