---------
-- Verification and its cache: docs/http-api.md, threats J1-J6, J9, J13-J15, J24, J31.

local fake_ngx = require("fake_ngx")
local minted = require("minted")

local NOW = minted.NOW

--- A policy of these limits, or none: the user's own (false for none) behind the role's.
local function policy_of(of_role, of_user)
    return {
        roles = { user = { code = "USRS", ttl_seconds = 900, limits = of_role } },
        users = { USRSABC123 = of_user },
        by_code = {}, issuer = "portero",
    }
end

local fake, shared_versions, token_cache, recent, made, policy
--- How many signatures were looked at, and whether libcrypto refuses them all.
local signatures, is_refused

local real_new, crypto, verifier

before_each(function()
    fake = fake_ngx.install(NOW)
    recent = fake.load("portero.token.recent")
    real_new, made = recent.new, nil
    recent.new = function(most)
        made = most
        return real_new(4)
    end
    shared_versions = fake.load("portero.shared_versions")
    token_cache = fake.load("portero.token.token_cache")
    crypto = fake.load("portero.token.crypto")
    verifier = crypto.verifier
    signatures, is_refused = 0, false
    crypto.verifier = function(...)
        local verify, err = verifier(...)
        return verify and function(text, length, signature, bytes)
            signatures = signatures + 1
            return not is_refused and verify(text, length, signature, bytes)
        end, err
    end
    minted.put_key(fake)
    policy = policy_of()
end)

after_each(function()
    recent.new, crypto.verifier = real_new, verifier
end)

--- As a request asks: it looks at the state once, at its beginning.
local function claims_of(token, now)
    shared_versions.look()
    return token_cache.claims(token, 1, now or NOW, policy)
end

local function assert_refused(reason, token, now)
    assert.same({ nil, reason }, { claims_of(token, now) })
end

local function token_of(jti)
    return minted.token(minted.payload({ jti = '"' .. jti:rep(22) .. '"' }))
end

describe("claims", function()
    it("answers the claims of an authentic token in its time", function()
        local claims, reason = claims_of(minted.token())
        assert.is_nil(reason)
        assert.equal("USRSABC123", claims.sub)
        assert.equal("user", claims.role)
        assert.equal(minted.JTI, claims.jti)
        assert.equal(NOW + 900, claims.exp)
    end)

    for _, algorithm in ipairs({ "HS256", "HS384", "HS512" }) do
        it("verifies a token by the algorithm of its key, " .. algorithm, function()
            minted.put_key(fake, algorithm)
            local token = minted.token(nil, minted.header(algorithm), algorithm)
            assert.is_table(claims_of(token))
        end)
    end

    -- J1, J3: the token's algorithm is not the key's, whatever it is signed with.
    for _, alg in ipairs({
        "none", "None", "NONE", "nOnE", "", "HS384", "HS512", "hs256", "HS256 ", "RS256", "PS256",
        "ES256", "ES256K", "EdDSA", "A128KW",
    }) do
        it(("refuses alg '%s' with a signature of the right key"):format(alg), function()
            for _, signer in ipairs({ "HS256", "HS384", "HS512" }) do
                assert_refused("key", minted.token(nil, minted.header(alg), signer))
            end
        end)

        it(("refuses alg '%s' with no signature"):format(alg), function()
            local token = minted.token(nil, minted.header(alg)):match("^(.*%.)[^.]*$")
            assert_refused("key", token)
        end)
    end

    it("refuses an HS256 token once the key is one of HS512", function() -- J3
        minted.put_key(fake, "HS512")
        assert_refused("key", minted.token())
    end)

    it("refuses every kid but the one in force", function() -- J5
        for _, kid in ipairs({
            "", "../../dev/null", "/dev/null", "' OR '1'='1", "; id", "kid", ("k"):rep(1000),
            minted.kid("another secret, thirty-two bytes."), minted.kid(minted.SECRET) .. " ",
        }) do
            assert_refused("key", minted.token(nil, minted.header("HS256", kid)))
        end
    end)

    it("refuses a token of another key under the kid in force", function()
        assert_refused("signature", minted.token(nil, minted.header(), "HS256", ("x"):rep(32)))
    end)

    it("refuses a token signed with an empty secret", function()
        assert_refused("signature", minted.token(nil, minted.header(), "HS256", ""))
    end)

    -- J9
    for _, form in ipairs({ "", ".", "..", "a", "a.b", "a.b.c.d", "a.b.c.d.e", ("a"):rep(5000) }) do
        it(("refuses what has not the form of a token: '%s'"):format(form:sub(1, 10)), function()
            assert.is_nil((claims_of(form)))
        end)
    end

    it("reads nothing of a payload whose signature does not hold", function()
        local jwt = fake.load("portero.token.jwt")
        local real = jwt.claims
        jwt.claims = function() error("the payload was read") end
        local token = minted.token()
        assert_refused("signature", token:sub(1, -3) .. "AA")
        assert_refused("signature", token .. "AAAA")
        jwt.claims = real
    end)

    -- J13-J15: made of a good token, by a change to its text.
    local CHANGES = {
        ["padding behind it"] = function(t) return t .. "=" end,
        ["a line feed behind it"] = function(t) return t .. "\n" end,
        ["a space before it"] = function(t) return " " .. t end,
        ["a NUL behind it"] = function(t) return t .. "\0" end,
        ["its signature twice"] = function(t) return t .. t:match("[^.]*$") end,
        ["its signature cut by one character"] = function(t) return t:sub(1, -2) end,
        ["its signature cut by four characters"] = function(t) return t:sub(1, -5) end,
        ["an empty signature"] = function(t) return t:match("^(.*%.)") end,
        ["an empty payload"] = function(t) return (t:gsub("%..*%.", "..")) end,
        ["a padded header"] = function(t) return (t:gsub("%.", "=.", 1)) end,
        ["trailing bits in its signature"] = function(t)
            local last = t:sub(-1)
            local index = ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"):find(last)
            return t:sub(1, -2) .. (index and string.char(last:byte() + 1) or "-")
        end,
    }
    for what, change in pairs(CHANGES) do
        it("refuses a good token with " .. what .. ", also after it was accepted", function()
            local token = minted.token()
            assert.is_nil((claims_of(change(token))))
            assert.is_table(claims_of(token))
            assert.is_nil((claims_of(change(token))))
        end)
    end

    it("refuses what is well signed and says the wrong", function()
        assert_refused("claims", minted.token(minted.payload({ iss = '"other"' })))
        assert_refused("claims", minted.token("{}"))
        assert_refused("claims", minted.token("null"))
        assert_refused("role", minted.token(minted.payload({ role = '"admin"' })))
        assert_refused("lifetime", minted.token(minted.payload({ exp = tostring(NOW + 901) })))
        assert_refused("not yet issued", minted.token(), NOW - 1)
    end)

    it("says 'expired' to an authentic token alone", function()
        assert_refused("expired", minted.token(), NOW + 900)
        assert_refused("signature", minted.token():sub(1, -3) .. "AA", NOW + 900)
    end)

    it("accepts nothing that libcrypto refuses", function()
        is_refused = true
        assert_refused("signature", minted.token())
    end)
end)

describe("the cache", function()
    it("is bounded", function()
        assert.is_table(claims_of(minted.token()))
        assert.equal(2000, made)
    end)

    it("tells a text from the same one whose token begins elsewhere", function() -- H2
        local token = minted.token()
        local text = "Bearer " .. token
        shared_versions.look()
        for _ = 1, 3 do
            assert.is_table(token_cache.claims(text, 8, NOW, policy))
            assert.is_table(token_cache.claims(token, 1, NOW, policy))
            for _, from in ipairs({ 1, 2, 7, 9, 10, #text, #text + 1 }) do
                assert.is_nil((token_cache.claims(text, from, NOW, policy)))
            end
            assert.is_nil((token_cache.claims(token, 8, NOW, policy)))
        end
        assert.equal(2, signatures)
    end)

    it("verifies a token once", function()
        local token = minted.token()
        local first = claims_of(token)
        for _ = 1, 10 do
            assert.equal(first, claims_of(token))
        end
        assert.equal(1, signatures)
    end)

    it("gives a token up that was not asked for lately, and verifies it again", function()
        local a, b, c, d = token_of("a"), token_of("b"), token_of("c"), token_of("d")
        for _, token in ipairs({ a, b, a, c, a, d }) do
            assert.is_table(claims_of(token))
        end
        assert.equal(4, signatures)
        claims_of(a)
        assert.equal(4, signatures)
        assert.is_table(claims_of(b))
        assert.equal(5, signatures)
    end)

    it("does not serve a token of which one character is another", function() -- J24, J31
        local token = minted.token()
        assert.is_table(claims_of(token))
        assert.is_table(claims_of(token))
        for place = 1, #token do
            local c = token:sub(place, place)
            local flipped = token:sub(1, place - 1) .. (c == "A" and "B" or "A")
                .. token:sub(place + 1)
            assert.is_nil((claims_of(flipped)), "at " .. place)
        end
        assert.is_table(claims_of(token))
    end)

    it("does not serve a token of which one byte has another bit", function() -- J24
        local token = minted.token()
        assert.is_table(claims_of(token))
        for place = 1, #token do
            for bit = 0, 7 do
                local byte = token:byte(place)
                local has = math.floor(byte / 2 ^ bit) % 2 == 1
                local other = string.char(has and byte - 2 ^ bit or byte + 2 ^ bit)
                local flipped = token:sub(1, place - 1) .. other .. token:sub(place + 1)
                assert.is_nil((claims_of(flipped)))
            end
        end
    end)

    it("does not serve the same claims under another signature", function()
        local token = minted.token()
        claims_of(token)
        local forged = token:match("^(.*%.)") .. minted.encode(("\0"):rep(32))
        assert_refused("signature", forged)
    end)

    it("says of a token it knows that it is expired from its exp on", function()
        local token = minted.token()
        assert.is_table(claims_of(token, NOW + 899))
        assert_refused("expired", token, NOW + 900)
        assert_refused("expired", token, NOW + 100000)
        assert.is_table(claims_of(token, NOW + 899))
    end)

    it("keeps no token that was refused", function()
        local good = token_of("a")
        claims_of(good)
        for _ = 1, 100 do
            claims_of(minted.token(nil, minted.header(), "HS256", ("x"):rep(32)))
            claims_of(minted.token(minted.payload({ exp = "1" })))
        end
        local before = signatures
        claims_of(good)
        assert.equal(before, signatures)
    end)

    it("does not keep a refusal: what was not yet issued is accepted in its time", function()
        local token = minted.token()
        assert_refused("not yet issued", token, NOW - 1)
        assert.is_table(claims_of(token, NOW))
    end)

    -- docs/http-api.md: valid when `iat <= now`; a clock may step back.
    it("does not serve a token before its iat", function()
        local token = minted.token()
        assert.is_table(claims_of(token, NOW))
        assert_refused("not yet issued", token, NOW - 1)
        assert_refused("not yet issued", token, NOW - 0.5)
        assert.is_table(claims_of(token, NOW))
        assert.equal(1, signatures)
    end)
end)

describe("other keys", function()
    local OTHER = "another secret of the specs, 33 b"

    local function token_under(secret)
        return minted.token(nil, minted.header("HS256", minted.kid(secret)), "HS256", secret)
    end

    --- Put a list in force, as one message of the issuer.
    local function put(serial, ...)
        local entries = {}
        for index, secret in ipairs({ ... }) do
            entries[index] = minted.entry("HS256", secret)
        end
        assert(fake.load("portero.token.keys").put("another history", serial, minted.sealed(
            unpack(entries))))
    end

    it("empty the cache: what the former ones verified is refused from then on", function()
        local token = minted.token()
        assert.is_table(claims_of(token))
        put(1, OTHER)
        assert_refused("key", token)
        assert.is_table(claims_of(token_under(OTHER)))
    end)

    it("keep a token whose key is still among them, and verify it again", function()
        local token = minted.token()
        claims_of(token)
        put(1, minted.SECRET, OTHER)
        assert.is_table(claims_of(token))
        assert.is_table(claims_of(token))
        assert.equal(2, signatures)
    end)

    it("make a token of a new key accepted that was refused before", function()
        assert_refused("key", token_under(OTHER))
        put(1, minted.SECRET, OTHER)
        assert.is_table(claims_of(token_under(OTHER)))
    end)

    it("are followed when the same list comes again: nothing is lost", function()
        local token = minted.token()
        for serial = 1, 3 do
            put(serial, minted.SECRET)
            assert.is_table(claims_of(token))
        end
    end)

    -- A key that bears the name of another: what is kept by its name must not outlive it.
    it("under a former kid are asked, and not the key that had it", function()
        local token = minted.token()
        assert.is_table(claims_of(token))
        minted.put_key(fake, "HS256", OTHER, minted.kid(minted.SECRET))
        assert_refused("signature", token)
        local forged = minted.token(nil, minted.header(), "HS256", OTHER)
        assert.is_table(claims_of(forged))
        minted.put_key(fake, "HS512", minted.SECRET)
        assert_refused("key", token)
    end)

    it("are followed by every worker at its own next request", function()
        local load = fake.new_worker()
        local other = load("portero.token.token_cache")
        local function in_other(token)
            load("portero.shared_versions").look()
            return (other.claims(token, 1, NOW, policy))
        end
        local token = minted.token()
        assert.is_table(in_other(token))
        assert.is_table(claims_of(token))
        put(1, OTHER)
        assert.is_nil(in_other(token))
        assert.is_nil((claims_of(token)))
        assert.is_table(in_other(token_under(OTHER)))
    end)

    it("are not followed within a request: it is judged by one state", function()
        local token = minted.token()
        claims_of(token)
        put(1, OTHER)
        assert.is_table((token_cache.claims(token, 1, NOW, policy)))
        shared_versions.look()
        assert.is_nil((token_cache.claims(token, 1, NOW, policy)))
    end)

    it("that were refused leave cache and keys as they are", function()
        local token = minted.token()
        claims_of(token)
        local keys = fake.load("portero.token.keys")
        assert.is_nil((keys.put(minted.HISTORY, 2 ^ 40, minted.sealed())))
        assert.is_table(claims_of(token))
        assert.equal(1, signatures)
    end)
end)

describe("another policy", function()
    it("empties the cache: what the former one let pass is judged anew", function()
        local token = minted.token()
        assert.is_table(claims_of(token))
        policy = { roles = {}, users = {} }
        assert_refused("role", token)
        policy = policy_of()
        policy.roles.user.code = "OTHR"
        assert_refused("role", token)
        policy = policy_of()
        policy.roles.user.ttl_seconds = 899
        assert_refused("lifetime", token)
    end)

    it("is followed by a token that it lets pass, which is verified again, once", function()
        local token = minted.token()
        claims_of(token)
        policy = policy_of()
        for _ = 1, 3 do
            assert.is_table(claims_of(token))
        end
        assert.equal(2, signatures)
    end)

    it("makes a token accepted that was refused before", function()
        policy = { roles = {}, users = {} }
        assert_refused("role", minted.token())
        policy = policy_of()
        assert.is_table(claims_of(minted.token()))
    end)

    it("needs no other keys, and leaves them as they are", function()
        local keys = fake.load("portero.token.keys")
        local load, loaded = keys.load, 0
        keys.load = function()
            loaded = loaded + 1
            load()
        end
        claims_of(minted.token())
        policy = policy_of()
        assert.is_table(claims_of(minted.token()))
        assert.equal(1, loaded)
    end)

    it("comes with other keys at once, and both are followed", function()
        local token = minted.token()
        claims_of(token)
        policy = policy_of({ requests_per_minute = 1 })
        minted.put_key(fake)
        assert.equal(1, claims_of(token).limits.requests_per_minute)
        minted.put_key(fake, "HS256", "another secret of the specs, 33 b")
        policy = policy_of()
        assert_refused("key", token)
    end)

    it("counts for a token in any place of its text", function()
        local text = "Bearer " .. minted.token()
        shared_versions.look()
        assert.is_table((token_cache.claims(text, 8, NOW, policy)))
        local other = { roles = {}, users = {} }
        assert.same({ nil, "role" }, { token_cache.claims(text, 8, NOW, other) })
    end)
end)

describe("the limits of a caller", function()
    local OF_ROLE, OF_USER = { requests_per_minute = 1 }, { requests_per_minute = 2 }

    local function limits_with(of_role, of_user)
        policy = policy_of(of_role, of_user)
        return claims_of(minted.token()).limits
    end

    it("are none where neither role nor user has any", function()
        assert.is_nil(limits_with())
    end)

    it("are the role's, for all who have no own ones", function()
        policy = policy_of(OF_ROLE)
        policy.users.USRSOTHER = OF_USER
        assert.equal(OF_ROLE, claims_of(minted.token()).limits)
    end)

    it("are the user's own where there are any, and none where they are none", function()
        assert.equal(OF_USER, limits_with(OF_ROLE, OF_USER))
        assert.is_nil(limits_with(OF_ROLE, false))
    end)

    it("stay with a token that is known, and end with their policy", function()
        assert.equal(OF_ROLE, limits_with(OF_ROLE))
        assert.equal(OF_ROLE, claims_of(minted.token()).limits)
        assert.equal(1, signatures)
        assert.is_nil(limits_with())
        assert.equal(OF_USER, limits_with(nil, OF_USER))
    end)
end)

describe("without keys", function()
    before_each(function()
        fake.shared.portero_sync.entries, fake.shared.portero_keys.entries = {}, {}
    end)

    it("every token is answered with 'no keys', good, bad and expired alike", function()
        for _, token in ipairs({ minted.token(), "abc", "" }) do
            assert_refused("no keys", token)
        end
        assert_refused("no keys", minted.token(), NOW + 1000)
    end)

    it("a token that was verified in a former life of the dictionaries is not served", function()
        minted.put_key(fake)
        local token = minted.token()
        assert.is_table(claims_of(token))
        fake.shared.portero_sync.entries, fake.shared.portero_keys.entries = {}, {}
        assert_refused("no keys", token)
        minted.put_key(fake, "HS256", "another secret of the specs, 33 b")
        assert_refused("key", token)
    end)
end)

describe("logs", function()
    it("hold nothing, whatever is verified", function()
        claims_of(minted.token())
        claims_of(minted.token():sub(1, -3) .. "AA")
        claims_of("x")
        assert.same({}, fake.logged)
    end)
end)
