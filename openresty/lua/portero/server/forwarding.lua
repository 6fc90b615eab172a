---------
-- A request on its way to one of the LLM servers that the policy names: which one is next, and
-- another one where that one could not be reached or was not ready.
-- Each request's own notes are kept by its key, as it moves between locations, from `begin` to
-- `finish`, which always comes. It must never send a request again that may have begun: only where
-- nothing of it was sent, or the server itself has said that it does nothing now (503).

local active_tokens = require("portero.token.active_tokens")
local errors = require("portero.errors")
local in_flight = require("portero.server.in_flight")
local in_force = require("portero.policy.in_force")
local places = require("portero.server.places")
local request_key = require("portero.request_key")
local server_state = require("portero.server.server_state")
local shared_versions = require("portero.shared_versions")

local ngx, var = ngx, ngx.var
local match = string.match

local LOCATION = "@server"
--- Where the LLM server's answer, or its lack, is told as Portero's own refusal.
local REFUSED = "@llm_refused"
--- Where it is told that there is none to be asked. Not here: what goes out of `@server` is looked
--- at as an LLM server's answer.
local NO_SERVER = "@no_server"
--- How long a request waits for a place.
local WAIT_SECONDS = 10
--- nginx leads a request ten times elsewhere, and ends it then: with so many behind it, it may come
--- to one more server, by two, and back from there, and to its refusal.
local MOST_HOPS = 6

local OK, NOT_READY = 200, 503
local REFUSES_KEY = { [401] = true, [403] = true, [407] = true }

--- Request's key -> { policy, rows, claims, tried: by name, hops, row: the server that is asked,
--- waiter, has_waited, is_aimed, code: of the refusal }.
local journeys = {}

local _M = {}

--- Begin: the request is led to `@server` at once.
---@param plan table of `decision.decide`
---@param claims table
function _M.begin(plan, claims)
    journeys[request_key.of_this()] = {
        policy = plan.policy, rows = plan.rows, claims = claims, tried = {}, hops = 0,
    }
end

--- What nginx notes of the server that was asked last, behind those that were before.
local function last(list)
    return list and match(list, "([^ ,:]+)%s*$")
end

local function status_of_last()
    return tonumber(last(var.upstream_status))
end

--- Whether nothing of the request was sent: there was no connection, or no handshake.
local function was_not_begun()
    return last(var.upstream_bytes_sent) == "0"
end

--- Tell how a server did that answered so; `is_begun` where something of the request was sent,
--- `is_answer` where the status is the server's own.
local function tell(journey, status, is_begun, is_answer)
    local name, policy = journey.row.name, journey.policy
    if not is_begun then
        server_state.failed(policy, name)
    elseif status == NOT_READY then
        server_state.answered_503(policy, name)
    elseif REFUSES_KEY[status] then
        server_state.refused_credential(policy, name)
    elseif is_answer then
        server_state.answered(policy, name)
    end
end

--- The same of what nginx noted.
local function report(journey)
    local status = status_of_last()
    if status then
        tell(journey, status, not was_not_begun(), last(var.upstream_header_time) ~= "-")
    end
end

--- Be done with the server that was asked, and give its place back.
local function put_down(journey)
    local row = journey.row
    if row then
        journey.row = nil
        in_flight.release(row.name)
    end
end

--- Whether an admin has taken a server out, by the policy of now: the request's own is that of its
--- beginning, and it may have been long in coming, or waited, or tried another server.
local function is_taken_out(name)
    local policy = in_force.current()
    local row = policy and policy.fleet and policy.fleet.by_name[name]
    return row ~= nil and row.taken_out == true
end

--- Which of the servers that are left may be asked: those that nothing speaks against before those
--- that failed lately. One that is the only one is asked whatever is known of it, but for one that
--- is taken out.
local function in_question(journey)
    shared_versions.look()
    local view = server_state.view(journey.policy)
    local first, further = {}, {}
    for _, row in ipairs(journey.rows) do
        local is_left = not journey.tried[row.name] and not is_taken_out(row.name)
        local state = is_left and view[row.name]
        if state and state.is_first then
            first[#first + 1] = row
        elseif state and (state.is_up or #journey.rows == 1) then
            further[#further + 1] = row
        end
    end
    return first, further
end

local function all_of(first, further)
    local rows = {}
    for _, list in ipairs({ first, further }) do
        for _, row in ipairs(list) do
            rows[#rows + 1] = row
        end
    end
    return rows
end

--- Wait for a place.
local function wait(journey, rows)
    local waiter = in_flight.join(rows, journey.claims.sub)
    journey.waiter = waiter
    local row = in_flight.wait(waiter, ngx.now() + WAIT_SECONDS)
    journey.waiter, journey.has_waited = nil, true
    shared_versions.look()
    return row
end

--- The next server, with a place that is taken there; nil where there is none. One that was taken
--- out while its place was waited for is not it.
local function next_of(journey)
    while true do
        local first, further = in_question(journey)
        local row = in_flight.take(first) or in_flight.take(further)
        if row then
            return row
        end
        local rows = all_of(first, further)
        row = rows[1] and wait(journey, rows)
        if not row or not is_taken_out(row.name) then
            return row
        end
        in_flight.release(row.name)
    end
end

--- Why the caller may not be served any more: its token may have ended while it waited.
local function code_of_caller(journey)
    if not journey.has_waited then
        return nil
    end
    if journey.claims.exp <= ngx.time() then
        return "expired"
    end
    return not active_tokens.holds(journey.claims) and "invalid_api_key" or nil
end

--- Choose, and aim; a server that cannot be aimed at is as one that cannot be reached.
local function lead_on(journey)
    while true do
        local row = next_of(journey)
        if not row then
            return nil
        end
        journey.row, journey.tried[row.name] = row, true
        local suffix, err = places.aim(row)
        if suffix then
            return suffix
        end
        ngx.log(ngx.ERR, "the LLM server ", row.name, " cannot be reached: ", err)
        server_state.failed(journey.policy, row.name)
        put_down(journey)
    end
end

--- Whether there was but one server, and what it did is to be told.
local function is_only_one_heard(journey)
    return #journey.rows == 1 and status_of_last() ~= nil
end

--- Where the request goes on: here, elsewhere, or to a refusal.
local function go(journey)
    local suffix = lead_on(journey)
    local code = suffix and code_of_caller(journey)
    if not suffix or code then
        journey.code = code
        return ngx.exec(not code and is_only_one_heard(journey) and REFUSED or NO_SERVER)
    end
    journey.hops = journey.hops + 1
    if suffix ~= "" then
        journey.is_aimed = true
        journey.hops = journey.hops + 1
        return ngx.exec(LOCATION .. suffix)
    end
end

--- A request comes to `@server`, or comes back to it, as the server that was asked gave no answer
--- that may pass (`rewrite`).
function _M.enter()
    local journey = journeys[request_key.of_this()]
    if journey.is_aimed then
        journey.is_aimed = false
        return
    elseif not journey.row then
        return go(journey)
    end
    local may_go_on = was_not_begun() or status_of_last() == NOT_READY
    if not may_go_on or journey.hops > MOST_HOPS then
        return ngx.exec(REFUSED)
    end
    report(journey)
    put_down(journey)
    return go(journey)
end

--- What is told of it where nothing else was: no server can be asked.
local function code_of_none(journey)
    local only = #journey.rows == 1 and next(journey.tried) and "upstream_unavailable"
    return journey.code or only or "not_ready"
end

--- The next server of a connection that Lua opens by itself (`content`), behind those that were
--- tried; its place is held until `pass_over`, or the end.
---@return table|nil row
---@return string|nil code why there is none
function _M.next()
    local journey = journeys[request_key.of_this()]
    local row = next_of(journey)
    journey.code = row and code_of_caller(journey) or nil
    if not row then
        return nil, code_of_none(journey)
    end
    journey.row, journey.tried[row.name] = row, true
    if journey.code then
        put_down(journey)
        return nil, journey.code
    end
    var.llm_server = row.name
    return row
end

--- It gave the connection.
function _M.opened()
    tell(journeys[request_key.of_this()], OK, true, true)
end

--- It did not; whether the next one may be asked in its place: where nothing was sent, or it does
--- nothing now.
---@param status integer of its answer, or of nginx in its place
---@param is_begun boolean whether something was sent to it
---@return boolean may_go_on
function _M.pass_over(status, is_begun)
    local journey = journeys[request_key.of_this()]
    tell(journey, status, is_begun, true)
    local may_go_on = (not is_begun or status == NOT_READY) and #journey.rows > 1
    put_down(journey)
    return may_go_on
end

--- Say that no server can be asked, or that the caller may not be served any more (`content`).
function _M.refuse()
    return errors.refuse(code_of_none(journeys[request_key.of_this()]))
end

--- The request has ended (`log`).
function _M.finish()
    local key = request_key.of_this()
    local journey = journeys[key]
    if not journey then
        return
    end
    journeys[key] = nil
    local waiter = journey.waiter
    if waiter then
        in_flight.leave(waiter)
        if waiter.row then
            in_flight.release(waiter.row.name)
        end
    end
    if journey.row then
        report(journey)
        put_down(journey)
    end
end

return _M
