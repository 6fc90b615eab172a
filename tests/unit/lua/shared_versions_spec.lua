---------
-- What a request reads at its beginning: the count of changes, and what it is the count of.

local fake_ngx = require("fake_ngx")

local fake, dict, shared_versions, other

before_each(function()
    fake = fake_ngx.install()
    dict = fake.shared.portero_sync
    shared_versions = fake.load("portero.shared_versions")
    other = fake.new_worker()("portero.shared_versions")
end)

--- What a request in this worker goes by.
local function seen_before(worker)
    return { worker.least(), worker.keys(), worker.policy() }
end

--- What the next one would go by.
local function seen_by(worker)
    worker.look()
    return seen_before(worker)
end

describe("two workers", function()
    it("are two in these specs, over one dictionary", function()
        assert.not_equal(shared_versions, other)
        shared_versions.set("name", "value")
        assert.equal("value", other.get("name"))
    end)

    it("see at their next look what either has raised", function()
        shared_versions.raise_least(1)
        other.raise_keys()
        shared_versions.raise_policy()
        assert.same({ 1, 1, 1 }, seen_by(shared_versions))
        assert.same({ 1, 1, 1 }, seen_by(other))
        other.raise_least(2)
        shared_versions.raise_keys()
        other.raise_policy()
        assert.same({ 2, 2, 2 }, seen_by(shared_versions))
        assert.same({ 2, 2, 2 }, seen_by(other))
    end)

    it("see nothing new before they look: a request is judged by one state", function()
        shared_versions.look()
        other.raise_least(3)
        other.raise_keys()
        other.raise_policy()
        assert.same({ 0, 0, 0 }, seen_before(shared_versions))
        assert.same({ 3, 1, 1 }, seen_by(shared_versions))
    end)

    it("do not undo each other when each raises another one at once", function()
        dict.meanwhile.incr = function() other.raise_keys() end
        shared_versions.raise_least(4)
        assert.same({ 4, 1, 0 }, seen_by(shared_versions))
        dict.meanwhile.incr = function() other.raise_least(9) end
        shared_versions.raise_policy()
        assert.same({ 9, 1, 1 }, seen_by(shared_versions))
        dict.meanwhile.incr = function() other.raise_policy() end
        shared_versions.raise_keys()
        assert.same({ 9, 2, 2 }, seen_by(shared_versions))
    end)

    it("raise a version twice when both raise it at once", function()
        for _, raise in ipairs({ "raise_keys", "raise_policy" }) do
            dict.meanwhile.incr = other[raise]
            shared_versions[raise]()
        end
        assert.same({ 0, 2, 2 }, seen_by(other))
    end)

    -- The end of a snapshot is sent again when its answer was lost: two workers may be at it.
    it("raise the least valid generation once when both raise it to the same", function()
        shared_versions.raise_least(1)
        dict.meanwhile.incr = function() other.raise_least(2) end
        shared_versions.raise_least(2)
        assert.same({ 2, 0, 0 }, seen_by(shared_versions))
    end)

    it("count no number twice", function()
        assert.equal(1, shared_versions.count("newest"))
        assert.equal(2, other.count("newest"))
        dict.meanwhile.incr = function() assert.equal(3, other.count("newest")) end
        assert.equal(4, shared_versions.count("newest"))
    end)
end)

describe("least, keys and policy", function()
    it("are 0 at the beginning", function()
        assert.same({ 0, 0, 0 }, seen_before(shared_versions))
        assert.same({ 0, 0, 0 }, seen_by(shared_versions))
    end)

    it("do not disturb each other, in whatever order they rise", function()
        local least, keys, policy = 0, 0, 0
        for step = 1, 500 do
            if step % 3 == 0 then
                least = least + step % 5 + 1
                shared_versions.raise_least(least)
            elseif step % 7 < 3 then
                policy = policy + 1
                shared_versions.raise_policy()
            else
                keys = keys + 1
                shared_versions.raise_keys()
            end
            assert.same({ least, keys, policy }, seen_by(other))
        end
    end)

    it("are 0 again in a gateway that was restarted empty", function()
        shared_versions.raise_least(3)
        shared_versions.raise_keys()
        shared_versions.raise_policy()
        dict.entries = {}
        assert.same({ 0, 0, 0 }, seen_by(shared_versions))
    end)
end)

describe("look", function()
    it("reads one number where nothing has changed", function()
        shared_versions.raise_least(1)
        shared_versions.look()
        local names = {}
        local get = dict.get
        dict.get = function(self, name)
            names[#names + 1] = name
            return get(self, name)
        end
        for _ = 1, 3 do
            shared_versions.look()
            assert.same({ 1, 0, 0 }, seen_before(shared_versions))
        end
        assert.same({ "changes", "changes", "changes" }, names)
    end)

    it("answers what is at least as new as the count it read", function()
        shared_versions.raise_least(1)
        local get = dict.get
        dict.get = function(...)
            dict.get = get
            local count = get(...)
            other.raise_least(2)
            return count
        end
        shared_versions.look()
        assert.equal(2, shared_versions.least())
        assert.same({ 2, 0, 0 }, seen_by(shared_versions))
    end)
end)

describe("changes", function()
    it("moves with whatever may take something away, in every worker", function()
        local CHANGES = {
            shared_versions.changed,
            shared_versions.raise_keys,
            shared_versions.raise_policy,
            function() shared_versions.raise_least(1) end,
        }
        other.look()
        assert.equal(0, other.changes())
        for _, change in ipairs(CHANGES) do
            local before = other.changes()
            change()
            assert.equal(before, other.changes())
            other.look()
            assert.is_true(other.changes() > before)
        end
    end)

    -- Who raised it may have been killed before he could count it; the issuer then sends it again.
    it("moves also where the least valid generation is what it shall be", function()
        dict:incr("least", 5, 0)
        shared_versions.raise_least(5)
        assert.same({ 5, 0, 0 }, seen_by(other))
    end)

    it("moves only when what it counts can be seen", function()
        local incr, raised, to = dict.incr, nil, { keys = 1, policy = 1, least = 7 }
        dict.incr = function(self, name, ...)
            if name == "changes" then
                assert.equal(to[raised], dict:get(raised))
            end
            return incr(self, name, ...)
        end
        for name in pairs(to) do
            raised = name
            shared_versions["raise_" .. name](7)
        end
        assert.same({ 7, 1, 1 }, seen_by(other))
    end)

    it("moves when a generation that was raised too high is taken back", function()
        shared_versions.raise_least(1)
        dict.meanwhile.incr = function() other.raise_least(3) end
        local incr, seen_too_high = dict.incr, nil
        dict.incr = function(self, name, by, ...)
            if name == "least" and by < 0 then
                other.changed()
                seen_too_high = seen_by(other)
            end
            return incr(self, name, by, ...)
        end
        shared_versions.raise_least(2)
        assert.same({ 4, 0, 0 }, seen_too_high)
        assert.same({ 3, 0, 0 }, seen_by(other))
    end)
end)

describe("is_ready", function()
    it("needs keys, a policy and a whole snapshot, in any order", function()
        local RAISES = {
            keys = shared_versions.raise_keys,
            policy = shared_versions.raise_policy,
            least = function() shared_versions.raise_least(1) end,
        }
        for _, order in ipairs({
            "keys policy least", "keys least policy", "policy keys least", "policy least keys",
            "least keys policy", "least policy keys",
        }) do
            dict.entries = {}
            for name in order:gmatch("%a+") do
                assert.is_false(shared_versions.is_ready())
                RAISES[name]()
            end
            assert.is_true(shared_versions.is_ready())
        end
    end)

    it("looks by itself", function()
        other.raise_keys()
        other.raise_policy()
        other.raise_least(1)
        assert.is_true(shared_versions.is_ready())
    end)

    it("is true while another snapshot is being filled", function()
        shared_versions.raise_keys()
        shared_versions.raise_policy()
        local active_tokens = fake.load("portero.token.active_tokens")
        active_tokens.end_snapshot(active_tokens.begin_snapshot())
        active_tokens.begin_snapshot()
        assert.is_true(shared_versions.is_ready())
    end)
end)

describe("set and get", function()
    it("keep a value for all workers", function()
        assert.is_nil(shared_versions.get("name"))
        shared_versions.set("name", 1)
        shared_versions.set("name", 2)
        assert.equal(2, other.get("name"))
    end)

    it("do not pass over in silence that there was no room", function()
        dict.most_entries = 0
        assert.has_error(function() shared_versions.set("name", 1) end)
        assert.has_error(function() shared_versions.raise_keys() end)
        assert.has_error(function() shared_versions.raise_policy() end)
        assert.has_error(function() shared_versions.raise_least(1) end)
        assert.has_error(function() shared_versions.count("newest") end)
    end)
end)
