---------
-- The one reader of a request's credential: `Authorization: Bearer` (RFC 6750 section 2.1),
-- `x-api-key`, or the cookie `auth_token`. Never the query. Two that differ are refused, and a bad
-- one never falls back to a good one. The issuer's reader of the same rules is `issuer/bearer.py`.

local var = ngx.var
local byte, find, lower, sub = string.byte, string.find, string.lower, string.sub

local SCHEME = "Bearer "
local COOKIE = "auth_token="
local SPACE, TAB = 0x20, 0x09

local _M = {}

--- Where the token begins in an Authorization value; behind its end when it is of another scheme.
--- Whether it has the form of a token at all is the verifier's question.
local function bearer(value)
    if find(value, SCHEME, 1, true) ~= 1 and lower(sub(value, 1, #SCHEME)) ~= lower(SCHEME) then
        return #value + 1
    end
    return #SCHEME + 1
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

--- Where more than one place may name a token.
local function read_all(authorization, key, cookie)
    local token = authorization and sub(authorization, bearer(authorization))
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

--- The caller's token: a text, and where in it the token begins. Nearly all come in Authorization
--- alone; they are left in the header's value, for a text of their own would be the longest of the
--- request.
---@return string|nil text, string|nil fault "missing" or "several"
---@return boolean by_cookie whether a browser brought it by itself
---@return integer from
function _M.read()
    local authorization, key, cookie = var.http_authorization, var.http_x_api_key, var.http_cookie
    if authorization and not key and not cookie then
        return authorization, nil, false, bearer(authorization)
    end
    local token, fault, by_cookie = read_all(authorization, key, cookie)
    return token, fault, by_cookie, 1
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
