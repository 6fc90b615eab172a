---------
-- The gateway's metrics, in Prometheus' text form.
-- Counts are kept in the worker and added to the dictionary `portero_metrics` once a second, so a
-- request pays for a table entry alone. Labels come from fixed tables and from the policy's list of
-- LLM servers: it must never use a user, a path, a model or a token.

local dict = ngx.shared.portero_metrics

local counts = {}
--- By LLM server and outcome.
local server_counts = {}

local _M = {}

--- Count one decision.
---@param decision string "allowed", "redirected", the code of a refusal, or "cut_" and a code
function _M.count(decision)
    counts[decision] = (counts[decision] or 0) + 1
end

--- Count what became of one request to an LLM server.
---@param server string its name in the policy
---@param outcome string one of OUTCOMES
function _M.count_server(server, outcome)
    local of_server = server_counts[server]
    if not of_server then
        of_server = {}
        server_counts[server] = of_server
    end
    of_server[outcome] = (of_server[outcome] or 0) + 1
end

--- A name that no decision has.
local function key_of(server, outcome)
    return server .. "\n" .. outcome
end

--- Add this worker's counts to the shared ones.
function _M.flush()
    for decision, count in pairs(counts) do
        dict:incr(decision, count, 0)
        counts[decision] = nil
    end
    for server, of_server in pairs(server_counts) do
        for outcome, count in pairs(of_server) do
            dict:incr(key_of(server, outcome), count, 0)
        end
        server_counts[server] = nil
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
    { "portero_time_seconds", "The gateway's clock, in Unix seconds.",
        function() return ("%.3f"):format(ngx.now()) end },
    { "portero_snapshot_generation", "The least valid generation of the active-token set.",
        function(status) return status.least end },
    { "portero_sync_position", "The store's last change that was applied here.",
        function(status) return status.position end },
    { "portero_active_tokens_free_bytes", "Memory of whole free pages in the active-token set.",
        function(status) return status.free_bytes end },
    { "portero_active_tokens_capacity_bytes", "Memory of the active-token set.",
        function(status) return status.capacity_bytes end },
    { "portero_api_keys_free_bytes", "Memory of whole free pages in what is known of API keys.",
        function(status) return status.api_keys_free_bytes end },
    { "portero_api_keys_capacity_bytes", "Memory of what is known of API keys.",
        function(status) return status.api_keys_capacity_bytes end },
    { "portero_sync_staleness_seconds", "Since the issuer was last heard.",
        function(_, staleness_seconds) return staleness_seconds end },
    { "portero_tls_certificate_seconds_left", "Until the certificate of the public listener ends.",
        function(status) return status.certificate_seconds_left end },
    { "portero_internal_tls_certificate_seconds_left",
        "Until the certificate of the internal listener ends.",
        function(status) return status.internal_certificate_seconds_left end },
}

--- What may become of a request to an LLM server.
local OUTCOMES = { "answered", "failed", "refused", "unavailable" }

local function as_number(value)
    return value and 1 or 0
end

--- Of an LLM server of the policy: name, kind, help, and what `server_state.status` says of it.
local OF_SERVERS = {
    { "portero_llm_server_up", "gauge", "1 while it lists its models and is not ejected.",
        function(server) return as_number(server.state == "up") end },
    { "portero_llm_server_misconfigured", "gauge", "1 while it refuses the key that it is sent.",
        function(server) return as_number(server.state == "misconfigured") end },
    { "portero_llm_server_taken_out", "gauge", "1 while an admin has taken it out.",
        function(server) return as_number(server.taken_out) end },
    { "portero_llm_server_in_flight", "gauge", "Requests that it is answering.",
        function(server) return server.in_flight end },
    { "portero_llm_server_models", "gauge", "Models that it has.",
        function(server) return #server.models end },
    { "portero_llm_server_ejections_total", "counter", "Times that it was ejected.",
        function(server) return server.ejections end },
}

local function label_of(server)
    return '{server="' .. server.name .. '"}'
end

local function add_requests(out, servers)
    local name = "portero_llm_server_requests_total"
    head(out, name, "counter", "Requests to an LLM server, by what became of them.")
    for _, server in ipairs(servers) do
        for _, outcome in ipairs(OUTCOMES) do
            local label = ('{server="%s",outcome="%s"}'):format(server.name, outcome)
            line(out, name, dict:get(key_of(server.name, outcome)) or 0, label)
        end
    end
end

local function add_servers(out, servers)
    for _, of in ipairs(OF_SERVERS) do
        head(out, of[1], of[2], of[3])
        for _, server in ipairs(servers) do
            line(out, of[1], of[4](server), label_of(server))
        end
    end
    add_requests(out, servers)
end

--- What is worth an alarm is there from the start: of a series that begins at 1 no one sees a rise.
local ALARMING = { "internal_error", "upstream_unavailable" }

local function add_decisions(out)
    for _, decision in ipairs(ALARMING) do
        dict:safe_add(decision, 0)
    end
    head(out, "portero_decisions_total", "counter", "Requests judged and streams cut, by decision.")
    local decisions = dict:get_keys(0)
    table.sort(decisions)
    for _, decision in ipairs(decisions) do
        if not decision:find("\n", 1, true) then
            local label = '{decision="' .. decision .. '"}'
            line(out, "portero_decisions_total", dict:get(decision), label)
        end
    end
end

--- The text of `/metrics`.
---@param status table of `active_tokens.status`
---@param staleness_seconds number|nil
---@param servers table[]|nil of `server_state.status`, with `in_flight`; nil where the policy has
---     none
---@return string
function _M.exposition(status, staleness_seconds, servers)
    _M.flush()
    local out = {}
    add_decisions(out)
    if servers then
        add_servers(out, servers)
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
