---------
-- The bytes of a request's body: in memory, in a file, or none (threats B10). How a real nginx
-- hands them over is the stack tests' matter.

local fake_ngx = require("fake_ngx")
local ffi = require("ffi")

local PIECE = 64 * 1024

local fake, body, paths

--- A file as nginx would have made it.
local function file_of(text)
    local path = os.tmpname()
    paths[#paths + 1] = path
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
    return path
end

--- The calls that change a body, as lua-nginx-module has them; `after` is what became of it.
local function add_body_calls(req)
    local after = { pieces = {} }
    function req.get_body_file() return fake.is_read and fake.body_file or nil end
    function req.set_body_data(text) after.text = text end
    function req.init_body(size) after.buffer_size = size end
    function req.append_body(text) after.pieces[#after.pieces + 1] = text end
    function req.finish_body() after.text = table.concat(after.pieces) end
    return after
end

--- Begin a request whose body is in memory, or in a file.
local function begin(request)
    fake.request({ method = "POST", body = request.memory })
    fake.body_file = request.file and file_of(request.file) or request.path
    return add_body_calls(fake.ngx.req)
end

local function read_text()
    local bytes, length, keep = body.read()
    return ffi.string(bytes, length), keep
end

--- How many files of the process are mapped that a spec made.
local function count_maps()
    local count = 0
    for line in io.lines("/proc/self/maps") do
        for _, path in ipairs(paths) do
            count = count + (line:find(path, 1, true) and 1 or 0)
        end
    end
    return count
end

local function count_descriptors()
    local count = 0
    for _ in require("lfs").dir("/proc/self/fd") do
        count = count + 1
    end
    return count
end

before_each(function()
    paths = {}
    fake = fake_ngx.install()
    body = fake.load("portero.request.body")
end)

after_each(function()
    collectgarbage()
    collectgarbage()
    for _, path in ipairs(paths) do
        os.remove(path)
    end
end)

describe("read", function()
    local LENGTHS = { 1, 10, 4095, 4096, 4097, 1048575, 1048576, 1048577, 3000000 }
    for _, length in ipairs(LENGTHS) do
        local text = ("\0\255{a}\r\n"):rep(math.ceil(length / 7)):sub(1, length)

        it(("answers %d bytes that are in memory"):format(length), function() -- B10
            begin({ memory = text })
            assert.is_true(read_text() == text)
        end)

        it(("answers %d bytes that are in a file"):format(length), function() -- B10
            begin({ file = text })
            assert.is_true(read_text() == text)
        end)
    end

    it("asks nginx for the body first", function()
        begin({ memory = "{}" })
        assert.is_false(fake.is_read)
        body.read()
        assert.is_true(fake.is_read)
    end)

    it("answers empty only where there is neither memory nor file", function() -- B10
        begin({})
        assert.same({ nil, "empty" }, { body.read() })
    end)

    it("answers another reason for a file that cannot be read, never empty", function() -- B10
        for path, reason in pairs({
            ["/nonexistent/body"] = "body: cannot open the file",
            ["/dev/null"] = "body: the file is empty",
        }) do
            begin({ path = path })
            assert.same({ nil, reason }, { body.read() })
        end
    end)

    it("answers a reason for what can be opened and not mapped", function()
        for _, path in ipairs({ "/", "/proc/self/mem" }) do
            begin({ path = path })
            local bytes, reason = body.read()
            assert.is_nil(bytes)
            assert.matches("^body: ", reason)
        end
    end)

    it("tells no path in its reasons", function()
        begin({ path = "/nonexistent/secret" })
        local _, err = body.read()
        assert.is_nil(err:find("secret", 1, true))
    end)

    it("keeps what it answered, as long as it is held, though the file is gone", function()
        begin({ file = ("b"):rep(100000) })
        local bytes, length, keep = body.read()
        os.remove(paths[1])
        collectgarbage()
        collectgarbage()
        assert.equal(("b"):rep(100000), ffi.string(bytes, length))
        assert.is_not_nil(keep)
    end)

    it("leaves no descriptor open", function()
        local before = count_descriptors()
        for _ = 1, 50 do
            begin({ file = "body" })
            body.release(select(3, body.read()))
            begin({ path = "/dev/null" })
            body.read()
        end
        assert.equal(before, count_descriptors())
    end)
end)

describe("release", function()
    it("gives a map back at once, and once", function()
        begin({ file = "body" })
        local _, keep = read_text()
        assert.equal(1, count_maps())
        body.release(keep)
        assert.equal(0, count_maps())
        body.release(keep)
    end)

    it("is not needed: what nobody holds is given back by the collector", function()
        begin({ file = "body" })
        read_text()
        collectgarbage()
        collectgarbage()
        assert.equal(0, count_maps())
    end)

    it("does nothing to a body in memory, or to none", function()
        begin({ memory = "body" })
        local _, keep = read_text()
        body.release(keep)
        body.release(nil)
    end)
end)

describe("pause", function()
    it("lets others run, and is short", function()
        body.pause()
        assert.equal(1, #fake.slept)
        assert.is_true(fake.slept[1] > 0 and fake.slept[1] < 0.01)
    end)
end)

describe("replace_all", function()
    --- As request_model does it: what keeps the bytes is held until they are in the new body.
    local function replace_all(changes)
        local bytes, length, keep = body.read()
        body.replace_all(bytes, length, changes)
        body.release(keep)
    end

    --- Changes of a body of some length, and what they make of it.
    local function cases(length, text)
        return {
            { {}, text },
            { { { 0, 0, "before" } }, "before" .. text },
            { { { 0, 1, "first" } }, "first" .. text:sub(2) },
            { { { length, length, "behind" } }, text .. "behind" },
            { { { 0, length, "all" } }, "all" },
            { { { length - 1, length, "" } }, text:sub(1, -2) },
            { { { 3, 5, ("long"):rep(50) } }, text:sub(1, 3) .. ("long"):rep(50) .. text:sub(6) },
            { { { 4, 4, "" } }, text },
            { { { 5, 6, "y" }, { 1, 2, "x" }, { 6, 7, "" } },
                text:sub(1, 1) .. "x" .. text:sub(3, 5) .. "y" .. text:sub(8) },
            { { { 1, 4, "" }, { 1, 1, "new" } }, text:sub(1, 1) .. "new" .. text:sub(5) },
        }
    end

    for _, place in ipairs({ "memory", "file" }) do
        for _, length in ipairs({ 7, 1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 1048577 }) do
            it(("changes some bytes and no others: %d in %s"):format(length, place), function()
                local text = ("abcdefg"):rep(math.ceil(length / 7)):sub(1, length)
                for number, case in ipairs(cases(length, text)) do
                    local after = begin({ [place] = text })
                    replace_all(case[1])
                    assert.is_true(after.text == case[2], number)
                end
            end)
        end
    end

    it("makes no text of more than 64 KiB from a file", function()
        local after = begin({ file = ("b"):rep(10 * PIECE + 5) })
        replace_all({ { 100, 200, "new" } })
        assert.equal(PIECE, after.buffer_size)
        for _, piece in ipairs(after.pieces) do
            assert.is_true(#piece <= PIECE)
        end
        assert.equal(10 * PIECE + 5 - 100 + 3, #after.text)
    end)
end)

describe("find_untold", function()
    local calls

    local function ask(method, version, headers, reads)
        fake.request({ method = method, http_version = version, headers = headers, body = "{}" })
        calls = {}
        add_body_calls(fake.ngx.req)
        fake.ngx.req.discard_body = function() calls[#calls + 1] = "discard" end
        fake.ngx.req.read_body = function()
            calls[#calls + 1] = "read"
            assert(reads ~= false, "http v2 requests without content-length are not supported")
        end
        return body.find_untold()
    end

    it("asks nothing where the head says all there is to know", function()
        assert.is_true(ask("POST", 1.1, {}))
        assert.is_true(ask("POST", 2, { ["content-length"] = "2" }))
        assert.same({}, calls)
    end)

    it("throws away over HTTP/2 what nobody expects", function()
        for _, method in ipairs({ "GET", "HEAD" }) do
            assert.is_true(ask(method, 2, {}))
            assert.same({ "discard" }, calls)
        end
    end)

    it("reads over HTTP/2 what may come, and refuses what it cannot read", function()
        assert.is_true(ask("POST", 2, {}))
        assert.same({ "read" }, calls)
        for _, method in ipairs({ "POST", "DELETE" }) do
            assert.same({ nil, "length_required" }, { ask(method, 2, {}, false) })
        end
    end)
end)

describe("untold_length", function()
    it("is what a body has that does not say so, and 0 without one", function()
        begin({ memory = "12345" })
        assert.equal(0, body.untold_length())
        fake.request({ method = "POST", body = "12345",
            headers = { ["transfer-encoding"] = "chunked" } })
        assert.equal(5, body.untold_length())
        fake.request({ method = "POST", body = "1234567", http_version = 2 })
        assert.equal(7, body.untold_length())
    end)
end)
