---------
-- What a body may ask of the LLM server beside a model: threats N11, N12.

local ffi = require("ffi")
local json_body = require("portero.request.json_body")
local server_side = require("portero.request.server_side")

local NOTHING = { tools = false, fetch = false }

local function scan(text)
    local bytes = ffi.cast("const unsigned char *", text)
    return assert(json_body.scan(bytes, #text, nil, server_side.WATCH)), bytes
end

local function refusal(text, allowed)
    return server_side.refusal(scan(text), allowed or NOTHING)
end

--- As a test's name: short, and of one line.
local function shown(text)
    return (("%q"):format(text:sub(1, 90)):gsub("[%c\128-\255]", "?"))
end

describe("refusal", function()
    -- Tools that the server runs, N11.
    local TOOLS = {
        ['{"tools":[{"type":"web_search"}]}'] = "tools",
        ['{"tools":[{"type":"function"},{"type":"web_search_preview_2025_03_11"}]}'] = "tools",
        ['{"tools":[{"type":"web_search_20250305","name":"web_search"}]}'] = "tools",
        ['{"tools":[{"type":"web_fetch_20250910"}]}'] = "tools",
        ['{"tools":[{"type":"code_execution_20250825"}]}'] = "tools",
        ['{"tools":[{"type":"file_search","vector_store_ids":["a"]}]}'] = "tools",
        ['{"tools":[{"type":"code_interpreter"}]}'] = "tools",
        ['{"tools":[{"type":"image_generation"}]}'] = "tools",
        ['{"tools":[{"type":"computer_use_preview"}]}'] = "tools",
        ['{"tools":[{"type":"shell"}]}'] = "tools",
        ['{"tools":[{"type":"mcp","server_url":"http://x/"}]}'] = "tools",
        ['{"tools":[{"type":"mcp_toolset","mcp_server_name":"a"}]}'] = "tools",
        ['{"tools":[{"type":"\\u006dcp"}]}'] = "tools",
        ['{"tools":[{"server_url":"http://169.254.169.254/"}]}'] = "tools",
        ['{"tools":[{"type":"function","server_url":"http://x/"}]}'] = "tools",
        ['{"tools":[{"type":"namespace","tools":[{"type":"mcp"}]}]}'] = "tools",
        ['{"tools":{"type":"mcp"}}'] = "tools",
        ['{"tools":[[{"type":"mcp"}]]}'] = "tools",
        ['{"tools":[{"type":"a tool of tomorrow"}]}'] = "tools",
        ['{"tools":[{"type":""}]}'] = "tools",
        ['{"web_search_options":{}}'] = "web_search_options",
        ['{"mcp_servers":[{"type":"url","url":"http://x/"}]}'] = "mcp_servers",
        ['{"container":"a"}'] = "container",
        ['{"tool_ids":["server:mcp:a"]}'] = "tool_ids",
        ['{"tool_servers":[{"url":"http://x/"}]}'] = "tool_servers",
        ['{"metadata":{"mcp_servers":"a,b"}}'] = "metadata",
        ['{"metadata":{"localai_assistant":"true"}}'] = "metadata",
        ['{"metadata":{"mcp_prompt":"a"}}'] = "metadata",
        ['{"metadata":{"mcp_resources":"file:///etc/passwd"}}'] = "metadata",
    }
    for text, field in pairs(TOOLS) do
        it("is that of a tool which the server runs: " .. shown(text), function()
            assert.equal("tools_" .. field, refusal(text))
            assert.equal("tools_" .. field, refusal(text, { tools = false, fetch = true }))
            assert.is_nil(refusal(text, { tools = true, fetch = false }))
        end)
    end

    --- A chat with one part of a content.
    local function part(text)
        return '{"messages":[{"role":"user","content":[{"type":"text","text":"a"},'
            .. text .. "]}]}"
    end

    -- Addresses that the server fetches.
    local ADDRESSES = {
        [part('{"type":"image_url","image_url":{"url":"https://x/a.png"}}')] = "image_url",
        [part('{"type":"image_url","image_url":"http://x/a.png"}')] = "image_url",
        [part('{"type":"image_url","image_url":{"url":"HTTP://x/"}}')] = "image_url",
        [part('{"type":"image_url","image_url":{"url":" http://x/"}}')] = "image_url",
        [part('{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}')] = "image_url",
        [part('{"type":"image_url","image_url":{"url":"\\u0068ttp:\\/\\/x"}}')] = "image_url",
        [part('{"type":"image_url","image_url":{"url":"//x/a.png"}}')] = nil,
        [part('{"type":"image_url","image_url":{"url":"//x.y/a.png"}}')] = "image_url",
        [part('{"type":"image_url","image_url":{"url":"s3://a/b"}}')] = "image_url",
        [part('{"type":"audio_url","audio_url":{"url":"http://x/"}}')] = "audio_url",
        [part('{"type":"video_url","video_url":{"url":"http://x/"}}')] = "video_url",
        [part('{"type":"input_audio","input_audio":{"data":"http://x/"}}')] = "input_audio",
        [part('{"type":"image","source":{"type":"url","url":"http://x/"}}')] = "source",
        [part('{"type":"document","source":{"type":"content","content":[{"type":"image",'
            .. '"source":{"type":"url","url":"http://x/"}}]}}')] = "source",
        [part('{"type":"tool_result","content":[{"type":"image","source":'
            .. '{"type":"url","url":"http://x/"}}]}')] = "source",
        ['{"messages":[[{"content":[{"image_url":{"url":"http://x/"}}]}]]}'] = "image_url",
        ['{"input":[{"role":"user","content":[{"type":"input_image","image_url":"http://x/"}]}]}'] =
            "image_url",
        ['{"input":[{"content":[{"type":"input_file","file_url":"http://x/"}]}]}'] = "file_url",
        ['{"input":[{"type":"function_call_output","output":[{"image_url":"http://x/"}]}]}'] =
            "image_url",
        ['{"input":[{"type":"computer_call_output","output":{"image_url":"http://x/"}}]}'] =
            "image_url",
        ['{"messages":[{"role":"user","content":"a","images":["aGk=","http://x/"]}]}'] = "images",
        ['{"prompt":"a","images":["http://x/"]}'] = "images",
        ['{"documents":{"content":[{"image_url":{"url":"http://x/"}}]}}'] = "image_url",
        ['{"inputs":[{"content":[{"image_url":{"url":"http://x/"}}]}]}'] = "image_url",
        ['{"prompt":"a","file":"http://x/"}'] = "file",
        ['{"prompt":"a","files":["http://x/"]}'] = "files",
        ['{"prompt":"a","ref_images":["http://x/"]}'] = "ref_images",
    }
    for text, field in pairs(ADDRESSES) do
        it("is that of an address which the server fetches: " .. shown(text), function()
            assert.equal("fetch_" .. field, refusal(text))
            assert.is_nil(refusal(text, { tools = false, fetch = true }))
        end)
    end

    -- What coding agents and SDKs send is theirs.
    for _, text in ipairs({
        "{}", '{"tools":null}', '{"tools":[]}', '{"mcp_servers":null,"container":null}',
        '{"tools":[{"type":"function","function":{"name":"web_search","parameters":'
            .. '{"type":"object","properties":{"url":{"type":"string"},"server_url":{"type":"mcp"},'
            .. '"image_url":{"default":"http://x/"}}}}}]}',
        '{"tools":[{"name":"WebFetch","description":"mcp","input_schema":{"type":"object",'
            .. '"properties":{"type":{"type":"web_search"}}}}]}',
        '{"tools":[{"type":"custom","name":"apply_patch","format":{"type":"grammar"}}]}',
        '{"tools":[{"type":"local_shell"},{"type":"apply_patch"},{"type":"tool_search"}]}',
        '{"tools":[{"type":"bash_20250124"},{"type":"text_editor_20250728"},'
            .. '{"type":"computer_20250124"},{"type":"memory_20250818"},'
            .. '{"type":"tool_search_tool_bm25_20251119"}]}',
        '{"tools":[{"type":"namespace","name":"a","tools":[{"type":"function","name":"b"}]}]}',
        '{"metadata":{"user_id":"a","url":"http://x/"}}',
        '{"messages":[{"role":"user","content":"{\\"image_url\\":\\"http://x/\\"}"}]}',
        '{"messages":[{"role":"assistant","tool_calls":[{"function":{"arguments":"http://x/"}}]}]}',
        part('{"type":"tool_use","id":"a","name":"fetch","input":{"url":"http://x/",'
            .. '"image_url":"http://x/","source":{"url":"http://x/"}}}'),
        part('{"type":"search_result","source":"https://x/","title":"a","content":[]}'),
        part('{"type":"web_search_result","url":"https://x/","title":"a"}'),
        part('{"image_url":{"url":"data:image/png;base64,iVBO","detail":"low"}}'),
        part('{"type":"image_url","image_url":{"url":"DATA:image\\/png;base64,iVBO"}}'),
        part('{"type":"image_url","image_url":{"url":"' .. ("iVBO/+=="):rep(1000) .. '"}}'),
        part('{"type":"input_audio","input_audio":{"data":"UklGRg==","format":"wav"}}'),
        part('{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iV"}}'),
        part('{"type":"document","source":{"type":"text","data":"see http://x/"}}'),
        '{"input":"http://x/","instructions":"use mcp"}', '{"input":["http://x/"]}',
        '{"input":[1,2,3]}', '{"input":[[1,2],[3]]}', '{"prompt":"http://x/"}',
        '{"documents":["http://x/"],"query":"http://x/"}',
        '{"messages":[{"content":"a","images":["aGk=","aGk="]}]}',
        '{"response_format":{"type":"json_schema","json_schema":{"schema":{"tools":'
            .. '[{"type":"mcp"}],"image_url":"http://x/"}}}}',
    }) do
        it("is none for what the client does itself: " .. shown(text), function()
            assert.is_nil(refusal(text))
        end)
    end

    it("tells tools first", function()
        assert.equal("tools_container",
            refusal('{"images":["http://x/"],"container":"a","tools":[{"type":"mcp"}]}'))
    end)

    it("has a row in the table of errors, whichever it is", function()
        require("fake_ngx").install()
        local rows = require("fake_ngx").install().load("portero.errors")
        for _, list in ipairs({ TOOLS, ADDRESSES }) do
            for text in pairs(list) do
                assert.is_string(rows.event(refusal(text), "/v1/chat/completions", "sse"))
            end
        end
    end)

    -- A twin that only some readers take for the field (B1, B2).
    for text, code in pairs({
        ['{"tools":[{"type":"function","Type":"mcp"}]}'] = "json_name_near",
        ['{"tools":[{"type":"function","type":"mcp"}]}'] = "json_name_twice",
        ['{"Tools":[{"type":"mcp"}]}'] = "json_name_near",
        ['{"PRIORITY":1}'] = "json_name_near",
        ['{"messages":[{"content":[{"image_url":"data:,","IMAGE_URL":"http://x/"}]}]}'] =
            "json_name_near",
    }) do
        it(("is %s for %s"):format(code, shown(text)), function()
            local bytes = ffi.cast("const unsigned char *", text)
            assert.same({ nil, code }, { json_body.scan(bytes, #text, nil, server_side.WATCH) })
        end)
    end
end)

describe("change_of_priority", function()
    --- The body as it is sent.
    local function sent(text, priority)
        local found, bytes = scan(text)
        local from, to, new = server_side.change_of_priority(found, bytes, priority)
        return from and text:sub(1, from) .. new .. text:sub(to + 1) or text
    end

    -- Body, without a priority, with one. N12.
    for _, case in ipairs({
        { '{"a":1}', '{"a":1}', '{"priority":5,"a":1}' },
        { "{}", "{}", '{"priority":5}' },
        { '{"priority":-1000}', "{}", '{"priority":5}' },
        { '{"priority":-1000,"a":1}', '{"a":1}', '{"priority":5,"a":1}' },
        { '{"a":1,"priority":-1000}', '{"a":1}', '{"a":1,"priority":5}' },
        { '{"a":1,"priority":-1000,"b":2}', '{"a":1,"b":2}', '{"a":1,"priority":5,"b":2}' },
        { '{ "priority" : [1] , "b":2}', '{  "b":2}', '{ "priority" : 5 , "b":2}' },
        { '{"a":1 ,\n "priority":null \n}', '{"a":1  \n}', '{"a":1 ,\n "priority":5 \n}' },
        { '{"a":{"priority":1},"b":["priority"]}', '{"a":{"priority":1},"b":["priority"]}',
            '{"priority":5,"a":{"priority":1},"b":["priority"]}' },
        { '{"pri\\u006frity":1,"a":2}', '{"a":2}', '{"pri\\u006frity":5,"a":2}' },
    }) do
        it("makes it the policy's: " .. shown(case[1]), function()
            assert.equal(case[2], sent(case[1], nil))
            assert.equal(case[3], sent(case[1], 5))
        end)
    end
end)

describe("the watch of what went before", function() -- N10
    for text, expected in pairs({
        ['{"previous_response_id":"resp_a"}'] = { continues = "resp_a" },
        ['{"previous_response_id":"resp\\u005fa"}'] = { continues = "resp_a" },
        ['{"previous_response_id":null,"conversation":null}'] = {},
        ['{"previous_response_id":""}'] = { continues = false },
        ['{"previous_response_id":["resp_a"]}'] = { continues = false },
        ['{"conversation":"conv_a"}'] = { converses = true },
        ['{"conversation":{"id":"conv_a"}}'] = { converses = true },
        ['{"input":[{"type":"item_reference","id":"msg_a"}]}'] = { refers = true },
        ['{"input":[{"type":"message","content":[{"type":"item_reference"}]}]}'] = {},
        ['{"messages":[{"type":"item_reference"}],"input":"item_reference"}'] = {},
    }) do
        it("finds it in " .. shown(text), function()
            local found = scan(text)
            assert.same(expected, { continues = found.continues, converses = found.converses,
                refers = found.refers })
        end)
    end
end)

describe("read_field", function()
    local function told(name, text)
        local found = {}
        server_side.read_field(found, name, text, 10, 20)
        return found
    end

    it("notes of a form's field what the same field of JSON would ask", function()
        assert.same({ priority_parts = { { 10, 20 } } }, told("priority", "1"))
        assert.same({ asks_tools = "tools" }, told("tools", "[]"))
        assert.same({ asks_tools = "mcp_servers" }, told("mcp_servers", ""))
        assert.same({ asks_fetch = "file" }, told("file", "http://x/"))
        assert.same({ asks_fetch = "image" }, told("image", "file:///etc/passwd"))
        assert.same({ second = "lora" }, told("lora", "x"))
    end)

    it("notes nothing of files, of what is the thing itself, and of other fields", function()
        for _, case in ipairs({ { "file" }, { "file", "data:a;base64,AAAA" }, { "file", "AAAA" },
            { "file", "" }, { "lora", "" }, { "language", "http://x/" }, { "prompt", "tools" } }) do
            assert.same({}, told(case[1], case[2]))
        end
    end)
end)

describe("EVENTS", function()
    local function told(text)
        local bytes = ffi.cast("const unsigned char *", text)
        return assert(json_body.scan(bytes, #text, nil, server_side.EVENTS))
    end

    it("note the models within an event, and where each stands", function()
        local text = '{"session":{"model":"a","audio":{"input":{"transcription":{"model":"b"}}}}}'
        local models = told(text).models
        assert.same({ "a", false, "b", true }, { models[1].name, models[1].is_helper,
            models[2].name, models[2].is_helper })
        assert.equal('"b"', text:sub(models[2].from + 1, models[2].to))
        assert.is_false(told('{"response":{"model":"\\u0000"}}').models[1].name)
    end)

    it("note what a session, a response and an item ask for", function()
        assert.equal("tools", told('{"session":{"tools":[{"type":"mcp"}]}}').asks_tools)
        local item = '{"item":{"content":[{"image_url":"http://x"}]}}'
        assert.equal("image_url", told(item).asks_fetch)
        assert.equal("r", told('{"response":{"previous_response_id":"r"}}').continues)
        assert.is_nil(told('{"response":{"conversation":"none"}}').converses)
        assert.is_true(told('{"response":{"conversation":"c"}}').converses)
        assert.is_true(told('{"response":{"conversation":{"id":"c"}}}').converses)
    end)
end)
