---------
-- Every refusal of the gateway, in the caller's dialect, and the only `ngx.exit`.
-- `/api/*` speaks Ollama's, all else OpenAI's. It must never say more about a bad token than that
-- it is invalid or (when authentic) expired, and never echo what the client sent. Only a running
-- stream is told that its token was revoked.

local cjson = require("cjson.safe")
local metrics = require("portero.metrics")

local RETRY_SECONDS = "1"
local CHALLENGE = 'Bearer realm="portero"'

--- code -> status, OpenAI's type, message, extra headers (contract section 5).
local ERRORS = {
    invalid_request = {
        400, "invalid_request_error", "The request is not acceptable.",
    },
    several_credentials = {
        400, "invalid_request_error", "The request carries more than one credential.",
        code = "invalid_request",
    },
    invalid_api_key = {
        401, "invalid_request_error", "Invalid or missing token.",
        headers = { ["WWW-Authenticate"] = CHALLENGE },
    },
    expired = {
        401, "invalid_request_error", "token expired",
        code = "invalid_api_key",
        headers = {
            ["WWW-Authenticate"] = CHALLENGE,
            ["x-should-retry"] = "true",
            ["retry-after-ms"] = "10",
        },
    },
    revoked = {
        401, "invalid_request_error", "The token was revoked.",
        code = "invalid_api_key",
    },
    stream_too_long = {
        429, "rate_limit_error", "The stream ran for as long as your role allows.",
        code = "rate_limit_exceeded",
    },
    insufficient_permissions = {
        403, "permission_error", "Your role may not use this route.",
    },
    other_site = {
        403, "permission_error", "This request came from another site.",
        code = "insufficient_permissions",
    },
    not_found = {
        404, "invalid_request_error", "No such route.",
    },
    request_too_large = {
        413, "invalid_request_error", "The request is too large.",
    },
    internal_error = {
        500, "server_error", "Something went wrong on our side.",
    },
    upstream_unavailable = {
        502, "server_error", "The LLM server cannot be reached.",
    },
    not_ready = {
        503, "server_error", "Not ready yet; try again shortly.",
        headers = { ["Retry-After"] = RETRY_SECONDS },
    },
    upstream_timeout = {
        504, "server_error", "The LLM server did not answer in time.",
    },
}

local _M = {}

--- Whether a path is of the Ollama dialect.
---@param path string
---@return boolean
function _M.is_ollama(path)
    return path:find("^/api/") ~= nil or path:find("^/llm/api/") ~= nil
end

--- What an error says, in the dialect of the path.
---@param code string a key of the table above
---@param path string
---@return table
function _M.body(code, path)
    local row = ERRORS[code]
    if _M.is_ollama(path) then
        return { error = row[3] }
    end
    return {
        error = { message = row[3], type = row[2], param = cjson.null, code = row.code or code },
    }
end

--- A body that was announced and not yet asked for is not asked for now (RFC 9110 section 10.1.1).
local function decline_body()
    if ngx.var.http_expect then
        ngx.req.clear_header("Expect")
        ngx.header["Connection"] = "close"
    end
end

--- Answer the error and end the request.
---@param code string a key of the table above
function _M.refuse(code)
    local row = ERRORS[code]
    metrics.count(code)
    decline_body()
    ngx.status = row[1]
    ngx.header["Content-Type"] = "application/json"
    ngx.header["Cache-Control"] = "no-store"
    for name, value in pairs(row.headers or {}) do
        ngx.header[name] = value
    end
    ngx.say(cjson.encode(_M.body(code, ngx.var.request_uri or "/")))
    return ngx.exit(row[1])
end

--- The same for what nginx refused itself; the last part of the internal URI names the code.
function _M.refuse_for_nginx()
    return _M.refuse(ngx.var.uri:match("[%w_]+$"))
end

--- Send a browser to a login page; `next` brings it back.
---@param location string
function _M.redirect(location)
    metrics.count("redirected")
    ngx.header["Cache-Control"] = "no-store"
    return ngx.redirect(location, 302)
end

--- End a request of the internal listener with a status alone.
---@param status integer
function _M.exit(status)
    return ngx.exit(status)
end

return _M
