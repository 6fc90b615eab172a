---------
-- Whom a login names, as far as the gateway reads it; what it reads otherwise than the issuer is
-- refused there (tests/unit/issuer/test_login_endpoints.py).

local fake_ngx = require("fake_ngx")

local FORM = "application/x-www-form-urlencoded"
local PARTS = "multipart/form-data; boundary=xyz"

local login_name

before_each(function()
    fake_ngx.install()
    login_name = fake_ngx.load("portero.request.login_name")
end)

local function basic(pair)
    return "Basic " .. fake_ngx.encode_base64(pair)
end

local function part(name, value, more)
    return ('--xyz\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n')
        :format(name, more or "", value)
end

describe("read", function()
    it("finds the name of Basic, and all of the header for the secret", function()
        for header, name in pairs({
            [basic("AGNR1:secret")] = "AGNR1", [basic("AGNR1:a:b")] = "AGNR1", [basic(":x")] = "",
            [basic("AGNR1:x"):lower():sub(1, 5) .. "   " .. basic("AGNR1:x"):sub(7)] = "AGNR1",
        }) do
            assert.same({ name, header }, { login_name.read("/llm/login", header) })
        end
    end)

    it("finds nobody where nothing is there to be checked", function()
        for _, header in ipairs({ "Basic", "Basic !!!", "Basic a:b", basic("no colon"),
            "Bearer x", "" }) do
            assert.is_nil(login_name.read("/llm/login", header), header)
        end
        assert.is_nil(login_name.read("/llm/login"))
        assert.is_nil(login_name.read("/oauth/introspect", "Bearer x", FORM, "client_id=A"))
    end)

    it("finds the field of a form, the first of several, as it was before it was sent", function()
        for body, name in pairs({
            ["username=USRS1&password=x"] = "USRS1",
            ["password=x&username=USRS1"] = "USRS1",
            ["username=USRS1&username=USRS2"] = "USRS1",
            ["user%6eame=USR%53+1"] = "USRS 1",
            ["username=a=b&x"] = "a=b", ["username"] = "", ["&&x=&username=U"] = "U",
            ["password=x"] = "", [""] = "",
        }) do
            assert.same({ name, body }, { login_name.read("/login", nil, FORM, body) })
        end
        assert.equal("U", (login_name.read("/login", nil, FORM:upper() .. " ; x=y", "username=U")))
    end)

    it("finds the part of a form, whatever stands before it", function()
        for body, name in pairs({
            [part("username", "USRS1") .. "--xyz--"] = "USRS1",
            [part("password", "x") .. part("username", "USRS1") .. "--xyz--\r\n"] = "USRS1",
            [part("password", "x\r\n--xy") .. part("username", "U\r\nV") .. "--xyz--"] = "U\r\nV",
            [part("usernames", "x") .. "--xyz--"] = "",
            ["username=x"] = "", [part("username", "never ends"):sub(1, -3)] = "never ends",
        }) do
            assert.equal(name, (login_name.read("/login", nil, PARTS, body)), body)
        end
        assert.equal("", (login_name.read("/login", nil, "multipart/form-data", "x")))
    end)

    it("finds the name in JSON", function()
        for body, name in pairs({
            ['{"username":"USRS1","password":"x"}'] = "USRS1",
            ['{"user\\u006eame":"USRS\\u0031"}'] = "USRS1",
            ['{"username":"a","username":"b"}'] = "b",
            ['{"username":1}'] = "", ["[1]"] = "", ["{"] = "", ["null"] = "",
        }) do
            assert.equal(name, (login_name.read("/admin/login", nil, "application/json", body)))
        end
    end)

    it("finds OAuth's client in the header or in the body", function()
        local body = "grant_type=client_credentials&client_id=AGNR1&client_secret=x"
        assert.equal("AGNR1", (login_name.read("/oauth/token", nil, FORM, body)))
        assert.equal("AGNR2", (login_name.read("/oauth/token", basic("AGNR2:x"), FORM, body)))
    end)

    it("finds a form's user in the form, whatever a front asks for", function()
        local header = basic("front:x")
        assert.equal("U", (login_name.read("/login", header, FORM, "username=U")))
    end)
end)

describe("is_of_body", function()
    it("tells which bodies must be read", function()
        for path, wanted in pairs({ ["/login"] = true, ["/auth/login"] = true,
            ["/admin/login"] = true, ["/oauth/token"] = true, ["/oauth/revoke"] = true,
            ["/oauth/introspect"] = true, ["/llm/login"] = false }) do
            assert.equal(wanted, login_name.is_of_body(path), path)
        end
    end)
end)
