---------
-- The gateway's settings: what must be known before the issuer speaks, read once at start.
-- All faults are listed together and stop the start. No other module reads the environment, and no
-- message holds a secret.

local bit = require("bit")
local certificate = require("portero.tls.certificate")
local crypto = require("portero.token.crypto")
local ffi = require("ffi")

ffi.cdef([[
int statx(int folder, const char *path, int flags, unsigned mask, void *status);
int inet_pton(int family, const char *text, void *address);
]])

local MIN_SECRET_BYTES = 32
--- nginx takes no longer word.
local MAX_KEY_BYTES = 4000
local SECONDS_A_DAY = 86400
local DEFAULT_PORTS = { http = 80, https = 443 }
local MAX_PORT = 65535
local MAX_CONNECTIONS = 65535
--- A name of DNS has 253 at most.
local MAX_ORIGIN_CHARACTERS = 300
local HERE, MODE_ALONE, OF_OTHERS = -100, 2, 0x3f
--- A `struct statx` is laid out alike on every machine: the mode is its 15th half-word.
local STATUS_HALF_WORDS, MODE = 128, 14
--- By their numbers in Linux: how many bits an address of IPv4 has, and of IPv6.
local BITS_OF_FAMILIES = { [2] = 32, [10] = 128 }

local status, address_bytes = ffi.new("uint16_t[?]", STATUS_HALF_WORDS), ffi.new("uint8_t[16]")

local _M = {}

local function tell(faults, name, fault)
    faults[#faults + 1] = name .. ": " .. fault
end

local function read_file(path)
    local file, err = io.open(path, "rb")
    if not file then
        return nil, err
    end
    local text, fault = file:read("*a")
    file:close()
    return text, fault and path .. ": " .. fault
end

local function is_there(path)
    return ffi.C.statx(HERE, path, 0, MODE_ALONE, status) == 0
end

local function is_open_to_others(path)
    return ffi.C.statx(HERE, path, 0, MODE_ALONE, status) == 0
        and bit.band(status[MODE], OF_OTHERS) ~= 0
end

---------
-- Forms: what a text of the environment means, or nil and what is wrong with it.

local function whole(least, most)
    return function(text)
        local value = text:match("^%d+$") and tonumber(text)
        return value and value >= least and value <= most and value or nil,
            "must be a whole number from " .. least .. " to " .. most
    end
end

local function matching(pattern, fault)
    return function(text)
        return text:match(pattern), fault
    end
end

local function workers(text)
    return (text == "auto" or text:find("^[1-9]%d?$")) and text or nil, "must be auto or 1 to 99"
end

local SWITCH = { on = true, off = true }

local function switch(text)
    return SWITCH[text] and text, "must be on or off"
end

local address = matching("^[%w._:/%[%]-]+$", "is not a plain address")

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

--- `http://host:port/path` taken apart. What is no URL may hold a password, so it is not shown.
local function base_url(text)
    local scheme, authority, path = text:match("^(https?)://([^/]+)(/?[%w._~/-]*)$")
    if not scheme or path:find("//", 1, true) or (path .. "/"):find("/%.%.?/") then
        return nil, "is not http://HOST:PORT"
    end
    local host, port = host_and_port(authority, scheme)
    if not host or not port or port < 1 or port > MAX_PORT then
        return nil, "is not http://HOST:PORT"
    end
    return {
        scheme = scheme, authority = authority, host = host, port = port,
        path = (path:gsub("/+$", "")),
    }
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

local function llm_url(text)
    local url, fault = base_url(text)
    local route = url and route_in(url.path)
    if route then
        return nil, ("ends in %s: leave out %s, a base URL is what comes before /v1 and /api")
            :format(route, route)
    end
    return url, fault
end

--- The origin of a base URL, in the one form a browser gives it.
local function origin_of_url(text)
    local url = base_url(text)
    if not url or url.path ~= "" then
        return nil, "must be http://HOST:PORT or https://HOST:PORT and no more"
    end
    local host = url.host:find(":", 1, true) and "[" .. url.host .. "]" or url.host
    local port = url.port == DEFAULT_PORTS[url.scheme] and "" or ":" .. url.port
    return url.scheme .. "://" .. host:lower() .. port
end

local OWN_PORT = "has its scheme's own port; a browser leaves that out"
--- What people write in place of an origin, in the order it is looked for (issuer/origins.py).
local NO_ORIGINS = {
    { "^null$", "is null, which every page without an origin of its own says" },
    { "%*", "is a pattern; name each origin" },
    { "%u", "has capitals; a browser sends it in lower case" },
    { "^%l[%l%d+.-]*://[^/ ]+/",
        "has a path; leave out what is behind host and port, a slash too" },
    { "^http://.*:80$", OWN_PORT },
    { "^https://.*:443$", OWN_PORT },
}

local function has_form_of_origin(text)
    local authority = text:match("^%l[%l%d+.-]*://(.+)$") or ""
    local host, port = authority:match("^(.+):([1-9]%d*)$")
    host = host or authority
    return (host:find("^[%l%d._-]+$") or host:find("^%[[%da-f:.]+%]$"))
        and tonumber(port or 1) <= MAX_PORT
end

--- An origin exactly as a browser sends it, and never a pattern.
local function origin(text)
    for _, row in ipairs(NO_ORIGINS) do
        if text:find(row[1]) then
            return nil, row[2]
        end
    end
    if not has_form_of_origin(text) then
        return nil, "is not SCHEME://HOST or SCHEME://HOST:PORT"
    end
    return #text <= MAX_ORIGIN_CHARACTERS and text or nil, "is longer than 300 characters"
end

local function bits_of(text)
    for family, bits in pairs(BITS_OF_FAMILIES) do
        if ffi.C.inet_pton(family, text, address_bytes) == 1 then
            return bits
        end
    end
end

local function range(text)
    local start, length = text:match("^(.-)/(%d+)$")
    local bits = bits_of(start or text)
    local is_good = bits and (not start
        or tostring(tonumber(length)) == length and tonumber(length) <= bits)
    return is_good and text or nil,
        "is no address and no range of addresses, such as 10.0.0.7, 10.0.0.0/8 or fd00::/8"
end

local BEGINS_CERTIFICATE = "%-%-%-%-%-BEGIN [%u%d ]*CERTIFICATE%-%-%-%-%-"

--- What is wrong with certificates that shall be trusted; nil when nothing is.
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

--- A file of certificates. Nothing of it is kept: nginx reads it by itself.
local function certificates(path)
    local text, err = read_file(path)
    local fault = text and certificates_fault(text)
    return text and not fault and path or nil, err or path .. ": " .. (fault or "")
end

local function folder(path)
    local file = io.open(path .. "/.", "rb")
    if not file then
        return nil, path .. " is no folder that can be read"
    end
    file:close()
    return path
end

local listener = matching("^%S*:%d+$", "must be ADDRESS:PORT")

local function sync_key(key)
    return #key >= MIN_SECRET_BYTES and not key:find("[\r\n]$") and key or nil,
        "must be at least " .. MIN_SECRET_BYTES .. " bytes, without a newline at its end"
end

local function llm_key(key)
    local _, escaped = key:gsub('[\\"]', "")
    if key:find("%c") then
        return nil, "must be one line without a newline at its end, and no control character in it"
    elseif key == "" or key:find("^ ") or key:find(" $") then
        return nil, "must be a key, without a blank before or behind it"
    end
    return #key + escaped <= MAX_KEY_BYTES and key or nil, "is longer than 4000 bytes"
end

---------
-- Settings by their names.

local function one(env, name, faults, form, default)
    local text = env(name) or default
    if not text then
        return nil
    end
    local value, fault = form(text)
    if not value then
        tell(faults, name, fault)
    end
    return value
end

--- A secret of the environment, or of a file that nobody else may read.
local function secret(env, name, faults, form, default)
    local text, path, of_file = env(name), env(name .. "_FILE"), name .. "_FILE"
    if path and is_open_to_others(path) then
        tell(faults, of_file, path .. " can be read by others; chmod 600 it")
    end
    if text and path then
        tell(faults, name, "set " .. name .. " or " .. of_file .. ", not both")
    elseif path then
        local err
        name, text, err = of_file, read_file(path)
        if not text then
            return tell(faults, name, "cannot read " .. err)
        end
    end
    return one(function() return text end, name, faults, form, default)
end

--- The entries of a list. A fault is told by an entry's number: what it holds may be a secret that
--- went into the wrong place.
local function list(env, name, faults, form, separators, begins)
    local found, count = {}, 0
    for part in (env(name) or ""):gmatch("[^" .. separators .. "]+") do
        local entry = part:match("^ *(.-) *$")
        if entry ~= "" then
            local value, fault = form(entry)
            count = count + 1
            found[#found + 1] = value
            if not value then
                tell(faults, name, ("%snumber %d %s"):format(begins or "", count, fault))
            end
        end
    end
    return found, count
end

local function base_urls(env, name, faults, form, is_needed)
    local found, count = list(env, name, faults, form, ",%s")
    if count == 0 and (is_needed or env(name)) then
        tell(faults, name, "names no server")
    end
    for _, url in ipairs(found) do
        if url.scheme ~= found[1].scheme or url.path ~= found[1].path then
            tell(faults, name, "all servers must share one scheme and one path")
            break
        end
    end
    return found
end

--- What needs a certificate, and is of no use without.
local OF_CERTIFICATES = {
    TLS_CERTIFICATE = {
        "TLS_CERTIFICATE_KEY", "TLS_REDIRECT_LISTEN", "TLS_CLIENT_CA", "ACME_WEBROOT",
    },
    INTERNAL_TLS_CERTIFICATE = { "INTERNAL_TLS_CERTIFICATE_KEY" },
}

local function tell_of_no_use(env, faults, certificate_name)
    for _, name in ipairs(OF_CERTIFICATES[certificate_name]) do
        if env(name) then
            tell(faults, name, "is of no use without " .. certificate_name)
        end
    end
end

--- The texts of a certificate's file and of its key's, each nil where it cannot be read.
local function chain_and_key(env, faults, name)
    local key_name = name .. "_KEY"
    local chain, err = read_file(env(name))
    if not chain then
        tell(faults, name, "cannot read " .. err)
    end
    local key = secret(function(of) return of == key_name .. "_FILE" and env(key_name) or nil end,
        key_name, faults, function(text) return text end)
    if not env(key_name) then
        tell(faults, key_name, "is not set; it is the path of the certificate's key")
    end
    return chain, key
end

--- A listener's certificate and its key: their texts. nil without.
---@param env fun(name: string): string|nil
---@param faults string[] what is wrong is added
---@param name string the setting that names the certificate's file
---@return table|nil { chain, key }
function _M.own_certificate(env, faults, name)
    if not env(name) then
        tell_of_no_use(env, faults, name)
        return nil
    end
    local chain, key = chain_and_key(env, faults, name)
    local of_chain, of_key = certificate.faults(chain or "", key or "")
    if chain and of_chain then
        tell(faults, name, env(name) .. " " .. of_chain)
    end
    if key and of_key then
        tell(faults, name .. "_KEY", env(name .. "_KEY") .. " " .. of_key)
    end
    return { chain = chain, key = key }
end

--- What TLS and other settings say of each other.
local function tell_of_tls(settings, env, faults)
    if not env("TLS_CERTIFICATE") then
        return
    elseif settings.public_origin and settings.public_origin:find("^http:") then
        tell(faults, "PUBLIC_URL", "is http://, and TLS_CERTIFICATE makes it https://")
    end
    if settings.tls_redirect_listen and settings.tls_redirect_listen == settings.listen then
        tell(faults, "TLS_REDIRECT_LISTEN", "is GATEWAY_LISTEN's own address")
    end
    if env("ACME_WEBROOT") and not env("TLS_REDIRECT_LISTEN") then
        tell(faults, "ACME_WEBROOT", "is served by TLS_REDIRECT_LISTEN, which is not set")
    end
end

--- What asking the issuer by https needs. nginx looks for names in a certificate, and for no
--- addresses.
local function tell_of_issuer(settings, env, faults)
    local first = settings.issuer[1]
    if not first then
        return
    elseif first.scheme ~= "https" then
        if env("ISSUER_CA_FILE") then
            tell(faults, "ISSUER_CA_FILE", "is for https://, and ISSUER_URL is http://")
        end
    elseif bits_of(first.host) then
        tell(faults, "ISSUER_URL", "is an address, and by https:// it must be a name, which the "
            .. "issuer's certificate has; /etc/hosts will do for it")
    end
end

--- All settings.
---@param env fun(name: string): string|nil an empty value counts as none
---@return table|nil settings, string[] faults
function _M.read(env)
    local faults = {}
    local seconds = whole(1, SECONDS_A_DAY)
    local settings = {
        sync_key = secret(env, "SYNC_KEY", faults, sync_key, ""),
        -- None where the policy names the LLM servers.
        llm = base_urls(env, "LLM_UPSTREAM", faults, llm_url, false),
        llm_key = secret(env, "LLM_API_KEY", faults, llm_key),
        ca_file = one(env, "LLM_CA_FILE", faults, certificates),
        llm_timeout_seconds = one(env, "LLM_TIMEOUT_SECONDS", faults, seconds, "600"),
        -- The shortest of the LLM servers that Portero knows.
        llm_idle_seconds = one(env, "LLM_IDLE_SECONDS", faults, seconds, "5"),
        issuer = base_urls(env, "ISSUER_URL", faults, base_url, true),
        issuer_ca_file = one(env, "ISSUER_CA_FILE", faults, certificates),
        listen = one(env, "GATEWAY_LISTEN", faults, address, "127.0.0.1:8080"),
        shares_port = one(env, "GATEWAY_SHARES_PORT", faults, switch, "off") == "on",
        is_shut = env("GATEWAY_SHUT_FILE") ~= nil and is_there(env("GATEWAY_SHUT_FILE")),
        internal_listen = one(env, "INTERNAL_LISTEN", faults, address, "127.0.0.1:8081"),
        workers = one(env, "GATEWAY_WORKERS", faults, workers, "auto"),
        active_token_memory = one(env, "ACTIVE_TOKEN_MEMORY", faults,
            matching("^[1-9]%d*m$", "must be megabytes, such as 192m"), "192m"),
        api_key_memory = one(env, "API_KEY_MEMORY", faults,
            matching("^[1-9]%d*m$", "must be megabytes, such as 64m"), "64m"),
        public_origin = one(env, "PUBLIC_URL", faults, origin_of_url),
        tls = _M.own_certificate(env, faults, "TLS_CERTIFICATE"),
        internal_tls = _M.own_certificate(env, faults, "INTERNAL_TLS_CERTIFICATE"),
        tls_client_ca = one(env, "TLS_CLIENT_CA", faults, certificates),
        tls_redirect_listen = one(env, "TLS_REDIRECT_LISTEN", faults, listener),
        acme_webroot = one(env, "ACME_WEBROOT", faults, folder),
        origins = list(env, "CORS_ORIGINS", faults, origin, ",\n",
            "each must be an origin as a browser sends it; "),
        -- Whose word counts on where a request comes from, and how.
        fronts = list(env, "TRUSTED_PROXIES", faults, range, ",\n"),
        connections_per_address = one(env, "CONNECTIONS_PER_ADDRESS", faults,
            whole(1, MAX_CONNECTIONS)),
        has_usage = one(env, "USAGE", faults, switch, "on") == "on",
        max_staleness_seconds = one(env, "SYNC_MAX_STALENESS_SECONDS", faults,
            whole(0, SECONDS_A_DAY), "0"),
    }
    if env("LLM_CA_FILE") and settings.llm[1] and settings.llm[1].scheme ~= "https" then
        tell(faults, "LLM_CA_FILE", "is for https://, and LLM_UPSTREAM is http://")
    end
    tell_of_issuer(settings, env, faults)
    tell_of_tls(settings, env, faults)
    settings.internal_host = (env("INTERNAL_LISTEN") or ""):match("^(%a.*):%d+$")
    return #faults == 0 and settings or nil, faults
end

return _M
