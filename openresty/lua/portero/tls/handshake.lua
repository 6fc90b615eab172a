---------
-- Which certificate a TLS connection is shown: the one that was last put in force, in every worker,
-- without a reload. `gateway.sh` checks what has changed on disk and puts it into the runtime
-- directory; a worker, who may be nobody, reads it there.
-- It must never judge a certificate anew, nor tell anybody of the key.

local crypto = require("portero.token.crypto")
local ssl = require("ngx.ssl")

--- Certificates and key in one file, so that no two ever come from different renewals.
local FILE = "tls.pem"
local TICK_SECONDS = 2
local SECONDS_A_DAY = 86400
local WARN_DAYS = 14

--- { text, chain, key, certificate }
local in_force

local _M = {}

local function read()
    local file, err = io.open(ngx.config.prefix() .. FILE, "rb")
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
local function renew()
    local text, err = read()
    if in_force and text == in_force.text then
        return
    end
    local found
    if text then
        found, err = parsed(text)
    end
    in_force = found or in_force
    if not found then
        ngx.log(ngx.ERR, "the certificate stays as it was: ", err)
    end
end

--- A timer's function is called once more where its worker ends.
local function unless_ending(act)
    return function(is_ending)
        if not is_ending then
            act()
        end
    end
end

--- In how many seconds the certificate in force ends; nil without one.
---@return integer|nil
function _M.seconds_left()
    if not in_force then
        return nil
    end
    local _, ends = crypto.times(in_force.certificate)
    return ends
end

local function warn()
    local left = _M.seconds_left()
    if left and left < WARN_DAYS * SECONDS_A_DAY then
        ngx.log(ngx.ERR, ("the certificate ends in %.1f days; renew it"):format(
            left / SECONDS_A_DAY))
    end
end

--- Begin, in each worker, where the public listener speaks TLS. One worker warns, once a day.
---@param settings table
function _M.start(settings)
    if not settings.tls then
        return
    end
    renew()
    assert(ngx.timer.every(TICK_SECONDS, unless_ending(renew)))
    if ngx.worker.id() == 0 then
        warn()
        assert(ngx.timer.every(SECONDS_A_DAY, unless_ending(warn)))
    end
end

--- Show the certificate in force (`ssl_certificate_by_lua`). Without one nginx shows the file's as
--- it was at the start.
function _M.show()
    if not in_force then
        return
    end
    local ok, err = ssl.clear_certs()
    if ok then
        ok, err = ssl.set_cert(in_force.chain)
    end
    if ok then
        ok, err = ssl.set_priv_key(in_force.key)
    end
    if not ok then
        ngx.log(ngx.ERR, "handshake.show: ", err)
        return ngx.exit(ngx.ERROR)
    end
end

--- Whether the certificate in force is for a host.
---@param host string a name, or an address without brackets
---@return boolean
function _M.is_for(host)
    return in_force ~= nil and crypto.is_for(in_force.certificate, host)
end

return _M
