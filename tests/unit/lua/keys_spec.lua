---------
-- The keys in force: threats J3, J5; the kid must be the one `issuer/keys.py` makes.

local fake_ngx = require("fake_ngx")

local keys

before_each(function()
    keys = fake_ngx.install().load("portero.keys")
end)

describe("set and find", function()
    -- Made by issuer/keys.py; the last has both characters that base64url writes differently.
    local KIDS = {
        ["ssssssssssssssssssssssssssssssss"] = "gbmzKQfefUOaaGol",
        ["SECRET-KEY-OF-A-TEST-0123456789ab"] = "gPbpRVQP7wjYHXpW",
        ["another key, thirty-two bytes or so"] = "On_1IJqNyAOOeXFy",
        ["00000000000000000000000000000010"] = "kpYKX_vt4OpG-qka",
    }
    for secret, kid in pairs(KIDS) do
        it("finds a key by the kid that the issuer gives it: " .. kid, function()
            keys.set("HS256", secret)
            assert.same({ algorithm = "HS256", secret = secret }, keys.find(kid))
        end)
    end

    it("gives a key one kid whatever its algorithm", function()
        for _, algorithm in ipairs({ "HS256", "HS384", "HS512" }) do
            keys.set(algorithm, ("s"):rep(32))
            assert.equal(algorithm, keys.find("gbmzKQfefUOaaGol").algorithm)
        end
    end)

    it("keeps no key in force that another was put in place of", function()
        keys.set("HS256", ("s"):rep(32))
        keys.set("HS256", "another key, thirty-two bytes or so")
        assert.is_nil(keys.find("gbmzKQfefUOaaGol"))
        assert.is_table(keys.find("On_1IJqNyAOOeXFy"))
    end)

    it("finds nothing by any other name", function() -- J5
        keys.set("HS256", ("s"):rep(32))
        for _, kid in ipairs({
            "", "gbmzKQfefUOaaGoL", "gbmzKQfefUOaaGol ", "gbmzKQfefUOaaGo", "../../dev/null",
            "/etc/passwd", "' OR 1=1 --", "$(id)", "__index", "gbmzKQfefUOaaGol\0",
            ("k"):rep(65536),
        }) do
            assert.is_nil(keys.find(kid))
        end
    end)

    it("finds nothing before a key was put in force", function()
        assert.is_nil(keys.find("gbmzKQfefUOaaGol"))
    end)
end)
