---------
-- The plain listener beside TLS: whoever comes is sent to https, by a name that the certificate has
-- and no other, so that a Host of somebody else's making leads nowhere. It judges nothing, passes
-- nothing on, and answers nothing that was asked.

local errors = require("portero.errors")
local handshake = require("portero.tls.handshake")

local PERMANENT = 308
--- A name or an address, with a port or without.
local AUTHORITIES = { "^(%[[%x:.]+%]):?%d*$", "^([%w._-]+):?%d*$" }

local port

local _M = {}

--- Begin, in each worker.
---@param settings table
function _M.start(settings)
    local public = settings.public_origin or settings.listen
    local found = tonumber(public:match(":(%d+)$")) or settings.public_origin and 443 or 8080
    port = found == 443 and "" or ":" .. found
end

local function host_of(authority)
    for _, form in ipairs(AUTHORITIES) do
        local host = authority:match(form)
        if host then
            return host
        end
    end
end

--- Answer a request of the plain listener.
function _M.answer()
    local target = ngx.var.request_uri or ""
    local host = host_of(ngx.var.http_host or "")
    if not host or not handshake.is_for((host:gsub("[%[%]]", ""))) then
        return errors.refuse("other_host")
    elseif target:sub(1, 1) ~= "/" then
        return errors.refuse("path_missing")
    end
    return errors.redirect("https://" .. host:lower() .. port .. target, PERMANENT)
end

return _M
