---------
-- Names of models, where a body that was scanned or a query has them: threats B4-B6; the B-numbers
-- stand at their cases.

local ffi = require("ffi")
local json_body = require("portero.request.json_body")
local model_name = require("portero.policy.model_name")

local function scan(text)
    local found, reason = json_body.scan(ffi.cast("const unsigned char *", text), #text)
    return found, reason, text -- a pointer holds nothing
end

--- As a test's name: short, and of one line.
local function shown(text)
    return (("%q"):format(text:sub(1, 60)):gsub("[%c\128-\255]", "?"))
end

describe("canonical", function()
    local SAME = {
        ["llama3"] = { "llama3:latest", "library/llama3", "library/llama3:latest", "LLAMA3",
            "Library/Llama3:LATEST", "registry.ollama.ai/library/llama3",
            "registry.ollama.ai/library/LLAMA3:latest", "REGISTRY.OLLAMA.AI/Library/llama3" },
        ["llama3:8b"] = { "library/llama3:8b", "LLAMA3:8B" },
        ["me/llama3"] = { "registry.ollama.ai/me/llama3", "ME/llama3:latest" },
    }
    for short, names in pairs(SAME) do
        it("makes one of the names of " .. short, function() -- B5
            assert.equal(short, model_name.canonical(short, true))
            for _, name in ipairs(names) do
                assert.equal(short, model_name.canonical(name, true))
                assert.equal(name, model_name.canonical(name, false))
            end
        end)
    end

    it("leaves apart what is another model", function()
        local seen = {}
        for _, name in ipairs({ "llama3", "llama3:8b", "me/llama3", "me/library/llama3",
            "hf.co/library/llama3", "library", "latest", "llama3:latest-q4", "llama3latest",
            "registry.ollama.ai:443/library/llama3", "llama3@sha256:00", "llama3:cloud",
            "llama3:local" }) do
            local canonical = model_name.canonical(name, true)
            assert.is_nil(seen[canonical], name)
            seen[canonical] = name
        end
    end)
end)

describe("compile", function()
    it("answers nil, no limit, for the star alone", function()
        assert.is_nil(model_name.compile({ "*" }, true))
        assert.is_nil(model_name.compile({ "*" }, false))
        assert.is_table(model_name.compile({ "*", "a" }, true))
    end)

    it("allows nothing by an empty list", function()
        local list = model_name.compile({}, true)
        assert.is_false(model_name.allows(list, "llama3"))
        assert.is_false(model_name.allows(list, ""))
    end)
end)

describe("allows", function()
    local function allows(patterns, name, is_ollama)
        return model_name.allows(model_name.compile(patterns, is_ollama ~= false), name)
    end

    it("allows all by no limit", function()
        assert.is_true(model_name.allows(nil, "any:cloud"))
    end)

    it("compares as Ollama does, both the entry and the name", function() -- B5
        for _, entry in ipairs({ "llama3", "LLAMA3:latest", "library/llama3",
            "registry.ollama.ai/library/llama3" }) do
            for _, name in ipairs({ "llama3", "Llama3:Latest", "library/LLAMA3",
                "registry.ollama.ai/library/llama3:latest" }) do
                assert.is_true(allows({ entry }, name))
                assert.equal(entry == name, allows({ entry }, name, false))
            end
            assert.is_false(allows({ entry }, "llama3:8b"))
            assert.is_false(allows({ entry }, "llama3.1"))
            assert.is_false(allows({ entry }, "me/llama3"))
        end
    end)

    it("takes a star for any end, in Ollama's form too", function()
        for _, name in ipairs({ "llama3", "llama3:8b", "llama3.1:70b", "LLAMA3",
            "library/llama3:8b" }) do
            assert.is_true(allows({ "qwen", "llama3*" }, name))
        end
        assert.is_false(allows({ "llama3*" }, "llama2"))
        assert.is_false(allows({ "llama3*" }, "me/llama3"))
        assert.is_true(allows({ "me/*" }, "me/anything:7b"))
        assert.is_false(allows({ "llama3*" }, "Llama3", false))
        assert.is_true(allows({ "org/*" }, "org/Model-7B", false))
    end)

    it("takes a pattern for what it says and never for a pattern of Lua",
        function() -- litellm#21267
        for _, pattern in ipairs({ ".*", "%a*", "[a-z]*", "^llama*", "(llama)*", "l.ama3",
            "llama%d", "-*", "llama.*" }) do
            assert.is_false(allows({ pattern }, "llama3"), pattern)
            assert.is_false(allows({ pattern }, "llama3", false), pattern)
        end
        assert.is_true(allows({ "a.b*" }, "a.bc"))
        assert.is_false(allows({ "a.b*" }, "axbc"))
        assert.is_true(allows({ "a%d[*" }, "a%d[x", false))
    end)

    it("leaves a star that names the library or the registry within it", function() -- B5
        for _, case in ipairs({
            { "library/*", "llama3", true }, { "library/*", "library/llama3", true }, { "library/*",
            "me/llama3", false },
            { "library/*", "hf.co/me/llama3", false }, { "registry.ollama.ai/*", "me/llama3",
            true },
            { "registry.ollama.ai/*", "llama3", true }, { "registry.ollama.ai/*", "hf.co/me/llama3",
            false },
            { "registry.ollama.ai/library/l*", "llama3", true },
            { "registry.ollama.ai/library/l*", "localhost:5000/me/llama3", false },
            { "library/l*", "lmstudio/x", false },
        }) do
            assert.equal(case[3], allows({ case[1] }, case[2]), case[1] .. " " .. case[2])
        end
    end)

    local NEEDS_ITS_NAME = {
        "llama3@sha256:0123", "llama3:8b@sha256:0123", "@sha256:0123", "llama3:cloud",
        "llama3:8b-cloud", "LLAMA3:CLOUD", "llama3:8B-Cloud", "library/llama3:cloud",
        "registry.ollama.ai/library/llama3:20b-cloud", "llama3:local", "llama3:8b:local",
        "llama3:8b:cloud", "llama3:-cloud",
    }
    for _, name in ipairs(NEEDS_ITS_NAME) do
        it("asks for an entry that is exactly it, and takes no star: " .. name, function() -- B5
            for _, pattern in ipairs({ "llama3*", "llama3:*", "*", "@*", "llama3:8b*",
                "llama3:cloud*" }) do
                assert.is_false(allows({ pattern, "other" }, name))
            end
            assert.is_true(allows({ name, "other*" }, name))
            assert.is_false(allows({ "llama3", "llama3:8b" }, name))
            assert.is_true(allows({ name:sub(1, 3) .. "*", "other" }, name, false))
        end)
    end

    it("lets a star stand for a name in which cloud is no tag", function() -- B5
        for _, name in ipairs({ "cloud", "llama3-cloud", "cloud:8b", "llama3:cloudy",
            "cloud/llama3", "me-cloud/llama3:8b",
            "localhost:5000/me/llama3-cloud" }) do
            assert.is_true(allows({ "*", "x" }, name), name)
        end
    end)

    it("lets no star stand for characters that no model of Ollama has", function() -- B5
        for _, space in ipairs({ " ", "\t", "\n", "\0", "\194\160", "\226\128\130", "\127", "é",
            "\\", "\"", "%", "?", "#" }) do
            for _, name in ipairs({ "llama3" .. space, "llama3:cloud" .. space,
                "llama3:" .. space .. "cloud", "llama3:8b-cloud" .. space }) do
                assert.is_false(allows({ "*", "llama3*" }, name))
            end
        end
        assert.is_true(allows({ "a*" }, "a é", false))
    end)
end)

describe("is_plain", function()
    it("takes visible ASCII of 1 to 256 characters, as an allow-list may hold", function()
        for _, name in ipairs({ "a", "llama3.1:8b", "org/name", "*", "!", "~", "a%d[",
            ("m"):rep(256) }) do
            assert.is_true(model_name.is_plain(name))
        end
    end)

    it("refuses all else", function() -- B3, B6
        for _, name in ipairs({ "", " ", "a b", "a ", "\0", "a\n", "\127", "é", '"a"', "a\\",
            ("m"):rep(257) }) do
            assert.is_false(model_name.is_plain(name))
        end
    end)
end)

describe("from_json", function()
    local function from(text, word)
        return model_name.from_json(assert(scan(text)), word)
    end

    it("answers the model of a body", function()
        assert.equal("a", from('{"model":"a","name":"b"}', "body"))
        assert.same({ nil, "model_missing" }, { from('{"name":"b"}', "body") })
    end)

    for value, reason in pairs({
        ["null"] = "model_missing", ['""'] = "model_missing",
        ["[]"] = "model_unusable", ["{}"] = "model_unusable",
        ["1"] = "model_unusable", ["true"] = "model_unusable", [ [["\u0000"]] ] = "model_unusable",
        ['"' .. ("m"):rep(1025) .. '"'] = "model_unusable",
    }) do
        it(("calls a model of %s %s"):format(value:sub(1, 9), reason), function() -- B4
            assert.same({ nil, reason }, { from('{"model":' .. value .. "}", "body") })
            assert.same({ nil, reason }, { from('{"model":' .. value .. "}", "body-or-name") })
        end)
    end

    it("takes the name where the model is missing or void, as Ollama does", function() -- B5
        for _, model in ipairs({ "", '"model":"",', '"model":null,' }) do
            assert.equal("b", from("{" .. model .. '"name":"b"}', "body-or-name"))
        end
        for _, name in ipairs({ "", ',"name":""', ',"name":null' }) do
            assert.equal("a", from('{"model":"a"' .. name .. "}", "body-or-name"))
        end
        assert.same({ nil, "model_missing" }, { from('{"model":"","name":""}', "body-or-name") })
        assert.same({ nil, "model_missing" }, { from("{}", "body-or-name") })
    end)

    it("takes neither beside one that is wrong", function() -- B5
        for _, wrong in ipairs({ "1", "[]", "{}", "false", [["a\u0000"]], [["\ud800"]] }) do
            assert.same({ nil, "model_unusable" }, { from('{"model":' .. wrong .. ',"name":"b"}',
                "body-or-name") })
            assert.same({ nil, "model_unusable" }, { from('{"model":"a","name":' .. wrong .. "}",
                "body-or-name") })
        end
    end)

    it("refuses a model and a name of two models", function() -- B5
        assert.same({ nil, "ambiguous_body" }, { from('{"model":"a","name":"b"}', "body-or-name") })
        assert.equal("a", from('{"model":"a","name":"a"}', "body-or-name"))
        assert.equal("A:latest", from('{"model":"A:latest","name":"library/a"}', "body-or-name"))
    end)

    it("refuses a body that chooses its model in a second way", function() -- B6
        assert.same({ nil, "model_second" }, { from('{"model":"a","lora":[]}', "body") })
        assert.same({ nil, "model_second" }, { from('{"adapter":"x","name":"a"}', "body-or-name") })
        assert.equal("a", from('{"model":"a","adapter":null}', "body"))
    end)
end)

describe("query_with", function()
    it("has another model in the place of the one that was read, and all else as it was", function()
        for query, expected in pairs({
            ["?model=fast"] = "?model=a%2Fb",
            ["?x=1&model=fast&y=model=2"] = "?x=1&model=a%2Fb&y=model=2",
            ["?my_model=1&model=fast"] = "?my_model=1&model=a%2Fb",
        }) do
            assert.equal(expected, model_name.query_with(query, "a%2Fb"))
        end
    end)
end)

describe("from_query", function()
    local ONE = {
        ["model=a"] = "a",
        ["?model=a"] = "a",
        ["?x=1&model=llama3.1:8b&y=2"] = "llama3.1:8b",
        ["?model=org%2Fname%3Atag"] = "org/name:tag",
        ["?model=org/name:tag"] = "org/name:tag",
        ["?model=a=b"] = "a=b",
        ["?model=a&models=b&xname=c&mode=l"] = "a",
        ["?model=" .. ("m"):rep(256)] = ("m"):rep(256),
    }
    for query, expected in pairs(ONE) do
        it("answers the one model of " .. shown(query), function()
            assert.equal(expected, model_name.from_query(query))
            assert.is_true(model_name.names_model(query))
        end)
    end

    it("calls a model missing that is not there or empty", function() -- B4
        for _, query in ipairs({ "", "?", "?x=1", "?model", "?model=", "?x=model", "?models=a" }) do
            assert.same({ nil, "model_missing" }, { model_name.from_query(query) })
        end
    end)

    -- B6: litellm#41810
    local SEVERAL = {
        "?model=a&model=b", "?model=a&model=a", "?model=a&MODEL=b", "?Model=a", "?MODEL=a",
        "?%6dodel=a", "?mod%65l=a", "?model=a&%6Dodel=b", "?model=a&name=b", "?name=b", "?Name=b",
        "?n%61me=b", "?+model=a", "?model+=a", "?model%20=a", "?model%00=a", "?model%0a=a",
        "?%u006dodel=a", "?m%odel=a", "?model%=a", "?model=a&%=1", "?model=a%", "?model=a%2",
        "?model=a%zz", "?model=a%u0041", "?model=a;b", "?model=a;model=b", "?x=1;model=a",
        "?model=a?model=b", "?model=a+b", "?model=a%20b", "?model=a%00", "?model=%0a",
        "?model=%c3%a9", "?model=%22a", "?model=a%5c", "?model=a\"", "?model=" .. ("m"):rep(257),
    }
    for _, query in ipairs(SEVERAL) do
        it("refuses what can be read in two ways: " .. shown(query), function()
            assert.same({ nil, "ambiguous_body" }, { model_name.from_query(query) })
        end)
    end
end)

describe("names_model", function()
    for _, query in ipairs({ "?model=a", "?x=1&model=", "?model", "?MODEL=a", "?%6dodel=a",
        "?name=a", "?NAME", "?%4eame=1", "?a;model=b", "?+model=a", "?model%00=a", "?%u006dodel=a",
        "?%zz=1", "?%", "?a=1&mode%6c=2" }) do
        it("sees a model in " .. shown(query), function() -- B6
            assert.is_true(model_name.names_model(query))
        end)
    end

    for _, query in ipairs({ "", "?", "?x=model", "?models=a", "?amodel=b", "?stream=true&x=%zz",
        "?a=b=model" }) do
        it("sees none in " .. shown(query), function()
            assert.is_false(model_name.names_model(query))
        end)
    end
end)

describe("unescape", function()
    it("answers the name that a parameter stands for", function()
        assert.equal("a/b:c", model_name.unescape("a%2Fb%3Ac"))
        assert.equal("plain", model_name.unescape("plain"))
    end)
end)

describe("both", function()
    it("allows what two lists both allow, and is the one where there is but one", function()
        local first = model_name.compile({ "a*", "b" }, true)
        local second = model_name.compile({ "ab*", "c" }, true)
        assert.equal(first, model_name.both(first, nil))
        assert.equal(second, model_name.both(nil, second))
        assert.is_nil(model_name.both(nil, nil))
        local both = model_name.both(first, second)
        assert.is_true(model_name.allows(both, "abc"))
        for _, name in ipairs({ "a", "b", "c", "abc:cloud" }) do
            assert.is_false(model_name.allows(both, name))
        end
        assert.is_true(model_name.allows(first, "a"))
    end)
end)
