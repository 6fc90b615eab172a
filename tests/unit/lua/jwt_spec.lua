---------
-- The form of a token: docs/http-api.md, threats J1-J23. The J-numbers stand at their cases.

local jwt = require("portero.token.jwt")
local minted = require("minted")

local NOW = minted.NOW
local MEMBERS = jwt.claims_of_issuer("portero")
local ROLES = {
    user = { code = "USRS", ttl_seconds = 900 },
    agent_fast = { code = "AGNF", ttl_seconds = 60 },
}

--- The object of a text, with members as `members_of` takes them.
local function object(text, ...)
    local segment = minted.encode(text)
    local length, bytes = jwt.bytes(segment, 1, #segment)
    return length and jwt.object(bytes, length, jwt.members_of({ ... })) or nil
end

local A_STRING, A_NUMBER = { "a", "string" }, { "a", "number" }
local B_NUMBER, EMPTY = { "b", "number" }, { "", "number" }

local function claims_of_text(text, now)
    local segment = minted.encode(text)
    return jwt.claims(segment, 1, #segment, MEMBERS, ROLES, now or NOW)
end

local function claims_of(changes, extra, now)
    return claims_of_text(minted.payload(changes, extra), now)
end

local function header_of(text)
    return jwt.header(minted.encode(text))
end

describe("dots", function()
    it("answers where the three segments of a compact JWS meet", function()
        assert.same({ 2, 6 }, { jwt.dots("a.bbb.cc", 1) })
    end)

    -- J9
    local OTHERS = {
        ["nothing at all"] = "",
        ["one part"] = "aa",
        ["two parts"] = "aa.bb",
        ["a single dot"] = ".",
        ["four parts"] = "aa.bb.cc.dd",
        ["the five parts of a JWE"] = "aa.bb.cc.dd.ee",
        ["three parts and a dot behind"] = "aa.bb.cc.",
        ["three parts and a dot before"] = ".aa.bb.cc",
        ["the JSON serialisation"] = '{"payload":"aa","signature":"bb"}',
    }
    for what, token in pairs(OTHERS) do
        it("answers nil to " .. what, function()
            assert.is_nil(jwt.dots(token, 1))
        end)
    end

    it("answers empty segments as they are, which no decoder accepts", function() -- J7, J9
        assert.same({ 1, 2 }, { jwt.dots("..", 1) })
        assert.same({ 3, 4 }, { jwt.dots("aa..cc", 1) })
        assert.is_nil(jwt.bytes("..", 2, 1))
    end)

    it("begins where the token does", function()
        assert.same({ 9, 11 }, { jwt.dots("Bearer a.b.c", 8) })
        assert.is_nil(jwt.dots("a.b.c", 3))
        assert.is_nil(jwt.dots("a.b.c", 6))
        local longest = ("a"):rep(2044) .. ".b.c"
        assert.same({ 2052, 2054 }, { jwt.dots("Bearer " .. longest, 8) })
        assert.is_nil(jwt.dots("Bearer a" .. longest, 8))
    end)

    it("answers empty segments as no bytes", function()
        assert.is_nil(minted.decode(""))
    end)

    it("takes a token of 2048 characters and no longer one, however long", function() -- J23
        local rest = "." .. ("b"):rep(100) .. ".cc"
        assert.is_number(jwt.dots(("a"):rep(2048 - #rest) .. rest, 1))
        for _, length in ipairs({ 2049, 4096, 8192, 9000, 65536, 1048576 }) do
            assert.is_nil(jwt.dots(("a"):rep(length - #rest) .. rest, 1))
        end
    end)
end)

describe("bytes", function()
    -- RFC 4648 section 10, without the padding (RFC 7515 section 2); RFC 7515 appendix C.
    local VECTORS = {
        f = "Zg", fo = "Zm8", foo = "Zm9v", foob = "Zm9vYg", fooba = "Zm9vYmE", foobar = "Zm9vYmFy",
        ["\3\236\255\224\193"] = "A-z_4ME",
    }
    for raw, text in pairs(VECTORS) do
        it("reads the vector " .. text, function()
            assert.equal(raw, minted.decode(text))
        end)
    end

    it("reads from one place to another, whatever stands around", function()
        for raw, text in pairs(VECTORS) do
            for _, before in ipairs({ "", "a", "a.b=" }) do
                for _, behind in ipairs({ "", "=", ".", "A" }) do
                    local from = #before + 1
                    local to = from + #text - 1
                    assert.equal(raw, minted.decode(before .. text .. behind, from, to))
                end
            end
        end
        assert.is_nil(minted.decode("Zm9v=m9v", 1, 8))
    end)

    it("reads every byte in every place", function()
        for value = 0, 255 do
            for before = 0, 2 do
                local raw = ("x"):rep(before) .. string.char(value) .. "y"
                assert.equal(raw, minted.decode(minted.encode(raw)))
            end
        end
    end)

    it("refuses every character outside the alphabet, in every place", function() -- J13
        for value = 0, 255 do
            local c = string.char(value)
            if not c:find("^[A-Za-z0-9_-]$") then
                for place = 1, 4 do
                    local text = ("A"):rep(place - 1) .. c .. ("A"):rep(4 - place)
                    assert.is_nil(minted.decode(text), ("byte %d at %d"):format(value, place))
                end
            end
        end
    end)

    -- J13, J15
    local DEFORMED = {
        ["one padding character"] = "Zm8=",
        ["two padding characters"] = "Zg==",
        ["rubbish behind the padding"] = "Zg==Zm9v",
        ["padding where none is due"] = "Zm9v=",
        ["a percent escape of padding"] = "Zm8%3D",
        ["the other alphabet's plus"] = "A+z_4ME",
        ["the other alphabet's slash"] = "A-z/4ME",
        ["a line feed at the end"] = "Zm9v\n",
        ["a carriage return inside"] = "Zm\r9v",
        ["a space before"] = " Zm9v",
        ["a NUL at the end"] = "Zm9v\0",
        ["a look-alike in UTF-8"] = "Zm9\208\176",
        ["one character"] = "Z",
        ["a length of 1 more than a multiple of 4"] = "Zm9vZ",
        ["nothing"] = "",
    }
    for what, text in pairs(DEFORMED) do
        it("refuses " .. what, function()
            assert.is_nil(minted.decode(text))
        end)
    end

    it("accepts exactly the last characters whose unused bits are zero", function() -- J14
        local accepted = { [2] = "", [3] = "" }
        for index = 0, 63 do
            local c = minted.encode(string.char(index * 4)):sub(1, 1)
            for rest in pairs(accepted) do
                if minted.decode(("A"):rep(rest - 1) .. c) then
                    accepted[rest] = accepted[rest] .. c
                end
            end
        end
        assert.same({ [2] = "AQgw", [3] = "AEIMQUYcgkosw048" }, accepted)
    end)

    it("reads 2048 characters and refuses more", function() -- J23
        assert.equal(1536, #minted.decode(("A"):rep(2048)))
        assert.is_nil(minted.decode(("A"):rep(2052)))
    end)
end)

describe("object", function()
    it("reads strings and whole numbers", function()
        local members = { A_STRING, { "n", "number" }, { "z", "number" } }
        assert.same({ a = "b", n = 12, z = 0 }, object('{"a":"b","n":12,"z":0}', unpack(members)))
    end)

    it("takes its members in any order", function()
        for _, text in ipairs({ '{"a":"x","b":1}', '{"b":1,"a":"x"}' }) do
            assert.same({ a = "x", b = 1 }, object(text, A_STRING, B_NUMBER))
            assert.same({ a = "x", b = 1 }, object(text, B_NUMBER, A_STRING))
        end
    end)

    it("allows the four spaces of JSON between its parts", function()
        local text = ' {\t"a"\n:\r"b" , "b" : 1 } \n'
        assert.same({ a = "b", b = 1 }, object(text, A_STRING, B_NUMBER))
    end)

    it("reads the header of RFC 7515 appendix A.1", function()
        local raw = minted.decode("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9")
        local members = { { "typ", "string" }, { "alg", "string" } }
        assert.same({ typ = "JWT", alg = "HS256" }, object(raw, unpack(members)))
    end)

    it("allows an empty string and an empty name", function()
        assert.same({ [""] = "" }, object('{"":""}', { "", "string" }))
    end)

    it("reads 15 digits exactly", function() -- J18
        assert.equal(999999999999999, object('{"a":999999999999999}', A_NUMBER).a)
    end)

    it("compares a value that is always the same, and does not keep it", function()
        local fixed = { "a", "string", "always" }
        assert.same({ b = 1 }, object('{"a":"always","b":1}', fixed, B_NUMBER))
        for _, value in ipairs({
            '"alway"', '"always "', '"Always"', '""', "1", '"\\u0061lways"', '"always', "always",
        }) do
            assert.is_nil(object('{"a":' .. value .. ',"b":1}', fixed, B_NUMBER), value)
        end
    end)

    it("refuses a member too few, too many, or of another name or type", function()
        for _, text in ipairs({
            '{"a":"x"}', '{"b":1}', '{"a":"x","b":1,"c":1}', '{"a":"x","c":1}', '{"A":"x","b":1}',
            '{"a":1,"b":1}', '{"a":"x","b":"1"}', '{"a":"x","a":"x"}', '{"a":"x","bb":1}',
        }) do
            assert.is_nil(object(text, A_STRING, B_NUMBER), text)
        end
    end)

    -- The value of one member; J16, J18.
    local VALUES = {
        ["null"] = "null",
        ["true"] = "true",
        ["false"] = "false",
        ["an array"] = "[]",
        ["an object"] = "{}",
        ["a nested object"] = '{"a":1}',
        ["an array of a string"] = '["a"]',
        ["nothing"] = "",
        ["a float"] = "1.5",
        ["a float that is whole"] = "1.0",
        ["a float without its fraction"] = "1.",
        ["a fraction alone"] = ".5",
        ["an exponent"] = "1e5",
        ["an infinite exponent"] = "1e400",
        ["a negative number"] = "-1",
        ["a negative zero"] = "-0",
        ["a plus sign"] = "+1",
        ["a leading zero"] = "0777",
        ["two zeros"] = "00",
        ["a hexadecimal number"] = "0x7fffffff",
        ["NaN"] = "NaN",
        ["Infinity"] = "Infinity",
        ["16 digits"] = "1000000000000000",
        ["2^53 + 1"] = "9007199254740993",
        ["400 digits"] = ("9"):rep(400),
        ["underscored digits"] = "9_999",
        ["Arabic digits"] = "\217\161\217\162",
        ["an escaped character"] = '"a\\u0062"',
        ["an escaped quote"] = '"a\\"b"',
        ["an escaped backslash"] = '"\\\\"',
        ["a lone surrogate"] = '"\\ud800"',
        ["a raw line feed"] = '"a\nb"',
        ["a raw tab"] = '"a\tb"',
        ["a NUL"] = '"a\0b"',
        ["a DEL"] = '"a\127b"',
        ["invalid UTF-8"] = '"a\255b"',
        ["valid UTF-8 beyond ASCII"] = '"\195\169"',
        ["a string without its end"] = '"abc',
        ["a string in single quotes"] = "'abc'",
        ["two values"] = "1 2",
    }
    for what, value in pairs(VALUES) do
        it("refuses " .. what .. " as a value", function()
            assert.is_nil(object('{"a":' .. value .. "}", A_STRING))
            assert.is_nil(object('{"a":' .. value .. "}", A_NUMBER))
        end)
    end

    -- J8, J12, J16, J17, J23
    local TEXTS = {
        ["nothing"] = "",
        ["spaces"] = "   ",
        ["an empty object"] = "{}",
        ["a string"] = '"str"',
        ["a number"] = "1",
        ["null"] = "null",
        ["an array"] = "[]",
        ["true"] = "true",
        ["a comma at the end"] = '{"a":1,}',
        ["a comma at the start"] = '{,"a":1}',
        ["two commas"] = '{"a":1,,"b":2}',
        ["a missing comma"] = '{"a":1 "b":2}',
        ["a missing colon"] = '{"a" 1}',
        ["a missing value"] = '{"a":}',
        ["a missing name"] = "{:1}",
        ["a name without quotes"] = "{a:1}",
        ["a numeric name"] = "{1:1}",
        ["a missing end"] = '{"a":1',
        ["a missing start"] = '"a":1}',
        ["a second object behind it"] = '{"a":1}{"a":2}',
        ["text behind it"] = '{"a":1}x',
        ["a NUL behind it"] = '{"a":1}\0',
        ["a comment"] = '{"a":1/**/}',
        ["a vertical tab between its parts"] = '{\v"a":1}',
        ["a no-break space between its parts"] = '{\194\160"a":1}',
        ["a name twice with one value"] = '{"a":1,"a":1}',
        ["a name twice with two values"] = '{"a":1,"b":2,"a":3}',
        ["a name twice, once escaped"] = '{"a":1,"\\u0061":2}',
        ["an empty name twice"] = '{"":1,"":2}',
        ["a BOM"] = '\239\187\191{"a":1}',
        ["UTF-16 with its BOM"] = '\255\254{\0"\0a\0"\0:\0001\0}\0',
        ["UTF-16 big endian"] = '\0{\0"\0a\0"\0:\0001\0}',
        ["UTF-32"] = '{\0\0\0"\0\0\0a\0\0\0"\0\0\0:\0\0\0001\0\0\0}\0\0\0',
        ["100,000 nested objects"] = ('{"a":'):rep(100000),
        ["100,000 nested arrays"] = '{"a":' .. ("["):rep(100000),
    }
    for what, text in pairs(TEXTS) do
        it("refuses " .. what, function()
            assert.is_nil(object(text, A_NUMBER))
            assert.is_nil(object(text, A_NUMBER, B_NUMBER))
            assert.is_nil(object(text, EMPTY))
            assert.is_nil(object(text))
        end)
    end

    it("refuses whatever is cut off a good object", function()
        local text = '{"a":"text","b":1700000000}'
        assert.is_table(object(text, A_STRING, B_NUMBER))
        for length = 0, #text - 1 do
            assert.is_nil(object(text:sub(1, length), A_STRING, B_NUMBER))
        end
    end)

    it("sees nothing of the object that was read before", function()
        assert.is_table(object('{"a":1}', A_NUMBER))
        for length = 0, 6 do
            assert.is_nil(object(('{"a":1}'):sub(1, length), A_NUMBER))
        end
    end)
end)

describe("header", function()
    it("answers alg and kid of a header that has exactly alg, kid and typ", function()
        local header = header_of('{"alg":"HS256","kid":"k","typ":"JWT"}')
        assert.same({ alg = "HS256", kid = "k" }, header)
    end)

    it("accepts its parameters in any order", function()
        assert.is_table(header_of('{"typ":"JWT","kid":"k","alg":"HS256"}'))
    end)

    it("hands alg on by its bytes, neither trimmed nor folded", function() -- J1, J3
        for _, alg in ipairs({ "none", "None", "NONE", "nOnE", "", "hs256", "HS256 ", "PS256" }) do
            assert.equal(alg, header_of(minted.header(alg)).alg)
        end
    end)

    -- The value of alg, then of kid and typ: J1, J5, J10.
    local VALUES = { "null", "1", "0", "true", "[]", '["HS256"]', "{}", "1.5" }
    for _, name in ipairs({ "alg", "kid", "typ" }) do
        for _, value in ipairs(VALUES) do
            it("refuses " .. name .. " " .. value, function()
                local text = minted.header():gsub('("' .. name .. '":)"[^"]*"', "%1" .. value)
                assert.is_nil(header_of(text))
            end)
        end

        it("refuses a header without " .. name, function()
            local text = minted.header():gsub('"' .. name .. '":"[^"]*",?', ""):gsub(",}", "}")
            local others = {}
            for _, other in ipairs({ "alg", "kid", "typ" }) do
                others[#others + 1] = other ~= name and { other, "string" } or nil
            end
            assert.is_table(object(text, unpack(others)))
            assert.is_nil(header_of(text))
        end)

        it("refuses " .. name .. " twice, in either order", function() -- J6, J8
            local good = minted.header():match('"' .. name .. '":"[^"]*"')
            local other = '"' .. name .. '":"none"'
            local rest = minted.header():gsub('"' .. name .. '":"[^"]*",?', ""):gsub(",}", "}")
            for _, pair in ipairs({ { good, other }, { other, good }, { good, good } }) do
                local text = "{" .. pair[1] .. "," .. pair[2] .. "," .. rest:sub(2)
                assert.is_nil(header_of(text))
            end
        end)
    end

    -- J10
    for _, typ in ipairs({ "jwt", "Jwt", "JWT ", "", "at+jwt", "sync+jwt", "application/jwt" }) do
        it("refuses typ '" .. typ .. "'", function()
            assert.is_nil(header_of((minted.header():gsub('"JWT"', '"' .. typ .. '"'))))
        end)
    end

    -- J4, J6, J7, J9, J11: whatever they say.
    local EXTRAS = {
        '"jwk":{"kty":"oct","k":"AAAA"}', '"jwk":"AAAA"', '"jku":"http://127.0.0.1/keys"',
        '"jku":"file:///etc/passwd"', '"x5u":"http://127.0.0.1/c"', '"x5c":["AAAA"]',
        '"x5c":"AAAA"', '"x5t":"AAAA"', '"x5t#S256":"AAAA"', '"crit":["x"]', '"crit":[]',
        '"crit":"exp"', '"crit":[1]', '"crit":["b64"]', '"b64":false', '"b64":"false"', '"b64":0',
        '"b64":true', '"cty":"JWT"', '"zip":"DEF"', '"enc":"A128GCM"', '"x":"y"', '"Alg":"none"',
        '"":""',
    }
    for _, extra in ipairs(EXTRAS) do
        it("refuses the further parameter " .. extra, function()
            assert.is_nil(header_of((minted.header():gsub("}$", "," .. extra .. "}"))))
            assert.is_nil(header_of((minted.header():gsub("^{", "{" .. extra .. ","))))
        end)
    end

    it("refuses a kid with an escape, a NUL or a byte beyond ASCII", function() -- J5
        for _, kid in ipairs({ "a\\u0062", "a\\/b", "a\0", "\195\169", "a\n" }) do
            assert.is_nil(header_of(minted.header("HS256", kid)))
        end
    end)

    it("refuses a segment that is not canonical base64url", function() -- J13, J14
        local segment = minted.encode(minted.header("HS256", "kid"))
        for _, deformed in ipairs({ segment .. "=", segment .. "A", segment .. "\n", "", "%" }) do
            assert.is_nil(jwt.header(deformed))
        end
    end)

    it("refuses a good header behind a BOM and in UTF-16", function() -- J16
        assert.is_nil(header_of("\239\187\191" .. minted.header()))
        assert.is_nil(header_of((minted.header():gsub(".", "%0\0"))))
    end)
end)

describe("claims", function()
    it("answers the claims of a good payload", function()
        local claims, reason = claims_of()
        assert.is_nil(reason)
        assert.same({
            sub = "USRSABC123", role = "user", iat = NOW, exp = NOW + 900, jti = minted.JTI,
        }, claims)
    end)

    -- Each claim: J10, J12, J16, J18-J22.
    for name, good in pairs(minted.claims()) do
        it("refuses a payload without " .. name, function()
            assert.is_nil(claims_of({ [name] = false }))
        end)

        it("refuses " .. name .. " twice, whatever the values and their order", function()
            local other = good:find('"', 1, true) and '"admin"' or tostring(NOW + 1)
            assert.is_nil(claims_of({ [name] = good }, ('"%s":%s'):format(name, good)))
            assert.is_nil(claims_of({ [name] = good }, ('"%s":%s'):format(name, other)))
            assert.is_nil(claims_of({ [name] = other }, ('"%s":%s'):format(name, good)))
        end)

        it("refuses every other type of " .. name, function()
            local other = good:find('"', 1, true) and "1" or '"' .. good .. '"'
            for _, value in ipairs({ other, "null", "true", "[]", "{}", "[" .. good .. "]" }) do
                assert.is_nil(claims_of({ [name] = value }), value)
            end
        end)

        it("refuses " .. name .. " written in capitals", function()
            local extra = ('"%s":%s'):format(name:upper(), good)
            assert.is_nil(claims_of({ [name] = false }, extra))
        end)
    end

    for _, name in ipairs({ "iat", "exp" }) do
        local ODD = {
            "-1", "1.5", "1700000000.0", "1.7e9", "1e400", "NaN", "Infinity", "-Infinity",
            "0x7fffffff", "01700000000", "+1700000000", "9007199254740993", ("9"):rep(400),
            '" 123 "', '"9_999_999_999"', '"\217\161"', "1700000000000000",
        }
        for _, value in ipairs(ODD) do
            it("refuses " .. name .. " " .. value:sub(1, 20), function() -- J18, J20
                assert.is_nil(claims_of({ [name] = value }))
            end)
        end
    end

    -- J10, J20
    for _, extra in ipairs({ '"nbf":0', '"nbf":1700000000', '"scopes":"all"', '"":""' }) do
        it("refuses the further claim " .. extra, function()
            assert.is_nil(claims_of(nil, extra))
        end)
    end

    it("refuses 100,000 further claims", function() -- J23
        local extra = {}
        for index = 1, 100000 do
            extra[index] = ('"c%d":1'):format(index)
        end
        assert.is_nil(claims_of(nil, table.concat(extra, ",")))
    end)

    -- J10, J16, J21, J22: claim, value, why not.
    local WRONG = {
        { "iss", '""', "claims" },
        { "iss", '"Portero"', "claims" },
        { "iss", '"portero "', "claims" },
        { "iss", '"another"', "claims" },
        { "aud", '"portero"', "claims" },
        { "aud", '"portero-gateway-2"', "claims" },
        { "jti", '""', "claims" },
        { "jti", '"AAAAAAAAAAAAAAAAAAAAA"', "claims" },
        { "jti", '"AAAAAAAAAAAAAAAAAAAAAAA"', "claims" },
        { "jti", '"AAAAAAAAAAAAAAAAAAAAA*"', "claims" },
        { "jti", '"../AAAAAAAAAAAAAAAAAAA"', "claims" },
        { "jti", '"AAAAAAAAAAAAAAAAAAAAA="', "claims" },
        { "jti", '"AAAAAAAAAAAAAAAAAAAAA "', "claims" },
        { "role", '""', "role" },
        { "role", '"nobody"', "role" },
        { "role", '"User"', "role" },
        { "role", '"user "', "role" },
        { "role", '"__index"', "role" },
        { "role", '"agent_fast"', "role" },
        { "sub", '""', "role" },
        { "sub", '"USRS"', "role" },
        { "sub", '"usrsABC"', "role" },
        { "sub", '"AGNFABC"', "role" },
        { "sub", '"USR"', "role" },
        { "sub", '"XUSRSABC"', "role" },
        { "sub", '"USRSA BC"', "role" },
        { "sub", '"USRSABC "', "role" },
        { "sub", '"USRSABC/x"', "role" },
        { "sub", '"USRSABC%"', "role" },
        { "sub", '"USRSABC:x"', "role" },
        { "sub", '"USRS' .. ("A"):rep(61) .. '"', "role" },
    }
    for _, case in ipairs(WRONG) do
        it(("refuses %s %s"):format(case[1], case[2]), function()
            assert.same({ nil, case[3] }, { claims_of({ [case[1]] = case[2] }) })
        end)
    end

    -- J16, J22
    it("refuses CR, LF, NUL, escapes and bytes beyond ASCII in each text claim", function()
        for _, name in ipairs({ "iss", "aud", "sub", "role", "jti" }) do
            for _, raw in ipairs({ "\r", "\n", "\0", "\\n", "\\u0000", "\195\169" }) do
                local value = minted.claims()[name]:gsub('"$', raw .. '"')
                assert.is_nil(claims_of({ [name] = value }))
            end
        end
    end)

    it("accepts each character a username may have, up to 64 of them", function() -- J22
        for _, name in ipairs({ "USRSa", "USRS0._-Z", "USRS" .. ("x"):rep(60) }) do
            assert.equal(name, claims_of({ sub = '"' .. name .. '"' }).sub)
        end
    end)

    -- J17
    for _, text in ipairs({ '"str"', "1", "null", "[]", "true", "{}", "", " ", "[{}]" }) do
        it("refuses the payload '" .. text .. "'", function()
            assert.same({ nil, "claims" }, { claims_of_text(text) })
        end)
    end

    it("refuses a payload behind a BOM and in UTF-16", function() -- J16
        assert.is_nil(claims_of_text("\239\187\191" .. minted.payload()))
        assert.is_nil(claims_of_text((minted.payload():gsub(".", "%0\0"))))
        assert.is_nil(claims_of_text((minted.payload():gsub(".", "\0%0"))))
    end)

    it("refuses a payload that is not canonical base64url", function() -- J13, J14
        local segment = minted.encode(minted.payload())
        assert.is_table(jwt.claims(segment, 1, #segment, MEMBERS, ROLES, NOW))
        for _, deformed in ipairs({ segment .. "=", segment .. "==", segment .. "\n", "", "." }) do
            local claims, why = jwt.claims(deformed, 1, #deformed, MEMBERS, ROLES, NOW)
            assert.same({ nil, "claims" }, { claims, why })
        end
    end)

    -- J19, J20: iat, exp and now relative to NOW, and why not.
    local TIMES = {
        { "a lifetime of the role's TTL", 0, 900, 0, nil },
        { "a lifetime shorter than the TTL", 0, 1, 0, nil },
        { "the last second before exp", 0, 900, 899, nil },
        { "a lifetime one second over the TTL", 0, 901, 0, "lifetime" },
        { "a far exp", 0, 900 + 3600, 0, "lifetime" },
        { "a lifetime of nothing", 0, 0, 0, "lifetime" },
        { "an exp before iat", 0, -1, 0, "lifetime" },
        { "an iat in the next second", 1, 901, 0, "not yet issued" },
        { "an iat in the next hour", 3600, 4000, 0, "not yet issued" },
        { "an exp that is now", 0, 900, 900, "expired" },
        { "an exp long ago", 0, 900, 1000000, "expired" },
    }
    for _, case in ipairs(TIMES) do
        local what, iat, exp, now, reason = unpack(case, 1, 5)
        local answer = reason and "'" .. reason .. "'" or "the claims"
        it(("answers %s to %s"):format(answer, what), function()
            local changes = { iat = tostring(NOW + iat), exp = tostring(NOW + exp) }
            local claims, why = claims_of(changes, nil, NOW + now)
            assert.equal(reason == nil, claims ~= nil)
            assert.equal(reason, why)
        end)
    end

    it("bounds the lifetime by the TTL of the token's own role", function()
        local changes = { role = '"agent_fast"', sub = '"AGNFX"' }
        assert.same({ nil, "lifetime" }, { claims_of(changes) })
        changes.exp = tostring(NOW + 60)
        assert.is_table(claims_of(changes))
    end)

    it("refuses an iat and exp of 0 and 1 as expired only", function()
        assert.same({ nil, "expired" }, { claims_of({ iat = "0", exp = "1" }) })
    end)

    it("says 'expired' only when all else holds", function()
        local later = NOW + 901
        assert.same({ nil, "expired" }, { claims_of(nil, nil, later) })
        for _, case in ipairs(WRONG) do
            local _, reason = claims_of({ [case[1]] = case[2] }, nil, later)
            assert.equal(case[3], reason)
        end
        for name in pairs(minted.claims()) do
            assert.same({ nil, "claims" }, { claims_of({ [name] = false }, nil, later) })
        end
        assert.same({ nil, "claims" }, { claims_of(nil, '"nbf":0', later) })
        local too_long = { exp = tostring(NOW + 901) }
        assert.same({ nil, "lifetime" }, { claims_of(too_long, nil, NOW + 2000) })
    end)
end)

describe("a scope", function()
    it("is the set of the classes that a token is narrowed to, or there is none", function()
        assert.is_nil(claims_of().scope)
        assert.same({ models = true }, claims_of(nil, '"scope":"models"').scope)
        assert.same({ models = true, health = true },
            claims_of(nil, '"scope":"models health"').scope)
        assert.same({ nothing = true }, claims_of(nil, '"scope":"nothing nothing"').scope)
    end)

    it("is refused in any other form, and twice", function()
        for _, raw in ipairs({
            '""', '" "', '"models "', '" models"', '"models  health"', '"Models"', '"a,b"', '"m1"',
            "1", "null", '["models"]', "true",
        }) do
            assert.same({ nil, "claims" }, { claims_of(nil, '"scope":' .. raw) })
        end
        assert.is_nil(claims_of(nil, '"scope":"models","scope":"models"'))
    end)
end)

describe("claims_of_issuer", function()
    it("takes the payloads of this issuer alone", function()
        local members = jwt.claims_of_issuer("https://llm.example")
        for _, issuer in ipairs({ "portero", "https://llm.example", "https://llm.example/" }) do
            local segment = minted.encode(minted.payload({ iss = '"' .. issuer .. '"' }))
            local claims = jwt.claims(segment, 1, #segment, members, ROLES, NOW)
            assert.equal(issuer == "https://llm.example", claims ~= nil)
        end
    end)
end)

describe("is_jti", function()
    it("accepts 22 characters of base64url", function()
        for _, jti in ipairs({ minted.JTI, "abcdefghijklmnopqrstuv", "0123456789-_ABCDEFGHIJ" }) do
            assert.is_true(jwt.is_jti(jti))
        end
    end)

    it("refuses every other text and every other type", function() -- J21
        local others = {
            "", ("A"):rep(21), ("A"):rep(23), ("A"):rep(10240), ("A"):rep(21) .. "=",
            ("A"):rep(21) .. "*", ("A"):rep(21) .. "\0", ("A"):rep(21) .. "\n",
            ("A"):rep(20) .. "\195\169", "../" .. ("A"):rep(19), 1, true, {}, 1e21,
        }
        for _, other in ipairs(others) do
            assert.is_false(jwt.is_jti(other))
        end
        assert.is_false(jwt.is_jti(nil))
    end)
end)
