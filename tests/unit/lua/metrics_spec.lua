---------
-- Counts of decisions and the text of /metrics.

local fake_ngx = require("fake_ngx")

local fake, metrics, dict

before_each(function()
    fake = fake_ngx.install()
    dict = fake.shared.portero_metrics
    metrics = fake.load("portero.metrics")
end)

local STATUS = {
    ready = true, least = 3, position = 42, free_bytes = 4096, capacity_bytes = 201326592,
}

local function exposition(changes, staleness)
    local status = {}
    for name, value in pairs(STATUS) do
        status[name] = value
    end
    for name, value in pairs(changes or {}) do
        status[name] = value
    end
    return metrics.exposition(status, staleness)
end

describe("count and flush", function()
    it("keeps counts in the worker until they are flushed", function()
        metrics.count("allowed")
        assert.is_nil(dict:get("allowed"))
        metrics.flush()
        assert.equal(1, dict:get("allowed"))
    end)

    it("adds to what other workers have counted, and adds nothing twice", function()
        dict:incr("allowed", 5, 0)
        for _ = 1, 3 do
            metrics.count("allowed")
        end
        metrics.count("expired")
        metrics.flush()
        metrics.flush()
        assert.equal(8, dict:get("allowed"))
        assert.equal(1, dict:get("expired"))
    end)
end)

describe("exposition", function()
    it("shows the counts of this very moment, sorted by decision", function()
        metrics.count("not_found")
        metrics.count("allowed")
        metrics.count("allowed")
        assert.matches('\nportero_decisions_total{decision="allowed"} 2\n'
            .. 'portero_decisions_total{decision="internal_error"} 0\n'
            .. 'portero_decisions_total{decision="not_found"} 1\n', exposition(), 1, true)
    end)

    -- A gauge, what the status says, and its line.
    local GAUGES = {
        { "portero_ready", { ready = true }, "1" },
        { "portero_ready", { ready = false }, "0" },
        { "portero_snapshot_generation", { least = 7 }, "7" },
        { "portero_sync_position", { position = 123456789 }, "123456789" },
        { "portero_active_tokens_free_bytes", { free_bytes = 0 }, "0" },
        { "portero_active_tokens_capacity_bytes", {}, "201326592" },
    }
    for _, case in ipairs(GAUGES) do
        it(("shows %s %s"):format(case[1], case[3]), function()
            local line = ("\n%s %s\n"):format(case[1], case[3])
            assert.matches(line, exposition(case[2]), 1, true)
        end)
    end

    it("shows this machine's clock", function()
        fake.clock.now = 1700000000.25
        assert.matches("\nportero_time_seconds 1700000000.250\n", exposition(), 1, true)
    end)

    it("shows the staleness where the issuer was ever heard, and else no such series", function()
        assert.matches("\nportero_sync_staleness_seconds 2.5\n", exposition({}, 2.5), 1, true)
        assert.matches("\nportero_sync_staleness_seconds 0\n", exposition({}, 0), 1, true)
        assert.is_nil(exposition():find("staleness", 1, true))
    end)

    local SERVER = {
        name = "rack", state = "up", models = { "m", "n" }, ejections = 3, in_flight = 2,
    }

    it("shows each LLM server of the policy, and requests to it by outcome", function()
        metrics.count_server("rack", "answered")
        metrics.count_server("rack", "answered")
        metrics.count_server("rack", "failed")
        metrics.count_server("one that is gone", "answered")
        local text = metrics.exposition(STATUS, nil, { SERVER })
        for _, series in ipairs({
            'up{server="rack"} 1', 'misconfigured{server="rack"} 0', 'in_flight{server="rack"} 2',
            'models{server="rack"} 2', 'ejections_total{server="rack"} 3',
            'requests_total{server="rack",outcome="answered"} 2',
            'requests_total{server="rack",outcome="failed"} 1',
            'requests_total{server="rack",outcome="refused"} 0',
        }) do
            assert.matches("\nportero_llm_server_" .. series .. "\n", text, 1, true)
        end
        assert.is_nil(text:find("gone", 1, true))
        assert.is_nil(exposition():find("llm_server", 1, true))
    end)

    for state, lines in pairs({
        down = { up = 0, misconfigured = 0, taken_out = 1 },
        misconfigured = { up = 0, misconfigured = 1, taken_out = 0 },
    }) do
        it("shows a server that is " .. state, function()
            local text = metrics.exposition(STATUS, nil, {
                {
                    name = "a", state = state, models = {}, ejections = 0, in_flight = 0,
                    taken_out = state == "down",
                },
            })
            for name, value in pairs(lines) do
                local series = ('portero_llm_server_%s{server="a"} %d\n'):format(name, value)
                assert.matches(series, text, 1, true)
            end
        end)
    end

    it("is text in the form of Prometheus, each series under its own help and type", function()
        metrics.count("allowed")
        local typed = {}
        local text = metrics.exposition(STATUS, 1, { SERVER })
        assert.equal("\n", text:sub(-1))
        for line in text:gmatch("([^\n]*)\n") do
            local name, kind = line:match("^# TYPE ([%w_]+) (%a+)$")
            if name then
                assert.is_nil(typed[name])
                typed[name] = kind
            elseif not line:find("^# HELP [%w_]+ %S.*$") then
                assert.is_string(typed[line:match("^([%w_]+)[{ ]")], line)
                assert.matches("^[%w_]+%S* [%d.]+$", line)
            end
        end
        assert.equal("counter", typed.portero_decisions_total)
        assert.equal("gauge", typed.portero_ready)
    end)

    it("has what is worth an alarm alone, with 0, where nothing was asked yet", function()
        local text = exposition()
        for _, decision in ipairs({ "internal_error", "upstream_unavailable" }) do
            assert.matches('\nportero_decisions_total{decision="' .. decision .. '"} 0\n', text, 1,
                true)
        end
        local _, lines = text:gsub("decision=", "")
        assert.equal(2, lines)
    end)
end)
