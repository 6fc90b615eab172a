---------
-- Callers with limits, from admission to the log phase: threats B10, B15.

local fake_ngx = require("fake_ngx")

local NOW = 1700000000
local ROUTE = { is_llm = true, class = "inference", answered_by = "llm",
    dialect = require("portero.dialect.openai"), target = "/v1/chat/completions", model = "body" }

local fake, admission, dict, body_text, replaced, held, untold

before_each(function()
    fake = fake_ngx.install(NOW)
    replaced, held, untold = nil, 0, nil
    package.loaded["portero.request.body"] = {
        pause = function() end,
        read = function()
            local ffi = require("ffi")
            held = held + 1
            return ffi.cast("const unsigned char *", body_text), #body_text, body_text
        end,
        release = function(keep)
            assert.equal(body_text, keep)
            held = held - 1
        end,
        find_untold = function() return not untold or nil, untold end,
        untold_length = function() return #body_text end,
        replace_all = function(_, _, changes)
            assert.same({ 1, 1 }, { held, #changes })
            local from, to, text = unpack(changes[1])
            replaced = body_text:sub(1, from) .. text .. body_text:sub(to + 1)
        end,
    }
    body_text = '{"model":"a"}'
    package.loaded["portero.answer.stream"] = {
        begin = function() fake.length_at_begin = fake.ngx.header["Content-Length"] or "none" end,
        filter = function(arrived) fake.arrived = arrived end,
    }
    fake.load("portero.quota.limits").start()
    admission = fake.load("portero.quota.admission")
    dict = fake.shared.portero_limits
end)

after_each(function()
    package.loaded["portero.request.body"], package.loaded["portero.answer.stream"] = nil, nil
end)

local function request(headers, route)
    headers = headers or { ["content-type"] = "application/json", ["content-length"] = "13" }
    fake.request({ method = "POST", target = (route or ROUTE).target, headers = headers })
    fake.ngx.var.request_id = "id" .. fake.address
end

local function answered(status)
    fake.ngx.status = status or 200
    admission.add_headers()
end

local function ask(limits, headers, route)
    request(headers, route)
    limits.is_counted = (limits.requests_per_minute or limits.tokens_per_minute
        or limits.concurrent_requests) ~= nil
    return admission.refusal(route or ROUTE, nil, "", { sub = "USRSA", limits = limits })
end

--- One chunk through the filter; what the client gets of it.
local function pass(chunk, is_last)
    fake.ngx.arg = { chunk, is_last or false }
    admission.filter()
    return fake.ngx.arg[1]
end

describe("refusal", function()
    describe("of what a body asks beside its model", function()
        local ASIDE = { tools = false, fetch = false }

        it("is that of a caller whose bodies are looked at, and of no other", function() -- N11
            body_text = '{"model":"a","tools":[{"type":"mcp"}]}'
            assert.equal("tools_tools", (ask({ server_side = ASIDE })))
            local models = fake.load("portero.policy.model_name").compile({ "a" }, true)
            assert.equal("tools_tools", (ask({ models = models, server_side = ASIDE })))
            assert.is_nil(ask({ models = models }))
            assert.is_nil(ask({ requests_per_minute = 1 }))
            assert.equal(0, held)
        end)

        it("is asked of inference alone", function()
            body_text = '{"model":"a","tools":[{"type":"mcp"}]}'
            local route = { is_llm = true, class = "management", answered_by = "llm",
                target = "/models/x", model = "body" }
            assert.is_nil(ask({ server_side = ASIDE }, nil, route))
        end)

        it("is told before any slot is taken", function()
            body_text = '{"model":"a","images":["http://x/"]}'
            assert.equal("fetch_images", (ask({ server_side = ASIDE, concurrent_requests = 1 })))
            assert.equal(0, dict:count())
        end)

        it("is none for a priority, which is taken out, or made the policy's", function() -- N12
            body_text = '{"model":"a","priority":-1}'
            assert.is_nil(ask({ server_side = ASIDE }))
            assert.equal('{"model":"a"}', replaced)
            assert.is_nil(ask({ server_side = { tools = false, fetch = false, priority = 3 } }))
            assert.equal('{"model":"a","priority":3}', replaced)
        end)

        describe("that goes on from another", function() -- N10
            local RESPONSES = { is_llm = true, class = "inference", answered_by = "llm",
                dialect = require("portero.dialect.responses"), target = "/v1/responses",
                model = "body", is_kept = true }
            local KEPT = { is_llm = true, class = "inference", answered_by = "llm",
                target = "/v1/responses/{response}", model = "response", is_owned = true }
            local ANSWER = '{"id":"resp_a","object":"response"}'

            --- As the caller USRSA, who is answered a response.
            local function answered_one()
                body_text = '{"model":"a"}'
                assert.is_nil(ask({ server_side = ASIDE }, nil, RESPONSES))
                fake.ngx.header["Content-Type"] = "application/json"
                answered()
                assert.equal(ANSWER, pass(ANSWER, true))
                admission.settle()
            end

            it("is none for one's own, and 404 for any other", function()
                body_text = '{"model":"a","previous_response_id":"resp_a"}'
                local code = "previous_response_not_found"
                assert.equal(code, (ask({ server_side = ASIDE }, nil, RESPONSES)))
                answered_one()
                body_text = '{"model":"a","previous_response_id":"resp_a"}'
                assert.is_nil(ask({ server_side = ASIDE }, nil, RESPONSES))
                assert.is_nil(ask({ server_side = ASIDE }))
            end)

            it("is asked of who asks for it, too", function()
                local function get(id)
                    request({}, KEPT)
                    local claims = { sub = "USRSA", limits = { server_side = ASIDE } }
                    return (admission.refusal(KEPT, id, "", claims))
                end
                assert.equal("response_not_found", get("resp_a"))
                answered_one()
                assert.is_nil(get("resp_a"))
                assert.equal("response_not_found", get("resp_b"))
            end)

            it("is noted of an answer that is a success alone", function()
                assert.is_nil(ask({ server_side = ASIDE }, nil, RESPONSES))
                answered(400)
                pass(ANSWER, true)
                assert.same({}, fake.shared.portero_responses:get_keys())
            end)
        end)

        it("is none for a form", function()
            body_text = '--B\r\nContent-Disposition: form-data; name=model\r\n\r\na\r\n--B--'
            local route = { is_llm = true, class = "inference", answered_by = "llm",
                target = "/v1/audio/transcriptions", model = "form" }
            local headers = { ["content-type"] = "multipart/form-data; boundary=B",
                ["content-length"] = tostring(#body_text) }
            local models = fake.load("portero.policy.model_name").compile({ "a" }, true)
            assert.is_nil(ask({ models = models, server_side = ASIDE }, headers, route))
            assert.is_nil(ask({ server_side = ASIDE }, headers, route))
        end)
    end)

    it("is none within all limits, and tells what is left with the answer", function()
        assert.is_nil(ask({ requests_per_minute = 2, tokens_per_minute = 50 }))
        answered()
        local headers = fake.answer.headers
        assert.equal(2, headers["x-ratelimit-limit-requests"])
        assert.equal(1, headers["x-ratelimit-remaining-requests"])
        assert.equal("1m0s", headers["x-ratelimit-reset-requests"])
        assert.equal(50, headers["x-ratelimit-remaining-tokens"])
    end)

    it("is 429 over the requests of a minute, with when to come again", function()
        assert.is_nil(ask({ requests_per_minute = 1 }))
        local code, headers = ask({ requests_per_minute = 1 })
        assert.equal("too_many_requests", code)
        assert.equal(60, headers["Retry-After"])
        assert.equal(0, headers["x-ratelimit-remaining-requests"])
    end)

    it("is 413 over the largest body, before anything is counted", function()
        local limits = { largest_body_bytes = 12, requests_per_minute = 5 }
        assert.equal("request_too_large", (ask(limits)))
        assert.equal("request_too_large", (ask(limits, { ["transfer-encoding"] = "chunked" })))
        assert.equal(0, dict:count())
        assert.is_nil(ask({ largest_body_bytes = 13 }))
        assert.is_nil(ask({ largest_body_bytes = 13 }, { ["transfer-encoding"] = "chunked" }))
    end)

    it("is the model's before any slot is taken", function()
        local models = fake.load("portero.policy.model_name").compile({ "b" }, true)
        assert.equal("model_not_found", (ask({ models = models, concurrent_requests = 1 })))
        assert.equal(0, dict:count())
    end)

    it("is 429 for one more at once, until one has ended", function()
        local limits = { concurrent_requests = 1 }
        assert.is_nil(ask(limits))
        local first = fake.address
        local code, headers = ask(limits)
        assert.equal("too_many_at_once", code)
        assert.equal(1, headers["Retry-After"])
        fake.address = first
        admission.settle()
        assert.is_nil(ask(limits))
    end)

    it("counts a question that is no inference, and takes no slot for it", function()
        local route = { is_llm = true, class = "models", answered_by = "discovery",
            target = "/v1/models", model = "listed" }
        local limits = { requests_per_minute = 5, concurrent_requests = 1, tokens_per_minute = 1 }
        assert.is_nil(ask(limits, {}, route))
        assert.is_nil(ask(limits, {}, route))
        assert.equal(3, fake.answer.headers["x-ratelimit-remaining-requests"])
        assert.is_nil(fake.answer.headers["x-ratelimit-limit-tokens"])
    end)

    it("is 503 when nothing can be counted", function()
        dict.most_entries = 0
        assert.equal("not_ready", (ask({ requests_per_minute = 5 })))
        assert.equal("not_ready", (ask({ tokens_per_minute = 5 })))
        assert.equal("not_ready", (ask({ concurrent_requests = 5 })))
    end)

    it("is 400 for a stream whose body cannot be told to tell its usage", function()
        body_text = '{"stream":true,"stream":false}'
        assert.equal("json_name_twice", (ask({ tokens_per_minute = 5 })))
    end)
end)

describe("where the policy names servers", function()
    --- A plan that takes any model, and puts another in its place where told to.
    local function plan_of(model)
        return { judge = function(plan) plan.model = model end }
    end

    local function ask_without_limits(plan, route)
        request(nil, route)
        return admission.refusal(route or ROUTE, nil, "", { sub = "AGIAX1" }, plan)
    end

    it("a caller without limits is judged by the model too", function()
        local plan = { judge = function(_, name) return name == "a" and "model_not_found" end }
        assert.equal("model_not_found", (ask_without_limits(plan)))
        assert.is_nil(replaced)
        assert.equal(0, held)
        assert.is_nil((ask_without_limits(plan_of())))
        assert.is_nil(replaced)
    end)

    it("an alias gives way to the model in the body", function()
        assert.is_nil((ask_without_limits(plan_of("b/c"))))
        assert.equal('{"model":"b/c"}', replaced)
        assert.equal(0, held)
    end)

    it("a route that does not say where its model is needs none", function()
        local route = { class = "inference", answered_by = "llm", target = "/v1/speech" }
        assert.is_nil((ask_without_limits({ judge = error }, route)))
    end)
end)

describe("a body that was read", function()
    local MODELS = { "a" }

    local function compiled()
        return fake.load("portero.policy.model_name").compile(MODELS, true)
    end

    it("is held while it is judged, and given back whatever comes of it", function()
        for _, text in ipairs({ '{"model":"a","stream":true}', '{"model":"a"}', '{"model":"b"}',
            "{}", "x", '{"model":"a","lora":1}' }) do
            body_text = text
            ask({ models = compiled() })
            ask({ models = compiled(), tokens_per_minute = 5, concurrent_requests = 1 })
            ask({ tokens_per_minute = 5 })
            assert.equal(0, held, text)
        end
    end)

    it("is measured where its length is not told, and refused where it cannot be read", function()
        local chunked = { ["transfer-encoding"] = "chunked" }
        assert.equal("request_too_large", ask({ largest_body_bytes = 12 }, chunked))
        assert.is_nil(ask({ largest_body_bytes = 13 }, chunked))
        untold = "length_required"
        assert.equal("length_required", ask({ largest_body_bytes = 13 }, {}))
    end)
end)

describe("a stream of OpenAI's dialect", function()
    -- The body, and the body that is sent; nil where it stays as it is.
    for text, sent in pairs({
        ['{"stream":true}'] = '{"stream_options":{"include_usage":true},"stream":true}',
        ['{"stream":true,"stream_options":{"include_usage":false}}'] =
            '{"stream":true,"stream_options":{"include_usage":true}}',
        ['{"stream":true,"stream_options":null}'] =
            '{"stream":true,"stream_options":{"include_usage":true}}',
        ['{"stream":true,"stream_options":{"include_usage":true}}'] = false,
        ['{"stream":false}'] = false, ['{"model":"a"}'] = false,
        ['{"stream":true,"stream_options":"x"}'] = false,
    }) do
        it(("is asked for its usage: %s"):format(text), function()
            body_text = text
            assert.is_nil(ask({ tokens_per_minute = 5 }))
            assert.equal(sent or nil, replaced)
        end)
    end

    it("is left alone where its dialect tells its usage unasked", function()
        body_text = '{"stream":true}'
        local route = { is_llm = true, class = "inference", answered_by = "llm",
            dialect = require("portero.dialect.ollama"), target = "/api/chat", model = "body" }
        assert.is_nil(ask({ tokens_per_minute = 5 }, nil, route))
        assert.is_nil(replaced)
    end)

    it("is left alone where no tokens are counted", function()
        body_text = '{"stream":true}'
        assert.is_nil(ask({ requests_per_minute = 5 }))
        assert.is_nil(replaced)
    end)
end)

local TEXT = 'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
local USAGE = 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'

describe("filter, add_headers and settle", function()
    it("take the usage out that the client did not ask for, and charge it", function()
        body_text = '{"stream":true}'
        ask({ tokens_per_minute = 50 })
        fake.ngx.header["Content-Length"] = 100
        answered()
        assert.is_nil(fake.answer.headers["content-length"])
        assert.equal("none", fake.length_at_begin)
        assert.equal(TEXT, pass(TEXT))
        assert.equal("", pass(USAGE))
        assert.equal(USAGE, fake.arrived)
        pass("data: [DONE]\n\n", true)
        admission.settle()
        assert.is_nil(ask({ tokens_per_minute = 50 }))
        answered()
        assert.equal(43, fake.answer.headers["x-ratelimit-remaining-tokens"])
    end)

    it("refuse the next request when all tokens are used", function()
        ask({ tokens_per_minute = 7 })
        pass('{"usage":{"prompt_tokens":3,"completion_tokens":4}}', true)
        admission.settle()
        local code, headers = ask({ tokens_per_minute = 7 })
        assert.equal("too_many_tokens", code)
        assert.equal(60, headers["Retry-After"])
    end)

    it("charge nothing for an answer that is no success", function()
        ask({ tokens_per_minute = 50 })
        answered(400)
        pass('{"usage":{"prompt_tokens":3,"completion_tokens":4}}', true)
        admission.settle()
        ask({ tokens_per_minute = 50 })
        answered()
        assert.equal(50, fake.answer.headers["x-ratelimit-remaining-tokens"])
    end)

    it("leave alone what they have no notes of", function()
        request()
        answered()
        assert.equal(TEXT, pass(TEXT))
        admission.settle()
        assert.same({}, fake.answer.headers)
        assert.equal(0, dict:count())
    end)

    it("give a slot back once", function()
        ask({ concurrent_requests = 2 })
        admission.settle()
        admission.settle()
        assert.equal(0, dict:count())
    end)
end)

describe("a WebSocket", function()
    local SOCKET = { is_llm = true, class = "realtime", answered_by = "socket", model = "query",
        target = "/v1/realtime" }

    it("is judged by the model of its handshake; what is said then is judged as it is", function()
        local models = fake.load("portero.policy.model_name").compile({ "a" }, true)
        assert.is_nil(ask({ concurrent_requests = 5 }, {}, SOCKET))
        assert.is_nil(ask({ server_side = { tools = false, fetch = false } }, {}, SOCKET))
        request({}, SOCKET)
        local claims = { sub = "USRSA", limits = { models = models } }
        assert.equal("model_missing", (admission.refusal(SOCKET, nil, "", claims)))
        assert.equal("model_not_found", (admission.refusal(SOCKET, nil, "?model=b", claims)))
        assert.is_nil(admission.refusal(SOCKET, nil, "?model=a", claims))
    end)

    it("holds one of the caller's places until it ends", function()
        assert.is_nil(ask({ concurrent_requests = 1 }, {}, SOCKET))
        assert.equal("too_many_at_once", (ask({ concurrent_requests = 1 }, {}, SOCKET)))
    end)

    it("is judged by what the servers have where the policy names some", function()
        request({}, SOCKET)
        local judged
        local plan = { judge = function(_, name) judged = name return "not_ready" end }
        local claims = { sub = "USRSA" }
        assert.equal("not_ready", (admission.refusal(SOCKET, nil, "?model=a", claims, plan)))
        assert.equal("a", judged)
        local unnamed = { is_llm = true, class = "realtime", answered_by = "socket",
            target = "/v1/responses" }
        assert.is_nil(admission.refusal(unnamed, nil, "", claims, plan))
        assert.equal("model_in_query",
            (admission.refusal(unnamed, nil, "?model=a", claims, plan)))
    end)
end)

describe("is_held", function()
    it("is so of what is counted, and of an answer that is kept of who is looked at", function()
        assert.is_true(admission.is_held({}, { is_counted = true }))
        assert.is_true(admission.is_held({ is_kept = true }, { server_side = {} }))
        assert.is_false(admission.is_held({ is_kept = true }, { is_counted = false }))
        assert.is_false(admission.is_held({}, { server_side = {} }))
    end)
end)

describe("where use is counted", function()
    local counted

    before_each(function()
        counted = {}
        local usage_counts = fake.load("portero.quota.usage_counts")
        usage_counts.start({ has_usage = true })
        usage_counts.count = function(...) counted[#counted + 1] = { ... } end
    end)

    --- A request of a caller without limits, to its end.
    local function serve(body, answer, changes)
        changes = changes or {}
        body_text = body
        request(changes.headers, changes.route)
        local claims = { sub = "USRSA", jti = "an ID", is_api_key = changes.is_api_key }
        local code = admission.refusal(changes.route or ROUTE, nil, "", claims, changes.plan)
        answered(changes.status)
        fake.ngx.var.upstream_bytes_sent = changes.sent or "0, 123"
        fake.ngx.var.llm_server = changes.server
        pass(answer or '{"usage":{"prompt_tokens":7,"completion_tokens":2}}', true)
        admission.settle()
        return code
    end

    it("counts what a caller without limits has used, of which model and where", function()
        assert.is_nil(serve('{"model":"a"}'))
        assert.is_nil(serve('{"model":"a"}', nil, { is_api_key = true, server = "rack" }))
        assert.same({
            { NOW, "USRSA", "token", "a", "llm", 7, 2 },
            { NOW, "USRSA", "an ID", "a", "rack", 7, 2 },
        }, counted)
    end)

    it("has a stream tell, and lets the client see none of it", function()
        serve('{"model":"a","stream":true}')
        assert.equal('{"stream_options":{"include_usage":true},"model":"a","stream":true}',
            replaced)
    end)

    it("refuses nothing for what cannot be read, and counts it without a model", function()
        for _, body in ipairs({ "no json", '{"model":"a","model":"b"}', "{}" }) do
            assert.is_nil(serve(body))
        end
        assert.same({ 3, "other" }, { #counted, counted[1][4] })
        assert.equal(0, held)
    end)

    it("counts a request that failed without tokens, and none that no server got", function()
        serve('{"model":"a"}', nil, { status = 500 })
        for _, sent in ipairs({ "0", "-", "0, 0" }) do
            serve('{"model":"a"}', nil, { status = 502, sent = sent })
        end
        assert.same({ { NOW, "USRSA", "token", "a", "llm", 0, 0 } }, counted)
    end)

    it("tells the access log what was used, and when the first of it came", function()
        serve('{"model":"a"}', nil, { is_api_key = true })
        local var = fake.ngx.var
        assert.same({ "a", "an ID", "llm", 7, 2, "0.000" }, {
            var.used_model, var.used_credential, var.llm_server, var.used_prompt,
            var.used_completion, var.used_first_seconds,
        })
    end)

    it("names in metrics what the policy itself names alone", function()
        fake.load("portero.policy.in_force").current = function()
            return { labels = { a = true } }
        end
        serve('{"model":"a"}')
        serve('{"model":"made-up"}')
        local text = fake.load("portero.histograms").exposition()
        assert.matches('_count{gen_ai_request_model="a"} 1', text, 1, true)
        assert.matches('_count{gen_ai_request_model="other"} 1', text, 1, true)
        assert.is_nil(text:find("made-up", 1, true))
    end)

    describe("of a WebSocket", function()
        local SOCKET = { is_llm = true, class = "realtime", answered_by = "socket",
            dialect = require("portero.dialect.openai"), target = "/v1/realtime", model = "query" }
        local socket_usage

        before_each(function()
            socket_usage = fake.load("portero.answer.socket_usage")
        end)

        --- A connection up to where frames pass; what it is told by the LLM server.
        local function connect(limits, query)
            request({}, SOCKET)
            if limits then
                limits.is_counted = true
            end
            local code = admission.refusal(SOCKET, nil, query or "?model=a",
                { sub = "USRSA", limits = limits })
            local tap = not code and socket_usage.tap()
            return tap and function(response, changes)
                local event = { type = "response.done", response = response }
                for name, value in pairs(changes or {}) do
                    event[name] = value
                end
                tap({ opcode = 1, is_final = true },
                    require("cjson.safe").encode(event), true)
            end, code
        end

        local function used(id, prompt, completion)
            return { id = id, usage = { input_tokens = prompt, output_tokens = completion } }
        end

        it("counts each response as a request, of the model of the handshake", function()
            local say = connect()
            say(used("r1", 7, 2))
            say(used("r2", 9, 0))
            assert.same({
                { NOW, "USRSA", "token", "a", "llm", 7, 2 },
                { NOW, "USRSA", "token", "a", "llm", 9, 0 },
            }, counted)
            admission.settle()
            assert.equal(2, #counted)
            assert.same({ "a", 16, 2 }, { fake.ngx.var.used_model, fake.ngx.var.used_prompt,
                fake.ngx.var.used_completion })
        end)

        it("counts what was seen of a response that the end cuts off", function()
            local say = connect()
            for _ = 1, 3 do
                say(nil, { type = "response.output_text.delta", response_id = "r1" })
            end
            admission.settle()
            assert.same({ { NOW, "USRSA", "token", "a", "llm", 0, 3 } }, counted)
        end)

        it("names the model that a response says where the handshake named none", function()
            local say = connect(nil, "")
            local response = used("r1", 1, 1)
            response.model = "b"
            say(response)
            say(used("r2", 1, 1))
            say(nil, { type = "conversation.item.x.completed", item_id = "i",
                usage = { input_tokens = 4, output_tokens = 1 } })
            assert.same({ "b", "b", "other" }, { counted[1][4], counted[2][4], counted[3][4] })
        end)

        it("charges limits of a minute, and ends the connection when nothing is left", function()
            fake.load("portero.quota.usage_counts").start({ has_usage = false })
            local say = connect({ tokens_per_minute = 10 })
            say(used("r1", 5, 4))
            assert.equal(9, dict:get("t:USRSA"))
            assert.is_nil(socket_usage.code())
            say(used("r2", 1, 0))
            assert.equal("too_many_tokens", socket_usage.code())
            admission.settle()
            local _, code = connect({ tokens_per_minute = 10 })
            assert.equal("too_many_tokens", code)
            assert.same({}, counted)
        end)

        it("charges budgets, and ends the connection when one is spent", function()
            local budgets = fake.load("portero.quota.budgets")
            fake.shared.portero_budgets:safe_set("known", true)
            local say = connect({ budgets = { { day = 10 } } })
            say(used("r1", 5, 4))
            assert.is_nil(socket_usage.code())
            say(used("r2", 1, 0))
            assert.equal("budget_spent", socket_usage.code())
            assert.equal("budget_spent", (budgets.refusal("USRSA", { { day = 10 } }, NOW)))
            assert.equal(2, #counted)
        end)

        it("looks at no frame where nothing of it is counted", function()
            fake.load("portero.quota.usage_counts").start({ has_usage = false })
            assert.is_nil(connect() or nil)
            assert.is_nil(connect({ concurrent_requests = 1 }) or nil)
        end)
    end)

    it("charges no limit of a caller that has none", function()
        serve('{"model":"a"}')
        assert.equal(0, dict:count())
    end)
end)
