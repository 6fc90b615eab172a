---------
-- Which certificate a TLS connection is shown: the one that was last put in force, in every worker,
-- without a reload. `gateway.sh` checks what has changed on disk and puts it into the runtime
-- directory; a worker, who may be nobody, reads it there. The public and the internal listener have
-- each their own.
-- It must never judge a certificate anew, nor tell anybody of the key.

local crypto = require("portero.token.crypto")
local ssl = require("ngx.ssl")

--- Certificates and key of a listener are in one file, so that no two ever come from different
--- renewals. `setting` is by what `config.lua` says that the listener speaks TLS.
local LISTENERS = {
    public = { file = "tls.pem", setting = "tls", called = "the certificate" },
    internal = { file = "internal_tls.pem", setting = "internal_tls",
        called = "the certificate of the internal listener" },
}
local TICK_SECONDS = 2
local SECONDS_A_DAY = 86400
local WARN_DAYS = 14

--- By listener: { text, chain, key, certificate }
local in_force = {}

local _M = {}

local function read(name)
    local file, err = io.open(ngx.config.prefix() .. LISTENERS[name].file, "rb")
    if not file then
        return nil, "handshake.read: " .. err
    end
    local text, fault = file:read("*a")
    file:close()
    return text, fault
end

local function parsed(text)
    local chain, err = ssl.parse_pem_cert(text)
    if not chain then
        return nil, "handshake.parse_pem_cert: " .. err
    end
    local key, fault = ssl.parse_pem_priv_key(text)
    if not key then
        return nil, "handshake.parse_pem_priv_key: " .. fault
    end
    return { text = text, chain = chain, key = key, certificate = crypto.certificate(text) }
end

--- Take what is in the file in place of what was, where it has changed.
local function renew(name)
    local text, err = read(name)
    local before = in_force[name]
    if before and text == before.text then
        return
    end
    local found
    if text then
        found, err = parsed(text)
    end
    in_force[name] = found or before
    if not found then
        ngx.log(ngx.ERR, LISTENERS[name].called, " stays as it was: ", err)
    end
end

--- A timer's function is called once more where its worker ends.
local function unless_ending(act, name)
    return function(is_ending)
        if not is_ending then
            act(name)
        end
    end
end

--- In how many seconds the certificate in force of a listener ends; nil without one.
---@param name string "public" or "internal"
---@return integer|nil
function _M.seconds_left(name)
    if not in_force[name] then
        return nil
    end
    local _, ends = crypto.times(in_force[name].certificate)
    return ends
end

local function warn(name)
    local left = _M.seconds_left(name)
    if left and left < WARN_DAYS * SECONDS_A_DAY then
        ngx.log(ngx.ERR, ("%s ends in %.1f days; renew it"):format(
            LISTENERS[name].called, left / SECONDS_A_DAY))
    end
end

local function start(name)
    renew(name)
    assert(ngx.timer.every(TICK_SECONDS, unless_ending(renew, name)))
    if ngx.worker.id() == 0 then
        warn(name)
        assert(ngx.timer.every(SECONDS_A_DAY, unless_ending(warn, name)))
    end
end

--- Begin, in each worker, where a listener speaks TLS. One worker warns, once a day.
---@param settings table
function _M.start(settings)
    for name, listener in pairs(LISTENERS) do
        if settings[listener.setting] then
            start(name)
        end
    end
end

--- Show the certificate in force of a listener (`ssl_certificate_by_lua`). Without one nginx shows
--- the file's as it was at the start.
---@param name string "public" or "internal"
function _M.show(name)
    local shown = in_force[name]
    if not shown then
        return
    end
    local ok, err = ssl.clear_certs()
    if ok then
        ok, err = ssl.set_cert(shown.chain)
    end
    if ok then
        ok, err = ssl.set_priv_key(shown.key)
    end
    if not ok then
        ngx.log(ngx.ERR, "handshake.show: ", err)
        return ngx.exit(ngx.ERROR)
    end
end

--- Whether the public listener's certificate in force is for a host.
---@param host string a name, or an address without brackets
---@return boolean
function _M.is_for(host)
    return in_force.public ~= nil and crypto.is_for(in_force.public.certificate, host)
end

return _M
