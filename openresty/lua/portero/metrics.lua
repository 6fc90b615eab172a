---------
-- The gateway's metrics, in Prometheus' text form.
-- Counts are kept in the worker and added to the dictionary `portero_metrics` once a second, so a
-- request pays for a table entry alone. Labels come from fixed tables: it must never use a user, a
-- path, a model or a token.

local dict = ngx.shared.portero_metrics

local counts = {}

local _M = {}

--- Count one decision.
---@param decision string "allowed", "redirected", the code of a refusal, or "cut_" and a code
function _M.count(decision)
    counts[decision] = (counts[decision] or 0) + 1
end

--- Add this worker's counts to the shared ones.
function _M.flush()
    for decision, count in pairs(counts) do
        dict:incr(decision, count, 0)
        counts[decision] = nil
    end
end

local function line(out, name, value, label)
    out[#out + 1] = name .. (label or "") .. " " .. tostring(value) .. "\n"
end

local function head(out, name, kind, help)
    out[#out + 1] = "# HELP " .. name .. " " .. help .. "\n# TYPE " .. name .. " " .. kind .. "\n"
end

local GAUGES = {
    { "portero_ready", "1 once the first snapshot is whole.",
        function(status) return status.ready and 1 or 0 end },
    { "portero_snapshot_generation", "The least valid generation of the active-token set.",
        function(status) return status.least end },
    { "portero_sync_position", "The store's last change that was applied here.",
        function(status) return status.position end },
    { "portero_active_tokens_free_bytes", "Memory of whole free pages in the active-token set.",
        function(status) return status.free_bytes end },
    { "portero_active_tokens_capacity_bytes", "Memory of the active-token set.",
        function(status) return status.capacity_bytes end },
    { "portero_sync_staleness_seconds", "Since the issuer was last heard.",
        function(_, staleness_seconds) return staleness_seconds end },
}

--- The text of `/metrics`.
---@param status table of `active_tokens.status`
---@param staleness_seconds number|nil
---@return string
function _M.exposition(status, staleness_seconds)
    _M.flush()
    local out = {}
    head(out, "portero_decisions_total", "counter", "Requests judged and streams cut, by decision.")
    local decisions = dict:get_keys(0)
    table.sort(decisions)
    for _, decision in ipairs(decisions) do
        line(out, "portero_decisions_total", dict:get(decision), '{decision="' .. decision .. '"}')
    end
    for _, gauge in ipairs(GAUGES) do
        local value = gauge[3](status, staleness_seconds)
        if value then
            head(out, gauge[1], "gauge", gauge[2])
            line(out, gauge[1], value)
        end
    end
    return table.concat(out)
end

return _M
