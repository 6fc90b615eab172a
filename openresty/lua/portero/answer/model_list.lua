---------
-- Which models there are, said truthfully: a caller sees the ones it may use and no other, in all
-- of the lists that LLM servers have. A pool is asked each time; what servers have that the policy
-- names is known (`known_models`). It never names a model that the LLM server did not.

local cjson = require("cjson.safe")
local api_keys = require("portero.token.api_keys")
local dialects = require("portero.dialect.dialects")
local errors = require("portero.errors")
local in_force = require("portero.policy.in_force")
local inner_door = require("portero.server.inner_door")
local known_models = require("portero.answer.known_models")
local model_name = require("portero.policy.model_name")
local upstream_errors = require("portero.answer.upstream_errors")

--- A list is never what a caller may have been wrong about: the rest is the LLM server's fault.
local REFUSALS = {
    not_found = true, model_not_found = true, not_offered = true,
    not_ready = true, upstream_timeout = true,
    upstream_refused = true, upstream_redirected = true, upstream_failed = true,
}
--- Of what kept an answer from coming: all else is that there is none.
local CODES = { timeout = "upstream_timeout" }
--- As long as any list may take that keeps sending, and be.
local MAX_SECONDS, MAX_BODY_BYTES = 60, 16 * 1024 * 1024

local _M = {}

local function may_use(list, form, entry)
    for _, field in ipairs(form.names) do
        local name = entry[field]
        if name ~= nil and not (type(name) == "string" and model_name.allows(list, name)) then
            return false
        end
    end
    return true
end

--- What in a list is an entry: the rest may be anything.
local function entries_of(answer, form)
    local entries = {}
    for _, entry in ipairs(type(answer[form.field]) == "table" and answer[form.field] or {}) do
        if type(entry) == "table" and type(entry[form.names[1]]) == "string" then
            entries[#entries + 1] = entry
        end
    end
    return entries
end

local function filtered(answer, form, list)
    local kept = {}
    for _, entry in ipairs(entries_of(answer, form)) do
        if not list or may_use(list, form, entry) then
            kept[#kept + 1] = cjson.encode(form.entry(entry))
        end
    end
    return form.head .. table.concat(kept, ",") .. "]}"
end

--- One model's own entry, looked up in the list: not every LLM server has such a route. The very ID
--- comes before another name of the model.
local function entry_of(answer, form, name, is_ollama)
    local wanted = model_name.canonical(name, is_ollama)
    local found
    for _, entry in ipairs(entries_of(answer, form)) do
        local id = entry[form.names[1]]
        if id == name then
            found = entry
            break
        elseif model_name.canonical(id, is_ollama) == wanted then
            found = found or entry
        end
    end
    return found and cjson.encode(form.entry(found))
end

--- What the LLM server is asked, whatever the caller asked: nothing of an ID, which may hold all of
--- this again. And that ID.
local function question_of(target, form)
    local _, stop = target:find(form.path .. "/", 1, true)
    if not stop then
        return target
    end
    return target:sub(1, stop - 1), model_name.unescape(target:sub(stop + 1))
end

local function said(text, form, name, list, is_ollama)
    local answer = cjson.decode(text)
    if type(answer) ~= "table" then
        return nil, "upstream_unavailable"
    end
    if name then
        return entry_of(answer, form, name, is_ollama), "model_not_found"
    end
    return (list or form.is_private) and filtered(answer, form, list) or text
end

--- What the pool is told of the caller, as it would be by a request of the caller's own.
local function headers_of(var, question)
    return {
        ["X-Portero-Target"] = question,
        ["X-Auth-User"] = var.auth_user, ["X-Auth-Role"] = var.auth_role,
        ["X-Auth-Token-Id"] = var.auth_token_id, ["X-Request-Id"] = var.request_id,
        ["X-Real-Ip"] = var.remote_addr, ["X-Forwarded-Proto"] = var.client_scheme,
        traceparent = var.http_traceparent, tracestate = var.http_tracestate,
    }
end

local function code_of(status, why)
    local code = status and upstream_errors.code_of(status) or CODES[why]
    return REFUSALS[code] and code or "upstream_unavailable"
end

local function say(text)
    ngx.header["Content-Type"] = "application/json"
    ngx.header["Cache-Control"] = "no-store"
    ngx.print(text)
end

--- What the pool says when it is asked.
local function asked_of_pool(policy, target, limits)
    local form = dialects.of(ngx.var.request_uri).model_list
    local question, name = question_of(target, form)
    local status, body = inner_door.ask("/pool", headers_of(ngx.var, question), MAX_SECONDS,
        MAX_BODY_BYTES)
    if status ~= ngx.HTTP_OK then
        return nil, code_of(status, body)
    end
    return said(body, form, name, limits and limits.models, policy.is_ollama)
end

--- What is known of the servers that the policy names: all that are up, or the one that the path
--- names.
local function known_of_servers(policy, target, limits)
    local form = dialects.of(target).model_list
    local question, name = question_of(target, form)
    local server = ngx.var.llm_server
    return known_models.text({
        policy = policy, form = form, limits = limits, name = name,
        server = server ~= "" and server or nil, is_running = question == form.running,
    })
end

--- Answer what the caller may know. A model that the caller may not use was refused before, in the
--- same words as one that is not there.
function _M.answer()
    local policy = in_force.current()
    local var = ngx.var
    local limits = api_keys.limits(policy, var.auth_user, var.auth_role, var.auth_token_id)
    local target = ngx.var.upstream_target:match("^[^?]*")
    local ask = policy.servers and known_of_servers or asked_of_pool
    local text, code = ask(policy, target, limits)
    if not text then
        return errors.refuse(code)
    end
    return say(text)
end

return _M
