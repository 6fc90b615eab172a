---------
-- What it costs to decide by route and role, for a caller whose models are not limited: the look-up
-- in the compiled packs and the role's name in the route, by the clock of the processor.
--   luajit bench/policy.lua <compiled.json    prints nanoseconds a decision

local cjson = require("cjson.safe")
local decision = require("portero.policy.decision")
local route_table = require("portero.policy.route_table")

local TIMES = 2000000
local CALLERS = { agi = { sub = "AGIA1", role = "agi" } }
local PATHS = { "/v1/chat/completions", "/chat/completions", "/api/chat", "/llm/v1/completions" }

local policy = decision.load(cjson.decode(io.read("*a")))
local ask = {
    caller = function(_, _, role)
        return CALLERS[role]
    end,
    reach = function() end,
}

local function decide(path, role)
    local code, route, value = decision.decide(policy, "POST", path, role, ask)
    return not code and route_table.target(route, value)
end

local function measure()
    local began = os.clock()
    for i = 1, TIMES do
        assert(decide(PATHS[i % #PATHS + 1], "agi"))
    end
    return (os.clock() - began) / TIMES * 1e9
end

measure() -- until it is compiled
print(("%.0f"):format(measure()))
