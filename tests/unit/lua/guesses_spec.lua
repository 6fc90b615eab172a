---------
-- Who guesses secrets waits: threats P4, P5. The clock is turned by hand: an hour takes no time.

local fake_ngx = require("fake_ngx")

local NOW = 1700000000
local HOME, ELSEWHERE = "\203\0\113\7", "\198\51\100\1"
local USER, OTHER = "AGNRXYZ456", "USRSXYZ456"

local fake, dict, guesses

before_each(function()
    fake = fake_ngx.install(NOW)
    dict = fake.shared.portero_guesses
    guesses = fake.load("portero.quota.guesses")
    guesses.start()
end)

local function wait(seconds)
    fake.clock.now = fake.clock.now + seconds
end

local number = 0

--- A secret that nobody has.
local function wrong_secret()
    number = number + 1
    return "wrong " .. number
end

--- One whole try; what became of it, and for how long to wait.
local function try(name, address, offered)
    local attempt, code, seconds =
        guesses.begin(address or HOME, name, offered or wrong_secret())
    if not attempt then
        return code, seconds
    end
    guesses[offered == "right" and "right" or "wrong"](attempt)
    return offered == "right" and "right" or "wrong"
end

local function times(count, name, address)
    for place = 1, count do
        assert.equal("wrong", try(name or USER, address), place)
    end
end

describe("a user from an address", function()
    it("waits 1, 2, 4 to 60 seconds behind five wrong secrets", function()
        times(5)
        for _, seconds in ipairs({ 1, 2, 4, 8, 16, 32, 60, 60, 60, 60 }) do
            assert.same({ "too_many_guesses", seconds }, { try(USER) })
            wait(seconds - 0.01)
            assert.equal("too_many_guesses", (try(USER)))
            wait(0.02)
            times(1)
        end
    end)

    it("is told of a minute at most when it is less than one try a minute", function()
        times(5)
        for _ = 1, 10 do
            wait(60.01)
            times(1)
        end
        assert.same({ "too_many_guesses", 60 }, { try(USER) })
        wait(60)
        local code, seconds = try(USER)
        assert.equal("too_many_guesses", code)
        assert.is_true(seconds > 14 and seconds <= 15)
    end)

    it("is refused with the right secret too, until the time is over", function()
        times(5)
        assert.equal("too_many_guesses", (try(USER, HOME, "right")))
        wait(1.01)
        assert.equal("right", (try(USER, HOME, "right")))
    end)

    it("is refused with a secret that was right before as well", function()
        try(USER, HOME, "right")
        times(5)
        assert.equal("too_many_guesses", (try(USER, HOME, "right")))
    end)

    it("begins anew behind a right secret", function()
        times(4)
        try(USER, HOME, "right")
        times(4)
        try(USER, HOME, "right")
        assert.equal("right", (try(USER, HOME, "right")))
        assert.is_nil(dict:get("u" .. HOME))
    end)

    it("begins anew five minutes behind the last wrong one, if there were fewer than five",
        function()
            for _ = 1, 3 do
                times(4)
                wait(300.01)
            end
        end)

    it("keeps nobody out elsewhere, and nobody else here", function()
        times(5)
        assert.equal("right", (try(USER, ELSEWHERE, "right")))
        assert.equal("right", (try(OTHER, HOME, "right")))
    end)

    it("counts what the issuer did not decide as nothing", function()
        for _ = 1, 20 do
            guesses.undecided(guesses.begin(HOME, USER, wrong_secret()))
        end
        assert.equal(0, dict:count())
        times(5)
        wait(1.01)
        guesses.undecided(guesses.begin(HOME, USER, wrong_secret()))
        assert.equal("wrong", (try(USER)))
    end)
end)

--- How many tries a guesser gets who comes again whenever it may, in so many seconds.
local function tries_within(seconds, pause)
    local ends, tried = fake.clock.now + seconds, {}
    while fake.clock.now < ends do
        if try(USER) == "wrong" then
            tried[#tried + 1] = fake.clock.now
        end
        wait(pause)
    end
    return tried
end

local function most_within(tried, seconds)
    local most, from = 0, 1
    for to = 1, #tried do
        while tried[to] - tried[from] >= seconds do
            from = from + 1
        end
        most = math.max(most, to - from + 1)
    end
    return most
end

describe("a guesser", function()
    it("gets at most 12 tries in any minute and 60 in any hour, and does not stop", function()
        local tried = tries_within(3 * 3600, 0.25)
        assert.is_true(most_within(tried, 60) <= 12, most_within(tried, 60))
        assert.is_true(most_within(tried, 3600) <= 60, most_within(tried, 3600))
        assert.is_true(#tried > 100)
    end)

    it("gains nothing by going slowly at first", function()
        local tried = {}
        for _ = 1, 10 do
            for _ = 1, 4 do
                times(1)
                tried[#tried + 1] = fake.clock.now
            end
            wait(300.01)
        end
        for _, at in ipairs(tries_within(7200, 0.25)) do
            tried[#tried + 1] = at
        end
        assert.is_true(most_within(tried, 3600) <= 60, most_within(tried, 3600))
    end)

    it("has five answered of a hundred that it sends at once", function()
        local asked = {}
        fake.ngx.sleep = function(seconds)
            wait(seconds)
            for place = 1, #asked do
                guesses.wrong(asked[place])
                asked[place] = nil
            end
        end
        local codes = {}
        for _ = 1, 100 do
            local attempt, code = guesses.begin(HOME, USER, wrong_secret())
            asked[#asked + 1] = attempt
            codes[code or "asked"] = (codes[code or "asked"] or 0) + 1
        end
        assert.same({ asked = 5, too_many_guesses = 95 }, codes)
    end)

    it("has one answered of a hundred that it sends when the time is over", function()
        times(5)
        wait(1.01)
        local attempt = assert(guesses.begin(HOME, USER, wrong_secret()))
        for _ = 1, 99 do
            assert.equal("too_many_guesses", select(2, guesses.begin(HOME, USER, wrong_secret())))
        end
        guesses.wrong(attempt)
        assert.same({ "too_many_guesses", 2 }, { try(USER) })
    end)

    it("that tries one user after another waits behind fifty", function()
        for place = 1, 50 do
            times(1, "USRS" .. place)
        end
        assert.same({ "too_many_guesses", 1 }, { try("USRS51") })
        assert.equal("too_many_guesses", (try(OTHER, HOME, "right")))
        assert.equal("right", (try(OTHER, ELSEWHERE, "right")))
        wait(1.01)
        assert.equal("right", (try(OTHER, HOME, "right")))
        times(1, "USRS52")
        assert.same({ "too_many_guesses", 2 }, { try("USRS53") })
        wait(300)
        for place = 1, 50 do
            times(1, "ADMN" .. place)
        end
    end)
end)

describe("a caller who is no guesser", function()
    it("is asked about at once, however many it sends at a time, once its secret was right",
        function()
            try(USER, HOME, "right")
            local asked = {}
            for place = 1, 1000 do
                asked[place] = assert(guesses.begin(HOME, USER, "right"))
            end
            for _, attempt in ipairs(asked) do
                guesses.right(attempt)
            end
            assert.same({}, fake.slept)
            assert.equal(0, dict:count())
        end)

    it("stands in line while others of the same name are asked about, and is then known", function()
        local first = {}
        for place = 1, 5 do
            first[place] = assert(guesses.begin(HOME, USER, "right"))
        end
        fake.ngx.sleep = function()
            for place = #first, 1, -1 do
                guesses.right(first[place])
                first[place] = nil
            end
        end
        assert.equal("right", (try(USER, HOME, "right")))
    end)

    it("is told to come again where nobody is answered", function()
        for _ = 1, 5 do
            assert(guesses.begin(HOME, USER, wrong_secret()))
        end
        local attempt, code = guesses.begin(HOME, USER, "right")
        assert.is_nil(attempt)
        assert.equal("not_ready", code)
        assert.equal(8, math.floor(fake.clock.now - NOW))
    end)

    it("is a guesser again when its secret has changed", function()
        try(USER, HOME, "right")
        for _ = 1, 5 do
            guesses.wrong(assert(guesses.begin(HOME, USER, "right")))
        end
        assert.equal("too_many_guesses", (try(USER, HOME, "right")))
    end)
end)

describe("addresses", function()
    local function network(last)
        return "\32\1\13\184\0\1\0\2" .. ("\0"):rep(7) .. last
    end

    it("of IPv6 are one by the first 64 bits, those of IPv4 in IPv6 by themselves", function()
        times(3, USER, network("\1"))
        times(2, USER, network("\2"))
        assert.equal("too_many_guesses", (try(USER, network("\3"))))
        assert.equal("wrong", (try(USER, "\32\1\13\184\0\1\0\3" .. ("\0"):rep(8))))
        for _, prefix in ipairs({ ("\0"):rep(10) .. "\255\255",
            "\0\100\255\155" .. ("\0"):rep(8) }) do
            assert.equal("wrong", (try(OTHER, prefix .. HOME)))
        end
        times(3, OTHER)
        assert.equal("too_many_guesses", (try(OTHER)))
        assert.equal("wrong", (try(OTHER, ("\0"):rep(10) .. "\255\255" .. ELSEWHERE)))
    end)
end)

describe("the counts", function()
    it("are one over all workers, and live through a reload", function()
        local other = fake.new_worker()("portero.quota.guesses")
        other.start()
        times(3)
        for _ = 1, 2 do
            other.wrong(other.begin(HOME, USER, wrong_secret()))
        end
        assert.equal("too_many_guesses", (try(USER)))
        assert.equal("too_many_guesses", select(2, other.begin(HOME, USER, "right")))
    end)

    it("of who is known to guess stand when the dictionary is full, and who cannot be counted is"
        .. " not asked about", function()
        times(5)
        dict.most_entries = dict:count() + 20
        local codes = {}
        for place = 1, 100 do
            local code = try(USER, ("\10\0\1%s"):format(string.char(place)))
            codes[code] = (codes[code] or 0) + 1
        end
        assert.same({ wrong = 10, not_ready = 90 }, codes)
        assert.equal("too_many_guesses", (try(USER)))
        wait(300.01)
        assert.equal("wrong", (try(USER, "\10\0\1\99")))
    end)

    it("that cannot be shut are not opened either", function()
        times(4)
        dict.most_entries = dict:count()
        assert.equal("wrong", (try(USER)))
        assert.equal("not_ready", (try(USER)))
    end)

    it("come back by themselves where a worker was killed", function()
        for _ = 1, 5 do
            guesses.begin(HOME, USER, wrong_secret())
        end
        wait(30.01)
        assert.equal("right", (try(USER, HOME, "right")))
    end)

    it("that ended while somebody was asked about are not below nothing", function()
        local attempt = guesses.begin(HOME, USER, wrong_secret())
        wait(30.01)
        local other = guesses.begin(HOME, USER, wrong_secret())
        guesses.wrong(attempt)
        guesses.wrong(other)
        times(3)
        assert.equal("too_many_guesses", (try(USER)))
    end)

    it("do not keep anybody out for longer when the clock is set back", function()
        times(5)
        fake.set_clock(-7200)
        assert.equal("wrong", (try(USER)))
    end)

    it("hold no name and no secret", function()
        try("AGNRCANARY", HOME, "canary secret")
        try(USER, HOME, "right")
        for _, one in ipairs({ dict, fake.shared.portero_right_secrets }) do
            for key, entry in pairs(one.entries) do
                for _, text in ipairs({ "AGNR", "canary", "right" }) do
                    assert.is_nil((key .. tostring(entry.value)):find(text, 1, true))
                end
            end
        end
    end)
end)
