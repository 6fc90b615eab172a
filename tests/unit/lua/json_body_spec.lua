---------
-- The strict scan of a JSON body: threats B1-B9, B11, B12; the B-numbers stand at their cases.

local bit = require("bit")
local cjson = require("cjson.safe")
local ffi = require("ffi")
local json_body = require("portero.request.json_body")
local open_stores = require("open_stores")

ffi.cdef([[
void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset);
int mprotect(void *address, size_t length, int protection);
]])

local PAUSE = 256 * 1024
local LONG_S, KELVIN = "\197\191", "\226\132\170"

--- Calls with the bytes of a text, which must be held: a pointer holds nothing.
local function with_bytes(text, call, ...)
    local first, second = call(ffi.cast("const unsigned char *", text), #text, ...)
    return first, second, text
end

local function scan(text, pause)
    local found, reason = with_bytes(text, json_body.scan, pause)
    return found, reason
end

local function fault_of(text)
    local found, reason = scan(text)
    return found == nil and reason or "none"
end

--- As a test's name: short, and of one line.
local function shown(text)
    return (("%q"):format(text:sub(1, 60)):gsub("[%c\128-\255]", "?"))
end

local function accepts(text)
    assert.equal("none", fault_of(text), shown(text))
end

local function refuses(text)
    assert.equal("invalid_json", fault_of(text), shown(text))
end

--- JSON texts of one value, by RFC 8259.
local VALUES = {
    -- numbers
    "0", "-0", "1", "-1", "9", "10", "123", "-123", "0.0", "0.5", "-0.5", "1.5", "10.25",
    "123.456789", "1e1", "1E1", "1e+1", "1e-1", "1E+01", "0e0", "0e+1", "0E-10", "-0e0", "1.5e10",
    "1.5E-10", "0.4e00669999999999999999999999999999999999999999999", "1e400", "-1e400", "1e-400",
    "123456789012345678901234567890", "-99999999999999999999999999999999999", "0.1e1", "20e1",
    ("7"):rep(400), "1." .. ("3"):rep(400),
    -- words
    "true", "false", "null",
    -- strings
    '""', '" "', '"a"', '"abc"', [["\""]], [["\\"]], [["\/"]], [["\b\f\n\r\t"]], [["\\\\"]],
    [["\\\""]], [["\u0000"]], [["\u0041"]], [["\u00e9"]], [["\u00E9"]], [["\uABCD"]], [["\uabcd"]],
    [["\uFFFF"]], [["\ud83d\ude00"]], [["\uD83D\uDE00"]], [["\ud800"]], [["\udc00"]],
    [["\ud800\ud800"]], [["\udc00\ud800"]], [["\ud800x"]], [["\ud800\n"]], [["\\u0041"]], [["\\a"]],
    [["\u0022"]], [["\u005c"]], [["a\u000ab"]], '"\127"', '"/"', [["'"]], '"[]{},:"',
    '"// no comment"', '"\194\128"', '"\195\169"', '"\223\191"', '"\224\160\128"', '"\225\128\128"',
    '"\236\191\191"', '"\237\128\128"', '"\237\159\191"', '"\238\128\128"', '"\239\191\191"',
    '"\239\187\191"', '"\240\144\128\128"', '"\241\128\128\128"', '"\243\191\191\191"',
    '"\244\143\191\191"', '"\226\128\168\226\128\169"', '"Съешь же ещё"',
    '"人人生而自由"', '"😀😀"',
    -- arrays and objects
    "[]", "[ ]", "[[]]", "[[],[]]", "[1]", "[1,2]", "[ 1 , 2 ]", "[\t1\n,\r2 ]", '["a",1,null,{}]',
    "[0]", "[-0,-1]", "[1.5,1e1]", "[true,false,null]", "{}", "{ }", '{"a":1}', '{"a":1,"b":2}',
    '{ "a" : 1 , "b" : 2 }', '{"":0}', '{"a":{"b":{"c":[]}}}', '{"a":1,"a":2}',
    '{"model":"x","MODEL":"y"}', [[{"\u0061":1}]], [[{"\ud800":1}]], '{"é":1}', "[{},[],{}]",
    "[[[[[[[[[[]]]]]]]]]]", '{"a":[{"b":[]}]}',
}

--- What is no JSON value.
local NO_VALUES = {
    "",
    -- numbers
    "-", "+1", "+", "00", "01", "-01", "-00", "007", "1.", "-1.", "0.", ".1", "-.1", ".", "1.e1",
    "1e", "1E", "1e+", "1e-", "0e", "0e+", "1.5e", "1e1.5", "1e 1", "1 .5", "- 1", "1 2", "1,",
    "--1", "-+1", "1-", "1+1", "1e1e1", "1.2.3", "0x1", "0X1F", "0b1", "0o7", "1_000", "1a", "1L",
    "1f", "-a", "-x1", "NaN", "-NaN", "nan", "Inf", "Infinity", "-Infinity", "+Infinity",
    "infinity", "1/2", "1e+-1", "１", "1\0", "0 1", "123.a", "9.e+", "0.3e", "0.3e+", "-2.",
    "2.e3", "2.e-3", "-012", "1eE2", "0.1.2", "1.8011670033376514H",
    -- words
    "tru", "truth", "True", "TRUE", "fals", "False", "FALSE", "nul", "nulll", "Null", "NULL", "nil",
    "None", "undefined", "t", "f", "n", "truefalse", "true false", "null1", "true,", "yes",
    -- strings
    '"', '"a', 'a"', "a", "'a'", "''", "`a`", '"a"b', '"a""b"', '"a" "b"', [["\"]], [["\x41"]],
    [["\a"]], [["\v"]], [["\0"]], [["\1"]], [["\'"]], [["\e"]], [["\ "]], [["\U0041"]], [["\u"]],
    [["\u0"]], [["\u00"]], [["\u004"]], [["\u004g"]], [["\u00g1"]], [["\ug041"]], [["\u 041"]],
    [["\u+041"]], [["\u-041"]], [["\u0x41"]], [["\u{41}"]], [["\ud800\u"]], [["\ud800\u1"]],
    [["\ud800\x"]], [["\\\"]], '"\\\n"', '"\\\0"', '"\\\195\169"', '"\\é"', "\\\"a\\\"", "“a”",
    '"a\\', '"\0"', '"\1"', '"\t"', '"\n"', '"\r"', '"\31"', '"a\0b"', '"a\nb"', '"a\tb"',
    -- bytes that are no UTF-8
    '"\128"', '"\191"', '"\192\128"', '"\192\175"', '"\193\191"', '"\194"', '"\194a"', '"\194\194"',
    '"\223\192"', '"\224\128\128"', '"\224\159\191"', '"\224\160"', '"\225\128"', '"\225\128a"',
    '"\236\128\192"', '"\237\160\128"', '"\237\191\191"', '"\237\160\189\237\184\128"',
    '"\239\191"', '"\240\128\128\128"', '"\240\143\191\191"', '"\240\144\128"', '"\241\128\128a"',
    '"\244\144\128\128"', '"\245\128\128\128"', '"\247\191\191\191"', '"\248\136\128\128\128"',
    '"\252\132\128\128\128\128"', '"\254"', '"\255"', '"\255\254"', '"\195\169\169"', '"a\233b"',
    "\239\187\1911", "\194\160", "1\194\160",
    -- arrays and objects
    "[", "]", "[1", "1]", "[,", "[,]", "[,1]", "[1,]", "[1,,2]", "[1 2]", "[1;2]", "[1:2]", "[1]]",
    "[[1]", "[}", "{]", "[1}", '{"a":1]', "[true false]", "['a']", "[a]", "[1,2", "[\"a\"", "[\"a",
    "[-]", "[01]", "{", "}", "{,}", "{1}", '{"a"}', '{"a":}', '{"a":1', '{"a":1,', '{"a":1,}',
    '{,"a":1}', '{"a":1,,"b":2}', '{"a" 1}', '{"a"=1}', '{"a"::1}', '{"a":1 "b":2}',
    '{"a":1;"b":2}', "{a:1}", "{'a':1}", "{1:1}", "{null:1}", "{[]:1}", '{"a":1}}', '{"a":{}',
    '{"a":[}', '{"a","b"}', '{"a":"b":"c"}', "{:1}", '{"a":1,"b"}', '{"\1":1}', '{"\255":1}',
    [[{"\x":1}]],
    -- what other languages would take
    "1//", "1/**/", "/**/1", "//\n1", "#\n1", "1#", "<!--1-->", "\v1", "\f1", "1\v", "1\f", "\0",
    "\1272", "\\n", "*", "&a", "@", "(1)", "new Date()", "a.b", "$", "...",
}

--- Texts that are not one object, whatever is in it.
local NO_BODIES = {
    "", " ", "\n", "\0", "1", "null", "true", '"model"', "[]", '[{"model":"a"}]', "{", "}", "{}}",
    "}{", "{} {}", "{}{}", '{"model":"a"}{"model":"b"}', '{"model":"a"}\n{"model":"b"}', "{}x",
    "{},", "{};", "{}\0", "{}#", "{}//", "{}/**/", "{} 1", "{}null", "{}[]", "{}\v", "{}\f",
    "{}\194\160", "{}\239\187\191", "\239\187\191{}", "\254\255\0{\0}", "\255\254{\0}\0", "{\0}\0",
    "\0{\0}", "\0\0\0{\0\0\0}", "{\0\0\0}\0\0\0", "\255\254\0\0{\0\0\0}\0\0\0",
    "\0\0\254\255\0\0\0{\0\0\0}", "\194\160{}", "\0{}", "\v{}", "\f{}", "x{}", "/**/{}", "//\n{}",
    ")]}',\n{}", "a({})", "({})", "data: {}", "\30{}", "'{}'", '"{}"', "---\nmodel: a", "model=a",
    "<model/>",
}

describe("scan", function()
    it("has enough texts to judge", function()
        assert.is_true(#VALUES >= 80 and #NO_VALUES + #NO_BODIES >= 150)
    end)

    for index, value in ipairs(VALUES) do
        it(("accepts value %d: %s"):format(index, shown(value)), function()
            for _, form in ipairs({ '{"a":%s}', '{"a":%s,"b":1}', '{"b":1,"a":%s}', '{"a":[%s]}',
                '{"a":[1,%s,2]}', '{"a":{"b":%s}}', '{"a":{"b":%s,"c":[]}}', ' {"a" : %s } ' }) do
                accepts((form:gsub("%%s", function() return value end)))
            end
        end)
    end

    for index, value in ipairs(NO_VALUES) do
        it(("refuses value %d: %s"):format(index, shown(value)), function() -- B3, B7, B11
            for _, form in ipairs({ '{"a":%s}', '{"a":%s,"b":1}', '{"b":1,"a":%s}', '{"a":[[%s]]}',
                '{"a":[1,%s,2]}', '{"a":{"b":%s}}' }) do
                local text = form:gsub("%%s", function() return value end)
                if not (value == "" and form:find("[[%s]]", 1, true)) then
                    refuses(text)
                end
            end
        end)
    end

    for index, text in ipairs(NO_BODIES) do
        it(("refuses body %d: %s"):format(index, shown(text)), function() -- B7
            refuses(text)
        end)
    end

    it("accepts of all bodies of up to 3 bytes those that are {} alone", function() -- B7, B11
        local BYTES = { "{", "}", '"', "\\", "[", "]", ":", ",", "0", "t", "-", " ", "\n", "\0",
            "\127", "\128", "\195", "\239", "\187", "\191", "\255" }
        local GOOD = { ["{}"] = true, ["{ }"] = true, ["{\n}"] = true, [" {}"] = true,
            ["\n{}"] = true, ["{} "] = true, ["{}\n"] = true }
        local function judge(text)
            assert.equal(GOOD[text] and "none" or "invalid_json", fault_of(text), shown(text))
            for _, last in ipairs(#text < 3 and BYTES or {}) do
                judge(text .. last)
            end
        end
        judge("")
    end)

    it("refuses every beginning of a good body, and every byte more behind it", function() -- B7
        local text = [[ {"model":"a\u00e9\ud83d\ude00é人😀","b":[1,-0.5e+3,{"c":null}],"d":true}]]
        accepts(text)
        for length = 0, #text - 1 do
            refuses(text:sub(1, length))
        end
        for value = 0, 255 do
            local more = string.char(value)
            local is_space = more:find("[ \t\n\r]") ~= nil
            assert.equal(is_space and "none" or "invalid_json", fault_of(text .. more))
        end
    end)

    it("takes the four characters of JSON's space anywhere between, and no other", function()
        local form = "S{S\"model\"S:S[SfalseS,S{S\"a\"S:SnullS}S]S,S\"b\"S:StrueS}S"
        for value = 0, 255 do
            local character = string.char(value)
            local expected = character:find("[ \t\n\r]") and "none" or "invalid_json"
            for place = 1, 18 do
                local count = 0
                local text = form:gsub("S", function()
                    count = count + 1
                    return count == place and character or ""
                end)
                assert.equal(18, count)
                assert.equal(expected, fault_of(text), shown(text))
            end
        end
    end)

    it("allows 128 levels and refuses 129, 1,000 and 100,000", function() -- B12
        local function nested(levels, open, close)
            return '{"a":' .. open:rep(levels - 1) .. "1" .. close:rep(levels - 1) .. "}"
        end
        for _, pair in ipairs({ { "[", "]" }, { '{"b":', "}" } }) do
            for _, levels in ipairs({ 2, 127, 128 }) do
                accepts(nested(levels, pair[1], pair[2]))
            end
            for _, levels in ipairs({ 129, 130, 1000, 1001, 100000 }) do
                refuses(nested(levels, pair[1], pair[2]))
            end
        end
        accepts('{"a":[' .. ("[[]],"):rep(5000) .. "1]}")
    end)

    it("closes what it opened, at every depth, in any mixture", function()
        math.randomseed(7)
        for _ = 1, 500 do
            local opened, closed = {}, {}
            for level = 1, math.random(1, 120) do
                local is_array = math.random(2) == 1
                opened[level] = is_array and "[" or '{"b":'
                table.insert(closed, 1, is_array and "]" or "}")
            end
            local text = '{"a":' .. table.concat(opened) .. "0"
            accepts(text .. table.concat(closed) .. "}")
            local place = math.random(#closed)
            closed[place] = closed[place] == "]" and "}" or "]"
            refuses(text .. table.concat(closed) .. "}")
        end
    end)

    it("allows 1,000 names at the top and refuses 1,001 and 100,000", function() -- B12
        local function with(count)
            local members = {}
            for index = 1, count do
                members[index] = ('"n%d":%d'):format(index, index)
            end
            return "{" .. table.concat(members, ",") .. "}"
        end
        accepts(with(1000))
        refuses(with(1001))
        refuses(with(100000))
        accepts('{"a":' .. with(5000) .. "}")
    end)

    it("refuses a name at the top that is longer than a kilobyte", function() -- B12
        accepts('{"' .. ("n"):rep(1024) .. '":1}')
        refuses('{"' .. ("n"):rep(1025) .. '":1}')
        accepts('{"a":{"' .. ("n"):rep(5000) .. '":1}}')
    end)
end)

describe("scan, of names", function()
    -- B1
    local MODEL_TWICE = {
        '{"model":"ok","model":"bad"}',
        '{"model":"ok","model":"ok"}',
        '{"model":"ok","a":1,"model":null}',
        '{"model":"ok","Model":"bad"}',
        [[{"model":"ok","mod\u0065l":"bad"}]],
        [[{"mod\u0065l":"ok","model":"bad"}]],
        [[{"\u006dodel":"ok","m\u006Fdel":"bad"}]],
    }
    for _, text in ipairs(MODEL_TWICE) do
        it("calls a model that is named again a duplicate: " .. shown(text), function()
            assert.equal("ambiguous_body", fault_of(text))
        end)
    end

    local TWICE = {
        '{"a":1,"a":2}',
        '{"":1,"":2}',
        [[{"a\/b":1,"a/b":2}]],
        [[{"a\"b":1,"a\u0022b":2}]],
        [[{"é":1,"\u00e9":2}]],
        [[{"😀":1,"\ud83d\ude00":2}]],
        [[{"\u0001":1,"\u0001":2}]],
        '{"stream":true,"stream":false}',
    }
    for _, text in ipairs(TWICE) do
        it("refuses another name that is there twice: " .. shown(text), function()
            assert.equal("json_name_twice", fault_of(text))
        end)
    end

    it("allows names that only look alike to people", function()
        accepts('{"a":1,"A":2}')
        accepts('{"model":"x","modeI":1,"model ":2,"models":3,"mоdel":4}')
        accepts([[{"a":1,"\\u0061":2}]])
        accepts('{"é":1,"e\204\129":2}')
    end)

    local POLICY_NAMES = {
        "model", "name", "stream", "stream_options", "source", "destination", "from", "adapters",
        "lora", "backend", "model_base_name", "model_id", "lora_name", "lora_path", "adapter",
        "lora_adapter", "lora_adapters",
    }

    --- Each way to write a name that folds to the same, by one letter.
    local function variants(name)
        local list = { name:upper(), name:sub(1, 1):upper() .. name:sub(2) }
        for place = 1, #name do
            local before, letter, behind = name:sub(1, place - 1), name:sub(place, place),
                name:sub(place + 1)
            if letter ~= "_" then
                list[#list + 1] = before .. letter:upper() .. behind
                list[#list + 1] = ("%s\\u%04X%s"):format(before, letter:upper():byte(), behind)
            end
            if letter == "s" then
                list[#list + 1] = before .. LONG_S .. behind
                list[#list + 1] = before .. "\\u017f" .. behind
            elseif letter == "k" then
                list[#list + 1] = before .. KELVIN .. behind
                list[#list + 1] = before .. "\\u212A" .. behind
            end
        end
        return list
    end

    for _, name in ipairs(POLICY_NAMES) do
        it("refuses what folds to a policy name without being it: " .. name, function() -- B2
            accepts(('{"%s":"x"}'):format(name))
            for _, variant in ipairs(variants(name)) do
                assert.equal("json_name_near", fault_of(('{"%s":"x"}'):format(variant)),
                    shown(variant))
                assert.equal(name == "model" and "ambiguous_body" or "json_name_near",
                    fault_of(('{"model":"ok","a":1,"%s":null}'):format(variant)), shown(variant))
            end
        end)
    end

    it("folds both of Unicode's strange letters, s and k, in one name", function() -- B2
        assert.equal("json_name_near", fault_of('{"' .. LONG_S .. "ource\":1}"))
        assert.equal("json_name_near",
            fault_of('{"' .. LONG_S .. 'TREAM_OPTION' .. LONG_S .. '":1}'))
        assert.equal("json_name_near", fault_of('{"bac' .. KELVIN .. 'end":1}'))
        accepts('{"' .. KELVIN .. LONG_S .. '":1}')
    end)

    it("judges the names of the top alone", function()
        accepts('{"messages":[{"model":"a","MODEL":"b","model":"c"}],"model":"x"}')
    end)

    for _, half in ipairs({ "\\ud800", "\\udfff", "\\ud800\\ud800", "\\udc00\\ud800",
        "a\\udbffb" }) do
        it("refuses half a surrogate pair in a name: " .. half, function() -- B3
            refuses(('{"%s":1}'):format(half))
            refuses(('{"model":"x","mod%sel":1}'):format(half))
        end)
    end

    it("refuses a name with NUL, where a C string would end", function() -- B3
        refuses([[{"model":"x","model\u0000":"y"}]])
        refuses([[{"\u0000":1}]])
        accepts([[{"a":{"b\u0000":1}}]])
    end)
end)

describe("scan, of values", function()
    local function model_of(value)
        local found = assert(scan('{"a":1,"model": ' .. value .. ' ,"b":[{}]}'))
        return found.model
    end

    local TEXTS = {
        ['"llama3"'] = "llama3",
        ['"a"'] = "a",
        [ [["library\/llama3"]] ] = "library/llama3",
        [ [["\u006clama3"]] ] = "llama3",
        [ [["\u00e9\u20ac\ud83d\ude00"]] ] = "é€😀",
        [ [["\uD800\uDC00\udbff\udfff"]] ] = "\240\144\128\128\244\143\191\191",
        [ [["\ud7ff\ue000\uffff"]] ] = "\237\159\191\238\128\128\239\191\191",
        [ [["\\u0041"]] ] = "\\u0041",
        [ [["\\\\u0041\u0041"]] ] = "\\\\u0041A",
        [ [["a\"b\\c"]] ] = 'a"b\\c',
        ['"é"'] = "é",
        ['" x "'] = " x ",
        [ '"' .. ("m"):rep(1024) .. '"' ] = ("m"):rep(1024),
    }
    for value, expected in pairs(TEXTS) do
        it("answers the decoded model of " .. shown(value), function() -- B3
            assert.equal(expected, model_of(value))
        end)
    end

    local NO_TEXTS = {
        "null", '""', "[]", "{}", "1", "0", "true", "false", '["llama3"]', '{"model":"llama3"}',
        "-1.5e3", [["a\u0000"]], [["\u0000"]], [["\n"]], [["a\tb"]], [["\u001f"]], [["\u007f"]],
        '"a\127"', [["\ud800"]], [["a\udc00b"]], [["\udc00\ud800"]], '"' .. ("m"):rep(1025) .. '"',
    }
    for _, value in ipairs(NO_TEXTS) do
        it("answers false for a model of " .. shown(value), function() -- B4
            assert.is_false(model_of(value))
        end)
    end

    it("answers nil for a model that is missing, and the same of a name", function() -- B4
        assert.same({ brace = 0, is_empty = true }, scan("{}"))
        assert.is_nil(scan('{"models":"x","messages":[{"model":"y","name":"z"}]}').model)
        assert.equal("y", scan('{"name":"y"}').name)
        assert.is_false(scan('{"name":7}').name)
    end)

    it("tells what is void, which Ollama leaves out, from what is wrong", function() -- B5
        assert.same({ model = true }, scan('{"model":"","name":"a"}').is_void)
        assert.same({ model = true, name = true }, scan('{"model":null,"name":""}').is_void)
        assert.is_nil(scan('{"model":1,"name":" "}').is_void)
    end)

    it("answers true for the literal true as stream, false for all else, nil for none", function()
        for _, case in ipairs({ { "true", true }, { "false", false }, { "null", false },
            { '"true"', false }, { "1", false }, { "[true]", false }, { '"t"', false } }) do
            assert.equal(case[2], scan('{"stream":' .. case[1] .. "}").stream)
            assert.equal(case[2], scan('{"stream" :\t' .. case[1] .. '\n,"a":1}').stream)
        end
        assert.is_nil(scan('{"a":true}').stream)
    end)

    it("answers the bytes of stream_options, without the space around them", function()
        for _, value in ipairs({ '{"include_usage":true}', "{}", "{ }", "null", "true", "17",
            "-1.5e+2", "[[1]]", '""', '"a\\"b"', '{"a":{"b":[]}}' }) do
            for _, space in ipairs({ "", " ", "\n\t  " }) do
                for _, behind in ipairs({ "}", ',"a":1}' }) do
                    local text = '{"stream_options":' .. space .. value .. space .. behind
                    local range = scan(text).stream_options
                    assert.equal(value, text:sub(range.from + 1, range.to))
                    assert.equal(value, range.text)
                end
            end
        end
        assert.is_nil(scan('{"a":{"stream_options":{}}}').stream_options)
        local long = '"' .. ("x"):rep(4095) .. '"'
        assert.is_nil(scan('{"stream_options":' .. long .. "}").stream_options.text)
    end)

    it("answers where the object begins", function()
        for spaces = 0, 40 do
            assert.equal(spaces, scan((" "):rep(spaces) .. "{}\n").brace)
        end
    end)

    it("answers what chooses a model beside `model`, unless it is null", function() -- B6
        for _, name in ipairs({ "adapter", "adapters", "lora", "lora_adapter", "lora_adapters",
            "lora_name", "lora_path", "backend", "model_base_name", "model_id", "from", "source",
            "destination" }) do
            for _, value in ipairs({ '"x"', '""', "1", "[]", "{}", "false", "true",
                '[{"id":0,"scale":1}]' }) do
                assert.equal(name, scan(('{"model":"a","%s":%s}'):format(name, value)).second)
            end
            assert.is_nil(scan(('{"model":"a","%s":null}'):format(name)).second)
        end
        assert.equal("lora", scan('{"lora":1,"adapter":null,"backend":2}').second)
        assert.is_nil(scan('{"model":"a","messages":[{"lora":1}]}').second)
    end)
end)

describe("scan, of long bodies", function()
    it("finds the one byte that matters, wherever in a string it is", function()
        local KINDS = {
            { '"', "invalid_json" }, { "\\", "invalid_json" }, { "\31", "invalid_json" },
            { "\0", "invalid_json" }, { "\128", "invalid_json" }, { "\255", "invalid_json" },
            { "\237\160\128", "invalid_json" }, { "\\n", "none" }, { "\\u00e9", "none" }, { "é",
            "none" },
            { "人", "none" }, { "😀", "none" }, { "\127", "none" }, { " ", "none" }, { "!",
            "none" },
            { "#", "none" }, { "[", "none" }, { "]", "none" },
        }
        for _, kind in ipairs(KINDS) do
            for length = 0, 40 do
                for place = 0, length do
                    local text = ("z"):rep(place) .. kind[1] .. ("z"):rep(length - place)
                    assert.equal(kind[2], fault_of('{"a":"' .. text .. '"}'))
                end
            end
            for place = 40, 140 do
                local text = ("z"):rep(place) .. kind[1] .. ("z"):rep(40)
                assert.equal(kind[2], fault_of('{"a":"' .. text .. '"}'))
                assert.equal(kind[2], fault_of('{"' .. text .. '":0}'))
            end
        end
    end)

    it("judges every byte alike in a long string and in a short one", function()
        for value = 0, 255 do
            local character = string.char(value)
            local short = fault_of('{"a":"' .. character .. '"}')
            for place = 100, 133 do
                local text = '{"a":"' .. ("z"):rep(place) .. character .. ("z"):rep(50) .. '"}'
                assert.equal(character == "\\" and "invalid_json" or short, fault_of(text))
            end
        end
    end)

    local BODY = [[{"model":"a\u00e9é😀","b":[1.5e+10,true,{"c":"x\\\"y"}],]]
        .. '"stream":true,"stream_options":{ }}'
    local EXPECTED = scan(BODY)

    it("answers the same wherever it pauses, while another body is scanned meanwhile", function()
        for before = 0, #BODY do
            local pauses = 0
            local body = (" "):rep(PAUSE - before) .. BODY
            local found = scan(body, function()
                pauses = pauses + 1
                assert.equal("other", scan('{"a":[[{"b":1}]],"model":"other"}').model)
                assert.equal("json_name_twice", fault_of('{"a":1,"a":2}'))
                refuses('{"a":[[[[[')
            end)
            assert.equal(before < #BODY and 1 or (before == #BODY and 0), pauses)
            assert.equal("aéé😀", found.model)
            assert.is_true(found.stream)
            assert.equal(EXPECTED.stream_options.from + PAUSE - before, found.stream_options.from)
            assert.equal(EXPECTED.stream_options.to + PAUSE - before, found.stream_options.to)
        end
    end)

    it("finds a fault wherever it pauses", function()
        for before = -3, 3 do
            for _, text in ipairs({ '"\255"}', '"\0"}', "01}", "tru}", '"a\\x"}', "[}", "1}}" }) do
                refuses('{"a":' .. (" "):rep(PAUSE - 5 + before) .. text)
            end
        end
    end)

    it("pauses every 256 KiB, whatever the bytes are", function()
        local most = 5 * PAUSE
        local FORMS = {
            spaces = (" "):rep(most) .. "{}",
            ["a string"] = '{"a":"' .. ("z"):rep(most) .. '"}',
            ["a number"] = '{"a":' .. ("7"):rep(most) .. "}",
            ["short strings"] = '{"a":[' .. ('"abc",'):rep(most / 6) .. "0]}",
            ["another alphabet"] = '{"a":"' .. ("жё"):rep(most / 4) .. '"}',
        }
        for what, text in pairs(FORMS) do
            local pauses = 0
            assert.is_table(scan(text, function() pauses = pauses + 1 end), what)
            assert.is_true(pauses == 5 or pauses == 4, what)
        end
    end)

    it("needs no pause", function()
        accepts('{"a":"' .. ("z"):rep(3 * PAUSE) .. '"}')
    end)

    it("judges 20 MiB as it judges a line", function() -- B12
        local text = '{"a":"' .. ("z"):rep(20 * 1024 * 1024) .. '","model":"x"}'
        assert.equal("x", scan(text).model)
        refuses(text .. "}")
    end)

    it("never reads behind the body", function()
        local PAGE, WRITABLE, PRIVATE_ANONYMOUS = 65536, 3, 0x22
        local pages = ffi.cast("unsigned char *",
            ffi.C.mmap(nil, 2 * PAGE, WRITABLE, PRIVATE_ANONYMOUS, -1, 0))
        assert.equal(0, ffi.C.mprotect(pages + PAGE, PAGE, 0))
        for _, kind in ipairs({ "z", "é", "人", "😀", "\\n", "\\r", "\\\\", "\\u00e9" }) do
            local text = '{"model":"' .. kind:rep(200) .. '","a":[1]}'
            for length = 0, #text do
                local start = pages + PAGE - length
                ffi.copy(start, text, length)
                local found = json_body.scan(start, length)
                assert.equal(length == #text, found ~= nil)
            end
        end
    end)
end)

---------
-- Against another reader.

local function random_text(kinds)
    local parts = {}
    for place = 1, math.random(0, 12) do
        parts[place] = kinds[math.random(#kinds)]
    end
    return '"' .. table.concat(parts) .. '"'
end

local TEXT_PARTS = {
    "a", "model", "é", "人", "😀", "\\n", '\\"', "\\\\", "\\u00e9", "\\ud83d\\ude00", " ", "/",
    "\\/", "the quick brown fox jumps over ", "{", "]" } local NAME_PARTS = { "a", "b", "c", "d",
    "é", "_", "x1", "\\u0062" } local NUMBERS = { "0", "-0", "1", "-17", "3.25", "1e5", "1E-3",
    "-2.5e+2", "1234567890123" } local WORDS = { "true", "false", "null",
}

local function random_value(depth)
    local kind = math.random(depth > 4 and 3 or 5)
    if kind == 1 then
        return NUMBERS[math.random(#NUMBERS)]
    elseif kind == 2 then
        return WORDS[math.random(#WORDS)]
    elseif kind == 3 then
        return random_text(TEXT_PARTS)
    end
    local parts = {}
    for place = 1, math.random(0, 4) do
        local value = random_value(depth + 1)
        parts[place] = kind == 4 and value or random_text(NAME_PARTS) .. ":" .. value
    end
    local space = ({ "", " ", "\n" })[math.random(3)]
    local inner = table.concat(parts, "," .. space)
    return kind == 4 and "[" .. inner .. "]" or "{" .. space .. inner .. space .. "}"
end

local function random_body()
    local members = {}
    for index = 1, math.random(0, 5) do
        members[index] = ('"k%d%s:%s'):format(index, random_text(NAME_PARTS):sub(2),
        random_value(1))
    end
    table.insert(members, math.random(#members + 1), '"model":' .. random_text(TEXT_PARTS))
    return "{" .. table.concat(members, ",") .. "}"
end

local function is_utf8(text)
    local at = 1
    while at <= #text do
        local _, stop = text:find("^[%z\1-\127]+", at)
        for _, form in ipairs({ "^[\194-\223][\128-\191]", "^\224[\160-\191][\128-\191]",
            "^[\225-\236\238\239][\128-\191][\128-\191]", "^\237[\128-\159][\128-\191]",
            "^\240[\144-\191][\128-\191][\128-\191]",
            "^[\241-\243][\128-\191][\128-\191][\128-\191]",
            "^\244[\128-\143][\128-\191][\128-\191]" }) do
            stop = stop or select(2, text:find(form, at))
        end
        if not stop then
            return false
        end
        at = stop + 1
    end
    return true
end

local function without_strings(text)
    return (text:gsub("\\.", ""):gsub('"[^"]*"', '""'))
end

--- Why cjson takes what is no JSON (threats B11): it reads numbers with strtod, knows no UTF-8, and
--- takes control characters in strings.
local function is_known_lenience(text)
    local bare = without_strings(text):lower()
    return not is_utf8(text)
        or text:find("[%z\1-\9\11-\31]") ~= nil
        or text:find('"[^"]*\n[^"]*"') ~= nil
        or bare:find("%f[%w.]0%d") ~= nil
        or bare:find("0x") ~= nil
        or bare:find("%.%f[^%d.]") ~= nil or bare:find("%f[%w.]%.%d") ~= nil
        or bare:find("nan") ~= nil or bare:find("inf") ~= nil
        or bare:find("%+%d") ~= nil
end

--- cjson refuses half a surrogate pair, which RFC 8259 section 8.2 leaves open.
local function has_half_pair(text)
    local escapes = text:lower():gsub("\\\\", "")
    return escapes:gsub("\\ud[89ab]%x%x\\ud[c-f]%x%x", ""):find("\\ud[89a-f]") ~= nil
end

local function mutated(text)
    local place, byte = math.random(#text), string.char(math.random(0, 255))
    local kind = math.random(4)
    if kind == 1 then
        return text:sub(1, place - 1) .. text:sub(place + 1)
    elseif kind == 2 then
        return text:sub(1, place - 1) .. byte .. text:sub(place)
    elseif kind == 3 then
        local marks = '{}[]:,"\\0123456789.eE+-tfn \t\n'
        local mark = math.random(#marks)
        return text:sub(1, place - 1) .. marks:sub(mark, mark) .. text:sub(place + 1)
    end
    return text:sub(1, place - 1) .. byte .. text:sub(place + 1)
end

it("says where the values stand that may be replaced", function()
    for _, value in ipairs({ '""', '"a"', [["\u0061\/b"]], "null", "12", "[1]" }) do
        for _, form in ipairs({ '{"model":%s}', ' { "a":1,"model"  :  %s  ,"b":{}} ' }) do
            local text = form:format(value)
            local found = scan(text)
            assert.equal(value, text:sub(found.model_from + 1, found.model_to))
            assert.is_nil(found.name_from)
        end
    end
    local text = '{"name":"a","x":{"name":"c"},"model":"b"}'
    local found = scan(text)
    assert.equal('"a"', text:sub(found.name_from + 1, found.name_to))
    assert.equal('"b"', text:sub(found.model_from + 1, found.model_to))
end)

describe("scan, against cjson", function()
    it("accepts 2,000 random bodies and reads the same model from each", function()
        math.randomseed(20261)
        for _ = 1, 2000 do
            local text = random_body()
            local found = scan(text)
            assert.is_table(found, text)
            local theirs = assert(cjson.decode(text)).model
            local is_fit = theirs ~= "" and not theirs:find("[%z\1-\31]")
            assert.equal(is_fit and theirs, found.model, text)
        end
    end)

    it("judges 5,000 mutated bodies alike, but for what cjson is known to take", function()
        math.randomseed(20262)
        local both = { [true] = 0, [false] = 0 }
        for _ = 1, 5000 do
            local text = mutated(random_body())
            local theirs = cjson.decode(text)
            local fault = fault_of(text)
            local ours = fault ~= "invalid_json"
            if ours ~= (theirs ~= nil) then
                assert.is_true(ours and has_half_pair(text) or not ours and is_known_lenience(text),
                    ("%s: %q"):format(fault, text))
            else
                both[ours] = both[ours] + 1
            end
        end
        assert.is_true(both[true] > 1000 and both[false] > 1000)
    end)

    it("refuses some of what cjson takes, so the list of differences is not empty", function()
        for _, value in ipairs({ "NaN", "01", "0x10", '"\n"', '"\255"' }) do
            assert.is_table(cjson.decode('{"a":' .. value .. "}"), value)
            refuses('{"a":' .. value .. "}")
        end
    end)
end)

--- The same scan, which goes byte by byte.
local function scan_without_leaps()
    local text, body = "portero.request.json_text", "portero.request.json_body"
    local loaded = { package.loaded[text], package.loaded[body] }
    package.loaded[text] = { leap = function(_, at) return at end }
    package.loaded[body] = nil
    local plain = require(body)
    package.loaded[text], package.loaded[body] = unpack(loaded)
    return plain.scan
end

it("scans 5,000 long bodies, mutated, as it does without a leap", function() -- B11
    math.randomseed(20265)
    local plain_scan = scan_without_leaps()
    local good = 0
    for _ = 1, 5000 do
        local parts = {}
        for place = 1, math.random(2, 60) do
            parts[place] = TEXT_PARTS[math.random(#TEXT_PARTS)]
        end
        local text = random_body():gsub("}$", ',"t":"' .. table.concat(parts):gsub("%%", "%%%%")
            .. '","stream":true}')
        text = math.random(3) > 1 and mutated(text) or text
        local found, code = scan(text)
        local plain_found, plain_code = with_bytes(text, plain_scan)
        assert.same({ plain_found or plain_code }, { found or code }, text)
        good = good + (found and 1 or 0)
    end
    assert.is_true(good > 1500 and good < 4500)
end)

describe("is_model", function()
    for _, name in ipairs({ "a", "a b", [[C:\models\x.gguf]], 'a"b', "é", "模型:7b", "😀",
        "\237\159\191", "\244\143\191\191", ("m"):rep(1024) }) do
        it("takes " .. shown(name), function()
            assert.is_true(json_body.is_model(name))
        end)
    end

    for _, name in ipairs({ "", "a\0", "a\nb", "\127", "\9", ("m"):rep(1025), "\128", "\195",
        "\195\195\169", "\192\175", "\224\159\191", "\237\160\128", "\240\143\191\191",
        "\244\144\128\128", "\245\128\128\128", "\226\195\169\130\172", "a\255" }) do
        it("refuses " .. shown(name), function()
            assert.is_false(json_body.is_model(name))
        end)
    end
end)

describe("is_json", function()
    for _, value in ipairs({ "application/json", "Application/JSON",
        "application/json; charset=utf-8", "application/json;charset=UTF-8",
        'application/json; charset="utf-8"', "application/json ;\tcharset=utf-8",
        "application/json;", "application/json; charset=utf-8;", "application/json; boundary=a",
        'application/json; odata.metadata=minimal; Charset = "UTF8"' }) do
        it("takes " .. value, function()
            assert.is_true(json_body.is_json(value))
        end)
    end

    -- B9
    for _, value in ipairs({ "", "text/plain", "application/jsonx", "application/json-seq",
        "application/x-json", "application/ld+json", "text/json", "application/json;;",
        "application/json; charset=utf-16", "application/json; charset=utf-8; charset=utf-16",
        "json", "application/json, text/plain", " application/json", "*/*",
        "application/json; charset=utf-8x", "application/json; charset",
        "multipart/form-data; boundary=a", "application/x-www-form-urlencoded",
        "application/json\0", "application/json charset=utf-8",
        'application/json; charset="utf-8' .. '"x' }) do
        it("refuses " .. shown(value), function()
            assert.is_false((json_body.is_json(value)))
        end)
    end

    it("says that it was the charset", function()
        assert.same({ false, "json_charset" },
            { json_body.is_json("application/json; charset=utf-16") })
        assert.same({ false, "unsupported_media_type" },
            { json_body.is_json("text/plain; charset=utf-16") })
    end)

    it("refuses a type that is not told", function() -- B9
        assert.is_false(json_body.is_json(nil))
    end)
end)

it("words are loaded from any place alike", function()
    -- The leap reads words of four bytes at any offset: it must find the same at each.
    local text = ("z"):rep(64) .. "\31" .. ("z"):rep(64)
    for offset = 0, 7 do
        local buffer = ffi.new("unsigned char[?]", 512)
        local body = '{"a":"' .. text .. '"}'
        ffi.copy(buffer + offset, body, #body)
        local found, reason = json_body.scan(buffer + offset, #body)
        assert.is_nil(found)
        assert.equal("invalid_json", reason)
        buffer[offset + 70] = bit.bor(buffer[offset + 70], 0x20)
        assert.is_table(json_body.scan(buffer + offset, #body))
    end
end)

describe("scan, of what is watched", function()
    local node = json_body.node
    local told

    local function tell(name)
        return function(_, text) told[#told + 1] = name .. "=" .. tostring(text) end
    end

    local PART = { members = { url = node({ text = tell("url") }), kind = node({}) } }
    PART.members.content, PART.items = PART, PART
    node(PART)
    local WATCH = {
        nodes = { messages = PART, only_items = node({ items = node({ text = tell("item") }) }) },
        fields = {
            flag = function(_, name, bytes, from, to, name_from)
                told[#told + 1] = name .. "=" .. ffi.string(bytes + from, to - from)
                    .. "@" .. name_from
            end,
        },
    }

    --- What was told of a text, or the reason.
    local function watched(text, pause)
        told = {}
        local found, reason = with_bytes(text, json_body.scan, pause, WATCH)
        return found and table.concat(told, " ") or reason
    end

    local CASES = {
        ['{"messages":[{"url":"a"},{"content":[{"url":"b"}]},[[{"url":"c"}]]]}'] =
            "url=a url=b url=c",
        ['{"messages":{"url":"a","content":{"content":{"url":"b"},"url":"c"}}}'] =
            "url=a url=b url=c",
        -- What is not on a path is not looked at, however it looks.
        ['{"url":"x","a":{"url":"x","messages":[{"url":"x"}]},"messages":[{"a":{"url":"x"}}]}'] =
            "",
        ['{"messages":[{"kind":{"url":"x"}},{"a":[{"url":"x"}],"b":"{\\"url\\":1}"}]}'] = "",
        ['{"messages":"url","a":["messages",{"url":"x"}]}'] = "",
        ['{"messages":[{"url":1},{"url":null},{"url":true},{"url":[]},{"url":{}},"url",1.5,[]]}'] =
            "",
        ['{"messages":[{"url":["x"]},{"url":{"url":"x"}}]}'] = "",
        ['{"only_items":["a","",[],{"url":"x"},2,"b"]}'] = "item=a item= item=b",
        ['{"only_items":{"url":"x"}}'] = "",
        -- Beside others, in any order and with blanks everywhere.
        [' { "messages" : [ { "a" : 1 , "url" : "a" , "b" : [ ] } , { } ] , "c" : 2 } '] = "url=a",
        ['{"messages":[{"b":-1.5e3,"c":true,"d":null,"e":"x","url":"a"}]}'] = "url=a",
        -- Names are judged decoded.
        ['{"messages":[{"\\u0075r\\u006C":"a"}]}'] = "url=a",
        ['{"messages":[{"Url":"a"}]}'] = "json_name_near",
        ['{"messages":[{"UR\\u004c":"a"}]}'] = "json_name_near",
        ['{"messages":[{"\226\132\170ind":"a"}]}'] = "json_name_near",
        ['{"messages":[{"url\\u0000":"a"}]}'] = "invalid_json",
        ['{"messages":[{"\\ud800":"a"}]}'] = "invalid_json",
        ['{"messages":[{"a":1,"a":2,"A":3}]}'] = "",
        ['{"messages":[{"url":"a","url":"b"}]}'] = "json_name_twice",
        ['{"messages":[{"url":"a","x":{},"\\u0075rl":"b"}]}'] = "json_name_twice",
        ['{"messages":[{"url":"a"},{"url":"b"}]}'] = "url=a url=b",
        ['{"Messages":[{"url":"a"}]}'] = "json_name_near",
        ['{"FLAG":1}'] = "json_name_near",
        ['{"flag": [1] ,"a":2}'] = "flag=[1]@1",
        -- What is told of a text is what it stands for.
        ['{"messages":[{"url":"\\u0068ttp:\\/\\/x"}]}'] = "url=http://x",
        ['{"messages":[{"url":"é"}]}'] = "url=é",
        ['{"messages":[{"url":"\\ud800"}]}'] = "url=nil",
    }
    for text, expected in pairs(CASES) do
        it("tells what is on its paths: " .. shown(text), function()
            assert.equal(expected, watched(text))
        end)
    end

    it("tells the beginning of a long text, and cuts no escape", function()
        for length = 80, 110 do
            for _, escape in ipairs({ "\\u0041", "\\n", "\\/", "\\b" }) do
                local text = ("a"):rep(length) .. escape .. ("a"):rep(100)
                local seen = watched('{"messages":[{"url":"' .. text .. '"}]}')
                assert.equal("url=" .. ("a"):rep(80), seen:sub(1, 84))
            end
        end
        assert.equal("url=" .. ("a"):rep(96), watched('{"only":1,"messages":[{"url":"'
            .. ("a"):rep(5000000) .. '"}]}'))
    end)

    it("takes a very long name for none that is watched", function()
        for _, name in ipairs({ ("a"):rep(5000), ("\\u0061"):rep(5000), ("é"):rep(5000) }) do
            assert.equal("url=a", watched('{"messages":[{"' .. name .. '":"x","url":"a"}]}'))
        end
    end)

    it("refuses what is no JSON there as anywhere", function() -- B11
        for _, value in ipairs({ "[", "{", "[}", '{"url"}', '{"url":}', '{"url":"a",}', '["\1"]',
            '{"url":01}', '{"url":"\255"}', '{"a\255":1}', '{"a\\x":1}', '{"url" "a"}', "[1,]",
            '[{"url":"a"}{"url":"b"}]', '{"url":tru}', '{,"url":"a"}', "[,1]", '{"url":"a"]' }) do
            assert.equal("invalid_json", watched('{"messages":' .. value .. "}"))
        end
    end)

    it("takes 128 levels, and no more", function() -- B12
        for _, pair in ipairs({ { "[", "]", 1 }, { '{"content":', "}", 1 },
            { '[{"content":', "}]", 2 } }) do
            local levels = math.floor(127 / pair[3])
            local function nested(count)
                local opened, closed = pair[1]:rep(count), pair[2]:rep(count)
                return watched('{"messages":' .. opened .. "1" .. closed .. "}")
            end
            assert.equal("", nested(levels))
            assert.equal("invalid_json", nested(levels + 1))
        end
    end)

    local BODY = '{"messages":[{"url":"a","x":[1,{"url":"n"}]},{"content":[{"url":"b"}]}],'
        .. '"flag":true,"model":"m","only_items":["c"]}'

    it("tells the same wherever it pauses, while another body is scanned meanwhile", function()
        local expected = watched(BODY):gsub("@%d+", "")
        for before = 0, #BODY do
            local seen
            local text = (" "):rep(PAUSE - before) .. BODY
            seen = watched(text, function()
                local mine = told
                watched('{"messages":[{"url":"other"}]}')
                told = mine
            end)
            assert.equal(expected, (seen:gsub("@%d+", "")))
        end
    end)

    it("judges a body as it is judged without a watch, but for the names on its paths", function()
        math.randomseed(20263)
        for _ = 1, 2000 do
            local value = random_value(1):gsub('"a"', '"url"')
            local text = mutated('{"messages":' .. value .. "," .. random_body():sub(2))
            local is_refused = watched(text):find("^[a-z_]+$") ~= nil
            if fault_of(text) ~= "none" then
                assert.is_true(is_refused, text)
            elseif is_refused then
                assert.matches("^json_name_", watched(text))
            end
        end
    end)
end)

describe("is_second", function()
    it("knows the other words on a model, and no others", function()
        for name, is_one in pairs({ lora = true, backend = true, model_id = true, model = false,
            language = false }) do
            assert.equal(is_one, json_body.is_second(name))
        end
    end)
end)

describe("the module", function()
    it("has LuaJIT compile nothing of its loading that the collector is not told of", function()
        local path = package.searchpath("portero.request.json_body", package.path)
        assert.equal(0, open_stores(function()
            -- Loaded again and again, so that its way is hot while it loads.
            for number = 1, 600 do
                if number % 60 == 0 then
                    jit.flush()
                end
                local loaded = assert(loadfile(path))()
                for _ = 1, 3 do
                    with_bytes('{"model":"m","stream":true}', loaded.scan)
                end
            end
        end))
    end)
end)
