---------
-- The gateway's verdict on tokens, and on bare signatures, without nginx: the gateway's own modules
-- under the fake nginx of the specs. For the tests alone.
-- It reads commands from standard input, a line each; what answers, answers one line:
--   start SYNC_KEY POLICY                    in hex; the policy as the issuer compiles it, in JSON
--   keys HISTORY SERIAL SEALED               the list of keys, as the issuer seals it: true, false
--   activate JTI EXP, revoke JTI EXP
--   api-key ID EXP RECORD                    what is known of a key, in JSON, in hex
--   token NOW TOKEN                          token in hex: accepted, expired, refused
--   memory                                   what Lua holds, in kilobytes
--   signature ALGORITHM KEY TEXT SIGNATURE   in hex: true, false, or unfit for such a key
--   flush                                    send the answers on

local fake_ngx = require("fake_ngx")
local cjson = require("cjson.safe")

local START = 1700000000

local BYTES = {}
for value = 0, 255 do
    BYTES[("%02x"):format(value)] = string.char(value)
end

local fake, active_tokens, api_keys, crypto, keys, policy, shared_versions, token_cache

local function from_hex(text)
    return (text:gsub("..", BYTES))
end

local function start(sync_key, listed)
    fake = fake_ngx.install(START)
    shared_versions = fake.load("portero.shared_versions")
    crypto, keys = fake.load("portero.token.crypto"), fake.load("portero.token.keys")
    token_cache = fake.load("portero.token.token_cache")
    active_tokens = fake.load("portero.token.active_tokens")
    api_keys = fake.load("portero.token.api_keys")
    policy = fake.load("portero.policy.decision").load(cjson.decode(from_hex(listed)))
    keys.start({ sync_key = from_hex(sync_key) })
    active_tokens.end_snapshot(active_tokens.begin_snapshot())
end

local function verdict(now, token)
    fake.clock.now = tonumber(now)
    shared_versions.look()
    local claims, reason = token_cache.claims(from_hex(token), 1, fake.clock.now, policy)
    if not claims then
        return reason == "expired" and "expired" or "refused"
    end
    return active_tokens.is_active(claims.jti) and "accepted" or "refused"
end

local function signature(algorithm, key, text, bytes)
    local verify = crypto.verifier(algorithm, from_hex(key))
    if not verify then
        return "unfit"
    end
    text = from_hex(text)
    bytes = from_hex(bytes)
    return tostring(verify(text, #text, bytes, #bytes))
end

local COMMANDS = {
    start = start,
    keys = function(history, serial, sealed)
        return tostring(keys.put(history, tonumber(serial), sealed) == true)
    end,
    activate = function(jti, exp)
        assert(active_tokens.activate(jti, tonumber(exp), fake.clock.now))
    end,
    revoke = function(jti, exp)
        assert(active_tokens.revoke(jti, tonumber(exp), fake.clock.now))
    end,
    ["api-key"] = function(id, exp, record)
        exp = tonumber(exp)
        assert(api_keys.put(id, exp, cjson.decode(from_hex(record)), fake.clock.now))
        assert(active_tokens.activate(id, exp, fake.clock.now))
    end,
    token = verdict,
    memory = function()
        collectgarbage()
        return tostring(collectgarbage("count"))
    end,
    signature = signature,
    flush = function()
        io.stdout:flush()
    end,
}

io.stdout:setvbuf("full")
for line in io.lines() do
    local words = {}
    for word in (line .. " "):gmatch("(.-) ") do
        words[#words + 1] = word
    end
    local answer = COMMANDS[words[1]](unpack(words, 2))
    if answer then
        io.stdout:write(answer, "\n")
    end
end
