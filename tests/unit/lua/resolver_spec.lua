---------
-- Addresses of host names, by the C library of this machine.

local fake_ngx = require("fake_ngx")

local resolver = fake_ngx.load("portero.server.resolver")

--- No name under `invalid` is ever anyone's (RFC 6761 section 6.4).
local UNKNOWN = "no-such-host.invalid"
local MAX_LOOKS = 200000

--- The async look-up, until it is done.
local function finish(lookup)
    for _ = 1, MAX_LOOKS do
        local done, addresses = resolver.finish(lookup)
        if done then
            return done, addresses
        end
        resolver.now("127.0.0.1") -- lets the thread of the C library run
    end
end

describe("now", function()
    it("finds localhost at 127.0.0.1, by IPv4 alone", function()
        local addresses = resolver.now("localhost")
        assert.equal("127.0.0.1", addresses[1])
        for _, address in ipairs(addresses) do
            assert.matches("^%d+%.%d+%.%d+%.%d+$", address)
        end
    end)

    it("answers an address as it is", function()
        assert.same({ "127.0.0.1" }, resolver.now("127.0.0.1"))
        assert.same({ "::1" }, resolver.now("::1"))
    end)

    it("answers an empty list for a host that nobody knows", function()
        assert.same({}, resolver.now(UNKNOWN))
        assert.same({}, resolver.now(("a"):rep(300)))
    end)
end)

describe("begin and finish", function()
    it("find what now finds, without waiting", function()
        local lookup = resolver.begin("localhost")
        assert.is_table(lookup)
        local done, addresses = finish(lookup)
        assert.is_true(done)
        assert.same(resolver.now("localhost"), addresses)
    end)

    it("are done with no addresses for a host that nobody knows", function()
        assert.same({ true, nil }, { finish(resolver.begin(UNKNOWN)) })
    end)

    it("keep look-ups that run at once apart", function()
        local hosts = { "127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4" }
        local lookups = {}
        for index, host in ipairs(hosts) do
            lookups[index] = resolver.begin(host)
        end
        collectgarbage()
        for index, host in ipairs(hosts) do
            assert.same({ true, { host } }, { finish(lookups[index]) })
        end
    end)
end)
