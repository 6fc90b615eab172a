---------
-- The plain listener beside TLS: where it sends whom.

local fake_ngx = require("fake_ngx")

local fake, redirect, answered

before_each(function()
    fake = fake_ngx.install()
    package.loaded["portero.errors"] = {
        refuse = function(code) answered = code end,
        redirect = function(location, status) answered = { location, status } end,
    }
    package.loaded["portero.tls.handshake"] = {
        is_for = function(host) return host == "door.lan" or host == "::1" end,
    }
    redirect = fake.load("portero.tls.redirect")
end)

after_each(function()
    package.loaded["portero.errors"], package.loaded["portero.tls.handshake"] = nil, nil
end)

local function ask(host, target, settings)
    redirect.start(settings or { listen = "0.0.0.0:8443" })
    ngx.var.http_host, ngx.var.request_uri = host, target
    redirect.answer()
    return answered
end

describe("answer", function()
    it("sends to https by the name that was asked, with path and query", function()
        assert.same({ "https://door.lan:8443/v1/x?a=%20b", 308 },
            ask("door.lan:80", "/v1/x?a=%20b"))
        assert.same({ "https://[::1]:8443/", 308 }, ask("[::1]", "/"))
    end)

    it("names no port where it is that of https, and PUBLIC_URL's where there is one", function()
        local target = { "https://door.lan/", 308 }
        assert.same(target, ask("door.lan", "/", { listen = "10.0.0.1:443" }))
        local public = { listen = "0.0.0.0:8443", public_origin = "https://door.lan" }
        assert.same(target, ask("door.lan", "/", public))
        public.public_origin = "https://door.lan:444"
        assert.same({ "https://door.lan:444/", 308 }, ask("door.lan", "/", public))
    end)

    it("sends nobody to a name that the certificate does not have", function()
        for _, host in ipairs({ "evil.example", "door.lan.evil.example", "door.lan/x", "a@door.lan",
            "door.lan:80:80", "", "[::2]", "door.lan#" }) do
            assert.equal("other_host", ask(host, "/"), host)
        end
    end)

    it("sends nobody on who asks for no path", function()
        for _, target in ipairs({ "http://evil.example/", "*", "@evil.example/" }) do
            assert.equal("path_missing", ask("door.lan", target), target)
        end
    end)
end)
