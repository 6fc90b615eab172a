---------
-- The policy in force: what is taken, what is refused with the former one staying, and when a
-- worker builds it.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")
local policies = require("policies")

local HISTORY = policies.HISTORY

local fake, dict, shared_versions, decision, in_force

before_each(function()
    fake = fake_ngx.install()
    dict = fake.shared.portero_policy
    shared_versions = fake.load("portero.shared_versions")
    decision = fake.load("portero.policy.decision")
    in_force = fake.load("portero.policy.in_force")
end)

--- A policy that can be told from others.
local function policy_of(seconds)
    local listed = policies.listed()
    listed.roles.user.ttl_seconds = seconds
    return listed
end

local function put(serial, seconds)
    return in_force.put(HISTORY, serial, policy_of(seconds or serial))
end

--- As a request has it: it looks at the state once, at its beginning.
local function seconds_in_force(worker_versions, worker_in_force)
    (worker_versions or shared_versions).look()
    local policy = (worker_in_force or in_force).current()
    return policy and policy.roles.user.ttl_seconds
end

describe("current", function()
    it("is none before one was put", function()
        assert.is_nil(seconds_in_force())
    end)

    it("is none again where no version is known any more, whatever is kept", function()
        put(1)
        assert.equal(1, seconds_in_force())
        fake.shared.portero_sync.entries = {}
        assert.is_nil(seconds_in_force())
    end)

    it("is the one that was put last", function()
        put(1)
        assert.equal(1, seconds_in_force())
        put(2)
        assert.equal(2, seconds_in_force())
    end)

    it("is built as the issuer listed it: routes, limits, users and names", function()
        local listed = policies.listed()
        listed.roles.user.limits = { requests_per_minute = 5, models = { "a" } }
        listed.users = { USRSA = {}, USRSB = { limits = { concurrent_requests = 2 } } }
        listed.model_names = "exact"
        policies.put(fake, listed)
        assert.same(decision.load(listed), in_force.current())
    end)

    it("is what it was until a request looks: one request is judged by one policy", function()
        put(1)
        assert.equal(1, seconds_in_force())
        put(2)
        assert.equal(1, in_force.current().roles.user.ttl_seconds)
    end)

    it("is built once a version by each worker, and is the same table until then", function()
        put(1)
        local load, built = decision.load, 0
        decision.load = function(...)
            built = built + 1
            return load(...)
        end
        shared_versions.look()
        local first = in_force.current()
        for _ = 1, 3 do
            shared_versions.look()
            assert.equal(first, in_force.current())
        end
        shared_versions.changed()
        shared_versions.raise_keys()
        shared_versions.look()
        assert.equal(first, in_force.current())
        assert.equal(1, built)
    end)

    it("is what any worker was given, in all of them", function()
        local load = fake.new_worker()
        local versions, other = load("portero.shared_versions"), load("portero.policy.in_force")
        put(1)
        assert.equal(1, seconds_in_force(versions, other))
        assert.is_true(other.put(HISTORY, 2, policy_of(2)))
        assert.equal(2, seconds_in_force())
        assert.equal(2, seconds_in_force(versions, other))
    end)

    it("is there in a worker that begins later, as after a reload", function()
        put(7)
        local load = fake.new_worker()
        assert.equal(7, seconds_in_force(load("portero.shared_versions"),
            load("portero.policy.in_force")))
    end)

    it("stays what it was where what is kept cannot be built any more", function()
        put(1)
        assert.equal(1, seconds_in_force())
        dict.entries = {}
        shared_versions.raise_policy()
        shared_versions.look()
        assert.has_error(in_force.current)
        assert.equal(1, seconds_in_force())
    end)
end)

describe("put", function()
    it("raises the version of the policy each time it takes one, and of nothing else", function()
        for serial = 1, 3 do
            assert.is_true(put(serial))
            shared_versions.look()
            assert.equal(serial, shared_versions.policy())
        end
        assert.same({ 0, 0 }, { shared_versions.keys(), shared_versions.least() })
    end)

    it("takes the very policy again, whose answer may have been lost", function()
        put(4)
        assert.is_true(put(4))
        assert.equal(HISTORY .. ":4", in_force.mark())
    end)

    it("refuses an older one of the same history, and the newer one stays", function()
        put(10)
        for _, serial in ipairs({ 9, 0 }) do
            assert.same({ nil, "older" }, { put(serial) })
        end
        assert.equal(10, seconds_in_force())
        assert.equal(1, shared_versions.policy())
        assert.equal(HISTORY .. ":10", in_force.mark())
    end)

    it("takes any serial of another history: the store was made anew", function()
        put(10)
        assert.is_true(in_force.put("another", 1, policy_of(1)))
        assert.equal(1, seconds_in_force())
        assert.equal("another:1", in_force.mark())
    end)

    -- What is sent in place of a name, or of a policy.
    local FORMS = {
        ["no history"] = { nil, 2, policies.listed() },
        ["a history that is no text"] = { 1, 2, policies.listed() },
        ["a history of two lines"] = { "a\nb", 2, policies.listed() },
        ["a history that is null"] = { cjson.null, 2, policies.listed() },
        ["no serial"] = { HISTORY, nil, policies.listed() },
        ["a serial that is a text"] = { HISTORY, "2", policies.listed() },
        ["a fraction of a serial"] = { HISTORY, 1.5, policies.listed() },
        ["a serial below nothing"] = { HISTORY, -1, policies.listed() },
        ["a serial that is null"] = { HISTORY, cjson.null, policies.listed() },
        ["no policy"] = { HISTORY, 2, nil },
        ["a policy that is a text"] = { HISTORY, 2, "{}" },
        ["a policy that is a number"] = { HISTORY, 2, 1 },
        ["a policy that is null"] = { HISTORY, 2, cjson.null },
    }

    --- A table that is no policy: the good one with a part that is none.
    local function broken(change)
        local listed = policies.listed()
        change(listed)
        return { HISTORY, 2, listed }
    end

    for what, change in pairs({
        ["no roles"] = function(listed) listed.roles = nil end,
        ["no users"] = function(listed) listed.users = nil end,
        ["no routes"] = function(listed) listed.routes = nil end,
        ["roles that are null"] = function(listed) listed.roles = cjson.null end,
        ["a role that is none"] = function(listed) listed.roles.user = 1 end,
        ["a role that is null"] = function(listed) listed.roles.user = cjson.null end,
        ["a role without a code"] = function(listed) listed.roles.user.code = nil end,
        ["a code that is no text"] = function(listed) listed.roles.user.code = 1234 end,
        ["a code of three characters"] = function(listed) listed.roles.user.code = "USR" end,
        ["a role without a lifetime"] = function(listed) listed.roles.user.ttl_seconds = nil end,
        ["a lifetime that is a text"] = function(listed) listed.roles.user.ttl_seconds = "9" end,
        ["a user who is none"] = function(listed) listed.users.USRSA = true end,
        ["limits that are none"] = function(listed) listed.roles.user.limits = 1 end,
        ["limits that are null"] = function(listed) listed.roles.user.limits = cjson.null end,
        ["models that are a text"] = function(listed)
            listed.roles.user.limits = { models = "*" }
        end,
        ["a model that is no text"] = function(listed)
            listed.users.USRSA = { limits = { models = { {} } } }
        end,
        ["a route that is a text"] = function(listed) listed.routes[1] = "GET /x" end,
        ["a route without a path"] = function(listed) listed.routes[1].path = nil end,
        ["a route without a method"] = function(listed) listed.routes[1].method = nil end,
        ["a route without roles"] = function(listed) listed.routes[1].roles = nil end,
        ["a route whose roles are a text"] = function(listed) listed.routes[1].roles = "user" end,
        ["a route that nobody answers"] = function(listed) listed.routes[1].answered_by = nil end,
        ["a route of an unknown answerer"] = function(listed)
            listed.routes[1].answered_by = "another"
        end,
    }) do
        FORMS["a policy with " .. what] = broken(change)
    end

    for what, form in pairs(FORMS) do
        it(("refuses %s, and the former one stays in force"):format(what), function()
            put(1)
            assert.same({ nil, "form" }, { in_force.put(form[1], form[2], form[3]) })
            assert.equal(1, seconds_in_force())
            assert.equal(1, shared_versions.policy())
            assert.equal(HISTORY .. ":1", in_force.mark())
        end)
    end

    it("takes a policy without any route, by which nothing is there", function()
        assert.is_true(in_force.put(HISTORY, 1, { roles = {}, users = {}, routes = {} }))
        shared_versions.look()
        assert.same({}, in_force.current().routes)
    end)

    it("keeps it as it was pushed, whatever is made of it", function()
        local listed = policies.listed()
        listed.servers = { {
            name = "a", kind = "vllm", dialect = "openai", model_names = "exact", weight = 1,
            scheme = "http", host = "10.0.0.1", port = 80, authority = "10.0.0.1", path = "",
            models = { "qwen*" },
        } }
        listed.aliases = { { name = "gpt-*", models = { "qwen3" } } }
        local pushed = cjson.encode(listed)
        assert.is_true(in_force.put(HISTORY, 1, listed))
        assert.same(cjson.decode(pushed), cjson.decode(dict:get("value"):match("\n(.*)$")))
    end)

    it("says that there was no room, and the former one stays", function()
        put(1)
        dict.safe_set = function() return nil, "no memory" end
        assert.same({ nil, "no memory" }, { put(2) })
        assert.equal(1, seconds_in_force())
        assert.equal(HISTORY .. ":1", in_force.mark())
    end)

    it("says that it is busy where another writer does not end", function()
        dict:safe_add("lock", true)
        assert.same({ nil, "busy" }, { put(1) })
        assert.is_nil(seconds_in_force())
    end)
end)

describe("mark", function()
    it("is empty before there is a policy", function()
        assert.equal("", in_force.mark())
    end)

    it("names history and serial, for all workers", function()
        put(12)
        assert.equal(HISTORY .. ":12", fake.new_worker()("portero.policy.in_force").mark())
    end)

    it("is not there while there are workers that were not told", function()
        local raise, seen = shared_versions.raise_policy, nil
        local load = fake.new_worker()
        local versions = load("portero.shared_versions")
        versions.raise_policy = function()
            seen = in_force.mark()
            raise()
        end
        assert.is_true(load("portero.policy.in_force").put(HISTORY, 1, policy_of(1)))
        assert.equal("", seen)
        assert.equal(HISTORY .. ":1", in_force.mark())
    end)
end)
