---------
-- What a client asks for that would speak WebSocket: RFC 6455 section 4.2.1.

local fake_ngx = require("fake_ngx")

local KEY = "dGhlIHNhbXBsZSBub25jZQ=="

local fake, upgrade

before_each(function()
    fake = fake_ngx.install()
    rawset(fake.ngx, "sha1_bin", function(text) return "digest of " .. text end)
    upgrade = fake.load("portero.request.upgrade")
end)

local function asked(changes)
    local headers = {
        upgrade = "websocket", connection = "Upgrade", ["sec-websocket-version"] = "13",
        ["sec-websocket-key"] = KEY,
    }
    for name, value in pairs(changes or {}) do
        headers[name] = value or nil
    end
    fake.request({ headers = headers })
    return upgrade.read(fake.ngx.var)
end

describe("read", function()
    it("answers the key, and what its answer must say", function()
        local its = asked()
        assert.equal(KEY, its.key)
        assert.equal("digest of " .. KEY .. "258EAFA5-E914-47DA-95CA-C5AB0DC85B11",
            fake.ngx.decode_base64(its.accept))
        assert.same({}, its.protocols)
    end)

    it("takes names in any case, and among others", function()
        assert.is_table(asked({ upgrade = "WebSocket", connection = "keep-alive, Upgrade" }))
    end)

    for _, changes in ipairs({ { upgrade = false }, { upgrade = "h2c" }, { connection = "close" },
        { connection = false }, { ["sec-websocket-version"] = "8" },
        { ["sec-websocket-version"] = false } }) do
        it("asks for an upgrade where " .. next(changes) .. " is another", function()
            assert.same({ nil, "upgrade_required" }, { asked(changes) })
        end)
    end

    for _, key in ipairs({ "", "short", ("A"):rep(24), KEY .. "==", "!" .. KEY:sub(2) }) do
        it("takes no key of another form: " .. key, function()
            assert.same({ nil, "handshake_malformed" }, { asked({ ["sec-websocket-key"] = key }) })
        end)
    end

    it("passes subprotocols on but for a credential", function()
        local its = asked({
            ["sec-websocket-protocol"] = "realtime,openai-insecure-api-key.T, openai-beta.x",
        })
        assert.equal("realtime openai-beta.x", table.concat(its.protocols, " "))
    end)
end)

describe("is_asked", function()
    it("is so where the header names WebSocket", function()
        assert.is_false(upgrade.is_asked({}))
        assert.is_false(upgrade.is_asked({ http_upgrade = "h2c" }))
        assert.is_true(upgrade.is_asked({ http_upgrade = "websocket" }))
    end)
end)

describe("protocol", function()
    local function chosen(offered, by_server)
        return { upgrade.protocol({ protocols = offered }, by_server) }
    end

    it("is what the LLM server has chosen, if it was offered", function()
        assert.same({ "a", true }, chosen({ "a", a = true }, "a"))
        assert.same({ "b", false }, chosen({ "a", a = true }, "b"))
    end)

    it("is realtime where it was offered and nothing was chosen, as browsers want one", function()
        assert.same({ "realtime", true }, chosen({ "realtime", realtime = true }, nil))
        assert.same({ nil, true }, chosen({ "a", a = true }, ""))
        assert.same({ nil, true }, chosen({}, nil))
    end)
end)
