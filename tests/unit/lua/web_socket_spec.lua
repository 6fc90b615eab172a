---------
-- A WebSocket through the gateway: who is refused, and who is told what at its end. What real
-- clients see is tests/stack/test_realtime.py's.

local fake_ngx = require("fake_ngx")

local KEY = "dGhlIHNhbXBsZSBub25jZQ=="

local fake, web_socket, door, verdict, threads, asked_with

--- A socket that waits once it has said its piece; `ends` is what comes then, nil for ever nothing.
local function socket(bytes, is_silent)
    local its = { got = "", at = 1 }
    function its:receive(size)
        while self.at + size - 1 > #bytes and is_silent and not self.is_closed do
            coroutine.yield()
        end
        local piece = bytes:sub(self.at, self.at + size - 1)
        self.at = self.at + size
        return #piece == size and piece or nil
    end
    function its:send(text)
        self.got = self.got .. text
        return #text
    end
    function its.settimeouts() end
    function its:close() self.is_closed = true end
    return its
end

--- Threads that take their turns wherever one waits.
local function take_turns()
    for _, thread in ipairs(threads) do
        if coroutine.status(thread) == "suspended" then
            assert(coroutine.resume(thread))
        end
    end
end

local function begin_threads(ngx)
    threads = {}
    ngx.thread = {
        spawn = function(work)
            local thread = coroutine.create(work)
            threads[#threads + 1] = thread
            assert(coroutine.resume(thread))
            return thread
        end,
        wait = function(...)
            while true do
                for _, thread in ipairs({ ... }) do
                    if coroutine.status(thread) == "dead" then
                        return true
                    end
                end
                take_turns()
            end
        end,
        kill = function() end,
    }
    local sleep = ngx.sleep
    ngx.sleep = function(seconds)
        sleep(seconds)
        fake.clock.now = fake.clock.now + seconds
        if coroutine.running() then
            coroutine.yield()
        else
            take_turns()
        end
    end
end

before_each(function()
    fake = fake_ngx.install()
    rawset(fake.ngx, "sha1_bin", function(text) return text end)
    verdict, door = nil, nil
    package.loaded["portero.server.inner_door"] = {
        open = function(_, headers)
            asked_with = headers
            return door.socket, door.status, door.head
        end,
    }
    package.loaded["portero.answer.stream"] = { verdict = function() return verdict end }
    begin_threads(fake.ngx)
    web_socket = fake.load("portero.answer.web_socket")
end)

after_each(function()
    for _, name in ipairs({ "portero.server.inner_door", "portero.answer.stream" }) do
        package.loaded[name] = nil
    end
end)

local function request(changes, query)
    local headers = {
        upgrade = "websocket", connection = "Upgrade", ["sec-websocket-version"] = "13",
        ["sec-websocket-key"] = KEY, authorization = "Bearer T",
    }
    for name, value in pairs(changes or {}) do
        headers[name] = value or nil
    end
    fake.request({ target = "/v1/realtime?model=a", headers = headers })
    fake.ngx.var.args, fake.ngx.var.request_id = query or "model=a", "id1"
    fake.ngx.var.upstream_target = "/v1/realtime?model=a"
end

--- The code that a request is refused with.
local function refused(...)
    request(...)
    pcall(web_socket.run)
    return fake.answer.headers["x-portero-code"]
end

--- A connection between two sockets, run to its end.
local function run(client, upstream)
    request()
    door = { socket = upstream, status = 101, head = {
        ["sec-websocket-accept"] = fake.ngx.encode_base64(
            KEY .. "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"),
    } }
    fake.ngx.req.socket = function() return client end
    web_socket.run()
    return client.got:match("\r\n\r\n(.*)$"), upstream.got
end

describe("run", function()
    it("refuses what is no handshake, and what its caller may not send", function()
        assert.equal("invalid_request", refused({ upgrade = false }))
        assert.equal("invalid_request", refused({}, "model=a&localai_assistant=true"))
        assert.equal("invalid_request",
            refused({ ["sec-websocket-protocol"] = "openai-insecure-api-key.U" }))
        assert.equal("insufficient_permissions", refused({ authorization = false,
            cookie = "auth_token=T", origin = "https://evil.example" }))
    end)

    it("tells in its own words what the LLM server answers instead", function()
        for status, code in pairs({ [401] = "upstream_unavailable", [404] = "model_not_found",
            [503] = "not_ready", [200] = "upstream_unavailable" }) do
            door = { socket = socket(""), status = status, head = {} }
            local is = refused()
            assert.is_true(is == code or status == 404 and is == "not_found", status)
            assert.is_true(door.socket.is_closed)
        end
        door = { status = "connection refused" }
        assert.equal("upstream_unavailable", refused())
        door = { socket = socket(""), status = 101, head = { ["sec-websocket-accept"] = "x" } }
        assert.equal("upstream_unavailable", refused())
    end)

    it("tells the LLM server who asks, and no credential", function()
        door = { status = "x" }
        request({ ["sec-websocket-protocol"] = "realtime, openai-insecure-api-key.T" })
        pcall(web_socket.run)
        assert.equal("realtime", asked_with["Sec-WebSocket-Protocol"])
        assert.equal("/v1/realtime?model=a", asked_with["X-Portero-Target"])
        for _, value in pairs(asked_with) do
            assert.is_nil(tostring(value):find("T$"))
        end
    end)

    it("tells both sides when the token's time is over", function()
        verdict = "revoked"
        local down, up = run(socket("", true), socket("\129\2hi", true))
        assert.equal("\129\2hi\136\15\3\240token revoked", down)
        assert.equal("\136\143", up:sub(1, 2))
    end)

    it("tells both sides when nothing is left to use, by what the frames said", function()
        local socket_usage = fake.load("portero.answer.socket_usage")
        fake.request({})
        fake.ngx.var.request_id = "id1"
        local told
        socket_usage.begin(function(...)
            told = { ... }
            return "budget_spent"
        end)
        local event = '{"type":"response.done","response":{"id":"r","usage":{"input_tokens":7,'
            .. '"output_tokens":2}}}'
        local frame = require("portero.answer.frames").frame(1, event)
        local down, up = run(socket("", true), socket(frame, true))
        assert.same({ 7, 2 }, { told[1], told[2] })
        assert.equal(frame, down:sub(1, #frame))
        assert.matches("\3\240insufficient_quota: ", down:sub(#frame + 1), 1, true)
        assert.equal("\136", up:sub(1, 1))
    end)

    it("tells the client that the LLM server is gone, and the other way round", function()
        local down = run(socket("", true), socket("\129\2hi"))
        assert.equal("\129\2hi\136\24\3\243the LLM server is gone", down)
        local _, up = run(socket(""), socket("", true))
        assert.equal("\136\148", up:sub(1, 2))
    end)

    it("says nothing of its own where the two have closed it", function()
        local down, up = run(socket("\136\130\1\2\3\4\2\234"), socket("\136\2\3\232"))
        assert.equal("\136\2\3\232", down)
        assert.equal("\136\130\1\2\3\4\2\234", up)
    end)
end)

describe("run with what is judged", function()
    local talk, said

    before_each(function()
        package.loaded["portero.answer.client_events"] = {
            current = function() return talk end,
            judge = function(_, text)
                said[#said + 1] = text
                return text ~= "bad" and text or nil, "model_not_found"
            end,
            tap = function() end,
            settle_on = function(_, row) said[#said + 1] = row.name end,
            finish = function() talk = nil end,
        }
        package.loaded["portero.server.forwarding"] = {
            begin = function() end, opened = function() said[#said + 1] = "opened" end,
            next = function() return table.remove(fake.rows, 1), "not_ready" end,
            pass_over = function(status, is_begun)
                said[#said + 1] = ("%d %s"):format(status, is_begun)
                return status == 503
            end,
            finish = function() said[#said + 1] = "finished" end,
        }
        package.loaded["portero.answer.web_socket"] = nil
        web_socket = fake.load("portero.answer.web_socket")
        talk, said, fake.rows = { most_bytes = 100, claims = {} }, {}, {}
    end)

    after_each(function()
        package.loaded["portero.answer.client_events"] = nil
        package.loaded["portero.server.forwarding"] = nil
    end)

    local function text(words)
        return require("portero.answer.frames").frame(1, words, "\1\2\3\4")
    end

    it("tells both sides of a message that was refused, and why", function()
        local down, up = run(socket(text("good") .. text("bad"), true), socket("", true))
        assert.same({ "good", "bad" }, said)
        assert.equal("\136\96\3\240model_not_found: The model does not exist, or you do not have"
            .. " access to it.", (down:gsub("^\136.", "\136\96")))
        assert.equal("\129\132", up:sub(1, 2))
        assert.equal("\136", up:sub(11, 11))
    end)

    it("tells what is no text, and what is too long", function()
        assert.matches("\3\235binary", (run(socket("\130\128\1\2\3\4", true), socket("", true))))
        assert.matches("\3\241a message", (run(socket(text(("x"):rep(101)), true),
            socket("", true))))
    end)

    it("asks the next server where one gives no connection, and else none", function()
        talk.plan, fake.rows = {}, { { name = "a" }, { name = "b" }, { name = "c" } }
        local answers = {
            { socket = socket(""), status = 503, head = { ["x-portero-sent"] = "0, 120" } },
            { socket = socket(""), status = 500, head = { ["x-portero-sent"] = "0" } },
        }
        local open = package.loaded["portero.server.inner_door"]
        open.open = function()
            local one = table.remove(answers, 1)
            return one.socket, one.status, one.head
        end
        assert.equal("upstream_unavailable", refused())
        assert.same({ "503 true", "500 false" }, said)
        fake.rows = {}
        assert.equal("not_ready", refused())
    end)

    it("answers a client before it knows the server, and asks for its first message", function()
        talk.plan, talk.is_undecided, fake.rows = {}, true, { { name = "a" } }
        local down, up = run(socket(text("hello"), true), socket("\129\2hi"))
        assert.equal("\129\2hi", down:sub(1, 4))
        assert.same({ "hello", "opened", "a" }, said)
        assert.equal("\129\133", up:sub(1, 2))
        said, fake.rows = {}, {}
        down = run(socket(text("hello") .. "\136\128\1\2\3\4"), socket(""))
        assert.matches("^\136.\3\245not_ready: ", down)
        down = run(socket(text("bad") .. "\136\128\1\2\3\4"), socket(""))
        assert.matches("^\136.\3\240model_not_found: ", down)
        verdict = "revoked"
        down = run(socket("", true), socket(""))
        assert.equal("\136\15\3\240token revoked", down)
    end)

    it("ends with what was noted of the request given back", function()
        web_socket.finish()
        assert.same({ nil, { "finished" } }, { talk, said })
    end)
end)
