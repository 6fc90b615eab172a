---------
-- API keys: what is kept of one, and what one that is shown may do (threats J31, N3).

local fake_ngx = require("fake_ngx")
local policies = require("policies")

local NOW = 1700000000
local ID = "kEyIdOfAsPec-_01"
local KEY = "sk-portero-" .. ID .. "-" .. ("s"):rep(42) .. "A"
--- Of KEY, by `sha256sum`.
local DIGEST = "d1338a11e3ec315ee1faa53b9085e8f4255c5b0d6380873611d4a4d53496e642"

local fake, api_keys, active_tokens, policy

local function put_policy(change)
    local listed = policies.listed()
    listed.roles.user.api_keys = { longest_seconds = 7776000 }
    if change then
        change(listed)
    end
    policy = policies.put(fake, listed)
end

before_each(function()
    fake = fake_ngx.install(NOW)
    api_keys = fake.load("portero.token.api_keys")
    active_tokens = fake.load("portero.token.active_tokens")
    put_policy()
    active_tokens.end_snapshot(active_tokens.begin_snapshot())
    active_tokens.heard()
    fake.load("portero.shared_versions").look()
end)

local function record_of(changes)
    local record = { digest = DIGEST, sub = "USRSABC123", iat = NOW - 10 }
    for name, value in pairs(changes or {}) do
        record[name] = value
    end
    return record
end

local function put(changes, exp)
    assert(api_keys.put(ID, exp or NOW + 60, record_of(changes), NOW))
end

local function claims(text, from)
    return api_keys.claims(text or KEY, from or 1, policy)
end

describe("is_one", function()
    it("tells by the beginning, wherever it stands", function()
        assert.is_true(api_keys.is_one(KEY, 1))
        assert.is_true(api_keys.is_one("Bearer " .. KEY, 8))
        assert.is_true(api_keys.is_one("sk-portero-", 1))
        for _, text in ipairs({ "", "s", "sk-portero", "SK-portero-x", "eyJh", " " .. KEY }) do
            assert.is_false(api_keys.is_one(text, 1))
        end
    end)
end)

describe("is_id", function()
    it("takes 16 characters of base64url", function()
        assert.is_true(api_keys.is_id(ID))
        for _, other in ipairs({ "", ID .. "A", ID:sub(2), ID:sub(2) .. "=", 1, true, {} }) do
            assert.is_false(api_keys.is_id(other))
        end
        assert.is_false(api_keys.is_id(nil))
    end)
end)

describe("is_record", function()
    it("takes what is known of a key, with models or without", function()
        assert.is_true(api_keys.is_record(record_of()))
        assert.is_true(api_keys.is_record(record_of({ models = { "a", "b*" } })))
    end)

    it("refuses what lacks a part, or has one of another form", function()
        for name in pairs(record_of()) do
            local record = record_of()
            record[name] = nil
            assert.is_false(api_keys.is_record(record))
        end
        for _, change in ipairs({
            { digest = DIGEST:sub(2) }, { digest = DIGEST .. "0" }, { digest = ("z"):rep(64) },
            { digest = 1 }, { sub = 1 }, { iat = "1" }, { iat = 1.5 }, { models = {} },
            { models = "a" }, { models = { 1 } }, { models = { a = "b" } },
        }) do
            assert.is_false(api_keys.is_record(record_of(change)))
        end
        assert.is_false(api_keys.is_record("x"))
        assert.is_false(api_keys.is_record(nil))
    end)
end)

describe("claims", function()
    it("are the owner's, by the policy in force", function()
        put()
        assert.same({
            jti = ID, sub = "USRSABC123", role = "user", iat = NOW - 10, exp = NOW + 60,
            is_api_key = true,
        }, claims())
        assert.equal(ID, claims("Bearer " .. KEY, 8).jti)
    end)

    it("have the user's limits, or else the role's", function()
        put()
        put_policy(function(listed) listed.roles.user.limits = { requests_per_minute = 5 } end)
        assert.equal(5, claims().limits.requests_per_minute)
        put_policy(function(listed)
            listed.users.USRSABC123 = { limits = { requests_per_minute = 7 } }
        end)
        assert.equal(7, claims().limits.requests_per_minute)
    end)

    it("end no later than the policy lets a key live", function()
        put(nil, NOW + 500)
        put_policy(function(listed) listed.roles.user.api_keys.longest_seconds = 100 end)
        assert.equal(NOW + 90, claims().exp)
    end)

    it("are none where the role has no keys, or is gone", function()
        put()
        put_policy(function(listed) listed.roles.user.api_keys = nil end)
        assert.same({ nil, "role" }, { claims() })
        put_policy(function(listed) listed.roles.user = nil end)
        assert.same({ nil, "role" }, { claims() })
    end)

    it("are narrowed to the key's own models: both lists must allow one", function()
        local model_name = fake.load("portero.policy.model_name")
        put({ models = { "a*", "c" } })
        local models = claims().limits.models
        assert.is_true(model_name.allows(models, "ab"))
        assert.is_true(model_name.allows(models, "c"))
        assert.is_false(model_name.allows(models, "b"))
        assert.is_false(claims().limits.is_counted)
        assert.is_nil(claims().limits.server_side)
        put_policy(function(listed) listed.roles.user.api_keys.server_side = { tools = false } end)
        assert.same({ tools = false }, claims().limits.server_side)
        put_policy(function(listed) listed.roles.user.limits = { models = { "ab*", "b" } } end)
        models = claims().limits.models
        assert.is_true(model_name.allows(models, "abc"))
        for _, name in ipairs({ "a", "b", "c" }) do
            assert.is_false(model_name.allows(models, name))
        end
    end)

    it("are nobody's for every text but the whole key", function()
        put()
        for at = 1, #KEY do
            local other = KEY:sub(at, at) == "x" and "y" or "x"
            assert.is_nil((claims(KEY:sub(1, at - 1) .. other .. KEY:sub(at + 1))))
            assert.is_nil((claims(KEY:sub(1, at - 1) .. KEY:sub(at + 1))))
        end
        for _, text in ipairs({ KEY .. "A", KEY .. " ", " " .. KEY, KEY:upper(), KEY .. "\0" }) do
            assert.is_nil((claims(text)))
        end
        assert.is_table(claims())
    end)

    it("tell a key that this gateway may not have been told of from nothing", function()
        assert.same({ nil, "unknown" }, { claims() })
        fake.clock.now = NOW + 10
        assert.same({ nil, "untold" }, { claims() })
        assert(active_tokens.revoke(ID, NOW + 60, NOW))
        assert.same({ nil, "unknown" }, { claims() })
    end)

    it("are not known before the first snapshot is whole", function()
        fake = fake_ngx.install(NOW)
        api_keys = fake.load("portero.token.api_keys")
        put_policy()
        assert.same({ nil, "untold" }, { claims() })
    end)

    it("are not known where a clock that was set has ended what was kept too early", function()
        assert(active_tokens.activate(ID, NOW + 60, NOW))
        assert.same({ nil, "untold" }, { claims() })
    end)
end)

describe("put and forget", function()
    it("keep a key until its end, and nothing of one that is over", function()
        put(nil, NOW + 60)
        fake.clock.now = NOW + 61
        assert.is_nil((claims()))
        fake.clock.now = NOW
        api_keys.forget(ID)
        assert.is_nil((claims()))
        put(nil, NOW)
        assert.is_nil((claims()))
    end)

    it("drop no live key where there is no room, and use that of those that are over", function()
        local dict = fake.ngx.shared.portero_api_keys
        dict.most_entries = 1
        put()
        local other = ("B"):rep(16)
        assert.is_falsy((api_keys.put(other, NOW + 60, record_of(), NOW)))
        assert.is_table(claims())
        fake.clock.now = NOW + 61
        assert.is_truthy((api_keys.put(other, NOW + 99, record_of(), NOW + 61)))
    end)

    it("keep no key, but its digest", function()
        put()
        local text = fake.ngx.shared.portero_api_keys:get(ID)
        assert.is_nil(text:find(("s"):rep(8), 1, true))
        assert.is_nil(text:find("sk-portero", 1, true))
    end)
end)

describe("limits", function()
    it("are the user's for a token, and the key's own for a key", function()
        put({ models = { "a" } })
        assert.is_nil(api_keys.limits(policy, "USRSABC123", "user", ("A"):rep(22)))
        assert.is_nil(api_keys.limits(policy, "USRSABC123", "user", ("A"):rep(16)))
        assert.is_true(api_keys.limits(policy, "USRSABC123", "user", ID).models.exact.a)
    end)
end)

describe("note_use, flush_uses and uses", function()
    it("tell when keys were used last, once they were flushed", function()
        api_keys.note_use(ID)
        api_keys.note_use(ID)
        assert.same({}, api_keys.uses())
        api_keys.flush_uses(NOW + 3)
        assert.same({ [ID] = NOW + 3 }, api_keys.uses())
        api_keys.flush_uses(NOW + 5)
        assert.same({ [ID] = NOW + 3 }, api_keys.uses())
    end)
end)

describe("tidy and memory", function()
    it("give back the room of what is over, and tell how much there is", function()
        put()
        local free, capacity = api_keys.memory()
        assert.is_true(free < capacity)
        api_keys.tidy(NOW)
        fake.clock.now = NOW + 61
        api_keys.tidy(NOW + 59)
        assert.equal(free, (api_keys.memory()))
        api_keys.tidy(NOW + 61)
        assert.equal(capacity, (api_keys.memory()))
    end)
end)
