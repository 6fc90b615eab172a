---------
-- What a user may use, exact over all workers: threats S5, S6, S11.

local fake_ngx = require("fake_ngx")
local loops_met = require("loops_met")

local NOW = 1700000000
local USER = "AGNRXYZ456"

local fake, dict, limits

before_each(function()
    fake = fake_ngx.install(NOW)
    dict = fake.shared.portero_limits
    limits = fake.load("portero.quota.limits")
    limits.start()
end)

--- Another worker over the same dictionary.
local function other_worker()
    local worker = fake.new_worker()("portero.quota.limits")
    fake.worker_pid = fake.worker_pid + 1
    worker.start()
    return worker
end

local function wait(seconds)
    fake.clock.now = fake.clock.now + seconds
end

--- What another worker does between two calls of this one.
local function meanwhile(operation, change)
    dict.meanwhile[operation] = change
end

--- Whether a request is allowed, how many are left, and when all are back; nil and why.
local function request(user, most, worker)
    local left, reset = (worker or limits).left("requests", user, most)
    if not left then
        return nil, reset
    end
    return left >= 0, math.max(left, 0), reset
end

local function tokens_left(user, most)
    local left, reset = limits.left("tokens", user, most)
    return left and math.max(left, 0), reset
end

--- How many of so many requests are allowed, by turns of several workers.
local function allowed_of(asked, most, workers)
    local allowed = 0
    for place = 1, asked do
        local worker = workers[place % #workers + 1]
        allowed = allowed + (request(USER, most, worker) and 1 or 0)
    end
    return allowed
end

describe("request", function()
    it("allows exactly so many in a window, whatever worker asks", function()
        assert.equal(7, allowed_of(100, 7, { limits, other_worker(), other_worker() }))
    end)

    it("tells what remains and when the window ends", function()
        assert.same({ true, 1, 60 }, { request(USER, 2) })
        wait(20.5)
        assert.same({ true, 0, 39.5 }, { request(USER, 2) })
        assert.same({ false, 0, 39.5 }, { request(USER, 2) })
    end)

    it("begins a new window 60 seconds after the first request of the last one", function()
        request(USER, 1)
        wait(59.999)
        assert.is_false((request(USER, 1)))
        wait(0.002)
        assert.same({ true, 0, 60 }, { request(USER, 1) })
    end)

    it("lengthens no window by a later request, allowed or refused", function()
        for _ = 1, 59 do
            request(USER, 3)
            wait(1)
        end
        assert.same({ false, 0, 1 }, { request(USER, 3) })
    end)

    it("takes nothing from one user for another", function()
        assert.equal(2, allowed_of(10, 2, { limits }))
        assert.same({ true, 1, 60 }, { request("AGNRXYZ45", 2) })
    end)

    it("follows a limit that is changed within a window", function()
        assert.equal(2, allowed_of(3, 2, { limits }))
        assert.same({ true, 1, 60 }, { request(USER, 5) })
        assert.is_false((request(USER, 4)))
    end)

    it("counts in the window that another worker began meanwhile", function()
        local other = other_worker()
        meanwhile("safe_add", function() request(USER, 2, other) end)
        assert.same({ true, 0, 60 }, { request(USER, 2) })
        assert.is_false((request(USER, 2, other)))
    end)

    it("counts in a new window when the last one ends meanwhile", function()
        request(USER, 1)
        meanwhile("incr", function() wait(61) end)
        assert.same({ true, 0, 60 }, { request(USER, 1) })
    end)

    it("refuses as uncounted when windows end faster than it can count", function()
        local function ends()
            wait(61)
            meanwhile("incr", ends)
        end
        meanwhile("incr", ends)
        assert.is_nil((request(USER, 1)))
    end)

    it("ends a window in a minute when the clock is set back", function() -- S11
        request(USER, 1)
        wait(-3600)
        assert.same({ false, 0, 60 }, { request(USER, 1) })
        wait(60.1)
        assert.is_true((request(USER, 1)))
    end)

    it("leaves a window alone that a worker with a slower clock sees", function()
        request(USER, 2)
        wait(-0.5)
        assert.same({ true, 0, 60 }, { request(USER, 2) })
        assert.equal(60.5, dict:ttl("r:" .. USER))
    end)
end)

describe("tokens_left and spend", function()
    it("admit until as many are spent as there are", function()
        assert.same({ 100, 60 }, { tokens_left(USER, 100) })
        assert.is_true(limits.spend(USER, 99))
        assert.same({ 1, 60 }, { tokens_left(USER, 100) })
        limits.spend(USER, 1)
        assert.same({ 0, 60 }, { tokens_left(USER, 100) })
    end)

    it("never tell less than none, however much an answer has used", function()
        tokens_left(USER, 100)
        limits.spend(USER, 5000)
        assert.equal(0, (tokens_left(USER, 100)))
    end)

    it("count what all workers spend", function()
        for _, worker in ipairs({ limits, other_worker(), other_worker() }) do
            worker.spend(USER, 10)
        end
        assert.equal(70, (tokens_left(USER, 100)))
    end)

    it("begin the window with the first question, and lengthen it by nothing", function()
        tokens_left(USER, 100)
        wait(30)
        limits.spend(USER, 100)
        assert.same({ 0, 30 }, { tokens_left(USER, 100) })
        wait(30.1)
        assert.same({ 100, 60 }, { tokens_left(USER, 100) })
    end)

    it("charge an answer that ends later to the window it ends in", function()
        tokens_left(USER, 100)
        wait(61)
        limits.spend(USER, 40)
        assert.same({ 60, 60 }, { tokens_left(USER, 100) })
    end)

    it("are another count than requests", function()
        request(USER, 10)
        assert.equal(10, (tokens_left(USER, 10)))
    end)
end)

--- Take slots until there is none.
local function acquire_all(most, worker)
    local slots = {}
    for _ = 1, most + 5 do
        slots[#slots + 1] = (worker or limits).acquire(USER, most) or nil
    end
    return slots
end

local function has_room(most)
    local slot = limits.acquire(USER, most)
    if slot then
        limits.release(slot)
    end
    return slot and true
end

describe("acquire and release", function()
    for _, most in ipairs({ 1, 2, 7, 1000 }) do
        it(("give out exactly %d slots"):format(most), function()
            assert.equal(most, #acquire_all(most))
            assert.is_false((limits.acquire(USER, most)))
        end)
    end

    it("give out exactly so many over several workers", function()
        local one, two = other_worker(), other_worker()
        local taken = #acquire_all(2) + #acquire_all(4, one) + #acquire_all(6, two)
        assert.equal(6, taken)
        assert.is_false((one.acquire(USER, 6)))
    end)

    it("make a released slot free at once, for every worker", function()
        local other = other_worker()
        local slots = acquire_all(3)
        limits.release(slots[2])
        assert.is_number((other.acquire(USER, 3)))
        assert.is_false((limits.acquire(USER, 3)))
    end)

    it("hold one user's slots apart from another's", function()
        acquire_all(2)
        assert.is_number((limits.acquire("AGNRXYZ45", 2)))
    end)

    it("find a free slot at once when there is room", function()
        local asked = 0
        for _ = 1, 100 do
            local function count()
                asked = asked + 1
                meanwhile("safe_add", count)
            end
            meanwhile("safe_add", count)
            limits.acquire(USER, 1000)
        end
        assert.equal(100, asked)
    end)

    it("ask for no slot more than once before they refuse", function()
        acquire_all(5)
        local asked = 0
        local function count()
            asked = asked + 1
            meanwhile("safe_add", count)
        end
        meanwhile("safe_add", count)
        assert.is_false((limits.acquire(USER, 5)))
        assert.equal(5, asked)
    end)

    it("answer no slot twice, not even after a restart of the worker", function()
        local seen = {}
        for _ = 1, 3 do
            wait(1)
            limits = fake.new_worker()("portero.quota.limits")
            limits.start()
            for _ = 1, 10 do
                local slot = limits.acquire(USER, 1000)
                assert.is_nil(seen[slot])
                seen[slot] = true
            end
        end
    end)

    it("release a slot once: a second time takes nothing from who holds it then", function()
        local slot = limits.acquire(USER, 1)
        limits.release(slot)
        local again = limits.acquire(USER, 1)
        limits.release(slot)
        assert.is_false((limits.acquire(USER, 1)))
        limits.release(again)
        assert.is_true(has_room(1))
    end)

    it("release nothing that another worker holds", function()
        local slot = limits.acquire(USER, 1)
        other_worker().release(slot)
        assert.is_false((limits.acquire(USER, 1)))
    end)
end)

describe("a lease", function()
    it("ends 30 seconds after its worker was killed", function()
        local killed = other_worker()
        killed.acquire(USER, 1)
        wait(29.9)
        assert.is_false(has_room(1))
        wait(0.2)
        assert.is_true(has_room(1))
    end)

    it("stands for as long as it is renewed each second", function()
        limits.acquire(USER, 1)
        for _ = 1, 600 do
            wait(1)
            limits.renew()
            assert.is_false((limits.acquire(USER, 1)))
        end
    end)

    it("is renewed every ten seconds and not at each call", function()
        limits.acquire(USER, 1)
        local renewed = 0
        local function count()
            renewed = renewed + 1
            meanwhile("expire", count)
        end
        meanwhile("expire", count)
        for _ = 1, 60 do
            wait(1)
            limits.renew()
        end
        assert.equal(6, renewed)
    end)

    it("is renewed no more once it is released", function()
        limits.release(limits.acquire(USER, 1))
        wait(10)
        limits.renew()
        assert.equal(0, dict:count())
    end)

    it("that ended before it was renewed is taken again while it is free", function()
        limits.acquire(USER, 1)
        wait(31)
        limits.renew()
        assert.is_false((other_worker().acquire(USER, 1)))
    end)

    it("that was lost to another frees nothing of the other's", function()
        local other = other_worker()
        local lost = limits.acquire(USER, 1)
        wait(31)
        local won = other.acquire(USER, 1)
        limits.renew()
        limits.release(lost)
        assert.is_false((limits.acquire(USER, 1)))
        other.release(won)
        assert.is_true(has_room(1))
    end)

    it("that was lost and not renewed yet frees nothing of the other's either", function()
        local lost = limits.acquire(USER, 1)
        wait(31)
        other_worker().acquire(USER, 1)
        limits.release(lost)
        assert.is_false((limits.acquire(USER, 1)))
    end)

    it("that was lost is taken again once the other has released it", function()
        local other = other_worker()
        limits.acquire(USER, 1)
        wait(31)
        local won = other.acquire(USER, 1)
        limits.renew()
        other.release(won)
        wait(1)
        limits.renew()
        assert.is_false((other.acquire(USER, 1)))
    end)

    it("is not lengthened by one that lost it", function()
        limits.acquire(USER, 1)
        wait(31)
        other_worker().acquire(USER, 1)
        wait(29)
        limits.renew()
        wait(1.1)
        assert.is_number((other_worker().acquire(USER, 1)))
    end)

    it("is tried again at the next call when the dictionary was full", function()
        limits.acquire(USER, 1)
        wait(31)
        dict.entries, dict.most_entries = {}, 0
        limits.renew()
        dict.most_entries = 10
        wait(1)
        limits.renew()
        assert.equal(1, dict:count())
    end)

    it("is not renewed for ever when no one releases it", function()
        limits.acquire(USER, 1)
        for _ = 1, 3600 do
            wait(1)
            limits.renew()
        end
        assert.is_false(has_room(1))
        wait(31)
        limits.renew()
        assert.is_true(has_room(1))
    end)

    it("of a worker on its way out stands for as long as nginx lets it run", function()
        limits.acquire(USER, 1)
        fake.is_exiting = true
        limits.renew()
        wait(599)
        assert.is_false(has_room(1))
        wait(2)
        assert.is_true(has_room(1))
    end)

    it("that is taken on a worker's way out is as long, and is released like any other", function()
        fake.is_exiting = true
        local slot = limits.acquire(USER, 1)
        wait(599)
        assert.is_false(has_room(1))
        limits.release(slot)
        assert.is_true(has_room(1))
    end)

    it("is renewed as ever when the clock is set back", function() -- S11
        limits.acquire(USER, 1)
        wait(-3600)
        for _ = 1, 3700 do
            wait(1)
            limits.renew()
            assert.is_false(has_room(1))
        end
    end)
end)

describe("a full dictionary", function()
    before_each(function()
        dict.most_entries = 3
        request("AGNRA", 5)
        tokens_left("AGNRB", 5)
        limits.acquire("AGNRC", 1)
    end)

    it("refuses a user it has no room for, each time with 'no memory'", function()
        for _ = 1, 3 do
            assert.same({ nil, "no memory" }, { request(USER, 5) })
            assert.same({ nil, "no memory" }, { tokens_left(USER, 5) })
            assert.same({ nil, "no memory" }, { limits.spend(USER, 5) })
            assert.same({ nil, "no memory" }, { limits.acquire(USER, 5) })
        end
    end)

    it("drops nothing for them, and counts on for whom it has room", function()
        request(USER, 5)
        limits.acquire(USER, 5)
        assert.equal(3, (select(2, request("AGNRA", 5))))
        assert.is_true(limits.spend("AGNRB", 2))
        assert.equal(3, (tokens_left("AGNRB", 5)))
        assert.is_false((limits.acquire("AGNRC", 1)))
    end)

    it("makes room from what has ended, in the very call", function() -- S6
        wait(61)
        assert.is_true((request(USER, 5)))
        assert.is_number((limits.acquire(USER, 5)))
    end)
end)

describe("windows that gateways share", function()
    local KEY = "r:" .. USER

    local function take(sum, seconds)
        return limits.take(KEY, sum, seconds)
    end

    local function here()
        return limits.counted_here()
    end

    it("are told with what was counted here, and not with what others told", function()
        assert.same({}, here())
        request(USER, 10)
        limits.spend(USER, 7)
        take(5, 60)
        wait(10)
        local windows = here()
        table.sort(windows, function(one, other) return one[1] < other[1] end)
        assert.same({ { KEY, 1, 50 }, { "t:" .. USER, 7, 50 } }, windows)
    end)

    it("are counted together: others' requests are used up here too", function()
        request(USER, 10)
        assert.is_true(take(5, 60))
        assert.same({ true, 3, 60 }, { request(USER, 10) })
        assert.is_true(take(7, 60))
        assert.same({ true, 0, 60 }, { request(USER, 10) })
        assert.is_false((request(USER, 10)))
    end)

    it("are begun by what others have counted, and end as theirs", function()
        take(9, 40)
        assert.same({ true, 0, 40 }, { request(USER, 10) })
        assert.is_false((request(USER, 10)))
        wait(40.1)
        assert.same({ true, 9, 60 }, { request(USER, 10) })
    end)

    it("end with the one that ends first, and count anew then", function()
        request(USER, 10)
        take(3, 58)
        wait(58.1)
        assert.same({ true, 9, 60 }, { request(USER, 10) })
        take(1, 60)
        assert.same({ true, 7, 60 }, { request(USER, 10) })
    end)

    it("lose nothing of what was told once, told again or less of it", function()
        request(USER, 10)
        for _, sum in ipairs({ 4, 4, 2 }) do
            take(sum, 60)
        end
        assert.same({ true, 4, 60 }, { request(USER, 10) })
    end)

    it("give way within their last two seconds to the next one of another gateway", function()
        for _ = 1, 10 do
            request(USER, 10)
        end
        wait(58.5)
        take(2, 59.5)
        assert.same({ true, 7, 59.5 }, { request(USER, 10) })
        assert.same({ { KEY, 1, 59.5 } }, here())
    end)

    it("are not told when they end within two seconds", function()
        request(USER, 10)
        wait(58.1)
        assert.same({}, here())
    end)

    it("are taken though a request begins the same one meanwhile", function()
        meanwhile("safe_add", function() request(USER, 10, other_worker()) end)
        take(3, 59)
        assert.same({ true, 5, 59 }, { request(USER, 10) })
    end)

    it("are named by what they count and whose they are", function()
        for _, key in ipairs({ "r:U", "t:U" }) do
            assert.is_true(limits.is_window(key))
        end
        for _, key in ipairs({ "r:", "s:U:1", "o:r:U", "x", 1 }) do
            assert.is_false(limits.is_window(key))
        end
    end)

    it("say where there is no room for them", function()
        dict.most_entries = 0
        assert.is_false(take(1, 60))
        dict.most_entries = 1
        request(USER, 10)
        assert.is_false(take(1, 60))
        assert.same({ true, 8, 60 }, { request(USER, 10) })
    end)
end)

describe("a dictionary that fails in another way", function()
    it("refuses, and says how", function()
        dict.incr = function() return nil, "not a number" end
        assert.same({ nil, "not a number" }, { request(USER, 5) })
        assert.same({ nil, "not a number" }, { tokens_left(USER, 5) })
        assert.same({ nil, "not a number" }, { limits.spend(USER, 5) })
        dict.safe_add = function() return false, "key too long" end
        assert.same({ nil, "key too long" }, { limits.acquire(USER, 5) })
    end)

    it("tells an end of 0 for a window that is gone by then", function()
        dict.ttl = function() return nil, "not found" end
        assert.same({ true, 4, 0 }, { request(USER, 5) })
        dict.ttl = function() return -0.05 end
        assert.same({ true, 3, 0 }, { request(USER, 5) })
    end)
end)

describe("headers", function()
    it("are OpenAI's names, for requests and for tokens", function()
        local header = {}
        limits.headers(header, "requests", 100, 99, 59.5)
        limits.headers(header, "tokens", 5000, 0, 60)
        assert.same({
            ["x-ratelimit-limit-requests"] = 100,
            ["x-ratelimit-remaining-requests"] = 99,
            ["x-ratelimit-reset-requests"] = "59.5s",
            ["x-ratelimit-limit-tokens"] = 5000,
            ["x-ratelimit-remaining-tokens"] = 0,
            ["x-ratelimit-reset-tokens"] = "1m0s",
        }, header)
    end)

    -- Seconds, and how Go's time.Duration writes them.
    local DURATIONS = {
        { 0, "0s" }, { 0.0004, "0s" }, { 0.001, "1ms" }, { 0.012, "12ms" }, { 0.5, "500ms" },
        { 0.999, "999ms" }, { 1, "1s" }, { 1.001, "1.001s" }, { 1.5, "1.5s" }, { 10, "10s" },
        { 30.1, "30.1s" }, { 59.5, "59.5s" }, { 59.998, "59.998s" }, { 59.9996, "1m0s" },
        { 60, "1m0s" }, { 60.25, "1m0.25s" }, { 100, "1m40s" }, { 360, "6m0s" },
        { 3599.999, "59m59.999s" },
    }
    for _, case in ipairs(DURATIONS) do
        it(("write %s seconds as %s"):format(case[1], case[2]), function()
            local header = {}
            limits.headers(header, "requests", 1, 0, case[1])
            assert.equal(case[2], header["x-ratelimit-reset-requests"])
        end)
    end
end)

describe("retry_after", function()
    for seconds, expected in pairs({ [0] = 1, [0.001] = 1, [1] = 1, [1.001] = 2, [59.5] = 60 }) do
        it(("is %d for %s seconds"):format(expected, seconds), function()
            assert.equal(expected, limits.retry_after(seconds))
        end)
    end
end)

describe("telling what is left", function()
    it("passes no loop, for which LuaJIT would not compile its way", function()
        local told, header = {}, {}
        limits.headers(told, "requests", 100, 99, 59.5)
        limits.headers(told, "tokens", 5000, 0, 60)
        assert.equal(0, loops_met(function()
            limits.tell(told, header)
        end))
        assert.same(told, header)
    end)
end)
