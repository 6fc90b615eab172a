---------
-- Running streams: cut when their token is revoked, handled by the role's policy when it expires,
-- and ended in the caller's dialect when the LLM server fails in the middle.
-- A stream is looked at when it moves, with one dictionary look-up a second at most. A cut is
-- visible: the error event takes the place of a chunk, and the connection ends without a last
-- chunk, which stops the LLM server too. It must never hold a chunk back.

local cjson = require("cjson.safe")
local active_tokens = require("portero.active_tokens")
local errors = require("portero.errors")
local metrics = require("portero.metrics")
local state = require("portero.state")

local var = ngx.var
local find, sub = string.find, string.sub

local CHECK_SECONDS = 1

--- How each streaming content type begins an event, and ends one.
local DIALECTS = {
    { type = "text/event-stream", before = "data: ", ends = "\n\n", other_ends = "\r\n\r\n" },
    { type = "application/x-ndjson", before = "", ends = "\n", other_ends = "\n" },
}
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
        if content_type and find(content_type, dialect.type, 1, true) == 1 then
            return dialect
        end
    end
    return false
end

local function ends_with(text, ending)
    return sub(text, -#ending) == ending
end

--- Whether what has passed ends in the middle of an event.
local function is_open(watch)
    local dialect = watch.dialect
    return watch.tail ~= ""
        and not ends_with(watch.tail, dialect.ends)
        and not ends_with(watch.tail, dialect.other_ends)
end

local function end_of_event(chunk, dialect)
    local _, stop = find(chunk, dialect.ends, 1, true)
    local _, other = find(chunk, dialect.other_ends, 1, true)
    return stop and other and math.min(stop, other) or stop or other
end

local function error_event(code, dialect)
    return dialect.before .. cjson.encode(errors.body(code, var.request_uri)) .. dialect.ends
end

--- Put the error in the place of a chunk. An event that has begun is finished first, or the error
--- could not be read; if it does not end in this chunk, the cut waits for the next one.
local function cut(watch, code, chunk)
    local rest = ""
    if is_open(watch) then
        local stop = end_of_event(chunk, watch.dialect)
        if not stop and chunk ~= "" then
            watch.next_check = 0
            return
        end
        rest = stop and sub(chunk, 1, stop) or watch.dialect.ends
    end
    watch.is_cut = true
    metrics.count("cut_" .. code)
    ngx.arg[1] = rest .. error_event(code, watch.dialect)
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

local function begin()
    local watch = {
        dialect = dialect_of(ngx.header["Content-Type"]),
        next_check = CHECK_SECONDS,
        tail = "",
    }
    ngx.ctx.watch = watch
    return watch
end

--- Called for each chunk on its way to the client; `ngx.ERROR` ends the connection.
function _M.filter()
    if var.watched ~= "yes" then
        return
    end
    local watch = ngx.ctx.watch or begin()
    if not watch.dialect then
        return
    end
    if watch.is_cut then
        return ngx.ERROR
    end
    local chunk, is_last = ngx.arg[1], ngx.arg[2]
    if is_last and chunk == "" then
        return
    end
    -- nginx flushes an empty chunk behind the head where no event came with it, and one more when
    -- the LLM server failed: any but the first call says so.
    if chunk == "" and watch.has_begun then
        return cut(watch, "upstream_unavailable", chunk)
    end
    watch.has_begun = true
    local elapsed_seconds = ngx.now() - ngx.req.start_time()
    local code = is_due(watch, elapsed_seconds) and verdict(elapsed_seconds)
    if code then
        cut(watch, code, chunk)
    end
    watch.tail = sub(watch.tail .. sub(chunk, -MOST_END_CHARACTERS), -MOST_END_CHARACTERS)
end

return _M
