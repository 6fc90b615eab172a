---------
-- The certificate that the public listener shows: what it must be, before it is shown. The start is
-- stopped by what is wrong with it; a renewed one that is wrong leaves the former in force.
-- It must never put anything of a key into a message.

local crypto = require("portero.token.crypto")

local BEGINS = "%-%-%-%-%-BEGIN [%u%d ]*CERTIFICATE%-%-%-%-%-"

local _M = {}

--- What is wrong with the times of a certificate.
local function fault_of_times(certificate)
    local begins, ends = crypto.times(certificate)
    if not begins or not ends then
        return "has times that cannot be read"
    elseif ends <= 0 then
        return "has expired"
    elseif begins > 0 then
        return "does not hold yet"
    end
end

local function fault_of_certificate(text)
    local _, begun = text:gsub(BEGINS, "")
    local certificate = crypto.certificate(text)
    if begun == 0 then
        return "holds no certificate in PEM"
    elseif not certificate or crypto.certificates(text) < begun then
        return "holds a certificate that cannot be read"
    elseif not crypto.has_names(certificate) then
        return "is for no name: browsers and clients read subjectAltName alone"
    end
    return fault_of_times(certificate)
end

--- What is wrong with a certificate and its key.
---@param certificates string in PEM, the server's own first
---@param key string in PEM
---@return string|nil of_certificate, string|nil of_key nil where nothing is
function _M.faults(certificates, key)
    local certificate = crypto.certificate(certificates)
    local is_key = certificate and crypto.is_key_of(certificate, key)
    local of_key
    if certificate and is_key == nil then
        of_key = "holds no private key in PEM that can be read without a pass phrase"
    elseif certificate and not is_key then
        of_key = "is another certificate's key"
    end
    return fault_of_certificate(certificates), of_key
end

return _M
