---------
-- Why nginx has refused a request by itself: what is wrong with its head. Each fault has a row of
-- its own in errors.lua.
-- Pure. It is asked on the way to a refusal alone, and must never answer a part of what it is
-- shown.

local route_table = require("portero.policy.route_table")

local find, gsub, lower = string.find, string.gsub, string.lower
local match, sub = string.match, string.sub

local _M = {}

--- What nginx could not read of a request's first line.
local function of_line(line)
    local method, rest = match(line, "^(%S+) (.+)$")
    if not method or find(method, "[^A-Z_-]") then
        return "line_malformed"
    end
    local target = match(rest, "^(.-) HTTP/%d+%.%d+$")
    if not target then
        return "unsupported_protocol"
    end
    local path = match(gsub(target, "^%a[%w+.-]*://[^/]*", ""), "^[^?]*")
    return route_table.fault_of_path(path) or "line_malformed"
end

local function is_host(text)
    return text ~= nil and text ~= "" and not find(text, "[%c /\\]")
        and not find(text, "..", 1, true)
end

--- How often a header is in a head.
local function count(head, name)
    local _, times = gsub(lower(head), "\n" .. gsub(name, "%-", "%%-") .. ":", "")
    return times
end

--- What it is with a head that nginx read to its end.
local function of_whole_head(request)
    if not request.host then
        return "host_missing"
    elseif request.length and request.encoding then
        return "length_and_encoding"
    elseif request.length and find(request.length, "%D") then
        return "length_malformed"
    elseif request.encoding then
        return "transfer_encoding"
    end
    return is_host(request.host) and "header_malformed" or "host_malformed"
end

--- And with one that nginx read to a line that it did not take. That is the last one, if it knew
--- its name, and else the one behind it.
local function of_cut_head(request)
    local name = lower(match(request.head, "\n([^\r\n:]+):[^\n]*%s*$") or "")
    if count(request.head, name) > 1 then
        return name == "host" and "host_several" or "header_several"
    end
    return name == "host" and not is_host(request.host) and "host_malformed" or "header_malformed"
end

local BY_STATUS = {
    [414] = "uri_too_long", [501] = "transfer_encoding", [505] = "unsupported_protocol",
}
local BAD_REQUEST = 400

--- Why nginx refused a request before anything of ours saw it.
---@param request table { status, line, uri, host, length, encoding, head }: nginx's status, the
---     request's first line, and its target, nil where nginx could make nothing of the line; the
---     headers Host, Content-Length and Transfer-Encoding, and all that nginx took of the head
---@return string code a key of errors.lua's table
function _M.of_head(request)
    if request.status ~= BAD_REQUEST then
        return BY_STATUS[request.status] or "invalid_request"
    end
    if not request.uri then
        return of_line(request.line or "")
    end
    if sub(request.head, -4) == "\r\n\r\n" then
        return of_whole_head(request)
    end
    return of_cut_head(request)
end

return _M
