---------
-- Questions of browsers before a page of another origin may ask: threats H23.

local fake_ngx = require("fake_ngx")

local fake, cors

before_each(function()
    fake = fake_ngx.install()
    cors = fake.load("portero.cors")
end)

local function question(origin_allowed, headers)
    fake.request({ method = "OPTIONS", target = "/v1/models", headers = headers })
    fake.ngx.var.cors_origin = origin_allowed
end

describe("is_preflight", function()
    local ASKED = { ["access-control-request-method"] = "POST" }

    it("is true for an allowed origin that asks for a method", function()
        question("https://a", ASKED)
        assert.is_true(cors.is_preflight("OPTIONS"))
    end)

    it("is false where no origin is allowed, or not this one", function()
        for _, allowed in ipairs({ false, "" }) do
            question(allowed or nil, ASKED)
            assert.is_false(cors.is_preflight("OPTIONS"))
        end
    end)

    it("is false without the method that is asked for, and for any other method", function()
        question("https://a", {})
        assert.is_false(cors.is_preflight("OPTIONS"))
        question("https://a", ASKED)
        assert.is_false(cors.is_preflight("POST"))
    end)
end)

describe("answer", function()
    it("is 204 with what may be sent, and allows neither cookies nor all origins", function()
        question("https://a", {})
        cors.answer()
        local answer = fake.answer
        assert.equal(204, answer.exit)
        assert.equal("", answer.body)
        for _, name in ipairs({ "Authorization", "Content-Type", "x-api-key" }) do
            assert.matches(name, answer.headers["access-control-allow-headers"], 1, true)
        end
        assert.matches("POST", answer.headers["access-control-allow-methods"], 1, true)
        assert.equal("600", answer.headers["access-control-max-age"])
        assert.is_nil(answer.headers["access-control-allow-credentials"])
        assert.is_nil(answer.headers["access-control-allow-origin"])
    end)
end)
