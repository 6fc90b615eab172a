---------
-- Running streams: docs/http-api.md, threats B15. A stream is never held back.
-- What nginx makes of `ngx.ERROR` (no last chunk, the LLM server is stopped), and that it calls the
-- filter with an empty chunk behind the head and at a failure, is seen in a real one alone:
-- tests/stack/test_streams.py.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")
local minted = require("minted")
local policies = require("policies")

local NOW = minted.NOW
local JTI = minted.JTI
local EXP = NOW + 20
local SSE = "text/event-stream; charset=utf-8"
local NDJSON = "application/x-ndjson"
--- Role -> what it does about its token's end.
local STREAM_POLICIES = { finishes = "finish", is_cut = "cut", has_ten = 10, has_sixty = 60 }

local fake, stream, active_tokens

--- A policy of roles that differ in that alone, in force.
local function put_policy(stream_policies)
    local listed = policies.listed()
    listed.roles = {}
    for name, its in pairs(stream_policies) do
        listed.roles[name] = { code = "USRS", ttl_seconds = 900, stream_policy = its }
    end
    policies.put(fake, listed)
end

local function snapshot()
    active_tokens.end_snapshot(active_tokens.begin_snapshot())
end

before_each(function()
    fake = fake_ngx.install(NOW)
    active_tokens = fake.load("portero.token.active_tokens")
    stream = fake.load("portero.answer.stream")
    put_policy(STREAM_POLICIES)
    snapshot()
    active_tokens.activate(JTI, EXP, NOW)
end)

local function begin(changes)
    local what = { role = "finishes", type = SSE, target = "/v1/chat/completions" }
    for name, value in pairs(changes or {}) do
        what[name] = value
    end
    fake.clock.now = NOW
    fake.request({ method = "POST", target = what.target })
    local var = fake.ngx.var
    var.auth_role, var.auth_token_id = what.role, JTI
    fake.ngx.header["Content-Type"] = what.type or nil
    fake.ngx.header["Content-Length"] = what.length
    stream.begin()
end

--- What an event's data says, whose name is right for its dialect.
local function data_in(event)
    local name, data = event:match("^event: (%w+)\ndata: (.*)$")
    local content = assert.is_table(cjson.decode(data)) and cjson.decode(data)
    assert.equal(name, content.type)
    return content
end

--- A dialect whose events have names.
local function named(target)
    return {
        request = { target = target },
        event = function(text)
            return ('event: word\ndata: {"type":"word","text":"%s"}\n\n'):format(text)
        end,
        error_in = function(text)
            local last
            for event in text:gmatch("(.-)\n\n") do
                last = data_in(event)
            end
            assert.equal("error", last.type)
            return last.error.message
        end,
    }
end

--- The dialects: a request, an event, and the error at the end of what the client gets.
local DIALECTS = {
    MESSAGES = named("/v1/messages?beta=true"),
    RESPONSES = named("/llm/responses"),
    SSE = {
        request = {},
        event = function(text) return ('data: {"text":"%s"}\n\n'):format(text) end,
        -- All events of the text are whole, as a client reads them.
        error_in = function(text)
            for event in text:gmatch("(.-)\n\n") do
                assert.is_table(cjson.decode(event:match("^data: (.*)$")), event)
            end
            return cjson.decode(text:match("data: ([^\n]*)\n\n$")).error.message
        end,
    },
    NDJSON = {
        request = { type = NDJSON, target = "/api/chat" },
        event = function(text) return ('{"text":"%s"}\n'):format(text) end,
        error_in = function(text)
            for line in text:gmatch("([^\n]*)\n") do
                assert.is_table(cjson.decode(line), line)
            end
            return cjson.decode(text:match("([^\n]*)\n$")).error
        end,
    },
}
local event = DIALECTS.SSE.event

--- One chunk at a second of the stream; what the client gets, and what the filter answers.
local function pass(second, chunk, is_last)
    fake.clock.now = NOW + second
    fake.ngx.arg[1], fake.ngx.arg[2] = chunk, is_last or false
    local answer = stream.filter()
    return fake.ngx.arg[1], answer
end

local function assert_passes(second, chunk, is_last)
    assert.same({ chunk, nil }, { pass(second, chunk, is_last) })
end

--- The chunk is not sent, the error is; and the next call ends the connection.
local function assert_cut(code, message, second, chunk)
    local text, answer = pass(second, chunk)
    assert.is_nil(answer)
    assert.equal(1, select(2, text:gsub("data: ", "")))
    local content = cjson.decode(text:match("^data: ([^\n]*)\n\n$")).error
    assert.same({ code, message }, { content.code, content.message })
    assert.equal(fake.ngx.ERROR, select(2, pass(second, "", true)))
end

local function revoke()
    active_tokens.revoke(JTI, EXP, fake.clock.now)
end

local REVOKED = "The token was revoked."
local TOO_LONG = "The stream ran for as long as your role allows."
local FAILED = "The LLM server cannot be reached."

describe("filter passes on", function()
    it("every chunk of an active token's stream as it is", function()
        begin()
        for second = 0, 19 do
            assert_passes(second, event(second))
        end
        assert_passes(19, "", true)
    end)

    it("each chunk in its own call, and writes nothing: nothing is held back", function()
        begin()
        for index, chunk in ipairs({
            "", "d", 'ata: {"a', '":1}', "\n", "\n", ": ping\n\n", "data: [DONE]\n\n", "x\0\255",
        }) do
            fake.clock.now = NOW + index
            fake.ngx.arg = setmetatable({}, {
                __index = { chunk, false },
                __newindex = function() error("the chunk was changed") end,
            })
            assert.is_nil(stream.filter())
        end
    end)

    it("an event and the end of the stream in one call", function()
        begin()
        assert_passes(3, event("last"), true)
    end)

    it("all of a stream while nothing is known, as after a restart", function()
        begin({ role = "is_cut" })
        fake.shared.portero_sync.entries = {}
        assert_passes(5, event(1))
        assert_passes(25, event(2))
    end)

    -- The token is revoked.
    for _, kind in ipairs({ "application/json", "audio/mpeg", "text/plain", SSE, NDJSON, "" }) do
        it(("an answer that came whole: %q"):format(kind), function()
            begin({ type = kind, length = "2" })
            revoke()
            assert_passes(5, "{}")
            assert_passes(6, "", true)
        end)
    end

    it("an answer of a told length in parts, while its token is active", function()
        begin({ type = "application/json", length = "9" })
        for second, part in ipairs({ "[1,", "2,3", ",4]" }) do
            assert_passes(second * 5, part)
        end
        assert_passes(16, "", true)
    end)

    it("a stream that nginx keeps where it kept another one, whose client has left", function()
        begin()
        local place = fake.address
        revoke()
        pass(2, event(1)) -- is cut; the connection's end is never asked for
        for _, length in ipairs({ "2", false }) do
            begin({ type = "application/json", length = length or nil })
            fake.address = place
            stream.begin()
            assert_passes(0.1, "{}")
        end
    end)

    it("the answer to one request although another's stream was cut", function()
        begin()
        revoke()
        assert_cut("invalid_api_key", REVOKED, 2, event(1))
        begin({ type = "application/json", length = "2" })
        assert_passes(3, "{}")
    end)
end)

-- What is watched follows from an answer that still flows, never from what it is called.
describe("filter and an answer of another type that still flows", function()
    -- What the LLM server calls it, for whose path, and what begins the words at its end.
    for _, case in ipairs({
        { "text/plain; charset=utf-8", "/api/chat", "{" }, { "text/plain", "/llm/api/chat", "{" },
        { "application/json", "/api/generate", "{" }, { false, "/api/pull", "{" },
        { "application/octet-stream", "/api/chat", "{" },
        { "text/event-stream", "/api/chat", "data: {" },
        { "Text/Event-Stream;charset=UTF-8", "/v1/messages", "event: error\ndata: {" },
        { "text/plain", "/v1/chat/completions", "data: {" },
        { "", "/v1/responses", "event: error\ndata: {" },
        { false, "/completion", "data: {" }, { "application/jsonl", "/v1/x", "{" },
        { "application/ndjson", "/v1/x", "{" }, { "Application/X-NDJSON", "/v1/x", "{" },
    }) do
        local name = ("%s at %s"):format(tostring(case[1]), case[2])
        it("cut it with the words of its path, where its type says nothing: " .. name, function()
            begin({ type = case[1], target = case[2] })
            local whole = case[3] == "{" and '{"a":1}\n' or "data: 1\n\n"
            assert_passes(0, whole)
            revoke()
            local text, answer = pass(1, whole)
            assert.is_nil(answer)
            assert.equal(case[3], text:sub(1, #case[3]))
            assert.is_truthy(text:find(REVOKED, 1, true))
            assert.equal(fake.ngx.ERROR, select(2, pass(1, "", true)))
        end)
    end

    for _, kind in ipairs({
        "application/json", "audio/mpeg", "application/octet-stream", "x-text/event-stream",
        "image/png", "text/html", "multipart/mixed; boundary=x",
    }) do
        it("end it without words, which would be taken for a part of it: " .. kind, function()
            begin({ type = kind })
            assert_passes(0, "abc")
            revoke()
            assert.equal(fake.ngx.ERROR, select(2, pass(1, "def")))
            fake.load("portero.metrics").flush()
            assert.equal(1, fake.shared.portero_metrics:get("cut_revoked"))
        end)

        it("end it where it told its length and comes in parts: " .. kind, function()
            begin({ type = kind, length = "9" })
            assert_passes(0, "abc")
            revoke()
            assert_passes(0.4, "d")
            assert.equal(fake.ngx.ERROR, select(2, pass(0.5, "ef")))
        end)
    end

    it("end it by the policy 'cut' past the token's end, though it told its length", function()
        begin({ role = "is_cut", type = "application/json", length = "9" })
        assert_passes(5, "abc")
        assert.equal(fake.ngx.ERROR, select(2, pass(21, "def")))
    end)
end)

describe("filter and a token that is revoked", function()
    for name, dialect in pairs(DIALECTS) do
        it(("cut its stream with an error in the dialect, %s, then the connection"):format(name),
            function()
                begin(dialect.request)
                assert_passes(0, dialect.event(1))
                revoke()
                local text, answer = pass(2, dialect.event(2))
                assert.is_nil(answer)
                assert.equal(REVOKED, dialect.error_in(text))
                assert.is_nil(text:find("text", 1, true))
                for _ = 1, 3 do
                    assert.equal(fake.ngx.ERROR, select(2, pass(2, dialect.event(3))))
                end
                assert.equal(fake.ngx.ERROR, select(2, pass(2, "", true)))
            end)

        it(("pass the rest of an event first that an earlier chunk began: %s"):format(name),
            function()
                begin(dialect.request)
                local first, second = dialect.event("a-b"):match("^(.*%-)(.*)$")
                assert_passes(0, first)
                revoke()
                local text = pass(2, second .. dialect.event("next"))
                assert.equal(second, text:sub(1, #second))
                assert.is_nil(text:find("next", 1, true))
                assert.equal(REVOKED, dialect.error_in(first .. text))
            end)
    end

    -- The parts of an open event, the last with its end, whatever comes behind it.
    local LONG_EVENTS = {
        { "SSE", 'data: {"a":', '"b"', ',"c":1', "}\n\n" },
        { "SSE", "data: 1\r\n", "data: 2", "\r\n\r\n" },
        { "SSE", "data: 1\n", "data: 2", "\r\n\r\n" },
        { "SSE", "event: x\n", "data: [1", "]\n\n" },
        { "SSE", "d", "ata: [1]\n\n" },
        { "NDJSON", '{"a":', '"b"', "}\n" },
        { "NDJSON", '{"a":', '"b"}\r\n' },
    }
    for index, parts in ipairs(LONG_EVENTS) do
        it(("wait for the end of an event, and cut behind it: %s, %d"):format(parts[1], index),
            function()
                local dialect = DIALECTS[parts[1]]
                begin(dialect.request)
                assert_passes(0, parts[2])
                revoke()
                for at = 3, #parts - 1 do
                    assert_passes(2 + at / 100, parts[at])
                end
                local rest = parts[#parts]
                local text, answer = pass(2.1, rest .. dialect.event("next") .. "x")
                assert.is_nil(answer)
                assert.equal(rest, text:sub(1, #rest))
                assert.is_nil(text:find("next", 1, true))
                assert.equal(REVOKED, dialect.error_in(text:sub(#rest + 1)))
                assert.equal(fake.ngx.ERROR, select(2, pass(2.1, dialect.event("more"))))
            end)
    end

    it("end with the first end there is, whichever form it has", function()
        for first, second in pairs({ ["\n\n"] = "\r\n\r\n", ["\r\n\r\n"] = "\n\n" }) do
            begin()
            assert_passes(0, "data: ")
            revoke()
            local text = pass(2, "1" .. first .. "data: next" .. second)
            assert.equal("1" .. first .. "data: {", text:sub(1, #first + 8))
        end
    end)

    -- Whole events before the chunk, in one chunk or in many: nothing is open.
    for _, chunks in ipairs({
        { "data: 1\n\n" }, { "data: 1\r\n\r\n" }, { "data: 1\n", "\n" },
        { "data: 1\r\n", "\r\n" }, { "data: 1\r", "\n", "\r", "\n" }, { ": ping\n\n" },
        { "data: 1\n\ndata: ", "2\n\n" }, { "", "data: 1\n\n" }, { "" },
    }) do
        it("put the error in the whole chunk's place behind " .. cjson.encode(chunks), function()
            begin()
            for _, chunk in ipairs(chunks) do
                assert_passes(0, chunk)
            end
            revoke()
            assert_cut("invalid_api_key", REVOKED, 2, event("next"))
        end)
    end

    it("cut behind an event whose end comes in two chunks", function()
        begin()
        assert_passes(0, "data: 1\n")
        revoke()
        local text = pass(2, "\ndata: 2\n\n")
        assert.equal("\ndata: {", text:sub(1, 8))
        assert.is_truthy(text:find(REVOKED, 1, true))
        assert.is_nil(text:find("data: 2", 1, true))
    end)

    --- What a client has that gets these chunks, the first of them before the stream is looked at.
    local function cut_stream(chunks)
        begin()
        local text = { (pass(0, chunks[1])) }
        for index = 2, #chunks do
            local answer
            text[index], answer = pass(1 + index / 100, chunks[index])
            if answer then
                return table.concat(text, "", 1, index - 1)
            end
        end
        return table.concat(text) .. pass(1.2, "")
    end

    for _, line_end in ipairs({ "\n", "\r\n", "\r", "\n\r", "\r\r\n" }) do
        local name = cjson.encode(line_end)
        it("leave whole events and the error behind them, wherever it is cut: " .. name, function()
            revoke()
            local text = ("id: 7" .. line_end .. "data: [1]" .. line_end .. line_end):rep(3)
            for first = 1, #text - 1 do
                for second = first + 1, #text do
                    local got = cut_stream({
                        text:sub(1, first), text:sub(first + 1, second),
                        second < #text and text:sub(second + 1) or nil,
                    }):gsub("\r\n", "\n"):gsub("\r", "\n")
                    local before, last = got:match("^(.*)\n+(data: {[^\n]*})\n\n$")
                    assert.is_truthy(last and last:find(REVOKED, 1, true), got)
                    for event in before:gmatch("[^\n]+") do
                        assert.is_truthy(event == "id: 7" or event == "data: [1]", got)
                    end
                end
            end
        end)
    end

    it("wait for an event's end for 0.4 s and no longer", function()
        begin()
        assert_passes(0, 'data: {"a":')
        revoke()
        assert_passes(2, '"b')
        assert_passes(2.3, "c")
        assert.is_truthy(pass(2.5, "d"):find(REVOKED, 1, true))
    end)

    it("cut nothing where the stream ended while the cut waited", function()
        begin()
        assert_passes(0, "data: 1")
        revoke()
        assert_passes(2, "2")
        assert_passes(2, "", true)
        fake.load("portero.metrics").flush()
        assert.is_nil(fake.shared.portero_metrics:get("cut_revoked"))
    end)

    it("use the code that every bad token has", function()
        begin()
        revoke()
        assert_cut("invalid_api_key", REVOKED, 2, event(1))
    end)

    it("cut whatever the role's policy is", function()
        for role in pairs(STREAM_POLICIES) do
            begin({ role = role })
            revoke()
            assert_cut("invalid_api_key", REVOKED, 2, event(1))
        end
    end)

    it("cut a stream that was silent until after the token's end", function()
        begin()
        assert_passes(0, event(1))
        fake.clock.now = EXP - 1
        revoke()
        assert_cut("invalid_api_key", REVOKED, 20 + 598, event(2))
    end)

    it("cut a stream that has outlived its token", function()
        begin()
        assert_passes(60, event(1))
        revoke()
        assert_cut("invalid_api_key", REVOKED, 61, event(2))
    end)

    it("cut the stream of a token that the next snapshot does not name", function()
        begin()
        assert_passes(2, event(1))
        snapshot()
        assert_cut("invalid_api_key", REVOKED, 4, event(2))
    end)

    it("cut nothing for a snapshot that has begun and not ended", function()
        begin()
        active_tokens.begin_snapshot()
        assert_passes(2, event(1))
    end)

    it("count the cut, once", function()
        begin()
        revoke()
        for second = 2, 5 do
            pass(second, event(second))
        end
        fake.load("portero.metrics").flush()
        assert.equal(1, fake.shared.portero_metrics:get("cut_revoked"))
    end)
end)

describe("filter looks at the token", function()
    local looks

    before_each(function()
        looks = 0
        local is_active = active_tokens.is_active
        active_tokens.is_active = function(jti)
            looks = looks + 1
            return is_active(jti)
        end
    end)

    it("twice a second at most", function()
        begin()
        for index = 0, 1000 do
            pass(index / 100, event(index))
        end
        assert.is_true(looks >= 19 and looks <= 20, looks .. " looks")
    end)

    it("not within the first half second, which the request itself was judged in", function()
        begin()
        revoke()
        assert_passes(0, event(1))
        assert_passes(0.49, event(2))
        assert.equal(0, looks)
        assert_cut("invalid_api_key", REVOKED, 0.5, event(3))
    end)

    it("not again for half a second after it found it active", function()
        begin()
        assert_passes(1.5, event(1))
        revoke()
        assert_passes(1.9, event(2))
        assert_cut("invalid_api_key", REVOKED, 2, event(3))
    end)

    it("at the first event of a stream that began late", function()
        begin()
        revoke()
        assert_cut("invalid_api_key", REVOKED, 15, event(1))
    end)

    it("of each stream by itself", function()
        begin()
        pass(1, event(1))
        begin()
        pass(1, event(1))
        assert.equal(2, looks)
    end)

    it("of no answer that came whole", function()
        begin({ type = "application/json", length = "2" })
        pass(5, "{}")
        pass(5, "", true)
        assert.equal(0, looks)
    end)
end)

describe("filter and a clock that is set", function()
    for _, step in ipairs({ -3600, -30, -2, 2, 30, 3600 }) do
        it(("look within a second at a stream that began before: %d s"):format(step), function()
            begin()
            assert_passes(0, event(1))
            fake.set_clock(step)
            active_tokens.revoke(JTI, EXP, fake.clock.now)
            assert_cut("invalid_api_key", REVOKED, step + 1, event(2))
        end)
    end

    it("look within a second once it is right again", function()
        begin()
        fake.set_clock(3600)
        assert_passes(3601, event(1))
        fake.set_clock(-3600)
        revoke()
        assert_cut("invalid_api_key", REVOKED, 3, event(2))
    end)

    it("let no stream run for longer than its role allows, nor cut one sooner", function()
        for _, step in ipairs({ -3600, 5 }) do
            begin({ role = "has_ten" })
            assert_passes(0, event(1))
            fake.set_clock(step)
            assert_passes(step + 9, event(2))
            assert_cut("rate_limit_exceeded", TOO_LONG, step + 11, event(3))
            fake.set_clock(-step)
        end
    end)

    it("do not take a token for expired that is missing since", function()
        begin({ role = "is_cut" })
        assert_passes(0, event(1))
        fake.set_clock(3600)
        active_tokens.tidy()
        fake.set_clock(-3600)
        assert_passes(2, event(2))
        snapshot()
        assert_cut("invalid_api_key", "token expired", 4, event(3))
    end)
end)

describe("filter and a token past its end", function()
    it("let the stream run on to its end by the policy 'finish'", function()
        begin({ role = "finishes" })
        for _, second in ipairs({ 1, 20, 21, 600, 86400 }) do
            assert_passes(second, event(second))
        end
    end)

    it("cut the stream by the policy 'cut', and not before", function()
        begin({ role = "is_cut" })
        assert_passes(19.9, event(1))
        assert_cut("invalid_api_key", "token expired", 21, event(2))
        fake.load("portero.metrics").flush()
        assert.equal(1, fake.shared.portero_metrics:get("cut_expired"))
    end)

    it("let the stream run to the seconds that the policy is", function()
        begin({ role = "has_sixty" })
        for _, second in ipairs({ 19, 21, 59, 60 }) do
            assert_passes(second, event(second))
        end
        assert_cut("invalid_api_key", "token expired", 61, event(5))
    end)

    for name, dialect in pairs(DIALECTS) do
        it("say so in the dialect: " .. name, function()
            local request = { role = "is_cut" }
            for key, value in pairs(dialect.request) do
                request[key] = value
            end
            begin(request)
            assert.equal("token expired", dialect.error_in((pass(21, dialect.event(1)))))
        end)
    end
end)

describe("filter and a stream that is too long", function()
    it("cut it at the seconds its role allows, though the token is active", function()
        begin({ role = "has_ten" })
        assert_passes(10, event(1))
        assert_cut("rate_limit_exceeded", TOO_LONG, 11, event(2))
        fake.load("portero.metrics").flush()
        assert.equal(1, fake.shared.portero_metrics:get("cut_stream_too_long"))
    end)

    it("count its seconds from the request, not from its first event", function()
        begin({ role = "has_ten" })
        assert_cut("rate_limit_exceeded", TOO_LONG, 10.1, event(1))
    end)

    it("cut it while nothing is known of the token, too", function()
        begin({ role = "has_ten" })
        fake.shared.portero_sync:delete("least")
        fake.load("portero.shared_versions").changed()
        assert_passes(9, event(1))
        assert_cut("rate_limit_exceeded", TOO_LONG, 12, event(2))
    end)

    it("say so in Ollama's dialect under /api/", function()
        begin({ role = "has_ten", type = NDJSON, target = "/api/generate" })
        assert.equal(TOO_LONG, DIALECTS.NDJSON.error_in((pass(12, '{"a":1}\n'))))
    end)
end)

-- nginx flushes an empty chunk behind the head, and one more when the LLM server failed.
describe("filter and an LLM server that fails in a stream", function()
    for name, dialect in pairs(DIALECTS) do
        it("end it with the dialect's error, then the connection: " .. name, function()
            begin(dialect.request)
            assert_passes(0, dialect.event(1))
            assert_passes(0.1, dialect.event(2))
            local text, answer = pass(0.2, "")
            assert.is_nil(answer)
            assert.equal(FAILED, dialect.error_in(text))
            assert.is_nil(text:find("[DONE]", 1, true))
            assert.equal(fake.ngx.ERROR, select(2, pass(0.2, "", true)))
        end)
    end

    -- What the client got, what ends it, and the error behind that.
    for _, case in ipairs({
        { {}, 'data: {"a":', '\n\ndata: {"error":{' }, { {}, "data: 1\n", '\n\ndata: {"error":{' },
        { {}, "data: 1\r\n", '\n\ndata: {"error":{' }, { {}, "data: 1\n\n", 'data: {"error":{' },
        { {}, "data: 1\r\n\r\n", 'data: {"error":{' },
        { DIALECTS.NDJSON.request, '{"a":', '\n{"error":"' },
        { DIALECTS.NDJSON.request, '{"a":1}\r\n', '{"error":"' },
    }) do
        it("end an open event first, and no other: " .. cjson.encode(case[2]), function()
            begin(case[1])
            assert_passes(0, case[2])
            local text = pass(0.1, "")
            assert.equal(case[3], text:sub(1, #case[3]))
            assert.is_truthy(text:find(FAILED, 1, true))
            assert.equal(fake.ngx.ERROR, select(2, pass(0.1, "", true)))
        end)
    end

    it("are cut where the LLM server fails while the cut waits", function()
        begin()
        assert_passes(0, 'data: {"a":')
        revoke()
        assert_passes(2, '"b"')
        local text = pass(2, "")
        assert.equal("\n\ndata: ", text:sub(1, 8))
        assert.is_truthy(text:find(REVOKED, 1, true))
        assert.equal(fake.ngx.ERROR, select(2, pass(2, "", true)))
    end)

    it("take the empty chunk behind the head for no failure", function()
        begin()
        assert_passes(0, "")
        assert_passes(0.1, event(1))
        assert_cut("upstream_unavailable", FAILED, 0.2, "")
    end)

    it("see the failure before any event", function()
        begin()
        assert_passes(0, "")
        assert_cut("upstream_unavailable", FAILED, 0.2, "")
    end)

    it("take the end of a stream for no failure", function()
        begin()
        assert_passes(0, "")
        assert_passes(0.1, "data: [DONE]\n\n")
        assert_passes(0.1, "", true)
    end)

    it("take the end of a stream without an event for no failure", function()
        begin()
        assert_passes(0, "", true)
    end)

    it("is told by what arrived, not by what another filter has left of it", function()
        begin()
        pass(0, event(1))
        fake.ngx.arg = { "", false }
        assert.is_nil(stream.filter(event(2)))
        assert.equal("", fake.ngx.arg[1])
        fake.ngx.arg = { event(3), false }
        stream.filter("")
        assert.is_truthy(fake.ngx.arg[1]:find(FAILED, 1, true))
    end)

    it("count it", function()
        begin()
        pass(0, event(1))
        pass(0, "")
        fake.load("portero.metrics").flush()
        assert.equal(1, fake.shared.portero_metrics:get("cut_upstream_unavailable"))
    end)
end)

describe("replace", function()
    it("says a text once in the place of all that comes", function()
        stream.replace("words")
        pass(0, "<html>")
        assert.equal("words", fake.ngx.arg[1])
        pass(0, "</html>", true)
        assert.equal("", fake.ngx.arg[1])
    end)
end)

describe("filter and another policy", function()
    it("judge a stream that runs by what its role is worth now", function()
        begin({ role = "finishes" })
        assert_passes(21, event(1))
        put_policy({ finishes = "cut" })
        assert_cut("invalid_api_key", "token expired", 22, event(2))
    end)

    it("let a stream run that would have ended by the former one", function()
        begin({ role = "has_ten" })
        assert_passes(9, event(1))
        put_policy({ has_ten = "finish" })
        assert_passes(30, event(2))
    end)

    it("cut the stream of a role that is gone, once its token is no more active", function()
        begin({ role = "finishes" })
        put_policy({ is_cut = "cut" })
        assert_passes(19.9, event(1))
        assert_cut("invalid_api_key", "token expired", 21, event(2))
    end)

    it("cut a stream past its token's end while there is no policy at all", function()
        fake.shared.portero_sync:delete("policy")
        fake.load("portero.shared_versions").changed()
        begin({ role = "finishes" })
        assert_cut("invalid_api_key", "token expired", 21, event(1))
    end)
end)
