---------
-- The start: read the settings once in the master, then begin each module in each worker.
-- A fault of the settings stops the start, all of them listed.

-- All modules are loaded here, by the master: its workers may be nobody, who cannot read them.
local access = require("portero.access")
local active_tokens = require("portero.token.active_tokens")
local api_keys = require("portero.token.api_keys")
local config = require("portero.config")
local crypto = require("portero.token.crypto")
require("portero.answer.model_list")
require("portero.request.open_paths")
local health = require("portero.server.health")
local histograms = require("portero.histograms")
local in_flight = require("portero.server.in_flight")
local inner_door = require("portero.server.inner_door")
local guesses = require("portero.quota.guesses")
local keys = require("portero.token.keys")
local limits = require("portero.quota.limits")
local handshake = require("portero.tls.handshake")
local listener = require("portero.server.listener")
require("portero.quota.login_attempts")
local metrics = require("portero.metrics")
local origins = require("portero.request.origins")
local request_counts = require("portero.request_counts")
require("portero.answer.stream")
local places = require("portero.server.places")
require("portero.answer.web_socket")
local receiver = require("portero.sync.receiver")
local redirect = require("portero.tls.redirect")
local settings_conf = require("portero.settings_conf")
local upstreams = require("portero.server.upstreams")
local usage_counts = require("portero.quota.usage_counts")

-- The request path is one long trace. With LuaJIT's own limits it is too long to be compiled, and
-- is interpreted for ever: a third of what the gateway costs (see `make bench`).
require("jit.opt").start("maxrecord=40000", "maxirconst=4000", "maxsnap=2000")

-- A first-seen token leaves some texts behind, and the collector walks all that lives to find them:
-- it comes when there is eight times as much as lived after the last time, not twice.
local COLLECT_AT_PERCENT = 800
local TICK_SECONDS = 1
local BOOT_BYTES = 8

local settings

local _M = {}

local function env(name)
    local value = os.getenv(name)
    return value ~= "" and value or nil
end

local function listed(what, faults)
    return what .. ":\n  " .. table.concat(faults, "\n  ") .. "\n"
end

--- Read the settings, and end the process: with 0 when what nginx must be told of them is written,
--- else every fault is said.
function _M.check()
    local found, faults = config.read(env)
    if found then
        local text = settings_conf.text(found, ngx.config.prefix(), ngx.config.nginx_version)
        assert(io.stdout:write(text) and io.stdout:flush())
    else
        io.stderr:write(listed("the gateway could not start", faults))
    end
    os.exit(found and 0 or 1)
end

--- Read a listener's certificate and its key, and end the process: with 0 when both are written
--- out, for the workers to read; nothing where there is none; else every fault is said.
---@param name string the setting that names the certificate's file
function _M.certificate(name)
    local faults = {}
    local found = config.own_certificate(env, faults, name)
    local is_good = #faults == 0
    if is_good and found then
        assert(io.stdout:write(found.chain, "\n", found.key) and io.stdout:flush())
    elseif not is_good then
        io.stderr:write(listed("the certificate stays as it was", faults))
    end
    os.exit(is_good and 0 or 1)
end

--- In the master, before the workers (`init_by_lua`).
function _M.master()
    local faults
    settings, faults = config.read(env)
    if not settings then
        error(listed("the gateway cannot start", faults), 0)
    end
    upstreams.set("llm", settings.llm)
    upstreams.set("issuer", settings.issuer)
    listener.set(settings)
    guesses.start()
    active_tokens.start(crypto.hexadecimal(assert(crypto.random(BOOT_BYTES))))
end

local function tick()
    metrics.flush()
    request_counts.flush()
    histograms.flush()
    usage_counts.flush()
    limits.renew()
    in_flight.renew()
    api_keys.flush_uses(ngx.time())
    if ngx.worker.id() == 0 then
        active_tokens.tidy()
        api_keys.tidy(ngx.time())
    end
end

--- In each worker (`init_worker_by_lua`).
function _M.worker()
    collectgarbage("setpause", COLLECT_AT_PERCENT)
    keys.start(settings)
    access.start(settings)
    origins.start(settings)
    receiver.start(settings)
    inner_door.start(settings)
    handshake.start(settings)
    redirect.start(settings)
    limits.start()
    usage_counts.start(settings)
    in_flight.start()
    places.start(settings)
    upstreams.start()
    health.start()
    listener.start()
    assert(ngx.timer.every(TICK_SECONDS, tick))
end

return _M
