---------
-- What was used, until the store has it.

local fake_ngx = require("fake_ngx")

local NOW = 1700000000
local DAY = "2023-11-14"

local fake, counts

before_each(function()
    fake = fake_ngx.install(NOW)
    counts = fake.load("portero.quota.usage_counts")
    counts.start({ has_usage = true })
end)

local function count(user, model, prompt, completion, now)
    counts.count(now or NOW, user, "token", model, "llm", prompt or 1, completion or 2)
end

local function fetched(taken)
    counts.flush()
    return counts.fetch(taken)
end

describe("count", function()
    it("adds up by day, user, credential, model and server", function()
        count("USRSA", "a", 10, 5)
        count("USRSA", "a", 1, 2)
        counts.count(NOW, "USRSA", "wPJv-2m3B0gR7hQz", "a", "rack", 3, 4)
        local batch = fetched(0)
        table.sort(batch.rows, function(one, other) return one[3] > other[3] end)
        assert.same({ number = 1, rows = {
            { DAY, "USRSA", "wPJv-2m3B0gR7hQz", "a", "rack", 1, 3, 4 },
            { DAY, "USRSA", "token", "a", "llm", 2, 11, 7 },
        } }, batch)
    end)

    it("goes by the day in UTC on which a request ended", function()
        count("USRSA", "a", 1, 1, 1700006399)
        count("USRSA", "a", 1, 1, 1700006400)
        local days = {}
        for _, row in ipairs(fetched(0).rows) do
            days[#days + 1] = row[1]
        end
        table.sort(days)
        assert.same({ DAY, "2023-11-15" }, days)
    end)

    it("takes no model's name that could be read in two ways", function()
        for _, name in ipairs({ "a\nb", "\255", ("a"):rep(201) }) do
            count("USRSA", name)
        end
        count("USRSA", nil)
        assert.same({ { DAY, "USRSA", "token", "other", "llm", 4, 4, 8 } }, fetched(0).rows)
    end)

    it("goes by names as name_of has them", function()
        assert.equal("llama3:8b", counts.name_of("llama3:8b"))
        assert.equal("other", counts.name_of(nil))
    end)

    it("puts under one name what one caller makes up", function()
        for number = 1, 2000 do
            count("USRSA", "model-" .. number)
        end
        local requests, rows = 0, fetched(0).rows
        for _, row in ipairs(rows) do
            requests = requests + row[6]
        end
        assert.same({ 2000, 501 }, { requests, #rows })
    end)

    it("is added at once by a worker on its way out, whose ticks are over", function()
        fake.exiting = true
        fake.ngx.worker.exiting = function() return true end
        count("USRSA", "a")
        assert.equal(1, #counts.fetch(0).rows)
    end)
end)

describe("fetch", function()
    it("hands out the same batch until the next fetch says that the store has it", function()
        count("USRSA", "a")
        local first = fetched(0)
        count("USRSB", "a")
        assert.same(first, fetched(0))
        local second = fetched(1)
        assert.same({ 2, "USRSB" }, { second.number, second.rows[1][2] })
        assert.same(second, fetched(1))
        assert.is_nil(fetched(2))
    end)

    it("has nothing where nothing was used, and numbers go on behind that", function()
        assert.is_nil(fetched(0))
        count("USRSA", "a")
        assert.equal(1, fetched(0).number)
        assert.is_nil(fetched(1))
        count("USRSA", "a")
        assert.equal(2, fetched(1).number)
    end)

    it("goes on behind a store that knows more, as behind one that was put back", function()
        count("USRSA", "a")
        assert.equal(8, fetched(7).number)
        assert.equal(8, fetched(3).number)
    end)

    it("loses nothing where the dictionary is full: it is counted when there is room", function()
        local dict = fake.shared.portero_usage
        dict.most_entries = 1
        count("USRSA", "a")
        count("USRSB", "a")
        assert.is_nil(fetched(0))
        dict.most_entries = 1000
        assert.equal(2, #fetched(0).rows)
    end)

    it("waits for no worker that was killed with the lock for long", function()
        count("USRSA", "a")
        fake.shared.portero_usage:safe_add("lock", true, 1)
        assert.is_nil(fetched(0))
        fake.clock.now = fake.clock.now + 2
        assert.equal(1, #fetched(0).rows)
    end)

    it("is nothing where nothing is counted", function()
        assert.is_true(counts.is_on())
        counts.start({ has_usage = false })
        assert.is_false(counts.is_on())
        assert.is_nil(counts.fetch(0))
    end)
end)

describe("waiting", function()
    it("is what the store has not, by user, of a day and of its month", function()
        count("USRSA", "a", 10, 5)
        count("USRSA", "b", 1, 1, NOW - 86400)
        fetched(0)
        count("USRSB", "a", 2, 2)
        counts.flush()
        assert.same({ { USRSA = 15, USRSB = 4 }, { USRSA = 17, USRSB = 4 } },
            { counts.waiting(0, DAY) })
        assert.same({ { USRSB = 4 }, { USRSB = 4 } }, { counts.waiting(1, DAY) })
    end)

    it("is not nothing while another worker is at it, or was killed there", function()
        count("USRSA", "a", 10, 5)
        counts.flush()
        fake.shared.portero_usage:safe_add("lock", true, 1)
        assert.is_nil(counts.waiting(0, DAY))
        fake.clock.now = fake.clock.now + 1
        assert.same({ USRSA = 15 }, (counts.waiting(0, DAY)))
    end)

    it("is waited for where another worker is at it for a moment", function()
        count("USRSA", "a", 10, 5)
        counts.flush()
        fake.shared.portero_usage:safe_add("lock", true, 0.02)
        assert.same({ USRSA = 15 }, (counts.waiting(0, DAY)))
    end)
end)
