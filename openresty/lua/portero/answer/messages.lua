---------
-- Messages of a client over a WebSocket that are judged before any of one goes on (RFC 6455 section
-- 5.4): each is gathered whole, whatever frames it came in, and sent as one frame. Control frames
-- pass meanwhile.
-- Over any two sockets. It must never send a part of what was not judged, nor what it cannot read:
-- binary messages and extensions are refused, as some servers take any message for JSON. Of one way
-- no more is held than `most_bytes`, and of all in a worker no more than it has memory for.

local crypto = require("portero.token.crypto")
local frames = require("portero.answer.frames")

local concat, insert = table.concat, table.insert
local min = math.min

local CONTINUATION, TEXT, FIRST_CONTROL, CLOSE, PING, PONG = 0x0, 0x1, 0x8, 0x8, 0x9, 0xA
local PIECE_BYTES = 16 * 1024
local MASK_BYTES = 4
--- What a worker holds of messages that are not whole: who has many connections must not fill it.
local MOST_HELD = 256 * 1024 * 1024

local held = 0

local _M = {}

--- The way of a client's messages. `to` may come later; until then the client's pings are answered
--- here.
---@param from table a socket
---@param to table|nil
---@param most_bytes integer how long a message may be
---@param judge fun(text: string): string|nil, string|nil what is sent in its place; nil and a code
---@return table way as `frames.way` makes one; and `code`: why a message was refused
function _M.way(from, to, most_bytes, judge)
    local way = frames.way(from, to, true)
    way.most_bytes, way.judge, way.held = most_bytes, judge, 0
    return way
end

local function hold(way, bytes)
    way.held, held = way.held + bytes, held + bytes
    return held <= MOST_HELD
end

--- Nothing is held of a way any more: a message is whole, or the way has ended.
---@param way table
function _M.let_go(way)
    held, way.held = held - way.held, 0
end

--- Send a whole frame, unless the way is ending.
local function send(way, opcode, payload)
    if way.is_ending then
        return true
    end
    local frame = frames.frame(opcode, payload, crypto.random(MASK_BYTES))
    way.is_between = false
    local ok = way.to:send(frame)
    way.is_between = ok ~= nil
    return ok
end

--- Take the payload of a frame, without its mask; nil and why where there is none.
local function payload_of(way, head)
    local pieces, left = {}, head.length
    while left > 0 do
        local piece = way.from:receive(min(left, PIECE_BYTES))
        if not piece then
            return nil, "gone"
        elseif not hold(way, #piece) then
            return nil, "full"
        end
        insert(pieces, frames.masked(piece, head.mask))
        left = left - #piece
    end
    return concat(pieces)
end

--- A control frame goes on at once; how the way ends with it, or nil.
local function pass_control(way, head)
    local payload, why = payload_of(way, head)
    if not payload then
        return why
    elseif way.to and not send(way, head.opcode, payload) then
        return "refused"
    elseif not way.to and head.opcode == PING then
        way.from:send(frames.frame(PONG, payload))
    end
    return head.opcode == CLOSE and "closed" or nil
end

--- Why a frame is no part of a text, or of no text that may be so long; nil where it is.
local function fault_of(way, head, message)
    local expected = message.has_begun and CONTINUATION or TEXT
    if head.has_reserved then
        return "protocol"
    elseif head.opcode ~= expected then
        return (message.has_begun or head.opcode == CONTINUATION) and "protocol" or "binary"
    end
    return message.size + head.length > way.most_bytes and "too_long" or nil
end

local function add(way, head, message)
    local payload, why = payload_of(way, head)
    if not payload then
        return why
    end
    message.has_begun, message.size = true, message.size + #payload
    insert(message, payload)
end

--- The next message.
---@param way table
---@return string|nil text
---@return string|nil why there is none, as `frames.forward` says it; or "binary", "too_long", or
---     "full": the worker holds too much
function _M.next(way)
    local message = { size = 0, has_begun = false }
    while true do
        local head, why = frames.head(way)
        if head and head.opcode >= FIRST_CONTROL then
            why = head.has_reserved and "protocol" or pass_control(way, head)
        elseif head then
            why = fault_of(way, head, message) or add(way, head, message)
        end
        local is_whole = not why and head.opcode < FIRST_CONTROL and head.is_final
        if why or is_whole then
            _M.let_go(way)
            return is_whole and concat(message) or nil, why
        end
    end
end

--- Send a message as a text.
---@param way table
---@param text string
---@return boolean|nil ok
function _M.send(way, text)
    return send(way, TEXT, text)
end

--- Pass on what is judged good, until the end.
---@param way table
---@return string why as `next` says it, or "judged": a message was refused, for `way.code`
function _M.forward(way)
    while true do
        local text, why = _M.next(way)
        if not text then
            return why
        end
        text, way.code = way.judge(text)
        if not text then
            return "judged"
        elseif not _M.send(way, text) then
            return "refused"
        end
    end
end

return _M
