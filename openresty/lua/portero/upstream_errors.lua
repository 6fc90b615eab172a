---------
-- What nginx refused or could not get, and what the LLM server itself refused, told to the caller
-- as Portero's own refusals are. The text of the LLM server's errors goes nowhere: it may name
-- models, paths and addresses.

local errors = require("portero.errors")
local policy = require("portero.policy")

local table_of_routes

--- What a refusal becomes where it was the LLM server that gave it.
local OF_LLM_SERVER = { internal_error = "upstream_failed" }
--- The routes whose 404 can only mean the model, for they are there.
local MODEL_WORDS = { body = true, ["body-or-name"] = true, path = true, query = true, form = true }

local _M = {}

--- Begin, in each worker.
---@param settings table
function _M.start(settings)
    table_of_routes = settings.policy
end

--- On the way here nginx forgot the method: any route of the path tells.
local function names_a_model()
    local path = ngx.var.request_uri:match("^[^?]*")
    for method in pairs(table_of_routes) do
        local route = policy.find(table_of_routes, method, path)
        if route and MODEL_WORDS[route.model] then
            return true
        end
    end
    return false
end

--- Whether the LLM server had answered: nginx notes its status, and 502 or 504 of its own.
local function was_answered()
    local status = ngx.var.upstream_status
    return status ~= nil and status ~= "" and status ~= "-"
end

--- Refuse; the last part of the internal URI names the code.
function _M.refuse()
    local code = ngx.var.uri:match("[%w_]+$")
    if not was_answered() then
        return errors.refuse(code)
    end
    -- What a 401 asked of the gateway: nginx hands it on with the error, whatever is hidden.
    ngx.header["WWW-Authenticate"] = nil
    if code == "not_found" and names_a_model() then
        code = "model_not_found"
    end
    return errors.refuse(OF_LLM_SERVER[code] or code)
end

return _M
