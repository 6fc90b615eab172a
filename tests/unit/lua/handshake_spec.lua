---------
-- Which certificate a connection is shown, and when it changes.

local certificates = require("certificates")
local fake_ngx = require("fake_ngx")

local fake, handshake, shown, folder

local function fake_ssl()
    return {
        parse_pem_cert = function(text)
            return text:find("BEGIN CERTIFICATE", 1, true) and text or nil, "no certificate"
        end,
        parse_pem_priv_key = function(text)
            return text:find("PRIVATE KEY", 1, true) and text or nil, "no key"
        end,
        clear_certs = function() shown = {}; return true end,
        set_cert = function(chain) shown.chain = chain; return true end,
        set_priv_key = function(key) shown.key = key; return key ~= nil, "refused" end,
    }
end

local function put(text, name)
    local file = assert(io.open(folder .. "/" .. (name or "tls.pem"), "wb"))
    file:write(text)
    file:close()
end

before_each(function()
    fake = fake_ngx.install()
    folder, shown = os.tmpname(), nil
    os.remove(folder)
    assert(os.execute("mkdir " .. folder))
    fake.ngx.config.prefix = function() return folder .. "/" end
    package.loaded["ngx.ssl"] = fake_ssl()
    handshake = fake.load("portero.tls.handshake")
end)

after_each(function()
    package.loaded["ngx.ssl"] = nil
    os.remove(folder .. "/tls.pem")
    os.remove(folder .. "/internal_tls.pem")
    os.remove(folder)
end)

local function start(text)
    put(text)
    handshake.start({ tls = {} })
end

describe("show", function()
    it("gives what is in the file, and what is there later", function()
        local first, second = certificates.own .. certificates.own_key,
            certificates.future .. certificates.future_key
        start(first)
        handshake.show("public")
        assert.same({ chain = first, key = first }, shown)
        put(second)
        fake.tick()
        handshake.show("public")
        assert.same({ chain = second, key = second }, shown)
    end)

    it("keeps what was in force when the file cannot be used, or is gone", function()
        local good = certificates.own .. certificates.own_key
        start(good)
        for _, bad in ipairs({ "junk", certificates.own }) do
            put(bad)
            fake.tick()
            handshake.show("public")
            assert.equal(good, shown.chain)
        end
        os.remove(folder .. "/tls.pem")
        fake.tick()
        handshake.show("public")
        assert.equal(good, shown.chain)
    end)

    it("gives each listener its own, and a bad one of one leaves the other alone", function()
        local public, internal = certificates.own .. certificates.own_key,
            certificates.future .. certificates.future_key
        put(internal, "internal_tls.pem")
        put(public)
        handshake.start({ tls = {}, internal_tls = {} })
        handshake.show("internal")
        assert.equal(internal, shown.chain)
        handshake.show("public")
        assert.equal(public, shown.chain)
        put("junk", "internal_tls.pem")
        fake.tick()
        handshake.show("internal")
        assert.equal(internal, shown.chain)
        assert.is_true(handshake.seconds_left("internal") > 0)
    end)

    it("leaves the file's own certificate where it has none", function()
        handshake.start({})
        handshake.show("public")
        assert.is_nil(shown)
    end)
end)

describe("seconds_left", function()
    it("tells when the certificate in force ends", function()
        assert.is_nil(handshake.seconds_left("public"))
        start(certificates.own .. certificates.own_key)
        assert.is_true(handshake.seconds_left("public") > 50 * 365 * 86400)
        put(certificates.ended .. certificates.ended_key)
        fake.tick()
        assert.is_true(handshake.seconds_left("public") < 0)
    end)
end)

describe("the warning", function()
    local crypto = require("portero.token.crypto")
    local real_times = crypto.times
    local both = { tls = {}, internal_tls = {} }

    local function begin(days, worker)
        fake.worker_id = worker or 0
        put(certificates.own .. certificates.own_key)
        put(certificates.own .. certificates.own_key, "internal_tls.pem")
        crypto.times = function() return -1, days * 86400 end
        handshake.start(both)
        return table.concat(fake.logged, "\n")
    end

    after_each(function() crypto.times = real_times end)

    it("comes from 14 days before the end, of either listener's", function()
        local said = begin(13.9)
        assert.truthy(said:find("the certificate ends in 13.9 days", 1, true))
        assert.truthy(said:find("the internal listener ends in 13.9 days", 1, true))
    end)

    it("does not come before, and from one worker alone", function()
        assert.equal("", begin(14.1))
        assert.equal("", begin(3, 1))
    end)
end)

describe("is_for", function()
    it("knows the names and addresses of the certificate alone", function()
        assert.is_false(handshake.is_for("door.lan"))
        start(certificates.own .. certificates.own_key)
        for _, host in ipairs({ "door.lan", "DOOR.LAN", "x.wild.lan", "127.0.0.1", "::1" }) do
            assert.is_true(handshake.is_for(host), host)
        end
        for _, host in ipairs({ "evil.example", "x.door.lan", "wild.lan", "a spec's own", "" }) do
            assert.is_false(handshake.is_for(host), host)
        end
    end)
end)
