---------
-- Questions of browsers before a page of another origin may ask (Fetch standard, CORS preflight).
-- Which origins may is CORS_ORIGINS', matched by nginx; without one there is no such variable, and
-- nothing here answers. It never lets cookies along: a token comes in a header.

local errors = require("portero.errors")

local var = ngx.var

local KEPT_SECONDS = "600"
local METHODS = "GET, HEAD, POST, PUT, DELETE"
--- What the usual clients send: OpenAI's, Anthropic's and Ollama's own headers among them.
local HEADERS = "Authorization, Content-Type, x-api-key, X-Requested-With, Accept, User-Agent, "
    .. "anthropic-version, anthropic-beta, anthropic-dangerous-direct-browser-access, "
    .. "OpenAI-Beta, OpenAI-Organization, OpenAI-Project, x-stainless-lang, "
    .. "x-stainless-package-version, x-stainless-os, x-stainless-arch, x-stainless-retry-count, "
    .. "x-stainless-runtime, x-stainless-runtime-version, x-stainless-async, "
    .. "x-stainless-helper-method, x-stainless-poll-helper, x-stainless-custom-poll-interval, "
    .. "x-stainless-timeout, x-stainless-read-timeout"

--- What may be asked for beside it: names (RFC 9110 section 5.6.2) and what separates them. A star
--- is a name too, and would allow what was not asked.
local NAME = "^[%w!#$%%&'+.^_`|~-]+$"
local NAMES = "^[%w!#$%%&'+.^_`|~, -]+$"
local MAX_BYTES = 2048
local VARIES = "Access-Control-Request-Method, Access-Control-Request-Headers"

local _M = {}

--- The usual, and what is asked for where it has the form of it: an origin that is named is trusted
--- with any header, and which ones its client sends is the client's business.
local function with_asked(usual, asked, form)
    if asked and #asked <= MAX_BYTES and asked:find(form) then
        return usual .. ", " .. asked
    end
    return usual
end

--- Whether a request is such a question from an origin that is allowed.
---@param method string
---@return boolean
function _M.is_preflight(method)
    return method == "OPTIONS" and (var.cors_origin or "") ~= ""
        and var.http_access_control_request_method ~= nil
end

--- Answer it, without a token and without asking anybody.
function _M.answer()
    local method, headers =
        var.http_access_control_request_method, var.http_access_control_request_headers
    local asks_from_outside = var.http_access_control_request_private_network == "true"
    return errors.no_content({
        ["Access-Control-Allow-Methods"] = with_asked(METHODS, method, NAME),
        ["Access-Control-Allow-Headers"] = with_asked(HEADERS, headers, NAMES),
        -- A page of the internet asks a gateway of a private network: it is named, so it may.
        ["Access-Control-Allow-Private-Network"] = asks_from_outside and "true" or nil,
        ["Access-Control-Max-Age"] = KEPT_SECONDS,
        ["Vary"] = VARIES,
    })
end

return _M
