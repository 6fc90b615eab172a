---------
-- The servers behind the gateway, by upstream name ("llm", "issuer"), and which one is next.
-- A name is looked up again every few seconds, so a container that comes back with another address
-- is found without a reload. Addresses that were good stay until better ones are known.

local balancer = require("ngx.balancer")
local errors = require("portero.errors")
local resolver = require("portero.resolver")

local BAD_GATEWAY = 502
--- A look-up is begun at one tick and taken at the next: a new address is known after two.
local TICK_SECONDS = 2

local pools = {}

local _M = {}

local function is_address(host)
    return host:find("^[%d.]+$") ~= nil or host:find(":", 1, true) ~= nil
end

local function rebuild(pool)
    local peers = {}
    for _, server in ipairs(pool.servers) do
        for _, address in ipairs(server.addresses) do
            peers[#peers + 1] = { address = address, port = server.port }
        end
    end
    pool.peers = peers
end

--- Name the servers of an upstream; once, before the workers start.
---@param name string
---@param urls table[] { host, port }
function _M.set(name, urls)
    local pool = { servers = {}, next = 0 }
    for index, url in ipairs(urls) do
        pool.servers[index] = {
            host = url.host,
            port = url.port,
            is_fixed = is_address(url.host),
            addresses = is_address(url.host) and { url.host } or resolver.now(url.host),
        }
    end
    rebuild(pool)
    pools[name] = pool
end

local function refresh(server)
    if server.is_fixed then
        return false
    end
    if not server.lookup then
        server.lookup = resolver.begin(server.host)
        return false
    end
    local done, addresses = resolver.finish(server.lookup)
    if not done then
        return false
    end
    server.lookup = nil
    server.addresses = addresses or server.addresses
    return addresses ~= nil
end

local function tick()
    for _, pool in pairs(pools) do
        local changed = false
        for _, server in ipairs(pool.servers) do
            changed = refresh(server) or changed
        end
        if changed then
            rebuild(pool)
        end
    end
end

--- Keep looking names up, in each worker.
function _M.start()
    assert(ngx.timer.every(TICK_SECONDS, tick))
end

--- Choose the next server of an upstream, in turn; the next one after a failure.
---@param name string
function _M.pick(name)
    local pool = pools[name]
    local count = #pool.peers
    if count == 0 then
        return errors.exit(BAD_GATEWAY)
    end
    if count > 1 then
        if not balancer.get_last_failure() then
            balancer.set_more_tries(count - 1)
        end
        pool.next = pool.next % count + 1
    else
        pool.next = 1
    end
    local peer = pool.peers[pool.next]
    local ok, err = balancer.set_current_peer(peer.address, peer.port)
    if not ok then
        ngx.log(ngx.ERR, "upstreams.pick: ", err)
        return errors.exit(BAD_GATEWAY)
    end
end

return _M
