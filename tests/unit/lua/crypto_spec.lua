---------
-- libcrypto by FFI: MACs by the vectors of RFC 4231, comparison, random bytes.

local crypto = require("portero.crypto")
local jwt = require("portero.jwt")

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
        local key = jwt.decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0"
            .. "iPS4hcgUuTwjAzZr1Z9CAow")
        local expected = jwt.decode("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
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

describe("is_hmac", function()
    it("knows HS256, HS384 and HS512 and no other name", function()
        for _, name in ipairs({ "HS256", "HS384", "HS512" }) do
            assert.is_true(crypto.is_hmac(name))
        end
        for _, name in ipairs({ "none", "", "hs256", "HS1", "RS256", "ES256", "EdDSA" }) do
            assert.is_false(crypto.is_hmac(name))
        end
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
