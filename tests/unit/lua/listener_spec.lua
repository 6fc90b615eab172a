---------
-- The gateway's own internal address: watched where it is a name, and bound anew when it moves.

local fake_ngx = require("fake_ngx")

local fake, listener, found, hups

--- A resolver whose answer the spec sets, and a master that counts its signals.
local function fake_resolver()
    return {
        watch = function(host) return { host = host, addresses = found } end,
        look = function(watch)
            watch.addresses = found or watch.addresses
            return found ~= nil
        end,
    }
end

before_each(function()
    fake = fake_ngx.install()
    fake.ngx.worker = { id = function() return 0 end }
    found, hups = { "10.0.0.1" }, 0
    package.loaded["portero.server.resolver"] = fake_resolver()
    listener = fake.load("portero.server.listener")
    listener.signal = function() hups = hups + 1 end
end)

after_each(function()
    package.loaded["portero.server.resolver"] = nil
end)

--- Two ticks: a look-up is begun at one and taken at the next.
local function look()
    for _ = 1, 2 do
        fake.timers[#fake.timers].callback(false)
    end
end

describe("set and start", function()
    it("watch no address that was given", function()
        listener.set({})
        listener.start()
        assert.equal(0, #fake.timers)
    end)

    it("watch a name in one worker alone", function()
        fake.ngx.worker.id = function() return 1 end
        listener.set({ internal_host = "gateway-sync" })
        listener.start()
        assert.equal(0, #fake.timers)
    end)

    it("leave nginx alone while the name stands for the same address", function()
        listener.set({ internal_host = "gateway-sync" })
        listener.start()
        look()
        found = nil
        look()
        found = {}
        look()
        assert.equal(0, hups)
    end)

    it("tell the master once when the address has moved", function()
        listener.set({ internal_host = "gateway-sync" })
        listener.start()
        found = { "10.0.0.2" }
        look()
        look()
        assert.equal(1, hups)
    end)
end)

describe("signal", function()
    it("is the module's own, and can be called", function()
        assert.is_function(fake.load("portero.server.listener").signal)
    end)
end)
