---------
-- Addresses of host names, by the C library of this machine.

local fake_ngx = require("fake_ngx")

local resolver = fake_ngx.load("portero.server.resolver")

--- No name under `invalid` is ever anyone's (RFC 6761 section 6.4).
local UNKNOWN = "no-such-host.invalid"
local MAX_LOOKS = 200000

local function addresses_of(host)
    return resolver.watch(host).addresses
end

--- Look until something is found; false where nothing is.
local function look_on(watch, most)
    for _ = 1, most or MAX_LOOKS do
        if resolver.look(watch) then
            return true
        end
        addresses_of("127.0.0.1") -- lets the thread of the C library run
    end
    return false
end

describe("watch", function()
    it("finds localhost at 127.0.0.1, by IPv4 alone", function()
        local addresses = addresses_of("localhost")
        assert.equal("127.0.0.1", addresses[1])
        for _, address in ipairs(addresses) do
            assert.matches("^%d+%.%d+%.%d+%.%d+$", address)
        end
    end)

    it("answers an address as it is", function()
        assert.same({ "127.0.0.1" }, addresses_of("127.0.0.1"))
        assert.same({ "::1" }, addresses_of("::1"))
    end)

    it("answers an empty list for a host that nobody knows", function()
        assert.same({}, addresses_of(UNKNOWN))
        assert.same({}, addresses_of(("a"):rep(300)))
    end)
end)

describe("look", function()
    it("finds what watch finds, without waiting, again and again", function()
        local watch = resolver.watch("localhost")
        for _ = 1, 3 do
            watch.addresses = {}
            assert.is_false(resolver.look(watch))
            assert.is_true(look_on(watch))
            assert.same(addresses_of("localhost"), watch.addresses)
        end
    end)

    it("leaves the addresses of a host that nobody knows any more", function()
        local watch = resolver.watch("127.0.0.1")
        watch.host = UNKNOWN
        assert.is_false(look_on(watch, 200))
        assert.same({ "127.0.0.1" }, watch.addresses)
    end)

    it("keeps look-ups that run at once apart", function()
        local watches = {}
        for index = 1, 4 do
            watches[index] = { host = "127.0.0." .. index }
            resolver.look(watches[index])
        end
        collectgarbage()
        for index, watch in ipairs(watches) do
            assert.is_true(look_on(watch))
            assert.same({ "127.0.0." .. index }, watch.addresses)
        end
    end)

    it("may be forgotten while the C library is at it, or has yet to begin", function()
        for index = 1, 100 do
            assert.is_false(resolver.look({ host = ("forgotten-%d.invalid"):format(index) }))
        end
        -- What a thread wrote to memory that is somebody else's by now would end this process.
        collectgarbage()
        local taken = {}
        for index = 1, 1000 do
            taken[index] = ("x"):rep(200) .. index
        end
        assert.equal(1000, #taken)
        assert.same({ "127.0.0.1" }, addresses_of("127.0.0.1"))
    end)
end)
