---------
-- The gateway's own door, a unix socket in its runtime directory, by which it asks LLM servers of
-- itself: what goes through it meets the same nginx as requests do, so an address, a certificate, a
-- key and a Host header are what they are for those (conf/inner.conf).
-- It must never answer anyone else: who asks shows a key that follows from SYNC_KEY, and an answer
-- is read to its bound and no further, whatever is sent, and for however long.

local crypto = require("portero.token.crypto")
local errors = require("portero.errors")
local in_force = require("portero.policy.in_force")
local places = require("portero.server.places")
local shared_versions = require("portero.shared_versions")

local LABEL = "portero-inner-1"
local KEY_HEADER = "X-Portero-Inner"
local MAX_HEAD_BYTES = 64 * 1024
local CHUNK_BYTES = 64 * 1024
local MILLISECONDS = 1000
--- With less than this left, nothing can come any more.
local LEAST_SECONDS = 0.001
local FORBIDDEN, NOT_FOUND = 403, 404
local BODILESS = { [204] = true, [304] = true }

local key, address
--- By row of the policy: why it could not be aimed at.
local told = setmetatable({}, { __mode = "k" })

local _M = {}

--- Begin, in each worker.
---@param settings table
function _M.start(settings)
    key = crypto.hexadecimal(assert(crypto.hmac("HS256", settings.sync_key, LABEL)))
    address = "unix:" .. ngx.config.prefix() .. "inner.sock"
end

--- Refuse whoever is not this gateway itself (`access`).
---@return boolean is_own
function _M.guard()
    local shown = ngx.var.http_x_portero_inner
    local is_own = shown ~= nil and crypto.equal(shown, key)
    if not is_own then
        errors.exit(FORBIDDEN)
    end
    return is_own
end

local function row_of(policy, name)
    for _, row in ipairs(policy and policy.servers or {}) do
        if row.name == name then
            return row
        end
    end
end

--- Say why a server cannot be aimed at, once.
local function note(row, err)
    if err and err ~= told[row] then
        ngx.log(ngx.ERR, "the LLM server ", row.name, " cannot be asked: ", err)
    end
    told[row] = err
end

--- Send a question of this gateway's own on to the server that its path names behind one segment
--- (`access`).
---@param location string where it is asked; a server with certificates of its own has one beside it
function _M.aim(location)
    if not _M.guard() then
        return
    end
    shared_versions.look()
    local name, target = ngx.var.request_uri:match("^/[^/]+/([^/]+)(/.*)$")
    local row = row_of(in_force.current(), name)
    if not row then
        return errors.exit(NOT_FOUND)
    end
    local suffix, err = places.aim(row)
    note(row, err)
    if not suffix then
        return errors.exit(ngx.HTTP_BAD_GATEWAY)
    end
    ngx.var.upstream_target = target
    return ngx.exec(location .. suffix)
end

local function question_of(target, headers, version, connection)
    local lines = {
        "GET " .. target .. " " .. version, "Host: inner", "Connection: " .. connection,
        KEY_HEADER .. ": " .. key,
    }
    for name, value in pairs(headers) do
        lines[#lines + 1] = name .. ": " .. value
    end
    return table.concat(lines, "\r\n") .. "\r\n\r\n"
end

--- All that comes until the end, or why it is not read: too much of it, or too late.
local function read(socket, most_bytes, ends)
    local parts, bytes = {}, 0
    while true do
        local left = ends - ngx.now()
        if left < LEAST_SECONDS then
            return nil, "timeout"
        end
        socket:settimeout(left * MILLISECONDS)
        local part, err = socket:receiveany(CHUNK_BYTES)
        if not part then
            return err == "closed" and table.concat(parts) or nil, err
        end
        parts[#parts + 1], bytes = part, bytes + #part
        if bytes > most_bytes + MAX_HEAD_BYTES then
            return nil, "too long"
        end
    end
end

--- What an answer says: nginx gives one of HTTP/0.9 no head.
local function parsed(text, most_bytes)
    local status = text:match("^HTTP/1%.%d (%d%d%d)")
    local head, body = text:match("^(.-\r\n)\r\n(.*)$")
    if not status or not head then
        return nil, "no http"
    end
    local length = tonumber(head:lower():match("\r\ncontent%-length: *(%d+)"))
    status = tonumber(status)
    if length and length ~= #body and not BODILESS[status] then
        return nil, "cut off"
    elseif #body > most_bytes then
        return nil, "too long"
    end
    return status, body
end

local function exchange(socket, question, most_bytes, ends)
    socket:settimeout(math.max(ends - ngx.now(), LEAST_SECONDS) * MILLISECONDS)
    local ok, err = socket:connect(address)
    if not ok then
        return nil, err
    end
    ok, err = socket:send(question)
    if not ok then
        return nil, err
    end
    return read(socket, most_bytes, ends)
end

--- Ask, and wait for the whole answer.
---@param target string path and query
---@param headers table name -> value, without line ends
---@param seconds number how long all of it may take
---@param most_bytes integer how long the body may be
---@return integer|nil status
---@return string body, or where there is no status why: "timeout", "too long", "cut off",
---     "no http", or the socket's own words
function _M.ask(target, headers, seconds, most_bytes)
    local socket = ngx.socket.tcp()
    local ends = ngx.now() + seconds
    local question = question_of(target, headers, "HTTP/1.0", "close")
    local text, err = exchange(socket, question, most_bytes, ends)
    socket:close()
    if not text then
        return nil, err
    end
    return parsed(text, most_bytes)
end

local function head_of(text)
    local headers = {}
    for name, value in text:gmatch("\r\n([^:\r\n]+):[ \t]*([^\r\n]*)") do
        headers[name:lower()] = value
    end
    return tonumber(text:match("^HTTP/1%.%d (%d%d%d)")), headers
end

--- Ask to change to WebSocket. The socket is the LLM server's side from there on, where the status
--- says so; who is done with it closes it.
---@param target string
---@param headers table name -> value, without line ends
---@param seconds number how long the answer's head may take
---@return table|nil socket
---@return integer|string status or why there is none
---@return table|nil head name in lower case -> value
function _M.open(target, headers, seconds)
    local socket = ngx.socket.tcp()
    socket:settimeout(seconds * MILLISECONDS)
    local ok, err = socket:connect(address)
    ok, err = ok and socket:send(question_of(target, headers, "HTTP/1.1", "upgrade")), err
    local read = ok and socket:receiveuntil("\r\n\r\n")
    local text, fault = nil, err
    if read then
        -- As long as nginx lets an answer's head be.
        text, fault = read()
    end
    if not text then
        socket:close()
        return nil, fault
    end
    return socket, head_of(text)
end

return _M
