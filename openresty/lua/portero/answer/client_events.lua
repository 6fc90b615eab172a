---------
-- What a client says over a WebSocket, judged as the body of a request is: which models it names,
-- what it asks of the LLM server beside them, and whose answer it goes on from; and whose the
-- answers are that the LLM server tells of. Of callers whose models are limited, whose bodies are
-- looked at, or where the policy names servers; others' frames are never looked into.
-- Each connection's own notes are kept by its request's ID, from `begin` to `finish`, which always
-- comes. It must never let an event name a model that the handshake did not, where that named one.

local ffi = require("ffi")
local cjson = require("cjson.safe")
local body = require("portero.request.body")
local candidates = require("portero.policy.candidates")
local in_force = require("portero.policy.in_force")
local json_body = require("portero.request.json_body")
local model_name = require("portero.policy.model_name")
local own_responses = require("portero.answer.own_responses")
local server_side = require("portero.request.server_side")
local server_state = require("portero.server.server_state")

local concat, insert, sort = table.concat, table.insert, table.sort
local find, sub = string.find, string.sub
local min = math.min

--- How long a message may be: the longest of OpenAI's own is 15 MiB.
local MOST_BYTES = 16 * 1024 * 1024
--- So many messages of the LLM server behind one of the client's may tell a response's ID.
local MOST_HEARD = 8
local TEXT = 0x1
local NO_LIMITS = {}

local bytes_at = ffi.typeof("const unsigned char *")

--- Request ID -> { claims, limits, plan, asked: the model of the handshake, real: what stands for
--- it, row: the server, is_undecided, keeps, most_bytes, heard }.
local talks = {}

local _M = {}

--- The model that the handshake named, if its route has one in the query and someone judged it.
local function asked_of(route, query, limits, plan)
    local is_judged = route.model == "query" and (limits.models or plan)
    return is_judged and model_name.from_query(query) or nil
end

--- Note what a connection is judged by, as it is admitted.
---@param route table
---@param query string
---@param claims table
---@param plan table|nil where the policy names servers (`decision.decide`)
function _M.begin(route, query, claims, plan)
    local limits = claims.limits or NO_LIMITS
    if not (plan or limits.models or limits.server_side or limits.largest_body_bytes) then
        return
    end
    local asked = asked_of(route, query, limits, plan)
    talks[ngx.var.request_id] = {
        claims = claims, limits = limits, plan = plan, asked = asked,
        real = plan and plan.model or asked,
        is_undecided = plan ~= nil and not asked and #plan.rows > 1,
        keeps = route.dialect.keeps[route.target] and limits.server_side ~= nil,
        most_bytes = min(limits.largest_body_bytes or MOST_BYTES, MOST_BYTES),
        heard = MOST_HEARD,
    }
end

--- What this request's connection is judged by; nil where nobody looks into it.
---@return table|nil talk
function _M.current()
    return talks[ngx.var.request_id]
end

--- The connection has ended (`log`).
function _M.finish()
    talks[ngx.var.request_id] = nil
end

---------
-- Models.

--- Judge a name as a body's: at the server that was chosen, or at all that are in question.
local function by_servers(talk, name)
    local plan = {
        rows = talk.row and { talk.row } or talk.plan.rows, limits = talk.limits,
        view = server_state.view(in_force.current()),
    }
    local code = candidates.narrow(talk.plan.fleet, plan, name)
    if code then
        return nil, code
    elseif talk.is_undecided then
        talk.plan.rows = plan.rows
    end
    return plan.model or name
end

--- What stands for a name that an event names; nil and a code where it may not.
local function real_name(talk, named)
    local name = named.name
    if not name then
        return nil, "model_unusable"
    elseif talk.asked and not named.is_helper then
        return (name == talk.asked or name == talk.real) and talk.real or nil, "model_not_found"
    elseif talk.plan then
        return by_servers(talk, name)
    end
    return model_name.allows(talk.limits.models, name) and name or nil, "model_not_found"
end

--- Every model that an event names.
local function named_in(found)
    local names = found.models or {}
    local is_void = found.is_void and found.is_void.model
    if found.model ~= nil and not is_void then
        insert(names, 1, { name = found.model, from = found.model_from, to = found.model_to })
    end
    return names
end

local function quoted(name)
    return find(name, '[%c"\\]') and cjson.encode(name) or '"' .. name .. '"'
end

--- Judge them, and note where a real name takes the place of another.
local function judge_models(talk, found, changes)
    if found.second then
        return "model_second"
    end
    local names = named_in(found)
    for _, named in ipairs(names) do
        local real, code = real_name(talk, named)
        if not real then
            return code
        elseif real ~= named.name then
            insert(changes, { named.from, named.to, quoted(real) })
        end
    end
    return talk.is_undecided and not names[1] and "model_missing" or nil
end

---------
-- What else is asked for.

--- What a connection's items are is its own; only where responses are kept one may be another's.
local function judge_owner(talk, found)
    if not talk.keeps then
        found.refers = nil
    end
    local code, server = own_responses.refusal(found, talk.claims.sub)
    if code or not server or not talk.plan then
        return code
    elseif talk.row then
        return talk.row.name ~= server and "previous_response_not_found" or nil
    end
    return not candidates.pin(talk.plan, server) and "previous_response_not_found" or nil
end

--- A client's priority is never sent; none is put in where an event has none, as few have a place
--- for it.
local function note_priority(found, allowed, pointer, changes)
    if found.priority then
        insert(changes, { server_side.change_of_priority(found, pointer, allowed.priority) })
    end
end

local function judge_asked(talk, found, pointer, changes)
    local allowed = talk.limits.server_side
    if not allowed then
        return nil
    end
    note_priority(found, allowed, pointer, changes)
    return server_side.refusal(found, allowed) or judge_owner(talk, found)
end

local function with_changes(text, changes)
    if not changes[1] then
        return text
    end
    sort(changes, function(one, other) return one[1] < other[1] end)
    local pieces, at = {}, 1
    for _, change in ipairs(changes) do
        insert(pieces, sub(text, at, change[1]))
        insert(pieces, change[3])
        at = change[2] + 1
    end
    insert(pieces, sub(text, at))
    return concat(pieces)
end

--- Judge a message of the client.
---@param talk table of `current`
---@param text string
---@return string|nil text what is sent in its place
---@return string|nil code of the refusal
function _M.judge(talk, text)
    local pointer = ffi.cast(bytes_at, text)
    local found, fault = json_body.scan(pointer, #text, body.pause, server_side.EVENTS)
    if not found then
        return nil, fault
    end
    local changes = {}
    local code = judge_models(talk, found, changes) or judge_asked(talk, found, pointer, changes)
    if code then
        return nil, code
    end
    talk.heard = 0
    return with_changes(text, changes)
end

--- Say which server the connection goes to.
---@param talk table
---@param row table
function _M.settle_on(talk, row)
    talk.row, talk.is_undecided = row, false
end

---------
-- What the LLM server says.

--- A tap of its frames that notes whose the responses are that it tells of; nil where none is kept.
---@param talk table
---@return fun(head: table, piece: string, is_end: boolean)|nil
function _M.tap(talk)
    if not talk.keeps then
        return nil
    end
    local reader
    return function(head, piece, is_end)
        if head.opcode == TEXT and head.bytes then
            reader = reader or talk.heard < MOST_HEARD
                and own_responses.new_reader(talk.claims.sub, "application/json") or nil
        end
        if not reader or head.opcode > TEXT then
            return
        end
        local is_last = is_end and head.is_final
        own_responses.feed(reader, piece, is_last, talk.row and talk.row.name or "")
        if is_last then
            reader, talk.heard = nil, talk.heard + 1
        end
    end
end

return _M
