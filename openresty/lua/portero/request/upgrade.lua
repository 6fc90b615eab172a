---------
-- What a client asks for that would speak WebSocket (RFC 6455 section 4.2.1).
-- It asks nobody. A credential among the subprotocols must never be among what is passed on.

local presented_token = require("portero.token.presented_token")

local gmatch, lower = string.gmatch, string.lower

local GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
local KEY_BYTES = 16
local VERSION = "13"
--- What the API itself is called among subprotocols.
local PROTOCOL = "realtime"

local _M = {}

--- The members of a header that is a list.
local function members(header)
    return gmatch(header or "", "[^%s,]+")
end

local function has_member(header, name)
    for member in members(header) do
        if lower(member) == name then
            return true
        end
    end
    return false
end

--- Whether a request asks to change to WebSocket at all.
---@param var table nginx's variables
---@return boolean
function _M.is_asked(var)
    return var.http_upgrade ~= nil and has_member(var.http_upgrade, "websocket")
end

--- The subprotocols but for a credential, in order.
local function protocols(var)
    local offered = {}
    for member in members(var.http_sec_websocket_protocol) do
        if not presented_token.is_protocol(member) then
            offered[#offered + 1] = member
            offered[member] = true
        end
    end
    return offered
end

local function is_key(text)
    local bytes = ngx.decode_base64(text or "")
    return bytes ~= nil and #bytes == KEY_BYTES
end

--- What is asked for.
---@param var table
---@return table|nil asked { key, accept: what the answer must say, protocols: a list and a set }
---@return string|nil code of the refusal
function _M.read(var)
    if not _M.is_asked(var) or not has_member(var.http_connection, "upgrade")
        or var.http_sec_websocket_version ~= VERSION then
        return nil, "upgrade_required"
    end
    local key = var.http_sec_websocket_key
    if not is_key(key) then
        return nil, "handshake_malformed"
    end
    return {
        key = key, accept = ngx.encode_base64(ngx.sha1_bin(key .. GUID)),
        protocols = protocols(var),
    }
end

--- Which subprotocol the client is answered. A browser that offered some gives up where none is
--- chosen, and few LLM servers choose one.
---@param asked table of `read`
---@param chosen string|nil what the LLM server has chosen
---@return string|nil protocol
---@return boolean is_good false where the LLM server has chosen one that was not offered
function _M.protocol(asked, chosen)
    if chosen and chosen ~= "" then
        return chosen, asked.protocols[chosen] == true
    end
    return asked.protocols[PROTOCOL] and PROTOCOL or nil, true
end

return _M
