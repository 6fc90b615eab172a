---------
-- The keys in force, by `kid`: pushed by the issuer, kept in the dictionary `portero_keys`, and
-- read by each worker when their version has risen. With a public-key algorithm only public keys
-- come here, so this gateway cannot mint.
-- The key decides its algorithm, the token never does (RFC 8725 section 3.1); a `kid` is only ever
-- looked up in this table. It must never log a key.

local cjson = require("cjson.safe")
local crypto = require("portero.token.crypto")
local pushed_text = require("portero.pushed_text")
local shared_versions = require("portero.shared_versions")

local SEAL_LABEL = "portero-keys-1"

local kept = pushed_text.new(ngx.shared.portero_keys)

local sealing_key
local in_force = {}

local _M = {}

--- Begin, in each worker.
---@param settings table
function _M.start(settings)
    sealing_key = assert(crypto.hmac("HS256", settings.sync_key, SEAL_LABEL))
end

--- The key of a `kid`, or nil: its `algorithm`, and `verify(text, length, signature, bytes)`.
---@param kid string
---@return table|nil key
function _M.find(kid)
    return in_force[kid]
end

local function is_listed(entry)
    return type(entry) == "table" and type(entry.kid) == "string" and type(entry.key) == "string"
end

--- The keys of a list, or nil and the step that failed: one bad key refuses them all.
local function parse(text)
    local content = text and cjson.decode(text)
    local listed = type(content) == "table" and content.keys
    if type(listed) ~= "table" or #listed == 0 then
        return nil, "list"
    end
    local found = {}
    for _, entry in ipairs(listed) do
        if not is_listed(entry) then
            return nil, "entry"
        end
        local verify, err = crypto.verifier(entry.alg, ngx.decode_base64(entry.key) or "")
        if not verify then
            return nil, err
        end
        found[entry.kid] = { algorithm = entry.alg, verify = verify }
    end
    return found
end

--- How the list that is kept here is named, for the issuer.
---@return string
function _M.mark()
    return kept:mark()
end

--- Take a list of keys in place of all others.
---@param history any names the issuer's key file
---@param serial any which state of that file it is; an older one is refused
---@param sealed any the list, sealed with a key that comes from SYNC_KEY
---@return boolean|nil ok, string|nil err "older", "no memory", "busy", or the step that failed
function _M.put(history, serial, sealed)
    if not pushed_text.is_name(history, serial) or type(sealed) ~= "string" then
        return nil, "form"
    end
    local text = crypto.unseal(sealing_key, SEAL_LABEL, ngx.decode_base64(sealed) or "")
    local found, err = parse(text)
    if not found then
        return nil, err
    end
    return kept:write(history, serial, text, shared_versions.raise_keys)
end

--- Read the list that is kept here, in this worker.
function _M.load()
    in_force = parse(kept:read()) or {}
end

return _M
