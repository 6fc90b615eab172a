---------
-- The one reader of a credential: docs/http-api.md, threats H1-H4, I2, I5.

local fake_ngx = require("fake_ngx")

local fake, presented_token

before_each(function()
    fake = fake_ngx.install()
    presented_token = fake.load("portero.token.presented_token")
end)

--- The token is what stands behind the place that is answered.
local function read(headers, target)
    fake.request({ headers = headers, target = target })
    local text, fault, is_by_cookie, from = presented_token.read()
    return { text and text:sub(from), fault, is_by_cookie }
end

local MISSING = { nil, "missing", false }
local SEVERAL = { nil, "several", false }
--- A credential that is there and can be no token: it is refused, and nothing else is looked at.
local BAD = { "", nil, false }

local function sent(token) return { token, nil, false } end
local function by_cookie(token) return { token, nil, true } end

describe("read", function()
    -- What is sent, and what is read: H1-H4.
    local CASES = {
        { "nothing as missing", {}, MISSING },
        { "a bearer token", { authorization = "Bearer T" }, sent("T") },
        { "the scheme in small letters", { authorization = "bearer T" }, sent("T") },
        { "the scheme in capitals", { authorization = "BEARER T" }, sent("T") },
        { "two spaces behind the scheme as one (_h4)", { authorization = "Bearer  T" },
            sent("T") },
        { "many spaces behind the scheme as one (_h4)",
            { authorization = "bearer" .. (" "):rep(40) .. "T" }, sent("T") },
        { "no blanks around the value (_h4)", { authorization = "\t Bearer T \t" }, sent("T") },
        -- The verifier refuses these by their characters.
        { "two tokens as one", { authorization = "Bearer T U" }, sent("T U") },
        { "a list of tokens as one", { authorization = "Bearer T,U" }, sent("T,U") },
        { "a list of schemes as one", { authorization = "Bearer T, Basic x" },
            sent("T, Basic x") },
        { "a tab behind a space as part of the token", { authorization = "Bearer \tT" },
            sent("\tT") },
        { "a tab behind the scheme as no token", { authorization = "Bearer\tT" }, BAD },
        { "the scheme alone as no token", { authorization = "Bearer" }, BAD },
        { "the scheme and a space as no token", { authorization = "Bearer " }, BAD },
        { "a colon behind the scheme as no token", { authorization = "Bearer: T" }, BAD },
        { "an equals sign behind the scheme as no token", { authorization = "Bearer=T" }, BAD },
        { "another scheme as missing (_h8)", { authorization = "Token T" }, MISSING },
        { "Basic as missing (_h8)", { authorization = "Basic VDpU" }, MISSING },
        { "a longer scheme as missing (_h8)", { authorization = "Bearers T" }, MISSING },
        { "a bare token as missing (_h8)", { authorization = "T" }, MISSING },
        { "what begins with no scheme as missing (_h8)", { authorization = "=Bearer T" }, MISSING },
        { "an empty Authorization as missing (_h8)", { authorization = "" }, MISSING },
        { "an API key", { ["x-api-key"] = "T" }, sent("T") },
        { "no blanks around an API key", { ["x-api-key"] = "\t T\t " }, sent("T") },
        { "an API key of blanks as no token", { ["x-api-key"] = "\t" }, BAD },
        { "an API key by its bytes", { ["x-api-key"] = "Bearer T" }, sent("Bearer T") },
        { "an empty API key as no token", { ["x-api-key"] = "" }, BAD },
        { "the cookie", { cookie = "auth_token=T" }, by_cookie("T") },
        { "the cookie among others", { cookie = "a=b; auth_token=T; c=d" }, by_cookie("T") },
        { "the cookie without spaces", { cookie = "a=b;auth_token=T;c=d" }, by_cookie("T") },
        { "the cookie behind tabs", { cookie = "a=b;\t auth_token=T" }, by_cookie("T") },
        { "the cookie behind empty parts", { cookie = ";; ;auth_token=T" }, by_cookie("T") },
        { "the cookie in a second header", { cookie = { "a=b", "auth_token=T" } }, by_cookie("T") },
        { "no tabs around the cookies of a line (Q3)",
            { cookie = { "a=b\t", "\tauth_token=T\t" } }, by_cookie("T") },
        { "no tabs around the cookies of the only line (Q3)",
            { cookie = "\tauth_token=T\t" }, by_cookie("T") },
        { "a tab before a semicolon as part of the cookie", { cookie = "auth_token=T\t; a=b" },
            by_cookie("T\t") },
        { "an empty cookie as no token", { cookie = "auth_token=" }, by_cookie("") },
        { "a quoted cookie by its bytes", { cookie = 'auth_token="T"' }, by_cookie('"T"') },
        { "a cookie with a second =", { cookie = "auth_token=T=U" }, by_cookie("T=U") },
        { "no cookie behind a comma", { cookie = "x=1,auth_token=T" }, MISSING },
        { "no cookie behind a comma and a space", { cookie = "x=1, auth_token=T" }, MISSING },
        { "a comma as part of the cookie", { cookie = "auth_token=T,x=1" }, by_cookie("T,x=1") },
        { "no cookie of another case", { cookie = "AUTH_TOKEN=T; Auth_Token=T" }, MISSING },
        { "no cookie of a longer name", { cookie = "xauth_token=T; auth_tokens=T" }, MISSING },
        { "no cookie with a space in its name", { cookie = "auth_token =T" }, MISSING },
        { "no cookie with a prefix", { cookie = "__Host-auth_token=T" }, MISSING },
        { "no cookie in another's value", { cookie = "x=auth_token=T" }, MISSING },
        { "no cookie without a value", { cookie = "auth_token" }, MISSING },
        { "an empty Cookie header as missing", { cookie = "" }, MISSING },
        { "two cookies that differ as several",
            { cookie = "auth_token=T; auth_token=U" }, SEVERAL },
        { "three cookies, the last of which differs, as several",
            { cookie = "auth_token=T; auth_token=T; auth_token=U" }, SEVERAL },
        { "an empty and a full cookie as several",
            { cookie = "auth_token=; auth_token=U" }, SEVERAL },
        { "cookies of two headers that differ as several",
            { cookie = { "auth_token=T", "auth_token=U" } }, SEVERAL },
        { "two equal cookies as one", { cookie = "auth_token=T; auth_token=T" }, by_cookie("T") },
        { "two API keys that differ as several", { ["x-api-key"] = { "T", "U" } }, SEVERAL },
        { "a bearer token and a second API key as several",
            { authorization = "Bearer T", ["x-api-key"] = { "T", "U" } }, SEVERAL },
        { "a bearer token and another API key as several",
            { authorization = "Bearer T", ["x-api-key"] = "U" }, SEVERAL },
        { "a bearer token and an equal API key as one",
            { authorization = "Bearer T", ["x-api-key"] = "T" }, sent("T") },
        { "a bearer token and another cookie as several",
            { authorization = "Bearer T", cookie = "auth_token=U" }, SEVERAL },
        { "a bearer token and an equal cookie as sent by no browser",
            { authorization = "Bearer T", cookie = "auth_token=T" }, sent("T") },
        { "an API key and another cookie as several",
            { ["x-api-key"] = "T", cookie = "auth_token=U" }, SEVERAL },
        { "a bad Authorization and a cookie as several, and never the cookie",
            { authorization = "Bearer", cookie = "auth_token=T" }, SEVERAL },
        { "a bad Authorization and an API key as several",
            { authorization = "Bearer\tT", ["x-api-key"] = "T" }, SEVERAL },
        { "a cookie beside Basic as the cookie (_h8)",
            { authorization = "Basic VDpU", cookie = "auth_token=T" }, by_cookie("T") },
        { "an API key beside another scheme as the key (_h8)",
            { authorization = "Token U", ["x-api-key"] = "T" }, sent("T") },
        { "an empty API key and a cookie as several",
            { ["x-api-key"] = "", cookie = "auth_token=T" }, SEVERAL },
        { "three that are equal as one",
            { authorization = "Bearer T", ["x-api-key"] = "T", cookie = "auth_token=T" },
            sent("T") },
        { "a bearer token and two cookies that differ as several",
            { authorization = "Bearer T", cookie = "auth_token=T; auth_token=U" }, SEVERAL },
        { "no other header", { ["x-auth-token"] = "T", ["proxy-authorization"] = "Bearer T",
            ["api-key"] = "T", ["x-forwarded-authorization"] = "Bearer T" }, MISSING },
    }
    for _, case in ipairs(CASES) do
        it("reads " .. case[1], function()
            assert.same(case[3], read(case[2]))
        end)
    end

    describe("of who asks for WebSocket", function()
        local function offered(protocols, more)
            local headers = { upgrade = "websocket", ["sec-websocket-protocol"] = protocols }
            for name, value in pairs(more or {}) do
                headers[name] = value
            end
            return read(headers)
        end
        local ITS = "realtime, openai-insecure-api-key.T"

        it("is among the subprotocols too", function()
            assert.same(sent("T"), offered(ITS))
            assert.same(sent("T"), offered("openai-insecure-api-key.T,realtime"))
            assert.same(sent("T"), offered(ITS, { cookie = "auth_token=T" }))
            assert.same(MISSING, offered("realtime"))
            assert.same(sent(""), offered("openai-insecure-api-key."))
        end)

        it("is refused where two differ", function()
            assert.same(SEVERAL, offered(ITS .. ", openai-insecure-api-key.U"))
            assert.same(SEVERAL, offered(ITS, { cookie = "auth_token=U" }))
            assert.same(SEVERAL, offered(ITS, { ["x-api-key"] = "U" }))
        end)

        it("is looked for there of nobody else", function()
            assert.same(MISSING, read({ ["sec-websocket-protocol"] = ITS }))
        end)
    end)

    it("leaves a token of the usual form where it came, and takes any other out", function() -- _h4
        for value, from in pairs({
            ["Bearer T"] = 8, ["bearer T"] = 8, ["Bearer  T"] = 1, ["Bearer T\t"] = 1,
        }) do
            fake.request({ headers = { authorization = value } })
            local text, _, _, begin = presented_token.read()
            assert.same({ from == 8 and value or "T", from }, { text, begin })
        end
    end)

    it("reads nothing from the query", function() -- I2
        assert.same(MISSING, read({}, "/?auth_token=T&access_token=T&token=T"))
    end)

    it("reads a long Cookie header to its end", function() -- H16
        local header = ("a=b; "):rep(10000) .. "auth_token=T"
        assert.same(by_cookie("T"), read({ cookie = header }))
    end)
end)

describe("among_protocols", function()
    it("answers the token, nothing, or false for several", function()
        for protocols, expected in pairs({
            ["a, openai-insecure-api-key.T"] = "T", ["a"] = false,
            ["openai-insecure-api-key.T,openai-insecure-api-key.T"] = "T",
        }) do
            fake.request({ headers = { ["sec-websocket-protocol"] = protocols } })
            assert.equal(expected or nil, presented_token.among_protocols())
        end
        fake.request({ headers = {
            ["sec-websocket-protocol"] = "openai-insecure-api-key.T, openai-insecure-api-key.U",
        } })
        assert.is_false(presented_token.among_protocols())
    end)
end)

describe("is_protocol", function()
    it("is so of a credential by its beginning", function()
        assert.is_true(presented_token.is_protocol("openai-insecure-api-key.T"))
        assert.is_false(presented_token.is_protocol("realtime"))
    end)
end)
