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

local _M = {}

--- Whether a request is such a question from an origin that is allowed.
---@param method string
---@return boolean
function _M.is_preflight(method)
    return method == "OPTIONS" and (var.cors_origin or "") ~= ""
        and var.http_access_control_request_method ~= nil
end

--- Answer it, without a token and without asking anybody.
function _M.answer()
    return errors.no_content({
        ["Access-Control-Allow-Methods"] = METHODS,
        ["Access-Control-Allow-Headers"] = HEADERS,
        ["Access-Control-Max-Age"] = KEPT_SECONDS,
    })
end

return _M
