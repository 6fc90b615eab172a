---------
-- The gateway's own internal address, where it is named rather than given: nginx binds what the
-- name stood for at the start. A container whose network comes back may have another one; then
-- the master is told to bind anew, and streams go on in the old workers.

local ffi = require("ffi")
local resolver = require("portero.server.resolver")

ffi.cdef([[
int kill(int pid, int number);
int getppid(void);
]])

local TICK_SECONDS = 2
local SIGHUP = 1

local own, bound

local _M = {}

--- Begin, in the master: what the name stands for while nginx binds it.
---@param settings table
function _M.set(settings)
    own = settings.internal_host and resolver.watch(settings.internal_host)
    bound = own and own.addresses[1]
end

--- Tell the master to read its configuration again, and so to bind what the name stands for now.
function _M.signal()
    ffi.C.kill(ffi.C.getppid(), SIGHUP)
end

local function has_moved(addresses)
    for _, address in ipairs(addresses) do
        if address == bound then
            return false
        end
    end
    return #addresses > 0
end

local function tick()
    if resolver.look(own) and has_moved(own.addresses) then
        bound = own.addresses[1]
        ngx.log(ngx.WARN, "listener: ", own.host, " is ", bound, " now; binding anew")
        _M.signal()
    end
end

--- Keep looking, in one worker. An address that was given cannot move.
function _M.start()
    if own and ngx.worker.id() == 0 then
        assert(ngx.timer.every(TICK_SECONDS, tick))
    end
end

return _M
