---------
-- How many requests have ended, by the class of their route, their status and their caller's role;
-- and how many streams run.
-- Kept in the worker, and told to the dictionary `portero_metrics` once a second. A request is
-- marked as it is judged, by a text that is made once for a class and a role, and counted in the
-- log phase, so it pays for a few look-ups. Classes and roles are the policy's own, and nothing
-- that a caller made up may be a label.
--
-- Of streams each worker tells its own number, for as long as it renews it: one that was killed is
-- forgotten with them, and one on its way out, which has no next second, tells all at once.

local request_key = require("portero.request_key")

local dict = ngx.shared.portero_metrics

local ngx = ngx

--- What a request is counted as that has no route, or nobody who may be told apart.
local NONE = "none"
local UNMARKED = ""
--- No name of a decision, of a server's count, or of a histogram begins like this.
local PREFIX, STREAMS = "r\n", "s\n"
local LEASE_SECONDS = 10
--- `worker_shutdown_timeout`: a worker on its way out has no timer to renew with, and no longer.
local LAST_LEASE_SECONDS = 600

--- Class -> role -> the mark of both.
local marks = {}
--- Mark -> status -> count; what was not marked has the mark UNMARKED.
local counts = {}
--- Request's key -> its mark, and whether its answer is a stream; until it has ended.
local marked, is_stream = {}, {}
--- Streams that run in this worker.
local running = 0

local _M = {}

local function new_mark(class, role)
    marks[class] = marks[class] or {}
    marks[class][role] = class .. "\n" .. role
    return marks[class][role]
end

--- Mark the request: what it will be counted as when it ends.
---@param class string of its route
---@param role string|nil its caller's, where that is known
function _M.note(class, role)
    role = role or NONE
    local of_class = marks[class]
    marked[request_key.of_this()] = of_class and of_class[role] or new_mark(class, role)
end

local function new_counts(mark)
    counts[mark] = {}
    return counts[mark]
end

--- Tell how many streams run here.
local function tell_streams()
    local key = STREAMS .. ngx.worker.pid()
    if running == 0 then
        return dict:delete(key)
    end
    dict:safe_set(key, running, ngx.worker.exiting() and LAST_LEASE_SECONDS or LEASE_SECONDS)
end

--- The request's answer is a stream; it is one until the request ends.
function _M.begin_stream()
    local key = request_key.of_this()
    if not is_stream[key] then
        is_stream[key], running = true, running + 1
    end
end

--- Count the request that has ended (`log`).
function _M.count()
    local key, status = request_key.of_this(), ngx.status
    local mark = marked[key] or UNMARKED
    marked[key] = nil
    if is_stream[key] then
        is_stream[key], running = nil, running - 1
    end
    local of_mark = counts[mark] or new_counts(mark)
    of_mark[status] = (of_mark[status] or 0) + 1
    if ngx.worker.exiting() then
        _M.flush()
    end
end

--- Add this worker's counts to the shared ones.
function _M.flush()
    for mark, of_mark in pairs(counts) do
        local start = PREFIX .. (mark ~= UNMARKED and mark or NONE .. "\n" .. NONE) .. "\n"
        for status, count in pairs(of_mark) do
            dict:incr(start .. status, count, 0)
        end
        counts[mark] = nil
    end
    tell_streams()
end

local NAME = "portero_requests_total"
local HEAD = ("# HELP %s Requests that have ended, by class, role and status.\n# TYPE %s counter\n")
    :format(NAME, NAME)

local STREAMS_LINE = "# HELP portero_streams_running Answers and WebSockets that flow now.\n"
    .. "# TYPE portero_streams_running gauge\nportero_streams_running %d\n"

--- The text of all, for `/metrics`.
---@return string
function _M.exposition()
    _M.flush()
    local lines, streams = {}, 0
    for _, key in ipairs(dict:get_keys(0)) do
        streams = streams + (key:find("^s\n%d+$") and dict:get(key) or 0)
        local class, role, status = key:match("^r\n([^\n]*)\n([^\n]*)\n(%d+)$")
        if class then
            lines[#lines + 1] = ('%s{class="%s",role="%s",status="%s"} %d\n'):format(
                NAME, class, role, status, dict:get(key))
        end
    end
    table.sort(lines)
    return (lines[1] and HEAD .. table.concat(lines) or "") .. STREAMS_LINE:format(streams)
end

return _M
