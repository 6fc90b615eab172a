---------
-- The multipart form of an upload: threats B1, B2, B4, B6, B7, B9; the B-numbers stand at their
-- cases.

local ffi = require("ffi")
local form_body = require("portero.request.form_body")

local bytes_at = ffi.typeof("const unsigned char *")
local PAUSE = 256 * 1024

--- Calls with the bytes of a text, which must be held: a pointer holds nothing.
local function with_bytes(text, call, ...)
    local first, second = call(ffi.cast(bytes_at, text), #text, ...)
    return first, second, text
end

--- As a test's name: short, and of one line.
local function shown(text)
    return (("%q"):format(text:sub(1, 60)):gsub("[%c\128-\255]", "?"))
end

describe("of_type", function()
    --- The boundary, where it is the same to all.
    local GOOD = {
        ["multipart/form-data; boundary=abc"] = "abc",
        ["multipart/form-data;boundary=abc"] = "abc",
        ['multipart/form-data; boundary="abc"'] = "abc",
        ["multipart/form-data; boundary=----WebKitFormBoundaryA1b2"] = "----WebKitFormBoundaryA1b2",
        ["multipart/form-data; boundary=a'+_.-b"] = "a'+_.-b",
        ['multipart/form-data; boundary="=== a"'] = "=== a",
        ['multipart/form-data; boundary="===1=="'] = "===1==",
        ['multipart/form-data; boundary="a:/?,()="'] = "a:/?,()=",
        ["multipart/form-data; boundary=" .. ("b"):rep(70)] = ("b"):rep(70),
        -- .NET's HttpClient
        ['multipart/form-data; boundary="5b1c5b8e-1f0e-4c1f-9f55-6d2b1f5f9b1d"'] =
            "5b1c5b8e-1f0e-4c1f-9f55-6d2b1f5f9b1d",
        -- Apache HttpClient
        ["multipart/form-data; charset=ISO-8859-1; boundary=a"] = "a",
        ["multipart/form-data; boundary=a; charset=UTF-8"] = "a",
        ['multipart/form-data; boundary=a;charset="utf-8"'] = "a",
        ["multipart/form-data; boundary=a;"] = "a",
        ['multipart/form-data; type="text/xml"; boundary=a; start="<x>"'] = "a",
        ["multipart/form-data; boundary=a; x=y"] = "a",
    }
    for value, boundary in pairs(GOOD) do
        it("reads " .. value, function()
            local form = form_body.of_type(value)
            assert.equal(boundary, form.boundary)
            assert.is_nil(form.other)
            assert.equal(not value:find("8859"), form.is_utf8)
        end)
    end

    --- The boundary, and what who looks for `boundary=` would cut out, or nothing at all.
    local UNUSUAL = {
        ['Multipart/Form-Data; Boundary="abc"'] = { "abc" },
        ["MULTIPART/FORM-DATA; BOUNDARY=abc"] = { "abc" },
        ["multipart/form-data; boundary =a"] = { "a" },
        ["multipart/form-data; boundary= a"] = { "a", " a" },
        ['multipart/form-data; boundary="a" ; x=y'] = { "a", '"a" ' },
        ["multipart/form-data ;\tboundary=\ta"] = { "a", "\ta" },
    }
    for value, expected in pairs(UNUSUAL) do
        it("knows what some make of " .. shown(value), function()
            local form = form_body.of_type(value)
            assert.same(expected, { form.boundary, form.other })
        end)
    end

    -- B6, B9
    for _, value in ipairs({ "multipart/form-data", "multipart/form-data;",
        "multipart/form-data; boundary=", 'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary=a; Boundary=a",
        "multipart/form-data; boundary=a; boundary*=utf-8''b",
        "multipart/form-data; boundary=a; boundary*0=b",
        "multipart/form-data; xboundary=a; boundary=b",
        'multipart/form-data; boundary=a; x="boundary=b"', 'multipart/form-data; boundary="a',
        'multipart/form-data; boundary=a"', 'multipart/form-data; boundary="a"b',
        'multipart/form-data; boundary="a\\"b"', 'multipart/form-data; boundary="a;b"',
        'multipart/form-data; boundary="a\\b"', 'multipart/form-data; boundary=" a"',
        'multipart/form-data; boundary="a "', "multipart/form-data; boundary=a; x=1; x=2",
        "multipart/form-data; boundary=a b", "multipart/form-data; boundary=a,b",
        "multipart/form-data; boundary=a; x", "multipart/form-data, boundary=a",
        "multipart/form-data boundary=a", "multipart/form-data; boundary*=utf-8''a",
        "multipart/form-data; boundary=a\0", "multipart/form-data; boundary=é",
        "multipart/form-data;; boundary=a",
        "multipart/form-data; boundary=" .. ("b"):rep(71) }) do
        it("finds no boundary in " .. shown(value), function()
            local form, reason = form_body.of_type(value)
            assert.is_nil(form)
            assert.equal(
                value:find("-data,", 1, true) and "form_expected" or "form_boundary", reason)
        end)
    end

    for _, value in ipairs({ "", "multipart/mixed; boundary=a", "xmultipart/form-data; boundary=a",
        "application/json", "application/x-www-form-urlencoded", "multipart", "form-data" }) do
        it("calls no form " .. shown(value), function()
            assert.same({ nil, "form_expected" }, { form_body.of_type(value) })
        end)
    end

    it("calls no form what is not told", function()
        assert.same({ nil, "form_expected" }, { form_body.of_type(nil) })
    end)

    it("refuses a charset in which the same bytes are another name", function() -- B9
        for _, charset in ipairs({ "utf-16", "utf-7", "ebcdic", '"UTF-16LE"', "x" }) do
            assert.same({ nil, "form_charset" },
                { form_body.of_type("multipart/form-data; charset=" .. charset .. "; boundary=a") })
        end
    end)
end)

describe("model", function()
    local B = "XyZ"

    local function from(text, pause, form)
        form = form or { boundary = B, is_utf8 = true }
        local name, reason = with_bytes(text, form_body.model, form, pause)
        return name, reason
    end

    local function part(head, content)
        return "--" .. B .. "\r\n" .. head .. "\r\n\r\n" .. content .. "\r\n"
    end

    local function field(name, content)
        return part('Content-Disposition: form-data; name="' .. name .. '"', content)
    end

    local END = "--" .. B .. "--\r\n"
    local FILE = part('Content-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        .. "Content-Type: audio/wav", "RIFF\0\1\2\r\n\r\n--\r\n-- XyZ")
    local MODEL = field("model", "whisper-1")

    it("answers the one model, wherever it stands", function()
        for _, form in ipairs({ MODEL .. END, FILE .. MODEL .. END, MODEL .. FILE .. END,
            FILE .. field("language", "en") .. MODEL .. FILE .. END, MODEL .. END:sub(1, -3) }) do
            assert.equal("whisper-1", from(form))
        end
    end)

    it("says where the model's name begins", function()
        for _, before in ipairs({ "", FILE, "\r\n", "\r\n" .. FILE }) do
            local form = before .. MODEL .. FILE .. END
            local text = ffi.cast(bytes_at, form)
            local name, _, at = form_body.model(text, #form, { boundary = B, is_utf8 = true })
            assert.equal(name, form:sub(at + 1, at + #name))
        end
    end)

    --- As programs write it; tests/unit/test_forms.py has every way at once.
    local HEADS = {
        'content-disposition: form-data; name="model"',
        'CONTENT-DISPOSITION:form-data; name="model"',
        "Content-Disposition: form-data; name=model", -- .NET, Ktor
        "Content-Disposition: form-data;name=model",
        "Content-Disposition: form-data ;\tname = model ;",
        'Content-Disposition: form-data; Name="model"',
        'Content-Disposition: Form-Data; NAME = "model"',
        'Content-Disposition: form-data; x="y"; name="model"; size=9',
        'Content-Disposition: form-data; x="a;b=\\"c"; name="model"',
        'Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model',
        'Content-Disposition: form-data; name="model"\r\nContent-Type: text/plain;charset="UTF-8"',
        'Content-Disposition: form-data; name="model"\r\n'
            .. "content-type: Text/Plain; Charset=US-ASCII",
        'Content-Disposition: form-data; name="model"\r\n' -- Apache HttpClient
            .. "Content-Type: text/plain; charset=ISO-8859-1\r\nContent-Transfer-Encoding: 8bit",
        'Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: binary\r\n'
            .. "Content-Type: text/plain; charset=UTF-8\r\nContent-Length: 9", -- OkHttp, Retrofit
        'Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: 7BIT',
        'MIME-Version: 1.0\r\nContent-Disposition: form-data; name="model"\r\nX-Any:\tthing',
        'Content-Disposition: form-data; name="model"\r\nX: 1\r\nX: 2\r\nContent-ID: <a>',
    }
    for _, head in ipairs(HEADS) do
        it("reads the head " .. shown(head), function()
            assert.equal("whisper-1", from(FILE .. part(head, "whisper-1") .. END))
        end)
    end

    local OTHER_HEADS = {
        'Content-Disposition: form-data; name="file"; filename="name.wav"',
        'Content-Disposition: form-data; filename="é.wav"; name="file"',
        "Content-Disposition: form-data; name=\"file\"; filename=\"a\"; filename*=utf-8''%c3%a9",
        "Content-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.wav", -- .NET
        'Content-Disposition: form-data; name=file; filename="=?utf-8?B?w6kud2F2?="',
        'Content-Disposition: form-data; name="file"; filename="my tape; side 2 = \'b\'.wav"',
        'Content-Disposition: form-data; name="file"; filename="a\\"b\\\\c%22.wav"',
        'Content-Disposition: form-data; name="file"; filename="C:\\tapes\\model.wav"',
        'Content-Disposition: form-data; name="file"; filename=""\r\n'
            .. "Content-Transfer-Encoding: binary",
        'Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64',
        'Content-Disposition: form-data; name="a"\r\nContent-Type: text/plain; charset=utf-16',
        'Content-Disposition: form-data; name="models"',
        'Content-Disposition: form-data; name=""',
        'Content-Disposition: form-data; name="timestamp_granularities[]"',
        'Content-Disposition: form-data; name="x=model"',
        'Content-Disposition: form-data; name="é"',
    }
    for _, head in ipairs(OTHER_HEADS) do
        it("takes another part of the head " .. shown(head), function()
            assert.equal("whisper-1", from(part(head, "other") .. MODEL .. END))
        end)
    end

    it("calls a model missing that is in no part", function() -- B4
        assert.same({ nil, "model_missing" }, { from(FILE .. END) })
        assert.same({ nil, "model_missing" }, { from(field("models", "a") .. END) })
        assert.same({ nil, "model_missing" }, { from("--" .. B .. "--") })
    end)

    it("refuses several, also of the same name", function() -- B1
        assert.same({ nil, "ambiguous_body" }, { from(MODEL .. MODEL .. END) })
        assert.same({ nil, "ambiguous_body" },
            { from(MODEL .. FILE .. field("model", "other") .. END) })
    end)

    -- B2, B6
    local DOUBTFUL = {
        ['Content-Disposition: form-data; name="Model"'] = "form_model_near",
        ["Content-Disposition: form-data; name=MODEL"] = "form_model_near",
        ['Content-Disposition: form-data; name=" model"'] = "form_model_near",
        ['Content-Disposition: form-data; name="model "'] = "form_model_near",
        ['Content-Disposition: form-data; name="mod\\el"'] = "form_model_near",
        ['Content-Disposition: form-data; name="\\"model\\""'] = "form_model_near",
        ['Content-Disposition: form-data; name="model"; filename="a"'] = "form_model_file",
        ['Content-Disposition: form-data; name="model"; FileName=""'] = "form_model_file",
        ["Content-Disposition: form-data; name=\"model\"; filename*=utf-8''a"] = "form_model_file",
        ["Content-Disposition: form-data; filename*0=a; name=model"] = "form_model_file",
        ['Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: base64'] =
            "form_model_encoded",
        ['Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: '
            .. "Quoted-Printable"] = "form_model_encoded",
        ['Content-Disposition: form-data; name="model"\r\n'
            .. "Content-Type: text/plain; charset=utf-16"] = "form_model_kind",
        ['Content-Disposition: form-data; name="model"\r\nContent-Type: application/json'] =
            "form_model_kind",
        ['Content-Disposition: form-data; name="model"\r\nContent-Type: application/octet-stream'] =
            "form_model_kind",
        ['Content-Disposition: form-data; name="model"\r\nContent-Type: text/plain; x'] =
            "form_model_kind",
    }
    for head, reason in pairs(DOUBTFUL) do
        it("refuses what some would take for the model: " .. shown(head), function()
            assert.same({ nil, reason }, { from(part(head, "a") .. END) })
            assert.same({ nil, reason }, { from(MODEL .. part(head, "a") .. END) })
        end)
    end

    -- B6
    local BAD_HEADS = {
        "",
        "Content-Type: text/plain",
        "Content-Disposition: form-data",
        "Content-Disposition: form-data; name=",
        "Content-Disposition: form-data; name=a b",
        "Content-Disposition: form-data; name=<model>",
        "Content-Disposition: form-data; name=mod/el",
        'Content-Disposition: form-data; "name"="model"',
        "Content-Disposition: form-data; name*=utf-8''model",
        "Content-Disposition: form-data; name*0=mod; name*1=el",
        "Content-Disposition: form-data; name=\"a\"; name*=utf-8''model",
        'Content-Disposition: form-data; name="a"; name="model"',
        'Content-Disposition: form-data; name="a"; Name="model"',
        'Content-Disposition: form-data; name="a"; filename="b"; filename="c"',
        'Content-Disposition: form-data; name="a\\"; name=\\"model"',
        'Content-Disposition: form-data; name="a"; filename="x; name=model"',
        'Content-Disposition: form-data; name="a"; filename="x; \\"name\\" = model; y"',
        'Content-Disposition: form-data; name="a"; x="x;NAME*=model"',
        'Content-Disposition: form-data; name="a"; x="x; = name = model; y"',
        'Content-Disposition: form-data; name="model"; x="y;filename=z"',
        'Content-Disposition: form-data; name="model',
        'Content-Disposition: form-data; name="model"x',
        'Content-Disposition: form-data; name="model";;',
        'Content-Disposition: form-data;; name="model"',
        'Content-Disposition: form-data; name="model"; x',
        'Content-Disposition: form-data name="model"',
        'Content-Disposition: attachment; name="model"',
        'Content-Disposition: form-datax; name="model"',
        'Content-Disposition: form-data, name="model"',
        'Content-Disposition : form-data; name="model"',
        ' Content-Disposition: form-data; name="model"',
        'Content-Disposition: form-data;\r\n name="model"',
        'Content-Disposition: form-data;\r\n\tname="model"',
        'Content-Disposition: form-data; name="model"\nX: y',
        'Content-Disposition: form-data; name="mo\rdel"',
        'Content-Disposition: form-data; name="model\0"',
        'Content-Disposition: form-data; name="model\1"',
        'Content-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="model"',
        'Content-Disposition: form-data; name="a"\r\ncontent-disposition: form-data; name="model"',
        'Content-Disposition: form-data; name="a"\r\nContent-Type: a/b\r\nContent-Type: a/b',
        'Content-Disposition: form-data; name="a"\r\nX Y: 1',
        'Content-Disposition: form-data; name="a"\r\n: 1',
        'Content-Disposition: form-data; name="a"\r\n\1',
        'Content-Disposition: form-data; name="a"; filename="' .. ("f"):rep(5000) .. '"',
    }
    for _, head in ipairs(BAD_HEADS) do
        it("refuses the head " .. shown(head), function()
            assert.same({ nil, "form_head" }, { from(part(head, "a") .. END) })
            assert.same({ nil, "form_head" }, { from(MODEL .. part(head, "a") .. END) })
        end)
    end

    it("leaves unread what nobody reads: before the first boundary and behind the last", function()
        local form = FILE .. MODEL .. END:sub(1, -3)
        for _, before in ipairs({ "", "\r\n", "\r\n\r\n", "\n", "This is a form.\r\n" }) do
            for _, behind in ipairs({ "", "\r\n", "\r\nx", " \t\r\nx", " ", "\r\n--Y--" }) do
                assert.equal("whisper-1", from(before .. form .. behind))
            end
        end
    end)

    it("lets what some take for the boundary be nowhere", function()
        local form = { boundary = B, other = " XyZ", is_utf8 = true }
        assert.equal("whisper-1", from(MODEL .. END, nil, form))
        for _, text in ipairs({ "-- XyZ\r\n" .. MODEL .. END, MODEL .. END .. "-- XyZ" }) do
            assert.same({ nil, "form_broken" }, { from(text, nil, form) })
        end
    end)

    -- B7
    local BAD_FORMS = {
        ["nothing"] = "",
        ["a boundary alone"] = "--XyZ",
        ["a boundary and a line end"] = "--XyZ\r\n",
        ["no boundary"] = "model=whisper-1",
        ["bytes before the first boundary"] = "x" .. MODEL .. END,
        ["the boundary before the first boundary"] = "x--XyZ\r\n" .. MODEL .. END,
        ["no last boundary"] = MODEL,
        ["a last boundary cut short"] = MODEL .. "--XyZ-",
        ["bytes behind the last boundary"] = MODEL .. END:sub(1, -3) .. "x",
        ["a bare line feed behind the last boundary"] = MODEL .. "--XyZ--\n",
        ["a second form behind the first"] = FILE .. END .. MODEL .. END,
        ["the boundary somewhere behind the last"] = MODEL .. END .. "a --XyZ b",
        ["space behind a boundary"] = "--XyZ \r\n" .. MODEL:sub(8) .. END,
        ["a bare line feed behind a boundary"] = "--XyZ\n" .. MODEL:sub(8) .. END,
        ["bare line feeds everywhere"] = (MODEL .. END):gsub("\r\n", "\n"),
        ["a bare line feed before a boundary"] = MODEL:sub(1, -3) .. "\n" .. FILE .. END,
        ["nothing before a boundary"] = MODEL:sub(1, -3) .. FILE .. END,
        ["a longer boundary"] = MODEL .. "--XyZW\r\n" .. FILE:sub(8) .. END,
        ["the boundary within a file"] = part('Content-Disposition: form-data; name="f"',
        "a--XyZb") .. MODEL .. END,
        ["a head whose end is the boundary's line end"] =
            '--XyZ\r\nContent-Disposition: form-data; name="a"\r\n\r\n' .. END,
        ["a boundary that is two"] = "--XyZ\r\n" .. END,
    }
    for what, form in pairs(BAD_FORMS) do
        it("refuses " .. what, function()
            local name, reason = from(form)
            assert.is_nil(name)
            assert.is_true(reason == "form_broken" or reason == "form_head", reason)
        end)
    end

    it("refuses a part without the end of its head", function()
        assert.same({ nil, "form_head" },
            { from('--XyZ\r\nContent-Disposition: form-data; name="model"\r\n' .. END) })
        assert.same({ nil, "form_head" }, { from("--XyZ\r\n" .. "\r\nx\r\n" .. END) })
    end)

    it("refuses 1,001 parts", function() -- B12
        assert.same({ nil, "form_too_long" }, { from(field("a", "b"):rep(1001) .. END) })
    end)

    it("calls an empty model missing", function()
        assert.same({ nil, "model_missing" }, { from(field("model", "") .. END) })
    end)

    for what, name in pairs({ ["a line end"] = "a\r\nb", ["NUL"] = "a\0", ["a tab"] = "a\tb",
        ["no UTF-8"] = "a\255", ["1,025 characters"] = ("m"):rep(1025),
        ["10,000 characters"] = ("m"):rep(10000) }) do
        it("has no use for a model with " .. what, function()
            assert.same({ nil, "model_unusable" }, { from(field("model", name) .. END) })
        end)
    end

    it("has no use for a model that a long head hides the length of", function()
        local head = "Content-Disposition: form-data;" .. (" "):rep(3900) .. 'name="model"'
        assert.same({ nil, "model_unusable" }, { from(part(head, ("m"):rep(1100)) .. END) })
        assert.equal(("m"):rep(1000), from(part(head, ("m"):rep(1000)) .. END))
    end)

    it("reads a model of any characters", function()
        for _, name in ipairs({ "a b", '"a"', [[C:\models\x.gguf]], "/models/Qwen3", "é", "模型" }) do
            assert.equal(name, from(field("model", name) .. END))
        end
    end)

    it("reads one that is not ASCII in UTF-8 alone", function()
        local form = { boundary = B, is_utf8 = false }
        assert.same({ nil, "form_model_kind" }, { from(field("model", "é") .. END, nil, form) })
        assert.equal("e", from(field("model", "e") .. END, nil, form))
        local head = 'Content-Disposition: form-data; name="model"\r\n'
            .. "Content-Type: text/plain; charset=iso-8859-1"
        assert.same({ nil, "form_model_kind" }, { from(part(head, "é") .. END) })
    end)

    it("reads a model of 1,024 characters, and a form of hundreds of parts", function()
        assert.equal(("m"):rep(1024), from(field("model", ("m"):rep(1024)) .. END))
        assert.equal("whisper-1", from(field("a", "b"):rep(900) .. MODEL .. END))
    end)

    it("refuses every beginning of a form", function() -- B7
        local form = FILE .. MODEL .. END
        for length = 0, #form - 3 do
            assert.same({ nil, "form_broken" }, { from(form:sub(1, length)) })
        end
        assert.same({ nil, "form_broken" }, { from(form:sub(1, -2)) })
    end)

    it("finds the boundary wherever it pauses", function()
        local head = '--XyZ\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'
        for before = -90, 10 do
            local pauses = 0
            local form = head .. ("x"):rep(PAUSE + before) .. "\r\n" .. MODEL .. END
            assert.equal("whisper-1", from(form, function() pauses = pauses + 1 end))
            assert.is_true(pauses <= 1)
        end
        local pauses = 0
        local form = head .. ("x"):rep(4 * PAUSE) .. "\r\n" .. MODEL .. END
        from(form, function() pauses = pauses + 1 end)
        assert.equal(4, pauses)
    end)
end)

describe("model with a watch", function()
    it("tells each other field, by its plain name, and which bytes it is", function()
        local text = ""
        for _, head in ipairs({ "name=a", 'name="Model_x"; filename=f', 'name="IMAGE[]"',
            "name=model", "name=priority" }) do
            text = text .. "--B\r\nContent-Disposition: form-data; " .. head .. "\r\n\r\nv\r\n"
        end
        text = text .. "--B--\r\n"
        local told, left = {}, text
        with_bytes(text, function(bytes, length)
            form_body.model(bytes, length, { boundary = "B", is_utf8 = true }, nil,
                function(name, value, from, to)
                    told[#told + 1] = name .. "=" .. tostring(value)
                    left = name == "priority" and text:sub(1, from) .. text:sub(to + 1) or left
                end)
        end)
        assert.same({ "a=v", "model_x=nil", "image=v", "priority=v" }, told)
        assert.is_nil(left:find("priority", 1, true))
        assert.equal("v", (with_bytes(left, form_body.model, { boundary = "B", is_utf8 = true })))
    end)
end)
