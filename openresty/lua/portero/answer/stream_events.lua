---------
-- Where the events of a stream begin and end: SSE's, whose lines end with \n, \r\n or \r, mixed as
-- they may be, and the lines of NDJSON. Pure: bytes come in as chunks, and are the same events
-- however they are cut. Of an event that is not whole 64 KiB are kept. It must never change a byte
-- of what it lets pass.

local byte, find, match, sub = string.byte, string.find, string.match, string.sub

local MAX_EVENT = 65536
--- What a chunk ends with that ends with an event, nothing being left over for the next.
local WHOLE = { ["\n\n"] = true, ["\r\r"] = true, ["\r\n\r\n"] = true }
local OPEN, SPACE, BRACKET, LETTER_D = byte("{ [d", 1, 4)

local _M = {}

--- The last place of the empty line that begins with the two characters at `at`, each of which ends
--- a line; nil when there is none. Behind "\r\r" nothing is waited for, so that its event goes at
--- once; behind "\n\r" a "\n" is.
local function end_of_empty_line(text, at, least)
    local pair, third = sub(text, at, at + 1), sub(text, at + 2, at + 2)
    if pair == "\r\n" then
        return nil
    end
    if pair ~= "\n\n" and third == "\n" and (pair == "\n\r" or at + 1 < least) then
        return at + 2
    end
    return (pair ~= "\n\r" or third ~= "") and at + 1 or nil
end

local function end_of_sse(text, at, least)
    if not find(text, "\r", at, true) then
        local _, stop = find(text, "\n\n", math.max(at, least - 1), true)
        return stop
    end
    at = find(text, "[\r\n][\r\n]", at)
    while at do
        local stop = end_of_empty_line(text, at, least)
        if stop and stop >= least then
            return stop
        end
        at = find(text, "[\r\n][\r\n]", at + 1)
    end
end

local function end_of_line(text, at, least)
    return (find(text, "\n", math.max(at, least), true))
end

--- How a stream ends an event: with what, and `end_of(text, at, least)`, the first place from
--- `least` on where one ends, looked for from `at` on; nil where none does, or it is still to come.
_M.FORMATS = {
    sse = { name = "sse", ending = "\n\n", end_of = end_of_sse },
    lines = { name = "lines", ending = "\n", end_of = end_of_line },
}

--- The data of an event of SSE.
---@param event string
---@return string
function _M.data(event)
    local lines = {}
    for line in event:gmatch("[^\r\n]+") do
        lines[#lines + 1] = line:match("^data: ?(.*)$")
    end
    return table.concat(lines, "\n")
end

---------
-- What of a stream of SSE passes.

--- A reader of one stream.
---@return table reader
function _M.new()
    return {
        parts = {}, -- the begin of an event that is not whole
        size = 0, -- of the parts
        tail = "", -- the last characters of the event that is not whole
        is_passing = false, -- whether that event passes as it comes, being too long
    }
end

local function forget(reader)
    reader.parts, reader.size, reader.tail, reader.is_passing = {}, 0, "", false
end

--- Hold the begin of an event, or let it go where it is too long to be held.
local function hold(reader, piece, out)
    reader.tail = sub(reader.tail .. piece, -2)
    local parts = reader.is_passing and out or reader.parts
    parts[#parts + 1] = piece
    reader.size = reader.size + #piece
    if reader.size > MAX_EVENT and not reader.is_passing then
        out[#out + 1] = table.concat(reader.parts)
        reader.parts, reader.is_passing = {}, true
    end
end

--- Let an event go that has become whole.
local function let_go(reader, piece, out, is_dropped)
    reader.parts[#reader.parts + 1] = piece
    local event = table.concat(reader.parts)
    if reader.is_passing or not is_dropped(event) then
        out[#out + 1] = event
    end
    forget(reader)
end

--- No more will come: what is held goes, an event or not.
local function finish(reader, out, is_dropped)
    if reader.tail == "\n\r" then
        return let_go(reader, "", out, is_dropped)
    end
    out[#out + 1] = table.concat(reader.parts)
    forget(reader)
end

--- Whether a chunk is whole events, none being held.
---@param reader table
---@param chunk string
---@return boolean
function _M.is_whole(reader, chunk)
    return reader.size == 0 and WHOLE[match(sub(chunk, -5), "[\r\n]*$")] ~= nil
end

--- What passes of a chunk: all of its whole events but the dropped ones. One that is too long to be
--- held passes whatever it is.
---@param reader table
---@param chunk string
---@param is_last boolean whether no more will come
---@param is_dropped function event -> boolean
---@return string
function _M.without(reader, chunk, is_last, is_dropped)
    local out = {}
    local text = reader.tail .. chunk
    local from = #reader.tail + 1
    local stop = end_of_sse(text, 1, 1)
    while stop do
        let_go(reader, sub(text, from, stop), out, is_dropped)
        from = stop + 1
        stop = end_of_sse(text, from, from)
    end
    if from <= #text then
        hold(reader, sub(text, from), out)
    end
    if is_last then
        finish(reader, out, is_dropped)
    end
    return table.concat(out)
end

---------
-- How many there are.

--- Whether an event begins at the begin of a line; nil when that is still to come.
local function is_event(text, at)
    local first = byte(text, at)
    if first ~= LETTER_D then
        return first == OPEN
    end
    local start = sub(text, at, at + 4)
    local behind = at + 5 + (byte(text, at + 5) == SPACE and 1 or 0)
    if behind > #text and start == sub("data:", 1, #start) then
        return nil
    end
    -- "[DONE]" is none.
    return start == "data:" and byte(text, behind) ~= BRACKET
end

--- Behind the end of the line that `at` is in, or nil.
local function next_line(text, at, line_end)
    local stop = find(text, line_end, at, true)
    return stop and stop + 1
end

--- The same in a chunk without an end of a line: an answer of JSON that comes whole, mostly. Nil
--- where that has to be looked at as all others are.
local function count_in_line(begun, chunk)
    if find(chunk, "\n", 1, true) or find(chunk, "\r", 1, true) then
        return nil
    elseif not begun then
        return 0
    end
    return begun == "" and byte(chunk) == OPEN and 1 or nil
end

--- Count the events of either format that begin in a chunk.
---@param begun string|nil what the last call answered, "" at first: the begin of a line whose kind
--- cannot be told yet; nil inside a line
---@param chunk string
---@param place integer a place in the chunk
---@return string|nil begun, integer count, integer behind how many of them begin behind that place
function _M.count(begun, chunk, place)
    local in_line = count_in_line(begun, chunk)
    if in_line then
        return nil, in_line, place < 1 and in_line or 0
    end
    local text = (begun and begun ~= "") and begun .. chunk or chunk
    local line_end = find(text, "\n", 1, true) and "\n" or "\r"
    local at = begun and 1 or next_line(text, 1, line_end)
    local count, behind = 0, 0
    place = place + #text - #chunk
    while at and at <= #text do
        local counts = is_event(text, at)
        if counts == nil then
            break
        end
        if counts then
            count = count + 1
            behind = behind + (at > place and 1 or 0)
        end
        at = next_line(text, at, line_end)
    end
    return at and sub(text, at), count, behind
end

return _M
