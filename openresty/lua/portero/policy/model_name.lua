---------
-- Names of models: which one a body that was scanned, or a query, means, and whether an allow-list
-- has it.
-- Pure. It must never let pass what two readers could read in two ways: what it cannot be sure of
-- it refuses, and it never takes a pattern of Lua from what a client or an operator wrote.

local char, find, gsub = string.char, string.find, string.gsub
local lower, match, sub = string.lower, string.match, string.sub

local MAX_PLAIN = 256

local _M = {}

---------
-- Names and allow-lists.

local HOST, LIBRARY, LATEST = "registry.ollama.ai/", "library/", ":latest"

local function without_start(text, start)
    if sub(text, 1, #start) == start then
        return sub(text, #start + 1), true
    end
    return text, false
end

--- A name as Ollama would write it: several names of one model become one.
---@param name string
---@param is_ollama boolean for other servers a name is its bytes
---@return string
function _M.canonical(name, is_ollama)
    if not is_ollama then
        return name
    end
    local short = without_start(without_start(lower(name), HOST), LIBRARY)
    if sub(short, -#LATEST) == LATEST then
        return sub(short, 1, -#LATEST - 1)
    end
    return short
end

--- Whether a canonical name is one that a `*` may stand for. Not: a digest, which may be of any
--- model; a model that leaves the machine; Ollama's other word for where a model runs; and what
--- holds characters that no name has (Ollama trims, so `x:cloud ` would be `x:cloud`).
local function is_ordinary(name)
    if find(name, "[^%w%-_.:/]") then
        return false
    end
    local tag = match(name, ":([^:/]*)$")
    return tag ~= "cloud" and tag ~= "local" and not (tag and sub(tag, -6) == "-cloud")
end

--- The start that a pattern with `*` asks for. One that names the registry or the library means
--- what is in there alone: names with so many slashes, once they are canonical.
local function prefix_of(pattern, is_ollama)
    local start = sub(pattern, 1, -2)
    if not is_ollama then
        return { start = start, most_slashes = math.huge }
    end
    local rest, of_host = without_start(lower(start), HOST)
    local of_library
    rest, of_library = without_start(rest, LIBRARY)
    return { start = rest, most_slashes = of_library and 0 or of_host and 1 or math.huge }
end

--- An allow-list from the patterns of roles.json: exact names, or a start and `*`.
---@param patterns string[] they have no faults
---@param is_ollama boolean whether names are compared as Ollama does
---@return table|nil list nil for `*` alone: no limit
function _M.compile(patterns, is_ollama)
    if #patterns == 1 and patterns[1] == "*" then
        return nil
    end
    local list = { is_ollama = is_ollama, exact = {}, prefixes = {} }
    for _, pattern in ipairs(patterns) do
        if sub(pattern, -1) == "*" then
            list.prefixes[#list.prefixes + 1] = prefix_of(pattern, is_ollama)
        else
            list.exact[_M.canonical(pattern, is_ollama)] = true
        end
    end
    return list
end

local function slashes_of(name)
    local _, count = gsub(name, "/", "/")
    return count
end

local function has_prefix(prefixes, name)
    for i = 1, #prefixes do
        local prefix = prefixes[i]
        if sub(name, 1, #prefix.start) == prefix.start
            and slashes_of(name) <= prefix.most_slashes then
            return true
        end
    end
    return false
end

--- The list of what two lists both allow.
---@param list table|nil from `compile`
---@param narrower table|nil from `compile`
---@return table|nil list
function _M.both(list, narrower)
    if not list or not narrower then
        return list or narrower
    end
    return {
        is_ollama = list.is_ollama, exact = list.exact, prefixes = list.prefixes,
        narrower = narrower,
    }
end

--- Whether a list allows a name.
---@param list table|nil from `compile`; nil allows all
---@param name string
---@return boolean
function _M.allows(list, name)
    if not list then
        return true
    end
    if list.narrower and not _M.allows(list.narrower, name) then
        return false
    end
    local canonical = _M.canonical(name, list.is_ollama)
    if list.exact[canonical] then
        return true
    end
    if list.is_ollama and not is_ordinary(canonical) then
        return false
    end
    return has_prefix(list.prefixes, canonical)
end

--- Whether it is what an allow-list could hold, and every reader reads alike: the rule where a
--- model stands in a query, which has more than one way to write a character.
---@param name string
---@return boolean
function _M.is_plain(name)
    return name ~= "" and #name <= MAX_PLAIN and not find(name, "[^!#-~]")
        and not find(name, "\\", 1, true)
end

---------
-- The JSON body.

--- Whether what stands there is neither a name nor void: a number, an object, too long a text.
local function is_unusable(found, field)
    return found[field] == false and not (found.is_void and found.is_void[field])
end

--- The model of a body that was scanned; Ollama takes `name` where `model` is empty.
---@param found table from `json_body.scan`
---@param word string "body" or "body-or-name", the route's
---@return string|nil name
---@return string|nil code of the refusal
function _M.from_json(found, word)
    local has_name = word == "body-or-name"
    if found.second then
        return nil, "model_second"
    elseif is_unusable(found, "model") or has_name and is_unusable(found, "name") then
        return nil, "model_unusable"
    end
    local model, name = found.model, has_name and found.name
    if model and name and _M.canonical(model, true) ~= _M.canonical(name, true) then
        return nil, "ambiguous_body"
    end
    model = model or name or nil
    return model, not model and "model_missing" or nil
end

---------
-- The path and the query.

--- What escapes stand for, once, as a model is named where it stands in a path.
---@param text string
---@return string
function _M.unescape(text)
    return (gsub(text, "%%(%x%x)", function(digits) return char(tonumber(digits, 16)) end))
end

--- What percent signs and plus signs stand for; nil where one stands for nothing.
local function unquoted(text)
    if find(gsub(text, "%%%x%x", ""), "%", 1, true) then
        return nil
    end
    return _M.unescape((gsub(text, "+", " ")))
end

local NAMES_OF_MODEL = { model = true, name = true }

--- Whether some reader could take this for the name of a model's parameter. One that cannot be
--- decoded may be anything: llama-server reads `%u006d` as an m.
local function is_name_of_model(raw)
    local name = unquoted(raw)
    return not name or NAMES_OF_MODEL[gsub(lower(name), "[%s%z%c]", "")] or false
end

--- Its parameters that may name a model: how many, the last one's raw name and value. Some readers
--- take a semicolon for an ampersand.
local function model_parameters(query)
    local count, name, value = 0, nil, nil
    for parameter in query:gmatch("[^&;?]+") do
        local its_name, its_value = match(parameter, "^([^=]*)=?(.*)$")
        if is_name_of_model(its_name) then
            count, name, value = count + 1, its_name, its_value
        end
    end
    return count, name, value
end

--- Whether a query names a model in any way.
---@param query string
---@return boolean
function _M.names_model(query)
    return query ~= "" and model_parameters(query) > 0
end

--- The same query with another model in place of the one that `from_query` read.
---@param query string
---@param model string as it stands in a query
---@return string
function _M.query_with(query, model)
    return (gsub(query, "([?&]model=)[^&]*", function(start) return start .. model end, 1))
end

--- The model that a query names.
---@param query string with or without its question mark
---@return string|nil name, string|nil code of the refusal
function _M.from_query(query)
    local count, name, value = model_parameters(query)
    if count == 0 or count == 1 and name == "model" and value == "" then
        return nil, "model_missing"
    end
    local model = unquoted(value)
    if count > 1 or name ~= "model" or find(query, ";", 1, true)
        or not model or not _M.is_plain(model) then
        return nil, "ambiguous_body"
    end
    return model
end

return _M
