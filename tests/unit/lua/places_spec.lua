---------
-- How a request is sent to a server of the policy: what nginx is told of it, its addresses, the
-- pools of kept connections that are nobody else's, and keys that are opened here alone.

local fake_ngx = require("fake_ngx")
local minted = require("minted")
local policies = require("policies")
local sealing = require("sealing")

local LABEL = "portero-credential-1"

local fake, hosts, places, crypto

--- A resolver whose names the spec sets, and whose answers take one look more.
local function fake_resolver()
    return {
        look = function(watch)
            local is_done = watch.is_begun
            watch.is_begun = not is_done
            watch.addresses = is_done and hosts[watch.host] or watch.addresses
            return is_done and hosts[watch.host] ~= nil
        end,
    }
end

before_each(function()
    fake = fake_ngx.install(minted.NOW)
    hosts = {}
    package.loaded["portero.server.resolver"] = fake_resolver()
    package.loaded["portero.server.authorities"] = {
        folder = function(text)
            if text == "CA" then
                return 3
            end
            return nil, "no folder"
        end,
    }
    crypto = fake.load("portero.token.crypto")
    places = fake.load("portero.server.places")
    places.start({ sync_key = minted.SYNC_KEY })
end)

after_each(function()
    package.loaded["portero.server.resolver"] = nil
    package.loaded["portero.server.authorities"] = nil
end)

local function sealed(text, sync_key)
    local key = crypto.hmac("HS256", sync_key or minted.SYNC_KEY, LABEL)
    return fake.ngx.encode_base64(sealing.seal(key, LABEL, text))
end

local function row(changes)
    local found = {
        name = "a", scheme = "http", host = "10.0.0.1", port = 8000, authority = "10.0.0.1:8000",
        path = "",
    }
    for name, value in pairs(changes or {}) do
        found[name] = value
    end
    return found
end

--- Aim at a server in a request of its own, and pick; the address that was chosen.
local function picked(one)
    fake.request({})
    assert.equal("", places.aim(one))
    places.pick()
    return fake.balancer.chosen[#fake.balancer.chosen]
end

local function pool_of(one)
    fake.request({})
    places.aim(one)
    return tonumber(fake.ngx.var.server_base:match("^%l+://server_(%d+)"))
end

describe("aim", function()
    it("tells nginx which server, where, and by which names", function()
        places.aim(row({ scheme = "https", host = "rack.lan", path = "/base", name = "rack",
            authority = "rack.lan:8000", credential = sealed("the key") }))
        hosts["rack.lan"] = { "10.0.0.9" }
        assert.equal("", places.aim(row({ scheme = "https", host = "rack.lan", path = "/base",
            name = "rack", authority = "rack.lan:8000", credential = sealed("the key") })))
        local var = fake.ngx.var
        assert.same({
            "rack", "https://server_1/base", "rack.lan:8000", "Bearer the key", "rack.lan",
        }, {
            var.llm_server, var.server_base, var.server_authority, var.server_authorization,
            var.server_tls_name,
        })
    end)

    it("tells no key where the server has none", function()
        places.aim(row())
        assert.equal("", fake.ngx.var.server_authorization)
    end)

    it("leads to where its certificates are trusted, and nowhere without them", function()
        assert.equal("_ca_3", places.aim(row({ scheme = "https", ca = "CA" })))
        assert.same({ nil, "its certificates: no folder" },
            { places.aim(row({ scheme = "https", ca = "OTHER" })) })
    end)

    it("waits a moment for the first address of a name, and says where there is none", function()
        hosts["rack.lan"] = { "10.0.0.9" }
        assert.equal("", places.aim(row({ host = "rack.lan" })))
        assert.equal(1, #fake.slept)
        local before = fake.clock.now
        assert.same({ nil, "its name has no address" }, { places.aim(row({ host = "gone.lan" })) })
        assert.is_true(fake.clock.now - before < 2.1)
    end)

    it("gives a pool of kept connections to a place, once: same address, other name", function()
        local first = pool_of(row())
        assert.equal(first, pool_of(row({ name = "b", path = "/other" })))
        local others = {
            { host = "10.0.0.2" }, { port = 8001 }, { scheme = "https" },
            { scheme = "https", ca = "CA" }, { host = "10.0.0.1.lan" },
        }
        hosts["10.0.0.1.lan"] = { "10.0.0.1" }
        local seen = { [first] = true }
        for _, changes in ipairs(others) do
            local pool = pool_of(row(changes))
            assert.is_nil(seen[pool])
            seen[pool] = true
        end
        assert.equal(first, pool_of(row()))
    end)

    it("has no kept connections for what comes when all pools are given", function()
        for number = 1, 64 do
            assert.equal(number, pool_of(row({ port = number })))
        end
        assert.same({ 0, 0 }, { pool_of(row({ port = 65 })), pool_of(row({ port = 66 })) })
        assert.equal("10.0.0.1:65", picked(row({ port = 65 })))
        assert.equal("10.0.0.1:66", picked(row({ port = 66 })))
    end)
end)

describe("pick", function()
    it("takes the addresses of a name in turn, and tries each of them once", function()
        hosts["rack.lan"] = { "10.0.0.1", "10.0.0.2" }
        local rack = row({ host = "rack.lan" })
        assert.equal("10.0.0.1:8000", picked(rack))
        assert.equal(1, fake.balancer.more_tries)
        places.pick()
        assert.equal("10.0.0.2:8000", fake.balancer.chosen[2])
        assert.equal("10.0.0.2:8000", picked(rack))
    end)

    it("puts an address of IPv6 in brackets, and asks an address for no name", function()
        assert.equal("[::1]:8000", picked(row({ host = "::1" })))
        assert.same({}, fake.slept)
    end)

    it("ends the request where nginx takes no address", function()
        fake.balancer.refuses = true
        places.aim(row())
        places.pick()
        assert.equal(502, fake.answer.exit)
    end)

    it("finds a name that has moved, by looking again every other second", function()
        hosts["rack.lan"] = { "10.0.0.1" }
        local listed = policies.listed()
        listed.servers = { row({ host = "rack.lan" }) }
        local rack = policies.put(fake, listed).servers[1]
        assert.equal("10.0.0.1:8000", picked(rack))
        hosts["rack.lan"] = { "10.0.0.7" }
        fake.tick()
        fake.tick()
        assert.equal("10.0.0.7:8000", picked(rack))
        assert.equal(2, fake.timers[1].seconds)
    end)
end)

describe("are_good", function()
    it("says whether every key can be opened", function()
        assert.is_true(places.are_good(nil))
        assert.is_true(places.are_good({ row(), row({ credential = sealed("key") }) }))
        for _, bad in ipairs({ "", "no base64!", 7, false }) do
            assert.is_false(places.are_good({ row(), row({ credential = bad }) }))
        end
        assert.is_false(places.are_good({
            row({ credential = sealed("key", "another key of the sync, 0123456789") }),
        }))
    end)
end)
