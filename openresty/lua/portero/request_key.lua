---------
-- What the notes of a request are kept by from one phase to the next: its address, as a number.
-- That costs no variable of nginx's and no text, and stays the same wherever `ngx.exec` leads.
-- The next request may have the same address. So whoever keeps notes by it must put them away in
-- the log phase, which always runs, in each location that such a request may end in; or begin anew
-- before anything is read.

local get_request = require("resty.core.base").get_request
local ffi = require("ffi")

local cast = ffi.cast
local address = ffi.typeof("uintptr_t")

local _M = {}

--- The key of this request, among those that are under way in this worker.
---@return number
function _M.of_this()
    -- No tail call: LuaJIT would give up the trace of a function that ends in one of its own.
    local key = tonumber(cast(address, get_request()))
    return key
end

return _M
