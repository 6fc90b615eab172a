---------
-- Which role may use which route: `roles.json` and `routes.json` compiled once into a table that a
-- request looks its raw path up in. What is not in it does not exist.
-- Pure. Only a path found here is ever sent on, and it is sent as it stands here.

local _M = {}

--- What the bare host answers to beside /v1, for clients whose base URL has no path.
local BARE_OPENAI = {
    ["/v1/chat/completions"] = true,
    ["/v1/completions"] = true,
    ["/v1/embeddings"] = true,
    ["/v1/models"] = true,
    ["/v1/models/{model}"] = true,
}

--- Who answers a class of routes; all others are the LLM server's.
local ANSWERED_BY = { console = "issuer", page = "issuer", metrics = "gateway" }

--- The classes whose answers may be streams, which are watched for revocation.
local STREAMING = { inference = true, management = true }

local METHODS = { GET = true, POST = true, PUT = true, DELETE = true, HEAD = true }

--- What a `{name}` in a route may stand for: a path without empty or dot segments.
local PARAMETER = "([A-Za-z0-9._:@%%/-]+)"
local SEGMENT = "([A-Za-z0-9._-]+)"
local PARAMETERS = { model = PARAMETER }

local function outside_names(path, answered_by)
    if answered_by ~= "llm" then
        return { path }
    end
    local names = { path, "/llm" .. path }
    if path:sub(1, 4) == "/v1/" then
        names[#names + 1] = "/llm" .. path:sub(4)
        if BARE_OPENAI[path] then
            names[#names + 1] = path:sub(4)
        end
    end
    return names
end

local function escape(text)
    return (text:gsub("[%^%$%(%)%.%[%]%*%+%-%?]", "%%%0"))
end

--- `/a/{x}/b` is "/a/", "x" and "/b"; nil for a path without a parameter.
local function split(name)
    return name:match("^(.-){(%w+)}(.*)$")
end

local function pattern_of(name)
    local before, parameter, behind = split(name)
    if not before then
        return nil
    end
    return "^" .. escape(before) .. (PARAMETERS[parameter] or SEGMENT) .. escape(behind) .. "$"
end

local function add(policy, method, name, route)
    local of_method = policy[method] or { exact = {}, patterns = {} }
    policy[method] = of_method
    local pattern = pattern_of(name)
    if not pattern then
        of_method.exact[name] = of_method.exact[name] or route
        return
    end
    local patterns = of_method.patterns
    patterns[#patterns + 1] = { pattern = pattern, route = route }
end

local function new_route(class, path, roles, answered_by)
    local allowed = {}
    for role_name, role in pairs(roles) do
        for _, its in ipairs(role.routes) do
            allowed[role_name] = allowed[role_name] or its == class or nil
        end
    end
    local before, _, behind = split(path)
    return {
        class = class,
        target = path,
        before = before,
        behind = behind,
        answered_by = answered_by,
        is_watched = STREAMING[class] or false,
        allowed = allowed,
    }
end

local function is_list(value)
    return type(value) == "table" and (next(value) == nil or #value > 0)
end

local function line_faults(place, line, owner, found)
    local method, path = tostring(line):match("^(%u+) (/%S*)$")
    local plain, parameters = (path or ""):gsub("{%w+}", "x")
    if type(line) ~= "string" or not METHODS[method] or parameters > 1
        or not _M.is_canonical(plain) then
        found[#found + 1] = place .. " is not METHOD /path"
    else
        local same = line:gsub("{%w+}", "{}")
        if owner[same] then
            found[#found + 1] = place .. ": '" .. method .. " " .. path .. "' is listed twice"
        end
        owner[same] = true
    end
end

local function class_faults(place, classes, routes, found)
    if not is_list(classes) then
        found[#found + 1] = place .. " must be a list of classes"
        return
    end
    for index, class in ipairs(classes) do
        if type(class) ~= "string" or routes[class] == nil then
            found[#found + 1] = place .. "[" .. index .. "] is no class of routes.json"
        end
    end
end

--- What is wrong with the route table; an empty list when nothing is.
---@param roles table role name -> { routes = { class, … } }
---@param routes table class -> list of "METHOD /path"
---@return string[] faults
function _M.faults(roles, routes)
    local found, owner = {}, {}
    for class, lines in pairs(routes) do
        local place = "routes.json: routes." .. class
        if not is_list(lines) then
            found[#found + 1] = place .. " must be a list of METHOD /path"
        else
            for index, line in ipairs(lines) do
                line_faults(place .. "[" .. index .. "]", line, owner, found)
            end
        end
    end
    for name, role in pairs(roles) do
        if type(role) == "table" then
            class_faults("roles.json: roles." .. name .. ".routes", role.routes, routes, found)
        end
    end
    return found
end

--- Compile the two tables; they have no faults.
---@param roles table
---@param routes table
---@param page_by string "issuer" or "llm": who answers the page at /
---@return table policy
function _M.compile(roles, routes, page_by)
    local policy = {}
    for class, lines in pairs(routes) do
        local answered_by = ANSWERED_BY[class] or "llm"
        if class == "page" then
            answered_by = page_by
        end
        for _, line in ipairs(lines) do
            local method, path = line:match("^(%u+) (.+)$")
            local route = new_route(class, path, roles, answered_by)
            -- What no role may reach does not exist.
            local names = next(route.allowed) and outside_names(path, answered_by) or {}
            for _, name in ipairs(names) do
                add(policy, method, name, route)
            end
        end
    end
    return policy
end

--- An escape may stand for a slash or a colon, which a model's name may hold; any other hides
--- something that could have been written plainly.
local function unescape(value)
    return (value:gsub("%%2[fF]", "/"):gsub("%%3[aA]", ":"))
end

--- Whether a parameter can be read in one way only: no hidden character, no dot or empty segment,
--- not even behind an escaped slash.
local function is_plain(value)
    local name = unescape(value)
    return not name:find("%", 1, true) and not ("/" .. name .. "/"):find("/%.?%.?/")
end

local function find_pattern(patterns, path)
    for i = 1, #patterns do
        local value = path:match(patterns[i].pattern)
        if value and is_plain(value) then
            return patterns[i].route, value
        end
    end
end

--- The route of a request, or nil. `value` is what stood for the parameter, where it has one.
---@param policy table
---@param method string
---@param path string the raw path, as the client wrote it
---@return table|nil route, string|nil value
function _M.find(policy, method, path)
    local of_method = policy[method]
    if not of_method then
        return nil
    end
    local route = of_method.exact[path]
    if route then
        return route
    end
    return find_pattern(of_method.patterns, path)
end

--- The path that is sent on: the one judged, and no other.
---@param route table
---@param value string|nil
---@return string
function _M.target(route, value)
    if not value then
        return route.target
    end
    return route.before .. value .. route.behind
end

--- Whether a path is written in the one way that could be in the table.
---@param path string
---@return boolean
function _M.is_canonical(path)
    return path:find("^/[A-Za-z0-9._~!$&'()*+,=:@/-]*$") ~= nil
        and not path:find("//", 1, true)
        and not (path .. "/"):find("/%.%.?/")
end

return _M
