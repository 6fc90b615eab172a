---------
-- Running streams: cut when their token is revoked, handled by the role's policy when it expires,
-- and ended in the caller's dialect when the LLM server fails in the middle.
-- A stream is looked at when it moves, with one dictionary look-up a second at most. A cut is
-- visible: the error event takes the place of a chunk, and the connection ends without a last
-- chunk, which stops the LLM server too. It must never hold a chunk back.

local cjson = require("cjson.safe")
local monotonic_time = require("resty.core.time").monotonic_time
local active_tokens = require("portero.active_tokens")
local errors = require("portero.errors")
local metrics = require("portero.metrics")
local state = require("portero.state")

local var = ngx.var
local find, sub = string.find, string.sub

local CHECK_SECONDS = 1

--- How each streaming content type begins an event, and ends one.
local DIALECTS = {
    {
        type = "text/event-stream", before = "data: ",
        ends = { "\n\n", "\r\n\r\n", "\r\r", "\n\r\n" },
    },
    { type = "application/x-ndjson", before = "", ends = { "\n" } },
}
--- How long a cut waits for the end of an event that has begun.
local MOST_WAIT_SECONDS = 0.5
--- The longest of the ends above: so much of what has passed tells whether an event is open.
local MOST_END_CHARACTERS = 4

local roles

local _M = {}

--- Begin, in each worker.
---@param settings table
function _M.start(settings)
    roles = settings.roles
end

local function dialect_of(content_type)
    for _, dialect in ipairs(DIALECTS) do
        if content_type and find(content_type:lower(), dialect.type, 1, true) == 1 then
            return dialect
        end
    end
    return false
end

--- The place of the first end of an event in a text, from `from` on; nil when there is none.
local function end_of_event(text, from, dialect)
    local first
    for _, ending in ipairs(dialect.ends) do
        local _, stop = find(text, ending, 1, true)
        while stop and stop < from do
            _, stop = find(text, ending, stop + 1, true)
        end
        first = stop and math.min(stop, first or stop) or first
    end
    return first
end

--- Whether what has passed ends in the middle of an event.
local function is_open(watch)
    local tail = watch.tail
    return tail ~= "" and end_of_event(tail, #tail, watch.dialect) ~= #tail
end

--- How much of a chunk belongs to an event that had begun before; nil when it goes on behind it.
local function rest_of_event(watch, chunk)
    if not is_open(watch) then
        return 0
    end
    local known = #watch.tail
    local stop = end_of_event(watch.tail .. chunk, known + 1, watch.dialect)
    return stop and stop - known
end

local function error_event(code, dialect)
    return dialect.before .. cjson.encode(errors.body(code, var.request_uri)) .. dialect.ends[1]
end

--- Put the error in the place of a chunk. An event that has begun is finished first, or the error
--- could not be read; one that does not end in this chunk is waited for, but not for long.
local function cut(watch, code, chunk, elapsed_seconds)
    local rest = rest_of_event(watch, chunk)
    watch.pending = code
    watch.pending_until = watch.pending_until or elapsed_seconds + MOST_WAIT_SECONDS
    if not rest and chunk ~= "" and elapsed_seconds < watch.pending_until then
        return
    end
    watch.is_cut = true
    metrics.count("cut_" .. code)
    local finished = rest and sub(chunk, 1, rest) or watch.dialect.ends[1]
    ngx.arg[1] = finished .. error_event(code, watch.dialect)
    ngx.arg[2] = false
end

--- What a stream shall do about its token's end: "finish", "cut", or how many seconds it may run.
local function is_over(elapsed_seconds)
    local policy = roles[var.auth_role].stream_policy
    return policy == "cut" or (policy ~= "finish" and elapsed_seconds > policy)
end

--- Why a stream must end now, or nil.
local function verdict(elapsed_seconds)
    state.look()
    local active, known = active_tokens.is_active(var.auth_token_id)
    if active == false and known then
        return "revoked"
    end
    if active == false and is_over(elapsed_seconds) then
        return "expired"
    end
    local policy = roles[var.auth_role].stream_policy
    if type(policy) == "number" and elapsed_seconds > policy then
        return "stream_too_long"
    end
end

local function is_due(watch, elapsed_seconds)
    if elapsed_seconds < watch.next_check then
        return false
    end
    watch.next_check = elapsed_seconds + CHECK_SECONDS
    return true
end

--- Most answers, told apart without a note of their own.
local function is_plain(content_type)
    return content_type and find(content_type, "application/json", 1, true) == 1
end

--- An answer that is no stream is not looked at again.
local function begin(content_type)
    local dialect = dialect_of(content_type)
    if not dialect then
        ngx.ctx.watch = false
        return false
    end
    local watch = { dialect = dialect, next_check = CHECK_SECONDS, tail = "" }
    -- From here on by the clock that no one sets: a check must not wait for one that was set back.
    watch.began_at = monotonic_time() - math.max(0, ngx.now() - ngx.req.start_time())
    ngx.ctx.watch = watch
    return watch
end

--- nginx flushes an empty chunk behind the head where no event came with it, and one more when the
--- LLM server failed: any but the first call says so.
local function failure(watch, arrived)
    return arrived == "" and watch.has_begun and "upstream_unavailable" or nil
end

--- Called for each chunk on its way to the client; `ngx.ERROR` ends the connection.
---@param arrived string|nil what the LLM server sent, where another filter changed the chunk
function _M.filter(arrived)
    local content_type = ngx.header["Content-Type"]
    if is_plain(content_type) then
        return
    end
    local watch = ngx.ctx.watch
    if watch == nil then
        watch = begin(content_type)
    end
    if not watch then
        return
    end
    if watch.is_cut then
        return ngx.ERROR
    end
    local chunk, is_last = ngx.arg[1], ngx.arg[2]
    if is_last and chunk == "" then
        return
    end
    local elapsed_seconds = monotonic_time() - watch.began_at
    local code = watch.pending or failure(watch, arrived or chunk)
        or (is_due(watch, elapsed_seconds) and verdict(elapsed_seconds))
    watch.has_begun = true
    if code then
        cut(watch, code, chunk, elapsed_seconds)
    end
    watch.tail = sub(watch.tail .. sub(chunk, -MOST_END_CHARACTERS), -MOST_END_CHARACTERS)
end

return _M
