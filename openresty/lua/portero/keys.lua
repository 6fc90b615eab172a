---------
-- The keys in force, by `kid`. The key decides its algorithm, the token never does (RFC 8725
-- section 3.1). A `kid` is only ever looked up in this table.

local crypto = require("portero.crypto")

local FINGERPRINT_LABEL = "portero key id"
local FINGERPRINT_BYTES = 12

local in_force = {}

local _M = {}

local function fingerprint(secret)
    local mac = assert(crypto.hmac("HS256", secret, FINGERPRINT_LABEL))
    local text = ngx.encode_base64(mac:sub(1, FINGERPRINT_BYTES))
    return (text:gsub("+", "-"):gsub("/", "_"))
end

--- Put one HMAC key in force, in place of all others.
---@param algorithm string
---@param secret string
function _M.set(algorithm, secret)
    in_force = { [fingerprint(secret)] = { algorithm = algorithm, secret = secret } }
end

--- The key of a `kid`, or nil.
---@param kid string
---@return table|nil key
function _M.find(kid)
    return in_force[kid]
end

return _M
