---------
-- The internal listener: docs/sync.md, threats S1-S5.

local cjson = require("cjson.safe")
local crypto = require("portero.token.crypto")
local fake_ngx = require("fake_ngx")
local minted = require("minted")
local policies = require("policies")

local NOW = 1700000000
local EXP = NOW + 100
local KEY = minted.SYNC_KEY
local EPOCH = "a history of the store"
local A, B, C = ("A"):rep(22), ("B"):rep(22), ("C"):rep(22)

local fake, tokens, dict, shared_versions, keys, receiver, active_tokens

before_each(function()
    fake = fake_ngx.install(NOW)
    tokens, dict = fake.shared.portero_active_tokens, fake.shared.portero_sync
    active_tokens = fake.load("portero.token.active_tokens")
    shared_versions, keys = fake.load("portero.shared_versions"), fake.load("portero.token.keys")
    keys.start({ sync_key = KEY })
    receiver = fake.load("portero.sync.receiver")
    receiver.start({ sync_key = KEY })
end)

local function mac_of(message)
    local text = table.concat({
        message.label or "portero-sync-1", message.method, message.target, message.sent_at,
        message.body or "",
    }, "\n")
    local mac = crypto.hmac("HS256", message.key or KEY, text)
    return (mac:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

local nanoseconds = 0

--- A time as `time.time_ns()` has it, another one each time.
local function time_at(seconds)
    nanoseconds = nanoseconds + 1
    return ("%d%09d"):format(seconds, nanoseconds)
end

--- One message as the issuer sends it; `changes` are made after it was signed.
local function signed(method, target, body, changes)
    local message = { method = method, target = target, body = body, sent_at = time_at(NOW) }
    message.mac = mac_of(message)
    for name, value in pairs(changes or {}) do
        message[name] = value or nil
    end
    return message
end

local function deliver(message)
    fake.request({
        method = message.method,
        target = message.target,
        body = message.body,
        headers = { ["X-Portero-Time"] = message.sent_at, ["X-Portero-Mac"] = message.mac },
    })
    receiver.handle()
    return fake.answer
end

local function send(method, target, content)
    local body = type(content) == "table" and cjson.encode(content) or content
    return deliver(signed(method, target, body))
end

local function apply(content) return send("POST", "/sync/apply", content) end

local function snapshot(content) return send("POST", "/sync/snapshot", content) end

local function status_in(answer) return cjson.decode(answer.body) end

--- As a request asks: it looks at the state once, at its beginning.
local function is_active(jti)
    shared_versions.look()
    return (active_tokens.is_active(jti))
end

--- Nothing of a refused message may have been written.
local function assert_untouched()
    assert.equal(0, tokens:count())
    assert.equal(0, dict:count())
    assert.equal(0, fake.shared.portero_keys:count())
    assert.equal(0, fake.shared.portero_policy:count())
end

local function assert_refused(status, answer)
    assert.equal(status, answer.exit)
    assert.equal("", answer.body)
    assert_untouched()
end

describe("a message", function()
    local BODY = cjson.encode({
        activate = { { A, EXP } }, revoke = { { B, EXP } }, epoch = EPOCH, position = 7,
    })

    it("is acted on when its MAC, its time and its use are right", function()
        local answer = apply(BODY)
        assert.equal(200, answer.status)
        assert.is_nil(answer.exit)
        assert.equal("application/json", answer.headers["content-type"])
        assert.equal(7, status_in(answer).position)
    end)

    -- What is changed after it was signed; S1.
    local CHANGES = {
        ["no MAC"] = { mac = false },
        ["an empty MAC"] = { mac = "" },
        ["another MAC of its length"] = { mac = ("0"):rep(64) },
        ["a cut MAC"] = { mac = "0" },
        ["no time"] = { sent_at = false },
        ["another time"] = { sent_at = time_at(NOW) },
        ["another body"] = { body = BODY .. " " },
        ["no body"] = { body = false },
        ["another method"] = { method = "GET", target = "/sync/status" },
        ["another path"] = { target = "/sync/snapshot" },
    }
    for what, changes in pairs(CHANGES) do
        it(("is refused with 401 and writes nothing with %s"):format(what), function()
            local message = signed("POST", "/sync/apply", BODY, changes)
            assert_refused(401, deliver(message))
        end)
    end

    it("is refused with 401 when its MAC is in capitals", function()
        local message = signed("POST", "/sync/apply", BODY)
        message.mac = message.mac:upper()
        assert_refused(401, deliver(message))
    end)

    it("is refused with 401 when it is signed with another key or under another label", function()
        local others = { { key = ("k"):rep(32) }, { label = "portero-sync-2" }, { key = "" } }
        for _, how in ipairs(others) do
            local message = signed("POST", "/sync/apply", BODY)
            message.key, message.label = how.key, how.label
            message.mac = mac_of(message)
            assert_refused(401, deliver(message))
        end
    end)

    it("is refused with 401 when its body was too large for memory", function()
        local message = signed("POST", "/sync/apply", BODY)
        message.body = nil -- nginx put it into a file
        assert_refused(401, deliver(message))
    end)

    -- Seconds from now, and whether that is in time.
    local TIMES = {
        { -31, false }, { -29, true }, { 29, true }, { 31, false }, { -3600, false },
        { 86400, false },
    }
    for _, case in ipairs(TIMES) do
        local verdict = case[2] and "taken" or "refused"
        it(("is %s %d seconds from now"):format(verdict, case[1]), function()
            local message = signed("POST", "/sync/apply", BODY)
            message.sent_at = time_at(NOW + case[1])
            message.mac = mac_of(message)
            local answer = deliver(message)
            assert.equal(case[2] and 200 or nil, answer.status)
            assert.equal(not case[2] and 401 or nil, answer.exit)
        end)
    end

    for _, sent_at in ipairs({
        "", "-1700000000000000000", "1.7e18", "1700000000", "0x1797", " 1700000000000000000",
        "1700000000000000000x", ("9"):rep(400), "nan", "inf",
    }) do
        it(("is refused with 401 at the time %q, though well signed"):format(sent_at), function()
            local message = signed("POST", "/sync/apply", BODY)
            message.sent_at = sent_at
            message.mac = mac_of(message)
            assert_refused(401, deliver(message))
        end)
    end

    it("is good for one use: its repetition is a conflict and writes nothing", function() -- S2
        local message = signed("POST", "/sync/apply", cjson.encode({ activate = { { A, EXP } } }))
        assert.equal(200, deliver(message).status)
        tokens.entries, dict.entries = {}, {}
        assert_refused(409, deliver(message))
    end)

    it("is remembered for as long as its time would be accepted", function()
        local message = signed("POST", "/sync/apply", BODY)
        message.sent_at = time_at(NOW + 29)
        message.mac = mac_of(message)
        assert.equal(200, deliver(message).status)
        for after = 1, 70 do
            fake.clock.now = NOW + after
            assert.is_number(deliver(message).exit)
        end
    end)

    it("is refused rather than acted on when its use cannot be remembered", function()
        fake.shared.portero_seen.most_entries = 0
        assert_refused(409, apply(BODY))
    end)

    it("does not use up its MAC when it is refused for its MAC", function()
        local message = signed("POST", "/sync/apply", BODY)
        local good = message.body
        message.body = "{}"
        assert.equal(401, deliver(message).exit)
        message.body = good
        assert.equal(200, deliver(message).status)
    end)

    for _, line in ipairs({
        "GET /sync/policy", "PUT /sync/policy", "POST /sync/policy/", "POST /sync/policies",
        "GET /sync/keys", "PUT /sync/keys", "POST /sync/keys/", "POST /sync/keys?x=1",
        "GET /sync/apply", "POST /sync/status", "GET /sync/snapshot", "POST /sync/apply?x=1",
        "POST /sync/apply/", "POST /sync/other", "PUT /sync/apply", "POST //sync/apply",
        "post /sync/apply", "POST /sync/%61pply",
    }) do
        it("is 404 at " .. line, function()
            local method, target = line:match("^(%S+) (%S+)$")
            assert_refused(404, send(method, target, BODY))
        end)
    end

    for _, body in ipairs({
        "", "{", "x", "1", '"x"', "null", "true", '{"activate":[}', "{} {}", "\239\187\191{}",
        "[1]", "[null]", "[{}]", '[{"activate":[]}]', '[["activate",[]]]',
    }) do
        it(("is refused with 400 and writes nothing with the body %q"):format(body), function()
            assert_refused(400, apply(body))
        end)
    end

    -- Lists of entries of which one is wrong: not even the good ones are written.
    local GOOD = ('["%s",%d]'):format(A, EXP)
    for _, list in ipairs({
        "1", '"x"', "true", "null", "[1]", '["x"]', "[null]", "[[]]", '[["x",1]]', "[[1,2]]",
        ('[["%s"]]'):format(B), ('[["%s","%d"]]'):format(B, EXP), ('[["%s",1.5]]'):format(B),
        ('[["%s",null]]'):format(B), ('[["%s",true]]'):format(B), ('[["%sx",%d]]'):format(B, EXP),
        ('[["%s",%d]]'):format(B:sub(2), EXP), ('[["%s\\u0000",%d]]'):format(B:sub(2), EXP),
        ('[%s,["*",%d]]'):format(GOOD, EXP), ('[%s,1]'):format(GOOD), ('[["%s",1e400]]'):format(B),
        ('[["%s",NaN]]'):format(B), ('[{"jti":"%s"}]'):format(B),
    }) do
        for _, name in ipairs({ "activate", "revoke" }) do
            it(("is refused with 400 and writes nothing with %s %s"):format(name, list), function()
                local other = name == "activate" and "revoke" or "activate"
                local body = ('{"%s":%s,"%s":[%s],"position":1}'):format(name, list, other, GOOD)
                assert_refused(400, apply(body))
            end)
        end
    end

    -- An object where a list belongs has no first entry: it must not pass for an empty list.
    for _, object in ipairs({
        ('{"%s":%d}'):format(A, EXP), ('{"1":["%s",%d]}'):format(A, EXP), '{"0":[]}', '{"":null}',
    }) do
        for _, name in ipairs({ "activate", "revoke" }) do
            it(("is refused with 400 with %s %s"):format(name, object), function()
                local other = name == "activate" and "revoke" or "activate"
                assert_refused(400, apply(('{"%s":%s,"%s":[%s]}'):format(name, object, other,
                    GOOD)))
                assert_refused(400, snapshot(('{"step":"begin","%s":%s}'):format(name, object)))
            end)
        end
    end
end)

describe("/sync/apply", function()
    before_each(function()
        local generation = active_tokens.begin_snapshot()
        active_tokens.end_snapshot(generation)
    end)

    it("activates and revokes, and answers how far this gateway has come", function()
        local answer = apply({ activate = { { A, EXP }, { B, EXP } }, revoke = { { B, EXP } } })
        assert.equal(200, answer.status)
        assert.is_true(is_active(A))
        assert.is_false(is_active(B))
        local expected = active_tokens.status()
        expected.keys, expected.policy = "", ""
        assert.same(expected, status_in(answer))
    end)

    it("may be sent again and in another order, and revoked wins", function() -- S2
        apply({ revoke = { { A, EXP } } })
        apply({ activate = { { A, EXP } } })
        apply({ activate = { { A, EXP } } })
        assert.is_false(is_active(A))
    end)

    it("remembers the position it brings, and keeps it where it brings none", function()
        local status = status_in(apply({ epoch = EPOCH, position = 5 }))
        assert.same({ EPOCH, 5 }, { status.epoch, status.position })
        for _, content in ipairs({
            { activate = { { A, EXP } } }, { epoch = "other" }, { epoch = "other", position = "9" },
        }) do
            status = status_in(apply(content))
            assert.same({ EPOCH, 5 }, { status.epoch, status.position })
        end
        status = status_in(apply({ epoch = ("e"):rep(64), position = 2 }))
        assert.same({ ("e"):rep(64), 2 }, { status.epoch, status.position })
    end)

    -- A position that says not of which history, or is none: nothing of the message is written.
    for _, mark in ipairs({
        '"position":9', '"position":"9","epoch":"e"', '"position":null,"epoch":"e"',
        '"position":true,"epoch":"e"', '"position":[],"epoch":"e"', '"position":{},"epoch":"e"',
        '"position":9,"epoch":1', '"position":9,"epoch":null', '"position":9,"epoch":["e"]',
        ('"position":9,"epoch":"%s"'):format(("e"):rep(65)), '"position":null',
    }) do
        it(("is 400 and writes nothing with %s"):format(mark), function()
            local answer = apply(('{%s,"activate":[["%s",%d]],"revoke":[["%s",%d]]}'):format(
                mark, A, EXP, B, EXP))
            assert.equal(400, answer.status)
            assert.equal(0, tokens:count())
            local status = status_in(answer)
            assert.same({ "", 0 }, { status.epoch, status.position })
        end)
    end

    it("takes an epoch without a position for no position", function()
        local answer = apply({ epoch = "other", activate = { { A, EXP } } })
        assert.equal(200, answer.status)
        assert.equal(0, status_in(answer).position)
        assert.is_true(is_active(A))
    end)

    it("takes a message without entries", function()
        assert.equal(200, apply("{}").status)
    end)

    it("answers 507 where one entry does not fit, and does not move the position", function() -- S5
        tokens.most_entries = 2
        local list = { { A, EXP }, { B, EXP }, { C, EXP } }
        local answer = apply({ activate = list, epoch = EPOCH, position = 9 })
        assert.equal(507, answer.status)
        assert.equal(0, status_in(answer).position)
        assert.is_true(is_active(A))
        assert.is_true(is_active(B))
        assert.equal(1, #fake.logged)
        assert.equal(507, apply({ revoke = { { C, EXP } }, epoch = EPOCH, position = 9 }).status)
    end)

    it("writes what fits behind what does not", function()
        tokens.most_entries = 1
        apply({ activate = { { A, EXP } } })
        assert.equal(507, apply({ activate = { { B, EXP }, { A, EXP } } }).status)
        assert.equal(507, apply({ revoke = { { C, EXP }, { A, EXP } } }).status)
        assert.is_false(is_active(A))
    end)

    it("gives way to requests between the entries of a long list", function()
        local list = {}
        for index = 1, 1001 do
            list[index] = { ("%022d"):format(index), EXP }
        end
        tokens.most_entries = 2000
        assert.equal(200, apply({ activate = list }).status)
        assert.same({ 0, 0 }, fake.slept)
    end)

    it("is no sign that this gateway knows all the issuer knows", function()
        apply({ activate = { { A, EXP } } })
        assert.is_nil(active_tokens.staleness())
    end)
end)

describe("/sync/snapshot", function()
    local function begin() return status_in(snapshot({ step = "begin" })).newest end

    it("makes a gateway that has keys and a policy ready at its end, and no sooner", function()
        shared_versions.raise_keys()
        shared_versions.raise_policy()
        local generation = begin()
        assert.equal(1, generation)
        local part = { step = "part", generation = generation, activate = { { A, EXP } } }
        assert.is_false(status_in(snapshot(part)).ready)
        local last = { step = "end", generation = generation, epoch = EPOCH, position = 12 }
        local answer = snapshot(last)
        local status = status_in(answer)
        assert.equal(200, answer.status)
        assert.is_true(status.ready)
        assert.equal(12, status.position)
        assert.equal(1, status.least)
        assert.is_true(is_active(A))
        assert.equal(0, active_tokens.staleness())
    end)

    it("hides what it did not name", function()
        local first = begin()
        snapshot({ step = "part", generation = first, activate = { { A, EXP }, { B, EXP } } })
        snapshot({ step = "end", generation = first, epoch = EPOCH, position = 1 })
        local second = begin()
        snapshot({ step = "part", generation = second, activate = { { B, EXP } } })
        assert.is_true(is_active(A))
        snapshot({ step = "end", generation = second, epoch = EPOCH, position = 2 })
        assert.is_false(is_active(A))
        assert.is_true(is_active(B))
    end)

    it("may carry revocations too", function()
        local generation = begin()
        snapshot({ step = "part", generation = generation, activate = { { A, EXP } },
            revoke = { { A, EXP } } })
        snapshot({ step = "end", generation = generation, epoch = EPOCH, position = 1 })
        assert.is_false(is_active(A))
    end)

    for _, generation in ipairs({ 1, 3, "2", 2.5, true, cjson.null, {} }) do
        it("is a conflict, and writes nothing, of the generation "
            .. cjson.encode(generation), function()
            begin()
            begin()
            local part = { step = "part", generation = generation, activate = { { A, EXP } } }
            assert.equal(409, snapshot(part).status)
            local last = { step = "end", generation = generation, epoch = EPOCH, position = 3 }
            assert.equal(409, snapshot(last).status)
            assert.equal(0, tokens:count())
            assert.is_false(active_tokens.status().ready)
            assert.equal(0, active_tokens.status().position)
        end)
    end

    it("is a conflict where it never began or names no generation", function()
        assert.equal(409, snapshot({ step = "part", generation = 0 }).status)
        assert.equal(409, snapshot({ step = "part" }).status)
        assert.equal(409, snapshot({ step = "end", epoch = EPOCH, position = 1 }).status)
        assert.is_false(active_tokens.status().ready)
    end)

    it("does not end without the position it stands for, and the history that is of", function()
        local generation = begin()
        for _, position in ipairs({ "1", true, cjson.null }) do
            local last = { step = "end", generation = generation, epoch = EPOCH }
            last.position = position
            assert.equal(409, snapshot(last).status)
        end
        for _, epoch in ipairs({ 1, true, cjson.null, ("e"):rep(65) }) do
            local last = { step = "end", generation = generation, epoch = epoch, position = 1 }
            assert.equal(409, snapshot(last).status)
        end
        assert.equal(409, snapshot({ step = "end", generation = generation }).status)
        local last = { step = "end", generation = generation, position = 1 }
        assert.equal(409, snapshot(last).status)
        assert.is_false(active_tokens.status().ready)
    end)

    it("answers 507 for a part that does not fit", function()
        tokens.most_entries = 1
        local generation = begin()
        local list = { { A, EXP }, { B, EXP } }
        local answer = snapshot({ step = "part", generation = generation, activate = list })
        assert.equal(507, answer.status)
        assert.equal(1, status_in(answer).newest)
    end)

    for _, step in ipairs({ '"other"', '""', '"Begin"', "1", "null", "true", "[]", "{}" }) do
        it("is 400 and begins nothing with the step " .. step, function()
            assert.equal(400, snapshot('{"step":' .. step .. "}").status)
            assert.equal(0, active_tokens.status().newest)
        end)
    end

    it("is 400 without a step", function()
        assert.equal(400, snapshot("{}").status)
    end)
end)

describe("/sync/keys", function()
    local OTHER_SECRET = "another secret of the specs, 33 b"

    local function message(serial, ...)
        return { history = minted.HISTORY, serial = serial, sealed = minted.sealed(...) }
    end

    local function put(content) return send("POST", "/sync/keys", content) end

    local function assert_kept(status, answer)
        assert.equal(status, answer.status)
        assert.equal(minted.HISTORY .. ":5", status_in(answer).keys)
        keys.load()
        assert.is_table(keys.find(minted.kid(minted.SECRET)))
        assert.equal(1, shared_versions.keys())
        assert.equal(1, #fake.logged)
    end

    it("puts keys in force and answers how they are named", function()
        local answer = put(message(5, minted.entry()))
        assert.equal(200, answer.status)
        assert.equal(minted.HISTORY .. ":5", status_in(answer).keys)
        keys.load()
        assert.is_table(keys.find(minted.kid(minted.SECRET)))
        assert.equal(minted.HISTORY .. ":5", status_in(send("GET", "/sync/status")).keys)
    end)

    it("makes a gateway ready that has its policy and its snapshot", function()
        shared_versions.raise_policy()
        active_tokens.end_snapshot(active_tokens.begin_snapshot())
        assert.is_false(status_in(send("GET", "/sync/status")).ready)
        assert.is_true(status_in(put(message(1, minted.entry()))).ready)
    end)

    it("may come again and again", function()
        for _ = 1, 3 do
            assert.equal(200, put(message(5, minted.entry())).status)
        end
    end)

    it("is a conflict, and changes nothing, with an older list of the same history", function()
        put(message(5, minted.entry()))
        assert_kept(409, put(message(4, minted.entry("HS256", OTHER_SECRET))))
    end)

    for what, change in pairs({
        ["sealed with another key"] = function(content)
            content.sealed = minted.seal('{"keys":[]}', ("k"):rep(32))
        end,
        ["not sealed"] = function(content) content.sealed = '{"keys":[]}' end,
        ["sealed and no JSON"] = function(content) content.sealed = minted.seal("{") end,
        ["of no keys"] = function(content) content.sealed = minted.sealed() end,
        ["without a seal"] = function(content) content.sealed = nil end,
        ["without a history"] = function(content) content.history = nil end,
        ["without a serial"] = function(content) content.serial = nil end,
        ["with a serial that is a text"] = function(content) content.serial = "6" end,
    }) do
        it("is 400, and changes nothing, with a list " .. what, function()
            put(message(5, minted.entry()))
            local content = message(6, minted.entry("HS256", OTHER_SECRET))
            change(content)
            assert_kept(400, put(content))
        end)
    end

    it("is 401 and writes nothing without a right MAC, however well it is sealed", function()
        local body = cjson.encode(message(5, minted.entry()))
        assert_refused(401, deliver(signed("POST", "/sync/keys", body, { mac = ("0"):rep(64) })))
    end)

    it("is good for one use", function()
        local one = signed("POST", "/sync/keys", cjson.encode(message(5, minted.entry())))
        assert.equal(200, deliver(one).status)
        fake.shared.portero_keys.entries, dict.entries = {}, {}
        assert_refused(409, deliver(one))
    end)

    it("is 507, and changes nothing, where there is no room", function()
        fake.shared.portero_keys.most_entries = 0
        local answer = put(message(5, minted.entry()))
        assert.equal(507, answer.status)
        assert.equal("", status_in(answer).keys)
    end)

    it("is a conflict, to be sent again, while another writer does not end", function()
        fake.shared.portero_keys:safe_add("lock", true)
        local answer = put(message(5, minted.entry()))
        assert.equal(409, answer.status)
        assert.equal("", status_in(answer).keys)
    end)

    it("logs and answers no key, whether it is accepted or not", function()
        local sealed = minted.sealed(minted.entry())
        local answers = {
            put({ history = minted.HISTORY, serial = 5, sealed = sealed }).body,
            put({ history = minted.HISTORY, serial = 4, sealed = sealed }).body,
            put({ history = minted.HISTORY, serial = 6, sealed = sealed:sub(2) }).body,
        }
        local said = table.concat(fake.logged) .. table.concat(answers)
        for _, text in ipairs({ minted.SECRET, fake.ngx.encode_base64(minted.SECRET), sealed }) do
            assert.is_nil(said:find(text, 1, true))
        end
    end)
end)

describe("/sync/policy", function()
    local in_force

    before_each(function()
        in_force = fake.load("portero.policy.in_force")
    end)

    --- A policy that can be told from others.
    local function message(serial, seconds)
        local listed = policies.listed()
        listed.roles.user.ttl_seconds = seconds or serial
        return { history = policies.HISTORY, serial = serial, policy = listed }
    end

    local function put(content) return send("POST", "/sync/policy", content) end

    --- As a request has it.
    local function seconds_in_force()
        shared_versions.look()
        local policy = in_force.current()
        return policy and policy.roles.user.ttl_seconds
    end

    local function assert_kept(status, answer)
        assert.equal(status, answer.status)
        assert.equal(policies.HISTORY .. ":5", status_in(answer).policy)
        assert.equal(5, seconds_in_force())
        assert.equal(1, shared_versions.policy())
        assert.equal(1, #fake.logged)
    end

    it("puts a policy in force and answers how it is named", function()
        local answer = put(message(5))
        assert.equal(200, answer.status)
        assert.equal(policies.HISTORY .. ":5", status_in(answer).policy)
        assert.equal(5, seconds_in_force())
        assert.equal(policies.HISTORY .. ":5", status_in(send("GET", "/sync/status")).policy)
        assert.same({}, fake.logged)
    end)

    it("refuses one whose key of a server cannot be opened: it would be asked without", function()
        fake.load("portero.server.places").start({ sync_key = minted.SYNC_KEY })
        put(message(5))
        local content = message(6)
        content.policy.servers = { { name = "rack", credential = "bm90IHNlYWxlZA==" } }
        assert_kept(400, put(content))
    end)

    it("keeps it as the message has it, lists without anything in them too", function()
        local content = message(5)
        content.policy.roles.user.limits = { models = { "a", "b*" }, requests_per_minute = 3 }
        content.policy.users = { USRSA = { limits = { models = {} } }, USRSB = {} }
        local decision = fake.load("portero.policy.decision")
        local body = cjson.encode(content):gsub('"models":{}', '"models":[]')
        assert.equal(200, put(body).status)
        shared_versions.look()
        assert.same(decision.load(content.policy), in_force.current())
    end)

    it("makes a gateway ready that has its keys and its snapshot", function()
        shared_versions.raise_keys()
        active_tokens.end_snapshot(active_tokens.begin_snapshot())
        assert.is_false(status_in(send("GET", "/sync/status")).ready)
        assert.is_true(status_in(put(message(1))).ready)
    end)

    it("may come again and again", function()
        for _ = 1, 3 do
            assert.equal(200, put(message(5)).status)
        end
    end)

    it("is a conflict, and changes nothing, with an older one of the same history", function()
        put(message(5))
        assert_kept(409, put(message(4)))
    end)

    for what, change in pairs({
        ["without a policy"] = function(content) content.policy = nil end,
        ["whose policy is a text"] = function(content) content.policy = "{}" end,
        ["whose policy is null"] = function(content) content.policy = cjson.null end,
        ["whose policy is empty"] = function(content) content.policy = {} end,
        ["whose policy is a list"] = function(content) content.policy = { 1 } end,
        ["without roles"] = function(content) content.policy.roles = nil end,
        ["with a route that nobody answers"] = function(content)
            content.policy.routes[1].answered_by = nil
        end,
        ["without a history"] = function(content) content.history = nil end,
        ["without a serial"] = function(content) content.serial = nil end,
        ["with a serial that is a text"] = function(content) content.serial = "6" end,
        ["with a fraction of a serial"] = function(content) content.serial = 6.5 end,
    }) do
        it("is 400, and changes nothing, with a message " .. what, function()
            put(message(5))
            local content = message(6)
            change(content)
            assert_kept(400, put(content))
        end)
    end

    it("is 507, and changes nothing, where there is no room", function()
        put(message(5))
        fake.shared.portero_policy.safe_set = function() return nil, "no memory" end
        assert_kept(507, put(message(6)))
    end)

    it("is a conflict, to be sent again, while another writer does not end", function()
        put(message(5))
        fake.shared.portero_policy:safe_add("lock", true)
        assert_kept(409, put(message(6)))
    end)

    it("is 401 and writes nothing without a right MAC", function()
        local body = cjson.encode(message(5))
        local changes = { mac = ("0"):rep(64) }
        assert_refused(401, deliver(signed("POST", "/sync/policy", body, changes)))
    end)

    it("is good for one use", function()
        local one = signed("POST", "/sync/policy", cjson.encode(message(5)))
        assert.equal(200, deliver(one).status)
        fake.shared.portero_policy.entries, dict.entries = {}, {}
        assert_refused(409, deliver(one))
    end)

    it("logs nothing of what a policy says, whether it is accepted or not", function()
        local content = message(5)
        content.policy.users = { USRSCANARY = {} }
        put(content)
        content.serial = 4
        put(content)
        content.serial, content.policy.routes = 6, "CANARY"
        local answer = put(content)
        assert.is_nil((table.concat(fake.logged) .. answer.body):find("CANARY", 1, true))
        assert.equal(2, #fake.logged)
    end)
end)

describe("/sync/status", function()
    it("answers how far this gateway has come, and is no sign that it is current", function()
        active_tokens.start("boot-id")
        local answer = send("GET", "/sync/status")
        assert.equal(200, answer.status)
        assert.same({
            boot = "boot-id", ready = false, newest = 0, least = 0, epoch = "", position = 0,
            keys = "", policy = "",
            free_bytes = tokens:free_space(), capacity_bytes = tokens:capacity(),
        }, status_in(answer))
        assert.is_nil(active_tokens.staleness())
    end)

    it("is followed by the message that brings this gateway up to date, which is one", function()
        apply('{"epoch":"e","position":1}')
        assert.is_nil(active_tokens.staleness())
        apply('{"epoch":"e","position":2,"current":true}')
        assert.equal(0, active_tokens.staleness())
    end)

    it("hears nobody whose MAC is wrong", function()
        deliver(signed("POST", "/sync/apply", '{"epoch":"e","position":2,"current":true}',
            { mac = ("0"):rep(64) }))
        assert.is_nil(active_tokens.staleness())
    end)
end)

describe("every message", function()
    it("notices that the clock was set, and its answer asks for a snapshot", function()
        shared_versions.raise_keys()
        shared_versions.raise_policy()
        active_tokens.end_snapshot(active_tokens.begin_snapshot())
        assert.is_true(status_in(send("GET", "/sync/status")).ready)
        fake.set_clock(-20)
        assert.is_false(status_in(send("GET", "/sync/status")).ready)
        snapshot({ step = "begin" })
        snapshot({ step = "end", generation = 2, epoch = EPOCH, position = 1 })
        assert.is_true(status_in(send("GET", "/sync/status")).ready)
    end)
end)

--- A policy with one LLM server, and what is known of it.
local function put_server()
    local listed = policies.listed()
    listed.servers = { {
        name = "rack", kind = "vllm", dialect = "openai", model_names = "exact", weight = 1,
        scheme = "https", host = "10.0.0.1", port = 8000, authority = "10.0.0.1:8000", path = "",
        credential = "CANARY",
    } }
    return policies.put(fake, listed).servers[1], fake.load("portero.server.server_state")
end

describe("GET /sync/servers", function()
    local function servers()
        local answer = send("GET", "/sync/servers")
        assert.equal(200, answer.status)
        assert.is_nil(answer.body:find("CANARY", 1, true))
        return status_in(answer).servers
    end

    it("tells what is known of each server that the policy names, and no key", function()
        fake.load("portero.server.in_flight").count = function() return 3 end
        local row, state = put_server()
        assert.same({ { name = "rack", state = "unknown", in_flight = 3, ejections = 0 } },
            servers())
        state.listed(row, { entries = { { id = "m" }, { id = "n" } } })
        state.changes({ servers = { row } })
        state.silent(row, "no answer")
        assert.same({ {
            name = "rack", state = "down", since = NOW, in_flight = 3, ejections = 0,
            models = { "m", "n" }, last_error = "its list of models: no answer",
        } }, servers())
    end)

    it("has no such field where the policy names none, or there is none", function()
        assert.is_nil(servers())
        policies.put(fake)
        assert.is_nil(servers())
    end)
end)

describe("GET /sync/pool", function()
    local function pool(addresses)
        fake.load("portero.server.upstreams").reach = function(name)
            assert.equal("llm", name)
            return addresses
        end
        local answer = send("GET", "/sync/pool")
        assert.equal(200, answer.status)
        return status_in(answer).pool
    end

    it("tells of each address whether a connection was had", function()
        local rows = { { address = "10.0.0.1:80" }, { address = "b", error = "timeout" } }
        assert.same(rows, pool(rows))
    end)

    it("has no such field without a pool", function()
        assert.is_nil(pool({}))
    end)
end)

describe("what is spent", function()
    local GOOD = { number = 0, day = "2023-11-14", complete = true, rows = { { "u:USRSA", 1, 2 } } }

    before_each(function()
        active_tokens.start("this life")
        fake.load("portero.quota.usage_counts").start({ has_usage = true })
    end)

    local function tell(changes)
        local message = { boot = "this life" }
        for name, value in pairs(GOOD) do
            message[name] = value
        end
        for name, value in pairs(changes) do
            message[name] = value
        end
        return send("POST", "/sync/spent", message).status
    end

    it("is taken, by this life alone", function()
        assert.equal(200, tell({}))
        assert.equal(2, fake.shared.portero_budgets:get("2023-11u:USRSA"))
        assert.equal(409, tell({ boot = "another" }))
        fake.load("portero.quota.usage_counts").start({ has_usage = false })
        assert.equal(409, tell({}))
    end)

    it("is 507 where it finds no room", function()
        fake.shared.portero_budgets.most_entries = 0
        assert.equal(507, tell({}))
    end)

    it("is 400 in any other form, and then nothing of it is taken", function()
        for _, changes in ipairs({ { boot = 1 }, { number = -1 }, { day = "today" }, { rows = 1 },
            { rows = { { "u:USRSA", 1, 2 }, { "u:USRSB", 1 } } }, { rows = { { 1, 1, 1 } } } }) do
            assert.equal(400, tell(changes))
        end
        assert.equal(0, fake.shared.portero_budgets:count())
    end)
end)

describe("limits of a minute that gateways share", function()
    local KEY = "r:USRSA"
    local limits

    before_each(function()
        limits = fake.load("portero.quota.limits")
        limits.start()
    end)

    local function share(rows)
        local answer = send("POST", "/sync/limits", { rows = rows })
        return answer.status, status_in(answer).windows
    end

    it("are taken, and what was counted here is told", function()
        assert.same({ 200 }, { share({ { KEY, 3, 59.5 } }) })
        assert.equal(6, (limits.left("requests", "USRSA", 10)))
        assert.same({ 200, { { KEY, 1, 59.5 } } }, { share({}) })
    end)

    it("are 507 where they find no room", function()
        fake.shared.portero_limits.most_entries = 0
        assert.equal(507, (share({ { KEY, 3, 59.5 } })))
    end)

    it("are 400 in any other form, and then nothing of it is taken", function()
        for _, rows in ipairs({ 1, { 1 }, { { KEY, 3, 59.5 }, { KEY } }, { { KEY, -1, 1 } },
            { { KEY, 1, 0 } }, { { KEY, 1, 61 } }, { { KEY, 1.5, 1 } }, { { "s:USRSA:1", 1, 1 } },
            { { "r:", 1, 1 } }, { { 1, 1, 1 } } }) do
            assert.equal(400, (share(rows)))
        end
        assert.equal(400, send("POST", "/sync/limits", {}).status)
        assert.equal(0, fake.shared.portero_limits:count())
    end)
end)

describe("usage", function()
    local counts

    before_each(function()
        counts = fake.load("portero.quota.usage_counts")
        counts.start({ has_usage = true })
    end)

    local function fetch(content)
        local answer = send("POST", "/sync/usage", content)
        return answer.exit or answer.status, status_in(answer).usage
    end

    it("is handed out as the same batch until the store has it, in this life alone", function()
        counts.count(NOW, "USRSA", "token", "a", "llm", 3, 1)
        counts.flush()
        active_tokens.start("this life")
        local boot = active_tokens.status().boot
        local rows = { { "2023-11-14", "USRSA", "token", "a", "llm", 1, 3, 1 } }
        for _, message in ipairs({ { boot = boot, taken = 0 }, { boot = "other", taken = 9 } }) do
            assert.same({ 200, { number = 1, rows = rows } }, { fetch(message) })
        end
        assert.same({ 200 }, { fetch({ boot = boot, taken = 1 }) })
    end)

    it("is asked for by a life's name and a number, else it is 400", function()
        for _, message in ipairs({ {}, { boot = "b" }, { taken = 1 }, { boot = 1, taken = 1 },
            { boot = "b", taken = -1 }, { boot = "b", taken = 0.5 }, { boot = "b", taken = "1" } })
        do
            assert.equal(400, send("POST", "/sync/usage", message).status)
        end
    end)
end)

describe("metrics", function()
    it("shows the LLM servers that the policy names", function()
        fake.load("portero.server.in_flight").count = function() return 3 end
        put_server()
        receiver.metrics()
        assert.matches('\nportero_llm_server_in_flight{server="rack"} 3\n', fake.answer.body, 1,
            true)
    end)

    it("answers the exposition of this gateway's state as Prometheus' text", function()
        active_tokens.heard()
        fake.clock.now = NOW + 4
        fake.request({ target = "/metrics" })
        receiver.metrics()
        assert.equal("text/plain; version=0.0.4", fake.answer.headers["content-type"])
        assert.matches("\nportero_ready 0\n", fake.answer.body, 1, true)
        assert.matches("\nportero_sync_staleness_seconds 4\n", fake.answer.body, 1, true)
    end)
end)

describe("start", function()
    it("sets the key by which messages are judged", function()
        receiver.start({ sync_key = ("k"):rep(32) })
        assert.equal(401, apply("{}").exit)
        local message = signed("POST", "/sync/apply", "{}")
        message.key = ("k"):rep(32)
        message.mac = mac_of(message)
        assert.equal(200, deliver(message).status)
    end)
end)
