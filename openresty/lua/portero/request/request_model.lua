---------
-- Which model a request asks for, read where its route says that it stands, and judged once by
-- `policy/decision.lua`: what was judged is what is sent; and what its body asks of the LLM server
-- beside that. For callers with limits alone; others' bodies are never looked at.
-- A body that could be read in two ways is refused, not guessed at (threats B1-B15).

local cjson = require("cjson.safe")
local body = require("portero.request.body")
local decision = require("portero.policy.decision")
local form_body = require("portero.request.form_body")
local json_body = require("portero.request.json_body")
local model_name = require("portero.policy.model_name")
local server_side = require("portero.request.server_side")

local var = ngx.var
local find = string.find

local _M = {}

--- Whether only the LLM server can read the body: no client compresses it. `llm.conf` sends this
--- header and Content-Type on as they are seen here, and once.
local function is_compressed()
    local encoding = var.http_content_encoding
    return encoding ~= nil and encoding:lower() ~= "identity"
end

local function has_body()
    local length = var.http_content_length
    return var.http_transfer_encoding ~= nil or (length ~= nil and length ~= "0")
end

--- The body's bytes, where nothing is wrong with what its head says of them; nil and a code.
local function open(fault, code_of_empty)
    if is_compressed() then
        return nil, "body_compressed"
    elseif fault then
        return nil, fault
    end
    local pointer, length, keep = body.read()
    if not pointer then
        return nil, length == "empty" and code_of_empty or "internal_error"
    end
    return pointer, length, keep
end

--- What the JSON body says of its model; it stays what it is until the request is forwarded. Who
--- is done with its bytes calls `release`.
---@param watch table|nil what else is looked at, as `json_body.scan` takes it
---@return table|nil found, string|nil code
function _M.read_json(watch)
    local _, fault = json_body.is_json(var.http_content_type)
    local pointer, length, keep = open(fault, "body_missing")
    if not pointer then
        return nil, length
    end
    local found, code = json_body.scan(pointer, length, body.pause, watch)
    if not found then
        body.release(keep)
        return nil, code
    end
    found.pointer, found.length, found.keep = pointer, length, keep
    return found
end

local function from_json(word, watch)
    local found, code = _M.read_json(watch)
    if not found then
        return nil, code
    end
    found.takes_name = word == "body-or-name"
    local name, refusal = model_name.from_json(found, word)
    return name, refusal, found
end

local function from_form()
    local form, fault = form_body.of_type(var.http_content_type)
    local pointer, length, keep = open(fault, "form_missing")
    if not pointer then
        return nil, length
    end
    local found = { pointer = pointer, length = length, keep = keep, is_form = true }
    local name, code, from = form_body.model(pointer, length, form, body.pause,
        function(field, text, at, stop) server_side.read_field(found, field, text, at, stop) end)
    found.model, found.model_from, found.model_to = name, from, name and from + #name
    if name and found.second then
        return nil, "model_second", found
    end
    return name, code, found
end

--- Note what shall stand in place of some bytes of a body; `finish` changes all of them at once.
---@param found table from `refusal` or `read_json`
---@param from integer
---@param to integer the last byte's place, and one more
---@param text string
function _M.change(found, from, to, text)
    found.changes = found.changes or {}
    found.changes[#found.changes + 1] = { from, to, text }
end

--- A name as it stands in JSON: most need no escapes, and cjson would escape their slashes.
local function quoted(name)
    return find(name, '[%c"\\]') and cjson.encode(name) or '"' .. name .. '"'
end

--- Have the body name another model, wherever its route takes one from; all else stays what it is.
---@param found table
---@param name string the real one
function _M.rename(found, name)
    local text = found.is_form and name or quoted(name)
    if found.model_from then
        _M.change(found, found.model_from, found.model_to, text)
    end
    if found.takes_name and found.name_from then
        _M.change(found, found.name_from, found.name_to, text)
    end
end

--- Make the changes that were noted: what is sent is what was judged.
---@param found table
function _M.finish(found)
    if found.changes then
        body.replace_all(found.pointer, found.length, found.changes)
    end
end

--- Give the bytes back: a body in a file is mapped, and takes its disk until then; too long a wait
--- for the collector, to whom it is a few bytes.
---@param found table|nil
function _M.release(found)
    if found then
        body.release(found.keep)
    end
end

--- word of the route -> the name, or nil and a code; and what else the body said. Lists, a response
--- that is kept, and what names no model, have none.
local READERS = {
    body = function(_, _, watch) return from_json("body", watch) end,
    ["body-or-name"] = function(_, _, watch) return from_json("body-or-name", watch) end,
    form = from_form,
    path = model_name.unescape,
    listed = function() end,
    none = function() end,
    response = function() end,
    query = function(_, query) return model_name.from_query(query) end,
}
local JSON_WORDS = { body = true, ["body-or-name"] = true }
local BODY_WORDS = { body = true, ["body-or-name"] = true, form = true }

local function read(word, value, query, watch)
    if word ~= "query" and model_name.names_model(query) then
        return nil, "model_in_query"
    elseif not BODY_WORDS[word] and has_body() then
        return nil, "body_unexpected"
    end
    return READERS[word](value, query, watch)
end

--- Whether a caller may use the model that its request asks for.
---@param route table
---@param value string|nil what stood for the route's parameter
---@param query string with its question mark, or empty
---@param list table|nil the caller's allow-list
---@param watch table|nil what else is looked at in a JSON body
---@param plan table|nil where the policy names servers (`decision.decide`)
---@return string|nil code of the refusal; nil when it may
---@return table|nil found what the body said, from `read_json` or of a form, whatever the code
function _M.refusal(route, value, query, list, watch, plan)
    return decision.model_refusal(route, value, query, list, read, plan, watch)
end

--- Whether a request has a body that its route takes for JSON.
local function has_json(route)
    return (route.model == nil or JSON_WORDS[route.model]) and has_body()
end

--- What the body says, where nobody is refused for it: nothing where it cannot be read.
---@param route table
---@return table|nil found
function _M.glance(route)
    if has_json(route) then
        return (_M.read_json())
    elseif route.model == "form" and has_body() then
        local _, _, found = from_form()
        return found
    end
end

local NAMES = {
    path = model_name.unescape,
    query = function(_, query) return (model_name.from_query(query)) end,
}

--- The model that a request names, whether anyone may use it or not; nil where that cannot be told.
---@param route table
---@param value string|nil what stood for the route's parameter
---@param query string
---@param found table|nil from `refusal`, `look` or `read_json`
---@return string|nil
function _M.named(route, value, query, found)
    local read = NAMES[route.model]
    if read then
        return read(value, query)
    elseif not found or found.is_form then
        return found and found.model or nil
    end
    return (model_name.from_json(found, JSON_WORDS[route.model] and route.model or "body"))
end

--- What the body of an inference says, whatever its model, or without one; nothing where its route
--- takes neither JSON nor a form.
---@param route table
---@param watch table
---@return string|nil code of the refusal
---@return table|nil found from `read_json`, or of a form
function _M.look(route, watch)
    if route.model == "form" and has_body() then
        local _, code, found = from_form()
        return code ~= "model_missing" and code or nil, found
    elseif not has_json(route) then
        return nil
    end
    local found, code = _M.read_json(watch)
    return code, found
end

--- Whether a caller may ask what its body asks of the LLM server beside the model. Of that the
--- priority is never the client's: it is made the policy's.
---@param found table from `refusal` or `look`
---@param allowed table the caller's `server_side`
---@return string|nil code of the refusal
function _M.beside_model(found, allowed)
    local code = server_side.refusal(found, allowed)
    if code then
        return code
    elseif found.is_form then
        for _, part in ipairs(found.priority_parts or {}) do
            _M.change(found, part[1], part[2], "")
        end
        return nil
    end
    local from, to, text = server_side.change_of_priority(found, found.pointer, allowed.priority)
    if from then
        _M.change(found, from, to, text)
    end
end

return _M
