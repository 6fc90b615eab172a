---------
-- The gateway's own door: what is asked, who is let in, and what is read of an answer.

local fake_ngx = require("fake_ngx")
local minted = require("minted")
local policies = require("policies")

local MOST = 1000

local fake, inner_door

before_each(function()
    fake = fake_ngx.install()
    inner_door = fake.load("portero.server.inner_door")
    inner_door.start({ sync_key = minted.SYNC_KEY })
end)

local function ask(...)
    fake.said = { ... }
    return inner_door.ask("/pool", { ["X-Auth-User"] = "USRSA" }, 2, MOST)
end

local function key_sent()
    ask("HTTP/1.1 200 OK\r\n\r\n")
    return fake.sent[#fake.sent]:match("\r\nX%-Portero%-Inner: (%x+)\r\n")
end

describe("start", function()
    it("makes a key of SYNC_KEY, the same before and after a reload", function()
        local first = key_sent()
        inner_door.start({ sync_key = minted.SYNC_KEY })
        assert.equal(first, key_sent())
        inner_door.start({ sync_key = "another" })
        assert.not_equal(first, key_sent())
    end)
end)

describe("ask", function()
    it("asks by the socket in the runtime directory, and closes it", function()
        assert.equal(200, (ask("HTTP/1.1 200 OK\r\n\r\nx")))
        assert.equal("unix:/run/portero/inner.sock", fake.connected_to)
        assert.matches("^GET /pool HTTP/1%.0\r\nHost: inner\r\n", fake.sent[1])
        assert.matches("\r\nX%-Auth%-User: USRSA\r\n", fake.sent[1])
        assert.matches("\r\n\r\n$", fake.sent[1])
        assert.equal(1, fake.closed)
    end)

    it("answers the status and the body, in however many parts they come", function()
        assert.same({ 404, "ab\r\n\r\nc" },
            { ask("HTTP/1.1 404", " No\r\nContent-Len", "gth: 7\r\n\r", "\nab\r\n", "\r\nc") })
        assert.same({ 204, "" }, { ask("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n") })
    end)

    local LONG = ("x"):rep(MOST + 1)
    for why, parts in pairs({
        ["no http"] = { "hello" },
        ["cut off"] = { "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nabc" },
        ["too long"] = { "HTTP/1.1 200 OK\r\n\r\n" .. LONG },
        timeout = { "HTTP/1.1 200 OK\r\n\r\n", { err = "timeout" } },
        ["connection reset"] = { { err = "connection reset" } },
    }) do
        it("tells why there is no answer: " .. why, function()
            assert.same({ nil, why }, { ask(unpack(parts)) })
            assert.equal(1, fake.closed)
        end)
    end

    it("reads no more than it must of a body without end", function()
        fake.said = function() return ("x"):rep(64 * 1024) end
        assert.same({ nil, "too long" }, { inner_door.ask("/", {}, 2, MOST) })
    end)

    it("waits no longer than it may for a body that drips", function()
        local count = 0
        fake.said = function()
            count = count + 1
            fake.clock.now = fake.clock.now + 0.5
            return "x"
        end
        assert.same({ nil, "timeout" }, { inner_door.ask("/", {}, 2, MOST) })
        assert.equal(4, count)
    end)

    it("tells why nobody listens", function()
        fake.connect_error = "no such file or directory"
        assert.same({ nil, "no such file or directory" }, { ask("x") })
    end)
end)

describe("guard", function()
    local function exit_of(key)
        fake.request({ headers = { ["x-portero-inner"] = key } })
        inner_door.guard()
        return fake.answer.exit
    end

    it("lets the gateway itself in, and nobody else", function()
        assert.is_nil(exit_of(key_sent()))
        assert.equal(403, exit_of(nil))
        assert.equal(403, exit_of(""))
        assert.equal(403, exit_of(("0"):rep(64)))
    end)
end)

describe("open", function()
    local function open(...)
        fake.said = { ... }
        return inner_door.open("/socket", { Upgrade = "websocket" }, 2)
    end

    it("answers the socket, the status and the head", function()
        local socket, status, head =
            open("HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: a b\r\nX:y")
        assert.is_table(socket)
        assert.equal(101, status)
        assert.same({ ["sec-websocket-accept"] = "a b", x = "y" }, head)
        assert.matches("^GET /socket HTTP/1%.1\r\nHost: inner\r\nConnection: upgrade\r\n",
            fake.sent[1])
        assert.matches("\r\nX%-Portero%-Inner: %x+\r\n", fake.sent[1])
        assert.is_nil(fake.closed)
    end)

    it("answers why there is none, and closes it", function()
        assert.same({ nil, "timeout" }, { open({ err = "timeout" }) })
        assert.equal(1, fake.closed)
        fake.connect_error = "connection refused"
        assert.same({ nil, "connection refused" }, { open() })
    end)
end)

describe("aim", function()
    local aimed, err_of_aim

    before_each(function()
        package.loaded["portero.server.places"] = {
            aim = function(of)
                aimed = of.name
                return not err_of_aim and (of.ca and "_ca_1" or "") or nil, err_of_aim
            end,
        }
        aimed, err_of_aim = nil, nil
        package.loaded["portero.server.inner_door"] = nil
        inner_door = fake.load("portero.server.inner_door")
        inner_door.start({ sync_key = minted.SYNC_KEY })
        local listed = policies.listed()
        listed.servers, listed.management = {}, {}
        for index, name in ipairs({ "a", "b" }) do
            listed.servers[index] = {
                name = name, kind = "vllm", dialect = "openai", model_names = "exact", weight = 1,
                scheme = "http", host = "10.0.0.1", port = 80, ca = name == "b" and "x" or nil,
            }
        end
        policies.put(fake, listed)
    end)

    after_each(function()
        package.loaded["portero.server.places"] = nil
    end)

    local function aim(target, key, location)
        fake.request({ target = target, headers = { ["x-portero-inner"] = key } })
        inner_door.aim(location or "@ask")
        return fake.answer
    end

    it("leads a question of the gateway's own to the server that it names", function()
        local key = key_sent()
        assert.equal("@ask", aim("/servers/a/v1/models", key).exec)
        assert.equal("a", aimed)
        assert.equal("/v1/models", fake.ngx.var.upstream_target)
        assert.equal("@socket_ca_1",
            aim("/sockets/b/v1/realtime?model=x", key, "@socket").exec)
        assert.equal("/v1/realtime?model=x", fake.ngx.var.upstream_target)
        assert.equal(404, aim("/servers/c/v1/models", key).exit)
        err_of_aim = "no address"
        for _ = 1, 3 do
            assert.equal(502, aim("/servers/a/v1/models", key).exit)
        end
        assert.same({ "the LLM server a cannot be asked: no address" }, fake.logged)
    end)

    it("leads nobody else's", function()
        local answer = aim("/servers/a/v1/models", ("0"):rep(64))
        assert.equal(403, answer.exit)
        assert.is_nil(answer.exec)
        assert.is_nil(aimed)
    end)
end)
