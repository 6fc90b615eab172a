---------
-- Whether each LLM server lives, and which models it has: one worker of all asks for its list again
-- and again, each server on its own, so that one that is slow holds up no other. Whoever asks has a
-- lease; when it dies, another takes over.
-- It must never believe what it reads: a list is bounded, and what is none counts as no answer. And
-- it asks for nothing else: no model is loaded, no token is made.

local cjson = require("cjson.safe")
local dialects = require("portero.dialect.dialects")
local in_force = require("portero.policy.in_force")
local inner_door = require("portero.server.inner_door")
local server_state = require("portero.server.server_state")
local shared_versions = require("portero.shared_versions")

local TICK_SECONDS = 0.25
--- How often a server is asked, and how soon again after it failed the first times.
local ROUND_SECONDS, AGAIN_SECONDS, AGAIN_TIMES = 2, 0.5, 3
local DEADLINE_SECONDS = 2
local LEASE_SECONDS = 3
local MAX_BODY_BYTES = 2 * 1024 * 1024
local MAX_MODELS = 5000
local MAX_ID_BYTES = 1024
--- What the server is told of who asks.
local OWN_ADDRESS = { ["X-Real-Ip"] = "127.0.0.1" }

--- Statuses of a server that has no such list, and of one that wants another key.
local HAS_NO_LIST = { [404] = true, [405] = true, [501] = true }
local REFUSES_KEY = { [401] = true, [403] = true, [407] = true }
--- What the statuses mean that nginx notes where none came, and what an answer lacked.
local REASONS = {
    [502] = "it could not be reached, its certificate is not trusted, or it does not speak HTTP",
    [504] = "it did not answer within 2 s",
    timeout = "it did not come, or not whole, within 2 s",
    ["too long"] = "it is longer than 2 MiB",
    ["cut off"] = "it was cut off",
    ["no http"] = "that is no HTTP",
}
local NOT_JSON = "it is not the JSON of such a list"
local TOO_MANY = "it has more than 5000 models"

--- Well-formed sequences of UTF-8 (RFC 3629 section 4), of several bytes.
local SEQUENCES = {
    "[\194-\223][\128-\191]", "\224[\160-\191][\128-\191]",
    "[\225-\236\238\239][\128-\191][\128-\191]",
    "\237[\128-\159][\128-\191]", "\240[\144-\191][\128-\191][\128-\191]",
    "[\241-\243][\128-\191][\128-\191][\128-\191]", "\244[\128-\143][\128-\191][\128-\191]",
}

--- By row of the policy: when it is asked next, and how often in a row it was to no avail.
local due, failed = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "k" })
local tidied

local _M = {}

---------
-- What a list says.

local function is_utf8(text)
    if not text:find("[\128-\255]") then
        return true
    end
    for _, sequence in ipairs(SEQUENCES) do
        text = text:gsub(sequence, " ")
    end
    return not text:find("[\128-\255]")
end

local function is_id(name)
    return type(name) == "string" and #name <= MAX_ID_BYTES and name:find("^[^%c]+$") ~= nil
end

--- The entries that are some, each model once, as they are passed on.
local function entries_of(told, form)
    local entries, seen = {}, {}
    for _, entry in ipairs(told) do
        local id = type(entry) == "table" and entry[form.names[1]]
        if is_id(id) and not seen[id] then
            seen[id] = true
            entries[#entries + 1] = form.entry(entry)
        end
    end
    return entries
end

--- The entries of a body, or why it is no list.
local function read(body, form)
    local answer = is_utf8(body) and cjson.decode(body)
    local told = type(answer) == "table" and answer[form.field]
    if told == cjson.null then
        told = {}
    end
    if type(told) ~= "table" or (next(told) ~= nil and #told == 0) then
        return nil, NOT_JSON
    elseif #told > MAX_MODELS then
        return nil, TOO_MANY
    end
    return entries_of(told, form)
end

---------
-- Asking.

--- A list of a server: its entries; false where it has none; or nil, why, and whether that is for
--- the key.
local function list_of(row, path, form)
    local status, body = inner_door.ask("/servers/" .. row.name .. path, OWN_ADDRESS,
        DEADLINE_SECONDS, MAX_BODY_BYTES)
    if status == ngx.HTTP_OK then
        return read(body, form)
    elseif HAS_NO_LIST[status] then
        return false
    end
    local why = REASONS[status or body] or (status and "it answered " .. status or body)
    return nil, why, REFUSES_KEY[status]
end

--- The list in the server's own dialect, or in that which all have.
local function models_of(row, own)
    local entries, why, is_refused = list_of(row, own.path, own)
    local common = dialects.of("/").model_list
    if entries == false and own ~= common then
        return list_of(row, common.path, common)
    end
    return entries, why, is_refused
end

--- The models that run now, where a server tells them; one that does not has none.
local function running_of(row, own)
    return own.running ~= "" and list_of(row, own.running, own) or nil
end

local function note_failure(row, why, is_refused)
    failed[row] = (failed[row] or 0) + 1
    if is_refused then
        return server_state.list_refused(row)
    end
    return server_state.silent(row, why)
end

local function ask(row)
    local own = dialects.named(row.dialect).model_list
    local running = ngx.thread.spawn(running_of, row, own)
    local entries, why, is_refused = models_of(row, own)
    local _, found = ngx.thread.wait(running)
    if entries == nil then
        return note_failure(row, why, is_refused)
    end
    failed[row] = nil
    local list = entries and { entries = entries, running = found } or {}
    return server_state.listed(row, list)
end

--- Ask one server, and say when it is asked again.
local function ask_in_turn(row)
    due[row] = math.huge
    local ok, err = pcall(ask, row)
    if not ok then
        ngx.log(ngx.ERR, "health: ", row.name, ": ", err)
    end
    local times = failed[row] or 0
    local is_soon = times > 0 and times < AGAIN_TIMES
    due[row] = ngx.now() + (is_soon and AGAIN_SECONDS or ROUND_SECONDS)
end

---------
-- The one worker that asks.

--- What has changed, for the operator: a line of JSON each.
local function tell(policy)
    for _, change in ipairs(server_state.changes(policy)) do
        change.event = "llm_server"
        ngx.log(ngx.WARN, cjson.encode(change))
    end
end

local function tidy(policy)
    if policy ~= tidied then
        tidied = policy
        server_state.tidy(policy)
    end
end

local function tick(is_ending)
    if is_ending then
        return server_state.leave()
    end
    shared_versions.look()
    local policy = in_force.current()
    if not policy or not policy.servers or not server_state.lease(LEASE_SECONDS) then
        return
    end
    tidy(policy)
    tell(policy)
    for _, row in ipairs(policy.servers) do
        if (due[row] or 0) <= ngx.now() then
            ngx.thread.spawn(ask_in_turn, row)
        end
    end
end

--- Keep asking, in whichever worker has the lease.
function _M.start()
    assert(ngx.timer.every(TICK_SECONDS, tick))
end

return _M
