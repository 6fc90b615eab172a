-- What it costs to ask for a token in the active-token set, by how many are in it, by the clock of
-- the processor: the gateway's own modules, in an nginx of their own, which `bench.active_tokens`
-- runs.
--   /?active=1000000    fills the set, and prints nanoseconds a look-up: of one token again and
--                       again, and of 10,000 in turn, where there are as many

local active_tokens = require("portero.token.active_tokens")
local shared_versions = require("portero.shared_versions")

local TIMES, BEST_OF, SECONDS = 300000, 3, 3600
local IN_TURN = 10000

local function jti_of(number)
    return ngx.encode_base64(ngx.md5_bin(number)):sub(1, 22)
end

--- Fill the set anew; the tokens that are asked for lie anywhere in it.
local function fill(active)
    ngx.shared.portero_active_tokens:flush_all()
    ngx.shared.portero_active_tokens:flush_expired()
    local generation, asked = active_tokens.begin_snapshot(), {}
    local now, each = ngx.time(), math.max(1, math.floor(active / IN_TURN))
    for i = 1, active do
        local jti = jti_of(i)
        assert(active_tokens.activate(jti, now + SECONDS, now))
        if i % each == 0 then
            asked[#asked + 1] = jti
        end
    end
    active_tokens.end_snapshot(generation)
    shared_versions.look()
    return asked
end

local function nanoseconds(asked, count)
    local began = os.clock()
    for i = 1, TIMES do
        assert(active_tokens.is_active(asked[i % count + 1]))
    end
    return (os.clock() - began) / TIMES * 1e9
end

local function best(asked, count)
    local least = math.huge
    for _ = 1, BEST_OF do
        least = math.min(least, nanoseconds(asked, count))
    end
    return ("%.0f"):format(least)
end

local asked = fill(tonumber(ngx.var.arg_active))
ngx.say(best(asked, 1), " ", #asked >= IN_TURN and best(asked, IN_TURN) or "")
