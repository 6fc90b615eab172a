---------
-- Liveness and readiness for probes: open to all, and silent about everything but yes or no.

local errors = require("portero.errors")
local shared_versions = require("portero.shared_versions")

local _M = {}

--- The gateway runs, whatever it can do.
function _M.healthz()
    ngx.say('{"status":"ok"}')
end

--- Ready means: the keys are there, and the first snapshot is whole.
function _M.readyz()
    if not shared_versions.is_ready() then
        return errors.refuse("not_ready")
    end
    ngx.say('{"status":"ready"}')
end

return _M
