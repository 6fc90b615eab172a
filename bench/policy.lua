---------
-- What it costs to decide by route and role, for a caller whose models are not limited: the look-up
-- in the compiled packs and the role's name in the route, by the clock of the processor.
--   luajit bench/policy.lua    prints nanoseconds a decision

local cjson = require("cjson.safe")
local route_table = require("portero.policy.route_table")
local roles = require("portero.policy.roles")

local TIMES = 2000000
local PATHS = { "/v1/chat/completions", "/chat/completions", "/api/chat", "/llm/v1/completions" }

local function read(name)
    local file = assert(io.open("openresty/conf/" .. name, "rb"))
    local text = file:read("*a")
    file:close()
    return text
end

local packs = {}
for _, name in ipairs({ "portero", "ollama", "vllm", "llama-server", "localai" }) do
    local content = cjson.decode(read("routes/" .. name .. ".json"))
    packs[#packs + 1] = { name = name, routes = content.routes }
end
local granted = assert(roles.parse(read("roles.json"), 86400)).roles
local compiled = route_table.compile(granted, packs, "issuer")

local function decide(path, role)
    local route, value = route_table.find(compiled, "POST", path)
    return route.allowed[role] and route_table.target(route, value)
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
