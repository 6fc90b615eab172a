---------
-- A WebSocket between a client and an LLM server, for class `realtime`: frames pass as they are, or
-- where somebody looks at what a client says, by messages that are judged (client_events.lua). When
-- the client's token is revoked, or expires and its role's `stream_policy` says so, both sides are
-- told by a close frame within a second (RFC 6455 section 7.4: 1008); so they are when a response
-- has used up what the caller may use.
-- The LLM server is asked through the gateway's inner door, so it is chosen, trusted and told who
-- asks as for any request; what it answers before the change is refused in the caller's dialect, or
-- the next server is asked; never behind it. A credential must never go on: neither among the
-- headers nor among the subprotocols.

local monotonic_time = require("resty.core.time").monotonic_time
local client_events = require("portero.answer.client_events")
local crypto = require("portero.token.crypto")
local errors = require("portero.errors")
local forwarding = require("portero.server.forwarding")
local frames = require("portero.answer.frames")
local messages = require("portero.answer.messages")
local upgrade = require("portero.request.upgrade")
local inner_door = require("portero.server.inner_door")
local metrics = require("portero.metrics")
local origins = require("portero.request.origins")
local presented_token = require("portero.token.presented_token")
local request_counts = require("portero.request_counts")
local socket_usage = require("portero.answer.socket_usage")
local stream = require("portero.answer.stream")
local upstream_errors = require("portero.answer.upstream_errors")

local ngx, var = ngx, ngx.var
local concat, match = table.concat, string.match

local SWITCHING, GATEWAY_TIMEOUT = 101, 504
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
--- How long a client may take to say which model it wants, where its first message does.
local FIRST_MILLISECONDS = 60 * 1000
local MASK_BYTES = 4

--- Section 7.4.1.
local GOING_AWAY, PROTOCOL_ERROR, NOT_TAKEN, POLICY_VIOLATION = 1001, 1002, 1003, 1008
local TOO_LONG, SERVER_ERROR, TRY_AGAIN = 1009, 1011, 1013
local REASONS = {
    revoked = "token revoked", expired = "token expired", stream_too_long = "stream too long",
    too_many_tokens = "rate_limit_exceeded: the tokens of a minute are used up",
    budget_spent = "insufficient_quota: the budget of the day or the month is used up",
    not_ready = "not_ready: what is left of a limit cannot be told",
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

--- What the LLM server's answer says that is none of the change; nil where all is well.
local function fault_of(asked, status, head)
    if status ~= SWITCHING then
        return status < SWITCHING and "upstream_failed" or upstream_errors.code_of(status)
    end
    local _, is_good = upgrade.protocol(asked, head["sec-websocket-protocol"])
    local is_change = is_good and head["sec-websocket-accept"] == asked.accept
    return not is_change and "upstream_failed" or nil
end

--- Open the LLM server's side by a path of the inner door: nil, a code, and how it answered.
local function open(asked, path)
    local socket, status, head = inner_door.open(path, headers_of(asked), ANSWER_SECONDS)
    if not socket then
        return nil, "upstream_unavailable"
    end
    local fault = fault_of(asked, status, head)
    if fault then
        socket:close()
        return nil, fault, { status = status, sent = match(head["x-portero-sent"] or "", "(%d+)$") }
    end
    return socket, (upgrade.protocol(asked, head["sec-websocket-protocol"]))
end

--- The same at one of the servers that the policy names, and at another where that is not ready.
local function open_at_server(asked, talk)
    local code
    repeat
        local row, none = forwarding.next()
        if not row then
            return nil, none
        end
        local socket, found, answer = open(asked, "/sockets/" .. row.name .. var.upstream_target)
        if socket then
            forwarding.opened()
            client_events.settle_on(talk, row)
            return socket, found
        end
        code = found
        local status = answer and answer.status or GATEWAY_TIMEOUT
        local is_begun = not answer or answer.sent ~= nil and answer.sent ~= "0"
    until not forwarding.pass_over(status, is_begun)
    return nil, code
end

--- The LLM server's side of the connection, and the subprotocol; nil and a code.
local function connect(asked, talk)
    if talk and talk.plan then
        forwarding.begin(talk.plan, talk.claims)
        return open_at_server(asked, talk)
    end
    return open(asked, "/socket")
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

--- Until the token's time is over, or nothing is left to use: why.
local function watch()
    local began = monotonic_time()
    while true do
        ngx.sleep(CHECK_SECONDS)
        local code = stream.verdict(monotonic_time() - began) or socket_usage.code()
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

--- How a message of the client ends a connection: what it is told. The LLM server is told no more
--- than that the client is gone.
local REFUSALS = {
    judged = function(up) return POLICY_VIOLATION, errors.closing(up.code) end,
    binary = function() return NOT_TAKEN, "binary messages are not taken; send text" end,
    full = function() return TRY_AGAIN, "too many long messages come at the same time" end,
    too_long = function(up)
        return TOO_LONG, ("a message may have %d bytes"):format(up.most_bytes)
    end,
}
for why, reason_of in pairs(REFUSALS) do
    ENDS.up[why] = function(down, up)
        say(up, GOING_AWAY, "the client was refused")
        say(down, reason_of(up))
    end
end

--- Run some work in threads of their own until one of them is done: who ended, `who` of all first,
--- and with what.
local function race(works)
    local ended, threads = {}, {}
    for name, work in pairs(works) do
        threads[#threads + 1] = ngx.thread.spawn(function()
            ended[name] = { work() }
            ended.who = ended.who or name
        end)
    end
    ngx.thread.wait(unpack(threads))
    return ended, threads
end

local function kill(threads)
    for _, thread in ipairs(threads) do
        ngx.thread.kill(thread)
    end
end

--- The client's way: by messages where what it says is judged.
local function way_up(client, upstream, talk)
    if not talk then
        return frames.way(client, upstream, true), frames.forward
    end
    return messages.way(client, upstream, talk.most_bytes, function(text)
        return client_events.judge(talk, text)
    end), messages.forward
end

--- Who looks at what the LLM server says; nil for nobody.
local function tap_of(talk)
    local owner, meter = talk and client_events.tap(talk) or nil, socket_usage.tap()
    return owner and meter and function(...)
        owner(...)
        meter(...)
    end or owner or meter
end

--- Pass frames both ways until either ends or the token does.
local function relay(client, upstream, talk)
    local down = frames.way(upstream, client, false, tap_of(talk))
    local up, forward_up = way_up(client, upstream, talk)
    local ended, threads = race({
        down = function() return frames.forward(down) end,
        up = function() return forward_up(up) end,
        watch = watch,
    })
    local who = ended.who
    if who == "watch" then
        up.is_ending = true
        say(down, POLICY_VIOLATION, REASONS[ended.watch[1]])
        say(up, POLICY_VIOLATION, REASONS[ended.watch[1]])
    elseif who then
        ENDS[who][ended[who][1]](down, up)
    end
    -- With the client's answer read, nothing is left that would make a reset of the end.
    wait_for(function() return ended.up and (ended.down or who == "watch") end, GOODBYE_SECONDS)
    kill(threads)
    if talk then
        messages.let_go(up)
    end
end

local function join(client, upstream, talk)
    request_counts.begin_stream()
    for _, socket in ipairs({ client, upstream }) do
        socket:settimeouts(SEND_MILLISECONDS, SEND_MILLISECONDS, SILENT_MILLISECONDS)
    end
    relay(client, upstream, talk)
end

---------
-- Where only what a client says tells which server it wants.

--- What a client is told whose first message leads nowhere.
local FIRST_ENDS = {
    gone = function() return POLICY_VIOLATION, "no message came within 60 s" end,
    protocol = function() return PROTOCOL_ERROR, "that is no frame of a client" end,
}
for why, reason_of in pairs(REFUSALS) do
    FIRST_ENDS[why] = reason_of
end

--- Say a close, and read until the client has answered it.
local function say_goodbye(client, code, reason)
    say(frames.way(nil, client, false), code, reason)
    client:settimeouts(SEND_MILLISECONDS, SEND_MILLISECONDS, GOODBYE_SECONDS * 1000)
    local rest = frames.way(client, nil, true)
    rest.is_ending = true
    frames.forward(rest)
end

--- The first message, judged; nil and how it ended without one.
local function first_of(up)
    local text, why = messages.next(up)
    if not text then
        return nil, why
    end
    text, up.code = up.judge(text)
    return text, not text and "judged" or nil
end

--- The same, as long as the token's time is not over: nil where the client was told why.
local function first_message(client, up)
    local ended, threads = race({ first = function() return first_of(up) end, watch = watch })
    if ended.who == "watch" then
        say(frames.way(nil, client, false), POLICY_VIOLATION, REASONS[ended.watch[1]])
        wait_for(function() return ended.first end, GOODBYE_SECONDS)
        kill(threads)
        messages.let_go(up)
        return nil
    end
    kill(threads)
    local text, why = unpack(ended.first, 1, 2)
    if not text and why ~= "closed" then
        say_goodbye(client, FIRST_ENDS[why](up))
    end
    return text
end

--- The client is answered before the LLM server is: no other subprotocol can be chosen then than
--- the API's own name.
local function run_undecided(asked, talk)
    local client = accept(asked, (upgrade.protocol(asked)))
    if not client then
        return
    end
    client:settimeouts(SEND_MILLISECONDS, SEND_MILLISECONDS, FIRST_MILLISECONDS)
    local up = way_up(client, nil, talk)
    local text = first_message(client, up)
    if not text then
        return
    end
    local upstream, code = connect(asked, talk)
    if not upstream then
        return say_goodbye(client, TRY_AGAIN, errors.closing(code))
    end
    up.to = upstream
    if messages.send(up, text) then
        join(client, upstream, talk)
    end
    upstream:close()
end

---------
-- Where the handshake does.

local function run_decided(asked, talk)
    local upstream, found = connect(asked, talk)
    if not upstream then
        return errors.refuse(found)
    end
    local client = accept(asked, found)
    if client then
        join(client, upstream, talk)
    end
    upstream:close()
end

--- Answer a request of class `realtime`: change the protocol, or refuse (`content`).
function _M.run()
    local asked, code = upgrade.read(var)
    code = code or refusal()
    if code then
        return errors.refuse(code)
    end
    local talk = client_events.current()
    return (talk and talk.is_undecided and run_undecided or run_decided)(asked, talk)
end

--- The connection has ended (`log`).
function _M.finish()
    client_events.finish()
    forwarding.finish()
end

return _M
