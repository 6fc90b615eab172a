---------
-- A WebSocket between a client and an LLM server, for class `realtime`: frames pass as they are,
-- and when the client's token is revoked, or expires and its role's `stream_policy` says so, both
-- sides are told by a close frame within a second (RFC 6455 section 7.4: 1008).
-- The LLM server is asked through the gateway's inner door, so it is chosen, trusted and told who
-- asks as for any request; what it answers before the change is refused in the caller's dialect. A
-- credential must never go on: neither among the headers nor among the subprotocols.

local monotonic_time = require("resty.core.time").monotonic_time
local crypto = require("portero.token.crypto")
local errors = require("portero.errors")
local frames = require("portero.answer.frames")
local upgrade = require("portero.request.upgrade")
local inner_door = require("portero.server.inner_door")
local metrics = require("portero.metrics")
local origins = require("portero.request.origins")
local presented_token = require("portero.token.presented_token")
local stream = require("portero.answer.stream")
local upstream_errors = require("portero.answer.upstream_errors")

local ngx, var = ngx, ngx.var
local concat = table.concat

local SWITCHING = 101
--- A check, the wait for the end of a frame, and the frame's way: within a second.
local CHECK_SECONDS = 0.3
local FRAME_SECONDS = 0.4
--- How long the other side may take to answer a close.
local GOODBYE_SECONDS = 1
local STEP_SECONDS = 0.02
local SEND_MILLISECONDS = 60 * 1000
--- A connection may be silent for as long as its token allows; who is gone the system tells.
local SILENT_MILLISECONDS = 24 * 60 * 60 * 1000
local ANSWER_SECONDS = 30
local MASK_BYTES = 4

--- Section 7.4.1.
local GOING_AWAY, PROTOCOL_ERROR, POLICY_VIOLATION, SERVER_ERROR = 1001, 1002, 1008, 1011
local REASONS = {
    revoked = "token revoked", expired = "token expired", stream_too_long = "stream too long",
}
--- What the query may say: all else would be an instruction to the LLM server that nobody judged.
local PARAMETERS = { model = true, intent = true }

local _M = {}

--- Why a handshake is refused that is one.
local function refusal()
    local text, _, by_cookie, from = presented_token.read()
    local among_protocols = presented_token.among_protocols()
    if by_cookie and origins.from_another_site() then
        return "other_site"
    elseif among_protocols ~= nil and among_protocols ~= text:sub(from) then
        return "several_credentials"
    end
    for name in (var.args or ""):gmatch("([^&=]+)[^&]*") do
        if not PARAMETERS[name] then
            return "socket_query"
        end
    end
end

--- What the inner door is told.
local function headers_of(asked)
    local offered = concat(asked.protocols, ", ")
    return {
        ["X-Portero-Target"] = var.upstream_target,
        ["X-Auth-User"] = var.auth_user, ["X-Auth-Role"] = var.auth_role,
        ["X-Auth-Token-Id"] = var.auth_token_id, ["X-Request-Id"] = var.request_id,
        ["X-Real-Ip"] = var.remote_addr, ["X-Forwarded-Proto"] = var.client_scheme,
        ["OpenAI-Beta"] = var.http_openai_beta,
        Upgrade = "websocket", ["Sec-WebSocket-Key"] = asked.key,
        ["Sec-WebSocket-Protocol"] = offered ~= "" and offered or nil,
    }
end

--- The LLM server's side of the connection; nil and a code.
local function connect(asked)
    local socket, status, head = inner_door.open("/socket", headers_of(asked), ANSWER_SECONDS)
    if not socket then
        return nil, "upstream_unavailable"
    elseif status ~= SWITCHING then
        socket:close()
        return nil, status < SWITCHING and "upstream_failed" or upstream_errors.code_of(status)
    end
    local protocol, is_good = upgrade.protocol(asked, head["sec-websocket-protocol"])
    if not is_good or head["sec-websocket-accept"] ~= asked.accept then
        socket:close()
        return nil, "upstream_failed"
    end
    return socket, protocol
end

--- The client's side.
local function accept(asked, protocol)
    ngx.status = SWITCHING
    local socket = ngx.req.socket(true)
    if not socket then
        return nil
    end
    local lines = {
        "HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Accept: " .. asked.accept, "x-request-id: " .. var.request_id,
    }
    if protocol then
        lines[#lines + 1] = "Sec-WebSocket-Protocol: " .. protocol
    end
    return socket:send(concat(lines, "\r\n") .. "\r\n\r\n") and socket
end

local function wait_for(is_so, seconds)
    local ends = monotonic_time() + seconds
    while not is_so() and monotonic_time() < ends do
        ngx.sleep(STEP_SECONDS)
    end
    return is_so()
end

--- Say a close behind the frame that is under way; one that does not end is cut off without words.
local function say(way, code, reason)
    way.is_ending = true
    if wait_for(function() return way.is_between end, FRAME_SECONDS) then
        local mask = way.is_masked and crypto.random(MASK_BYTES) or nil
        way.to:settimeouts(SEND_MILLISECONDS, FRAME_SECONDS * 1000, SILENT_MILLISECONDS)
        way.to:send(frames.close(code, reason, mask))
    end
end

--- Until the token's time is over: why.
local function watch()
    local began = monotonic_time()
    while true do
        ngx.sleep(CHECK_SECONDS)
        local code = stream.verdict(monotonic_time() - began)
        if code then
            metrics.count("cut_" .. code)
            return code
        end
    end
end

--- Who ended, and how -> what is said to the client (`down`) and to the LLM server (`up`).
local ENDS = {
    down = {
        closed = function() end,
        gone = function(down) say(down, SERVER_ERROR, "the LLM server is gone") end,
        protocol = function(down) say(down, SERVER_ERROR, "the LLM server sent no frame") end,
    },
    up = {
        closed = function() end,
        gone = function(_, up) say(up, GOING_AWAY, "the client is gone") end,
        protocol = function(down, up)
            say(up, GOING_AWAY, "the client sent no frame")
            say(down, PROTOCOL_ERROR, "that is no frame of a client")
        end,
    },
}
ENDS.down.refused, ENDS.up.refused = ENDS.up.gone, ENDS.down.gone

--- Pass frames both ways until either ends or the token does.
local function relay(client, upstream)
    local down, up = frames.way(upstream, client, false), frames.way(client, upstream, true)
    local ended = {}
    local function run(name, work, way)
        return ngx.thread.spawn(function()
            ended[name] = work(way)
            ended.first = ended.first or name
        end)
    end
    local threads = { run("down", frames.forward, down), run("up", frames.forward, up),
        run("watch", watch) }
    ngx.thread.wait(unpack(threads))
    local first = ended.first
    if first == "watch" then
        up.is_ending = true
        say(down, POLICY_VIOLATION, REASONS[ended.watch])
        say(up, POLICY_VIOLATION, REASONS[ended.watch])
    elseif first then
        ENDS[first][ended[first]](down, up)
    end
    -- With the client's answer read, nothing is left that would make a reset of the end.
    wait_for(function() return ended.up and (ended.down or first == "watch") end, GOODBYE_SECONDS)
    for _, thread in ipairs(threads) do
        ngx.thread.kill(thread)
    end
end

--- Answer a request of class `realtime`: change the protocol, or refuse (`content`).
function _M.run()
    local asked, code = upgrade.read(var)
    code = code or refusal()
    if code then
        return errors.refuse(code)
    end
    local upstream, found = connect(asked)
    if not upstream then
        return errors.refuse(found)
    end
    local client = accept(asked, found)
    if client then
        for _, socket in ipairs({ client, upstream }) do
            socket:settimeouts(SEND_MILLISECONDS, SEND_MILLISECONDS, SILENT_MILLISECONDS)
        end
        relay(client, upstream)
    end
    upstream:close()
end

return _M
