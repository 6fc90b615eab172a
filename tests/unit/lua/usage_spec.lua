---------
-- The LLM tokens of an answer, and a stream without the event that only the gateway asked for:
-- threats B15. The answers are shaped as the servers write them.

local loops_met = require("loops_met")
local openai = require("portero.dialect.openai")
local usage = require("portero.answer.usage")

local ASKED = openai.asks_for_usage["/v1/chat/completions"]

local RANDOM_CUTS = 40

local function chunk_event(rest)
    return 'data: {"id":"chatcmpl-9f2c","object":"chat.completion.chunk","created":1732431234,'
        .. '"model":"llama3","system_fingerprint":"b1",' .. rest .. "}\n\n"
end

local function delta(content, more)
    return chunk_event('"choices":[{"index":0,"delta":{"content":' .. content
        .. '},"finish_reason":null}]' .. (more or ""))
end

local function repeated(count, text)
    return text:rep(count)
end

local DONE = "data: [DONE]\n\n"
local WORDS = delta('"Hi"') .. delta('" \\"usage\\":{\\"total_tokens\\":9999} "') .. delta('"."')
local OPENAI_USAGE = chunk_event('"choices":[],"usage":{"prompt_tokens":19,"completion_tokens":3,'
    .. '"total_tokens":22,"prompt_tokens_details":{"cached_tokens":7000,"audio_tokens":0},'
    .. '"completion_tokens_details":{"reasoning_tokens":8000}}')

local OPENAI = WORDS .. chunk_event('"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]')
    .. OPENAI_USAGE .. DONE

local VLLM = delta('"a"', ',"usage":null') .. delta('"b"', ',"usage":null')
    .. chunk_event('"choices":[],"usage":{"prompt_tokens":10,"total_tokens":12,'
        .. '"completion_tokens":2,"prompt_tokens_details":null}') .. DONE

local function vllm_usage(completion)
    return (',"usage":{"prompt_tokens":10,"total_tokens":%d,"completion_tokens":%d}'):format(
        10 + completion, completion)
end

local VLLM_CONTINUOUS = delta('""', vllm_usage(0)) .. delta('"a"', vllm_usage(1))
    .. delta('"b"', vllm_usage(2)) .. chunk_event('"choices":[]' .. vllm_usage(2)) .. DONE

local LLAMA_SERVER = delta('"Sure"') .. delta('"!"')
    .. chunk_event('"choices":[],"usage":{"completion_tokens":2,"prompt_tokens":31,'
        .. '"total_tokens":33,"prompt_tokens_details":{"cached_tokens":30}},'
        .. '"timings":{"cache_n":30,"prompt_n":1,"prompt_ms":9.5,"predicted_n":2,'
        .. '"predicted_per_second":99.25}') .. DONE

local function completion_event(content, predicted, stop)
    return ('data: {"index":0,"content":"%s","tokens":[5],"stop":%s,"id_slot":-1,'
        .. '"tokens_predicted":%d,"tokens_evaluated":6}\n\n'):format(content, stop, predicted)
end

local LLAMA_COMPLETION = completion_event("a", 1, "false") .. completion_event("b", 2, "false")
    .. completion_event("", 2, "true")

local LLAMA_COMPLETION_JSON = '{"index":0,"content":"ab","stop":true,"model":"m",'
    .. '"tokens_predicted":4,"tokens_evaluated":9,"generation_settings":{"seed":1},"timings":{}}'

local function ollama_line(content)
    return '{"model":"llama3","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant",'
        .. '"content":' .. content .. '},"done":false}\n'
end

local OLLAMA_END = '"done":true,"done_reason":"stop","total_duration":4883583458,'
    .. '"load_duration":1334875,"prompt_eval_count":26,"prompt_eval_duration":342546000,'
    .. '"eval_count":282,"eval_duration":4535599000}'

local OLLAMA = ollama_line('"The"') .. ollama_line('" \\"eval_count\\":999"')
    .. '{"model":"llama3","message":{"role":"assistant","content":""},' .. OLLAMA_END .. "\n"

local OLLAMA_JSON = '{"model":"llama3","response":"It is \\"eval_count\\":5000.",' .. OLLAMA_END

local OLLAMA_EMBED = '{"model":"e","embeddings":[[0.1,-0.25,1e-3]],"total_duration":14,'
    .. '"load_duration":1,"prompt_eval_count":8}'

local OPENAI_JSON = '{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":'
    .. '"assistant","content":"say \\"usage\\": {}"},"finish_reason":"stop"}],"usage":'
    .. '{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12},"service_tier":"default"}'

local PRETTY_JSON = '{\n  "object": "list",\n  "data": [\n    {\n      "index": 0\n    }\n  ],\n'
    .. '  "usage" : {\n    "prompt_tokens" : 8,\n    "total_tokens" : 8\n  }\n}\n'

local function named_event(name, data)
    return "event: " .. name .. '\ndata: {"type":"' .. name .. '"' .. data .. "}\n\n"
end

local ANTHROPIC_BEGIN = named_event("message_start", ',"message":{"id":"m","content":[],"usage":'
    .. '{"input_tokens":25,"cache_creation_input_tokens":5,"cache_read_input_tokens":10,'
    .. '"cache_creation":{"ephemeral_5m_input_tokens":5},"output_tokens":1,'
    .. '"service_tier":"standard"}}')
    .. named_event("content_block_start", ',"index":0,"content_block":{"type":"text","text":""}')
    .. named_event("ping", "")
local ANTHROPIC_DELTA = named_event("content_block_delta",
    ',"index":0,"delta":{"type":"text_delta","text":"Hello"}')
local ANTHROPIC_END = named_event("content_block_stop", ',"index":0')
    .. named_event("message_delta", ',"delta":{"stop_reason":"end_turn"},"usage":'
        .. '{"output_tokens":15}')
    .. named_event("message_stop", "")

local ANTHROPIC = ANTHROPIC_BEGIN .. repeated(3, ANTHROPIC_DELTA) .. ANTHROPIC_END

local ANTHROPIC_JSON = '{"type":"message","content":[{"type":"text","text":"usage"}],"usage":'
    .. '{"input_tokens":2095,"output_tokens":503}}'

local RESPONSES = named_event("response.created", ',"response":{"id":"r","usage":null}')
    .. repeated(4, named_event("response.output_text.delta", ',"delta":"a"'))
    .. named_event("response.completed", ',"response":{"id":"r","output":[{"type":"message"}],'
        .. '"usage":{"input_tokens":37,"input_tokens_details":{"cached_tokens":1000},'
        .. '"output_tokens":11,"output_tokens_details":{"reasoning_tokens":2000},'
        .. '"total_tokens":48}}')

local function with_line_end(text, line_end)
    return (text:gsub("\n", line_end))
end

--- What is answered, its tokens, and where the number is from.
local ANSWERS = {
    ["OpenAI, a stream"] = { OPENAI, 22, "usage" },
    ["OpenAI, a stream with \\r\\n"] = { with_line_end(OPENAI, "\r\n"), 22, "usage" },
    ["OpenAI, a stream with \\r"] = { with_line_end(OPENAI, "\r"), 22, "usage" },
    ["OpenAI, JSON"] = { OPENAI_JSON, 12, "usage" },
    ["embeddings, JSON in lines"] = { PRETTY_JSON, 8, "usage" },
    ["vLLM, a stream"] = { VLLM, 12, "usage" },
    ["vLLM, usage in each event"] = { VLLM_CONTINUOUS, 12, "usage" },
    ["llama-server, a stream"] = { LLAMA_SERVER, 33, "usage" },
    ["llama-server's own completion, a stream"] = { LLAMA_COMPLETION, 8, "usage" },
    ["llama-server's own completion, JSON"] = { LLAMA_COMPLETION_JSON, 13, "usage" },
    ["Ollama, a stream"] = { OLLAMA, 308, "usage" },
    ["Ollama, JSON"] = { OLLAMA_JSON, 308, "usage" },
    ["Ollama, embeddings"] = { OLLAMA_EMBED, 8, "usage" },
    ["Anthropic, a stream"] = { ANTHROPIC, 55, "usage" },
    ["Anthropic, JSON"] = { ANTHROPIC_JSON, 2598, "usage" },
    ["Responses, a stream"] = { RESPONSES, 48, "usage" },
    ["a stream that tells nothing"] = { WORDS .. DONE, 3, "events" },
    ["a stream that tells nothing, with \\r\\n"] =
        { with_line_end(WORDS .. DONE, "\r\n"), 3, "events" },
    ["a stream that tells nothing, with \\r"] =
        { with_line_end(WORDS .. DONE, "\r"), 3, "events" },
    ["vLLM, left early"] = { repeated(30, delta('"a"', ',"usage":null')), 30, "events" },
    ["vLLM, usage in each event, left early"] =
        { delta('"a"', vllm_usage(1)) .. delta('"b"', vllm_usage(2)), 12, "usage" },
    ["Ollama, left early"] = { repeated(50, ollama_line('"a"')), 50, "events" },
    ["Anthropic, left early"] =
        { ANTHROPIC_BEGIN .. repeated(100, ANTHROPIC_DELTA), 41 + 100, "events" },
    ["comments and names of events alone"] =
        { ": ping\n\nevent: a\nid: 1\nretry: 5\n\n", 0, "events" },
    ["nothing"] = { "", 0, "events" },
}

local function total_of(...)
    local meter = usage.new()
    for _, chunk in ipairs({ ... }) do
        usage.feed(meter, chunk)
    end
    return usage.total(meter)
end

--- Pieces of a text, cut at random; the same for the same seed.
local function pieces_of(text, seed)
    math.randomseed(seed)
    local pieces, at = {}, 1
    local longest = math.random(1, 60)
    while at <= #text do
        local stop = at + math.random(0, longest)
        pieces[#pieces + 1] = text:sub(at, stop)
        at = stop + 1
    end
    return pieces
end

local function single_bytes(text)
    local pieces = {}
    for at = 1, #text do
        pieces[at] = text:sub(at, at)
    end
    return pieces
end

local function total_of_pieces(pieces)
    local meter = usage.new()
    for _, piece in ipairs(pieces) do
        usage.feed(meter, piece)
    end
    return usage.total(meter)
end

--- Prompt and completion tokens.
local APART = {
    ["OpenAI's stream"] = { OPENAI, 19, 3 },
    ["vLLM's stream that counts on"] = { VLLM_CONTINUOUS, 10, 2 },
    ["llama-server's own stream"] = { LLAMA_COMPLETION, 6, 2 },
    ["a sum alone"] = { '{"usage":{"total_tokens":6}}', 6, 0 },
    ["embeddings"] = { '{"usage":{"prompt_tokens":6,"total_tokens":6}}', 6, 0 },
    ["Anthropic's, with what was cached"] = {
        '{"usage":{"input_tokens":3,"cache_creation_input_tokens":5,"cache_read_input_tokens":7,'
            .. '"output_tokens":2}}', 15, 2,
    },
    ["Ollama's"] = { '{"done":true,"prompt_eval_count":11,"eval_count":4}\n', 11, 4 },
    ["Responses'"] = { '{"usage":{"input_tokens":3,"output_tokens":9,"total_tokens":12}}', 3, 9 },
    ["a stream that ended early"] = { WORDS, 0, 3 },
    ["an answer that came whole and tells nothing"] = { '{"results":[]}', 0, 0 },
    ["nothing"] = { "", 0, 0 },
}

describe("apart, of feed", function()
    for what, told in pairs(APART) do
        it("is what the prompt used and what the answer did, of " .. what, function()
            local meter = usage.new()
            for _, piece in ipairs(pieces_of(told[1], 7)) do
                usage.feed(meter, piece)
            end
            assert.same({ told[2], told[3] }, { usage.apart(meter) })
        end)
    end
end)

describe("total, of feed", function()
    for name, answer in pairs(ANSWERS) do
        local text, tokens, source = answer[1], answer[2], answer[3]

        it(("is %d from %s for %s"):format(tokens, source, name), function()
            assert.same({ tokens, source }, { total_of(text) })
        end)

        it("is the same wherever it is cut in two: " .. name, function()
            for at = 1, #text - 1 do
                assert.same({ tokens, source }, { total_of(text:sub(1, at), text:sub(at + 1)) }, at)
            end
        end)

        it("is the same cut at random, and byte by byte: " .. name, function()
            for seed = 1, RANDOM_CUTS do
                local pieces = pieces_of(text, seed)
                assert.same({ tokens, source }, { total_of_pieces(pieces) }, seed)
            end
            assert.same({ tokens, source }, { total_of_pieces(single_bytes(text)) })
        end)
    end
end)

--- Texts in which no usage is told, though they look like it.
local NOT_TOLD = {
    ["a name in a string"] = [[{"content":"{\"usage\":{\"total_tokens\":5}}"}]],
    ["a name behind an escaped backslash and quote"] = [[{"a":"\\\"usage\":{\"total_tokens\":5}"}]],
    ["a name that ends like one"] =
        [[{"x\"usage":{"total_tokens":5},"\"prompt_eval_count":5}]],
    ["a string that is no name"] = [[{"type":"usage","b":{"total_tokens":5}}]],
    ["a string that is no name, in a list"] = [[["usage",{"total_tokens":5}] ]],
    ["null"] = [[{"usage":null}]],
    ["a number"] = [[{"usage":5}]],
    ["a list"] = [[{"usage":[{"total_tokens":5}]}]],
    ["a string"] = [[{"usage":"{total_tokens:5}"}]],
    ["another name with the same end"] = [[{"my_usage":{"total_tokens":5},"re_eval_count":7}]],
    ["another name with the same begin"] = [[{"usages":{"total_tokens":5},"eval_counts":7}]],
    ["counts of nothing"] = [[{"usage":{"prompt_tokens":0,"total_tokens":0},"eval_count":0}]],
    ["a fraction"] = [[{"usage":{"total_tokens":5.5},"eval_count":1.5}]],
    ["a negative number"] = [[{"usage":{"total_tokens":-5},"eval_count":-5}]],
    ["a number beyond all bounds"] = [[{"usage":{"total_tokens":1000000001},"eval_count":1e300}]],
    ["what is no number"] = [[{"usage":{"total_tokens":"5"},"eval_count":"5"}]],
    ["NaN and infinity"] = [[{"usage":{"total_tokens":NaN,"prompt_tokens":Infinity}}]],
    ["a boolean and an object"] = [[{"usage":{"total_tokens":true,"prompt_tokens":{}}}]],
    ["nested counts alone"] = [[{"usage":{"details":{"total_tokens":5}}}]],
    ["what is no JSON"] = [[{"usage":{total_tokens:5}}]],
    ["an object that never ends"] = [[{"usage":{"total_tokens":5]],
    ["a number that may go on"] = [[{"eval_count":5]],
}

describe("total, where nothing is told,", function()
    for name, text in pairs(NOT_TOLD) do
        it("counts events: " .. name, function()
            for at = 0, #text do
                local tokens, source = total_of(text:sub(1, at), text:sub(at + 1))
                assert.equal("events", source, at)
                assert.is_true(tokens <= 1, at)
            end
        end)
    end
end)

--- Texts in which usage is told, though they do not look like it.
local TOLD = {
    ["spaces everywhere"] = '{ "usage" \t:\r\n { "total_tokens" \n: 5 } }',
    ["the greatest number there is"] = '{"usage":{"total_tokens":1000000000}}',
    ["behind a string that ends with a backslash"] = [[{"a":"\\","usage":{"total_tokens":5}}]],
    ["behind a string that is a name"] = [[{"type":"usage","usage":{"total_tokens":5}}]],
    ["braces and quotes in strings"] =
        [[{"usage":{"a":"}\"}{","b":"\\","total_tokens":5,"c":{"d":"}"}}}]],
    ["counts of others beside it"] = '{"usage":{"eval_count":2,"total_tokens":5}}',
    ["null first"] = '{"usage":null}\n{"usage":{"total_tokens":5}}',
    ["in the middle of a list"] = '[1,{"usage":{"total_tokens":5}}]',
    ["a number of Ollama with spaces"] = '{"eval_count" : 5 }',
    ["an exponent"] = '{"eval_count":5e0}',
}

describe("total, where usage is told,", function()
    for name, text in pairs(TOLD) do
        it("takes it: " .. name, function()
            local expected = name:find("greatest") and 1000000000 or 5
            for at = 0, #text do
                assert.same({ expected, "usage" },
                    { total_of(text:sub(1, at), text:sub(at + 1)) }, at)
            end
        end)
    end

    it("keeps the greatest of each count: a lesser one later takes nothing back", function()
        local meter = usage.new()
        usage.feed(meter, '{"usage":{"prompt_tokens":10,"completion_tokens":90}}')
        usage.feed(meter, '{"usage":{"prompt_tokens":12,"completion_tokens":1}}')
        assert.equal(102, (usage.total(meter)))
    end)

    it("can be asked at any time", function()
        local meter = usage.new()
        assert.same({ 0, "events" }, { usage.total(meter) })
        usage.feed(meter, WORDS)
        assert.same({ 3, "events" }, { usage.total(meter) })
        usage.feed(meter, OPENAI_USAGE)
        assert.same({ 22, "usage" }, { usage.total(meter) })
    end)
end)

--- An object of so many bytes from its name's first quote on.
local function object_of(size)
    local head, tail = '"usage":{"total_tokens":5,"pad":"', '"}'
    return head .. ("x"):rep(size - #head - #tail) .. tail
end

describe("a usage object", function()
    it("of 4096 bytes is taken, wherever it is cut", function()
        local text = "{" .. object_of(4096) .. "}"
        for at = 0, #text, 7 do
            assert.same({ 5, "usage" }, { total_of(text:sub(1, at), text:sub(at + 1)) }, at)
        end
    end)

    it("of 4097 bytes is given up on, wherever it is cut", function()
        local text = "{" .. object_of(4097) .. "}"
        for at = 0, #text, 7 do
            assert.same({ 1, "events" }, { total_of(text:sub(1, at), text:sub(at + 1)) }, at)
        end
    end)

    it("that is given up on hides none that comes later", function()
        local text = "{" .. object_of(6000) .. "}\n" .. '{"usage":{"total_tokens":7}}\n'
        for at = 0, #text, 11 do
            assert.equal(7, (total_of(text:sub(1, at), text:sub(at + 1))), at)
        end
    end)

    it("or spaces behind its name without end are not kept", function()
        for _, endless in ipairs({ '{"usage":{"a":"', '{"usage"', '{"eval_count":1' }) do
            local meter = usage.new()
            usage.feed(meter, endless)
            for _ = 1, 200 do
                usage.feed(meter, (" "):rep(100))
                assert.is_true(#meter.held <= 4096)
            end
        end
    end)
end)

describe("a caller who wants the LLM for nothing", function() -- threats B15
    it("pays for each event behind the last count when it leaves before the end", function()
        local text = ANTHROPIC_BEGIN .. repeated(500, ANTHROPIC_DELTA)
        assert.is_true(total_of(text) >= 541)
    end)

    it("pays for events when the model writes counts of its own", function()
        local forged = '{"message":{"tool_calls":[{"function":{"arguments":'
            .. '{"eval_count":1,"usage":{"total_tokens":1}}}}]},"done":false}\n'
        local tokens, source = total_of(repeated(500, ollama_line('"a"')) .. forged)
        assert.equal("events", source)
        assert.is_true(tokens >= 480)
    end)

    it("pays for events when a server tells noughts in each", function()
        local noughts = delta('"a"', ',"usage":{"prompt_tokens":0,"total_tokens":0}')
        assert.same({ 60, "events" }, { total_of(repeated(60, noughts)) })
    end)
end)

--- Answers as servers write them that come whole.
local WHOLE = {
    OPENAI = OPENAI_JSON, ["llama-server"] = LLAMA_COMPLETION_JSON, Ollama = OLLAMA_JSON,
    Anthropic = ANTHROPIC_JSON,
    vLLM = '{"choices":[],"usage":{"prompt_tokens":5,"total_tokens":12,"completion_tokens":7,'
        .. '"prompt_tokens_details":null},"kv_transfer_params":null}',
    ["with details"] = '{"usage": {"completion_tokens": 2, "prompt_tokens": 31, "total_tokens": '
        .. '33, "prompt_tokens_details": {"cached_tokens": 30}}, "timings": {"cache_n": 30}}',
}

describe("an answer that comes whole", function()
    for name, answer in pairs(WHOLE) do
        it("is read as one that comes in pieces: " .. name, function()
            local meter = usage.new()
            usage.feed(meter, answer)
            assert.same({ total_of_pieces(single_bytes(answer)) }, { usage.total(meter) })
        end)

        it("passes no loop, for which LuaJIT would not compile its way: " .. name, function()
            local sum = 0
            local count = loops_met(function()
                local meter = usage.new()
                usage.feed(meter, answer)
                usage.feed(meter, "")
                sum = sum + usage.total(meter) + usage.apart(meter)
            end)
            assert.equal(0, count)
        end)
    end
end)

describe("a usage object", function()
    local FORMS = {
        '{"usage":{"a":{"b":{"total_tokens":5}},"total_tokens":7}}',
        '{"usage":{"a":"}","total_tokens":7}}', '{"usage":{"a":"\\"}","total_tokens":7}}',
        '{"usage":{"total_tokens" : 7}}', '{"usage":{"a":[1,2],"total_tokens":7}}',
        '{"usage":{"a" :5,"total_tokens":7}}', '{"usage":{"a":true,"total_tokens":7}}',
        '{"usage":{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"total_tokens":7}}',
        '{"usage":{"a":null,"b":{},"total_tokens":7.0}}', '{"usage":{"total_tokens":0.7e1 }}',
        '{"usage":{}, "my usage":{"total_tokens":9}, "usage":{"total_tokens":7}}',
    }
    for _, text in ipairs(FORMS) do
        it("is read as JSON has it, whoever wrote it: " .. text, function()
            assert.same({ 7, "usage" }, { total_of(text) })
        end)
    end
end)

describe("a meter", function()
    it("keeps little of what has passed", function()
        local meter = usage.new()
        for seed = 1, 50 do
            for _, piece in ipairs(pieces_of(OPENAI .. ANTHROPIC .. OLLAMA, seed)) do
                usage.feed(meter, piece)
                assert.is_true(#meter.held <= 400)
                assert.is_true(#(meter.begun or "") <= 6)
            end
        end
    end)

    it("remembers no names but those it sums", function()
        local meter = usage.new()
        local function names()
            local count = 0
            for _ in pairs(meter.counts) do
                count = count + 1
            end
            return count
        end
        usage.feed(meter, '{"usage":{}}')
        local before = names()
        for index = 1, 100 do
            usage.feed(meter, ('{"usage":{"name_%d":5}}'):format(index))
        end
        assert.equal(before, names())
    end)
end)

---------
-- The filter.

--- All that comes out of a filter for these pieces, the last of them marked as last.
local function filtered(pieces)
    local state, out = usage.new_filter(ASKED), {}
    for index, piece in ipairs(pieces) do
        out[index] = usage.filter(state, piece, index == #pieces)
    end
    return table.concat(out)
end

local OTHER_EXTRA = 'data: { "choices" : [ ] , "id":"x", "usage" : { "total_tokens": 5 } }\n\n'
local VLLM_EXTRA = chunk_event('"choices":[],"usage":{"prompt_tokens":10,"total_tokens":12,'
    .. '"completion_tokens":2,"prompt_tokens_details":null}')
local LLAMA_EXTRA = LLAMA_SERVER:sub(#(delta('"Sure"') .. delta('"!"')) + 1, -#DONE - 1)

--- What comes from the LLM server, and the event that shall be gone.
local STREAMS = {
    ["OpenAI"] = { OPENAI, OPENAI_USAGE },
    ["vLLM"] = { VLLM, VLLM_EXTRA },
    ["llama-server"] = { LLAMA_SERVER, LLAMA_EXTRA },
    ["spaces in the JSON"] = { WORDS .. OTHER_EXTRA .. DONE, OTHER_EXTRA },
    ["the extra event last"] = { WORDS .. OPENAI_USAGE, OPENAI_USAGE },
    ["the extra event first"] = { OPENAI_USAGE .. WORDS, OPENAI_USAGE },
    ["the extra event alone"] = { OPENAI_USAGE, OPENAI_USAGE },
    ["comments around it"] = { ": ping\n\n" .. OPENAI_USAGE .. ":\n\n" .. DONE, OPENAI_USAGE },
    ["data in two lines"] = {
        'id: 1\ndata: {"choices":[],\ndata: "usage":{"total_tokens":5}}\n\n' .. DONE,
        'id: 1\ndata: {"choices":[],\ndata: "usage":{"total_tokens":5}}\n\n',
    },
    ["no extra event"] = { WORDS .. DONE, nil },
    ["usage beside choices"] = { delta('"a"', vllm_usage(1)) .. delta('""', vllm_usage(1)), nil },
    ["Anthropic"] = { ANTHROPIC, nil },
    ["Responses"] = { RESPONSES, nil },
    ["no choices, no usage"] = { chunk_event('"choices":[],"prompt_filter_results":[]'), nil },
    ["usage null"] = { chunk_event('"choices":[],"usage":null'), nil },
    ["usage and choices inside others"] = {
        'data: {"a":{"choices":[],"usage":{"total_tokens":5}}}\n\n', nil,
    },
    ["usage beside choices that hold none"] = {
        'data: {"choices":[{"choices":[]}],"usage":{"total_tokens":5}}\n\n', nil,
    },
    ["usage and choices in a text"] = { delta([["{\"choices\":[],\"usage\":{}}"]]), nil },
    ["an event that is no JSON"] = { 'data: "choices":[],"usage":{"total_tokens":5}\n\n', nil },
    ["an error"] = { WORDS .. 'data: {"error":{"message":"x","code":null}}\n\n', nil },
    ["a stream that ends within an event"] = { WORDS .. OPENAI_USAGE:sub(1, -2), nil },
    ["a stream that ends within a line"] = { WORDS .. OPENAI_USAGE:sub(1, 90), nil },
    ["empty lines"] = { "\n\n\n" .. delta('"a"') .. "\n\n\n" .. DONE .. "\n", nil },
    ["no end of a line at all"] = { "data", nil },
    ["nothing"] = { "", nil },
}

local function without(text, piece)
    local first, last = text:find(piece or "\0", 1, true)
    return first and text:sub(1, first - 1) .. text:sub(last + 1) or text
end

describe("filter", function()
    it("passes the rest of an event that is too long, whatever it looks like", function()
        local state = usage.new_filter(ASKED)
        local begin = "data: " .. ("x"):rep(70000) .. "\n"
        assert.equal(begin, usage.filter(state, begin, false))
        assert.equal(OPENAI_USAGE, usage.filter(state, OPENAI_USAGE, false))
        assert.equal(DONE, usage.filter(state, OPENAI_USAGE .. DONE, false))
    end)

    for name, stream in pairs(STREAMS) do
        for ending, line_end in pairs({ ["\\n"] = "\n", ["\\r\\n"] = "\r\n", ["\\r"] = "\r" }) do
            local text = with_line_end(stream[1], line_end)
            local extra = stream[2] and with_line_end(stream[2], line_end)
            local expected = without(text, extra)

            it(("passes all but the extra event: %s, %s"):format(name, ending), function()
                assert.equal(extra and #text - #extra or #text, #expected)
                assert.equal(expected, filtered({ text }))
                for at = 1, #text - 1 do
                    assert.equal(expected, filtered({ text:sub(1, at), text:sub(at + 1) }), at)
                end
            end)

            it(("does so cut at random, and byte by byte: %s, %s"):format(name, ending), function()
                for seed = 1, RANDOM_CUTS do
                    assert.equal(expected, filtered(pieces_of(text, seed)), seed)
                end
                assert.equal(expected, filtered(single_bytes(text)))
            end)
        end
    end

    it("passes all but the extra event when line ends are mixed", function()
        local text = "data: 1\n\rdata: 2\r\n\ndata: 3\r\rdata: 4\n\r\n"
        local extra = OPENAI_USAGE:sub(1, -3) .. "\n\r\n"
        for at = 0, #text + #extra + #DONE do
            local all = text .. extra .. DONE
            assert.equal(text .. DONE, filtered({ all:sub(1, at), all:sub(at + 1) }), at)
        end
    end)

    it("lets a whole event go at once, whatever the line end", function()
        for _, line_end in ipairs({ "\n", "\r\n", "\r" }) do
            local state = usage.new_filter(ASKED)
            for _, event in ipairs({ delta('"a"'), delta('"b"', ',"usage":null'), DONE }) do
                local text = with_line_end(event, line_end)
                assert.equal(text, usage.filter(state, text, false))
            end
        end
    end)

    it("lets whole events go and holds the one that is not, until its end has come", function()
        local state = usage.new_filter(ASKED)
        local event = delta('"a"')
        assert.equal(event .. event, usage.filter(state, event .. event .. event:sub(1, 9), false))
        assert.equal("", usage.filter(state, event:sub(10, -2), false))
        assert.equal(event, usage.filter(state, "\n", false))
        assert.equal(event, usage.filter(state, event, false))
    end)

    it("holds the extra event back and lets nothing of it go", function()
        local state = usage.new_filter(ASKED)
        for _, byte in ipairs(single_bytes(OPENAI_USAGE)) do
            assert.equal("", usage.filter(state, byte, false))
        end
        assert.equal(DONE, usage.filter(state, DONE, true))
    end)

    it("lets what it holds go with the last chunk, once", function()
        local state = usage.new_filter(ASKED)
        assert.equal("", usage.filter(state, "data: {", false))
        assert.equal("data: {", usage.filter(state, "", true))
        assert.equal("", usage.filter(state, "", true))
    end)

    it("holds 64 KiB at most, passes the rest of that event, and goes on behind it", function()
        local state = usage.new_filter(ASKED)
        local begin = "data: " .. ("x"):rep(65530)
        assert.equal("", usage.filter(state, begin, false))
        assert.equal(begin .. "y", usage.filter(state, "y", false))
        assert.equal("zz", usage.filter(state, "zz", false))
        local rest = '"choices":[],"usage":{}}\n'
        assert.equal(rest, usage.filter(state, rest, false))
        rest = OPENAI_USAGE:sub(1, -2)
        assert.equal(rest, usage.filter(state, rest, false))
        assert.equal("\n" .. DONE, usage.filter(state, "\n" .. OPENAI_USAGE .. DONE, false))
        assert.equal("", usage.filter(state, OPENAI_USAGE, false))
    end)
end)
