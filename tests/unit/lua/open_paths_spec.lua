---------
-- The open paths: each in the one way it is written, by its methods.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")

local fake, open_paths

before_each(function()
    fake = fake_ngx.install()
    open_paths = fake.load("portero.request.open_paths")
end)

--- What nginx makes of a path, and the ways it was asked for.
local SPELLINGS = {
    ["/llm/login"] = {
        "//llm/login", "/llm//login", "/%6clm/login", "/llm%2flogin", "/./llm/login",
        "/x/../llm/login", "/llm/login#x", "/llm/logi%6E", "/%6clm/login?next=/llm/login",
    },
    ["/x?y"] = { "/x%3fy" },
}

local function each_spelling(action)
    for path, spellings in pairs(SPELLINGS) do
        for _, asked in ipairs(spellings) do
            fake.request({ method = "POST", target = asked, uri = path })
            action()
            assert.equal(400, fake.answer.exit, asked)
            local content = cjson.decode(fake.answer.body).error
            assert.equal("invalid_request", content.code)
            assert.is_truthy(content.message:find("^The path has "), content.message)
            assert.equal(1, fake.answer.endings)
        end
    end
end

local AS_WRITTEN = { "/llm/login", "/login?", "/login?next=/admin/", "/login?next=//x/../y%2f" }

describe("enter", function()
    it("refuses a path that is spelled in another way", function()
        each_spelling(open_paths.enter)
    end)

    it("leaves a path as it is written to the issuer, with any query and by any method", function()
        for _, target in ipairs(AS_WRITTEN) do
            for _, method in ipairs({ "GET", "POST", "OPTIONS", "FOO" }) do
                fake.request({ method = method, target = target })
                open_paths.enter()
                assert.equal(0, fake.answer.endings, target)
            end
        end
    end)

    it("answers a browser's question before a login, where its origin is named", function()
        local asks = { ["access-control-request-method"] = "POST" }
        for origin, status in pairs({ ["https://a"] = 204, [""] = false }) do
            fake.request({ method = "OPTIONS", target = "/llm/login", headers = asks })
            fake.ngx.var.cors_origin = origin
            open_paths.enter()
            assert.equal(status, fake.answer.exit or false)
        end
    end)
end)

describe("what the gateway answers itself", function()
    local PATHS = { healthz = "/healthz", readyz = "/readyz", to_console = "/admin" }

    for name, path in pairs(PATHS) do
        it("refuses a path that is spelled in another way: " .. path, function()
            each_spelling(open_paths[name])
        end)

        it("answers GET and HEAD alike: " .. path, function()
            for _, method in ipairs({ "GET", "HEAD" }) do
                fake.request({ method = method, target = path .. "?x", uri = path })
                open_paths[name]()
                assert.is_not.equal(405, fake.answer.exit)
                assert.is_not.equal(400, fake.answer.exit)
            end
        end)

        it("answers any other method with 405 and the methods there are: " .. path, function()
            for _, method in ipairs({ "POST", "PUT", "DELETE", "OPTIONS", "FOO", "get" }) do
                fake.request({ method = method, target = path })
                open_paths[name]()
                assert.equal(405, fake.answer.exit)
                assert.equal("GET, HEAD", fake.answer.headers.allow)
                assert.equal("method_not_allowed", cjson.decode(fake.answer.body).error.code)
            end
        end)
    end
end)

describe("healthz", function()
    it("answers yes and nothing more, ready or not", function()
        fake.request({ target = "/healthz" })
        open_paths.healthz()
        assert.is_nil(fake.answer.exit)
        assert.same({ status = "ok" }, cjson.decode(fake.answer.body))
    end)
end)

describe("readyz", function()
    it("answers 503 with Retry-After before the first snapshot is whole", function()
        fake.load("portero.token.active_tokens").begin_snapshot()
        fake.request({ target = "/readyz" })
        open_paths.readyz()
        assert.equal(503, fake.answer.exit)
        assert.equal("1", fake.answer.headers["retry-after"])
        assert.equal("not_ready", cjson.decode(fake.answer.body).error.code)
    end)

    it("answers 503 while one of keys, policy and snapshot is missing", function()
        local shared_versions = fake.load("portero.shared_versions")
        local active_tokens = fake.load("portero.token.active_tokens")
        local BRING = {
            shared_versions.raise_keys,
            shared_versions.raise_policy,
            function() active_tokens.end_snapshot(active_tokens.begin_snapshot()) end,
        }
        for missing in ipairs(BRING) do
            fake.shared.portero_sync.entries = {}
            for index, bring in ipairs(BRING) do
                if index ~= missing then
                    bring()
                end
            end
            fake.request({ target = "/readyz" })
            open_paths.readyz()
            assert.equal(503, fake.answer.exit)
        end
    end)

    it("answers yes and nothing more once keys, policy and first snapshot are there", function()
        local active_tokens = fake.load("portero.token.active_tokens")
        fake.load("portero.shared_versions").raise_keys()
        fake.load("portero.shared_versions").raise_policy()
        active_tokens.end_snapshot(active_tokens.begin_snapshot())
        fake.request({ target = "/readyz" })
        open_paths.readyz()
        assert.is_nil(fake.answer.exit)
        assert.is_nil(fake.answer.status)
        assert.same({ status = "ready" }, cjson.decode(fake.answer.body))
    end)
end)

describe("allowed", function()
    it("names the methods of every open path, and of no other", function()
        local conf = assert(io.open("openresty/conf/public.conf", "rb"))
        local text, count = conf:read("*a"), 0
        conf:close()
        for path in text:gmatch("location = (/%S+)") do
            assert.matches("^[A-Z, ]+$", open_paths.allowed(path).Allow)
            count = count + 1
        end
        assert.equal(26, count)
        assert.equal("POST", open_paths.allowed("/llm/login").Allow)
        for _, path in ipairs({ "/", "/v1/models", "//llm/login" }) do
            assert.is_nil(open_paths.allowed(path))
        end
    end)
end)

describe("to_console", function()
    it("sends to the console's path on this host for good, whatever the host is called", function()
        fake.request({ target = "/admin", headers = { host = "evil.example" } })
        open_paths.to_console()
        assert.equal("/admin/", fake.answer.redirect)
        assert.equal(308, fake.answer.ended_with)
    end)
end)
