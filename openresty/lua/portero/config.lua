---------
-- The gateway's settings: the environment and the two tables of `conf/`, read once at start.
-- All faults are listed together and stop the start. No other module reads the environment, and no
-- message holds a secret.

local cjson = require("cjson.safe")
local policy = require("portero.policy")

local LEAST_SECRET_BYTES = 32
local MOST_TTL_SECONDS = 86400

local _M = {}

local function read_file(path)
    local file, err = io.open(path, "rb")
    if not file then
        return nil, err
    end
    local text = file:read("*a")
    file:close()
    return text
end

local function read_json(path, faults)
    local text, err = read_file(path)
    local value = text and cjson.decode(text)
    if type(value) ~= "table" then
        faults[#faults + 1] = path .. ": " .. (err or "is not valid JSON")
        return nil
    end
    return value
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
    if not value or #value < LEAST_SECRET_BYTES or value:find("[\r\n]$") then
        faults[#faults + 1] = name .. ": must be at least " .. LEAST_SECRET_BYTES
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

local function choice(env, name, allowed, faults)
    local value = env(name) or allowed[1]
    for _, one in ipairs(allowed) do
        if value == one then
            return value
        end
    end
    faults[#faults + 1] = name .. ": must be one of " .. table.concat(allowed, ", ")
    return allowed[1]
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

local function base_urls(env, name, faults)
    local found, count = {}, 0
    for text in (env(name) or ""):gmatch("[^,%s]+") do
        local url = base_url(text)
        count = count + 1
        found[#found + 1] = url
        if not url then -- it may hold a password, so it is not shown
            faults[#faults + 1] = name .. ": number " .. count .. " is not http://HOST:PORT"
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

local DOORS = {
    ["/llm/login"] = true, ["/agi/login"] = true, ["/login"] = true, ["/admin/login"] = true,
}

local ROLE_FIELDS = {
    code = function(value) return type(value) == "string" and value:find("^%u%u%u%u$") end,
    ttl_seconds = function(value)
        return type(value) == "number" and value % 1 == 0 and value >= 1
            and value <= MOST_TTL_SECONDS
    end,
    door = function(value) return DOORS[value] ~= nil end,
    routes = function() return true end, -- judged beside routes.json, by the policy
    active_tokens = function(value)
        return type(value) == "number" and value % 1 == 0 and value >= 1 and value <= 1000000
    end,
    stream_policy = function(value)
        return value == "finish" or value == "cut"
            or (type(value) == "number" and value % 1 == 0 and value >= 1)
    end,
}

local function role_faults(name, role, faults)
    if type(role) ~= "table" then
        faults[#faults + 1] = "roles.json: roles." .. name .. " must be an object"
        return
    end
    for field in pairs(role) do
        if not ROLE_FIELDS[field] then
            faults[#faults + 1] = "roles.json: roles." .. name .. "." .. field .. " is not known"
        end
    end
    for field, accepts in pairs(ROLE_FIELDS) do
        if not accepts(role[field]) then
            faults[#faults + 1] = "roles.json: roles." .. name .. "." .. field .. " is not valid"
        end
    end
end

local function roles_of(directory, ttl_bound, faults)
    local content = read_json(directory .. "/roles.json", faults)
    local roles = content and content.roles
    if not content then
        return nil
    end
    if type(roles) ~= "table" or not next(roles) or #roles > 0 then
        faults[#faults + 1] = "roles.json: must hold an object 'roles' that names one"
        return nil
    end
    local before, owner = #faults, {}
    for name, role in pairs(roles) do
        role_faults(name, role, faults)
        local code = type(role) == "table" and role.code or name
        if owner[code] then
            faults[#faults + 1] = "roles.json: code " .. tostring(code) .. " is used twice"
        end
        owner[code] = true
    end
    if #faults > before then
        return nil, roles
    end
    for _, role in pairs(roles) do
        role.ttl_seconds = math.min(role.ttl_seconds, ttl_bound)
    end
    return roles, roles
end

local function compiled(directory, settings, named, faults)
    local content = read_json(directory .. "/routes.json", faults)
    local routes = content and content.routes
    if content and type(routes) ~= "table" then
        faults[#faults + 1] = "routes.json: must hold an object 'routes'"
    end
    if type(routes) ~= "table" then
        return nil
    end
    local found = policy.faults(named or {}, routes)
    for _, fault in ipairs(found) do
        faults[#faults + 1] = fault
    end
    if #found > 0 or not settings.roles then
        return nil
    end
    local page_by = settings.web_ui == "upstream" and "llm" or "issuer"
    return policy.compile(settings.roles, routes, page_by)
end

--- All settings.
---@param env fun(name: string): string|nil an empty value counts as none
---@param directory string where roles.json and routes.json are
---@return table|nil settings, string[] faults
function _M.read(env, directory)
    local faults = {}
    local settings = {
        sync_key = secret(env, "SYNC_KEY", faults),
        llm = base_urls(env, "LLM_UPSTREAM", faults),
        issuer = base_urls(env, "ISSUER_URL", faults),
        web_ui = choice(env, "WEB_UI", { "portero", "upstream" }, faults),
    }
    local internal = (env("INTERNAL_LISTEN") or ""):match("^(.*):%d+$") or ""
    settings.internal_host = internal:find("^%a") and internal or nil
    local ttl = whole(env, "TOKEN_TTL_SECONDS", MOST_TTL_SECONDS, 1, MOST_TTL_SECONDS, faults)
    settings.max_staleness_seconds =
        whole(env, "SYNC_MAX_STALENESS_SECONDS", 0, 0, MOST_TTL_SECONDS, faults)
    local named
    settings.roles, named = roles_of(directory, ttl, faults)
    settings.policy = compiled(directory, settings, named, faults)
    if #faults > 0 then
        return nil, faults
    end
    return settings, faults
end

return _M
