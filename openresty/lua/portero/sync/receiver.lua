---------
-- The internal listener: what the issuer and the reconciler tell this gateway (docs/sync.md).
-- A message is authenticated by HMAC over method, path, time and body, is good for a short time and
-- for one use, and is idempotent. It must never change anything before the MAC holds, and never
-- answer "ok" for what did not fit.

local cjson = require("cjson.safe")
local active_tokens = require("portero.token.active_tokens")
local api_keys = require("portero.token.api_keys")
local budgets = require("portero.quota.budgets")
local crypto = require("portero.token.crypto")
local errors = require("portero.errors")
local handshake = require("portero.tls.handshake")
local histograms = require("portero.histograms")
local in_flight = require("portero.server.in_flight")
local in_force = require("portero.policy.in_force")
local jwt = require("portero.token.jwt")
local keys = require("portero.token.keys")
local limits = require("portero.quota.limits")
local metrics = require("portero.metrics")
local places = require("portero.server.places")
local request_counts = require("portero.request_counts")
local server_state = require("portero.server.server_state")
local shared_versions = require("portero.shared_versions")
local upstreams = require("portero.server.upstreams")
local usage_counts = require("portero.quota.usage_counts")

local LABEL = "portero-sync-1"
local WINDOW_SECONDS = 30
local NANOSECONDS = 1e9
local BAD_REQUEST, UNAUTHORIZED, NOT_FOUND, CONFLICT, FULL = 400, 401, 404, 409, 507
local YIELD_EVERY = 500
local MAX_EPOCH_CHARACTERS = 64
--- Beyond this a number is not written in full.
local MAX_POSITION = 1e14

local seen = ngx.shared.portero_seen

local sync_key

local _M = {}

--- Begin, in each worker.
---@param settings table
function _M.start(settings)
    sync_key = settings.sync_key
end

local function is_timely(sent_at)
    local seconds = sent_at and sent_at:match("^%d+$") and tonumber(sent_at) / NANOSECONDS
    return seconds and math.abs(ngx.now() - seconds) <= WINDOW_SECONDS
end

local function is_authentic(method, path, body)
    local sent_at, mac = ngx.var.http_x_portero_time, ngx.var.http_x_portero_mac
    if not mac or not is_timely(sent_at) then
        return false
    end
    local text = table.concat({ LABEL, method, path, sent_at, body }, "\n")
    local expected = crypto.hmac("HS256", sync_key, text)
    return expected ~= nil and crypto.equal(crypto.hexadecimal(expected), mac)
end

--- A message is used once: its MAC is remembered for as long as its time would be accepted.
local function is_first_use()
    return seen:safe_add(ngx.var.http_x_portero_mac, true, 2 * WINDOW_SECONDS + 1)
end

--- A token's entry is `jti` and `exp`; an API key's is its ID, its end, and where it is activated
--- what else must be known of it.
local function is_entry(entry, is_activated)
    if type(entry) ~= "table" or type(entry[2]) ~= "number" or entry[2] % 1 ~= 0 then
        return false
    elseif api_keys.is_id(entry[1]) then
        return not is_activated or api_keys.is_record(entry[3])
    end
    return jwt.is_jti(entry[1])
end

local function are_entries(list, is_activated)
    if list == nil then
        return true
    end
    if type(list) ~= "table" or (next(list) ~= nil and #list == 0) then
        return false
    end
    for _, entry in ipairs(list) do
        if not is_entry(entry, is_activated) then
            return false
        end
    end
    return true
end

--- What a key may do is known before the key is.
local function activate(id, exp, now, record)
    if record and api_keys.is_id(id) then
        local ok, err = api_keys.put(id, exp, record, now)
        if not ok then
            return ok, err
        end
    end
    return active_tokens.activate(id, exp, now)
end

local function revoke(id, exp, now)
    local ok, err = active_tokens.revoke(id, exp, now)
    if api_keys.is_id(id) then
        api_keys.forget(id)
    end
    return ok, err
end

--- Write every entry; long lists give way to requests now and then.
local function write(change, list)
    local fitted = true
    for index, entry in ipairs(list or {}) do
        local ok, err = change(entry[1], entry[2], ngx.now(), entry[3])
        if not ok then
            ngx.log(ngx.ERR, "sync: ", entry[1], " not written: ", err)
            fitted = false
        end
        if index % YIELD_EVERY == 0 then
            ngx.sleep(0)
        end
    end
    return fitted
end

local function apply_entries(message)
    local revoked = write(revoke, message.revoke)
    local activated = write(activate, message.activate)
    return revoked and activated
end

--- Whether the message says how far it brings this gateway.
local function has_mark(message)
    local position = message.position
    return type(position) == "number" and position % 1 == 0 and position >= 0
        and position < MAX_POSITION and type(message.epoch) == "string"
        and #message.epoch <= MAX_EPOCH_CHARACTERS
end

local function apply(message)
    if message.position ~= nil and not has_mark(message) then
        return BAD_REQUEST
    end
    if not apply_entries(message) then
        return FULL
    end
    if has_mark(message) then
        active_tokens.set_position(message.epoch, message.position)
    end
    if message.current == true then
        active_tokens.heard()
    end
end

local SNAPSHOT_STEPS = {
    begin = function()
        active_tokens.begin_snapshot()
    end,
    part = function(message)
        if not active_tokens.is_newest(message.generation) then
            return CONFLICT
        end
        if not apply_entries(message) then
            return FULL
        end
    end,
    ["end"] = function(message)
        if not active_tokens.is_newest(message.generation)
            or not has_mark(message) then
            return CONFLICT
        end
        active_tokens.set_position(message.epoch, message.position)
        active_tokens.end_snapshot(message.generation)
        active_tokens.heard()
    end,
}

local function snapshot(message)
    local step = SNAPSHOT_STEPS[message.step]
    if not step then
        return BAD_REQUEST
    end
    return step(message)
end

--- Changes nothing: that the issuer lives counts only once it has brought what was missing.
local function status()
end

--- The message whose answer tells when API keys were used, too.
local USES = "GET /sync/uses"

local STATUSES = { older = CONFLICT, ["no memory"] = FULL, busy = CONFLICT }

--- What became of something that was pushed whole.
local function taken(what, accepted, reason)
    if accepted then
        return
    end
    ngx.log(ngx.ERR, "sync: ", what, " not accepted: ", reason)
    return STATUSES[reason] or BAD_REQUEST
end

local function put_keys(message)
    return taken("keys", keys.put(message.history, message.serial, message.sealed))
end

local function put_policy(message)
    local policy = message.policy
    if type(policy) == "table" and not places.are_good(policy.servers) then
        return taken("policy", nil, "key of a server")
    end
    return taken("policy", in_force.put(message.history, message.serial, message.policy))
end

--- What is known of the LLM servers that the policy names; nil where it names none.
local function known_servers()
    shared_versions.look()
    local policy = in_force.current()
    local servers = policy and policy.servers and server_state.status(policy)
    for _, server in ipairs(servers or {}) do
        server.in_flight = in_flight.count(server.name)
    end
    return servers
end

--- Changes nothing; an empty list would be an object in JSON.
local function servers()
    local known = known_servers()
    for _, server in ipairs(known or {}) do
        server.models = #server.models > 0 and server.models or nil
    end
    return nil, { servers = known }
end

--- Changes nothing; where the policy names the servers nobody asks the pool, which is empty then.
local function pool()
    local reached = upstreams.reach("llm")
    return nil, { pool = #reached > 0 and reached or nil }
end

--- What was used since the batch that the store has.
local function used(message)
    local taken = message.taken
    if type(message.boot) ~= "string" or type(taken) ~= "number" or taken % 1 ~= 0 or taken < 0 then
        return BAD_REQUEST
    end
    local is_same_life = message.boot == active_tokens.status().boot
    return nil, { usage = usage_counts.fetch(is_same_life and taken or 0) }
end

local function is_count(value)
    return type(value) == "number" and value % 1 == 0 and value >= 0
end

local function are_spent(rows)
    for _, row in ipairs(rows) do
        if type(row) ~= "table" or type(row[1]) ~= "string" or not is_count(row[2])
            or not is_count(row[3]) then
            return false
        end
    end
    return true
end

--- What is spent of budgets; what another life was told of does not count here.
local function put_spent(message)
    if type(message.boot) ~= "string" or not is_count(message.number)
        or not tostring(message.day):find("^%d%d%d%d%-%d%d%-%d%d$")
        or type(message.rows) ~= "table" or not are_spent(message.rows) then
        return BAD_REQUEST
    elseif message.boot ~= active_tokens.status().boot or not usage_counts.is_on() then
        return CONFLICT
    end
    return not budgets.put(message) and FULL or nil
end

local function are_windows(rows)
    for _, row in ipairs(rows) do
        if type(row) ~= "table" or not limits.is_window(row[1]) or not is_count(row[2])
            or type(row[3]) ~= "number" or row[3] <= 0 or row[3] > limits.WINDOW_SECONDS then
            return false
        end
    end
    return true
end

--- What other gateways have counted of minutes' limits; the answer is what this one has.
local function share_limits(message)
    if type(message.rows) ~= "table" or not are_windows(message.rows) then
        return BAD_REQUEST
    end
    local fitted = true
    for index, row in ipairs(message.rows) do
        fitted = limits.take(row[1], row[2], row[3]) and fitted
        if index % YIELD_EVERY == 0 then
            ngx.sleep(0)
        end
    end
    local windows = limits.counted_here()
    return not fitted and FULL or nil, { windows = windows[1] and windows }
end

local MESSAGES = {
    ["POST /sync/keys"] = put_keys,
    ["POST /sync/policy"] = put_policy,
    ["POST /sync/apply"] = apply,
    ["POST /sync/snapshot"] = snapshot,
    ["GET /sync/status"] = status,
    [USES] = status,
    ["GET /sync/servers"] = servers,
    ["GET /sync/pool"] = pool,
    ["POST /sync/usage"] = used,
    ["POST /sync/spent"] = put_spent,
    ["POST /sync/limits"] = share_limits,
}

local function parse(method, body)
    if method == "GET" then
        return {}
    end
    local message = cjson.decode(body)
    local is_good = type(message) == "table" and #message == 0
        and are_entries(message.activate, true) and are_entries(message.revoke, false)
    return is_good and message or nil
end

--- Judge one message and act on it; the answer tells how far this gateway has come.
function _M.handle()
    local method, path = ngx.req.get_method(), ngx.var.request_uri
    local act = MESSAGES[method .. " " .. path]
    if not act then
        return errors.exit(NOT_FOUND)
    end
    ngx.req.read_body()
    local body = ngx.req.get_body_data() or ""
    if not is_authentic(method, path, body) then
        return errors.exit(UNAUTHORIZED)
    end
    if not is_first_use() then
        return errors.exit(CONFLICT)
    end
    local message = parse(method, body)
    if not message then
        return errors.exit(BAD_REQUEST)
    end
    active_tokens.watch_clock()
    local code, more = act(message)
    ngx.status = code or ngx.HTTP_OK
    ngx.header["Content-Type"] = "application/json"
    local answer = active_tokens.status()
    for name, what in pairs(more or {}) do
        answer[name] = what
    end
    answer.keys, answer.policy = keys.mark(), in_force.mark()
    answer.uses = method .. " " .. path == USES and api_keys.uses() or nil
    ngx.say(cjson.encode(answer))
end

--- Answer `/metrics`.
function _M.metrics()
    ngx.header["Content-Type"] = "text/plain; version=0.0.4"
    local status = active_tokens.status()
    status.certificate_seconds_left = handshake.seconds_left("public")
    status.internal_certificate_seconds_left = handshake.seconds_left("internal")
    status.api_keys_free_bytes, status.api_keys_capacity_bytes = api_keys.memory()
    ngx.print(metrics.exposition(status, active_tokens.staleness(), known_servers()),
        request_counts.exposition(), histograms.exposition())
end

return _M
