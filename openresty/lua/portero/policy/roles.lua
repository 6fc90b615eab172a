---------
-- `roles.json` as the gateway needs it: what each role and each user is granted.
-- Pure. All faults are listed, each with its line and its place; a file with one is not used at
-- all. What a route is, and which there are, is the policy's.

local cjson = require("cjson.safe").new()
local places = require("portero.policy.places")

cjson.decode_invalid_numbers(false)

local null = require("cjson").null

local MAX_TTL_SECONDS = 86400
local MAX_BODY_BYTES = 67108864
local MAX_NUMBER = 1000000000
local CLASSES = {
    inference = true, models = true, management = true, health = true, metrics = true,
    page = true, console = true,
}
local DOORS = {
    ["/llm/login"] = true, ["/agi/login"] = true, ["/login"] = true, ["/admin/login"] = true,
}

local _M = {}

--- `raw` is how a value is written: a decoder makes `1.0` and `1` the same, and `{}` and `[]`.
local function is_whole(value, raw, most)
    return type(value) == "number" and raw:find("^%d+$") ~= nil and value >= 1 and value <= most
end

local function is_list(_, raw)
    return raw:find("^%[") ~= nil
end

local function is_object(_, raw)
    return raw:find("^{") ~= nil
end

local function whole(most)
    return { "must be a whole number from 1 to " .. most, function(value, raw)
        return is_whole(value, raw, most)
    end }
end

local function whole_or_null(most)
    return { "must be a whole number from 1 to " .. most .. ", or null", function(value, raw)
        return value == null or is_whole(value, raw, most)
    end }
end

local function list(what)
    return { "must be a list of " .. what, is_list }
end

--- The fields of a role: how a fault says it, and what is accepted.
local ROLE_FIELDS = {
    code = { "must be four capital letters", function(value)
        return type(value) == "string" and value:find("^%u%u%u%u$") ~= nil
    end },
    ttl_seconds = whole(MAX_TTL_SECONDS),
    door = { "must be one of /llm/login, /agi/login, /login, /admin/login", function(value)
        return DOORS[value] ~= nil
    end },
    routes = list("route classes"),
    models = list("model names"),
    requests_per_minute = whole_or_null(MAX_NUMBER),
    tokens_per_minute = whole_or_null(MAX_NUMBER),
    concurrent_requests = whole_or_null(1000),
    largest_body_bytes = whole(MAX_BODY_BYTES),
    active_tokens = whole(1000000),
    stream_policy = {
        'must be "finish", "cut" or a whole number of seconds up to ' .. MAX_TTL_SECONDS,
        function(value, raw)
            return value == "finish" or value == "cut" or is_whole(value, raw, MAX_TTL_SECONDS)
        end,
    },
}
--- What a user may have otherwise than the role.
local USER_FIELDS = {}
for _, name in ipairs({
    "models", "requests_per_minute", "tokens_per_minute", "concurrent_requests",
    "largest_body_bytes",
}) do
    USER_FIELDS[name] = ROLE_FIELDS[name]
end
local FILE_FIELDS = { ["$schema"] = true, roles = true, users = true }

--- The elements of the two lists.
local ELEMENTS = {
    routes = { "is no class of routes", function(value) return CLASSES[value] ~= nil end },
    models = {
        "must be a model's name of 1 to 256 plain characters, with a * at its end alone",
        function(value)
            return type(value) == "string" and #value >= 1 and #value <= 256
                and not value:find('[^!-~]') and not value:find('["\\]')
                and not value:sub(1, -2):find("*", 1, true)
        end,
    },
}

local function element_faults(path, name, value, say)
    local accepts = ELEMENTS[name]
    if not accepts or type(value) ~= "table" then
        return
    end
    local seen = {}
    for index, element in ipairs(value) do
        local place = path .. "[" .. index .. "]"
        if not accepts[2](element) then
            say(place, accepts[1])
        elseif seen[element] then
            say(place, "is listed twice")
        end
        seen[element] = true
    end
end

local function field_faults(path, entry, fields, is_whole_entry, say)
    if not is_object(entry, say.raw(path)) then
        say(path, "must be an object")
        return
    end
    for name in pairs(entry) do
        if not fields[name] then
            say(path .. "." .. name, "is not a known field")
        end
    end
    for name, field in pairs(fields) do
        local value, place = entry[name], path .. "." .. name
        if (is_whole_entry or value ~= nil) and not field[2](value, say.raw(place)) then
            say(place, field[1])
        end
        element_faults(place, name, value, say)
    end
end

local function code_faults(roles, say)
    local owners = {}
    for name, role in pairs(roles) do
        local code = type(role) == "table" and role.code
        if type(code) == "string" then
            owners[code] = (owners[code] or 0) + 1
            if owners[code] == 2 then
                say("roles." .. name .. ".code", "is used by more than one role")
            end
        end
    end
    return owners
end

local function user_faults(users, codes, say)
    if not is_object(users, say.raw("users")) then
        say("users", "must be an object")
        return
    end
    for name, entry in pairs(users) do
        local path = "users." .. name
        local is_name = #name <= 64 and name:find("^%u%u%u%u[%w._-]+$")
        if not is_name or not codes[name:sub(1, 4)] then
            say(path, "is no user's name: a role's code and 1 to 60 of A-Z a-z 0-9 . _ -")
        end
        field_faults(path, entry, USER_FIELDS, false, say)
    end
end

local function role_name_faults(roles, say)
    for name in pairs(roles) do
        if #name > 64 or not name:find("^[a-z][a-z0-9_]*$") then
            say("roles." .. name, "is no role's name: a letter a-z, then up to 63 of a-z 0-9 _")
        end
    end
end

local function content_faults(content, say)
    for name in pairs(content) do
        if not FILE_FIELDS[name] then
            say(name, "is not a known field")
        end
    end
    local schema, roles = content["$schema"], content.roles
    if schema ~= nil and type(schema) ~= "string" then
        say("$schema", "must be a text")
    end
    if not is_object(roles, say.raw("roles")) or not next(roles) then
        say("roles", "must be an object that names a role")
        return
    end
    role_name_faults(roles, say)
    for name, role in pairs(roles) do
        field_faults("roles." .. name, role, ROLE_FIELDS, true, say)
    end
    local codes = code_faults(roles, say)
    if content.users ~= nil then
        user_faults(content.users, codes, say)
    end
end

--- Sorted by line, as a person reads a file.
local function listed(found)
    table.sort(found, function(a, b)
        return a.line < b.line or (a.line == b.line and a.text < b.text)
    end)
    local texts = {}
    for index, fault in ipairs(found) do
        texts[index] = ("roles.json line %d: %s"):format(fault.line, fault.text)
    end
    return texts
end

--- What takes a fault, at a place of the text; `raw` tells how a value is written there.
local function teller(where, found)
    local tell = {}
    function tell.raw(path)
        return where.values[path] or ""
    end
    return setmetatable(tell, { __call = function(_, path, reason)
        local place = path
        while not where.lines[place] and place ~= "" do
            place = place:match("^(.*)[.%[][^.%[]*$") or ""
        end
        found[#found + 1] = { line = where.lines[place] or 1, text = path .. " " .. reason }
    end })
end

local function faults_of(text, content)
    local where, found = places.of(text), {}
    for _, twice in ipairs(where.twice) do
        found[#found + 1] = { line = twice.line, text = twice.path .. " is there twice" }
    end
    content_faults(content, teller(where, found))
    return listed(found)
end

local function none_for_null(entry)
    for name, value in pairs(entry) do
        if value == null then
            entry[name] = nil
        end
    end
end

--- The effective grant of a user: the user's own values where there are any, else the role's.
local function granted(role, own)
    local grant = {}
    for name in pairs(USER_FIELDS) do
        local value = own[name]
        if value == nil then
            value = role[name]
        end
        grant[name] = value
    end
    none_for_null(grant)
    return grant
end

--- Read the text of `roles.json`.
---@param text string
---@param ttl_bound_seconds integer the longest that any role's tokens may live
---@return table|nil file { roles = { [name] = … }, users = { [username] = grant } }
---@return string[] faults
function _M.parse(text, ttl_bound_seconds)
    local content, err = cjson.decode(text)
    if type(content) ~= "table" or text:find("^%s*%[") then
        return nil, { "roles.json: " .. (err and "is not valid JSON" or "must be an object") }
    end
    local faults = faults_of(text, content)
    if #faults > 0 then
        return nil, faults
    end
    local of_code, users = {}, {}
    for name, role in pairs(content.roles) do
        role.name = name
        role.ttl_seconds = math.min(role.ttl_seconds, ttl_bound_seconds)
        role.grant = granted(role, {})
        of_code[role.code] = role
    end
    for name, own in pairs(content.users or {}) do
        users[name] = granted(of_code[name:sub(1, 4)], own)
    end
    return { roles = content.roles, users = users }, faults
end

return _M
