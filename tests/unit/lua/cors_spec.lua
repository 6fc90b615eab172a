---------
-- Questions of browsers before a page of another origin may ask: threats H23.

local fake_ngx = require("fake_ngx")

local fake, cors

before_each(function()
    fake = fake_ngx.install()
    cors = fake.load("portero.request.cors")
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

describe("what is asked for", function()
    local function answer_to(headers)
        question("https://a", headers)
        cors.answer()
        return fake.answer.headers
    end

    it("is allowed beside the usual headers, whatever its names are", function() -- o2
        for _, names in ipairs({
            "x-title,http-referer,traceparent", "x-title", "X-A, x-b", "x_y", "authorization",
            ("x-long,"):rep(200) .. "x",
        }) do
            local headers = answer_to({ ["access-control-request-headers"] = names })
            local allowed = headers["access-control-allow-headers"]
            assert.matches(", " .. names, allowed, 1, true)
            assert.matches("Authorization", allowed, 1, true)
        end
    end)

    it("is allowed as a method, too", function() -- o2
        for _, method in ipairs({ "PATCH", "QUERY", "POST" }) do
            local headers = answer_to({ ["access-control-request-method"] = method })
            local allowed = headers["access-control-allow-methods"]
            assert.matches(method, allowed, 1, true)
            assert.matches("DELETE", allowed, 1, true)
        end
    end)

    it("is left out where it is no list of names, or too long", function() -- o2
        local usual = answer_to({})
        for _, names in ipairs({
            "", "*", "x-a, *", "x a: b", "x-a\r\nx-b: c", "x-a;y", "x-\195\188", '"x"',
            ("x"):rep(2049),
        }) do
            local headers = answer_to({
                ["access-control-request-headers"] = names,
                ["access-control-request-method"] = names .. " ",
            })
            for _, what in ipairs({ "headers", "methods" }) do
                local name = "access-control-allow-" .. what
                assert.equal(usual[name], headers[name])
            end
        end
    end)

    it("may be a way into a private network", function() -- o2
        local name = "access-control-request-private-network"
        assert.equal("true", answer_to({ [name] = "true" })["access-control-allow-private-network"])
        assert.is_nil(answer_to({ [name] = "x" })["access-control-allow-private-network"])
        assert.is_nil(answer_to({})["access-control-allow-private-network"])
    end)

    it("is what the answer varies by", function() -- o2
        local vary = answer_to({}).vary
        assert.matches("Access%-Control%-Request%-Headers", vary)
        assert.matches("Access%-Control%-Request%-Method", vary)
    end)
end)
