---------
-- The roles and route packs of the repository, for specs that judge by the real ones.

local cjson = require("cjson.safe")
local route_table = require("portero.policy.route_table")
local roles = require("portero.policy.roles")

local NAMES = { "portero", "ollama", "vllm", "llama-server", "localai" }

local shipped = {}

function shipped.text(name)
    local file = assert(io.open("openresty/conf/" .. name, "rb"))
    local text = file:read("*a")
    file:close()
    return text
end

--- What `roles.parse` answers for the shipped file.
function shipped.roles()
    return assert(roles.parse(shipped.text("roles.json"), 86400))
end

--- The shipped packs: all of them, or Portero's own and one.
function shipped.packs(kind)
    local packs = {}
    for _, name in ipairs(kind and { "portero", kind } or NAMES) do
        local content = assert(cjson.decode(shipped.text("routes/" .. name .. ".json")))
        packs[#packs + 1] = { name = name, routes = content.routes }
    end
    return packs
end

--- Every line of the packs, taken apart.
function shipped.lines(packs)
    local lines = {}
    for _, pack in ipairs(packs or shipped.packs()) do
        for class, listed in pairs(pack.routes) do
            for _, line in ipairs(listed) do
                local method, path = line:match("^(%S+) (%S+)")
                lines[#lines + 1] = {
                    pack = pack.name, class = class, method = method, path = path,
                    model = line:match("model=(%S+)$"),
                    example = path:gsub("{digest}", "sha256:0af"):gsub("{%w+}", "x"),
                }
            end
        end
    end
    return lines
end

--- The settings that modules start with, as the shipped files make them.
function shipped.settings(page_by)
    local file = shipped.roles()
    return {
        roles = file.roles,
        policy = route_table.compile(file.roles, shipped.packs(), page_by or "issuer"),
        limits = route_table.limits(file, true),
        is_ollama = true,
        llm = { { path = "" } },
        max_staleness_seconds = 0,
    }
end

return shipped
