---------
-- The one reader of a request's credential: `Authorization: Bearer` (RFC 6750 section 2.1),
-- `x-api-key`, or the cookie `auth_token`. Never the query. Two that differ are refused, and a bad
-- one never falls back to a good one. The issuer's reader of the same rules is `issuer/bearer.py`.

local var = ngx.var
local byte, find, lower, sub = string.byte, string.find, string.lower, string.sub

local COOKIE = "auth_token="
local SPACE, TAB = 0x20, 0x09

local _M = {}

--- The token of an Authorization value; "" when it is of another scheme. Whether it has the form of
--- a token at all is the verifier's question.
local function bearer(value)
    local scheme = sub(value, 1, 7)
    if scheme ~= "Bearer " and lower(scheme) ~= "bearer " then
        return ""
    end
    return sub(value, 8)
end

--- All values of the cookie, from the raw header: split at semicolons only, names by their bytes.
local function cookies(header)
    local first, differs
    local at = 1
    while at <= #header do
        local stop = find(header, ";", at, true) or #header + 1
        while byte(header, at) == SPACE or byte(header, at) == TAB do
            at = at + 1
        end
        if sub(header, at, at + #COOKIE - 1) == COOKIE then
            local value = sub(header, at + #COOKIE, stop - 1)
            differs = differs or (first and first ~= value)
            first = first or value
        end
        at = stop + 1
    end
    return first, differs
end

--- nginx before 1.23 shows the first of several headers of a name: look at the raw ones.
local function is_repeated(name)
    return type(ngx.req.get_headers(0)[name]) == "table"
end

--- The caller's token.
---@return string|nil token, string|nil fault "missing" or "several"
---@return boolean by_cookie whether a browser brought it by itself
function _M.read()
    local authorization, key, cookie = var.http_authorization, var.http_x_api_key, var.http_cookie
    local token = authorization and bearer(authorization)
    local from_cookie, differs
    if cookie then
        from_cookie, differs = cookies(cookie)
    end
    if key and (is_repeated("x-api-key") or (token and token ~= key)) then
        return nil, "several", false
    end
    token = token or key
    if differs or (token and from_cookie and token ~= from_cookie) then
        return nil, "several", false
    end
    if not token and not from_cookie then
        return nil, "missing", false
    end
    return token or from_cookie, nil, not token
end

local function host_of(origin)
    return origin:match("^https?://([^/]+)$")
end

--- Whether a browser says that a page of another site sent this request (threats I5).
---@return boolean
function _M.from_another_site()
    local site = var.http_sec_fetch_site
    if site then
        return site ~= "same-origin" and site ~= "none"
    end
    local origin = var.http_origin
    if not origin then
        return false
    end
    local host = host_of(origin)
    return not host or host ~= var.http_host
end

return _M
