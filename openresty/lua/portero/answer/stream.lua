---------
-- Answers that still flow: cut when their token is revoked, handled by the role's policy when it
-- expires, and ended in the caller's dialect when the LLM server fails in the middle. What is
-- watched follows from an answer that has not come whole, never from what the LLM server calls it:
-- the type only chooses the words at the end.
-- An answer is looked at when it moves, a stream with two dictionary look-ups a second at most. A
-- cut is visible: the error event takes the place of a chunk, and the connection ends without a
-- last chunk, which stops the LLM server too. It must never hold a chunk back.

local monotonic_time = require("resty.core.time").monotonic_time
local active_tokens = require("portero.token.active_tokens")
local dialects = require("portero.dialect.dialects")
local errors = require("portero.errors")
local in_force = require("portero.policy.in_force")
local metrics = require("portero.metrics")
local request_counts = require("portero.request_counts")
local request_key = require("portero.request_key")
local shared_versions = require("portero.shared_versions")
local stream_events = require("portero.answer.stream_events")

local var = ngx.var
local lower, match, sub = string.lower, string.match, string.sub
local FORMATS = stream_events.FORMATS

--- With the wait for the end of an event, and its way: a cut within a second.
local CHECK_SECONDS = 0.5

--- What names a stream's format; else the dialect of its path does.
local FORMATS_OF_TYPES = {
    ["text/event-stream"] = "sse",
    ["application/x-ndjson"] = "lines", ["application/ndjson"] = "lines",
    ["application/jsonl"] = "lines", ["application/x-jsonlines"] = "lines",
}
--- How long a cut waits for the end of an event that has begun.
local MAX_WAIT_SECONDS = 0.4
--- The longest end of an event: so much of what has passed tells whether one is open.
local MAX_END_CHARACTERS = 4

--- Request's key -> the watch of an answer that goes on until it ends. Of one that told its length
--- there is none. A client that leaves may leave its own behind: no other answer begins with it, as
--- `begin` comes before all that `filter` sees.
local watches = {}

local _M = {}

--- How an answer can be ended with words; nil where they would be taken for a part of it.
local function format_of(content_type)
    local kind = lower(match(content_type or "", "^[^;%s]*"))
    local name = FORMATS_OF_TYPES[kind] or dialects.of(var.request_uri).stream_format(kind)
    return FORMATS[name]
end

--- How much of a chunk belongs to an event that had begun before; nil when it goes on behind it.
local function rest_of_event(watch, chunk)
    local known = #watch.tail
    if known == 0 then
        return 0
    end
    local stop = watch.format.end_of(watch.tail .. chunk, 1, known)
    return stop and stop - known
end

--- End an answer that no words can be put into: what is missing is what the client sees.
local function abort(code)
    metrics.count("cut_" .. code)
    return ngx.ERROR
end

--- Put the error in the place of a chunk. An event that has begun is finished first, or the error
--- could not be read; one that does not end in this chunk is waited for, but not for long.
--- `ngx.ERROR` where there is nothing to be said.
local function cut(watch, code, chunk, elapsed_seconds)
    if not watch.format then
        return abort(code)
    end
    local rest = rest_of_event(watch, chunk)
    watch.pending = code
    watch.pending_until = watch.pending_until or elapsed_seconds + MAX_WAIT_SECONDS
    if not rest and chunk ~= "" and elapsed_seconds < watch.pending_until then
        return
    end
    watch.is_cut = true
    metrics.count("cut_" .. code)
    local finished = rest and sub(chunk, 1, rest) or watch.format.ending
    ngx.arg[1] = finished .. errors.event(code, var.request_uri, watch.format.name)
    ngx.arg[2] = false
end

--- What a stream shall do about its token's end: "finish", "cut", or how many seconds it may run.
--- A role that is gone grants nothing.
local function stream_policy()
    local policy = in_force.current()
    local role = policy and policy.roles[var.auth_role]
    return role and role.stream_policy or "cut"
end

local function is_over(policy, elapsed_seconds)
    return policy == "cut" or (policy ~= "finish" and elapsed_seconds > policy)
end

--- Why a stream must end now, or nil.
local function verdict(elapsed_seconds)
    shared_versions.look()
    local active, known = active_tokens.is_active(var.auth_token_id)
    if active == false and known then
        return "revoked"
    end
    local policy = stream_policy()
    if active == false and is_over(policy, elapsed_seconds) then
        return "expired"
    end
    if type(policy) == "number" and elapsed_seconds > policy then
        return "stream_too_long"
    end
end

--- Why what the request's token opened must end now.
---@param elapsed_seconds number since it began
---@return string|nil code a key of errors.lua's table
_M.verdict = verdict

local function is_due(watch, elapsed_seconds)
    if elapsed_seconds < watch.next_check then
        return false
    end
    watch.next_check = elapsed_seconds + CHECK_SECONDS
    return true
end

--- How long the request has run, by a clock that may have been set meanwhile.
local function elapsed_by_clock()
    return math.max(0, ngx.now() - ngx.req.start_time())
end

local function new_watch()
    return {
        format = format_of(ngx.header["Content-Type"]), next_check = CHECK_SECONDS, tail = "",
        -- By the clock that no one sets: a check must not wait for one that was set back.
        began_at = monotonic_time() - elapsed_by_clock(),
    }
end

--- Begin with the head of an answer, wherever its body passes `filter` (`header_filter`).
function _M.begin()
    local key = request_key.of_this()
    if not ngx.header["Content-Length"] then
        watches[key] = new_watch()
        request_counts.begin_stream()
    elseif watches[key] then
        watches[key] = nil
    end
end

--- An answer that told its length. Nearly all come whole and at once, and cost no more than the
--- question for how long they took; of others each part is looked at, for there is no note of when
--- that was done last.
local function filter_told()
    local elapsed_seconds = elapsed_by_clock()
    if elapsed_seconds < CHECK_SECONDS then
        return
    end
    local chunk, length = ngx.arg[1], tonumber(ngx.header["Content-Length"])
    if chunk == "" or not length or #chunk >= length then
        return
    end
    local code = verdict(elapsed_seconds)
    if code then
        return abort(code)
    end
end

--- nginx flushes an empty chunk behind the head where no event came with it, and one more when the
--- LLM server failed: any but the first call says so.
local function failure(watch, arrived)
    return arrived == "" and watch.has_begun and "upstream_unavailable" or nil
end

--- An answer that goes on until it ends.
local function filter_stream(watch, chunk, is_last, arrived)
    if is_last and chunk == "" then
        return
    end
    local elapsed_seconds = monotonic_time() - watch.began_at
    local code = watch.pending or failure(watch, arrived)
        or (is_due(watch, elapsed_seconds) and verdict(elapsed_seconds))
    watch.has_begun = true
    local answer = code and cut(watch, code, chunk, elapsed_seconds) or nil
    watch.tail = sub(watch.tail .. sub(chunk, -MAX_END_CHARACTERS), -MAX_END_CHARACTERS)
    return answer
end

--- Put other words in the place of an answer that nginx has begun by itself (`header_filter`),
--- whose head tells no length.
---@param text string
function _M.replace(text)
    watches[request_key.of_this()] = { text = text }
end

--- The words go out with the first chunk, and nothing after them.
local function say_instead(watch)
    ngx.arg[1], watch.text = watch.text, ""
end

--- Called for each chunk on its way to the client; `ngx.ERROR` ends the connection.
---@param arrived string|nil what the LLM server sent, where another filter changed the chunk
function _M.filter(arrived)
    local key = request_key.of_this()
    local watch = watches[key]
    if not watch then
        return filter_told()
    elseif watch.is_cut then
        return ngx.ERROR
    elseif watch.text then
        return say_instead(watch)
    end
    local chunk, is_last = ngx.arg[1], ngx.arg[2]
    local answer = filter_stream(watch, chunk, is_last, arrived or chunk)
    -- One that was cut is asked for once more, and ends its connection then.
    if is_last and not watch.is_cut then
        watches[key] = nil
    end
    return answer
end

return _M
