---------
-- The one decider: what becomes of a request, by the policy that the issuer pushed. `decide` is the
-- specification, in order: the route, the caller, the caller's role, its limits and its model.
-- Pure, so that `explain` runs this very file (`issuer/policy/explanation.py`): what only a request
-- can tell, such as its credential and its body, is asked of who calls. It must never let pass what
-- it was not told, and it decides by nothing but a role's classes, never by a role's name.

local candidates = require("portero.policy.candidates")
local model_name = require("portero.policy.model_name")
local route_table = require("portero.policy.route_table")

local find, match, sub = string.find, string.match, string.sub

local CODE_CHARACTERS = 4
local MOST_LABELS = 100
--- What tokens have for `iss` where the deployment has no address of its own.
local ISSUER = "portero"

--- What a role that is gone may use.
local NOTHING = {
    models = model_name.compile({}, false), exact_models = model_name.compile({}, false),
    is_counted = false,
}

local _M = {}

--- What a user may spend in a day and in a month (`quota/budgets.lua`); nil where that is not
--- limited.
local function own_budgets(listed)
    local day, month = listed.tokens_per_day, listed.tokens_per_month
    return (day or month) and { { day = day, month = month } } or nil
end

--- What a caller is held to beyond its routes; nil when that is nothing.
---@param listed table|nil
---@param is_ollama boolean
---@param has_servers boolean
local function limits_of(listed, is_ollama, has_servers)
    if not listed then
        return nil
    end
    local models, budgets = listed.models, own_budgets(listed)
    return {
        models = models and model_name.compile(models, is_ollama),
        -- The same for a server that takes a name by its bytes, where another may be Ollama.
        exact_models = models and has_servers and model_name.compile(models, false) or nil,
        requests_per_minute = listed.requests_per_minute,
        tokens_per_minute = listed.tokens_per_minute,
        concurrent_requests = listed.concurrent_requests,
        budgets = budgets,
        largest_body_bytes = listed.largest_body_bytes,
        -- { tools, fetch, priority }: what a body may ask for; nil where it is not looked at.
        server_side = listed.server_side,
        -- What is counted must be given back, or charged, when a request ends.
        is_counted = (listed.requests_per_minute or listed.tokens_per_minute
            or listed.concurrent_requests or budgets) ~= nil,
    }
end

local function role_of(name, listed, is_ollama, has_servers)
    -- Tokens are judged by these in C, which takes nothing for an address.
    assert(type(listed.code) == "string" and #listed.code == CODE_CHARACTERS
        and type(listed.ttl_seconds) == "number", "decision: a role without code or lifetime")
    return {
        name = name,
        code = listed.code,
        ttl_seconds = listed.ttl_seconds,
        stream_policy = listed.stream_policy,
        api_keys = listed.api_keys,
        limits = limits_of(listed.limits, is_ollama, has_servers),
    }
end

local function add_labels(labels, names)
    for _, name in ipairs(names or {}) do
        if labels.count < MOST_LABELS and not labels[name] and not find(name, '[*"\\%c]') then
            labels[name], labels.count = true, labels.count + 1
        end
    end
end

--- The models that the policy itself names: these alone may be labels of metrics, a few.
local function labels_of(listed)
    local labels = { count = 0 }
    for _, part in ipairs({ listed.roles, listed.users }) do
        for _, holder in pairs(part) do
            add_labels(labels, holder.limits and holder.limits.models)
        end
    end
    for _, part in ipairs({ listed.servers or {}, listed.aliases or {} }) do
        for _, row in ipairs(part) do
            add_labels(labels, row.models)
        end
    end
    labels.count = nil
    return labels
end

--- Have a group's members share what it may spend, beside what else they are held to.
local function add_group(users, by_code, group)
    for _, user in ipairs(group.members) do
        local role = by_code[sub(user, 1, CODE_CHARACTERS)]
        local known = users[user]
        local limits = {}
        for name, value in pairs((known == nil and role and role.limits) or known or {}) do
            limits[name] = value
        end
        limits.budgets = { unpack(limits.budgets or {}) }
        limits.budgets[#limits.budgets + 1] = {
            group = group.name, day = group.tokens_per_day, month = group.tokens_per_month,
        }
        limits.is_counted = true
        users[user] = limits
    end
end

--- Build what requests are judged by. An error for what is no policy.
---@param listed table as `issuer/policy/` compiles it (docs/sync.md)
---@return table policy { roles = by name, by_code = the same by code, bound = names of the roles
---     that ask for a client certificate, nil where none does, users = limits by name
---     (false: none), routes, is_ollama, labels = models that metrics may name, issuer = what
---     tokens have for `iss` }; where it names servers fleet (of `candidates`) too, servers and
---     aliases as they were pushed, and by_name, the routes behind a server's name
function _M.load(listed)
    local is_ollama = listed.model_names == "ollama"
    local fleet = candidates.load(listed)
    local roles, users, by_code, bound = {}, {}, {}, nil
    for name, role in pairs(listed.roles) do
        roles[name] = role_of(name, role, is_ollama, fleet ~= nil)
        by_code[role.code] = roles[name]
        if role.client_certificate then
            bound = bound or {}
            bound[name] = true
        end
    end
    for name, own in pairs(listed.users) do
        users[name] = limits_of(own.limits, is_ollama, fleet ~= nil) or false
    end
    for _, group in ipairs(listed.groups or {}) do
        add_group(users, by_code, group)
    end
    local routes, by_name = route_table.compile(listed.routes)
    local labels = labels_of(listed)
    return {
        roles = roles,
        by_code = by_code,
        bound = bound,
        users = users,
        issuer = listed.issuer or ISSUER,
        routes = routes,
        by_name = fleet and by_name,
        is_ollama = is_ollama,
        labels = labels,
        fleet = fleet,
        servers = fleet and fleet.rows,
        aliases = fleet and fleet.aliases,
    }
end

--- The user's own limits where there are any (false says none), else the role's.
---@param policy table
---@param user string
---@param role string
---@return table|nil limits
function _M.limits(policy, user, role)
    local own = policy.users[user]
    if own ~= nil then
        return own or nil
    end
    local its = policy.roles[role]
    if not its then
        return NOTHING
    end
    return its.limits
end

--- The role whose code begins a username, as it is in every token.
---@param policy table
---@param user string
---@return table|nil role
function _M.role_of(policy, user)
    return #user > CODE_CHARACTERS and policy.by_code[sub(user, 1, CODE_CHARACTERS)] or nil
end

--- A caller's limits where its credential is narrowed to some models: both lists must allow one.
---@param policy table
---@param limits table|nil the user's own, or the role's
---@param models string[] patterns
---@param server_side table|nil the role's, for who has no limits of that else
---@return table limits
function _M.narrowed(policy, limits, models, server_side)
    local narrowed = {}
    for name, value in pairs(limits or {}) do
        narrowed[name] = value
    end
    narrowed.models = model_name.both(
        narrowed.models, model_name.compile(models, policy.is_ollama))
    narrowed.exact_models = policy.fleet and model_name.both(
        narrowed.exact_models, model_name.compile(models, false)) or nil
    narrowed.server_side = narrowed.server_side or server_side
    narrowed.is_counted = narrowed.is_counted or false
    return narrowed
end

--- What a request without a route is refused for; nothing of routes that no role may reach.
local function unknown(routes, path)
    local fault = route_table.fault_of_path(path)
    if fault then
        return fault
    elseif route_table.is_known(routes, path) then
        return "other_method"
    end
    local without_slash = sub(path, -1) == "/" and sub(path, 1, -2)
    return without_slash and route_table.is_known(routes, without_slash) and "slash_at_end"
        or "not_found"
end

--- Whether a caller may use the model that its request asks for.
---@param route table
---@param value string|nil what stood for the route's parameter
---@param query string
---@param list table|nil the caller's models; nil where there are servers, and the plan has them
---@param read fun(word: string, value: string|nil, query: string, watch: any): string|nil,
---     string|nil, any
---     the model's name where the route's word says that it stands, or nil and a code where the
---     request cannot be read in one way; and what else was read
---@param plan table|nil where the policy names servers: which are in question (`decide`)
---@param watch any the last argument of `read`: LuaJIT compiles no way on which a closure is made
---@return string|nil code of the refusal; nil when it may
---@return any found the reader's third answer, whatever the code
function _M.model_refusal(route, value, query, list, read, plan, watch)
    if not route.model then
        return "insufficient_permissions"
    end
    local name, code, found = read(route.model, value, query, watch)
    if code or not name then
        return code, found
    elseif plan then
        return plan.judge(plan, name), found
    end
    return not model_name.allows(list, name) and "model_not_found" or nil, found
end

local function judge_by_fleet(plan, name)
    return candidates.narrow(plan.fleet, plan, name)
end

--- A server that was named is asked for what it has not yet too: how else would it get it?
local function judge_by_list(plan, name)
    return not candidates.may_use(plan.limits, plan.rows[1], name) and "model_not_found" or nil
end

--- Which servers a request may go to, as far as the route tells; its model tells more.
local function plan_of(policy, route, claims, ask)
    return {
        policy = policy, fleet = policy.fleet, limits = claims.limits, judge = judge_by_fleet,
        rows = candidates.of_route(policy.fleet, route),
        view = ask.view and ask.view(policy) or nil,
    }
end

--- A request whose route is found, by one whose role may use it.
local function admitted(route, value, query, claims, ask, plan)
    -- Of a caller whose bodies nobody looks at nothing is known to be its own.
    if route.is_owned and not (claims.limits and claims.limits.server_side) then
        return "response_not_found", route, nil, claims
    end
    local counted = ask.counted_classes
    if claims.limits or plan or (counted and counted[route.class]) then
        local code, headers = ask.admit(route, value, query, claims, plan)
        if code then
            return code, route, nil, claims, headers
        end
    end
    return nil, route, value, claims, nil, plan
end

--- Whether a credential was not narrowed to other classes than this.
local function is_within(claims, class)
    return not claims.scope or claims.scope[class] or false
end

--- Who asks. Where a role asks for a client certificate, a token or key that came without its
--- user's is as good as none: whoever has stolen it has not the certificate.
local function caller_of(policy, query, ask)
    local claims, fault = ask.caller(policy, query)
    local bound = policy.bound
    if bound and claims and bound[claims.role] and ask.certificate() ~= claims.sub then
        return nil, "invalid_api_key"
    end
    return claims, fault
end

--- A request that names its server. Who may not is told nothing of which servers there are; who may
--- needs the class of the route as everywhere, or a name would open what the role was not granted.
local function decide_by_name(policy, method, path, query, ask)
    local fault = route_table.fault_of_path(path)
    if fault then
        return fault
    end
    local claims, refusal = caller_of(policy, query, ask)
    if not claims then
        return refusal
    elseif not policy.fleet.management[claims.role] or not is_within(claims, "management") then
        return "insufficient_permissions"
    end
    local name, rest = match(path, "^/servers/([^/]+)(/.*)$")
    local row = policy.fleet.by_name[name]
    if not row then
        return "not_found"
    end
    local route, value = route_table.find(policy.by_name, method, rest)
    if not route then
        return unknown(policy.by_name, rest)
    elseif not route.servers[row.index] then
        return "not_found"
    elseif not route.allowed[claims.role] or not is_within(claims, route.class) then
        return "insufficient_permissions"
    end
    local plan = plan_of(policy, route, claims, ask)
    plan.rows, plan.judge, plan.by_name = { row }, judge_by_list, name
    return admitted(route, value, query, claims, ask, plan)
end

local SERVERS = "/servers/"

--- Decide.
---@param policy table from `load`
---@param method string
---@param path string the raw path
---@param query string with its question mark, or empty
---@param ask table what only the request can tell: `caller(policy, query)` answers its
---     claims (sub, role, limits; scope, is_api_key), or nil and a code; `certificate()` the name
---     in the client's certificate, empty without one; `reach(route)` a code or nil, and so does
---     `admit(route, value, query, claims, plan)`, which is asked of callers with limits, of all
---     where the policy names servers, and of all for `counted_classes`, a set of the
---     classes of routes whose use is counted, if any is; `view(policy)` what is known of servers
---@return string|nil code why it is refused; nil when it is allowed
---@return table|nil route
---@return string|nil value what stood for the route's parameter
---@return table|nil claims whose they are, of a refusal too
---@return table|nil headers of the refusal
---@return table|nil plan where the policy names servers: { policy, rows: those that may answer,
---     model: what stands in place of an alias, by_name: the server that was named }
function _M.decide(policy, method, path, query, ask)
    local route, value = route_table.find(policy.routes, method, path)
    if not route then
        if policy.fleet and sub(path, 1, #SERVERS) == SERVERS then
            return decide_by_name(policy, method, path, query, ask)
        end
        return unknown(policy.routes, path)
    end
    local claims, fault = caller_of(policy, query, ask)
    if not claims then
        return fault, route
    end
    if not route.allowed[claims.role] or (claims.scope and not claims.scope[route.class]) then
        return "insufficient_permissions", route, nil, claims
    end
    if not route.is_llm then
        if route.refuses_api_keys and claims.is_api_key then
            return "insufficient_permissions", route, nil, claims
        end
        return nil, route, value, claims
    end
    if policy.fleet then
        return admitted(route, value, query, claims, ask, plan_of(policy, route, claims, ask))
    end
    local unreachable = ask.reach(route)
    if unreachable then
        return unreachable, route, nil, claims
    end
    return admitted(route, value, query, claims, ask)
end

---------
-- Explained: the same decision about a question.

--- Where a model is named by the path, it is what stands there.
local NAMED_BY = {
    path = model_name.unescape,
    listed = function() return nil end,
    none = function() return nil end,
    response = function() return nil end,
}

local function told_model(model)
    return function(word, value)
        local named = NAMED_BY[word]
        if named then
            return named(value)
        elseif not model or model == "" then
            return nil, "model_missing"
        end
        return model
    end
end

--- What a question tells of its model, judged as `model_refusal` judges a request's. Where servers
--- are named and the question names no model, all that have the route may be meant.
local function admit_told(told)
    return function(route, value, query, claims, plan)
        local list = claims.limits and claims.limits.models
        if not list and not (plan and told.model and route.model) then
            return nil
        end
        return (_M.model_refusal(route, value, query, list, function(word, part)
            local fault
            told.asked, fault = told_model(told.model)(word, part)
            return told.asked, fault
        end, plan))
    end
end

local function names_of(rows)
    local names = {}
    for index, row in ipairs(rows or {}) do
        names[index] = row.name
    end
    return names
end

--- Decide about a question as `decide` does about a request whose token is good, and whose client
--- certificate is its user's.
---@param policy table from `load`
---@param method string
---@param path string
---@param user string
---@param model string|nil the model that the request would name
---@param view table|nil what is known of servers (`server_state.view`)
---@return string|nil code
---@return integer|nil index of the route in the list that was pushed
---@return string|nil role its name
---@return string|nil asked the model that was judged; nil where none was
---@return string[] servers the names of those that may answer, where the policy names servers
---@return string|nil real what an alias stands for
function _M.explain(policy, method, path, user, model, view)
    local role = _M.role_of(policy, user)
    local told = { model = model }
    local code, route, _, _, _, plan = _M.decide(policy, method, path, "", {
        caller = function()
            if not role then
                return nil, "invalid_api_key"
            end
            return { sub = user, role = role.name, limits = _M.limits(policy, user, role.name) }
        end,
        certificate = function() return user end,
        reach = function() end,
        admit = admit_told(told),
        view = function() return view end,
    })
    return code, route and route.index, role and role.name, told.asked,
        names_of(plan and plan.rows), plan and plan.model
end

return _M
