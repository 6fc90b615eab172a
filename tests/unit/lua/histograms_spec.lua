---------
-- Histograms by model, as Prometheus reads them.

local fake_ngx = require("fake_ngx")

local fake, histograms

before_each(function()
    fake = fake_ngx.install()
    histograms = fake.load("portero.histograms")
end)

describe("exposition", function()
    it("is nothing where nothing was noted", function()
        assert.equal("", histograms.exposition())
    end)

    it("has buckets that add up, a sum and a count, of all workers", function()
        histograms.note("tiny", 0.5, 0.03, 7, 100)
        histograms.note("other", 900, nil, 0, 0)
        histograms.flush()
        local load = fake.new_worker()
        load("portero.histograms").note("tiny", 0.02, 0.03, 9, 0)
        local text = load("portero.histograms").exposition()
        local function has(name, labels, value)
            local line = ('\n%s{gen_ai_request_model=%s} %s\n'):format(name, labels, value)
            assert.is_truthy(text:find(line, 1, true), line)
        end
        assert.is_truthy(text:find(
            "# TYPE gen_ai_server_request_duration_seconds histogram\n", 1, true))
        local duration = "gen_ai_server_request_duration_seconds"
        has(duration .. "_bucket", '"tiny",le="0.01"', 0)
        has(duration .. "_bucket", '"tiny",le="0.02"', 1)
        has(duration .. "_bucket", '"tiny",le="0.64"', 2)
        has(duration .. "_bucket", '"tiny",le="+Inf"', 2)
        has(duration .. "_sum", '"tiny"', 0.52)
        has(duration .. "_bucket", '"other",le="81.92"', 0)
        has(duration .. "_count", '"other"', 1)
        has("gen_ai_server_time_to_first_token_seconds_count", '"tiny"', 2)
        has("gen_ai_client_token_usage_sum", '"tiny",gen_ai_token_type="input"', 16)
        has("gen_ai_client_token_usage_bucket", '"tiny",gen_ai_token_type="output",le="64"', 1)
        assert.is_nil(text:find('first_token_seconds_count{gen_ai_request_model="other"', 1, true))
    end)

    it("puts each value under the first bound that it does not exceed, at bounds too", function()
        local step = 0.01
        for place = 0, 13 do
            local bound = step * 2 ^ place
            histograms.note("m" .. place, bound, bound, 4 ^ place, 4 ^ place + 1)
        end
        histograms.note("least", 0, 0, 1, 0)
        histograms.note("most", 1e9, 1e9, 1e12, 1e12)
        local text = histograms.exposition()
        local function first_bound(name, labels)
            local line = "\n" .. name .. '_bucket{gen_ai_request_model="' .. labels
            for bound, count in text:gmatch(line .. ',le="([^"]+)"} (%d+)') do
                if count == "1" then
                    return tonumber(bound) or math.huge
                end
            end
        end
        local first = { 0.01, 0.02, 0.04, 0.08, 0.25, 0.5, 0.75, 2.5, 5, 7.5, 1 / 0 }
        for place = 0, 13 do
            local model, input = "m" .. place .. '"', 'm%d",gen_ai_token_type="%s"'
            assert.is_near(step * 2 ^ place,
                first_bound("gen_ai_server_request_duration_seconds", model), 1e-9)
            assert.equal(first[place + 1] or 1 / 0,
                first_bound("gen_ai_server_time_to_first_token_seconds", model))
            assert.equal(4 ^ place, first_bound("gen_ai_client_token_usage",
                input:format(place, "input")))
            assert.equal(4 ^ (place + 1) <= 4 ^ 13 and 4 ^ (place + 1) or 1 / 0,
                first_bound("gen_ai_client_token_usage", input:format(place, "output")))
        end
        for _, name in ipairs({ "request_duration", "time_to_first_token" }) do
            name = "gen_ai_server_" .. name .. "_seconds"
            assert.is_true(first_bound(name, 'least"') <= 0.01)
            assert.equal(1 / 0, first_bound(name, 'most"'))
        end
    end)

    it("has the tokens of what has no request of its own, and no duration", function()
        histograms.note_tokens("tiny", 5, 0)
        histograms.note_tokens("tiny", 0, 0)
        local text = histograms.exposition()
        assert.matches('gen_ai_client_token_usage_count{gen_ai_request_model="tiny",'
            .. 'gen_ai_token_type="input"} 1\n', text, 1, true)
        assert.is_nil(text:find("duration", 1, true))
    end)

    it("adds nothing to the counts of decisions", function()
        histograms.note("tiny", 1, 1, 1, 1)
        histograms.flush()
        local text = fake.load("portero.metrics").exposition({}, nil)
        assert.is_nil(text:find("tiny", 1, true))
    end)
end)
