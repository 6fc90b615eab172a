---------
-- The table of routes: the list that the issuer pushed, compiled once into what a request looks its
-- raw path up in. What is not in it does not exist.
-- Pure. Only a path found here is ever sent on, and it is sent as it stands here. Which routes
-- there are, and who may use them, the issuer has decided (`issuer/policy/`).

local dialects = require("portero.dialect.dialects")
local model_name = require("portero.policy.model_name")

local _M = {}

--- What a `{name}` in a route may stand for: a path without empty or dot segments.
local PARAMETER = "([A-Za-z0-9._:@%%/-]+)"
local SEGMENT = "([A-Za-z0-9._-]+)"
local PARAMETERS = { model = PARAMETER, digest = "(sha256:%x+)" }
--- A model that is looked up in the LLM server's list, and sent nowhere: any ID that it may have.
local LOOKED_UP = "(.+)"

local function outside_names(route)
    if not route.is_llm then
        return { route.target }
    end
    local names = route.dialect.short_paths(route.target)
    names[#names + 1] = "/llm" .. route.target
    names[#names + 1] = route.target
    return names
end

local function escape(text)
    return (text:gsub("[%^%$%(%)%.%[%]%*%+%-%?]", "%%%0"))
end

--- `/a/{x}/b` is "/a/", "x" and "/b"; nil for a path without a parameter.
local function split(name)
    return name:match("^(.-){(%w+)}(.*)$")
end

local function pattern_of(name, is_looked_up)
    local before, parameter, behind = split(name)
    if not before then
        return nil
    end
    local value = is_looked_up and LOOKED_UP or PARAMETERS[parameter] or SEGMENT
    return "^" .. escape(before) .. value .. escape(behind) .. "$", before
end

local function add(routes, method, name, route)
    local of_method = routes[method] or { exact = {}, patterns = {} }
    routes[method] = of_method
    local is_looked_up = route.answered_by == "discovery"
    local pattern, before = pattern_of(name, is_looked_up)
    if not pattern then
        of_method.exact[name] = of_method.exact[name] or route
        return
    end
    local patterns = of_method.patterns
    patterns[#patterns + 1] = {
        pattern = pattern, before = before, route = route, is_looked_up = is_looked_up,
    }
end

local function set_of(names)
    local set = {}
    for _, name in ipairs(names) do
        set[name] = true
    end
    return set
end

--- Which servers have a route, by their places in the policy; nil where there is one pool.
local function places_of(indices)
    if not indices then
        return nil
    end
    local places = {}
    for _, index in ipairs(indices) do
        places[index + 1] = true
    end
    return places
end

--- Who may answer a route, and whether from what the LLM server says.
local BY_LLM = { llm = true, discovery = true, socket = true, issuer = false, gateway = false }

local function new_route(listed, index)
    local before, _, behind = split(listed.path)
    local is_llm = BY_LLM[listed.answered_by]
    assert(is_llm ~= nil, "route_table: nobody is known who answers a route")
    local dialect = dialects.of(listed.path)
    return {
        index = index,
        class = listed.class,
        target = listed.path,
        before = before,
        behind = behind,
        model = listed.model,
        -- Who answered it keeps it; or it is one that is kept.
        is_kept = listed.method == "POST" and dialects.of(listed.path).keeps[listed.path] or nil,
        is_owned = listed.model == "response" or nil,
        is_llm = is_llm,
        dialect = dialect,
        tells_id = is_llm and dialect.id_headers[1] ~= nil,
        answered_by = listed.answered_by,
        allowed = set_of(listed.roles),
        servers = places_of(listed.servers),
        refuses_api_keys = listed.no_api_keys == true,
    }
end

--- Compile the table. An earlier route wins over a later one that could be meant as well.
---@param listed table[] { method, path, class, model or nil, roles = names of those who may use it,
--- answered_by = "llm", "discovery" (lists of models, and one model's entry), "socket" (class
--- realtime), "issuer", "gateway",
--- no_api_keys = true where one does not count; and where the policy names servers: servers =
--- places from 0 of those that have it, by_name = whether it is there behind a server's name
--- alone }
---@return table routes
---@return table by_name the LLM servers' routes as they stand behind a server's name
function _M.compile(listed)
    local routes, by_name = {}, {}
    for index, one in ipairs(listed) do
        local route = new_route(one, index)
        for _, name in ipairs(one.by_name and {} or outside_names(route)) do
            add(routes, one.method, name, route)
        end
        if route.is_llm and route.servers then
            add(by_name, one.method, route.target, route)
        end
    end
    return routes, by_name
end

--- Whether a parameter that is sent can be read in one way only: no dot or empty segment, not even
--- behind an escaped slash. An escape may stand for a slash or a colon, which a model's name may
--- hold; any other hides something that could have been written plainly.
local function is_plain(value)
    local rest = value:gsub("%%2[fF]", "/"):gsub("%%3[aA]", ":")
    return not rest:find("%", 1, true)
        and not ("/" .. model_name.unescape(value) .. "/"):find("/%.?%.?/")
end

--- A path whose dot segments are resolved, as a server in front of us may have done; nil where it
--- leads out of all.
local function resolved(path)
    local kept = {}
    for segment in path:gmatch("[^/]+") do
        if segment == ".." then
            if #kept == 0 then
                return nil
            end
            kept[#kept] = nil
        elseif segment ~= "." then
            kept[#kept + 1] = segment
        end
    end
    return "/" .. table.concat(kept, "/") .. "/"
end

--- Whether a parameter that is looked up may be an ID: no control character, no escape that stands
--- for nothing, and dot segments only where the path stays one of this route to who resolves them.
local function is_id(value, before)
    local id = model_name.unescape(value)
    if value:gsub("%%%x%x", ""):find("[%%#]") or id:find("[%z\1-\31\127]") then
        return false
    end
    if not ("/" .. id .. "/"):find("/%.%.?/") then
        return true
    end
    local path = resolved(before .. id)
    return path ~= nil and #path > #before and path:sub(1, #before) == before
end

local function find_pattern(patterns, path)
    for i = 1, #patterns do
        local entry = patterns[i]
        local value = path:match(entry.pattern)
        local is_good = value and (entry.is_looked_up and is_id(value, entry.before)
            or not entry.is_looked_up and is_plain(value))
        if is_good then
            return entry.route, value
        end
    end
end

--- The route of a request, or nil. `value` is what stood for the parameter, where it has one.
---@param routes table
---@param method string
---@param path string the raw path, as the client wrote it
---@return table|nil route, string|nil value
function _M.find(routes, method, path)
    local of_method = routes[method]
    if not of_method then
        return nil
    end
    local route = of_method.exact[path]
    if route then
        return route
    end
    return find_pattern(of_method.patterns, path)
end

--- Whether a path is a route by any method.
---@param routes table
---@param path string
---@return boolean
function _M.is_known(routes, path)
    for method in pairs(routes) do
        if _M.find(routes, method, path) then
            return true
        end
    end
    return false
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

--- What a path may have in it, and what is wrong with it; the first that is found is told.
local OF_PATH = {
    { "^[^/]", "path_missing" },
    { "^$", "path_missing" },
    { "[%z\1-\31\127]", "path_control" },
    { "%%[01]%x", "path_control" },
    { "%%7[fF]", "path_control" },
    { "//", "path_doubled_slash" },
    { "/%.%.?/", "path_dot_segment" },
    { "/%.%.?$", "path_dot_segment" },
    { "\\", "path_backslash" },
    { "%%5[cC]", "path_backslash" },
    { "#", "path_fragment" },
    { " ", "path_space" },
    { "%%%X", "path_percent" },
    { "%%%x%X", "path_percent" },
    { "%%%x?$", "path_percent" },
    { "%%2[fF]", "path_escaped_slash" },
    { "%%", "path_escape" },
    { "[^%w%._~!$&'()*+,=:@/-]", "path_character" },
}

--- A path with the escapes undone by which a dot segment could hide.
local function with_dots(path)
    return (path:gsub("%%2[eE]", "."):gsub("%%2[fF]", "/"))
end

--- Why a path is not written in the one way that could be in the table.
---@param path string as the client wrote it
---@return string|nil code a key of errors.lua's table; nil where nothing is
function _M.fault_of_path(path)
    local shown = with_dots(path)
    for i = 1, #OF_PATH do
        local pattern, code = OF_PATH[i][1], OF_PATH[i][2]
        if (code == "path_dot_segment" and shown or path):find(pattern) then
            return code
        end
    end
end

return _M
