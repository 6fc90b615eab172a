---------
-- The multipart form of an upload: threats B1, B2, B4, B6, B7, B9; the B-numbers stand at their
-- cases.

local ffi = require("ffi")
local form_body = require("portero.form_body")

local PAUSE = 256 * 1024

--- Calls with the bytes of a text, which must be held: a pointer holds nothing.
local function with_bytes(text, call, ...)
    local first, second = call(ffi.cast("const unsigned char *", text), #text, ...)
    return first, second, text
end

--- As a test's name: short, and of one line.
local function shown(text)
    return (("%q"):format(text:sub(1, 60)):gsub("[%c\128-\255]", "?"))
end

describe("boundary_of", function()
    local GOOD = {
        ["multipart/form-data; boundary=abc"] = "abc",
        ["multipart/form-data;boundary=abc"] = "abc",
        ['multipart/form-data; boundary="abc"'] = "abc",
        ["multipart/form-data; boundary=----WebKitFormBoundaryA1b2"] = "----WebKitFormBoundaryA1b2",
        ["multipart/form-data; boundary=a'+_.-b"] = "a'+_.-b",
        ['multipart/form-data; boundary="=== a"'] = false,
        ['multipart/form-data; boundary="===1=="'] = "===1==",
        ['multipart/form-data; boundary="a:/?,()="'] = "a:/?,()=",
        ["multipart/form-data; boundary=" .. ("b"):rep(70)] = ("b"):rep(70),
    }
    for value, expected in pairs(GOOD) do
        it("reads " .. value, function()
            assert.equal(expected or nil, form_body.boundary_of(value))
        end)
    end

    -- B6, B9
    for _, value in ipairs({ "", "multipart/form-data", "multipart/form-data;",
        "multipart/form-data; boundary=", 'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary=a; charset=utf-16",
        "multipart/form-data; charset=utf-7; boundary=a", 'multipart/form-data; boundary="a',
        'multipart/form-data; boundary=a"', 'multipart/form-data; boundary="a"b',
        'multipart/form-data; boundary="a\\"b"', 'multipart/form-data; boundary="a;b"',
        "multipart/form-data; boundary=a b", "multipart/form-data; boundary=a,b",
        "multipart/form-data; Boundary=a", "Multipart/Form-Data; boundary=a",
        "multipart/mixed; boundary=a", "multipart/form-data, boundary=a",
        "xmultipart/form-data; boundary=a", "multipart/form-data; boundary*=utf-8''a",
        "multipart/form-data; boundary=a\0", "multipart/form-data; boundary=é",
        "multipart/form-data; boundary=" .. ("b"):rep(71), "multipart/form-data; boundary = a" }) do
        it("refuses " .. shown(value), function()
            assert.is_nil(form_body.boundary_of(value))
        end)
    end

    it("refuses a type that is not told", function()
        assert.is_nil(form_body.boundary_of(nil))
    end)
end)

describe("model", function()
    local B = "XyZ"

    local function from(text, pause)
        local name, reason = with_bytes(text, form_body.model, B, pause)
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

    local HEADS = {
        'content-disposition: form-data; name="model"',
        'Content-Disposition:form-data; name="model"',
        'Content-Disposition: form-data;name="model"',
        'Content-Disposition: form-data; name="model"\r\nContent-Type: text/plain',
        'Content-Type: text/plain; charset=UTF-8\r\nContent-Disposition: form-data; name="model"',
        'Content-Disposition: form-data; name="model"\r\nContent-Length: 9',
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
        'Content-Disposition: form-data; name="file"; filename=""\r\n'
            .. "Content-Transfer-Encoding: binary",
        'Content-Disposition: form-data; name="models"',
        'Content-Disposition: form-data; name=""',
    }
    for _, head in ipairs(OTHER_HEADS) do
        it("takes another part of the head " .. shown(head), function()
            assert.equal("whisper-1", from(part(head, "other") .. MODEL .. END))
        end)
    end

    it("calls a model missing that is in no part", function() -- B4
        assert.same({ nil, "missing" }, { from(FILE .. END) })
        assert.same({ nil, "missing" }, { from(field("models", "a") .. END) })
        assert.same({ nil, "missing" }, { from("--" .. B .. "--") })
    end)

    it("refuses several, also of the same name", function() -- B1
        assert.same({ nil, "duplicate" }, { from(MODEL .. MODEL .. END) })
        assert.same({ nil, "duplicate" }, { from(MODEL .. FILE .. field("model", "other") .. END) })
    end)

    -- B2, B6
    local DOUBTFUL = {
        'Content-Disposition: form-data; name="Model"',
        'Content-Disposition: form-data; name="MODEL"',
        'Content-Disposition: form-data; name=" model"',
        'Content-Disposition: form-data; name="model "',
        'Content-Disposition: form-data; name="model"; filename="a"',
        "Content-Disposition: form-data; name=\"model\"; filename*=utf-8''a",
        'Content-Disposition: form-data; name="model"\r\nContent-Transfer-Encoding: binary',
        'Content-Disposition: form-data; name="model"\r\nContent-Type: text/plain; charset=utf-16',
        'Content-Disposition: form-data; name="model"\r\nContent-Type: application/json',
    }
    for _, head in ipairs(DOUBTFUL) do
        it("refuses what some would take for the model: " .. shown(head), function()
            assert.same({ nil, "duplicate" }, { from(part(head, "a") .. END) })
            assert.same({ nil, "duplicate" }, { from(MODEL .. part(head, "a") .. END) })
        end)
    end

    -- B6
    local BAD_HEADS = {
        "",
        "Content-Type: text/plain",
        "Content-Disposition: form-data",
        "Content-Disposition: form-data; name=model",
        "Content-Disposition: form-data; name='model'",
        'Content-Disposition: form-data; Name="model"',
        "Content-Disposition: form-data; name*=utf-8''model",
        "Content-Disposition: form-data; name=\"a\"; name*=utf-8''model",
        'Content-Disposition: form-data; name="a"; name="model"',
        'Content-Disposition: form-data; name="model"; x="y"',
        'Content-Disposition: form-data; name="a"; filename="b"; filename="c"',
        'Content-Disposition: form-data; name="mod\\el"',
        'Content-Disposition: form-data; name="a\\"; name=\\"model"',
        'Content-Disposition: form-data; name="a"; filename="x; name=model"',
        'Content-Disposition: form-data; name="model',
        'Content-Disposition: form-data; name="model"x',
        'Content-Disposition: form-data; name="model";',
        'Content-Disposition: form-data name="model"',
        'Content-Disposition: form-data; name = "model"',
        'Content-Disposition: attachment; name="model"',
        'Content-Disposition: form-datax; name="model"',
        'Content-Disposition : form-data; name="model"',
        ' Content-Disposition: form-data; name="model"',
        'Content-Disposition: form-data;\r\n name="model"',
        'Content-Disposition: form-data;\r\n\tname="model"',
        'Content-Disposition: form-data; name="model"\nX: y',
        'Content-Disposition: form-data; name="mo\rdel"',
        'Content-Disposition: form-data; name="model\0"',
        'Content-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="model"',
        'Content-Disposition: form-data; name="a"\r\ncontent-disposition: form-data; name="model"',
        'Content-Disposition: form-data; name="a"\r\nX-Other: 1',
        'Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: quoted-printable',
        'Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64',
        'Content-Disposition: form-data; name="a"\r\n\1',
        'Content-Disposition: form-data; name="a"; filename="' .. ("f"):rep(5000) .. '"',
    }
    for _, head in ipairs(BAD_HEADS) do
        it("refuses the head " .. shown(head), function()
            assert.same({ nil, "invalid" }, { from(part(head, "a") .. END) })
            assert.same({ nil, "invalid" }, { from(MODEL .. part(head, "a") .. END) })
        end)
    end

    -- B7
    local BAD_FORMS = {
        ["nothing"] = "",
        ["a boundary alone"] = "--XyZ",
        ["a boundary and a line end"] = "--XyZ\r\n",
        ["no boundary"] = "model=whisper-1",
        ["bytes before the first boundary"] = "x" .. MODEL .. END,
        ["a line before the first boundary"] = "\r\n" .. MODEL .. END,
        ["no last boundary"] = MODEL,
        ["a last boundary cut short"] = MODEL .. "--XyZ-",
        ["bytes behind the last boundary"] = MODEL .. END .. "x",
        ["two line ends behind the last boundary"] = MODEL .. END .. "\r\n",
        ["a bare line feed behind the last boundary"] = MODEL .. "--XyZ--\n",
        ["a second form behind the first"] = FILE .. END .. MODEL .. END,
        ["space behind a boundary"] = "--XyZ \r\n" .. MODEL:sub(8) .. END,
        ["a bare line feed behind a boundary"] = "--XyZ\n" .. MODEL:sub(8) .. END,
        ["bare line feeds everywhere"] = (MODEL .. END):gsub("\r\n", "\n"),
        ["a bare line feed before a boundary"] = MODEL:sub(1, -3) .. "\n" .. FILE .. END,
        ["nothing before a boundary"] = MODEL:sub(1, -3) .. FILE .. END,
        ["a longer boundary"] = MODEL .. "--XyZW\r\n" .. FILE:sub(8) .. END,
        ["the boundary within a file"] = part('Content-Disposition: form-data; name="f"',
        "a--XyZb") .. MODEL .. END,
        ["a head without an end"] =
            '--XyZ\r\nContent-Disposition: form-data; name="model"\r\n' .. END,
        ["a head whose end is the boundary's line end"] =
            '--XyZ\r\nContent-Disposition: form-data; name="a"\r\n\r\n' .. END,
        ["a part without a head"] = "--XyZ\r\n" .. MODEL .. END,
        ["a boundary that is two"] = "--XyZ\r\n" .. END,
        ["a long head that hides how long its model is"] = part(
            "Content-Disposition: form-data;" .. (" "):rep(3900) .. 'name="model"',
            ("m"):rep(300)) .. END,
        ["an empty model"] = field("model", "") .. END,
        ["a model with a space"] = field("model", "a b") .. END,
        ["a model with a line end"] = field("model", "a\r\nb") .. END,
        ["a model with NUL"] = field("model", "a\0") .. END,
        ["a model with a quote"] = field("model", '"a"') .. END,
        ["a model with a backslash"] = field("model", "a\\b") .. END,
        ["a model that is not ASCII"] = field("model", "é") .. END,
        ["a model of 257 characters"] = field("model", ("m"):rep(257)) .. END,
        ["a model of 10,000 characters"] = field("model", ("m"):rep(10000)) .. END,
        ["1,001 parts"] = field("a", "b"):rep(1001) .. END,
    }
    for what, form in pairs(BAD_FORMS) do
        it("refuses " .. what, function()
            assert.same({ nil, "invalid" }, { from(form) })
        end)
    end

    it("reads a model of 256 characters, and a form of hundreds of parts", function()
        assert.equal(("m"):rep(256), from(field("model", ("m"):rep(256)) .. END))
        assert.equal("whisper-1", from(field("a", "b"):rep(900) .. MODEL .. END))
    end)

    it("refuses every beginning of a form", function() -- B7
        local form = FILE .. MODEL .. END
        for length = 0, #form - 3 do
            assert.same({ nil, "invalid" }, { from(form:sub(1, length)) })
        end
        assert.same({ nil, "invalid" }, { from(form:sub(1, -2)) })
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
