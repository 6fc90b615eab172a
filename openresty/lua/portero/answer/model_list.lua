---------
-- Which models there are, said truthfully: a caller sees the ones it may use and no other, in all
-- of the lists that LLM servers have. It never names a model that the LLM server did not.

local cjson = require("cjson.safe")
local errors = require("portero.errors")
local model_name = require("portero.policy.model_name")
local route_table = require("portero.policy.route_table")
local upstream_errors = require("portero.answer.upstream_errors")

local limits
local is_ollama

--- What is passed on of an OpenAI model object. The rest may hold paths and arguments.
local OPENAI_FIELDS = { "id", "object", "created", "owned_by", "max_model_len" }
--- Where Ollama's entries hold lists, which would else become objects where they are empty.
local OLLAMA_LISTS = { "families", "capabilities" }
--- A list is never what a caller may have been wrong about: the rest is the LLM server's fault.
local REFUSALS = {
    not_found = true, model_not_found = true, not_offered = true,
    not_ready = true, upstream_timeout = true,
    upstream_refused = true, upstream_redirected = true, upstream_failed = true,
}

local _M = {}

--- Begin, in each worker.
---@param settings table
function _M.start(settings)
    limits = settings.limits
    is_ollama = settings.is_ollama
end

local function allow_list(user, role)
    local own = limits.users[user]
    if own == nil then
        own = limits.roles[role]
    end
    return own and own.models or nil
end

local function openai_entry(entry)
    local kept = {}
    for _, name in ipairs(OPENAI_FIELDS) do
        kept[name] = entry[name]
    end
    return kept
end

local function ollama_entry(entry)
    for _, place in ipairs({ entry, entry.details }) do
        for _, name in ipairs(OLLAMA_LISTS) do
            if type(place[name]) == "table" and #place[name] == 0 then
                place[name] = cjson.null
            end
        end
    end
    return entry
end

--- Each list: where its entries are, what names one, and what is passed on of it.
local OPENAI = {
    field = "data", head = '{"object":"list","data":[', names = { "id" }, entry = openai_entry,
}
local OLLAMA = {
    field = "models", head = '{"models":[', names = { "name", "model" }, entry = ollama_entry,
}

local function may_use(list, form, entry)
    for _, field in ipairs(form.names) do
        local name = entry[field]
        if name ~= nil and not (type(name) == "string" and model_name.allows(list, name)) then
            return false
        end
    end
    return true
end

local function is_entry(form, entry)
    return type(entry) == "table" and type(entry[form.names[1]]) == "string"
end

local function filtered(answer, form, list)
    local entries = {}
    for _, entry in ipairs(type(answer[form.field]) == "table" and answer[form.field] or {}) do
        if is_entry(form, entry) and (not list or may_use(list, form, entry)) then
            entries[#entries + 1] = cjson.encode(form.entry(entry))
        end
    end
    return form.head .. table.concat(entries, ",") .. "]}"
end

--- One model's own entry, looked up in the list: not every LLM server has such a route. The very ID
--- comes before another name of the model.
local function entry_of(answer, name)
    local wanted = model_name.canonical(name, is_ollama)
    local found
    for _, entry in ipairs(type(answer.data) == "table" and answer.data or {}) do
        local id = type(entry) == "table" and entry.id
        if id == name then
            found = entry
            break
        elseif type(id) == "string" and model_name.canonical(id, is_ollama) == wanted then
            found = found or entry
        end
    end
    return found and cjson.encode(openai_entry(found))
end

--- What the LLM server is asked, whatever the caller asked: nothing of an ID, which may hold all of
--- this again.
local function question_of(target)
    return target:match("^(.-/v1/models)/") or target
end

local function said(target, text, list)
    local answer = cjson.decode(text)
    if type(answer) ~= "table" then
        return nil, "upstream_unavailable"
    end
    local name = target:match("/v1/models/(.+)$")
    if name then
        return entry_of(answer, route_table.unescape(name)), "model_not_found"
    elseif target:find("/api/[%w]+$") then
        return list and filtered(answer, OLLAMA, list) or text
    end
    return filtered(answer, OPENAI, list)
end

local function refuse(result)
    local code = upstream_errors.code_of(result.status)
    return errors.refuse(REFUSALS[code] and code or "upstream_unavailable")
end

--- Ask the LLM server, and answer what the caller may know. A model that the caller may not use was
--- refused before, in the same words as one that is not there.
function _M.answer()
    local target = ngx.var.upstream_target:match("^[^?]*")
    ngx.var.upstream_target = question_of(target)
    -- Only what was asked for is copied: nginx would make up another ID for the subrequest.
    local _ = ngx.var.request_id
    local result = ngx.location.capture("/llm-server-says", { copy_all_vars = true })
    if result.status ~= 200 or result.truncated then
        return refuse(result)
    end
    local text, code = said(target, result.body, allow_list(ngx.var.auth_user, ngx.var.auth_role))
    if not text then
        return errors.refuse(code)
    end
    ngx.header["Content-Type"] = "application/json"
    ngx.header["Cache-Control"] = "no-store"
    ngx.print(text)
end

return _M
