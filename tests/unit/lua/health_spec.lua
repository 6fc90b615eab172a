---------
-- Liveness and readiness: docs/http-api.md.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")

local fake, health

before_each(function()
    fake = fake_ngx.install()
    health = fake.load("portero.answer.health")
    fake.request({ target = "/readyz" })
end)

describe("healthz", function()
    it("answers yes and nothing more, ready or not", function()
        fake.request({ target = "/healthz" })
        health.healthz()
        assert.is_nil(fake.answer.exit)
        assert.same({ status = "ok" }, cjson.decode(fake.answer.body))
    end)
end)

describe("readyz", function()
    it("answers 503 with Retry-After before the first snapshot is whole", function()
        fake.load("portero.token.active_tokens").begin_snapshot()
        health.readyz()
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
            health.readyz()
            assert.equal(503, fake.answer.exit)
        end
    end)

    it("answers yes and nothing more once keys, policy and first snapshot are there", function()
        local active_tokens = fake.load("portero.token.active_tokens")
        fake.load("portero.shared_versions").raise_keys()
        fake.load("portero.shared_versions").raise_policy()
        active_tokens.end_snapshot(active_tokens.begin_snapshot())
        health.readyz()
        assert.is_nil(fake.answer.exit)
        assert.is_nil(fake.answer.status)
        assert.same({ status = "ready" }, cjson.decode(fake.answer.body))
    end)
end)
