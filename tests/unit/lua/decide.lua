---------
-- The gateway's decision about requests, without nginx: its own policy and names of models, asked
-- in the order of `access.lua`. For the tests alone.
--   luajit decide.lua ROLES_FILE KIND PAGE_BY    KIND - for an LLM server of any kind
-- reads lines of USER, METHOD, PATH and MODEL in hex, and answers each with status and code.

local cjson = require("cjson.safe")
local model_name = require("portero.policy.model_name")
local route_table = require("portero.policy.route_table")
local roles = require("portero.policy.roles")

local KINDS = { "ollama", "vllm", "llama-server", "localai" }

local function read(path)
    local file = assert(io.open(path, "rb"))
    local text = file:read("*a")
    file:close()
    return text
end

local function packs_of(kind)
    local packs = {}
    for _, name in ipairs({ "portero", unpack(kind == "-" and KINDS or { kind }) }) do
        local content = assert(cjson.decode(read("openresty/conf/routes/" .. name .. ".json")))
        packs[#packs + 1] = { name = name, routes = content.routes }
    end
    assert(#route_table.faults(packs) == 0)
    return packs
end

local file = assert(roles.parse(read(arg[1]), 86400))
local table_of_routes = route_table.compile(file.roles, packs_of(arg[2]), arg[3])
local limits = route_table.limits(file, arg[2] == "-" or arg[2] == "ollama")

local function role_of(user)
    for _, role in pairs(file.roles) do
        if user:sub(1, 4) == role.code and #user > 4 then
            return role
        end
    end
end

local function list_of(user, role)
    local own = limits.users[user]
    if own == nil then
        own = limits.roles[role.name]
    end
    return own and own.models or nil
end

local function model_verdict(route, value, model, list)
    if not route.model then
        return "403 insufficient_permissions"
    elseif route.model == "none" or route.model == "listed" then
        return "200 allowed"
    end
    local name = route.model == "path" and route_table.unescape(value) or model
    if name == "" then
        return "400 invalid_request"
    end
    return model_name.allows(list, name) and "200 allowed" or "404 model_not_found"
end

local function decide(user, method, path, model)
    local route, value = route_table.find(table_of_routes, method, path:match("^[^?]*"))
    if not route then
        local is_canonical = route_table.is_canonical(path:match("^[^?]*"))
        return is_canonical and "404 not_found" or "400 invalid_request"
    end
    local role = role_of(user)
    if not role then
        return "401 invalid_api_key"
    elseif not route.allowed[role.name] then
        return "403 insufficient_permissions"
    end
    local list = route.is_llm and list_of(user, role)
    return list and model_verdict(route, value, model, list) or "200 allowed"
end

local function from_hex(text)
    return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

for line in io.lines() do
    local user, method, path, model = line:match("^(%x*) (%x*) (%x*) (%x*)$")
    print(decide(from_hex(user), from_hex(method), from_hex(path), from_hex(model)))
end
