---------
-- The keys in force: threats J3, J5; the kid must be the one `issuer/keys` makes.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")
local minted = require("minted")
local signatures = require("signatures")

local HISTORY = minted.HISTORY
local A, B = ("s"):rep(32), "another key, thirty-two bytes or so"
local KID_A, KID_B = "gbmzKQfefUOaaGol", "On_1IJqNyAOOeXFy"

local fake, dict, shared_versions, keys

before_each(function()
    fake = fake_ngx.install()
    dict = fake.shared.portero_keys
    shared_versions, keys = fake.load("portero.shared_versions"), fake.load("portero.token.keys")
    keys.start({ sync_key = minted.SYNC_KEY })
end)

local function entry(secret, algorithm)
    return minted.entry(algorithm, secret)
end

local function put(serial, ...)
    return keys.put(HISTORY, serial, minted.sealed(...))
end

local function version()
    shared_versions.look()
    return shared_versions.keys()
end

describe("find", function()
    -- Made by issuer/keys; the last has both characters that base64url writes differently.
    local KIDS = {
        [A] = KID_A,
        ["SECRET-KEY-OF-A-TEST-0123456789ab"] = "gPbpRVQP7wjYHXpW",
        [B] = KID_B,
        ["00000000000000000000000000000010"] = "kpYKX_vt4OpG-qka",
    }
    for secret, kid in pairs(KIDS) do
        it("answers the key of the kid that the issuer gives it: " .. kid, function()
            assert.is_true(put(1, entry(secret)))
            keys.load()
            assert.equal("HS256", keys.find(kid).algorithm)
        end)
    end

    it("answers nothing to any other name", function() -- J5
        put(1, entry(A))
        keys.load()
        for _, kid in ipairs({
            "", "gbmzKQfefUOaaGoL", "gbmzKQfefUOaaGol ", "gbmzKQfefUOaaGo", "../../dev/null",
            "/etc/passwd", "' OR 1=1 --", "$(id)", "__index", "gbmzKQfefUOaaGol\0",
            ("k"):rep(65536),
        }) do
            assert.is_nil(keys.find(kid))
        end
    end)

    it("answers nothing before keys came, nor in a worker that has not read them", function()
        assert.is_nil(keys.find(KID_A))
        keys.load()
        assert.is_nil(keys.find(KID_A))
        put(1, entry(A))
        assert.is_nil(keys.find(KID_A))
    end)

    it("answers a key of every algorithm, which verifies by it and by no other", function()
        local kinds = { "RS256", "ES256", "EdDSA" }
        local listed = { entry(A) }
        for index, algorithm in ipairs(kinds) do
            local der = minted.decode(signatures[algorithm].key)
            listed[index + 1] = minted.entry(algorithm, der, algorithm)
        end
        assert.is_true(put(1, unpack(listed)))
        keys.load()
        for _, algorithm in ipairs(kinds) do
            local key = keys.find(algorithm)
            assert.equal(algorithm, key.algorithm)
            for _, other in ipairs(kinds) do
                local signed = signatures[other]
                local text = signed.text
                local signature = minted.decode(signed.signature)
                local holds = key.verify(text, #text, signature, #signature)
                assert.equal(other == algorithm, holds)
            end
        end
    end)
end)

describe("put", function()
    it("takes a list in place of all others", function()
        put(1, entry(A))
        put(2, entry(B))
        keys.load()
        assert.is_nil(keys.find(KID_A))
        assert.is_table(keys.find(KID_B))
    end)

    it("takes several keys", function()
        put(1, entry(A), entry(B, "HS512"))
        keys.load()
        assert.equal("HS256", keys.find(KID_A).algorithm)
        assert.equal("HS512", keys.find(KID_B).algorithm)
    end)

    it("raises the version of the keys each time it takes a list", function()
        for serial = 1, 5 do
            put(serial, entry(A))
            assert.equal(serial, version())
        end
    end)

    it("refuses an older list of the same history, and changes nothing", function()
        put(10, entry(A))
        for _, serial in ipairs({ 9, 2, 0 }) do
            assert.same({ nil, "older" }, { put(serial, entry(B)) })
        end
        keys.load()
        assert.is_table(keys.find(KID_A))
        assert.is_nil(keys.find(KID_B))
        assert.equal(1, version())
        assert.equal(HISTORY .. ":10", keys.mark())
    end)

    it("takes the list of a serial again", function()
        put(10, entry(A))
        assert.is_true(put(10, entry(A)))
        assert.equal(HISTORY .. ":10", keys.mark())
    end)

    it("takes any serial of another history: the key file was made anew", function()
        put(10, entry(A))
        assert.is_true(keys.put("another", 1, minted.sealed(entry(B))))
        assert.equal("another:1", keys.mark())
        assert.is_true(put(2, entry(A)))
        assert.equal(HISTORY .. ":2", keys.mark())
    end)

    it("tells histories apart by their whole names", function()
        for _, history in ipairs({ "", "a", "a:1", "a:1:2", ":", "1" }) do
            assert.is_true(keys.put(history, 7, minted.sealed(entry(A))))
            assert.same({ nil, "older" }, { keys.put(history, 6, minted.sealed(entry(A))) })
            assert.equal(history .. ":7", keys.mark())
        end
    end)

    local PUBLIC = minted.decode(signatures.ES256.key)
    --- Entries that are none, or whose key is not one of the algorithm.
    local BAD = {
        ["without a kid"] = { alg = "HS256", key = entry(B).key },
        ["whose kid is no text"] = { kid = 1, alg = "HS256", key = entry(B).key },
        ["without a key"] = { kid = "k", alg = "HS256" },
        ["whose key is no text"] = { kid = "k", alg = "HS256", key = 1 },
        ["whose key is no base64"] = { kid = "k", alg = "HS256", key = ("*"):rep(64) },
        ["whose key is empty"] = { kid = "k", alg = "HS256", key = "" },
        ["without an algorithm"] = { kid = "k", key = entry(B).key },
        ["of the algorithm none"] = minted.entry("none", B),
        ["of an algorithm in small letters"] = minted.entry("hs256", B),
        ["of an algorithm that no one here knows"] = minted.entry("PS256", B),
        ["whose algorithm is no text"] = { kid = "k", alg = {}, key = entry(B).key },
        ["whose secret has 31 bytes"] = minted.entry("HS256", ("s"):rep(31)),
        ["whose public key is of another algorithm"] = minted.entry("EdDSA", PUBLIC),
        ["whose public key is a secret"] = minted.entry("ES256", B),
        ["that is no table"] = "k",
        ["that is null"] = cjson.null,
    }
    for what, bad in pairs(BAD) do
        it("refuses a whole list for one entry " .. what, function()
            put(1, entry(A))
            for _, listed in ipairs({ { bad }, { bad, entry(B) }, { entry(B), bad } }) do
                local ok, err = put(2, unpack(listed))
                assert.is_nil(ok)
                assert.is_string(err)
            end
            keys.load()
            assert.is_table(keys.find(KID_A))
            assert.is_nil(keys.find(KID_B))
            assert.equal(HISTORY .. ":1", keys.mark())
            assert.equal(1, version())
        end)
    end

    for kind, der in pairs(signatures.PRIVATE) do
        it("takes no private key, which could mint: " .. kind, function()
            assert.is_nil((put(1, minted.entry(kind, minted.decode(der)))))
            assert.equal(0, dict:count())
        end)
    end

    local function sealed_text(text)
        return keys.put(HISTORY, 2, minted.seal(text))
    end

    for _, text in ipairs({
        "", "{", "null", "1", '"x"', "[]", "{}", '{"keys":[]}', '{"keys":{}}', '{"keys":1}',
        '{"keys":"x"}', '{"keys":null}', '{"keys":[null]}', '{"keys":{"a":{}}}', '{"keys":[1]}',
    }) do
        it(("refuses what is well sealed and no list of keys: %q"):format(text), function()
            put(1, entry(A))
            local ok, err = sealed_text(text)
            assert.is_nil(ok)
            assert.is_string(err)
            assert.equal(HISTORY .. ":1", keys.mark())
            assert.equal(1, version())
        end)
    end

    it("refuses what is not sealed by the sync key", function()
        local plain = cjson.encode({ keys = { entry(A) } })
        for _, sealed in ipairs({
            "", "*", plain, fake.ngx.encode_base64(plain), minted.seal(plain, ("k"):rep(33)),
            minted.sealed(entry(A)):sub(1, -5), minted.sealed(entry(A)):sub(5),
        }) do
            assert.is_nil((keys.put(HISTORY, 1, sealed)))
        end
        assert.equal(0, dict:count())
    end)

    it("refuses what has not the form of a message", function()
        local sealed = minted.sealed(entry(A))
        for _, form in ipairs({
            { nil, 1, sealed }, { 1, 1, sealed }, { HISTORY, "1", sealed }, { HISTORY, 1, 1 },
            { HISTORY, 1, cjson.null }, { HISTORY, 1.5, sealed }, { HISTORY, -1, sealed },
            { "a\nb", 1, sealed }, { HISTORY, 2 ^ 53, sealed },
            { cjson.null, 1, sealed }, { HISTORY, cjson.null, sealed },
            { HISTORY, 1, {} },
        }) do
            assert.same({ nil, "form" }, { keys.put(form[1], form[2], form[3]) })
        end
    end)

    it("does not pass over in silence that there was no room", function()
        for room = 0, 1 do -- none for the lock, then none for the list
            dict.most_entries = room
            assert.same({ nil, "no memory" }, { put(1, entry(A)) })
            assert.equal(0, version())
            assert.equal("", keys.mark())
        end
    end)

    it("says that it is busy where another writer does not end", function()
        dict:safe_add("lock", true)
        assert.same({ nil, "busy" }, { put(1, entry(A)) })
        assert.equal(0, version())
    end)

    it("keeps no name of a list that not all workers were told of", function()
        local raise, seen = shared_versions.raise_keys, nil
        local load = fake.new_worker()
        load("portero.shared_versions").raise_keys = function()
            seen = keys.mark()
            raise()
        end
        local other = load("portero.token.keys")
        other.start({ sync_key = minted.SYNC_KEY })
        assert.is_true(other.put(HISTORY, 1, minted.sealed(entry(A))))
        assert.same({ "", HISTORY .. ":1" }, { seen, keys.mark() })
    end)

    -- Both come at once to two workers: the reconciler brings what it has read, and `keys retire`
    -- the list without the key.
    it("never keeps an older list under the name of a newer one", function()
        local late = fake.new_worker()("portero.token.keys")
        late.start({ sync_key = minted.SYNC_KEY })
        put(1, entry(A))
        -- The other one comes between the look of this one and its write, and waits for its end.
        local older, answer = minted.sealed(entry(A)), nil
        rawset(fake.ngx, "sleep", coroutine.yield)
        local thread = coroutine.create(function() answer = { late.put(HISTORY, 2, older) } end)
        dict.meanwhile.safe_set = function() assert(coroutine.resume(thread)) end
        assert.is_true(put(3, entry(B)))
        assert(coroutine.resume(thread))
        assert.same({ nil, "older" }, answer)
        keys.load()
        assert.equal(HISTORY .. ":3", keys.mark())
        assert.is_table(keys.find(KID_B))
        assert.is_nil(keys.find(KID_A))
    end)
end)

describe("mark", function()
    it("is empty before there are keys", function()
        assert.equal("", keys.mark())
    end)

    it("names history and serial, for all workers", function()
        put(12, entry(A))
        assert.equal(HISTORY .. ":12", fake.new_worker()("portero.token.keys").mark())
    end)
end)

describe("load", function()
    it("gives a worker what another has put", function()
        local other = fake.new_worker()("portero.token.keys")
        put(1, entry(A))
        assert.is_nil(other.find(KID_A))
        other.load()
        assert.is_table(other.find(KID_A))
    end)

    it("leaves nothing of what was there before", function()
        put(1, entry(A))
        keys.load()
        dict.entries = {}
        keys.load()
        assert.is_nil(keys.find(KID_A))
    end)
end)

describe("start", function()
    it("sets the key that lists are sealed with, which comes from the sync key", function()
        keys.start({ sync_key = ("k"):rep(32) })
        assert.is_nil((put(1, entry(A))))
        local text = cjson.encode({ keys = { entry(A) } })
        assert.is_true(keys.put(HISTORY, 1, minted.seal(text, ("k"):rep(32))))
    end)
end)

describe("logs", function()
    it("hold nothing, whatever is put", function()
        put(2, entry(A))
        put(1, entry(A))
        put(3, minted.entry("HS256", "short"))
        assert.same({}, fake.logged)
    end)
end)
