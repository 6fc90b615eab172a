---------
-- Messages of a client that are judged whole: however they are cut into frames, nothing of one that
-- was refused goes on. What real clients see is tests/stack/test_realtime_servers.py's.

local fake_ngx = require("fake_ngx")

local MASK = "\1\2\3\4"
local MOST = 1000

local frames, messages

before_each(function()
    local fake = fake_ngx.install()
    frames, messages = fake.load("portero.answer.frames"), fake.load("portero.answer.messages")
end)

--- A frame of a client; `first` in place of FIN and the opcode.
local function said(first, payload)
    local frame = frames.frame(1, payload, MASK)
    return string.char(first) .. frame:sub(2)
end

local function ends(bytes, most)
    local from, to = { at = 1, got = {} }, { got = {} }
    function from:receive(size)
        local piece = bytes:sub(self.at, self.at + size - 1)
        self.at = self.at + size
        return #piece == size and piece or nil
    end
    function from:send(text)
        self.got[#self.got + 1] = text
        return #text
    end
    function to:send(text)
        if #self.got >= (most or math.huge) then
            return nil, "closed"
        end
        self.got[#self.got + 1] = text
        return #text
    end
    return from, to
end

--- The frames that were sent, without their masks.
local function read(to)
    local from, found = ends(table.concat(to.got)), {}
    local way = frames.way(from, nil, true)
    local head = frames.head(way)
    while head do
        local payload = head.length > 0 and from:receive(head.length) or ""
        found[#found + 1] = ("%d %s"):format(head.opcode, frames.masked(payload, head.mask))
        assert.is_true(head.is_final)
        head = frames.head(way)
    end
    return found
end

local function judge(text)
    if text:find("bad", 1, true) then
        return nil, "model_not_found"
    end
    return (text:gsub("alias", "real"))
end

--- What passes of some bytes, how it ends, and the way.
local function passed(bytes, most)
    local from, to = ends(bytes, most)
    local way = messages.way(from, to, MOST, judge)
    local why = messages.forward(way)
    return read(to), why, way
end

local CLOSED = "\136\130\1\2\3\4\2\234"

describe("forward", function()
    it("sends each message as one text, and what is judged in its place", function()
        local got, why = passed(said(0x81, "an alias") .. said(0x01, "a") .. said(0x00, "b")
            .. said(0x80, "c") .. said(0x81, "") .. CLOSED)
        assert.same({ "1 an real", "1 abc", "1 ", "8 \3\232" }, got)
        assert.equal("closed", why)
    end)

    it("sends control frames at once, within a message too", function()
        local got = passed(said(0x01, "a") .. said(0x89, "ping") .. said(0x80, "b")
            .. said(0x8A, "pong") .. CLOSED)
        assert.same({ "9 ping", "1 ab", "10 pong", "8 \3\232" }, got)
    end)

    it("sends nothing of what is refused, however it is cut", function()
        for cut = 0, 4 do
            local text = "  bad"
            local got, why, way = passed(said(0x81, "good") .. said(0x01, text:sub(1, cut))
                .. said(0x00, "") .. said(0x80, text:sub(cut + 1)) .. said(0x81, "late"))
            assert.same({ "1 good" }, got)
            assert.same({ "judged", "model_not_found" }, { why, way.code })
        end
    end)

    for why, bytes in pairs({
        binary = "\130\129" .. MASK .. "a",
        protocol = "\193\129" .. MASK .. "a",
        too_long = "\129\254\3\233" .. MASK .. ("a"):rep(1001),
        gone = "\129\130" .. MASK .. "a",
    }) do
        it("ends with what is no text that may pass: " .. why, function()
            assert.same({ {}, why }, { (passed(bytes)), (select(2, passed(bytes))) })
        end)
    end

    it("ends where frames do not follow each other as they must", function()
        for _, bytes in ipairs({ said(0x80, "a"), said(0x01, "a") .. said(0x81, "b"),
            said(0x01, "a") .. said(0x82, "b"), said(0xC9, "") }) do
            assert.equal("protocol", (select(2, passed(bytes))))
        end
    end)

    it("counts all of a message's frames", function()
        local half = ("a"):rep(600)
        local got, why = passed(said(0x01, half) .. said(0x80, half))
        assert.same({ {}, "too_long" }, { got, why })
        assert.equal("gone", (select(2, passed(said(0x81, ("a"):rep(MOST))))))
    end)

    it("is refused where the other end takes no more, and sends nothing as it ends", function()
        assert.equal("refused", (select(2, passed(said(0x81, "a") .. said(0x81, "b"), 1))))
        assert.equal("refused", (select(2, passed(said(0x89, "a") .. said(0x89, "b"), 1))))
        local from, to = ends(said(0x81, "a") .. CLOSED)
        local way = messages.way(from, to, MOST, judge)
        way.is_ending = true
        assert.equal("closed", messages.forward(way))
        assert.same({}, to.got)
    end)
end)

describe("let_go", function()
    local MIB = 1024 * 1024

    local HEAD = { [2] = "\129\255", [8] = "\0\0\0\0\0\255\255\255", [4] = MASK }

    --- A connection that has sent all of a message but its last piece, and waits; its thread would
    --- be killed there.
    local function waiting()
        local left = 16 * MIB - 16 * 1024
        return { receive = function(_, size)
            if HEAD[size] then
                return HEAD[size]
            end
            left = left - size
            return left >= 0 and ("\0"):rep(size) or error("it waits", 0)
        end }
    end

    it("makes room again: a worker holds 256 MiB of messages, and no more", function()
        local ways = {}
        for number = 1, 17 do
            local way = messages.way(waiting(), nil, 16 * MIB, judge)
            ways[number] = way
            local ok, _, why = pcall(messages.next, way)
            assert.equal(number == 17, ok)
            assert.equal(number == 17 and "full" or nil, why)
        end
        messages.let_go(ways[1])
        local way = messages.way((ends(said(0x81, "a"))), nil, MOST, judge)
        assert.equal("a", messages.next(way))
        for _, one in ipairs(ways) do
            messages.let_go(one)
        end
    end)
end)

describe("next and send", function()
    it("answer pings by themselves as long as there is nobody to send to", function()
        local from, to = ends(said(0x89, "x") .. said(0x8A, "y") .. said(0x81, "hello") .. CLOSED)
        local way = messages.way(from, nil, MOST, judge)
        assert.equal("hello", messages.next(way))
        assert.same({ frames.frame(0xA, "x") }, from.got)
        assert.same({ nil, "closed" }, { messages.next(way) })
        way.to = to
        assert.is_truthy(messages.send(way, "hi"))
        assert.same({ "1 hi" }, read(to))
    end)
end)
