---------
-- The request path: what `policy/decision.lua` asks is answered here, and what it decides is done.
-- The credential, the token, is it active, is the LLM server known, the caller's limits; then
-- forward exactly what was judged.
-- Nothing falls through: what cannot be judged is refused, and a Lua error is a 500.

local active_tokens = require("portero.token.active_tokens")
local api_keys = require("portero.token.api_keys")
local admission = require("portero.quota.admission")
local client_events = require("portero.answer.client_events")
local cors = require("portero.request.cors")
local decision = require("portero.policy.decision")
local errors = require("portero.errors")
local forwarding = require("portero.server.forwarding")
local in_force = require("portero.policy.in_force")
local metrics = require("portero.metrics")
local origins = require("portero.request.origins")
local presented_token = require("portero.token.presented_token")
local request_counts = require("portero.request_counts")
local model_name = require("portero.policy.model_name")
local route_table = require("portero.policy.route_table")
local server_state = require("portero.server.server_state")
local shared_versions = require("portero.shared_versions")
local token_cache = require("portero.token.token_cache")
local upstreams = require("portero.server.upstreams")

local ngx, var = ngx, ngx.var
local get_method, time = ngx.req.get_method, ngx.time
local byte, find, format = string.byte, string.find, string.format
local gsub, sub = string.gsub, string.sub

local PROTOCOLS = { ["HTTP/1.1"] = true, ["HTTP/1.0"] = true, ["HTTP/2.0"] = true }
local SAFE_METHODS = { GET = true, HEAD = true }
--- Where a route is answered if not here, by who answers it.
local ANSWERED_AT = {
    issuer = "@issuer", gateway = "@metrics", discovery = "@discovery", socket = "@realtime",
}
--- Where a browser without a valid session goes, by the class of what it asked for.
local LOGIN_PAGES = {
    page = "/login?next=/", account = "/login?next=/account",
    console = "/admin/login?next=/admin/",
}

local upstream_prefix, has_pool
local max_staleness_seconds
local is_counting = false

--- What only the request can tell (`decision.decide`).
local ask = {}

local _M = {}

--- Begin, in each worker.
---@param settings table
function _M.start(settings)
    upstream_prefix = settings.llm[1] and settings.llm[1].path or ""
    has_pool = settings.llm[1] ~= nil
    max_staleness_seconds = settings.max_staleness_seconds
    is_counting = settings.has_usage
    ask.counted_classes = is_counting and admission.METERED or nil
end

--- The raw path and query, as the client wrote them: what is judged is what is sent.
local function read_target()
    local uri = var.request_uri
    local mark = find(uri, "?", 1, true)
    if not mark then
        return uri, ""
    end
    return sub(uri, 1, mark - 1), sub(uri, mark)
end

--- A token in the query would end in logs and histories (RFC 6750 section 2.3).
local function holds_token(query)
    return query ~= "" and (find(query, "token=", 1, true) or find(query, "api_key=", 1, true))
end

local function wants_page()
    local accept = var.http_accept
    return accept and find(accept, "text/html", 1, true)
end

--- The clock is read once per turn of the event loop: a token minted within this turn would seem
--- to come from the future.
local function claims_of(text, from, policy)
    local claims, reason = token_cache.claims(text, from, time(), policy)
    if reason == "not yet issued" then
        ngx.update_time()
        claims, reason = token_cache.claims(text, from, time(), policy)
    end
    return claims, reason
end

--- Why a token that is authentic is refused. One issued since the issuer was last heard may be one
--- this gateway has not been told of.
local function code_of_inactive(claims, active, known)
    local is_untold = active == nil
        or (not known and active_tokens.may_be_behind(claims.iat, ngx.now()))
    return is_untold and "not_ready" or "invalid_api_key"
end

local function is_stale()
    if max_staleness_seconds == 0 then
        return false
    end
    local staleness = active_tokens.staleness()
    return not staleness or staleness > max_staleness_seconds
end

--- What is wrong with the form of a request, whoever asks.
local function fault_of_form(query)
    if not PROTOCOLS[var.server_protocol] then
        return "unsupported_protocol"
    end
    return holds_token(query) and "token_in_query" or nil
end

--- The token that a request shows, and where it begins in its text; nil and a code where none
--- counts.
local function presented(query)
    local form_fault = fault_of_form(query)
    if form_fault then
        return nil, form_fault
    end
    local text, fault, by_cookie, from = presented_token.read()
    if fault == "several" then
        return nil, "several_credentials"
    elseif not text then
        return nil, "invalid_api_key"
    elseif by_cookie and api_keys.is_one(text, from) then
        return nil, "invalid_api_key" -- a key is no session of a browser's
    elseif by_cookie and not SAFE_METHODS[get_method()] and origins.from_another_site() then
        return nil, "other_site"
    end
    return text, from
end

local CODES_OF_TOKEN = {
    ["no keys"] = "not_ready", untold = "not_ready", expired = "expired",
}

--- Who asks.
function ask.caller(policy, query)
    local text, from = presented(query)
    if not text then
        return nil, from
    end
    local claims, reason = claims_of(text, from, policy)
    if not claims then
        return nil, CODES_OF_TOKEN[reason] or "invalid_api_key"
    end
    local active, known = active_tokens.holds(claims)
    if not active then
        return nil, code_of_inactive(claims, active, known)
    elseif is_stale() then
        return nil, "not_ready"
    end
    return claims
end

--- The name in the client's certificate (`settings_conf.lua`).
function ask.certificate()
    return var.client_certificate
end

--- Whether an LLM server is known at all. Without a pool it is the policy that will name them.
function ask.reach()
    if upstreams.is_known("llm") then
        return nil
    end
    return has_pool and "upstream_unavailable" or "not_ready"
end

--- What is known of the servers that the policy names.
ask.view = server_state.view

--- Whether a caller's limits refuse a request, or no server has its model. A body that is judged
--- may take its time to come, so the token is asked for once more.
function ask.admit(route, value, query, claims, plan)
    local code, headers = admission.refusal(route, value, query, claims, plan)
    if code then
        return code, headers
    end
    shared_versions.look()
    local active, known = active_tokens.holds(claims)
    if active then
        return nil
    end
    admission.settle()
    local is_late = claims.exp <= time() and not claims.is_api_key
    return is_late and "expired" or code_of_inactive(claims, active, known)
end

--- The path that is sent on.
local function path_of(route, value)
    local path = route_table.target(route, value)
    if not route.is_llm or upstream_prefix == "" then
        return path
    end
    return upstream_prefix .. path
end

--- Where the request goes on; nil where it stays, and is sent as it came; use is counted there too
--- (`counted.conf`).
local function location_of(route, claims, is_renamed)
    if route.answered_by ~= "llm" then
        return ANSWERED_AT[route.answered_by]
    end
    local limits = claims.limits
    if limits and admission.is_held(route, limits) then
        return "@limited"
    end
    if not is_renamed then
        return nil
    end
    return is_counting and "@limited" or "@renamed"
end

--- A model in the path or the query is written as paths and queries are.
local function escaped(name)
    return (gsub(name, "[^%w._:/@-]", function(character)
        return format("%%%02X", byte(character))
    end))
end

--- What is sent on of the path and the query, by the name of the model that was judged.
local function target_by_model(route, value, query, model)
    if model and route.model == "path" then
        value = escaped(model)
    elseif model and route.model == "query" then
        query = model_name.query_with(query, escaped(model))
    end
    return route_table.target(route, value) .. query
end

--- On to one of the servers that the policy names.
local function forward_to_server(route, value, query, claims, plan)
    local is_list = route.answered_by == "discovery"
    var.upstream_target = target_by_model(route, value, query, not is_list and plan.model)
    if is_list then
        var.llm_server = plan.by_name or ""
    end
    if route.answered_by ~= "llm" then
        return ngx.exec(ANSWERED_AT[route.answered_by])
    end
    forwarding.begin(plan, claims)
    return ngx.exec("@server")
end

--- Variables that `proxy_set_header` and `proxy_pass` use.
local function forward(route, value, asked, query, claims, plan)
    metrics.count("allowed")
    var.auth_user = claims.sub
    var.auth_role = claims.role
    var.auth_token_id = claims.jti
    if claims.is_api_key then
        api_keys.note_use(claims.jti)
    end
    if route.tells_id then
        errors.tell_id(route.dialect)
    end
    if route.answered_by == "socket" then
        client_events.begin(route, query, claims, plan)
    end
    if plan then
        return forward_to_server(route, value, query, claims, plan)
    end
    local path = path_of(route, value)
    local location = location_of(route, claims, path ~= asked)
    if location then
        var.upstream_target = path .. query
        return ngx.exec(location)
    end
end

--- The codes for which a browser that asked for a page is shown the way in.
local BY_LOGIN = { invalid_api_key = true, expired = true }

local function refuse(code, route, headers)
    local page = route and BY_LOGIN[code] and LOGIN_PAGES[route.class]
    if page and wants_page() then
        return errors.redirect(page)
    end
    return errors.refuse(code, headers)
end

--- Judge one request: forward it or refuse it.
function _M.judge()
    shared_versions.look()
    local method = get_method()
    if cors.is_preflight(method) then
        return cors.answer()
    end
    local policy = in_force.current()
    if not policy then
        return errors.refuse("not_ready")
    end
    local path, query = read_target()
    local code, route, value, claims, headers, plan =
        decision.decide(policy, method, path, query, ask)
    if route then
        request_counts.note(route.class, claims and claims.role)
    end
    if code then
        return refuse(code, route, headers)
    end
    return forward(route, value, path, query, claims, plan)
end

return _M
