---------
-- Where events begin and end: whatever ends the lines, and wherever the stream is cut.

local stream_events = require("portero.answer.stream_events")

local RANDOM_STREAMS, RANDOM_CUTS = 300, 4
local SSE, LINES = stream_events.FORMATS.sse, stream_events.FORMATS.lines

local function none() return false end

--- What a client reads of a stream by the standard's own steps (WHATWG HTML 9.2.6): the data of
--- each event that was ended by an empty line.
local function data_by_standard(text)
    local found, lines = {}, {}
    for line in text:gsub("\r\n", "\n"):gsub("\r", "\n"):gmatch("([^\n]*)\n") do
        if line == "" then
            found[#found + 1] = #lines > 0 and table.concat(lines, "\n") or nil
            lines = {}
        end
        lines[#lines + 1] = line:match("^data: ?(.*)$")
    end
    return found
end

--- A stream of whatever may come in one, from few pieces, so that they meet in all ways.
local PIECES = {
    "data: 1", "data:2", "data:", "event: x", ": ping", "id: 7", "{}", " ",
    "\n", "\n", "\r", "\r\n", "\r\n", "\n\n", "\r\n\r\n", "\r\r", "\n\r",
}

local function random_stream()
    local pieces = {}
    for index = 1, math.random(1, 14) do
        pieces[index] = PIECES[math.random(#PIECES)]
    end
    return table.concat(pieces)
end

local function cut_at_random(text)
    local pieces, at = {}, 1
    while at <= #text do
        local stop = at + math.random(0, 6)
        pieces[#pieces + 1] = text:sub(at, stop)
        at = stop + 1
    end
    return pieces
end

local function single_bytes(text)
    local pieces = {}
    for at = 1, #text do
        pieces[at] = text:sub(at, at)
    end
    return pieces
end

--- The events of a stream that comes in these pieces, and what passes of it.
local function read(pieces, is_dropped)
    local reader, events, out = stream_events.new(), {}, {}
    local function note(event)
        events[#events + 1] = event
        return (is_dropped or none)(event)
    end
    for _, piece in ipairs(pieces) do
        out[#out + 1] = stream_events.without(reader, piece, false, note)
    end
    out[#out + 1] = stream_events.without(reader, "", true, note)
    return events, table.concat(out)
end

local function each_random_stream(check)
    math.randomseed(11)
    for _ = 1, RANDOM_STREAMS do
        local text = random_stream()
        check(text)
    end
end

describe("new, without and data", function()
    it("read the same events wherever a stream is cut, and pass each byte", function()
        each_random_stream(function(text)
            local events, passed = read({ text })
            assert.equal(text, passed)
            local ways = { single_bytes(text) }
            for at = 1, #text - 1 do
                ways[#ways + 1] = { text:sub(1, at), text:sub(at + 1) }
            end
            for _ = 1, RANDOM_CUTS do
                ways[#ways + 1] = cut_at_random(text)
            end
            for _, pieces in ipairs(ways) do
                local again, also_passed = read(pieces)
                assert.same(events, again)
                assert.equal(text, also_passed)
            end
        end)
    end)

    it("read the data that the standard's own steps read", function()
        each_random_stream(function(text)
            local found = {}
            for _, event in ipairs((read({ text }))) do
                local has_data = ("\n" .. event):find("[\r\n]data:")
                found[#found + 1] = has_data and stream_events.data(event) or nil
            end
            assert.same(data_by_standard(text), found, text)
        end)
    end)

    it("leave out what is dropped and nothing else, wherever the stream is cut", function()
        local function is_dropped(event) return event:find("data:2", 1, true) ~= nil end
        each_random_stream(function(text)
            local events, passed = read({ text }, is_dropped)
            local size = #text
            for _, event in ipairs(events) do
                size = size - (is_dropped(event) and #event or 0)
            end
            assert.equal(size, #passed)
            for _, pieces in ipairs({ single_bytes(text), cut_at_random(text) }) do
                assert.equal(passed, select(2, read(pieces, is_dropped)))
            end
        end)
    end)

    it("let an event go as soon as it is whole", function()
        for _, ending in ipairs({ "\n\n", "\r\r", "\r\n\r\n", "\n\r\n", "\r\n\n" }) do
            local reader = stream_events.new()
            assert.equal("", stream_events.without(reader, "data: 1", false, none))
            assert.equal("data: 1" .. ending, stream_events.without(reader, ending, false, none))
        end
    end)

    it("keep 64 KiB at most of an event, however long it is", function()
        local reader = stream_events.new()
        local kib = ("x"):rep(1024)
        for count = 1, 200 do
            local out = stream_events.without(reader, kib, false, none)
            assert.equal(count < 65 and 0 or count == 65 and 65 * 1024 or 1024, #out)
            assert.is_true(#reader.parts <= 64)
        end
    end)

    it("join the lines of an event's data, without the space before each", function()
        assert.equal("a\n b\n", stream_events.data("id: 1\r\ndata: a\rdata:  b\n:c\ndata:\n\n"))
        assert.equal("", stream_events.data(": ping\n\n"))
    end)
end)

describe("is_whole", function()
    it("is true of whole events, where none is held", function()
        local reader = stream_events.new()
        for _, chunk in ipairs({ "data: 1\n\n", "data: 1\r\n\r\ndata: 2\r\n\r\n", "a\r\r" }) do
            assert.is_true(stream_events.is_whole(reader, chunk))
        end
        for _, chunk in ipairs({ "", "\n", "data: 1\n", "a\r\n", "a\r\n\r", "a\n\nb", "\r\r\n" }) do
            assert.is_false(stream_events.is_whole(reader, chunk))
        end
        stream_events.without(reader, "data", false, none)
        assert.is_false(stream_events.is_whole(reader, ": 1\n\n"))
    end)
end)

describe("FORMATS", function()
    --- A text, from where on an end is asked for, and where there is one.
    for _, case in ipairs({
        { "a\n\nb\n\n", 1, 3 }, { "a\n\nb\n\n", 3, 3 }, { "a\n\nb\n\n", 4, 6 },
        { "a\r\n\r\nb", 1, 5 }, { "a\r\n\r\nb", 5, 5 }, { "a\r\n\r\nb", 6, nil },
        { "a\r\rb", 2, 3 }, { "a\n\rb", 3, 3 }, { "a\n\r", 3, nil }, { "a\n\r\n", 3, 4 },
        { "a\r\n\nb", 4, 4 }, { "a\r\r\n", 4, 4 }, { "a\r\r\n", 3, 3 }, { "a\n\n\n", 4, 4 },
        { "a\r\n", 3, nil }, { "\n", 1, nil }, { "a", 1, nil }, { "", 1, nil },
    }) do
        it(("know the end of an event of SSE: %q, %d"):format(case[1], case[2]), function()
            assert.same({ case[3] }, { SSE.end_of(case[1], 1, case[2]) })
        end)
    end

    it("know the end of a line", function()
        assert.equal(2, LINES.end_of("a\nb\n", 1, 1))
        assert.equal(2, LINES.end_of("a\nb\n", 1, 2))
        assert.equal(4, LINES.end_of("a\nb\n", 1, 3))
        assert.is_nil(LINES.end_of("a\r", 1, 1))
    end)

    it("end an event with an end that they know", function()
        for name, format in pairs(stream_events.FORMATS) do
            assert.equal(name, format.name)
            local text = "x" .. format.ending
            assert.equal(#text, format.end_of(text, 1, 1))
        end
    end)
end)

describe("count", function()
    local function count(chunks, place)
        local begun, total, behind = "", 0, 0
        for _, chunk in ipairs(chunks) do
            local more, more_behind
            begun, more, more_behind = stream_events.count(begun, chunk, place or 0)
            total, behind = total + more, behind + more_behind
        end
        return total, behind
    end

    it("is of events as soon as they begin, in either format, wherever they are cut", function()
        for text, events in pairs({
            ["data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"] = 2, ["data:1\r\rdata:2\r\r: x\r\r"] = 2,
            ["event: a\r\ndata: 1\r\n\r\ndata: 2"] = 2, ['{"a":1}\n{"b":2}\n{'] = 3,
            ["x data: 1\nid: 1\n"] = 0, ["data: [1]\n"] = 0, ["dat"] = 0,
        }) do
            assert.equal(events, (count({ text })), text)
            assert.equal(events, (count(single_bytes(text))), text)
        end
    end)

    it("tells those behind a place of the chunk apart", function()
        assert.same({ 2, 1 }, { count({ "{1}\n{2}\n" }, 4) })
        assert.same({ 2, 2 }, { count({ "{1}\n{2}\n" }, 0) })
    end)
end)
