---------
-- Frames of WebSocket (RFC 6455 section 5) on their way from one end to the other: byte for byte,
-- but where each begins and ends is known, so that a close can be put between two of them.
-- Pure, over any two sockets. Of a long frame 16 KiB are held at a time; no more is read than the
-- other end takes. It must never begin a frame behind one that is not whole.

local bit = require("bit")

local band, bor, bxor = bit.band, bit.bor, bit.bxor
local byte, char, concat = string.byte, string.char, table.concat
local min = math.min

local PIECE_BYTES = 16 * 1024
local MASKED, LENGTH, FINAL, OPCODE = 0x80, 0x7F, 0x80, 0x0F
local CLOSE, FIRST_CONTROL, MOST_OF_CONTROL = 0x8, 0x8, 125
local TWO_BYTES = 126
local MASK_BYTES = 4

local _M = {}

--- One way through the gateway.
---@param from table a socket
---@param to table
---@param is_masked boolean whether frames must be masked: those of a client
---@return table way `is_between`: no frame is under way; `is_ending`: set by who ends it, from the
---     next frame on nothing goes further
function _M.way(from, to, is_masked)
    return { from = from, to = to, is_masked = is_masked, is_between = true, is_ending = false }
end

local function number_of(bytes)
    local number = 0
    for place = 1, #bytes do
        number = number * 256 + byte(bytes, place)
    end
    return number
end

--- The rest of a frame's head: all of its bytes, and how long its payload is; nil at the end of the
--- connection.
local function read_head(from, first_two)
    local length = band(byte(first_two, 2), LENGTH)
    local told = length < TWO_BYTES and "" or from:receive(length == TWO_BYTES and 2 or 8)
    local mask = band(byte(first_two, 2), MASKED) ~= 0 and told and from:receive(MASK_BYTES)
        or told and ""
    if not told or not mask then
        return nil
    end
    return first_two .. told .. mask, told == "" and length or number_of(told)
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

--- The head and the payload, in pieces; how the way ends with that, or nil.
local function pass_rest(way, head, length, is_dropped)
    local before = head
    repeat
        local piece = length == 0 and "" or way.from:receive(min(length, PIECE_BYTES))
        if not piece then
            return "gone"
        elseif not is_dropped and not way.to:send(before .. piece) then
            return "refused"
        end
        before, length = "", length - #piece
    until length == 0
end

--- One frame; how the way ends with it, or nil where it goes on.
local function pass(way)
    local first_two = way.from:receive(2)
    if not first_two then
        return "gone"
    end
    local is_dropped = way.is_ending
    way.is_between = is_dropped
    if not may_begin(way, first_two) then
        return "protocol"
    end
    local head, length = read_head(way.from, first_two)
    local why = not head and "gone" or pass_rest(way, head, length, is_dropped)
    if why then
        return why
    end
    way.is_between = true
    return band(byte(first_two, 1), OPCODE) == CLOSE and "closed" or nil
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

local function masked(payload, mask)
    local bytes = {}
    for place = 1, #payload do
        bytes[place] = char(bxor(byte(payload, place), byte(mask, (place - 1) % MASK_BYTES + 1)))
    end
    return concat(bytes)
end

--- A close frame (section 5.5.1).
---@param code integer section 7.4
---@param reason string at most 123 bytes
---@param mask string|nil four random bytes where a client says it
---@return string
function _M.close(code, reason, mask)
    local payload = char(math.floor(code / 256), code % 256) .. reason
    local first = char(bor(FINAL, CLOSE))
    if not mask then
        return first .. char(#payload) .. payload
    end
    return first .. char(bor(MASKED, #payload)) .. mask .. masked(payload, mask)
end

return _M
