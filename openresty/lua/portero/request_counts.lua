---------
-- How many requests have ended, by the class of their route, their status and their caller's role.
-- Kept in the worker, and added to the dictionary `portero_metrics` once a second. A request is
-- marked as it is judged, by a text that is made once for a class and a role, and counted in the
-- log phase, so it pays for two look-ups. Classes and roles are the policy's own, and nothing that
-- a caller made up may be a label.

local dict = ngx.shared.portero_metrics

local ngx, var = ngx, ngx.var

--- What a request is counted as that has no route, or nobody who may be told apart.
local NONE = "none"
--- No name of a decision, of a server's count, or of a histogram begins like this.
local PREFIX = "r\n"

--- Class -> role -> the mark of both.
local marks = {}
--- Mark -> status -> count; what was not marked has the mark "".
local counts = {}

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
    var.counted_as = of_class and of_class[role] or new_mark(class, role)
end

local function new_counts(mark)
    counts[mark] = {}
    return counts[mark]
end

--- Count the request that has ended (`log`).
function _M.count()
    local mark, status = var.counted_as, ngx.status
    local of_mark = counts[mark] or new_counts(mark)
    of_mark[status] = (of_mark[status] or 0) + 1
end

--- Add this worker's counts to the shared ones.
function _M.flush()
    for mark, of_mark in pairs(counts) do
        local start = PREFIX .. (mark ~= "" and mark or NONE .. "\n" .. NONE) .. "\n"
        for status, count in pairs(of_mark) do
            dict:incr(start .. status, count, 0)
        end
        counts[mark] = nil
    end
end

local NAME = "portero_requests_total"
local HEAD = ("# HELP %s Requests that have ended, by class, role and status.\n# TYPE %s counter\n")
    :format(NAME, NAME)

--- The text of all, for `/metrics`; empty where nothing was asked.
---@return string
function _M.exposition()
    _M.flush()
    local lines = {}
    for _, key in ipairs(dict:get_keys(0)) do
        local class, role, status = key:match("^r\n([^\n]*)\n([^\n]*)\n(%d+)$")
        if class then
            lines[#lines + 1] = ('%s{class="%s",role="%s",status="%s"} %d\n'):format(
                NAME, class, role, status, dict:get(key))
        end
    end
    table.sort(lines)
    return lines[1] and HEAD .. table.concat(lines) or ""
end

return _M
