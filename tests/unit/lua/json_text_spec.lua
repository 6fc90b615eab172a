---------
-- The leap over texts of JSON strings, against a plain reading byte by byte: threats B3, B11.

local ffi = require("ffi")
local json_text = require("portero.request.json_text")

local leap = json_text.leap

--- RFC 8259 section 7 and RFC 3629 section 4, one Lua pattern each.
local CHARACTERS = {
    "^[ !#-Z%[%]%^_-\127]",
    '^\\["\\/bfnrt]',
    "^\\u%x%x%x%x",
    "^[\194-\223][\128-\191]",
    "^\224[\160-\191][\128-\191]",
    "^[\225-\236\238\239][\128-\191][\128-\191]",
    "^\237[\128-\159][\128-\191]",
    "^\240[\144-\191][\128-\191][\128-\191]",
    "^[\241-\243][\128-\191][\128-\191][\128-\191]",
    "^\244[\128-\143][\128-\191][\128-\191]",
}

local function next_place(text, place)
    for _, form in ipairs(CHARACTERS) do
        local _, last = text:find(form, place)
        if last then
            return last + 1
        end
    end
end

--- The places between two characters, from `from` (counted from 0) to the first byte that is none.
local function places_of(text, from)
    local places, place = {}, from + 1
    while place do
        places[place - 1] = true
        place = place <= #text and next_place(text, place) or nil
    end
    return places
end

local function leap_in(text, from)
    return tonumber(leap(ffi.cast("const unsigned char *", text), from, #text))
end

local function is_right(text, from)
    return places_of(text, from)[leap_in(text, from)] == true
end

local function check(text, from)
    if not is_right(text, from) then
        error(("%q: from %d to %d"):format(text:sub(1, 200), from, leap_in(text, from)))
    end
end

local PIECES = {
    "a", " ", "~", "\127", "n", "t", "u", "0", '"', "\\", '\\"', "\\\\", "\\n", "\\t", "\\r", "\\/",
    "\\b", "\\u00e9", "\\u00", "\\u12g4", "\\x41", "\\ud800", "\0", "\1", "\31", "\n", "\r", "é",
    "ñ", "人", "\224\164\149", "\237\149\156", "\239\188\140", "😀", "\244\143\191\191", "\128",
    "\191", "\192\128", "\193\191", "\194", "\195\195", "\224\159\191", "\225\128", "\226",
    "\237\160\128", "\240\159\152", "\240\143\191\191", "\244\144\128\128", "\245\128\128\128",
    "\255",
}
local PADDINGS = { "a", "é", "人", "\\n", "\\\\", '\\"', "😀", "\\u4eba" }

--- Whole pieces, `length` bytes or a few more.
local function padded(padding, length)
    return (padding:rep(math.ceil(length / #padding)))
end

describe("leap", function()
    it("ends between two characters of what is good, wherever two pieces meet", function()
        for _, one in ipairs(PIECES) do
            for _, other in ipairs(PIECES) do
                for offset = 0, 17 do
                    local text = '{"' .. ("x"):rep(offset) .. one .. other
                    check(text .. ("x"):rep(40), 2)
                    check(text .. padded("é", 40), 2)
                end
            end
        end
    end)

    it("does in texts of each kind, whatever three pieces stand in them", function()
        math.randomseed(20264)
        for _ = 1, 100000 do
            local parts = { "..", padded(PADDINGS[math.random(#PADDINGS)], math.random(0, 40)) }
            for _ = 1, 3 do
                parts[#parts + 1] = PIECES[math.random(#PIECES)]
                parts[#parts + 1] = padded(PADDINGS[math.random(#PADDINGS)], math.random(0, 24))
            end
            check(table.concat(parts) .. ("z"):rep(30), 2)
        end
    end)

    it("does for every byte behind every other, and every one behind two of a character", function()
        for one = 0, 255 do
            for other = 0, 255 do
                local pair = string.char(one, other)
                check(".." .. ("x"):rep(13) .. pair .. ("x"):rep(40), 2)
                check("..é" .. ("x"):rep(4) .. pair .. ("x"):rep(40), 2)
                if one > 0xDF then
                    check("..é" .. pair .. "\128" .. ("x"):rep(40), 2)
                    check("..é" .. pair .. "\191\128" .. ("x"):rep(40), 2)
                end
            end
        end
    end)

    it("begins behind whatever stands before", function()
        for _, padding in ipairs(PADDINGS) do
            local text = ".." .. padded(padding, 60) .. "\\\\\\n" .. padded("é\\\"", 60)
            for from in pairs(places_of(text, 2)) do
                check(text, from)
            end
        end
    end)

    local KINDS = {
        english = "The quick brown fox jumps over the lazy dog. ",
        code = [[if (a == \"b\\n\") {\n\treturn \"c\";\r\n}\n]],
        spanish = [[Érase una vez un pingüino.\n¿Qué tal está? \"Bien\". ]],
        chinese = [[人工智能是计算机科学的一个分支。\n\n他说\"你好\"，]],
        korean = "한글 하늘 ",
        hindi = "कृत्रिम ",
        emoji = "😀😁 ok 🎉 ",
        escapes = [[\u4eba\u5de5\n\ud83d\ude00 \/\b\f]],
        base64 = "iVBORw0KGgoAAAANSUhEUgAA+/8=",
    }
    for kind, text in pairs(KINDS) do
        it("goes over all of a text, where it is asked again and again: " .. kind, function()
            local body = '{"' .. text:rep(200)
            local at, times = 2, 0
            while at < #body - 24 do
                check(body, at)
                local next_at = leap_in(body, at)
                times = times + 1
                at = next_at > at and next_at or next_place(body, at + 1) - 1
            end
            -- Once for an escape among ASCII of a text with other letters, and little else.
            assert.is_true(times <= 801, times)
        end)
    end

    it("answers where it is in what is too short to leap over", function()
        for length = 2, 25 do
            assert.equal(2, leap_in(("x"):rep(length), 2))
        end
    end)
end)

it("is compiled whole: in a long body of all kinds of text LuaJIT gives nothing up", function()
    local json_body = require("portero.request.json_body")
    local jit_util = require("jit.util")
    local vmdef = require("jit.vmdef")
    local aborted = {}
    local function note(what, _, callee, _, reason)
        local info = what == "abort" and jit_util.funcinfo(callee)
        if info and info.source:find("json_text") then
            aborted[#aborted + 1] = vmdef.traceerr[reason]
        end
    end
    local text = '{"a":"' .. ([[abc é\n人😀 \u00e9 d\"\\e ]]):rep(20000) .. '"}'
    local function pass()
        for _ = 1, 20 do
            assert(json_body.scan(ffi.cast("const unsigned char *", text), #text))
        end
    end
    pass()
    jit.attach(note, "trace")
    pass()
    jit.attach(note)
    assert.same({}, aborted)
end)
