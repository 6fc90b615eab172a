---------
-- The request path. `judge` reads as the specification: the route, the credential, the token, is it
-- active, may its role use the route, is it within the caller's limits, forward exactly what was
-- judged.
-- Nothing falls through: what cannot be judged is refused, and a Lua error is a 500.

local active_tokens = require("portero.token.active_tokens")
local cors = require("portero.request.cors")
local presented_token = require("portero.token.presented_token")
local errors = require("portero.errors")
local admission = require("portero.quota.admission")
local metrics = require("portero.metrics")
local origins = require("portero.request.origins")
local route_table = require("portero.policy.route_table")
local request_faults = require("portero.request.request_faults")
local shared_versions = require("portero.shared_versions")
local upstreams = require("portero.server.upstreams")
local token_cache = require("portero.token.token_cache")

local ngx, var = ngx, ngx.var
local get_method, time = ngx.req.get_method, ngx.time
local find, match, sub = string.find, string.match, string.sub

local PROTOCOLS = { ["HTTP/1.1"] = true, ["HTTP/1.0"] = true, ["HTTP/2.0"] = true }
local SAFE_METHODS = { GET = true, HEAD = true }
--- Where a route is answered if not here, by who answers it.
local ANSWERED_AT = { issuer = "@issuer", gateway = "@metrics", discovery = "@discovery" }
--- Where a browser without a valid session goes, by the class of what it asked for.
local LOGIN_PAGES = { page = "/login?next=/", console = "/admin/login?next=/admin/" }

local table_of_routes
local upstream_prefix
local max_staleness_seconds

local _M = {}

--- Begin, in each worker.
---@param settings table
function _M.start(settings)
    table_of_routes = settings.policy
    upstream_prefix = settings.llm[1].path
    max_staleness_seconds = settings.max_staleness_seconds
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

--- Whether a path is a route by any method.
local function is_known(path)
    for method in pairs(table_of_routes) do
        if route_table.find(table_of_routes, method, path) then
            return true
        end
    end
    return false
end

--- Say what it is with a path that is no route, and nothing of routes that no role may reach.
local function refuse_unknown(path)
    if not route_table.is_canonical(path) then
        return errors.refuse(request_faults.of_path(path) or "invalid_request")
    end
    if is_known(path) then
        return errors.refuse("other_method")
    end
    local without_slash = match(path, "^(.+)/$")
    return errors.refuse(without_slash and is_known(without_slash) and "slash_at_end"
        or "not_found")
end

local function wants_page()
    local accept = var.http_accept
    return accept and find(accept, "text/html", 1, true)
end

--- 401, or the way to the login page for a browser that asked for a page.
local function refuse_token(route, code)
    local page = LOGIN_PAGES[route.class]
    if page and wants_page() then
        return errors.redirect(page)
    end
    return errors.refuse(code)
end

--- The clock is read once per turn of the event loop: a token minted within this turn would seem
--- to come from the future.
local function claims_of(text, from)
    local claims, reason = token_cache.claims(text, from, time())
    if reason == "not yet issued" then
        ngx.update_time()
        claims, reason = token_cache.claims(text, from, time())
    end
    return claims, reason
end

--- A token issued since the issuer was last heard may be one this gateway has not been told of.
local function refuse_inactive(route, claims, active, known)
    if active == nil or (not known and active_tokens.may_be_behind(claims.iat, ngx.now())) then
        return errors.refuse("not_ready")
    end
    return refuse_token(route, "invalid_api_key")
end

local function is_stale()
    if max_staleness_seconds == 0 then
        return false
    end
    local staleness = active_tokens.staleness()
    return not staleness or staleness > max_staleness_seconds
end

--- Whether a caller's limits refuse a request. A body that is judged may take its time to come, so
--- the token is asked for once more.
local function refuse_by_limits(route, value, query, claims)
    local code, headers = admission.refusal(route, value, query, claims)
    if code then
        errors.refuse(code, headers)
        return true
    end
    shared_versions.look()
    local active, known = active_tokens.holds(claims)
    if active then
        return false
    end
    admission.settle()
    if claims.exp <= time() then
        refuse_token(route, "expired")
    else
        refuse_inactive(route, claims, active, known)
    end
    return true
end

--- The path that is sent on.
local function path_of(route, value)
    local path = route_table.target(route, value)
    if not route.is_llm or upstream_prefix == "" then
        return path
    end
    return upstream_prefix .. path
end

--- Where the request goes on; nil where it stays, and is sent as it came.
local function location_of(route, claims, is_renamed)
    if route.answered_by ~= "llm" then
        return ANSWERED_AT[route.answered_by]
    end
    local limits = claims.limits
    if limits and limits.is_counted then
        return "@limited"
    end
    return is_renamed and "@renamed" or nil
end

--- Variables that `proxy_set_header` and `proxy_pass` use.
local function forward(route, value, asked, query, claims)
    metrics.count("allowed")
    var.auth_user = claims.sub
    var.auth_role = claims.role
    var.auth_token_id = claims.jti
    local path = path_of(route, value)
    local location = location_of(route, claims, path ~= asked)
    if location then
        var.upstream_target = path .. query
        return ngx.exec(location)
    end
end

--- What is wrong with the form of a request, whoever asks.
local function fault_of_form(query)
    if not PROTOCOLS[var.server_protocol] then
        return "unsupported_protocol"
    end
    return holds_token(query) and "token_in_query" or nil
end

--- Judge one request: forward it or refuse it.
function _M.judge()
    shared_versions.look()
    local method = get_method()
    local path, query = read_target()
    local route, value = route_table.find(table_of_routes, method, path)
    if cors.is_preflight(method) then
        return cors.answer()
    end
    if not route then
        return refuse_unknown(path)
    end
    local form_fault = fault_of_form(query)
    if form_fault then
        return errors.refuse(form_fault)
    end
    local token, fault, by_cookie, from = presented_token.read()
    if fault == "several" then
        return errors.refuse("several_credentials")
    end
    if not token then
        return refuse_token(route, "invalid_api_key")
    end
    if by_cookie and not SAFE_METHODS[method] and origins.from_another_site() then
        return errors.refuse("other_site")
    end
    local claims, reason = claims_of(token, from)
    if reason == "no keys" then
        return errors.refuse("not_ready")
    end
    if not claims then
        return refuse_token(route, reason == "expired" and "expired" or "invalid_api_key")
    end
    local active, known = active_tokens.holds(claims)
    if not active then
        return refuse_inactive(route, claims, active, known)
    end
    if is_stale() then
        return errors.refuse("not_ready")
    end
    if not route.allowed[claims.role] then
        return errors.refuse("insufficient_permissions")
    end
    if route.is_llm and not upstreams.is_known("llm") then
        return errors.refuse("upstream_unavailable")
    end
    if claims.limits and route.is_llm and refuse_by_limits(route, value, query, claims) then
        return
    end
    return forward(route, value, path, query, claims)
end

return _M
