---------
-- What a client says over a WebSocket, judged: each model that an event names, what it asks beside
-- that, and whose answer it goes on from (threats N10-N12). That nothing else passes
-- tests/stack/test_realtime_servers.py asks.

local fake_ngx = require("fake_ngx")
local policies = require("policies")

local CLAIMS = { sub = "USRSX1" }
local SIDE = { tools = false, fetch = false }

local fake, client_events, model_name, own_responses, policy

local function row(name, models)
    return {
        name = name, kind = "localai", model_names = "exact", models = models, weight = 1,
        scheme = "http", host = name, port = 80, dialect = "ollama",
    }
end

before_each(function()
    fake = fake_ngx.install(1700000000)
    client_events = fake.load("portero.answer.client_events")
    model_name = fake.load("portero.policy.model_name")
    own_responses = fake.load("portero.answer.own_responses")
    local listed = policies.listed()
    listed.servers = { row("rack", { "one", "both", "ear" }), row("box", { "two", "both" }) }
    listed.aliases, listed.management = { { name = "fast", models = { "one" } } }, {}
    for _, route in ipairs(listed.routes) do
        route.servers = route.answered_by == "llm" and { 0, 1 } or nil
    end
    policy = policies.put(fake, listed)
end)

local function route(target, model)
    local dialect = require("portero.dialect.dialects").of(target)
    return { target = target, model = model, dialect = dialect }
end

local REALTIME, RESPONSES

before_each(function()
    REALTIME, RESPONSES = route("/v1/realtime", "query"), route("/v1/responses")
end)

local function talk_of(its_limits, its_route, query, plan)
    fake.ngx.var.request_id = "id1"
    client_events.begin(its_route or REALTIME, query or "?model=one",
        { sub = CLAIMS.sub, limits = its_limits }, plan)
    return client_events.current()
end

local function plan_of()
    return { fleet = policy.fleet, policy = policy, rows = policy.servers }
end

local function named(text)
    return '{"type":"session.update","session":{"model":"' .. text .. '"}}'
end

describe("begin", function()
    it("looks into nothing where no request of the caller's is looked at", function()
        assert.is_nil(talk_of(nil))
        assert.is_nil(talk_of({ concurrent_requests = 1 }))
        assert.is_table(talk_of({ server_side = SIDE }))
        assert.is_table(talk_of({ largest_body_bytes = 10 }))
        assert.is_table(talk_of(nil, nil, nil, plan_of()))
    end)

    it("bounds a message by what the caller's bodies may have, and by 16 MiB", function()
        assert.equal(10, talk_of({ largest_body_bytes = 10 }).most_bytes)
        assert.equal(16 * 1024 * 1024, talk_of({ largest_body_bytes = 2 ^ 30 }).most_bytes)
    end)

    it("leaves open which server it is where the handshake names no model", function()
        assert.is_true(talk_of(nil, RESPONSES, "", plan_of()).is_undecided)
        assert.is_false(talk_of(nil, REALTIME, nil, plan_of()).is_undecided)
        assert.is_false(talk_of({ server_side = SIDE }, RESPONSES, "").is_undecided)
    end)
end)

describe("judge", function()
    it("holds an event to the model of the handshake, wherever it names one", function()
        local talk = talk_of({ models = model_name.compile({ "one", "two" }) })
        assert.equal(named("one"), client_events.judge(talk, named("one")))
        for _, text in ipairs({ named("two"), '{"model":"two"}',
            '{"response":{"model":"two"}}' }) do
            assert.same({ nil, "model_not_found" }, { client_events.judge(talk, text) })
        end
        assert.same({ nil, "model_unusable" }, { client_events.judge(talk, '{"model":1}') })
        assert.same({ nil, "model_unusable" }, { client_events.judge(talk, named("\\n")) })
        assert.same({ nil, "model_second" }, { client_events.judge(talk, '{"lora":"x"}') })
        assert.equal('{"model":null}', client_events.judge(talk, '{"model":null}'))
    end)

    it("lets a transcription have another that the caller may use", function()
        local text = '{"session":{"input_audio_transcription":{"model":"%s"}}}'
        local talk = talk_of({ models = model_name.compile({ "one", "ear" }) })
        assert.equal(text:format("ear"), client_events.judge(talk, text:format("ear")))
        assert.same({ nil, "model_not_found" }, { client_events.judge(talk, text:format("x")) })
    end)

    it("puts the real name in an alias's place, and changes nothing else", function()
        local plan = plan_of()
        plan.model = "one"
        local talk = talk_of(nil, REALTIME, "?model=fast", plan)
        client_events.settle_on(talk, policy.servers[1])
        assert.equal(' {"model" : "one", "session":{"model":"one","a":"fast"}}',
            client_events.judge(talk, ' {"model" : "fast", "session":{"model":"fast","a":"fast"}}'))
        assert.equal(named("one"), client_events.judge(talk, named("one")))
        assert.same({ nil, "model_not_found" }, { client_events.judge(talk, named("both")) })
    end)

    it("finds the servers by the first message where the handshake did not", function()
        local plan = plan_of()
        local talk = talk_of(nil, RESPONSES, "", plan)
        assert.same({ nil, "model_missing" }, { client_events.judge(talk, '{"type":"x"}') })
        assert.same({ nil, "model_not_found" }, { client_events.judge(talk, '{"model":"x"}') })
        assert.equal('{"model":"one"}', client_events.judge(talk, '{"model":"fast"}'))
        assert.same({ policy.servers[1] }, plan.rows)
        client_events.settle_on(talk, policy.servers[1])
        assert.equal('{"model":"both"}', client_events.judge(talk, '{"model":"both"}'))
        assert.equal('{"type":"x"}', client_events.judge(talk, '{"type":"x"}'))
        assert.same({ nil, "model_not_found" }, { client_events.judge(talk, '{"model":"two"}') })
    end)

    it("refuses what a body of the caller's may not ask, where bodies are looked at", function()
        local talk = talk_of({ server_side = SIDE })
        for text, code in pairs({
            ['{"session":{"tools":[{"type":"mcp"}]}}'] = "tools_tools",
            ['{"tools":[{"type":"web_search"}]}'] = "tools_tools",
            ['{"item":{"content":[{"type":"input_image","image_url":"http://x/"}]}}'] =
                "fetch_image_url",
            ['{"response":{"conversation":"conv_1"}}'] = "conversation_not_found",
            ['{"response":{"previous_response_id":"r"}}'] = "previous_response_not_found",
            ['{"a":1'] = "invalid_json",
            ['{"session":{"Model":"x"}}'] = "json_name_near",
        }) do
            assert.same({ nil, code }, { client_events.judge(talk, text) })
        end
        for _, text in ipairs({ '{"response":{"conversation":"auto"}}',
            '{"session":{"tools":[{"type":"function"}]}}',
            '{"response":{"input":[{"type":"item_reference","id":"a"}]}}' }) do
            assert.equal(text, client_events.judge(talk, text))
        end
        local text = '{"session":{"tools":[{"type":"mcp"}]}}'
        assert.equal(text, client_events.judge(talk_of({ largest_body_bytes = 100 }), text))
    end)

    it("makes a priority the role's, where an event has one", function()
        local talk = talk_of({ server_side = SIDE })
        assert.equal('{"a":1}', client_events.judge(talk, '{"a":1,"priority":-5}'))
        talk = talk_of({ server_side = { tools = false, fetch = false, priority = 3 } })
        assert.equal('{"priority":3}', client_events.judge(talk, '{"priority":-5}'))
        assert.equal('{"a":1}', client_events.judge(talk, '{"a":1}'))
    end)

    it("goes on from one's own response alone, at the server that has it", function()
        own_responses.note("r1", "USRSX1", "box")
        own_responses.note("r2", "USRSX2", "box")
        local text = '{"model":"both","previous_response_id":"%s"}'
        local plan = plan_of()
        local talk = talk_of({ server_side = SIDE }, RESPONSES, "", plan)
        local code = "previous_response_not_found"
        assert.same({ nil, code }, { client_events.judge(talk, text:format("r2")) })
        assert.equal(text:format("r1"), client_events.judge(talk, text:format("r1")))
        assert.same({ policy.servers[2] }, plan.rows)
        client_events.settle_on(talk, policy.servers[1])
        assert.same({ nil, code }, { client_events.judge(talk, text:format("r1")) })
        assert.same({ nil, "item_not_found" }, { client_events.judge(talk,
            '{"response":{"input":[{"type":"item_reference","id":"a"}]}}') })
    end)
end)

describe("tap", function()
    local function hear(tap, text, opcode)
        tap({ opcode = opcode or 1, bytes = "", is_final = true }, text, true)
    end

    local MADE = '{"type":"response.created","response":{"object":"response","id":"%s"}}'

    it("notes whose the responses are, of which the LLM server tells", function()
        local talk = talk_of({ server_side = SIDE }, RESPONSES, "", plan_of())
        client_events.settle_on(talk, policy.servers[1])
        local tap = client_events.tap(talk)
        hear(tap, MADE:format("r0"))
        assert.is_nil(own_responses.server_of("r0", "USRSX1"))
        client_events.judge(talk, '{"model":"one"}')
        hear(tap, "ping", 9)
        local text = MADE:format("r1")
        tap({ opcode = 1, bytes = "", is_final = false }, text:sub(1, 20), true)
        tap({ opcode = 0, bytes = "", is_final = true }, text:sub(21), true)
        assert.equal("rack", own_responses.server_of("r1", "USRSX1"))
        for number = 2, 12 do
            hear(tap, MADE:format("r" .. number))
        end
        assert.equal("rack", own_responses.server_of("r8", "USRSX1"))
        assert.is_nil(own_responses.server_of("r12", "USRSX1"))
    end)

    it("is none where no responses are kept, or nobody looks", function()
        assert.is_nil(client_events.tap(talk_of({ server_side = SIDE })))
        assert.is_nil(client_events.tap(talk_of({ largest_body_bytes = 9 }, RESPONSES, "")))
    end)
end)

describe("finish", function()
    it("forgets the connection", function()
        talk_of({ server_side = SIDE })
        client_events.finish()
        assert.is_nil(client_events.current())
    end)
end)
