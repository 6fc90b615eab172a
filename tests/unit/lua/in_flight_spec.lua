---------
-- Requests in flight: which server is next, that no count is lost or kept, and who waits.

local fake_ngx = require("fake_ngx")

local fake, dict, in_flight

local function begin(worker)
    worker.start()
    return worker
end

before_each(function()
    fake = fake_ngx.install()
    dict = fake.shared.portero_in_flight
    in_flight = begin(fake.load("portero.server.in_flight"))
end)

--- Another worker over the same dictionary.
local function another()
    return begin(fake.new_worker()("portero.server.in_flight"))
end

local function row(name, weight, max_concurrent)
    return { name = name, weight = weight or 1, max_concurrent = max_concurrent }
end

--- How often each is taken, by workers in turn; each request ends before the next one.
local function split(rows, requests, workers)
    local taken = {}
    for number = 1, requests do
        local worker = workers[number % #workers + 1]
        local name = worker.take(rows).name
        taken[name] = (taken[name] or 0) + 1
        worker.release(name)
    end
    return taken
end

describe("take", function()
    it("splits short requests by weight, one worker or two", function()
        local rows = { row("a"), row("b"), row("c", 2) }
        assert.same({ a = 100, b = 100, c = 200 }, split(rows, 400, { in_flight }))
        assert.same({ a = 100, b = 100, c = 200 }, split(rows, 400, { in_flight, another() }))
    end)

    it("takes the one with the fewest requests for its weight", function()
        local rows = { row("a"), row("b", 3) }
        local taken = {}
        for _ = 1, 8 do
            local name = in_flight.take(rows).name
            taken[name] = (taken[name] or 0) + 1
        end
        assert.same({ a = 2, b = 6 }, taken)
    end)

    it("counts what other workers have sent there", function()
        local other = another()
        for _ = 1, 3 do
            other.take({ row("a") })
        end
        for _ = 1, 3 do
            assert.equal("b", in_flight.take({ row("a"), row("b") }).name)
        end
        assert.same({ 3, 3 }, { in_flight.count("a"), other.count("b") })
    end)

    it("passes over who is full, over all workers, and over all that are", function()
        local other = another()
        local rows = { row("a", 1, 1), row("b", 1, 2) }
        assert.is_truthy(in_flight.take(rows))
        assert.is_truthy(other.take(rows))
        assert.is_truthy(in_flight.take(rows))
        assert.is_nil(in_flight.take(rows))
        assert.is_nil(other.take(rows))
    end)

    it("steps back where two workers meet at the last place", function()
        local other = another()
        local one = { row("a", 1, 1) }
        dict.meanwhile.safe_set = function()
            -- The other has counted, too, before either of them looks.
            dict:safe_set("count:2:a", 1, 30)
        end
        assert.is_nil(in_flight.take(one))
        assert.equal(1, in_flight.count("a"))
        other.release("a")
    end)

    it("does not owe all at once to who was slow for long", function()
        local rows = { row("slow"), row("quick") }
        for _ = 1, 5 do
            in_flight.take({ rows[1] })
        end
        for _ = 1, 1000 do
            in_flight.release(in_flight.take(rows).name)
        end
        for _ = 1, 5 do
            in_flight.release("slow")
        end
        local taken = split(rows, 200, { in_flight })
        assert.is_true(taken.quick > 50, taken.quick)
    end)
end)

describe("release", function()
    it("gives back to the last, and leaves nothing in the dictionary", function()
        in_flight.take({ row("a") })
        in_flight.take({ row("a") })
        in_flight.release("a")
        assert.equal(1, in_flight.count("a"))
        in_flight.release("a")
        assert.equal(0, in_flight.count("a"))
        assert.is_nil(dict:get("count:1:a"))
    end)
end)

describe("renew", function()
    local function pass(seconds, worker)
        for _ = 1, seconds do
            fake.clock.now = fake.clock.now + 1
            worker.renew()
        end
    end

    it("keeps what a request holds for long", function()
        local other = another()
        in_flight.take({ row("a") })
        pass(300, in_flight)
        assert.equal(1, other.count("a"))
    end)

    it("is what a killed worker does no more: its counts end, its place is another's", function()
        local other = another()
        other.take({ row("a") })
        assert.equal(1, in_flight.count("a"))
        pass(31, in_flight)
        assert.equal(0, in_flight.count("a"))
        pass(5, in_flight)
        another()
        assert.equal(2, dict:get("places"))
        another()
        assert.equal(3, dict:get("places"))
    end)

    it("leaves a worker on its way out its counts for as long as it may live", function()
        local other = another()
        other.take({ row("a") })
        fake.is_exiting = true
        other.renew()
        fake.is_exiting = false
        pass(599, in_flight)
        assert.equal(1, in_flight.count("a"))
        pass(2, in_flight)
        assert.equal(0, in_flight.count("a"))
    end)
end)

describe("wait", function()
    local ONE = { row("a", 1, 1) }

    --- Join for a user; answers the waiter.
    local function join(user, worker)
        return (worker or in_flight).join(ONE, user)
    end

    --- Let who waits have its turn once.
    local function look(waiter, worker)
        return (worker or in_flight).wait(waiter, fake.clock.now + 0.01) ~= nil
    end

    it("answers the server as soon as there is a place", function()
        in_flight.take(ONE)
        local waiter = join("u")
        fake.meanwhile = function() in_flight.release("a") end
        assert.equal("a", in_flight.wait(waiter, fake.clock.now + 10).name)
        assert.equal(1, in_flight.count("a"))
    end)

    it("answers nothing when the time is over, and nobody waits any more", function()
        in_flight.take(ONE)
        local began = fake.clock.now
        assert.is_nil(in_flight.wait(join("u"), began + 10))
        assert.is_true(fake.clock.now - began >= 10 and fake.clock.now - began < 10.2)
        in_flight.release("a")
        assert.is_truthy(in_flight.take(ONE))
    end)

    it("is before who comes new, in every worker", function()
        local other = another()
        in_flight.take(ONE)
        local waiter = join("u")
        other.take({ row("b") })
        in_flight.release("a")
        assert.is_truthy(waiter.row)
        in_flight.release("a")
        waiter = join("u", other)
        assert.is_nil(in_flight.take(ONE))
        assert.is_truthy(look(waiter, other))
    end)

    it("gives places in the order in which they came, of all workers", function()
        local other = another()
        in_flight.take(ONE)
        local first, second, third = join("u1", other), join("u2"), join("u3", other)
        in_flight.release("a")
        assert.is_nil(second.row)
        assert.is_true(look(first, other))
        other.release("a")
        assert.is_nil(third.row)
        assert.is_true(look(second))
        in_flight.release("a")
        assert.is_true(look(third, other))
    end)

    it("gives users their turns: one that sends many keeps nobody else waiting", function()
        in_flight.take(ONE)
        local many = { join("many"), join("many"), join("many") }
        local one = join("one")
        in_flight.release("a")
        assert.same({ true, false }, { many[1].row ~= nil, one.row ~= nil })
        in_flight.release("a")
        assert.same({ true, false }, { one.row ~= nil, many[2].row ~= nil })
        in_flight.release("a")
        assert.same({ true, false }, { many[2].row ~= nil, many[3].row ~= nil })
    end)

    it("gives a place at any of the servers that will do", function()
        local both = { row("a", 1, 1), row("b", 1, 1) }
        in_flight.take(ONE)
        in_flight.take({ both[2] })
        local for_a, for_any = in_flight.join(ONE, "u"), in_flight.join(both, "v")
        in_flight.release("b")
        assert.is_nil(for_a.row)
        assert.equal("b", for_any.row.name)
        in_flight.release("a")
        assert.equal("a", for_a.row.name)
    end)
end)

describe("leave", function()
    it("lets the next one have what who left would have got", function()
        local one = { row("a", 1, 1) }
        in_flight.take(one)
        local gone, next_one = in_flight.join(one, "u"), in_flight.join(one, "v")
        in_flight.leave(gone)
        in_flight.leave(gone)
        in_flight.release("a")
        assert.is_nil(gone.row)
        assert.is_truthy(next_one.row)
    end)

    it("is what a killed worker does by itself after a second", function()
        local other = another()
        local one = { row("a", 1, 1) }
        in_flight.take(one)
        other.join(one, "u")
        in_flight.release("a")
        assert.is_nil(in_flight.take(one))
        fake.clock.now = fake.clock.now + 1.1
        assert.is_truthy(in_flight.take(one))
    end)
end)
