---------
-- Readiness for probes: open to all, and silent about everything but yes or no.

local active_tokens = require("portero.active_tokens")
local errors = require("portero.errors")

local _M = {}

--- Ready means: the first snapshot is whole.
function _M.readyz()
    if not active_tokens.is_ready() then
        return errors.refuse("not_ready")
    end
    ngx.say('{"status":"ready"}')
end

return _M
