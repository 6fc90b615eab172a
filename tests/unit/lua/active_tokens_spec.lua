---------
-- The projection of the sessions: docs/sync.md, threats S2, S3, S5, S6, S9.

local fake_ngx = require("fake_ngx")

local NOW = 1700000000
local EXP = NOW + 100

local fake, tokens, dict, shared_versions, active_tokens
--- What a worker remembers of each token that was activated.
local claims_of

before_each(function()
    claims_of = {}
    fake = fake_ngx.install(NOW)
    tokens, dict = fake.shared.portero_active_tokens, fake.shared.portero_sync
    shared_versions = fake.load("portero.shared_versions")
    active_tokens = fake.load("portero.token.active_tokens")
    shared_versions.raise_keys()
    shared_versions.raise_policy()
end)

local function activate(jti, exp)
    claims_of[jti] = claims_of[jti] or { jti = jti, exp = exp or EXP }
    return active_tokens.activate(jti, exp or EXP, fake.clock.now)
end

local function revoke(jti, exp)
    return active_tokens.revoke(jti, exp or EXP, fake.clock.now)
end

--- As a request asks: it looks at the state once, at its beginning. What is remembered of a token
--- that has not ended must say the same, whatever has happened.
local function look_up(jti)
    shared_versions.look()
    local active, known = active_tokens.is_active(jti)
    local claims = claims_of[jti]
    if claims and fake.clock.now < claims.exp then
        assert.same({ active, known }, { active_tokens.holds(claims) })
    end
    return active, known
end

local function is_active(jti)
    return (look_up(jti))
end

local function snapshot(...)
    local generation = active_tokens.begin_snapshot()
    for _, jti in ipairs({ ... }) do
        activate(jti)
    end
    active_tokens.end_snapshot(generation)
    return generation
end

describe("is_active", function()
    it("answers as of the request's look at the state, whatever comes after it", function()
        activate("a")
        shared_versions.look()
        snapshot("b")
        assert.is_nil((active_tokens.is_active("b")))
        shared_versions.look()
        assert.is_true((active_tokens.is_active("b")))
    end)

    it("is nil, neither yes nor no, before the first snapshot is whole", function()
        activate("a")
        active_tokens.begin_snapshot()
        activate("b")
        assert.same({ nil, false }, { look_up("a") })
        assert.same({ nil, false }, { look_up("b") })
    end)

    it("is true for what a snapshot named, and false and unknown for all else", function()
        snapshot("a")
        assert.same({ true, true }, { look_up("a") })
        assert.same({ false, false }, { look_up("b") })
    end)

    it("is false and known for what was revoked", function()
        snapshot("a")
        revoke("a")
        assert.same({ false, true }, { look_up("a") })
    end)

    it("is true for what came before the first snapshot and is named in it", function()
        activate("a")
        snapshot("a")
        assert.is_true(is_active("a"))
    end)

    it("is false and unknown once its time is over", function()
        snapshot("a")
        fake.clock.now = EXP + 0.002
        assert.same({ false, false }, { look_up("a") })
    end)
end)

describe("activate and revoke", function()
    before_each(function() snapshot() end)

    it("makes a token active at once", function()
        assert.is_true(activate("a"))
        assert.is_true(is_active("a"))
    end)

    it("may be repeated", function()
        for _ = 1, 3 do
            assert.is_true(activate("a"))
        end
        assert.is_true(is_active("a"))
        for _ = 1, 3 do
            assert.is_true(revoke("a"))
        end
        assert.is_false(is_active("a"))
    end)

    it("lets revoked win when it comes last", function()
        activate("a")
        revoke("a")
        assert.is_false(is_active("a"))
    end)

    it("lets revoked win when it comes first", function() -- S2
        revoke("a")
        assert.is_true(activate("a"))
        assert.is_false(is_active("a"))
    end)

    it("lets revoked win in every order of three messages", function()
        local a, r = activate, revoke
        for index, order in ipairs({ { a, a, r }, { a, r, a }, { r, a, a }, { r, r, a } }) do
            for _, change in ipairs(order) do
                change("jti" .. index)
            end
            assert.is_false(is_active("jti" .. index))
        end
    end)

    it("keeps a tombstone through all snapshots that still name the token", function() -- S3
        revoke("a")
        for _ = 1, 50 do
            snapshot("a")
            assert.same({ false, true }, { look_up("a") })
        end
    end)

    it("keeps a tombstone until the token's own end at least, and not for ever", function()
        revoke("a")
        fake.clock.now = EXP - 0.001
        activate("a")
        assert.is_false(is_active("a"))
        fake.clock.now = EXP + 3600
        assert.is_nil(tokens:get("a"))
    end)

    -- `proxy_read_timeout`: a stream that the token opened may be silent for as long.
    it("keeps a tombstone for 600 seconds beyond the token's end, whenever it came", function()
        revoke("a")
        fake.clock.now = EXP - 0.5
        activate("b")
        revoke("b")
        for _, jti in ipairs({ "a", "b" }) do
            fake.clock.now = EXP + 599.9
            assert.same({ false, true }, { look_up(jti) })
            fake.clock.now = EXP + 600.1
            assert.same({ false, false }, { look_up(jti) })
        end
    end)

    it("activates nothing whose time is over", function()
        for _, exp in ipairs({ NOW, NOW - 1, 0, -5 }) do
            assert.is_true(activate("a", exp))
        end
        assert.equal(0, tokens:count())
    end)

    it("keeps the tombstone of a token whose time is over for its streams to find", function()
        for index, exp in ipairs({ NOW, NOW - 1, 0, -5 }) do
            local jti = "jti" .. index
            assert.is_true(revoke(jti, exp))
            assert.same({ false, true }, { look_up(jti) })
            assert.is_near(600, tokens:ttl(jti), 0.01)
        end
    end)

    it("keeps an active entry for no longer than its token", function()
        fake.clock.now = NOW + 0.5
        activate("a")
        assert.is_near(99.5, tokens:ttl("a"), 0.002)
    end)

    -- nginx cuts a ttl to whole milliseconds, and an entry with ttl 0 never ends.
    it("keeps no entry for ever that is written in the last millisecond", function()
        fake.clock.now = EXP - 0.0001
        activate("a")
        assert.is_near(0.001, tokens:ttl("a"), 0.0002)
        revoke("b")
        fake.clock.now = EXP + 3600
        assert.is_nil(tokens:get("a"))
        assert.is_nil(tokens:get("b"))
    end)
end)

describe("holds", function()
    local function holds(jti)
        shared_versions.look()
        return active_tokens.holds(claims_of[jti])
    end

    local function count_look_ups(jti)
        local look_ups, get = { count = 0 }, tokens.get
        tokens.get = function(self, key)
            look_ups.count = look_ups.count + (key == jti and 1 or 0)
            return get(self, key)
        end
        return look_ups
    end

    it("asks the dictionary once while nothing is taken away", function()
        snapshot("a")
        local look_ups = count_look_ups("a")
        for _ = 1, 3 do
            assert.same({ true, true }, { holds("a") })
            activate("b")
        end
        assert.equal(1, look_ups.count)
    end)

    it("asks again after any revocation, end of a snapshot, other keys or policy", function()
        local generation = snapshot("a")
        local CHANGES = {
            function() revoke("another") end,
            function() active_tokens.end_snapshot(generation) end,
            shared_versions.raise_keys,
            shared_versions.raise_policy,
        }
        for _, change in ipairs(CHANGES) do
            assert.is_true((holds("a")))
            change()
            local look_ups = count_look_ups("a")
            assert.is_true((holds("a")))
            assert.equal(1, look_ups.count)
        end
    end)

    it("remembers no 'no'", function()
        snapshot()
        claims_of.a = { jti = "a", exp = EXP }
        assert.is_false((holds("a")))
        activate("a")
        assert.is_true((holds("a")))
    end)

    -- The tombstone is written first and counted after.
    it("is false as soon as a revocation is counted, in every worker", function()
        snapshot("a")
        assert.is_true((holds("a")))
        local incr = dict.incr
        dict.incr = function(self, ...)
            assert.is_false((active_tokens.is_active("a")))
            return incr(self, ...)
        end
        revoke("a")
        assert.is_false((holds("a")))
    end)

    it("is false after a revocation that came between its look and its look-up", function()
        snapshot("a")
        shared_versions.look()
        tokens.meanwhile.get = function() revoke("a") end
        assert.is_false((active_tokens.holds(claims_of.a)))
        assert.is_false((holds("a")))
    end)

    it("is false after a revocation that came behind its look-up", function()
        snapshot("a")
        shared_versions.look()
        local get = tokens.get
        tokens.get = function(...)
            tokens.get = get
            local number = get(...)
            revoke("a")
            return number
        end
        assert.is_true((active_tokens.holds(claims_of.a)))
        assert.is_false((holds("a")))
    end)

    it("is nil in a gateway that was emptied", function()
        snapshot("a")
        assert.is_true((holds("a")))
        dict.entries, tokens.entries = {}, {}
        assert.is_nil((holds("a")))
    end)

    -- Who wrote it may have been killed before he could count it.
    it("is false after a revocation that was sent again", function()
        snapshot("a")
        assert.is_true((holds("a")))
        tokens:safe_set("a", -2 ^ 50, 100)
        revoke("a")
        assert.is_false((holds("a")))
    end)
end)

describe("a snapshot", function()
    it("counts its generations upwards", function()
        assert.equal(1, active_tokens.begin_snapshot())
        assert.equal(2, active_tokens.begin_snapshot())
        assert.equal(3, active_tokens.begin_snapshot())
    end)

    it("hides what it does not name", function()
        snapshot("a", "b")
        snapshot("b")
        assert.is_false(is_active("a"))
        assert.is_true(is_active("b"))
    end)

    it("hides nothing before its end", function() -- S3
        snapshot("a")
        local generation = active_tokens.begin_snapshot()
        activate("b")
        assert.is_true(is_active("a"))
        assert.is_true(is_active("b"))
        active_tokens.end_snapshot(generation)
        assert.is_false(is_active("a"))
        assert.is_true(is_active("b"))
    end)

    it("that is never ended changes nothing, and the next one is whole by itself", function() -- S4
        snapshot("a", "b")
        active_tokens.begin_snapshot()
        activate("a")
        assert.is_true(is_active("b"))
        snapshot("b")
        assert.is_false(is_active("a"))
        assert.is_true(is_active("b"))
    end)

    it("keeps a login that comes while it is being filled", function()
        snapshot("a")
        local generation = active_tokens.begin_snapshot()
        activate("login")
        activate("a")
        active_tokens.end_snapshot(generation)
        assert.is_true(is_active("login"))
    end)

    it("keeps a revocation that comes while it is being filled", function()
        snapshot("a")
        local generation = active_tokens.begin_snapshot()
        activate("a")
        revoke("a")
        active_tokens.end_snapshot(generation)
        assert.is_false(is_active("a"))
    end)

    it("can bring back what an earlier one did not name", function()
        snapshot("a")
        snapshot()
        snapshot("a")
        assert.is_true(is_active("a"))
    end)
end)

describe("is_newest", function()
    it("is true for the generation of the last begun snapshot alone", function()
        assert.is_false(active_tokens.is_newest(0))
        local first = active_tokens.begin_snapshot()
        assert.is_true(active_tokens.is_newest(first))
        local second = active_tokens.begin_snapshot()
        assert.is_false(active_tokens.is_newest(first))
        assert.is_true(active_tokens.is_newest(second))
    end)

    it("is false for what is no number", function()
        local generation = active_tokens.begin_snapshot()
        for _, other in ipairs({ tostring(generation), true, {}, 1.5, 0 / 0 }) do
            assert.is_false(active_tokens.is_newest(other))
        end
        assert.is_false(active_tokens.is_newest(nil))
    end)
end)

describe("a full dictionary", function()
    before_each(function()
        snapshot()
        tokens.most_entries = 3
        for _, jti in ipairs({ "a", "b", "c" }) do
            assert.is_true(activate(jti))
        end
    end)

    it("refuses a new token with 'no memory' and drops no live one", function() -- S5
        for _ = 1, 10 do
            assert.same({ false, "no memory" }, { activate("d") })
        end
        for _, jti in ipairs({ "a", "b", "c" }) do
            assert.is_true(is_active(jti))
        end
        assert.is_false(is_active("d"))
    end)

    it("refuses the tombstone of an unknown token rather than drop a live one", function()
        assert.same({ false, "no memory" }, { revoke("d") })
        assert.is_true(is_active("a"))
    end)

    it("does without the tombstone of a token whose time is over", function()
        assert.is_true(revoke("d", NOW - 1))
        assert.equal(3, tokens:count())
    end)

    it("still takes the revocation of a token it knows", function()
        assert.is_true(revoke("b"))
        assert.is_false(is_active("b"))
    end)

    it("still takes a token it knows, and moves it to a new generation", function()
        assert.is_true(activate("b"))
        snapshot("a", "b", "c")
        assert.is_true(is_active("b"))
    end)

    it("makes room from what has expired, in the very call", function() -- S6
        fake.clock.now = EXP + 1
        assert.is_true(activate("d", EXP + 50))
        assert.is_true(revoke("e", EXP + 50))
        assert.is_true(is_active("d"))
    end)

    it("is looked through four times a second at most, however many writes it refuses", function()
        local looks, flush = 0, tokens.flush_expired
        function tokens:flush_expired(most)
            looks = looks + 1
            return flush(self, most)
        end
        for index = 0, 99 do
            fake.clock.now = NOW + index / 100
            assert.same({ false, "no memory" }, { activate("d") })
        end
        assert.equal(4, looks)
    end)

    it("makes room from tombstones no sooner than 600 seconds beyond their ends", function()
        for _, jti in ipairs({ "a", "b", "c" }) do
            revoke(jti)
        end
        fake.clock.now = EXP + 599
        assert.same({ false, "no memory" }, { activate("d", EXP + 5000) })
        fake.clock.now = EXP + 601
        assert.is_true(activate("d", EXP + 5000))
    end)

    it("is not flushed while it has room", function()
        tokens.most_entries = 10
        fake.clock.now = EXP + 1
        activate("d", EXP + 50)
        assert.equal(4, tokens:count())
    end)
end)

describe("workers that write one entry at once", function()
    before_each(function()
        snapshot("a")
        active_tokens.begin_snapshot()
    end)

    --- What another worker does between this one's look and its move.
    local function meanwhile(operation, change)
        tokens.meanwhile[operation] = change
    end

    it("take back a move that both made", function()
        meanwhile("incr", function() activate("a") end)
        assert.is_true(activate("a"))
        assert.equal(2, tokens:get("a"))
        active_tokens.end_snapshot(2)
        assert.is_true(is_active("a"))
    end)

    it("take back the moves that three made", function()
        meanwhile("incr", function()
            meanwhile("incr", function() activate("a") end)
            activate("a")
        end)
        activate("a")
        assert.equal(2, tokens:get("a"))
    end)

    it("let a revocation win that comes between look and move", function()
        meanwhile("incr", function() revoke("a") end)
        assert.is_true(activate("a"))
        active_tokens.end_snapshot(2)
        assert.same({ false, true }, { look_up("a") })
    end)

    it("let a revocation win that comes between adding and looking", function()
        meanwhile("get", function() revoke("a") end)
        assert.is_true(activate("a"))
        assert.is_false(is_active("a"))
    end)

    it("find nothing wrong with an entry that ends between look and move", function()
        meanwhile("incr", function() fake.clock.now = EXP + 1 end)
        assert.is_true(activate("a"))
        assert.is_nil(tokens:get("a"))
    end)

    -- One that read generation 2 moves between look and move of one that read generation 3: the
    -- second takes its whole move back, which leaves 2, and looks again.
    it("lose no token when they move it to two generations at once", function()
        active_tokens.begin_snapshot()
        meanwhile("incr", function() tokens:incr("a", 1) end)
        assert.is_true(activate("a"))
        active_tokens.end_snapshot(3)
        assert.is_true(is_active("a"))
    end)
end)

describe("set_position", function()
    it("is what status answers from then on, with the history that it is of", function()
        active_tokens.set_position("first", 41)
        active_tokens.set_position("first", 42)
        assert.equal(42, active_tokens.status().position)
        active_tokens.set_position("second", 7)
        assert.equal(7, active_tokens.status().position)
        assert.equal("second", active_tokens.status().epoch)
    end)

    it("is one value: no one sees the position of one history with the name of another", function()
        active_tokens.set_position("first", 41)
        assert.equal("41:first", dict:get("mark"))
        local before = dict:count()
        local seen
        dict.meanwhile.safe_set = function()
            local status = active_tokens.status()
            seen = { status.epoch, status.position }
        end
        active_tokens.set_position("second", 7)
        assert.same({ "first", 41 }, seen)
        assert.equal(before, dict:count())
    end)

    for _, epoch in ipairs({
        "", "a:b", "7:x", ":", "a b", "\n", "\0", "\195\169", ("e"):rep(64),
    }) do
        it(("keeps an epoch by its bytes: %q"):format(epoch), function()
            for _, position in ipairs({ 0, 1, 99999999999999 }) do
                active_tokens.set_position(epoch, position)
                local status = active_tokens.status()
                assert.same({ epoch, position }, { status.epoch, status.position })
            end
        end)
    end
end)

describe("heard and staleness", function()
    it("answers nil before the issuer was ever heard", function()
        assert.is_nil(active_tokens.staleness())
    end)

    it("answers the seconds since the issuer was last heard", function()
        active_tokens.heard()
        fake.clock.now = NOW + 50
        active_tokens.heard()
        assert.equal(0, active_tokens.staleness())
        fake.clock.now = NOW + 57.5
        assert.equal(7.5, active_tokens.staleness())
    end)

    it("is never negative where another worker's look at the clock is newer", function()
        active_tokens.heard()
        fake.clock.now = NOW - 0.01
        assert.equal(0, active_tokens.staleness())
    end)

    for _, step in ipairs({ -3600, -30, 30, 3600 }) do
        it(("counts the seconds that pass, not those the clock is set by: %d"):format(step),
            function() -- S11
                active_tokens.heard()
                fake.set_clock(step)
                fake.clock.now = fake.clock.now + 7
                assert.equal(7, active_tokens.staleness())
            end)
    end
end)

describe("may_be_behind", function()
    -- heard at NOW: iat, now, whether it may be behind.
    local CASES = {
        { "an issuer heard a moment ago", NOW, NOW + 1, false },
        { "an issuer silent for three seconds", NOW, NOW + 3, false },
        { "a token of a silent issuer, issued since", NOW + 1, NOW + 4, true },
        { "a token issued in the second it was last heard", NOW, NOW + 4, true },
        { "a token issued before it was last heard", NOW - 1, NOW + 4, false },
        { "an old token of an issuer long silent", NOW - 1, NOW + 1000, false },
    }
    for _, case in ipairs(CASES) do
        it(("is %s for %s"):format(tostring(case[4]), case[1]), function()
            fake.clock.now = NOW + 0.5
            active_tokens.heard()
            fake.clock.now = case[3] + 0.5
            assert.equal(case[4], active_tokens.may_be_behind(case[2], fake.clock.now))
        end)
    end

    it("is true for every token when the issuer was never heard", function()
        assert.is_true(active_tokens.may_be_behind(NOW, NOW))
    end)

    it("is false for all while the issuer is heard, wherever the clock was set", function()
        active_tokens.heard()
        for _, step in ipairs({ 3600, -7200 }) do
            fake.set_clock(step)
            assert.is_false(active_tokens.may_be_behind(NOW, fake.clock.now))
        end
    end)
end)

describe("watch_clock", function()
    before_each(function()
        snapshot("a", "b")
        active_tokens.watch_clock()
    end)

    it("lets all be as it is while the clock only runs", function()
        for _ = 1, 10 do
            fake.clock.now = fake.clock.now + 5
            active_tokens.watch_clock()
        end
        fake.set_clock(0.9)
        active_tokens.watch_clock()
        assert.is_true(active_tokens.status().ready)
        assert.same({ false, false }, { look_up("c") })
        assert.same({}, fake.logged)
    end)

    for _, step in ipairs({ -3600, -30, -2, 2, 30, 3600 }) do
        it(("asks for a snapshot where the clock was set by %d seconds"):format(step), function()
            fake.set_clock(step)
            active_tokens.watch_clock()
            assert.is_false(active_tokens.status().ready)
            assert.equal(1, #fake.logged)
        end)
    end

    it("notices a clock that is set a little again and again", function()
        for _ = 1, 3 do
            fake.set_clock(0.5)
            active_tokens.watch_clock()
        end
        assert.is_false(active_tokens.status().ready)
    end)

    it("says of what is missing then that it is not known, and judges the rest", function()
        fake.set_clock(-30)
        revoke("b")
        assert.same({ nil, false }, { look_up("c") })
        assert.same({ true, true }, { look_up("a") })
        assert.same({ false, true }, { look_up("b") })
    end)

    it("finds again, with the next snapshot, what was cleared away meanwhile", function()
        fake.set_clock(3600)
        active_tokens.tidy()
        assert.equal(0, tokens:count())
        fake.set_clock(-3600)
        assert.same({ nil, false }, { look_up("a") })
        snapshot("a")
        assert.same({ true, true }, { look_up("a") })
        assert.same({ false, false }, { look_up("b") })
        assert.is_true(active_tokens.status().ready)
    end)

    it("says the same of what a snapshot has hidden by a clock that was wrong", function()
        fake.set_clock(3600)
        active_tokens.watch_clock()
        snapshot()
        fake.set_clock(-3600)
        assert.same({ nil, false }, { look_up("a") })
        snapshot("a")
        assert.same({ true, true }, { look_up("a") })
        assert.same({ false, true }, { look_up("b") })
    end)

    it("trusts no snapshot that was begun before", function()
        local generation = active_tokens.begin_snapshot()
        fake.set_clock(-30)
        active_tokens.watch_clock()
        active_tokens.end_snapshot(generation)
        assert.is_false(active_tokens.status().ready)
        snapshot("a")
        assert.is_true(active_tokens.status().ready)
    end)
end)

describe("start", function()
    it("names the life of the dictionaries once: a reload does not rename it", function() -- S9
        active_tokens.start("first")
        active_tokens.start("second")
        assert.equal("first", active_tokens.status().boot)
    end)
end)

describe("tidy", function()
    it("clears away what has expired and nothing else", function()
        activate("a", NOW + 10)
        activate("b", NOW + 10)
        activate("c", NOW + 20)
        fake.clock.now = NOW + 11
        active_tokens.tidy()
        assert.equal(1, tokens:count())
        assert.equal(0, tokens:get("c"))
    end)

    it("clears a bounded part at a time", function()
        tokens.most_entries = 20000
        for index = 1, 10001 do
            tokens.entries[index] = { value = 1, ends = 1 }
        end
        active_tokens.tidy()
        assert.equal(1, tokens:count())
    end)
end)

describe("status", function()
    it("says of an empty gateway that it is not ready and at the very beginning", function()
        active_tokens.start("boot")
        assert.same({
            boot = "boot", ready = false, newest = 0, least = 0, epoch = "", position = 0,
            free_bytes = tokens:free_space(), capacity_bytes = tokens:capacity(),
        }, active_tokens.status())
    end)

    it("is not ready without keys and policy, however whole the snapshot is", function()
        dict.entries = {}
        snapshot("a")
        assert.is_false(active_tokens.status().ready)
        shared_versions.raise_keys()
        assert.is_false(active_tokens.status().ready)
        shared_versions.raise_policy()
        assert.is_true(active_tokens.status().ready)
    end)

    it("tells the generation being filled from the least valid one", function()
        snapshot("a")
        active_tokens.begin_snapshot()
        local status = active_tokens.status()
        assert.is_true(status.ready)
        assert.equal(2, status.newest)
        assert.equal(1, status.least)
    end)

    it("shows that room is taken", function()
        local before = active_tokens.status().free_bytes
        activate("a")
        assert.is_true(active_tokens.status().free_bytes < before)
        assert.is_nil(dict:get("free_bytes"))
    end)
end)
