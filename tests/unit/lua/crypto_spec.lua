---------
-- libcrypto by FFI: MACs by the vectors of RFC 4231, signatures by those of RFC 7515 and RFC 8037,
-- comparison, unsealing, random bytes; threats J2, J3, J25, J27, J28.

local certificates = require("certificates")
local crypto = require("portero.token.crypto")
local minted = require("minted")
local sealing = require("sealing")
local signatures = require("signatures")

local COUNTING = ""
for value = 1, 25 do
    COUNTING = COUNTING .. string.char(value)
end

--- RFC 4231 section 4: number of the test case, key, data, MACs. Case 5 is of a truncated MAC.
local VECTORS = {
    {
        1, ("\11"):rep(20), "Hi There",
        HS256 = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        HS384 = "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59c"
            .. "faea9ea9076ede7f4af152e8b2fa9cb6",
        HS512 = "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde"
            .. "daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
    },
    {
        2, "Jefe", "what do ya want for nothing?",
        HS256 = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        HS384 = "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e"
            .. "8e2240ca5e69e2c78b3239ecfab21649",
        HS512 = "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
            .. "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
    },
    {
        3, ("\170"):rep(20), ("\221"):rep(50),
        HS256 = "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
        HS384 = "88062608d3e6ad8a0aa2ace014c8a86f0aa635d947ac9febe83ef4e55966144b"
            .. "2a5ab39dc13814b94e3ab6e101a34f27",
        HS512 = "fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39"
            .. "bf3e848279a722c806b485a47e67c807b946a337bee8942674278859e13292fb",
    },
    {
        4, COUNTING, ("\205"):rep(50),
        HS256 = "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
        HS384 = "3e8a69b7783c25851933ab6290af6ca77a9981480850009cc5577c6e1f573b4e"
            .. "6801dd23c4a7d679ccf8a386c674cffb",
        HS512 = "b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3db"
            .. "a91ca5c11aa25eb4d679275cc5788063a5f19741120c4f2de2adebeb10a298dd",
    },
    {
        6, ("\170"):rep(131),
        "Test Using Larger Than Block-Size Key - Hash Key First",
        HS256 = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        HS384 = "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c6"
            .. "0c2ef6ab4030fe8296248df163f44952",
        HS512 = "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352"
            .. "6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
    },
    {
        7, ("\170"):rep(131),
        "This is a test using a larger than block-size key and a larger than block-size data. "
            .. "The key needs to be hashed before being used by the HMAC algorithm.",
        HS256 = "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        HS384 = "6617178e941f020d351e2f254e8fd32c602420feb0b8fb9adccebb82461e99c5"
            .. "a678cc31e799176d3860e6110c46523e",
        HS512 = "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944"
            .. "b6022cac3c4982b10d5eeb55c3e4de15134676fb6de0446065c97440fa8c6a58",
    },
}

local function hexadecimal(raw)
    return (raw:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

describe("hmac", function()
    for _, vector in ipairs(VECTORS) do
        for _, algorithm in ipairs({ "HS256", "HS384", "HS512" }) do
            it(("makes the %s MAC of RFC 4231 case %d"):format(algorithm, vector[1]), function()
                local mac = crypto.hmac(algorithm, vector[2], vector[3])
                assert.equal(vector[algorithm], hexadecimal(mac))
            end)
        end
    end

    it("signs the token of RFC 7515 appendix A.1", function()
        local signed = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEz"
            .. "MDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
        local key = minted.decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0"
            .. "iPS4hcgUuTwjAzZr1Z9CAow")
        local expected = minted.decode("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
        assert.equal(expected, crypto.hmac("HS256", key, signed))
    end)

    it("covers every byte of key and text, NUL among them", function()
        local macs = {}
        for _, pair in ipairs({
            { "key", "text" }, { "key\0", "text\0" }, { "key", "text\0x" }, { "key", "text\0y" },
            { "key\0x", "text" }, { "key\0y", "text" }, { "key", "" },
        }) do
            macs[crypto.hmac("HS256", pair[1], pair[2])] = true
        end
        local count = 0
        for mac in pairs(macs) do
            assert.equal(32, #mac)
            count = count + 1
        end
        -- RFC 2104: a key is filled with NULs, so "key\0" with another text is what differs there.
        assert.equal(7, count)
    end)

    it("leaves an earlier MAC as it was", function()
        local first = crypto.hmac("HS512", "key", "one")
        local copy = hexadecimal(first)
        crypto.hmac("HS512", "key", "two")
        assert.equal(copy, hexadecimal(first))
    end)

    it("answers nil and a reason for an algorithm that is none of HMAC's", function()
        for _, algorithm in ipairs({ "none", "RS256", "hs256", "HS256 ", "" }) do
            local mac, err = crypto.hmac(algorithm, "key", "text")
            assert.is_nil(mac)
            assert.matches("^crypto%.hmac: ", err)
        end
    end)
end)

describe("an algorithm", function()
    it("is one of the six, by its very name", function()
        for _, name in ipairs({
            "none", "", "hs256", "HS1", "RS384", "PS256", "ES384", "ES256K", "Ed25519", "eddsa",
            "HS256 ", 1, true, {},
        }) do
            assert.same({ nil, "crypto.verifier: no such algorithm" },
                { crypto.verifier(name, ("k"):rep(32)) })
        end
        assert.is_nil((crypto.verifier(nil, ("k"):rep(32))))
    end)
end)

local PUBLIC = { "RS256", "ES256", "EdDSA" }

local function key_of(kind)
    return minted.decode(signatures.KEYS[kind])
end

--- A verifier of a whole text.
local function verifier(algorithm, key)
    local verify = assert(crypto.verifier(algorithm, key))
    return function(text, signature)
        return verify(text, #text, signature, #signature)
    end
end

local function example(algorithm)
    local this = signatures[algorithm]
    return verifier(algorithm, minted.decode(this.key)), this.text, minted.decode(this.signature)
end

--- Numbers as 32 bytes, the most significant first.
local function from_hexadecimal(digits)
    return (digits:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

--- The order of the curve P-256 (FIPS 186-5), and of the curve of Ed25519 (RFC 8032 section 5.1).
local P256_ORDER = from_hexadecimal(
    "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")
local ED25519_ORDER = from_hexadecimal(
    "1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed")

--- The sum of two numbers of 32 bytes, as 32 bytes; the last carry is lost.
local function sum(a, b)
    local out, carry = {}, 0
    for place = 32, 1, -1 do
        local both = a:byte(place) + b:byte(place) + carry
        carry = both > 255 and 1 or 0
        out[place] = string.char(both % 256)
    end
    return table.concat(out)
end

local function number(value)
    return ("\0"):rep(31) .. string.char(value)
end

after_each(function()
    sealing.clear_errors()
end)

describe("verifier", function()
    for _, algorithm in ipairs(PUBLIC) do
        it("verifies the example of the RFC for " .. algorithm, function()
            local verify, text, signature = example(algorithm)
            for _ = 1, 3 do
                assert.is_true(verify(text, signature))
            end
        end)

        it("refuses that example with any bit of its signature changed: " .. algorithm, function()
            local verify, text, signature = example(algorithm)
            for place = 1, #signature do
                for bit = 0, 7 do
                    local byte = signature:byte(place)
                    local has = math.floor(byte / 2 ^ bit) % 2 == 1
                    local other = string.char(has and byte - 2 ^ bit or byte + 2 ^ bit)
                    local changed = signature:sub(1, place - 1) .. other
                        .. signature:sub(place + 1)
                    assert.is_false(verify(text, changed))
                end
            end
            assert.is_true(verify(text, signature))
        end)

        it("refuses that signature over any other text: " .. algorithm, function()
            local verify, text, signature = example(algorithm)
            for _, other in ipairs({
                "", text:sub(1, -2), text .. " ", text .. "\0", "\0" .. text, text:upper(),
            }) do
                assert.is_false(verify(other, signature))
            end
        end)

        it("looks at as many bytes of the text as it is told: " .. algorithm, function()
            local _, text, signature = example(algorithm)
            local verify = crypto.verifier(algorithm, minted.decode(signatures[algorithm].key))
            assert.is_true(verify(text .. ".rest", #text, signature, #signature))
            assert.is_false(verify(text .. ".rest", #text + 1, signature, #signature))
            assert.is_false(verify(text, #text - 1, signature, #signature))
        end)

        it("refuses signatures of every other length: " .. algorithm, function()
            local verify, text, signature = example(algorithm)
            for length = 0, #signature - 1 do
                assert.is_false(verify(text, signature:sub(1, length)))
            end
            for _, more in ipairs({ "\0", "x", signature, ("\0"):rep(1000) }) do
                assert.is_false(verify(text, signature .. more))
                assert.is_false(verify(text, more .. signature))
            end
            assert.is_false(verify(text, ("\0"):rep(#signature)))
            assert.is_false(verify(text, ("\255"):rep(#signature)))
        end)

        it("refuses the examples of the others: " .. algorithm, function()
            local verify = example(algorithm)
            for _, other in ipairs(PUBLIC) do
                local _, text, signature = example(other)
                assert.equal(other == algorithm, verify(text, signature))
            end
        end)

        it("refuses a MAC by the public key's own bytes: " .. algorithm, function() -- J2
            local verify, text = example(algorithm)
            for _, digest in ipairs({ "HS256", "HS384", "HS512" }) do
                local der = minted.decode(signatures[algorithm].key)
                assert.is_false(verify(text, crypto.hmac(digest, der, text)))
            end
        end)
    end

    for _, algorithm in ipairs({ "HS256", "HS384", "HS512" }) do
        it("verifies a MAC by the secret, and no part of one: " .. algorithm, function()
            local secret, text = ("s"):rep(32), "a text"
            local verify = verifier(algorithm, secret)
            local mac = crypto.hmac(algorithm, secret, text)
            for _ = 1, 3 do
                assert.is_true(verify(text, mac))
                for length = 0, #mac - 1 do
                    assert.is_false(verify(text, mac:sub(1, length)))
                end
                assert.is_false(verify(text, mac .. "\0"))
                assert.is_false(verify(text .. "\0", mac))
                assert.is_false(verify("", mac))
            end
        end)

        it("refuses the MAC of another algorithm or secret: " .. algorithm, function() -- J3
            local secret, text = ("s"):rep(64), "a text"
            local verify = verifier(algorithm, secret)
            for _, other in ipairs({ "HS256", "HS384", "HS512" }) do
                local mac = crypto.hmac(other, secret, text)
                assert.equal(other == algorithm, verify(text, mac))
                assert.is_false(verify(text, crypto.hmac(other, ("s"):rep(63), text)))
            end
        end)

        it("keeps two secrets apart whose texts come by turns: " .. algorithm, function()
            local a, b = verifier(algorithm, ("a"):rep(32)), verifier(algorithm, ("b"):rep(32))
            local mac_a = crypto.hmac(algorithm, ("a"):rep(32), "x")
            local mac_b = crypto.hmac(algorithm, ("b"):rep(32), "x")
            for _ = 1, 10 do
                assert.same({ true, false }, { a("x", mac_a), a("x", mac_b) })
                assert.same({ false, true }, { b("x", mac_a), b("x", mac_b) })
            end
        end)

        it("refuses a secret under 32 bytes: " .. algorithm, function()
            for _, secret in ipairs({ "", "s", ("s"):rep(31) }) do
                local verify, err = crypto.verifier(algorithm, secret)
                assert.is_nil(verify)
                assert.matches("^crypto%.verifier: ", err)
            end
            assert.is_function(crypto.verifier(algorithm, ("s"):rep(32)))
            assert.is_function(crypto.verifier(algorithm, ("s"):rep(500)))
            assert.is_function(crypto.verifier(algorithm, ("\0"):rep(32)))
        end)
    end

    --- Which kinds of key are one of an algorithm.
    local FIT = {
        RS256 = { ["RSA 2048"] = true, ["RSA 3072"] = true, ["RSA 4096"] = true },
        ES256 = { ["P-256"] = true },
        EdDSA = { ["Ed25519"] = true },
    }
    for algorithm, fit in pairs(FIT) do
        for kind in pairs(signatures.KEYS) do
            local word = fit[kind] and "takes" or "refuses"
            it(("%s a public key of kind %s for %s"):format(word, kind, algorithm), function()
                local verify, err = crypto.verifier(algorithm, key_of(kind))
                assert.equal(fit[kind] or false, verify ~= nil)
                assert.is_true(verify ~= nil or err:find("^crypto%.verifier: ") ~= nil)
                assert.is_true(sealing.is_error_queue_empty())
            end)
        end

        it("refuses what is no public key: " .. algorithm, function()
            for kind in pairs(fit) do
                local der = key_of(kind)
                for _, other in ipairs({
                    "", "x", "\48", ("s"):rep(32), der:sub(1, -2), der:sub(2), "\0" .. der,
                    ("\0"):rep(#der), ("\255"):rep(#der),
                    minted.decode(signatures.PRIVATE[algorithm]),
                }) do
                    local verify, err = crypto.verifier(algorithm, other)
                    assert.is_nil(verify)
                    assert.matches("^crypto%.verifier: ", err)
                    assert.is_true(sealing.is_error_queue_empty())
                end
            end
        end)
    end

    it("leaves no error behind, whatever it was asked", function()
        for _, algorithm in ipairs(PUBLIC) do
            local verify, text, signature = example(algorithm)
            for _, other in ipairs({
                signature, "", "x", signature:sub(2), signature .. "\0", ("\0"):rep(#signature),
                ("\255"):rep(#signature), signature:reverse(),
            }) do
                verify(text, other)
                assert.is_true(sealing.is_error_queue_empty())
            end
        end
    end)

    it("holds when thousands are made and thrown away, with their keys", function()
        for index = 1, 3000 do
            local verify, text, signature = example("EdDSA")
            if index % 100 == 0 then
                collectgarbage()
            end
            assert.is_true(verify(text, signature))
        end
    end)
end)

describe("ES256", function() -- J25
    for _, case in ipairs(signatures.EXTREME) do
        it("accepts " .. case.what, function()
            local verify = verifier("ES256", minted.decode(case.key))
            assert.is_true(verify(signatures.TEXT, minted.decode(case.signature)))
        end)

        it("refuses the same with a leading zero more or less: " .. case.what, function()
            local verify = verifier("ES256", minted.decode(case.key))
            local signature = minted.decode(case.signature)
            local r, s = signature:sub(1, 32), signature:sub(33)
            for _, other in ipairs({
                "\0" .. r .. s, r .. "\0" .. s, "\0" .. r .. "\0" .. s, r:sub(2) .. s,
                r .. s:sub(2), r:sub(2) .. s:sub(2),
            }) do
                assert.is_false(verify(signatures.TEXT, other))
            end
        end)
    end

    it("refuses the same numbers in DER", function()
        for _, case in ipairs(signatures.EXTREME) do
            local verify = verifier("ES256", minted.decode(case.key))
            local r, s = minted.decode(case.signature):match("^(" .. ("."):rep(32) .. ")(.*)$")
            local der = "\48\68\2\32" .. r .. "\2\32" .. s
            assert.is_false(verify(signatures.TEXT, der))
        end
    end)

    -- r = 5 and s = 1 are good with their key: 5 + n and 1 + n are the same to who reduces first.
    it("refuses numbers above the order n, though they are the same modulo n", function()
        local case = signatures.EXTREME[1]
        local verify = verifier("ES256", minted.decode(case.key))
        local good = minted.decode(case.signature)
        local r, s = good:sub(1, 32), good:sub(33)
        assert.is_true(verify(signatures.TEXT, r .. s))
        for _, other in ipairs({ sum(r, P256_ORDER) .. s, r .. sum(s, P256_ORDER),
            sum(r, P256_ORDER) .. sum(s, P256_ORDER) }) do
            assert.is_false(verify(signatures.TEXT, other))
        end
    end)

    local LESS = P256_ORDER:sub(1, 31) .. string.char(P256_ORDER:byte(32) - 1)
    local NUMBERS = {
        { "0", number(0) },
        { "n - 1", LESS },
        { "n", P256_ORDER },
        { "n + 1", sum(P256_ORDER, number(1)) },
        { "2^256 - 1", ("\255"):rep(32) },
    }
    for _, case in ipairs(NUMBERS) do
        it(("refuses r or s of %s and leaves no error behind"):format(case[1]), function()
            local verify, text, signature = example("ES256")
            for _, other in ipairs({
                case[2] .. signature:sub(33), signature:sub(1, 32) .. case[2], case[2] .. case[2],
                case[2] .. number(1), number(1) .. case[2],
            }) do
                assert.is_false(verify(text, other))
                assert.is_true(sealing.is_error_queue_empty())
            end
        end)
    end
end)

describe("EdDSA", function() -- J28
    -- Little-endian: the second half of a signature is S.
    it("refuses S plus the order of the curve, once and as often as it fits", function()
        local verify, text, signature = example("EdDSA")
        local s = signature:sub(33):reverse()
        for _ = 1, 15 do
            s = sum(s, ED25519_ORDER)
            assert.is_false(verify(text, signature:sub(1, 32) .. s:reverse()))
        end
    end)

    it("refuses an S of 0, of the order, and of all bits", function()
        local verify, text, signature = example("EdDSA")
        for _, s in ipairs({ number(0), ED25519_ORDER:reverse(), ("\255"):rep(32) }) do
            assert.is_false(verify(text, signature:sub(1, 32) .. s))
            assert.is_true(sealing.is_error_queue_empty())
        end
    end)

    it("refuses an R of small order", function()
        local verify, text, signature = example("EdDSA")
        for _, r in ipairs({ number(0), number(1):reverse(), ("\255"):rep(32) }) do
            assert.is_false(verify(text, r .. signature:sub(33)))
            assert.is_false(verify(text, r .. number(0)))
        end
    end)
end)

describe("RS256", function() -- J27
    it("refuses a signature with a zero before or behind it", function()
        local verify, text, signature = example("RS256")
        assert.equal(256, #signature)
        assert.is_false(verify(text, "\0" .. signature))
        assert.is_false(verify(text, signature .. "\0"))
    end)

    it("refuses the numbers 0, 1, n - 1 and n for a signature", function()
        local verify, text = example("RS256")
        -- The modulus stands before the exponent, which is 65537: the last five bytes.
        local modulus = minted.decode(signatures.RS256.key):sub(-261, -6)
        local less = modulus:sub(1, 255) .. string.char(modulus:byte(256) - 1)
        for _, signature in ipairs({
            ("\0"):rep(256), ("\0"):rep(255) .. "\1", less, modulus, ("\255"):rep(256),
        }) do
            assert.equal(256, #signature)
            assert.is_false(verify(text, signature))
            assert.is_true(sealing.is_error_queue_empty())
        end
    end)
end)

describe("unseal", function()
    -- Test case 16 of McGrew and Viega, "The Galois/Counter Mode of Operation".
    local KEY = from_hexadecimal(("feffe9928665731c6d6a8f9467308308"):rep(2))
    local NONCE = from_hexadecimal("cafebabefacedbaddecaf888")
    local LABEL = from_hexadecimal("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    local TEXT = from_hexadecimal("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        .. "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39")
    local SEALED = NONCE .. from_hexadecimal("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598"
        .. "a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        .. "76fc6ece0f4e1768cddf8853bb2d551b")

    it("opens what is sealed by AES-256-GCM, by the published example", function()
        assert.equal(SEALED, sealing.seal(KEY, LABEL, TEXT, NONCE))
        assert.equal(TEXT, crypto.unseal(KEY, LABEL, SEALED))
    end)

    it("opens texts of every length", function()
        for _, length in ipairs({ 1, 2, 15, 16, 17, 31, 32, 33, 100, 4096, 100000 }) do
            local text = ("t"):rep(length)
            assert.equal(text, crypto.unseal(KEY, LABEL, sealing.seal(KEY, LABEL, text)))
        end
        local odd = "a\0b\255\0"
        assert.equal(odd, crypto.unseal(KEY, "", sealing.seal(KEY, "", odd)))
    end)

    it("writes into no memory but its own, however often it is called", function()
        local sealed = sealing.seal(KEY, LABEL, TEXT)
        for index = 1, 20000 do
            assert(crypto.unseal(KEY, LABEL, sealed) == TEXT)
            if index % 1000 == 0 then
                collectgarbage()
            end
        end
    end)

    it("answers nil for another key, also for one of another length", function()
        for _, key in ipairs({
            ("k"):rep(32), KEY:sub(1, 31) .. "\0", KEY:sub(1, 31), KEY:sub(1, 16), KEY .. "\0", "",
        }) do
            assert.is_nil(crypto.unseal(key, LABEL, SEALED))
            assert.is_true(sealing.is_error_queue_empty())
        end
    end)

    it("answers nil for another label", function()
        for _, label in ipairs({ "", "portero", LABEL .. "\0", LABEL:sub(2), "x" .. LABEL }) do
            assert.is_nil(crypto.unseal(KEY, label, SEALED))
            assert.is_true(sealing.is_error_queue_empty())
        end
    end)

    it("answers nil for any part of what was sealed", function()
        for length = 0, #SEALED - 1 do
            assert.is_nil(crypto.unseal(KEY, LABEL, SEALED:sub(1, length)))
            assert.is_nil(crypto.unseal(KEY, LABEL, SEALED:sub(#SEALED - length + 1)))
            assert.is_true(sealing.is_error_queue_empty())
        end
    end)

    it("answers nil for more than was sealed", function()
        for _, more in ipairs({ "\0", "x", SEALED }) do
            assert.is_nil(crypto.unseal(KEY, LABEL, SEALED .. more))
            assert.is_nil(crypto.unseal(KEY, LABEL, more .. SEALED))
        end
    end)

    it("answers nil with any one bit changed, in nonce, text or tag", function()
        for place = 1, #SEALED do
            for bit = 0, 7 do
                local byte = SEALED:byte(place)
                local has = math.floor(byte / 2 ^ bit) % 2 == 1
                local other = string.char(has and byte - 2 ^ bit or byte + 2 ^ bit)
                local changed = SEALED:sub(1, place - 1) .. other .. SEALED:sub(place + 1)
                assert.is_nil(crypto.unseal(KEY, LABEL, changed))
            end
        end
        assert.is_true(sealing.is_error_queue_empty())
        assert.equal(TEXT, crypto.unseal(KEY, LABEL, SEALED))
    end)

    it("leaves no error behind when it opens", function()
        crypto.unseal(KEY, LABEL, SEALED)
        assert.is_true(sealing.is_error_queue_empty())
    end)
end)

describe("has_sha256", function()
    -- FIPS 180-4's own example, and the digest of nothing.
    local ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    local NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    local function raw(text)
        return (text:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
    end

    it("is true of the digest of so many bytes, whatever stands behind it", function()
        assert.is_true(crypto.has_sha256("abc", 3, raw(ABC)))
        assert.is_true(crypto.has_sha256("abcd", 3, raw(ABC) .. "more"))
        assert.is_true(crypto.has_sha256("abc", 0, raw(NOTHING)))
    end)

    it("is false of every other digest, and of one that is too short", function()
        for at = 1, 32 do
            local digest = raw(ABC)
            local byte = string.char((digest:byte(at) + 1) % 256)
            assert.is_false(crypto.has_sha256("abc", 3, digest:sub(1, at - 1) .. byte
                .. digest:sub(at + 1)))
        end
        assert.is_false(crypto.has_sha256("abc", 3, raw(ABC):sub(1, 31)))
        assert.is_false(crypto.has_sha256("abc", 3, ""))
    end)
end)

describe("equal", function()
    it("is true for equal texts, also for two empty ones", function()
        assert.is_true(crypto.equal("", ""))
        assert.is_true(crypto.equal("a\0b", "a\0b"))
        assert.is_true(crypto.equal(("x"):rep(1000), ("x"):rep(1000)))
    end)

    it("is false for texts of different lengths, also where one begins the other", function()
        for _, pair in ipairs({ { "", "a" }, { "ab", "a" }, { "a", "ab" }, { "a", "a\0" } }) do
            assert.is_false(crypto.equal(pair[1], pair[2]))
        end
    end)

    it("is false for one different byte, wherever it is", function()
        local text = ("x"):rep(32)
        for place = 1, 32 do
            local other = text:sub(1, place - 1) .. "y" .. text:sub(place + 1)
            assert.is_false(crypto.equal(text, other))
        end
        assert.is_false(crypto.equal("a\0b", "a\0c"))
    end)
end)

describe("random", function()
    it("answers as many bytes as asked for", function()
        for _, length in ipairs({ 1, 8, 16, 64 }) do
            assert.equal(length, #crypto.random(length))
        end
    end)

    it("answers other bytes each time", function()
        local seen = {}
        for _ = 1, 1000 do
            local bytes = crypto.random(16)
            assert.is_nil(seen[bytes])
            seen[bytes] = true
        end
    end)
end)

describe("hexadecimal", function()
    it("writes two lower-case digits a byte, also for NUL and line ends", function()
        assert.equal("", crypto.hexadecimal(""))
        assert.equal("000a0dff61", crypto.hexadecimal("\0\n\r\255a"))
    end)
end)

describe("certificates", function()
    local GOOD, EXPIRED = certificates.good, certificates.expired
    --- A line of a certificate left out: it begins and ends, and is none.
    local DAMAGED = GOOD:gsub("\n[^\n]+\n", "\n", 1)
    local KEY = "-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\n"

    -- Text, how many, how many of them expired.
    local CASES = {
        { "", 0, 0 },
        { "no PEM", 0, 0 },
        { GOOD, 1, 0 },
        { EXPIRED, 1, 1 },
        { GOOD .. EXPIRED .. GOOD, 3, 1 },
        { "a word before\n" .. GOOD .. "and behind", 1, 0 },
        { KEY .. GOOD, 1, 0 },
        { DAMAGED, 0, 0 },
        { GOOD .. DAMAGED .. GOOD, 1, 0 },
        { GOOD:gsub("\n", "\r\n"), 1, 0 },
        { GOOD:sub(1, -20), 0, 0 },
    }
    for index, case in ipairs(CASES) do
        it(("are counted (%d)"):format(index), function()
            assert.same({ case[2], case[3] }, { crypto.certificates(case[1]) })
        end)
    end

    it("are found by OpenSSL by the hashes of their subjects, each told once", function()
        local hashes = crypto.certificate_hashes(GOOD .. EXPIRED .. GOOD)
        -- openssl x509 -noout -subject_hash
        assert.same({ "d3e2f67d", "4470e4d8" }, hashes)
        assert.same({}, crypto.certificate_hashes("no certificate"))
    end)

    it("leave no error behind that a signature could be blamed for", function()
        crypto.certificates(DAMAGED)
        assert.same({ 1, 0 }, { crypto.certificates(GOOD) })
    end)
end)

describe("a certificate of one's own", function()
    local own = crypto.certificate(certificates.own)

    it("is the first of a text, and nil where there is none", function()
        assert.is_truthy(own)
        assert.is_nil(crypto.certificate(certificates.own_key))
        assert.is_nil(crypto.certificate(""))
    end)

    it("knows its key from another's, and from what is none (is_key_of)", function()
        assert.is_true(crypto.is_key_of(own, certificates.own_key))
        assert.is_false(crypto.is_key_of(own, certificates.future_key))
        for _, text in ipairs({ "", certificates.own, certificates.sealed_key }) do
            assert.is_nil(crypto.is_key_of(own, text))
        end
    end)

    it("tells when it begins and ends (times)", function()
        local begins, ends = crypto.times(own)
        assert.is_true(begins < 0 and ends > 0)
        begins, ends = crypto.times(crypto.certificate(certificates.future))
        assert.is_true(begins > 0 and ends > begins)
        begins, ends = crypto.times(crypto.certificate(certificates.ended))
        assert.is_true(begins < ends and ends < 0)
    end)

    it("is for the names that it has, where it has any (has_names, is_for)", function()
        assert.is_true(crypto.has_names(own))
        assert.is_false(crypto.has_names(crypto.certificate(certificates.good)))
        assert.is_true(crypto.is_for(own, "door.lan"))
        assert.is_true(crypto.is_for(own, "127.0.0.1"))
        assert.is_false(crypto.is_for(own, "door.lan.evil.example"))
    end)
end)
