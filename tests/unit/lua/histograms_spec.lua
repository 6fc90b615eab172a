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

    it("adds nothing to the counts of decisions", function()
        histograms.note("tiny", 1, 1, 1, 1)
        histograms.flush()
        local text = fake.load("portero.metrics").exposition({}, nil)
        assert.is_nil(text:find("tiny", 1, true))
    end)
end)
