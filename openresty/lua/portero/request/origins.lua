---------
-- Whether a page of another site sent a request, as its browser says (threats I5). A cookie comes
-- by itself, so this is asked of every request that changes something by one. The issuer's twin is
-- `issuer/origins.py`; one table of senders in the tests holds both equal.

local var = ngx.var
local lower, match = string.lower, string.match

--- Patterns of the port that an origin of the scheme leaves out.
local DEFAULT_PORTS = { http = ":80$", https = ":443$" }

local public_origin

local _M = {}

--- Begin, in each worker.
---@param settings table
function _M.start(settings)
    public_origin = settings.public_origin
end

--- nginx before 1.23 shows the first of several headers of a name: look at the raw ones.
local function is_repeated(name)
    return type(ngx.req.get_headers(0)[name]) == "table"
end

--- Host and port as an origin of this scheme has them.
local function plain(scheme, authority)
    return (lower(authority):gsub(DEFAULT_PORTS[scheme], ""))
end

--- Whether an origin is ours. Without PUBLIC_URL it is the one that the browser asked. Over plain
--- HTTP a front may have TLS that we are not told of; over TLS nothing else will do.
local function is_own(origin)
    local scheme, authority = match(origin, "^(https?)://([^/?#@:%s][^/?#@%s]*)$")
    if not scheme then
        return false
    end
    authority = plain(scheme, authority)
    if public_origin then
        return scheme .. "://" .. authority == public_origin
    end
    if scheme == "http" and (var.client_scheme or var.scheme) == "https" then
        return false
    end
    return authority == plain(scheme, var.http_host or "")
end

--- `Sec-Fetch-Site` decides where there is one, else `Origin`; a program sends neither.
---@return boolean
function _M.from_another_site()
    local site = var.http_sec_fetch_site
    if site then
        return site ~= "same-origin" and site ~= "none" or is_repeated("sec-fetch-site")
    end
    local origin = var.http_origin
    if not origin then
        return false
    end
    return not is_own(origin) or is_repeated("origin")
end

return _M
