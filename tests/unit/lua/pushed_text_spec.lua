---------
-- A text that is pushed whole: never an older one in place of a newer one, whoever writes at once,
-- and no name before every worker was told.

local fake_ngx = require("fake_ngx")

local fake, dict, pushed_text, text, told

before_each(function()
    fake = fake_ngx.install()
    dict = fake.shared.portero_policy
    pushed_text = fake.load("portero.pushed_text")
    text, told = pushed_text.new(dict), 0
end)

local function tell()
    told = told + 1
end

local function write(history, serial, content)
    return text:write(history, serial, content or "text of " .. serial, tell)
end

--- The same dictionary in another worker.
local function of_another_worker()
    return fake.new_worker()("portero.pushed_text").new(dict)
end

describe("new", function()
    it("begins with what the dictionary holds: nothing, or what another worker wrote", function()
        assert.same({ "", "" }, { text:read(), text:mark() })
        write("h", 3)
        local other = of_another_worker()
        assert.same({ "text of 3", "h:3" }, { other:read(), other:mark() })
    end)

    it("keeps what is in one dictionary apart from another", function()
        local other = pushed_text.new(fake.shared.portero_keys)
        write("h", 3)
        assert.same({ "", "" }, { other:read(), other:mark() })
    end)
end)

describe("is_name", function()
    it("takes any text without a newline, and any whole number that is written in full", function()
        for _, history in ipairs({ "", "a", "a:1", "a b", "\0" }) do
            for _, serial in ipairs({ 0, 1, 1e14, 2 ^ 53 - 1 }) do
                assert.is_true(pushed_text.is_name(history, serial))
            end
        end
    end)

    -- Two lines would be a name and the begin of a text.
    for _, history in ipairs({ "\n", "a\nb", 1, false, {}, fake_ngx }) do
        it(("takes no history %q"):format(tostring(history):sub(1, 5)), function()
            assert.is_false(pushed_text.is_name(history, 1))
        end)
    end

    for _, serial in ipairs({ -1, 1.5, 0 / 0, 1 / 0, -1 / 0, 2 ^ 53, 1e300, "1", true, {} }) do
        it(("takes no serial %s"):format(tostring(serial):sub(1, 8)), function()
            assert.is_false(pushed_text.is_name("h", serial))
        end)
    end

    it("takes neither of none", function()
        assert.is_false(pushed_text.is_name(nil, 1))
        assert.is_false(pushed_text.is_name("h", nil))
    end)
end)

describe("write", function()
    it("keeps a text in place of the one before, tells of it and names it", function()
        assert.is_true(write("h", 1))
        assert.is_true(write("h", 2))
        assert.same({ "text of 2", "h:2", 2 }, { text:read(), text:mark(), told })
    end)

    it("keeps any text as it is", function()
        for index, content in ipairs({ "", "\n", "a\nb\n", "h:9\n", "\0\255", ("x"):rep(99999) }) do
            assert.is_true(write("h", index, content))
            assert.equal(content, text:read())
            assert.equal("h:" .. index, text:mark())
        end
    end)

    it("refuses an older one of the same history, changes nothing and tells nobody", function()
        write("h", 10)
        for _, serial in ipairs({ 9, 2, 0 }) do
            assert.same({ nil, "older" }, { write("h", serial) })
        end
        assert.same({ "text of 10", "h:10", 1 }, { text:read(), text:mark(), told })
    end)

    it("takes the same serial again, and tells again", function()
        write("h", 10)
        assert.is_true(write("h", 10))
        assert.equal(2, told)
    end)

    it("takes any serial of another history", function()
        write("h", 10)
        assert.is_true(write("other", 1))
        assert.equal("other:1", text:mark())
        assert.is_true(write("h", 2))
        assert.equal("h:2", text:mark())
    end)

    it("compares serials as numbers, up to the greatest that a name may have", function()
        write("h", 9)
        assert.is_true(write("h", 10))
        assert.is_true(write("h", 2 ^ 53 - 1))
        assert.same({ nil, "older" }, { write("h", 2 ^ 53 - 2) })
    end)

    it("tells histories apart by their whole names", function()
        for _, history in ipairs({ "", "a", "a:1", "a:1:2", ":", "1" }) do
            assert.is_true(write(history, 7))
            assert.same({ nil, "older" }, { write(history, 6) })
            assert.equal(history .. ":7", text:mark())
        end
    end)

    it("says that there was no room, and neither tells nor names", function()
        dict.most_entries = 1 -- the lock
        assert.same({ nil, "no memory" }, { write("h", 1) })
        assert.same({ "", "", 0 }, { text:read(), text:mark(), told })
        assert.is_nil(dict:get("lock"))
    end)

    it("says so too where there is not even room for the lock", function()
        dict.most_entries = 0
        assert.same({ nil, "no memory" }, { write("h", 1) })
        assert.equal(0, told)
    end)

    it("leaves what was there where there was no room", function()
        write("h", 1)
        dict.safe_set = function() return nil, "no memory" end
        assert.same({ nil, "no memory" }, { write("h", 2) })
        assert.same({ "text of 1", "h:1", 1 }, { text:read(), text:mark(), told })
    end)

    it("leaves no lock behind, whatever it answers", function()
        for _, serial in ipairs({ 2, 1, 2 }) do
            write("h", serial)
            assert.is_nil(dict:get("lock"))
        end
    end)
end)

describe("the mark", function()
    it("is there only after every worker was told, who can read the text by then", function()
        local seen
        text:write("h", 1, "first", function() seen = { text:mark(), text:read() } end)
        assert.same({ "", "first" }, seen)
        text:write("h", 2, "second", function() seen = { text:mark(), text:read() } end)
        assert.same({ "h:1", "second" }, seen)
        assert.equal("h:2", text:mark())
    end)

    -- Who wrote it was killed before it could tell: the issuer finds the old name, and sends again.
    it("stays the former one where nobody was told, and the text is taken again", function()
        write("h", 1)
        pcall(text.write, text, "h", 2, "second", function() error("killed") end)
        assert.equal("h:1", text:mark())
        assert.is_true(write("h", 2, "second"))
        assert.same({ "h:2", 2 }, { text:mark(), told })
    end)

    it("never goes back to the former text, once a newer one was written untold", function()
        pcall(text.write, text, "h", 2, "second", function() error("killed") end)
        assert.same({ nil, "older" }, { write("h", 1) })
        assert.equal("second", text:read())
    end)
end)

describe("two workers that write at once", function()
    --- A call that stops wherever it waits for another worker, as nginx stops it.
    local function begin(call)
        rawset(fake.ngx, "sleep", coroutine.yield)
        local thread = coroutine.create(call)
        return function()
            return select(2, assert(coroutine.resume(thread)))
        end, thread
    end

    --- The two answers: the second one comes at the worst moment of the first one, between its
    --- look and its write.
    local function both(first, second)
        local other, answers = of_another_worker(), {}
        local resume, thread = begin(function()
            answers[2] = { other:write("h", second, "text of " .. second, tell) }
        end)
        dict.meanwhile.safe_set = resume
        answers[1] = { write("h", first) }
        assert.equal("suspended", coroutine.status(thread))
        resume()
        return answers
    end

    it("come one after the other, so that the newer text stays", function()
        local answers = both(3, 2)
        assert.same({ { true }, { nil, "older" } }, answers)
        assert.same({ "text of 3", "h:3", 1 }, { text:read(), text:mark(), told })
    end)

    it("are both taken where the newer one comes second", function()
        assert.same({ { true }, { true } }, both(2, 3))
        assert.same({ "text of 3", "h:3", 2 }, { text:read(), text:mark(), told })
    end)

    it("see what the other one wrote just before they had the lock", function()
        local other = of_another_worker()
        dict.meanwhile.safe_add = function() other:write("h", 3, "newer", tell) end
        assert.same({ nil, "older" }, { write("h", 2) })
        assert.equal("newer", text:read())
    end)
end)

describe("the lock", function()
    it("of a worker that was killed ends by itself, within a second", function()
        local began = fake.clock.now
        pcall(text.write, text, "h", 1, "first", function() error("killed") end)
        assert.is_true(dict:get("lock"))
        assert.is_true(write("h", 2))
        assert.is_true(fake.clock.now - began > 0.5 and fake.clock.now - began < 1.1)
    end)

    it("that stays is waited for two seconds, and then the writer says that it is busy", function()
        dict:safe_add("lock", true)
        local began = fake.clock.now
        assert.same({ nil, "busy" }, { write("h", 1) })
        assert.is_true(fake.clock.now - began > 2 and fake.clock.now - began < 2.1)
        assert.same({ "", "", 0 }, { text:read(), text:mark(), told })
        assert.is_true(dict:get("lock"), "another's lock was taken away")
    end)

    it("is waited for in short sleeps: the worker's requests go on", function()
        dict:safe_add("lock", true, 0.01)
        assert.is_true(write("h", 1))
        assert.is_true(#fake.slept >= 5)
        for _, seconds in ipairs(fake.slept) do
            assert.is_true(seconds > 0 and seconds <= 0.01)
        end
    end)
end)
