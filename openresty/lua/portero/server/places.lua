---------
-- Where the LLM servers are that the policy names, and how a request is sent to one of them: its
-- addresses, which are looked up again and again, its Host, its key, its certificates, and the pool
-- of kept connections that is its own.
-- A key is opened in a worker's memory and goes into one header. It must never be logged. A pool
-- must never be another place's later: nginx knows a kept connection by its address alone, and
-- would use one for the name and the key of another. So a worker gives a pool once; what comes when
-- all are given has no kept connections.

local authorities = require("portero.server.authorities")
local balancer = require("ngx.balancer")
local crypto = require("portero.token.crypto")
local errors = require("portero.errors")
local in_force = require("portero.policy.in_force")
local resolver = require("portero.server.resolver")
local shared_versions = require("portero.shared_versions")

local ngx, var = ngx, ngx.var

local SEAL_LABEL = "portero-credential-1"
local BAD_GATEWAY = 502
--- As many as settings_conf.lua makes, and one without kept connections, number 0.
local POOLS = 64
local TICK_SECONDS = 2
--- The first look at a name: how often, how long.
local FIRST_LOOK_SECONDS, FIRST_WAIT_SECONDS = 0.01, 2

local sealing_key
--- What is the same place to a connection -> { host, port, pool, addresses, watch, next }.
local places = {}
local given = 0
--- Row of the policy -> { place, base, authorization, suffix, err }.
local ways = setmetatable({}, { __mode = "k" })

local _M = {}

local function is_address(host)
    return host:find("^[%d.]+$") ~= nil or host:find(":", 1, true) ~= nil
end

local function identity_of(row)
    return ("%s://%s:%d %s"):format(row.scheme, row.host, row.port,
        row.ca and ngx.md5(row.ca) or "")
end

local function new_place(row)
    given = given + 1
    local watch = is_address(row.host) and { addresses = { row.host } }
        or { host = row.host, addresses = {} }
    return { watch = watch, port = row.port, pool = given <= POOLS and given or 0, next = 0 }
end

local function place_of(row)
    local identity = identity_of(row)
    local place = places[identity] or new_place(row)
    places[identity] = place
    place.identity = identity
    return place
end

local function open(sealed)
    return crypto.unseal(sealing_key, SEAL_LABEL, ngx.decode_base64(sealed) or "")
end

local function new_way(row)
    local place = place_of(row)
    local way = {
        place = place,
        base = ("%s://server_%d%s"):format(row.scheme, place.pool, row.path or ""),
        authorization = row.credential and "Bearer " .. open(row.credential) or "",
        suffix = "",
    }
    if row.ca then
        local folder, err = authorities.folder(row.ca)
        way.suffix, way.err = folder and "_ca_" .. folder, err
    end
    return way
end

local function way_to(row)
    local way = ways[row]
    if not way or way.err then
        way = new_way(row)
        ways[row] = way
    end
    return way
end

--- Whether servers can be asked as a policy says: their keys can be opened.
---@param rows table[]|nil its servers, as they were pushed
---@return boolean
function _M.are_good(rows)
    for _, row in ipairs(rows or {}) do
        if row.credential ~= nil
            and not (type(row.credential) == "string" and open(row.credential)) then
            return false
        end
    end
    return true
end

--- Wait for the first addresses of a name; they come in a moment, if it has any.
local function wait_for(watch)
    local until_seconds = ngx.now() + FIRST_WAIT_SECONDS
    resolver.look(watch)
    while not watch.addresses[1] and ngx.now() < until_seconds do
        ngx.sleep(FIRST_LOOK_SECONDS)
        resolver.look(watch)
    end
    return watch.addresses[1] ~= nil
end

--- Lead this request to a server; before it is sent anywhere (`rewrite`, `access`). It may wait.
---@param row table of the policy's servers
---@return string|nil suffix of the location's name: which certificates are trusted there
---@return string|nil err why it cannot be reached
function _M.aim(row)
    local way = way_to(row)
    local place = way.place
    if way.err then
        return nil, "its certificates: " .. way.err
    elseif not place.watch.addresses[1] and not wait_for(place.watch) then
        return nil, "its name has no address"
    end
    var.llm_server = row.name
    var.server_place = place.identity
    var.server_base = way.base
    var.server_authority = row.authority
    var.server_authorization = way.authorization
    var.server_tls_name = row.host
    return way.suffix
end

local function bracketed(address)
    return address:find(":", 1, true) and "[" .. address .. "]" or address
end

--- The next address in turn for a new request, and the one behind the last for a retry.
local function turn(place)
    local addresses = place.watch.addresses
    local count = #addresses
    local tried = ngx.ctx.tried_address
    if not tried then
        place.next = place.next % count + 1
    end
    if not tried and count > 1 then
        balancer.set_more_tries(count - 1)
    end
    local index = tried and tried % count + 1 or place.next
    ngx.ctx.tried_address = index
    return bracketed(addresses[index] or addresses[1])
end

--- Name the address to which the request goes (`balancer`).
function _M.pick()
    local place = places[var.server_place]
    local ok, err = balancer.set_current_peer(turn(place), place.port)
    if not ok then
        ngx.log(ngx.ERR, "places.pick: ", err)
        return errors.exit(BAD_GATEWAY)
    end
end

--- Look the names up of all servers that the policy names now; those it names no more rest.
local function tick()
    shared_versions.look()
    local policy = in_force.current()
    local rows = policy and policy.servers or {}
    for _, row in ipairs(rows) do
        local watch = way_to(row).place.watch
        if watch.host then
            resolver.look(watch)
        end
    end
end

--- Begin, in each worker.
---@param settings table
function _M.start(settings)
    sealing_key = assert(crypto.hmac("HS256", settings.sync_key, SEAL_LABEL))
    assert(ngx.timer.every(TICK_SECONDS, tick))
end

return _M
