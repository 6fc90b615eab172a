---------
-- Which LLM servers may answer a request, by the policy that names them: those whose kind lists the
-- route and that have the model; and what an alias stands for.
-- Pure. What is known of servers is told by who asks (`server/server_state.lua`); where nothing is,
-- as where a decision is explained, each is up and has all that its `models:` lets it have. It must
-- never answer a server that has not the model that was judged, nor a model that the caller may
-- not use.

local model_name = require("portero.policy.model_name")

local sub = string.sub

local _M = {}

local function set_of(names)
    local set = {}
    for _, name in ipairs(names or {}) do
        set[name] = true
    end
    return set
end

--- What a request is led by where the policy names servers.
---@param listed table as it was pushed; its rows of servers get what is computed once
---@return table|nil fleet { rows, by_name, is_ollama: whether some server is, aliases, and of these
---     plain ones by name and patterns, management: the roles that may name a server }; nil without
---     servers
function _M.load(listed)
    if not listed.servers then
        return nil
    end
    local fleet = {
        rows = listed.servers, by_name = {}, is_ollama = false, plain = {}, patterns = {},
        aliases = listed.aliases or {}, management = set_of(listed.management),
    }
    for index, row in ipairs(listed.servers) do
        row.index = index
        row.is_ollama = row.model_names == "ollama"
        row.filter = row.models and model_name.compile(row.models, row.is_ollama)
        fleet.by_name[row.name] = row
        fleet.is_ollama = fleet.is_ollama or row.is_ollama
    end
    for _, alias in ipairs(listed.aliases or {}) do
        if sub(alias.name, -1) == "*" then
            alias.start = sub(alias.name, 1, -2)
            fleet.patterns[#fleet.patterns + 1] = alias
        else
            fleet.plain[alias.name] = alias
        end
    end
    return fleet
end

--- The servers whose kind lists a route.
---@param fleet table
---@param route table of `route_table`
---@return table[] rows
function _M.of_route(fleet, route)
    if not route.servers then
        return fleet.rows
    end
    local rows = {}
    for i = 1, #fleet.rows do
        rows[#rows + 1] = route.servers[i] and fleet.rows[i] or nil
    end
    return rows
end

--- Whether a caller may use a name at a server, which has its own way to compare names.
---@param limits table|nil the caller's
---@param row table a server
---@param name string
---@return boolean
function _M.may_use(limits, row, name)
    if not limits then
        return true
    end
    return model_name.allows(row.is_ollama and limits.models or limits.exact_models, name)
end

local function has(row, name, view)
    local state = view and view[row.name]
    if not state then
        return model_name.allows(row.filter, name)
    end
    return state.models[model_name.canonical(name, row.is_ollama)] ~= nil
end

local function is_up(row, view)
    local state = view and view[row.name]
    return not state or state.is_up
end

--- The servers that have a model that the caller may use, and whether one of them is up.
local function servers_with(plan, name)
    local found, is_some_up = {}, false
    for _, row in ipairs(plan.rows) do
        if _M.may_use(plan.limits, row, name) and has(row, name, plan.view) then
            found[#found + 1] = row
            is_some_up = is_some_up or is_up(row, plan.view)
        end
    end
    return found, is_some_up
end

--- The first of an alias's models that some server has that is up, else the first that one has.
local function first_of(plan, alias)
    local model, rows
    for _, name in ipairs(alias.models) do
        local found, is_some_up = servers_with(plan, name)
        if is_some_up then
            return name, found
        elseif found[1] and not model then
            model, rows = name, found
        end
    end
    return model, rows
end

--- The alias that another spelling of its name means, or a pattern.
local function further_alias(fleet, name)
    local canonical = fleet.is_ollama and model_name.canonical(name, true)
    for _, alias in ipairs(canonical and fleet.aliases or {}) do
        if not alias.start and model_name.canonical(alias.name, true) == canonical then
            return alias
        end
    end
    for _, alias in ipairs(fleet.patterns) do
        if sub(name, 1, #alias.start) == alias.start then
            return alias
        end
    end
end

--- Why a server that does not have a model, as far as is known, may have it yet; nil where it does
--- not.
local function code_of_unknown(state)
    if not state or state.is_known then
        return nil
    elseif not state.is_listed then
        return "not_ready"
    end
    return state.is_misconfigured and "upstream_refused" or nil
end

local function may_use_any(limits, row, names)
    for _, name in ipairs(names) do
        if _M.may_use(limits, row, name) then
            return true
        end
    end
    return false
end

--- Why no server was found: one that has not told what it has may have the model, as far as the
--- caller may use it.
local function code_of_none(plan, names)
    local found
    for _, row in ipairs(plan.rows) do
        local code = code_of_unknown(plan.view and plan.view[row.name])
        if code and code ~= found and may_use_any(plan.limits, row, names) then
            found = code == "not_ready" and code or found or code
        end
    end
    return found or "model_not_found"
end

--- Leave one server alone in question: the one that has what the request goes on from.
---@param plan table
---@param name string of the server
---@return boolean is_there whether it is in question
function _M.pin(plan, name)
    for _, row in ipairs(plan.rows) do
        if row.name == name then
            plan.rows = { row }
            return true
        end
    end
    return false
end

--- Which servers may answer for a model, and under which name. An alias comes before a model of its
--- name, a model before an alias that is a pattern.
---@param fleet table
---@param plan table { rows: the servers in question, limits: the caller's or nil, view: of
---     `server_state`, or nil where nothing is known }; gets the `rows` that are left, and `model`,
---     what the request must name in place of an alias
---@param name string what the request names
---@return string|nil code of the refusal
function _M.narrow(fleet, plan, name)
    local alias = fleet.plain[name]
    local rows = not alias and servers_with(plan, name)
    local names = { name }
    if not rows or not rows[1] then
        alias = alias or further_alias(fleet, name)
        names = alias and alias.models or names
        plan.model, rows = first_of(plan, alias or { models = {} })
    end
    if not rows then
        return code_of_none(plan, names)
    end
    plan.rows = rows
end

return _M
