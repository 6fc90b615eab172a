---------
-- Which models there are where the policy names LLM servers: what is known of their lists, so that
-- none is waited for. The union of what is up and the caller may use, each ID once, and the aliases
-- that lead to some of it.
-- It must never name a model that no server that is up has, nor one that the caller may not use.

local candidates = require("portero.policy.candidates")
local cjson = require("cjson.safe")
local dialects = require("portero.dialect.dialects")
local model_name = require("portero.policy.model_name")
local server_state = require("portero.server.server_state")

local _M = {}

--- Whether a server's own list is of this form; the common one is all servers'.
local function speaks(row, form)
    return form == dialects.of("/").model_list
        or form == dialects.named(row.dialect).model_list
end

--- The servers whose models are shown, in the policy's order; one that was asked for by its name is
--- shown alone, and however it is.
local function servers_of(ask)
    local view, found = server_state.view(ask.policy), {}
    for _, row in ipairs(ask.policy.servers) do
        local server = view[row.name]
        local is_wanted = ask.server and row.name == ask.server or not ask.server and server.is_up
        found[#found + 1] = is_wanted and speaks(row, ask.form) and server or nil
    end
    return found
end

--- The entry of a model that a server has, where it is in what is asked for: all, or what runs.
local function entry_of(server, name, is_running)
    local id = server.models[model_name.canonical(name, server.row.model_names == "ollama")]
    if not id or not is_running then
        return id and server.by_id[id], id
    end
    for _, entry in ipairs(server.running) do
        if entry.name == id then
            return entry, id
        end
    end
end

local function add(items, form, entry, name)
    if not items.has[name] then
        items.has[name] = true
        items[#items + 1] = cjson.encode(form.as(entry, name))
    end
end

--- What a plain alias leads to: the first of its models that the caller may use and a server has.
local function target_of(ask, alias, servers)
    for _, name in ipairs(alias.models) do
        for _, server in ipairs(servers) do
            local entry = candidates.may_use(ask.limits, server.row, name)
                and entry_of(server, name, ask.is_running)
            if entry then
                return entry
            end
        end
    end
end

local function add_aliases(items, ask, servers)
    for _, alias in ipairs(ask.policy.aliases) do
        local entry = alias.name:sub(-1) ~= "*" and target_of(ask, alias, servers)
        if entry then
            add(items, ask.form, entry, alias.name)
        end
    end
end

--- A model of an alias's name is never asked for: the alias is.
local function add_models(items, ask, server)
    local shadows = ask.server and {} or ask.policy.fleet.plain
    for _, entry in ipairs(ask.is_running and server.running or server.entries) do
        local id = entry.id or entry.name
        if not shadows[id] and candidates.may_use(ask.limits, server.row, id) then
            add(items, ask.form, entry, id)
        end
    end
end

--- Whether some of the servers was not asked yet, so that what is missing may still come.
local function is_unasked(ask)
    local view = server_state.view(ask.policy)
    for _, row in ipairs(ask.policy.servers) do
        if speaks(row, ask.form) and not view[row.name].is_listed then
            return true
        end
    end
    return false
end

local function list_of(ask)
    local servers, items = servers_of(ask), { has = {} }
    for _, server in ipairs(servers) do
        add_models(items, ask, server)
    end
    if not ask.server then
        add_aliases(items, ask, servers)
    end
    if #items == 0 and is_unasked(ask) then
        return nil, "not_ready"
    end
    return ask.form.head .. table.concat(items, ",") .. "]}"
end

--- The servers that have one model, as a request for it would find them, and its name there.
local function servers_with(ask)
    if ask.server then
        return servers_of(ask)
    end
    local plan = {
        rows = ask.policy.servers, limits = ask.limits, view = server_state.view(ask.policy),
    }
    local code = candidates.narrow(ask.policy.fleet, plan, ask.name)
    if code then
        return nil, code
    end
    local found = {}
    for _, row in ipairs(plan.rows) do
        found[#found + 1] = plan.view[row.name].is_up and plan.view[row.name] or nil
    end
    return found, "not_ready", plan.model
end

--- One model's own entry, under its ID, or under the alias by which it was asked for.
local function one_of(ask)
    local servers, code, real = servers_with(ask)
    for _, server in ipairs(servers or {}) do
        local entry, id = entry_of(server, real or ask.name, false)
        if entry and candidates.may_use(ask.limits, server.row, id) then
            return cjson.encode(ask.form.as(entry, real and ask.name or id))
        end
    end
    return nil, code or "model_not_found"
end

--- A list as a caller may know it, or one entry.
---@param ask table { policy = one with servers, form = a dialect's `model_list`, limits = the
---     caller's or nil, is_running, name = of the one model that is asked for, server = the name of
---     the one server that is asked }
---@return string|nil text
---@return string|nil code of the refusal
function _M.text(ask)
    return (ask.name and one_of or list_of)(ask)
end

return _M
