---------
-- Readiness: contract sections 5 and 8.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")

local fake, health

before_each(function()
    fake = fake_ngx.install()
    health = fake.load("portero.health")
    fake.request({ target = "/readyz" })
end)

describe("readyz", function()
    it("answers 503 with Retry-After before the first snapshot is whole", function()
        fake.load("portero.active_tokens").begin_snapshot()
        health.readyz()
        assert.equal(503, fake.answer.exit)
        assert.equal("1", fake.answer.headers["retry-after"])
        assert.equal("not_ready", cjson.decode(fake.answer.body).error.code)
    end)

    it("answers yes and nothing more once the first snapshot is whole", function()
        local active_tokens = fake.load("portero.active_tokens")
        active_tokens.end_snapshot(active_tokens.begin_snapshot())
        health.readyz()
        assert.is_nil(fake.answer.exit)
        assert.is_nil(fake.answer.status)
        assert.same({ status = "ready" }, cjson.decode(fake.answer.body))
    end)
end)
