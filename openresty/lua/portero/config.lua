---------
-- The gateway's settings: what must be known before the issuer speaks, read once at start.
-- All faults are listed together and stop the start. No other module reads the environment, and no
-- message holds a secret.

local crypto = require("portero.token.crypto")

local MIN_SECRET_BYTES = 32
local MAX_STALENESS_SECONDS = 86400

local _M = {}

local function read_file(path)
    local file, err = io.open(path, "rb")
    if not file then
        return nil, err
    end
    local text, fault = file:read("*a")
    file:close()
    return text, fault and path .. ": " .. fault
end

local function secret(env, name, faults)
    local value = env(name)
    local path = env(name .. "_FILE")
    if value and path then
        faults[#faults + 1] = name .. ": set " .. name .. " or " .. name .. "_FILE, not both"
    elseif path then
        local err
        value, err = read_file(path)
        if not value then
            faults[#faults + 1] = name .. "_FILE: " .. err
        end
    end
    if not value or #value < MIN_SECRET_BYTES or value:find("[\r\n]$") then
        faults[#faults + 1] = name .. ": must be at least " .. MIN_SECRET_BYTES
            .. " bytes, without a newline at its end"
    end
    return value
end

local function whole(env, name, default, least, most, faults)
    local text = env(name) or tostring(default)
    local value = text:match("^%d+$") and tonumber(text)
    if not value or value < least or value > most then
        faults[#faults + 1] = name .. ": must be a whole number from " .. least .. " to " .. most
        return default
    end
    return value
end

local DEFAULT_PORTS = { http = 80, https = 443 }

local HOST_FORMS = { "^(%w[%w._-]*%w)$", "^(%w)$", "^%[(%x*:[%x:.]+)%]$" }

local function host_and_port(authority, scheme)
    local name, port = authority:match("^(.-):(%d+)$")
    if not name or authority:find("]$") then
        name, port = authority, DEFAULT_PORTS[scheme]
    end
    for _, form in ipairs(HOST_FORMS) do
        local host = name:match(form)
        if host then
            return host, tonumber(port)
        end
    end
end

--- `http://host:port/path` taken apart; nil when it is no such thing.
local function base_url(text)
    local scheme, authority, path = text:match("^(https?)://([^/]+)(/?[%w._~/-]*)$")
    if not scheme or path:find("//", 1, true) or (path .. "/"):find("/%.%.?/") then
        return nil
    end
    local host, port = host_and_port(authority, scheme)
    if not host or not port or port < 1 or port > 65535 then
        return nil
    end
    return { scheme = scheme, host = host, port = port, path = (path:gsub("/+$", "")) }
end

--- What the path of an LLM server's base URL may end in that is a route's; longer ones first.
local ROUTE_ENDS = {
    "/api/embeddings", "/api/generate", "/api/version", "/api/embed", "/api/chat", "/api/show",
    "/api/tags", "/api/ps", "/api", "/chat/completions", "/completions", "/embeddings", "/models",
}

--- What of a base URL's path is a route, or the beginning of one.
local function route_in(path)
    local at = (path .. "/"):find("/v1/", 1, true)
    if at then
        return path:sub(at)
    end
    for _, route in ipairs(ROUTE_ENDS) do
        if path:sub(-#route) == route then
            return route
        end
    end
end

local function llm_url_fault(url)
    local route = route_in(url.path)
    return route and ("ends in %s: leave out %s, a base URL is what comes before /v1 and /api")
        :format(route, route)
end

local function base_urls(env, name, faults, fault_of)
    local found, count = {}, 0
    for text in (env(name) or ""):gmatch("[^,%s]+") do
        local url = base_url(text)
        count = count + 1
        -- What is no URL may hold a password, so it is not shown.
        local fault = not url and "is not http://HOST:PORT" or (fault_of and fault_of(url))
        if fault then
            faults[#faults + 1] = name .. ": number " .. count .. " " .. fault
        else
            found[#found + 1] = url
        end
    end
    local first = found[1]
    if count == 0 then
        faults[#faults + 1] = name .. ": names no server"
    end
    local alike = true
    for _, url in ipairs(found) do
        alike = alike and url.scheme == first.scheme and url.path == first.path
    end
    if not alike then
        faults[#faults + 1] = name .. ": all servers must share one scheme and one path"
    end
    return found
end

local BEGINS_CERTIFICATE = "%-%-%-%-%-BEGIN [%u%d ]*CERTIFICATE%-%-%-%-%-"

--- What is wrong with a file of certificates that shall be trusted; nil when nothing is.
local function certificates_fault(text)
    local _, begun = text:gsub(BEGINS_CERTIFICATE, "")
    local count, expired = crypto.certificates(text)
    if begun == 0 then
        return "holds no certificate in PEM"
    elseif count < begun then
        return "its certificate number " .. count + 1 .. " cannot be read"
    elseif expired == count then
        return count == 1 and "its certificate has expired" or "all its certificates have expired"
    end
end

--- Nothing of the file is kept: nginx reads it by itself.
local function check_ca(env, name, servers, faults)
    local path = env(name)
    if not path then
        return
    end
    local text, err = read_file(path)
    local fault = text and certificates_fault(text)
    if not text then
        faults[#faults + 1] = name .. ": " .. err
    elseif fault then
        faults[#faults + 1] = name .. ": " .. path .. ": " .. fault
    end
    if servers[1] and servers[1].scheme ~= "https" then
        faults[#faults + 1] = name .. ": is for https://, and LLM_UPSTREAM is http://"
    end
end

--- The origin of a base URL, in the one form a browser gives it.
local function origin_of(url)
    local host = url.host:find(":", 1, true) and "[" .. url.host .. "]" or url.host
    local port = url.port == DEFAULT_PORTS[url.scheme] and "" or ":" .. url.port
    return url.scheme .. "://" .. host:lower() .. port
end

--- Where people find the gateway; nil where that is not said.
local function public_origin(env, faults)
    local text = env("PUBLIC_URL")
    local url = text and base_url(text)
    if text and not (url and url.path == "") then
        faults[#faults + 1] =
            "PUBLIC_URL: must be http://HOST:PORT or https://HOST:PORT and no more"
        return nil
    end
    return url and origin_of(url)
end

--- All settings.
---@param env fun(name: string): string|nil an empty value counts as none
---@return table|nil settings, string[] faults
function _M.read(env)
    local faults = {}
    local settings = {
        sync_key = secret(env, "SYNC_KEY", faults),
        llm = base_urls(env, "LLM_UPSTREAM", faults, llm_url_fault),
        issuer = base_urls(env, "ISSUER_URL", faults),
        public_origin = public_origin(env, faults),
    }
    check_ca(env, "LLM_CA_FILE", settings.llm, faults)
    local internal = (env("INTERNAL_LISTEN") or ""):match("^(.*):%d+$") or ""
    settings.internal_host = internal:find("^%a") and internal or nil
    settings.max_staleness_seconds =
        whole(env, "SYNC_MAX_STALENESS_SECONDS", 0, 0, MAX_STALENESS_SECONDS, faults)
    return #faults == 0 and settings or nil, faults
end

return _M
