---------
-- The login endpoints: counted before the issuer is asked, and ended by what it answered; P4.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")

local HOME = "\203\0\113\7"
local FORM = "application/x-www-form-urlencoded"
--- What `guesses` answers, and what it was told.
local verdict, told

local fake, login_attempts

local function telling(name)
    return function(attempt) told[#told + 1] = name .. " " .. attempt.name end
end

before_each(function()
    fake = fake_ngx.install()
    verdict, told = {}, {}
    package.loaded["portero.quota.guesses"] = {
        begin = function(address, name, offered)
            if verdict[1] then
                return nil, unpack(verdict)
            end
            return { address = address, name = name, offered = offered }
        end,
        right = telling("right"), wrong = telling("wrong"), undecided = telling("undecided"),
    }
    login_attempts = fake.load("portero.quota.login_attempts")
end)

after_each(function()
    package.loaded["portero.quota.guesses"] = nil
end)

local number = 0

local function enter(request)
    number = number + 1
    request.method = request.method or "POST"
    fake.request(request)
    fake.ngx.var.request_id = "id" .. number
    fake.ngx.var.binary_remote_addr = HOME
    login_attempts.enter()
    return fake.ngx.var.login_told
end

local function basic()
    return enter({
        target = "/llm/login",
        headers = { Authorization = "Basic " .. fake_ngx.encode_base64("AGNR1:secret") },
    })
end

local function form(headers)
    headers = headers or {}
    headers["Content-Type"] = FORM
    return enter({ target = "/login?next=/", headers = headers, body = "username=USRS1" })
end

local function settle(status)
    fake.ngx.var.upstream_status = status
    login_attempts.settle()
end

describe("enter", function()
    it("tells the issuer whom it has read, or that it has read nobody", function()
        assert.equal("=41474e5231", basic())
        assert.equal("=5553525331", form())
        assert.equal("=", enter({ target = "/login", body = "" }))
        assert.equal("-", enter({ target = "/llm/login" }))
        local headers = { Authorization = "Bearer x" }
        assert.equal("-", enter({ target = "/agi/login", headers = headers }))
        assert.equal(0, fake.answer.endings)
    end)

    it("counts nothing where nothing is sent to be checked", function()
        for _, request in ipairs({ { method = "GET", target = "/login" },
            { method = "HEAD", target = "/login" }, { target = "/llm/login" } }) do
            verdict = { "too_many_guesses", 7 }
            enter(request)
            settle("401")
            assert.equal(0, fake.answer.endings)
        end
        assert.same({}, told)
    end)

    it("refuses another spelling before anything else", function()
        enter({ target = "/llm%2flogin", uri = "/llm/login" })
        assert.equal(400, fake.answer.exit)
        assert.equal(1, fake.answer.endings)
    end)

    it("says how long to wait", function()
        verdict = { "too_many_guesses", 6.2 }
        for _, ask in ipairs({ basic, form }) do
            ask()
            assert.equal(429, fake.answer.exit)
            assert.equal(7, fake.answer.headers["retry-after"])
            assert.equal("rate_limit_exceeded", fake.answer.headers["x-portero-code"])
            assert.equal("rate_limit_exceeded", cjson.decode(fake.answer.body).error.code)
        end
        verdict = { "not_ready" }
        basic()
        assert.equal(503, fake.answer.exit)
        assert.equal("1", fake.answer.headers["retry-after"])
    end)

    it("has the issuer show a browser the form again", function()
        verdict = { "too_many_guesses", 6.2 }
        assert.equal("wait 7", form({ Accept = "text/html" }))
        assert.equal(0, fake.answer.endings)
        verdict = { "not_ready" }
        form({ Accept = "text/html" })
        assert.equal(503, fake.answer.exit)
    end)
end)

describe("settle", function()
    it("ends an attempt by what the issuer answered, once", function()
        for status, ending in pairs({
            ["200"] = "right", ["302"] = "right", ["401"] = "wrong",
            ["400"] = "undecided", ["403"] = "undecided", ["429"] = "undecided",
            ["503"] = "undecided", ["504"] = "undecided", ["502, 503"] = "undecided",
        }) do
            told = {}
            basic()
            settle(status)
            settle(status)
            assert.same({ ending .. " AGNR1" }, told, status)
        end
        told = {}
        basic()
        settle(nil)
        assert.same({ "undecided AGNR1" }, told)
    end)

    it("ends nothing of a request that was refused", function()
        verdict = { "too_many_guesses", 1 }
        basic()
        settle("401")
        assert.same({}, told)
    end)
end)
