---------
-- What is known of each LLM server of a policy that names servers: whether it may be asked, which
-- models it has, and why not. Requests report how it did, `health.lua` what it lists.
-- It owns the dictionary `portero_servers`, in which all workers share this, and whose count
-- `version` rises with each change that a choice could see; a server that answers well writes
-- nothing. What is kept is kept under all that makes a server the same one, so that one that has
-- moved begins anew. It must never keep a credential, nor choose a server.

local cjson = require("cjson.safe")
local metrics = require("portero.metrics")
local model_name = require("portero.policy.model_name")

local dict = ngx.shared.portero_servers

--- So many failures in a row, and a server is out.
local EJECTED_AFTER = 3
local MAX_EJECTED_SECONDS = 30
--- A key may be mended without anyone telling us: after so long it is tried again.
local REFUSED_SECONDS = 30
local MAX_ERROR_CHARACTERS = 200
local VERSION = "version"
local NO_ROOM = "there is no room for it in the dictionary portero_servers"

--- By row of the policy: what it is called in the dictionary, and what it lists. Rows that are gone
--- take theirs with them.
local ids, lists = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "k" })

local current, of_policy
local of_version, ends = -1, 0

local _M = {}

---------
-- The dictionary.

local function key(row, what)
    local id = ids[row]
    if not id then
        id = ("%s %s %s://%s:%s%s\n"):format(row.name, row.kind, row.scheme, row.host, row.port,
            row.path or "")
        ids[row] = id
    end
    return id .. what
end

local function get(row, what)
    return dict:get(key(row, what))
end

local function put(row, what, value, seconds)
    local ok, err = dict:safe_set(key(row, what), value, seconds)
    if not ok then
        ngx.log(ngx.ERR, "portero_servers: ", row.name, ": ", what, " not written: ", err)
    end
    return ok
end

local function forget(row, what)
    dict:delete(key(row, what))
end

local function changed()
    assert(dict:incr(VERSION, 1, 0))
end

--- Forget servers that no policy names any more; by one worker, now and then.
---@param policy table
function _M.tidy(policy)
    local known = {}
    for _, row in ipairs(policy.servers) do
        known[key(row, "")] = true
    end
    for _, name in ipairs(dict:get_keys(0)) do
        local id = name:match("^(.*\n)[^\n]*$")
        if id and not known[id] then
            dict:delete(name)
        end
    end
end

---------
-- The view of a worker.

--- The names in `models:` that are no patterns: what a server has that has not told, or cannot.
local function named(row)
    local entries = {}
    for _, pattern in ipairs(row.models or {}) do
        if pattern:sub(-1) ~= "*" then
            entries[#entries + 1] = { id = pattern }
        end
    end
    return entries
end

local function id_of(entry)
    return entry.id or entry.name
end

--- What `models:` leaves of a list.
local function filtered(row, entries)
    local patterns = row.models and model_name.compile(row.models, row.model_names == "ollama")
    local kept = {}
    for _, entry in ipairs(entries) do
        kept[#kept + 1] = model_name.allows(patterns, id_of(entry)) and entry or nil
    end
    return kept
end

local function read_list(row, version)
    local told = cjson.decode(get(row, "list") or "")
    local is_told = told ~= nil and told.entries ~= nil
    local list = { version = version, models = {}, by_id = {} }
    list.is_known = is_told or row.models ~= nil
    list.entries = is_told and filtered(row, told.entries) or named(row)
    list.running = is_told and filtered(row, told.running or {}) or {}
    for _, entry in ipairs(list.entries) do
        local canonical = model_name.canonical(id_of(entry), row.model_names == "ollama")
        list.models[canonical] = list.models[canonical] or id_of(entry)
        list.by_id[id_of(entry)] = entry
    end
    return list
end

--- The list of a server, read again only where it is another.
local function list_of(row)
    local version = get(row, "list_version") or 0
    local list = lists[row]
    if not list or list.version ~= version then
        list = read_list(row, version)
        lists[row] = list
    end
    return list
end

--- The next moment at which something ends by time alone.
local function note_end(moment, now)
    if moment > now and moment < ends then
        ends = moment
    end
end

local function entry_of(row, now)
    local list, ask = list_of(row), cjson.decode(get(row, "ask") or "")
    local failures, until_ejected = get(row, "failures") or 0, get(row, "ejected") or 0
    local until_refused = get(row, "refused") or 0
    note_end(until_ejected, now)
    note_end(until_refused, now)
    local is_silent = ask ~= nil and not ask.ok and not ask.is_refused
    local is_ejected = until_ejected > now or (is_silent and failures >= EJECTED_AFTER)
    local is_misconfigured = until_refused > now or (ask ~= nil and ask.is_refused == true)
    local is_out = row.taken_out == true
    return {
        row = row,
        is_listed = ask ~= nil,
        is_known = list.is_known,
        is_silent = is_silent,
        is_ejected = is_ejected,
        is_misconfigured = is_misconfigured,
        is_out = is_out,
        is_up = not (is_ejected or is_out),
        is_first = not (is_out or is_ejected or is_misconfigured or is_silent
            or get(row, "behind")),
        is_clean = failures == 0 and not get(row, "refused") and not get(row, "level"),
        models = list.models, by_id = list.by_id, entries = list.entries, running = list.running,
    }
end

--- What is known now.
---@param policy table one with servers
---@return table by name: { is_listed: it was asked at least once; is_known: which models it has is
---     known, from itself or from `models:`; is_out: an admin has taken it out; is_up: neither that
---     nor ejected; is_first: nothing speaks against it; is_ejected; is_misconfigured: it refuses
---     the key that it is sent; is_silent: its list was not to be had; models: canonical name ->
---     the ID that it lists; entries and running: of its lists, each with `id` or `name`; by_id:
---     the entries by those; row: of the policy }
function _M.view(policy)
    local version, now = dict:get(VERSION) or 0, ngx.now()
    if version == of_version and policy == of_policy and now < ends then
        return current
    end
    ends = math.huge
    local view = {}
    for _, row in ipairs(policy.servers) do
        view[row.name] = entry_of(row, now)
    end
    current, of_policy, of_version = view, policy, version
    return view
end

---------
-- What requests report.

local function tell(row, text)
    text = text:gsub("%c", " "):sub(1, MAX_ERROR_CHARACTERS)
    if get(row, "error") ~= text then
        put(row, "error", text)
    end
end

--- Out, for twice as long as the last time. One worker does it, and the others see it done.
local function eject(row)
    local level = get(row, "level") or 0
    local seconds = math.min(2 ^ level, MAX_EJECTED_SECONDS)
    if dict:safe_add(key(row, "ejected"), ngx.now() + seconds, seconds) then
        put(row, "level", level + 1)
        assert(dict:incr(key(row, "ejections"), 1, 0))
        changed()
    end
end

local function count_failure(row)
    local failures = dict:incr(key(row, "failures"), 1, 0)
    if not get(row, "behind") then
        put(row, "behind", true)
        changed()
    end
    if failures and failures >= EJECTED_AFTER then
        eject(row)
    end
end

local function failing(outcome, text)
    return function(policy, name)
        local row = _M.view(policy)[name].row
        metrics.count_server(name, outcome)
        tell(row, text)
        count_failure(row)
    end
end

--- It could not be reached, and nothing of the request had begun there.
_M.failed = failing("failed", "it could not be reached")
--- It answered 503 before its first byte.
_M.answered_503 = failing("unavailable", "it answered 503: it is starting, or has more to do than"
    .. " it takes")

--- It wants another key than it was sent (401, 403, 407).
---@param policy table
---@param name string
function _M.refused_credential(policy, name)
    local row = _M.view(policy)[name].row
    metrics.count_server(name, "refused")
    tell(row, "it refused the key that it was sent; see its credential_file")
    if put(row, "refused", ngx.now() + REFUSED_SECONDS, REFUSED_SECONDS) then
        changed()
    end
end

local OF_FAILURES = { "failures", "behind", "ejected", "level" }

local function forgive(row)
    for _, what in ipairs(OF_FAILURES) do
        forget(row, what)
    end
end

--- It answered in any other way.
---@param policy table
---@param name string
function _M.answered(policy, name)
    local entry = _M.view(policy)[name]
    metrics.count_server(name, "answered")
    if not entry.is_clean then
        forgive(entry.row)
        forget(entry.row, "refused")
        changed()
    end
end

---------
-- What its list says (`health.lua`).

local function note_ask(row, ask)
    local text = cjson.encode(ask)
    if get(row, "ask") ~= text then
        put(row, "ask", text)
        changed()
    end
end

local function keep_list(row, list)
    local text = cjson.encode(list)
    if get(row, "list") == text then
        return true
    end
    if not put(row, "list", text) then
        return false
    end
    assert(dict:incr(key(row, "list_version"), 1, 0))
    changed()
    return true
end

--- It told its list. Where it had not before, all that was held against it is over; else only that
--- it stands behind the others: a server may list its models well and answer nothing else.
---@param row table of the policy's servers
---@param list table { entries, running }, each with an `id` or a `name`; empty where it has no list
function _M.listed(row, list)
    if not keep_list(row, list) then
        return _M.silent(row, NO_ROOM)
    end
    local before = cjson.decode(get(row, "ask") or "")
    if before and not before.ok then
        forgive(row)
        changed()
    elseif get(row, "behind") then
        forget(row, "behind")
        changed()
    end
    note_ask(row, { ok = true })
end

--- Its list was not to be had. What it listed before it still has.
---@param row table
---@param why string
function _M.silent(row, why)
    tell(row, "its list of models: " .. why)
    note_ask(row, { ok = false })
    count_failure(row)
end

--- Its list was refused for the key that it was sent.
---@param row table
function _M.list_refused(row)
    tell(row, "its list of models: it refused the key that it was sent; see its credential_file")
    note_ask(row, { ok = false, is_refused = true })
end

---------
-- What is told of it.

local function word_of(entry)
    if not entry.is_listed then
        return "unknown"
    elseif entry.is_misconfigured then
        return "misconfigured"
    elseif entry.is_silent then
        return "down"
    end
    return entry.is_ejected and "ejected" or "up"
end

--- Note what has changed since this was asked last; by one worker.
---@param policy table
---@return table[] changes { server, state, was, error, models } of those that did
function _M.changes(policy)
    local view, found = _M.view(policy), {}
    for _, row in ipairs(policy.servers) do
        local entry = view[row.name]
        local word, was = word_of(entry), get(row, "state") or "unknown"
        local models = #entry.entries
        if word ~= was or models ~= (get(row, "count") or 0) then
            put(row, "count", models)
            found[#found + 1] = {
                server = row.name, state = word, was = was, models = models,
                error = word ~= "up" and get(row, "error") or nil,
            }
        end
        if word ~= was then
            put(row, "state", word)
            put(row, "since", ngx.now())
        end
    end
    return found
end

--- Every server, for metrics, `explain` and the console.
---@param policy table
---@return table[] { name, state = "unknown", "up", "ejected", "down" or "misconfigured", since =
---     Unix seconds or nil, models = their IDs, ejections, last_error = text or nil, taken_out =
---     true where an admin has taken it out, however it is }
function _M.status(policy)
    local view, found = _M.view(policy), {}
    for index, row in ipairs(policy.servers) do
        local entry, models = view[row.name], {}
        for place, listed in ipairs(entry.entries) do
            models[place] = id_of(listed)
        end
        found[index] = {
            name = row.name, state = word_of(entry), since = get(row, "since"), models = models,
            ejections = get(row, "ejections") or 0, last_error = get(row, "error"),
            taken_out = entry.is_out or nil,
        }
    end
    return found
end

---------
-- Who asks.

--- Be the one worker that asks, or stay so, for a few seconds: whoever is killed is replaced.
---@param seconds number
---@return boolean
function _M.lease(seconds)
    local pid = ngx.worker.pid()
    if dict:get("asker") == pid then
        return dict:safe_set("asker", pid, seconds) == true
    end
    return dict:safe_add("asker", pid, seconds) == true
end

--- Let another ask, at once.
function _M.leave()
    if dict:get("asker") == ngx.worker.pid() then
        dict:delete("asker")
    end
end

return _M
