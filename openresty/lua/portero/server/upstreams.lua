---------
-- The servers behind the gateway, by upstream name ("llm", "issuer"), and which one is next.
-- A name is looked up again every few seconds, so a container that comes back with another address
-- is found without a reload.

local balancer = require("ngx.balancer")
local errors = require("portero.errors")
local resolver = require("portero.server.resolver")

local BAD_GATEWAY = 502
local TICK_SECONDS = 2
local CONNECT_MILLISECONDS = 2000

local pools = {}

local _M = {}

local function is_address(host)
    return host:find("^[%d.]+$") ~= nil or host:find(":", 1, true) ~= nil
end

local function rebuild(pool)
    local peers = {}
    for _, server in ipairs(pool.servers) do
        -- In an order of their own: name servers answer in another one each time, and a retry goes
        -- to the peer behind the one that failed.
        table.sort(server.addresses)
        for _, address in ipairs(server.addresses) do
            local bracketed = address:find(":", 1, true) and "[" .. address .. "]"
            peers[#peers + 1] = { address = bracketed or address, port = server.port }
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
        local server = is_address(url.host) and { addresses = { url.host } }
            or resolver.watch(url.host)
        server.port = url.port
        pool.servers[index] = server
    end
    rebuild(pool)
    pools[name] = pool
end

local function tick()
    for _, pool in pairs(pools) do
        local changed = false
        for _, server in ipairs(pool.servers) do
            changed = server.host and resolver.look(server) or changed
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

--- Whether any address of an upstream is known. The balancer cannot refuse in good form, so the
--- access phase asks this before.
---@param name string
---@return boolean
function _M.is_known(name)
    return pools[name].peers[1] ~= nil
end

local function reached(peer)
    local socket = ngx.socket.tcp()
    socket:settimeout(CONNECT_MILLISECONDS)
    local ok, err = socket:connect(peer.address, peer.port)
    socket:close()
    return { address = peer.address .. ":" .. peer.port, error = not ok and err or nil }
end

--- Open a connection to each server of an upstream, and say what came of it: who asks how all is
--- waits for that, no request does.
---@param name string
---@return table[] { address, error: string|nil } a server without a known address has its name
function _M.reach(name)
    local found = {}
    for _, server in ipairs(pools[name].servers) do
        if not server.addresses[1] then
            found[#found + 1] = { address = server.host, error = "its name is not known" }
        end
    end
    for _, peer in ipairs(pools[name].peers) do
        found[#found + 1] = reached(peer)
    end
    return found
end

--- The next peer in turn for a new request, and the one behind the last for a retry. Which one was
--- tried is the request's own: others take their turns meanwhile.
local function turn(pool)
    local count = #pool.peers
    if count == 1 then
        return pool.peers[1]
    end
    local tried = ngx.ctx.tried_peer
    if not tried then
        balancer.set_more_tries(count - 1)
        pool.next = pool.next % count + 1
    end
    local index = tried and tried % count + 1 or pool.next
    ngx.ctx.tried_peer = index
    return pool.peers[index]
end

--- Choose the next server of an upstream.
---@param name string
function _M.pick(name)
    local pool = pools[name]
    if not pool.peers[1] then
        return errors.exit(BAD_GATEWAY)
    end
    local peer = turn(pool)
    local ok, err = balancer.set_current_peer(peer.address, peer.port)
    if not ok then
        ngx.log(ngx.ERR, "upstreams.pick: ", err)
        return errors.exit(BAD_GATEWAY)
    end
end

return _M
