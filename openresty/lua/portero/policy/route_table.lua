---------
-- Which role may use which route: `roles.json` and the route packs (`routes/*.json`) compiled once
-- into a table that a request looks its raw path up in. What is not in it does not exist.
-- Pure. Only a path found here is ever sent on, and it is sent as it stands here.

local dialects = require("portero.dialect.dialects")
local model_name = require("portero.policy.model_name")

local _M = {}

--- The classes of Portero's own pack, and who answers them.
local ANSWERED_BY = { console = "issuer", metrics = "gateway" }

--- Where a route may say that its model stands. Answers that list models are filtered.
local MODEL_WORDS = {
    body = true, ["body-or-name"] = true, path = true, query = true, form = true, listed = true,
    none = true,
}

--- What nginx takes of anybody; a role that may send as much is not limited.
local MAX_BODY_BYTES = 67108864

--- What a pack may hold beside its routes: how long its LLM server leaves a connection open that
--- nobody uses, null for ever. `gateway.sh` reads it too.
local FIELDS = { routes = true, idle_seconds = true }
local MAX_IDLE_SECONDS = 86400

local METHODS = { GET = true, POST = true, PUT = true, DELETE = true, HEAD = true }

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

local function add(policy, method, name, route)
    local of_method = policy[method] or { exact = {}, patterns = {} }
    policy[method] = of_method
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

--- A line of a pack taken apart; nil when it is none.
local function parse(line)
    if type(line) ~= "string" then
        return nil
    end
    local method, path, word = line:match("^(%u+) (/%S*)%s+model=(%S+)$")
    if not method then
        method, path = line:match("^(%u+) (/%S*)$")
    end
    local plain, parameters = (path or ""):gsub("{%w+}", "x")
    if not METHODS[method] or parameters > 1 or not _M.is_canonical(plain)
        or (word and not MODEL_WORDS[word]) then
        return nil
    end
    return { method = method, path = path, model = word, name = method .. " " .. path }
end

local function is_list(value)
    return type(value) == "table" and (next(value) == nil or #value > 0)
end

--- The same route in several packs must mean the same in all of them.
local function line_fault(place, line, class, known, pack_name)
    local parsed = parse(line)
    if not parsed then
        return place .. " is not METHOD /path, or METHOD /path model=WHERE"
    end
    local same = parsed.name:gsub("{%w+}", "{}")
    local other = known[same]
    known[same] = { class = class, model = parsed.model, pack = pack_name }
    if other and other.pack == pack_name then
        return place .. ": '" .. parsed.name .. "' is listed twice"
    elseif other and (other.class ~= class or other.model ~= parsed.model) then
        return place .. ": '" .. parsed.name .. "' means another thing in " .. other.pack
    end
end

--- How it is written decides: a decoder makes 5, 5.0 and 0x5 the same.
local function is_idle_seconds(raw)
    local digits = raw:match("^[1-9]%d*$")
    return raw == "null" or (digits ~= nil and tonumber(digits) <= MAX_IDLE_SECONDS)
end

local function field_faults(pack, found)
    for name in pairs(pack.fields or {}) do
        if not FIELDS[name] then
            found[#found + 1] = pack.name .. ": " .. name .. " is not a known field"
        end
    end
    local raw = pack.written and pack.written.idle_seconds
    if raw and not is_idle_seconds(raw) then
        found[#found + 1] = pack.name .. ": idle_seconds must be a whole number of seconds, 1 to "
            .. MAX_IDLE_SECONDS .. ", or null for no limit"
    end
end

local function pack_faults(pack, known, found)
    for class, lines in pairs(pack.routes) do
        local place = pack.name .. ": routes." .. class
        if not is_list(lines) then
            found[#found + 1] = place .. " must be a list of METHOD /path"
            lines = {}
        end
        for index, line in ipairs(lines) do
            found[#found + 1] =
                line_fault(place .. "[" .. index .. "]", line, class, known, pack.name)
        end
    end
end

--- What is wrong with the route packs; an empty list when nothing is.
---@param packs table[] { name, routes = { class -> list of "METHOD /path model=WHERE" },
--- fields = all that the pack holds or nil, written = { [field] = its first characters } or nil }
---@return string[] faults
function _M.faults(packs)
    local known, found = {}, {}
    for _, pack in ipairs(packs) do
        field_faults(pack, found)
        pack_faults(pack, known, found)
    end
    return found
end

local function allowed_roles(class, roles)
    local allowed = {}
    for name, role in pairs(roles) do
        for _, its in ipairs(role.routes) do
            allowed[name] = allowed[name] or its == class or nil
        end
    end
    return allowed
end

--- Lists of models, and one model's own entry, are answered from what the LLM server says of them.
local function is_discovery(parsed, class)
    return class == "models" and (parsed.model == "listed" or parsed.model == "path")
end

local function new_route(parsed, class, roles, answered_by)
    local before, _, behind = split(parsed.path)
    local is_llm = answered_by == "llm"
    return {
        class = class,
        target = parsed.path,
        before = before,
        behind = behind,
        model = parsed.model,
        is_llm = is_llm,
        dialect = dialects.of(parsed.path),
        answered_by = is_llm and is_discovery(parsed, class) and "discovery" or answered_by,
        allowed = allowed_roles(class, roles),
    }
end

--- All lines of all packs. Names with /v1 come first, so that they have the short names
--- (docs/http-api.md); then the more exact pattern wins over the less exact.
local function sorted_lines(packs)
    local all = {}
    for _, pack in ipairs(packs) do
        for class, lines in pairs(pack.routes) do
            for _, line in ipairs(lines) do
                local parsed = parse(line)
                parsed.class = class
                parsed.is_own = pack.name == "portero"
                parsed.rank = (parsed.path:find("^/v1/") and "0" or "1")
                    .. ("%04d"):format(9999 - #parsed.path:gsub("{%w+}", "")) .. parsed.name
                all[#all + 1] = parsed
            end
        end
    end
    table.sort(all, function(a, b) return a.rank < b.rank end)
    return all
end

--- Who answers a line; nil where it is not in force: the LLM server's page is one or the other.
local function answerer(parsed, page_by)
    if parsed.class == "page" then
        return (parsed.is_own or page_by == "llm") and page_by or nil
    end
    return ANSWERED_BY[parsed.class] or "llm"
end

--- Compile the tables; they have no faults.
---@param roles table role name -> { routes = { class, … } }
---@param packs table[] as `faults` takes them
---@param page_by string "issuer" or "llm": who answers the page at /
---@return table policy
function _M.compile(roles, packs, page_by)
    local policy = {}
    for _, parsed in ipairs(sorted_lines(packs)) do
        local answered_by = answerer(parsed, page_by)
        local route = answered_by and new_route(parsed, parsed.class, roles, answered_by)
        -- What no role may reach does not exist.
        local names = route and next(route.allowed) and outside_names(route)
        for _, name in ipairs(names or {}) do
            add(policy, parsed.method, name, route)
        end
    end
    return policy
end

--- What a grant asks of a request beyond its route; nil when it asks nothing.
local function limits_of(grant, is_ollama)
    local limits = {
        models = model_name.compile(grant.models, is_ollama),
        requests_per_minute = grant.requests_per_minute,
        tokens_per_minute = grant.tokens_per_minute,
        concurrent_requests = grant.concurrent_requests,
        largest_body_bytes = grant.largest_body_bytes < MAX_BODY_BYTES
            and grant.largest_body_bytes or nil,
    }
    if not next(limits) then
        return nil
    end
    -- What is counted must be given back, or charged, when a request ends.
    limits.is_counted = (limits.requests_per_minute or limits.tokens_per_minute
        or limits.concurrent_requests) ~= nil
    return limits
end

--- The limits of every role and of every user who has own ones.
---@param file table as `roles.parse` answers it
---@param is_ollama boolean whether models are named as Ollama names them
---@return table limits { roles = { [name] = limits or nil }, users = { [name] = limits or false } }
function _M.limits(file, is_ollama)
    local limits = { roles = {}, users = {} }
    for name, role in pairs(file.roles) do
        limits.roles[name] = limits_of(role.grant, is_ollama)
    end
    for name, grant in pairs(file.users) do
        limits.users[name] = limits_of(grant, is_ollama) or false
    end
    return limits
end

--- What escapes stand for, once.
local function unescape(value)
    return (value:gsub("%%(%x%x)", function(digits)
        return string.char(tonumber(digits, 16))
    end))
end

--- Whether a parameter that is sent can be read in one way only: no dot or empty segment, not even
--- behind an escaped slash. An escape may stand for a slash or a colon, which a model's name may
--- hold; any other hides something that could have been written plainly.
local function is_plain(value)
    local rest = value:gsub("%%2[fF]", "/"):gsub("%%3[aA]", ":")
    return not rest:find("%", 1, true)
        and not ("/" .. unescape(value) .. "/"):find("/%.?%.?/")
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
    local id = unescape(value)
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

--- The model that a parameter names, as a person writes it.
_M.unescape = unescape

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
