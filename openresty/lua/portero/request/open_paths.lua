---------
-- The open paths: the login endpoints, OAuth's, the way out, what their pages are made of, and
-- health. They ask for no token, so they never come to `access`; who passes here is answered by the
-- issuer or the gateway itself: health says nothing but yes or no. What each login endpoint decides
-- is the issuer's.

local cors = require("portero.request.cors")
local errors = require("portero.errors")
local route_table = require("portero.policy.route_table")
local shared_versions = require("portero.shared_versions")

local var = ngx.var
local get_method = ngx.req.get_method
local byte, find, match = string.byte, string.find, string.match

local QUESTION_MARK = 0x3f
local READ = { GET = true, HEAD = true }
local ONLY_READ = { Allow = "GET, HEAD" }
local CONSOLE = "/admin/"
local PERMANENT = 308

--- The methods of each open path, for TRACE and CONNECT, which nginx refuses before it looks for
--- who answers. All others are refused by whoever answers: the issuer shows a browser a page.
local ONLY_LOG_IN, PAGE_AND_LOG_IN = { Allow = "POST" }, { Allow = "GET, HEAD, POST" }
local ALLOWED = {
    ["/llm/login"] = ONLY_LOG_IN, ["/auth/llm/login"] = ONLY_LOG_IN,
    ["/agi/login"] = ONLY_LOG_IN, ["/auth/agi/login"] = ONLY_LOG_IN,
    ["/login"] = PAGE_AND_LOG_IN, ["/auth/login"] = PAGE_AND_LOG_IN,
    ["/admin/login"] = PAGE_AND_LOG_IN, ["/logout"] = PAGE_AND_LOG_IN,
    ["/oauth/token"] = ONLY_LOG_IN, ["/oauth/revoke"] = ONLY_LOG_IN,
    ["/oauth/introspect"] = ONLY_LOG_IN,
    ["/.well-known/oauth-authorization-server"] = ONLY_READ,
    ["/.well-known/jwks.json"] = ONLY_READ,
    ["/static/portero.css"] = ONLY_READ, ["/static/portero.svg"] = ONLY_READ,
    ["/static/answer.js"] = ONLY_READ, ["/static/chat.js"] = ONLY_READ,
    ["/static/conversations.js"] = ONLY_READ, ["/static/markdown.js"] = ONLY_READ,
    ["/static/markdown-it.js"] = ONLY_READ, ["/static/page.js"] = ONLY_READ,
    ["/static/purify.js"] = ONLY_READ, ["/static/console.js"] = ONLY_READ,
    ["/admin"] = ONLY_READ, ["/healthz"] = ONLY_READ, ["/readyz"] = ONLY_READ,
}

local _M = {}

--- nginx chooses an open path by what it made of the one that was asked: escapes undone, slashes
--- merged, dots resolved. A rule in front of the gateway may know the path as it is written only.
local function is_spelled_otherwise()
    local asked, path = var.request_uri, var.uri
    if asked == path then
        return false
    end
    return find(asked, path, 1, true) ~= 1 or byte(asked, #path + 1) ~= QUESTION_MARK
end

local function refuse_spelling()
    local path = match(var.request_uri, "^[^?]*")
    return errors.refuse(route_table.fault_of_path(path) or "invalid_request")
end

--- Where the issuer answers, which knows the methods of its paths.
---@return boolean is_answered already
function _M.enter()
    if is_spelled_otherwise() then
        refuse_spelling()
        return true
    end
    if cors.is_preflight(get_method()) then
        cors.answer()
        return true
    end
    return false
end

--- Where the gateway itself answers, and there is only something to read.
local function to_read(answer)
    return function()
        if is_spelled_otherwise() then
            return refuse_spelling()
        end
        if not READ[get_method()] then
            return errors.refuse("method_not_allowed", ONLY_READ)
        end
        return answer()
    end
end

--- The gateway runs, whatever it can do.
_M.healthz = to_read(function() ngx.say('{"status":"ok"}') end)

--- Ready means: the keys are there, the policy, and the first snapshot is whole.
_M.readyz = to_read(function()
    if not shared_versions.is_ready() then
        return errors.refuse("not_ready")
    end
    ngx.say('{"status":"ready"}')
end)

--- The console's name without its slash, as people type it.
_M.to_console = to_read(function() return errors.redirect(CONSOLE, PERMANENT) end)

--- The headers that name the methods of an open path; nil for any other path.
---@param path string as the client wrote it
---@return table|nil headers
function _M.allowed(path)
    return ALLOWED[path]
end

return _M
