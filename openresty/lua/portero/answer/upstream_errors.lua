---------
-- What an LLM server or the issuer answered that no caller may see, and what nginx refused by
-- itself, told as Portero's own refusals are. What an LLM server says of itself or of places goes
-- nowhere: it may name models, paths and addresses, and a client would follow a redirect with the
-- prompt. The operator reads it in the log, one line a refusal, with what to do.

local open_paths = require("portero.request.open_paths")
local errors = require("portero.errors")
local in_force = require("portero.policy.in_force")
local route_table = require("portero.policy.route_table")
local request_faults = require("portero.request.request_faults")
local stream = require("portero.answer.stream")

local ngx = ngx
local find, lower, match, sub = string.find, string.lower, string.match, string.sub

--- Why the LLM server's own words pass: only it knows what was wrong with a parameter.
local ITS_OWN_WORDS = { [400] = true, [409] = true, [422] = true, [429] = true }
--- With what an answer that may not pass is left to error_page: no status of nginx's own.
local ENDED_BY_FILTER = 418
local FIRST_SUCCESS, FIRST_REDIRECT, FIRST_ERROR, BEHIND_ALL = 200, 300, 400, 600
local NOT_MODIFIED = 304
local METHOD_NOT_ALLOWED = 405
local HTTP_2, WHOLE_HEAD = 2, "\r\n\r\n"
--- A Location may be as long as a header may be.
local MAX_LOGGED_CHARACTERS = 200

--- What each status of an LLM server becomes; others go by their hundred.
local OF_LLM_SERVER = {
    [400] = "rejected", [409] = "rejected_conflict", [422] = "rejected_content",
    [401] = "upstream_refused", [402] = "upstream_refused", [403] = "upstream_refused",
    [407] = "upstream_refused",
    [404] = "not_found", [405] = "not_found", [410] = "not_found",
    [408] = "upstream_timeout",
    [413] = "request_too_large", [415] = "unsupported_media_type",
    [429] = "upstream_busy",
    [501] = "not_offered",
    [502] = "upstream_unavailable",
    [503] = "not_ready", [529] = "not_ready",
    [504] = "upstream_timeout",
}
--- What nginx could not do, or would not take of the client.
local OF_NGINX = {
    [403] = "insufficient_permissions",
    [404] = "not_found", [405] = "other_method",
    [413] = "request_too_large",
    [415] = "unsupported_media_type",
    [500] = "internal_error", [507] = "internal_error",
    [502] = "upstream_unavailable",
    [503] = "not_ready",
    [504] = "upstream_timeout",
}
--- A login endpoint is away for a moment, whatever nginx calls that. The 500 is nginx's own, for an
--- issuer whose name is not known yet.
local OF_ISSUER = {
    [413] = "request_too_large",
    [500] = "not_ready", [502] = "not_ready", [503] = "not_ready", [504] = "not_ready",
}
local BY_HUNDRED = { [3] = "upstream_redirected", [4] = "rejected" }

--- What the operator can do about it.
local ADVICE = {
    upstream_refused = "it wants another key than it was sent; set LLM_API_KEY",
    upstream_redirected = "set LLM_UPSTREAM to the place that it names, if that is the LLM server",
    upstream_html = "that is a page, not an API; does LLM_UPSTREAM name the LLM server?",
    upstream_failed = "its own log tells why",
    upstream_busy = "it has more to do than it takes",
    not_ready = "it is starting, or has more to do than it takes",
    no_http = "that is no HTTP, or none that nginx reads; does LLM_UPSTREAM name the LLM server?",
}

--- The routes whose 404 can only mean the model, for they are there.
local MODEL_WORDS = { body = true, ["body-or-name"] = true, path = true, query = true, form = true }

local _M = {}

local function path_asked()
    return match(ngx.var.request_uri, "^[^?]*")
end

local function route_asked()
    local policy = in_force.current()
    return policy and route_table.find(policy.routes, ngx.req.get_method(), path_asked())
end

--- Whether an answer may be a page: where a page is asked for, or nothing but a head.
local function may_be_page()
    local route = route_asked()
    return route and route.class == "page" or ngx.req.get_method() == "HEAD"
end

--- What a status of the LLM server becomes.
---@param status integer
---@return string code a key of errors.lua's table
function _M.code_of(status)
    local code = OF_LLM_SERVER[status] or BY_HUNDRED[math.floor(status / 100)] or "upstream_failed"
    local route = code == "not_found" and route_asked()
    return route and MODEL_WORDS[route.model] and "model_not_found" or code
end

--- The status of the server that was asked last; nginx notes 502 or 504 where none came. Nil when
--- none was asked.
local function upstream_status()
    return tonumber((ngx.var.upstream_status or ""):match("(%d+)%s*$"))
end

local function is_html(content_type)
    return content_type ~= nil and find(lower(content_type), "html", 1, true) ~= nil
end

--- What only the LLM server can say of a request passes, if it is said as an API says it.
local function may_pass(status, content_type)
    if not upstream_status() then
        -- What no LLM server gave is Portero's own, but for nginx's pages.
        return status < FIRST_ERROR or not is_html(content_type)
    end
    if ITS_OWN_WORDS[status] then
        return content_type ~= nil and find(lower(content_type), "json", 1, true) ~= nil
    end
    return status == NOT_MODIFIED
        or (status >= FIRST_SUCCESS and status < FIRST_REDIRECT and may_be_page())
end

local function advice_of(status)
    if status < FIRST_SUCCESS or status >= BEHIND_ALL then
        return ADVICE.no_http
    end
    return status < FIRST_REDIRECT and ADVICE.upstream_html or ADVICE[_M.code_of(status)]
end

--- Nearly all answers: a success that is no page.
local function is_plain(status, content_type)
    if status < FIRST_SUCCESS or status >= FIRST_REDIRECT then
        return false
    end
    return content_type == "application/json" or not is_html(content_type)
end

--- One line for the operator, where there is something to do. nginx itself says of each line who
--- asked what, and which server answered.
local function tell(status)
    local advice = advice_of(status)
    -- What is behind the path of a Location may be a key.
    local location = match(ngx.var.upstream_http_location or "", "^[^?#]+")
    local place = location and " with Location " .. sub(location, 1, MAX_LOGGED_CHARACTERS) or ""
    if advice then
        ngx.log(ngx.ERR, "the LLM server answered ", status, place, ": ", advice)
    end
end

--- The same of the LLM server's own list of models, where only the operator is told
--- (`header_filter`): what its status means is the asker's to say.
function _M.look_at_list()
    local status = ngx.status
    if not is_plain(status, ngx.header["Content-Type"]) and upstream_status() then
        tell(status)
    end
end

--- Look at the head of an LLM server's answer before any of it goes out (`header_filter`): what
--- nginx does not intercept by its status. What may not pass is left to `error_page` and `refuse`.
--- Where nobody was asked, it is nginx's own 400 for a body that it could not read to its end; no
--- `error_page` may take that status from the LLM server, so the words are changed on their way.
---@return boolean is_refused
function _M.look()
    local status, content_type = ngx.status, ngx.header["Content-Type"]
    if is_plain(status, content_type) or may_pass(status, content_type) then
        stream.begin()
        return false
    end
    if not upstream_status() then
        stream.replace(errors.begin_instead("body_broken"))
        return true
    end
    tell(status)
    ngx.exit(ENDED_BY_FILTER)
    return true
end

local function code_of_llm()
    local own, status = ngx.status, upstream_status()
    if not status then
        return OF_NGINX[own] or "invalid_request"
    end
    if own ~= ENDED_BY_FILTER then
        tell(status)
    end
    -- nginx hands on what a 401 asked of the gateway, whatever is hidden.
    ngx.header["WWW-Authenticate"] = nil
    return _M.code_of(status)
end

--- HTTP/2 has no head in one piece, and nginx answers an error to who asks for it.
local function raw_head()
    return ngx.req.http_version() == HTTP_2 and WHOLE_HEAD or ngx.req.raw_header()
end

--- What nginx refused of itself. One status has a place of its own, as nginx calls it 400 too.
local function code_of_nginx()
    local told = match(ngx.var.uri, "^/refused/([%w_]+)$")
    if told or OF_NGINX[ngx.status] then
        return told or OF_NGINX[ngx.status]
    end
    local var = ngx.var
    return request_faults.of_head({
        status = ngx.status, line = var.request, uri = var.request_uri, host = var.http_host,
        length = var.http_content_length, encoding = var.http_transfer_encoding,
        head = raw_head(),
    })
end

--- Who was asked when it went wrong -> the code of the refusal.
local CODES = {
    llm = code_of_llm,
    issuer = function() return OF_ISSUER[ngx.status] or "invalid_request" end,
    nginx = code_of_nginx,
}

--- Refuse, where `error_page` has led.
---@param asked string "llm", "issuer", or "nginx" where nobody was asked
function _M.refuse(asked)
    -- Of an open path nginx has refused another method by itself.
    local methods = asked == "nginx" and ngx.status == METHOD_NOT_ALLOWED
        and open_paths.allowed(path_asked())
    if methods then
        return errors.refuse("method_not_allowed", methods)
    end
    return errors.refuse(CODES[asked]())
end

return _M
