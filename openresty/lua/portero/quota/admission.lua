---------
-- Callers with limits: what their requests must pass beyond the role's routes, and what is counted
-- until they end. A caller without limits comes here only where use is counted, and is refused
-- nothing for what cannot be counted; with USAGE=off it pays nothing.
-- What was taken is given back in the log phase, which always runs; what a killed worker held comes
-- back with its lease. Each request's own notes are kept by its key, as it moves between locations.

local request_model = require("portero.request.request_model")
local budgets = require("portero.quota.budgets")
local body = require("portero.request.body")
local candidates = require("portero.policy.candidates")
local histograms = require("portero.histograms")
local in_force = require("portero.policy.in_force")
local limits = require("portero.quota.limits")
local model_name = require("portero.policy.model_name")
local server_side = require("portero.request.server_side")
local own_responses = require("portero.answer.own_responses")
local request_key = require("portero.request_key")
local socket_usage = require("portero.answer.socket_usage")
local stream = require("portero.answer.stream")
local upstream_errors = require("portero.answer.upstream_errors")
local usage = require("portero.answer.usage")
local usage_counts = require("portero.quota.usage_counts")

local ngx, var = ngx, ngx.var
local byte, find, max = string.byte, string.find, math.max

local ZERO, NINE = byte("09", 1, 2)

--- Classes of routes whose use is counted.
local METERED = { inference = true, realtime = true }
--- How one pool is called where servers have names.
local POOL = "llm"
local FIRST_SUCCESS, FIRST_FAILURE = 200, 300
local NO_LIMITS = {}
--- Of a caller without limits, who is told nothing of what is left.
local NO_HEADERS = {}
--- What is forwarded from here on, and may be counted until it ends.
local HELD = { llm = true, socket = true }

--- Request's key -> { user, limits, slot, meter, filter, reader, headers, credential: where its use
--- is counted, model }, from admission to the log phase; until it is admitted also `found`, what
--- its JSON body says.
local tickets = {}

local _M = { METERED = METERED }

--- A body that does not say its length is read to know it; nginx refuses more than any may send.
local function is_too_large(most)
    if not most then
        return false
    end
    return (tonumber(var.http_content_length) or body.untold_length()) > most
end

--- A refusal that says when to come again.
local function over(ticket, code)
    ticket.headers["Retry-After"] = limits.retry_after(ticket.reset_seconds or 0)
    return code
end

--- Ask what is left of a minute's limit, and note it for the caller to read.
local function check(ticket, kind, most, least, code)
    if not most then
        return nil
    end
    local left, reset_seconds = limits.left(kind, ticket.user, most)
    if not left then
        return "not_ready"
    end
    limits.headers(ticket.headers, kind, most, math.max(left, 0), reset_seconds)
    ticket.reset_seconds = reset_seconds
    return left < least and over(ticket, code) or nil
end

local function count_request(ticket)
    return check(ticket, "requests", ticket.limits.requests_per_minute, 0, "too_many_requests")
end

local function check_tokens(ticket)
    return check(ticket, "tokens", ticket.limits.tokens_per_minute, 1, "too_many_tokens")
end

--- A budget is not asked for again: it takes hours until there is something to spend.
local function check_budgets(ticket)
    local its = ticket.limits.budgets
    if not its then
        return nil
    end
    local code, seconds = budgets.refusal(ticket.user, its, ngx.time())
    if seconds then
        ticket.headers["Retry-After"] = seconds
    end
    return code
end

local function take_slot(ticket)
    local most = ticket.limits.concurrent_requests
    if not most then
        return nil
    end
    local slot = limits.acquire(ticket.user, most)
    if slot == nil then
        return "not_ready"
    end
    ticket.slot, ticket.reset_seconds = slot, nil
    return not slot and over(ticket, "too_many_at_once") or nil
end

--- Where the body must be changed for that, and to what; nil where it already asks.
local function change_for_usage(found, asked)
    local options = found[asked.field]
    if not options then
        local member = ('"%s":%s,'):format(asked.field, asked.options("{}"))
        return found.brace + 1, found.brace + 1, member
    end
    return options.from, options.to, options.text and asked.options(options.text)
end

--- Have a stream tell what it used; the client does not see that it was asked.
local function ask_for_usage(ticket, asked)
    local from, to, text = change_for_usage(ticket.found, asked)
    if text then
        request_model.change(ticket.found, from, to, text)
        ticket.filter = usage.new_filter(asked)
    end
end

--- Count what the answer says it used. Only who has a limit of tokens is refused for a body that
--- cannot be read.
local function begin_meter(ticket, route)
    local is_limited = ticket.limits.tokens_per_minute or ticket.limits.budgets
    if not (is_limited or ticket.credential) then
        return nil
    end
    if route.answered_by == "socket" then
        ticket.is_talk = true
        return nil
    end
    ticket.meter = usage.new()
    local asked = route.dialect.asks_for_usage[route.target]
    local code
    if not ticket.found and asked then
        ticket.found, code = request_model.read_json()
    elseif not ticket.found and ticket.credential then
        ticket.found = request_model.glance(route)
    end
    if asked and ticket.found and ticket.found.stream == true then
        ask_for_usage(ticket, asked)
    end
    return is_limited and code or nil
end

--- The model that use is counted for: the real one, where an alias was named.
local function note_model(ticket, route, value, query, plan)
    if ticket.credential then
        ticket.model = plan and plan.model
            or request_model.named(route, value, query, ticket.found)
    end
end

--- Whether what the caller goes on from, or asks for, is its own; only the server that has it is in
--- question then.
local function judge_owner(ticket, route, value, plan)
    local code, server
    if route.is_owned then
        server = own_responses.server_of(value, ticket.user)
        code = not server and "response_not_found" or nil
    elseif route.is_kept and ticket.found then
        code, server = own_responses.refusal(ticket.found, ticket.user)
    end
    if plan and server and not candidates.pin(plan, server) then
        return route.is_owned and "response_not_found" or "previous_response_not_found"
    end
    return code
end

--- A caller without a list is sent by its model too where there are servers, as far as the route
--- says where that is.
local function is_model_judged(list, route, plan)
    return list or (plan and route.model)
end

--- Of a WebSocket the handshake is judged here, and what is said then as it is said
--- (`answer/client_events.lua`).
local function judge_socket(ticket, route, value, query, plan)
    local models = ticket.limits.models
    if not route.model then
        local is_named = (models or plan) and model_name.names_model(query)
        return is_named and "model_in_query" or nil
    end
    return is_model_judged(models, route, plan)
        and request_model.refusal(route, value, query, models, nil, plan) or nil
end

--- Which model, and what else the body asks of the LLM server.
local function judge_body(ticket, route, value, query, plan)
    if route.answered_by == "socket" then
        return judge_socket(ticket, route, value, query, plan)
    end
    local models = ticket.limits.models
    local allowed = METERED[route.class] and ticket.limits.server_side or nil
    local watch = allowed and server_side.WATCH
    local code
    if is_model_judged(models, route, plan) then
        code, ticket.found = request_model.refusal(route, value, query, models, watch, plan)
    elseif watch then
        code, ticket.found = request_model.look(route, watch)
    end
    if not code and allowed and ticket.found then
        code = request_model.beside_model(ticket.found, allowed)
    end
    return code or allowed and judge_owner(ticket, route, value, plan) or nil
end

--- The first thing that a request may not do, in this order: what is cheap to judge comes first,
--- and a slot is taken last.
local function first_refusal(ticket, route, value, query, plan)
    local is_found, fault = body.find_untold()
    if not is_found then
        return fault
    elseif is_too_large(ticket.limits.largest_body_bytes) then
        return "request_too_large"
    end
    local code = count_request(ticket) or judge_body(ticket, route, value, query, plan)
    -- A response that is kept was counted as it was made.
    if code or not METERED[route.class] or route.is_owned then
        return code
    end
    code = check_tokens(ticket) or check_budgets(ticket) or begin_meter(ticket, route)
    note_model(ticket, route, value, query, plan)
    return code or take_slot(ticket)
end

--- What was read of the body is of use no more; what it shall be is what is sent.
local function put_body_down(ticket, is_refused, plan)
    local found = ticket.found
    if found and not is_refused then
        if plan and plan.model then
            request_model.rename(found, plan.model)
        end
        request_model.finish(found)
    end
    request_model.release(found)
    ticket.found = nil
end

local function say_what_is_left(ticket)
    if ticket.headers ~= NO_HEADERS then
        limits.tell(ticket.headers, ngx.header)
    end
end

--- Whether it is noted whose the answer is.
local function is_noted(route, its_limits)
    return route.is_kept and its_limits.server_side ~= nil
end

--- Whether its use is counted.
local function is_used(route)
    return METERED[route.class] and usage_counts.is_on() or false
end

--- Whether there is something to do as the answer passes, and when it ends.
---@param route table
---@param its_limits table the caller's
---@return boolean
function _M.is_held(route, its_limits)
    return its_limits.is_counted or is_noted(route, its_limits) or is_used(route)
end

--- For the access log, which is written after this.
local function log_use(model, server, credential, prompt, completion, first_seconds)
    var.llm_server, var.used_model, var.used_credential = server, model, credential
    var.used_prompt, var.used_completion = prompt, completion
    if first_seconds then
        var.used_first_seconds = ("%.3f"):format(first_seconds)
    end
end

--- A label of metrics: what the policy itself names, and nothing else.
local function label_of(model)
    local policy = in_force.current()
    return policy and policy.labels[model] and model or "other"
end

--- Where it was asked.
local function server_name()
    local server = var.llm_server
    return server and server ~= "" and server or POOL
end

--- The model of a response: the handshake's, else what the response says. What writes speech down
--- is a model of its own, whose name is not said.
local function model_of_response(ticket, named)
    if named == "" then
        return nil
    end
    return ticket.model or named
end

--- Charge what a response over a WebSocket has used; the code by which the connection is to end, if
--- nothing is left. Each response is a request.
local function charge_response(ticket, prompt, completion, named)
    local its_limits, now = ticket.limits, ngx.time()
    local used = ticket.used
    used.prompt, used.completion = used.prompt + prompt, used.completion + completion
    if its_limits.tokens_per_minute then
        limits.spend(ticket.user, prompt + completion)
    end
    if its_limits.budgets then
        budgets.spend(ticket.user, its_limits.budgets, prompt + completion, now)
    end
    if ticket.credential then
        used.model = usage_counts.name_of(model_of_response(ticket, named))
        usage_counts.count(now, ticket.user, ticket.credential, used.model, server_name(), prompt,
            completion)
        histograms.note_tokens(label_of(used.model), prompt, completion)
    end
    return check_tokens(ticket) or check_budgets(ticket)
end

local function begin_talk(ticket)
    ticket.used = { prompt = 0, completion = 0 }
    socket_usage.begin(function(...)
        return charge_response(ticket, ...)
    end)
end

--- The connection has ended: what still ran is charged, and all of it told to the access log.
local function finish_talk(ticket)
    socket_usage.finish()
    local used = ticket.used
    if ticket.credential then
        log_use(used.model or usage_counts.name_of(ticket.model), server_name(), ticket.credential,
            used.prompt, used.completion, false)
    end
end

--- Judge a request of a caller with limits, or any where the policy names servers, or where use
--- is counted. What is allowed must be taken to `@limited`, or `@server`, at once; where use is
--- counted it may stay.
---@param route table
---@param value string|nil what stood for the route's parameter
---@param query string
---@param claims table with `limits`, or nil for none
---@param plan table|nil where it does (`decision.decide`)
---@return string|nil code of the refusal
---@return table|nil headers of the refusal
function _M.refusal(route, value, query, claims, plan)
    local its_limits = claims.limits
    local is_counted = is_used(route) and not route.is_owned
    local ticket = {
        user = claims.sub, limits = its_limits or NO_LIMITS,
        headers = its_limits and {} or NO_HEADERS,
        credential = is_counted and (claims.is_api_key and claims.jti or "token") or nil,
        -- So that the table has room for them from the beginning, and grows under no request.
        meter = false, model = false, first_seconds = false, was_answered = false,
        found = false, filter = false, notes_owner = false, slot = false, is_talk = false,
    }
    local code = first_refusal(ticket, route, value, query, plan)
    put_body_down(ticket, code ~= nil, plan)
    if code then
        return code, ticket.headers
    end
    if HELD[route.answered_by] and _M.is_held(route, ticket.limits) then
        ticket.notes_owner = is_noted(route, ticket.limits)
        tickets[request_key.of_this()] = ticket
        if ticket.is_talk then
            begin_talk(ticket)
        end
    else
        say_what_is_left(ticket)
    end
end

--- Tell the caller how much is left (`header_filter`). What is no success has used nothing.
function _M.add_headers()
    if upstream_errors.look() then
        return
    end
    local ticket = tickets[request_key.of_this()]
    if not ticket then
        return
    end
    say_what_is_left(ticket)
    local status = ngx.status
    ticket.was_answered = status >= FIRST_SUCCESS and status < FIRST_FAILURE
    if status >= FIRST_FAILURE then
        ticket.meter = nil
    elseif ticket.notes_owner then
        ticket.reader = own_responses.new_reader(ticket.user, ngx.header["Content-Type"])
    end
    if ticket.filter and ngx.header["Content-Length"] then
        ngx.header["Content-Length"] = nil
        stream.begin()
    end
end

local function seconds_since_start()
    return max(0, ngx.now() - ngx.req.start_time())
end

--- What is to be done with what passes of a request.
local function look_at(ticket, chunk, is_last)
    if ticket.meter and chunk ~= "" then
        ticket.first_seconds = ticket.first_seconds or seconds_since_start()
        usage.feed(ticket.meter, chunk)
    end
    if ticket.reader then
        own_responses.feed(ticket.reader, chunk, is_last, var.llm_server or "")
    end
    if ticket.filter then
        ngx.arg[1] = usage.filter(ticket.filter, chunk, is_last)
    end
end

--- Count and filter what passes, then watch it as any stream is watched (`body_filter`).
function _M.filter()
    local ticket = tickets[request_key.of_this()]
    if not ticket then
        return stream.filter()
    end
    local chunk = ngx.arg[1]
    look_at(ticket, chunk, (ticket.reader or ticket.filter) and ngx.arg[2])
    return stream.filter(chunk)
end

--- Whether an LLM server got anything of the request.
local function was_sent(ticket)
    if ticket.was_answered then
        return true
    end
    local sent = var.upstream_bytes_sent
    local first = sent and byte(sent)
    return first and (first > ZERO and first <= NINE or find(sent, "[1-9]"))
end

local function count_use(ticket)
    if was_sent(ticket) then
        local prompt, completion = 0, 0
        if ticket.meter then
            prompt, completion = usage.apart(ticket.meter)
        end
        if ticket.limits.budgets then
            budgets.spend(ticket.user, ticket.limits.budgets, prompt + completion, ngx.time())
        end
        local server = server_name()
        local model = usage_counts.name_of(ticket.model)
        usage_counts.count(ngx.time(), ticket.user, ticket.credential, model, server, prompt,
            completion)
        log_use(model, server, ticket.credential, prompt, completion, ticket.first_seconds)
        histograms.note(label_of(model), seconds_since_start(), ticket.first_seconds, prompt,
            completion)
    end
end

--- Give back what was taken, and charge what was used (`log`).
function _M.settle()
    local key = request_key.of_this()
    local ticket = tickets[key]
    if not ticket then
        return
    end
    tickets[key] = nil
    if ticket.slot then
        limits.release(ticket.slot)
    end
    if ticket.meter and ticket.limits.tokens_per_minute then
        limits.spend(ticket.user, usage.total(ticket.meter))
    end
    if ticket.is_talk then
        finish_talk(ticket)
    elseif ticket.credential then
        count_use(ticket)
    end
end

return _M
