---------
-- A policy as the issuer compiles and pushes one, small and made by hand: routes of every kind in
-- the order of the issuer's list, six roles, no limits. Each spec changes what it is about.

local policies = {}

--- Name -> code, lifetime, and the classes of routes that it may use.
local ROLES = {
    agent_reasoning = { "AGNR", 120, "inference models health" },
    agent_fast = { "AGNF", 60, "inference models health" },
    agi = { "AGIA", 1800, "inference models health" },
    user = { "USRS", 900, "inference models health page" },
    monitoring = { "MNTR", 1200, "models health metrics page" },
    admin = { "ADMN", 3600, "inference models health metrics management page console" },
}

--- Who answers, then method, path, class, and where the model stands if anywhere.
local ROUTES = [[
discovery  GET    /v1/models                              models      listed
discovery  GET    /v1/models/{model}                      models      path
llm        POST   /v1/chat/completions                    inference   body
llm        POST   /v1/messages/count_tokens               inference   body
llm        POST   /v1/audio/transcriptions                inference   form
llm        POST   /v1/completions                         inference   body
llm        POST   /v1/embeddings                          inference   body
llm        POST   /v1/responses                           inference   body
llm        POST   /v1/text-to-speech/{voice}              inference
issuer     DELETE /admin/api/users/{name}/sessions        console     none
issuer     DELETE /admin/api/sessions/{jti}               console     none
issuer     GET    /admin/api/sessions                     console     none
llm        POST   /models/delete/{model}                  management
llm        POST   /api/blobs/{digest}                     management
llm        POST   /api/embeddings                         inference   body
llm        POST   /api/generate                           inference   body
llm        DELETE /api/delete                             management
llm        GET    /api/version                            models      none
discovery  GET    /api/tags                               models      listed
llm        POST   /api/chat                               inference   body
llm        POST   /api/pull                               management
llm        POST   /api/show                               models      body-or-name
llm        POST   /completion                             inference   body
discovery  GET    /api/ps                                 models      listed
issuer     GET    /admin/                                 console     none
gateway    GET    /metrics                                metrics     none
llm        GET    /health                                 health      none
llm        POST   /load                                   management  query
llm        POST   /chat                                   inference   body
issuer     GET    /                                       page        none
llm        HEAD   /                                       health      none
]]

local function names_of_roles(class)
    local names = {}
    for name, role in pairs(ROLES) do
        names[#names + 1] = (" " .. role[3] .. " "):find(" " .. class .. " ", 1, true) and name
    end
    table.sort(names)
    return names
end

--- The policy, anew each time.
---@return table listed as `decision.load` takes it
function policies.listed()
    local roles, routes = {}, {}
    for name, role in pairs(ROLES) do
        roles[name] = { code = role[1], ttl_seconds = role[2], stream_policy = "finish" }
    end
    for line in ROUTES:gmatch("[^\n]+") do
        local by, method, path, class, model = line:match("(%S+) +(%S+) +(%S+) +(%S+) *(%S*)")
        routes[#routes + 1] = {
            method = method, path = path, class = class, model = model ~= "" and model or nil,
            answered_by = by, roles = names_of_roles(class),
        }
    end
    return { roles = roles, users = {}, model_names = "ollama", routes = routes }
end

--- The same where the LLM server answers the page at /.
function policies.with_page_of_llm()
    local listed = policies.listed()
    policies.route(listed, "GET", "/").answered_by = "llm"
    return listed
end

--- One of its routes, and its place in the list.
---@param listed table
---@param method string
---@param path string as it stands in the list
---@return table route, integer index
function policies.route(listed, method, path)
    for index, route in ipairs(listed.routes) do
        if route.method == method and route.path == path then
            return route, index
        end
    end
    error("no route " .. method .. " " .. path)
end

--- A route in the place of which only what is told is another.
function policies.new_route(changes)
    local route = {
        method = "GET", path = "/x", class = "models", answered_by = "llm", roles = { "user" },
    }
    for name, value in pairs(changes) do
        route[name] = value
    end
    return route
end

policies.HISTORY = "a history of the policies"

local serial = 0

--- Put a policy in force in place of any before it, as the issuer would, and look as a request
--- does at its beginning.
---@param fake table the nginx
---@param listed table|nil
---@return table policy as modules take it
function policies.put(fake, listed)
    serial = serial + 1
    local in_force = fake.load("portero.policy.in_force")
    assert(in_force.put(policies.HISTORY, serial, listed or policies.listed()))
    fake.load("portero.shared_versions").look()
    return in_force.current()
end

return policies
