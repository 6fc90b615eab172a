---------
-- Frames of WebSocket on their way (RFC 6455 section 5): byte for byte, and ends between them.

local frames = require("portero.answer.frames")

local MASK = "\1\2\3\4"

--- Two sockets: one that has these bytes to give, and one that notes what it is given. `most` is
--- how many sends it takes.
local function ends(bytes, most)
    local from, to = { at = 1 }, { got = {}, most = most or math.huge }
    function from:receive(size)
        local piece = bytes:sub(self.at, self.at + size - 1)
        self.at = self.at + size
        return #piece == size and piece or nil
    end
    function to:send(text)
        if #self.got >= self.most then
            return nil, "closed"
        end
        self.got[#self.got + 1] = text
        return #text
    end
    return from, to
end

local function length_of(size)
    if size < 126 then
        return string.char(size)
    elseif size < 65536 then
        return string.char(126, math.floor(size / 256), size % 256)
    end
    return string.char(127, 0, 0, 0, 0, 0, math.floor(size / 65536),
        math.floor(size / 256) % 256, size % 256)
end

local function frame(opcode, payload, mask)
    local length = length_of(#payload)
    if mask then
        length = string.char(length:byte(1) + 128) .. length:sub(2) .. mask
    end
    return string.char(opcode) .. length .. payload
end

local CLOSED = frame(0x88, "\3\232")

--- What passes of some bytes, how it ends, and the way.
local function passed(bytes, is_masked, most)
    local from, to = ends(bytes, most)
    local way = frames.way(from, to, is_masked or false)
    local why = frames.forward(way)
    return table.concat(to.got), why, way, to
end

describe("forward", function()
    for _, size in ipairs({ 0, 1, 125, 126, 65535, 65536, 300000 }) do
        it(("passes a frame of %d bytes as it is, either way"):format(size), function()
            for _, mask in ipairs({ false, MASK }) do
                local bytes = frame(0x82, ("x"):rep(size), mask or nil)
                    .. frame(0x88, "\3\232", mask or nil)
                local got, why, way = passed(bytes, mask ~= false)
                assert.is_true(got == bytes)
                assert.equal("closed", why)
                assert.is_true(way.is_between)
            end
        end)
    end

    it("passes fragments, pings and pongs", function()
        local bytes = frame(0x01, "a") .. frame(0x89, "ping") .. frame(0x00, "b")
            .. frame(0x8A, "pong") .. frame(0x80, "c") .. CLOSED
        assert.equal(bytes, (passed(bytes)))
    end)

    it("holds 16 KiB of a long frame at a time, and sends a short one at once", function()
        local _, _, _, to = passed(frame(0x82, ("x"):rep(100000)) .. CLOSED)
        for _, piece in ipairs(to.got) do
            assert.is_true(#piece <= 16 * 1024 + 14)
        end
        _, _, _, to = passed(frame(0x81, "abc") .. CLOSED)
        assert.same({ frame(0x81, "abc"), CLOSED }, to.got)
    end)

    it("ends with the close frame, and sends nothing that comes behind it", function()
        assert.equal(CLOSED, (passed(CLOSED .. frame(0x81, "late"))))
    end)

    it("is gone wherever the bytes end", function()
        local bytes = frame(0x82, ("x"):rep(70000), MASK)
        for _, length in ipairs({ 0, 1, 2, 5, 9, 10, 13, 14, 100, 40000, #bytes - 1 }) do
            local _, why, way = passed(bytes:sub(1, length), true)
            assert.equal("gone", why)
            -- Of a head that is not whole nothing was sent.
            assert.equal(length < 14, way.is_between)
        end
    end)

    it("is refused where the other end takes no more", function()
        local _, why = passed(frame(0x81, "a") .. frame(0x81, "b"), false, 1)
        assert.equal("refused", why)
    end)

    for what, bytes in pairs({
        ["a masked frame of a server"] = frame(0x81, "a", MASK),
        ["a ping in parts"] = frame(0x09, "a"), ["a long ping"] = frame(0x89, ("x"):rep(126)),
    }) do
        it("takes for no frame " .. what, function()
            local got, why = passed(bytes)
            assert.same({ "", "protocol" }, { got, why })
        end)
    end

    it("takes for no frame what a client does not mask", function()
        assert.same({ "", "protocol" }, { (passed(frame(0x81, "a"), true)),
            (select(2, passed(frame(0x81, "a"), true))) })
    end)

    it("reads on, and sends nothing, from the frame on behind which it is ended", function()
        local from, to = ends(frame(0x81, "a") .. frame(0x81, "b") .. CLOSED)
        local way = frames.way(from, to, false)
        local send = to.send
        function to.send(self, text)
            way.is_ending = true
            return send(self, text)
        end
        assert.equal("closed", frames.forward(way))
        assert.same({ frame(0x81, "a") }, to.got)
        assert.is_true(way.is_between)
    end)
end)

describe("way", function()
    it("has its tap told each piece before it goes on, and the end of each frame", function()
        local from, to = ends(frame(0x01, ("x"):rep(20000)) .. frame(0x80, "b") .. CLOSED)
        local told = {}
        frames.forward(frames.way(from, to, false, function(head, piece, is_end)
            told[#told + 1] = ("%d %d %s %s %d"):format(head.opcode, #piece, is_end,
                head.is_final, #to.got)
        end))
        assert.same({ "1 16384 false false 0", "1 3616 true false 1", "0 1 true true 2",
            "8 2 true true 3" }, told)
    end)
end)

describe("head", function()
    it("tells what a frame is, and how long, and of a client its mask", function()
        local from = ends(frame(0xC1, ("x"):rep(300), MASK))
        local head = frames.head(frames.way(from, nil, true))
        assert.same({ 1, true, true, 300, MASK },
            { head.opcode, head.is_final, head.has_reserved, head.length, head.mask })
        assert.same({ nil, "gone" }, { frames.head(frames.way(ends(""), nil, true)) })
    end)
end)

describe("masked and frame", function()
    it("lay a mask on, which takes it off again, at every length", function()
        for length = 0, 9 do
            local text = ("abcdefghi"):sub(1, length)
            local masked = frames.masked(text, MASK)
            assert.equal(text, frames.masked(masked, MASK))
            assert.equal(frame(0x81, masked, MASK), frames.frame(1, text, MASK))
        end
        assert.equal("`", frames.masked("a", MASK))
    end)

    it("say every length as it is said", function()
        for _, length in ipairs({ 0, 125, 126, 65535, 65536, 300000 }) do
            local text = ("x"):rep(length)
            assert.is_true(frame(0x82, text) == frames.frame(2, text))
        end
    end)
end)

describe("close", function()
    it("is a frame with the code and the reason", function()
        assert.equal("\136\6\3\240gone", frames.close(1008, "gone"))
    end)

    it("is masked where a client says it", function()
        local text = frames.close(1008, "gone", MASK)
        assert.equal("\136\134" .. MASK, text:sub(1, 6))
        local plain = {}
        for place = 7, #text do
            plain[#plain + 1] = string.char(require("bit").bxor(text:byte(place),
                MASK:byte((place - 7) % 4 + 1)))
        end
        assert.equal("\3\240gone", table.concat(plain))
    end)
end)
