---------
-- Requests that have ended, by class, role and status, as Prometheus reads them.

local fake_ngx = require("fake_ngx")

local fake, request_counts

before_each(function()
    fake = fake_ngx.install()
    request_counts = fake.load("portero.request_counts")
end)

--- A request from its mark to its end; without a class it has none.
local function serve(status, class, role)
    fake.request({})
    fake.ngx.var.counted_as = ""
    if class then
        request_counts.note(class, role)
    end
    fake.answer.status = status
    request_counts.count()
end

local function lines()
    local found = {}
    for line in request_counts.exposition():gmatch("portero_requests_total{([^\n]*)\n") do
        found[#found + 1] = line
    end
    return found
end

describe("exposition", function()
    it("is nothing where nothing was asked", function()
        assert.equal("", request_counts.exposition())
    end)

    it("tells classes, roles and statuses apart, and what has none", function()
        serve(200, "inference", "agi")
        serve(200, "inference", "agi")
        serve(429, "inference", "agi")
        serve(401, "inference")
        serve(200, "console", "admin")
        serve(404)
        assert.same({
            'class="console",role="admin",status="200"} 1',
            'class="inference",role="agi",status="200"} 2',
            'class="inference",role="agi",status="429"} 1',
            'class="inference",role="none",status="401"} 1',
            'class="none",role="none",status="404"} 1',
        }, lines())
        assert.matches("\n# TYPE portero_requests_total counter\n", request_counts.exposition(), 1,
            true)
    end)

    it("adds up what all workers have counted, and adds nothing twice", function()
        serve(200, "inference", "agi")
        request_counts.flush()
        request_counts.flush()
        local own = request_counts
        request_counts = fake.new_worker()("portero.request_counts")
        serve(200, "inference", "agi")
        assert.same({ 'class="inference",role="agi",status="200"} 2' }, lines())
        request_counts = own
        assert.same({ 'class="inference",role="agi",status="200"} 2' }, lines())
    end)

    it("adds nothing to the counts of decisions, nor those of servers, to its own", function()
        serve(200, "inference", "agi")
        local metrics = fake.load("portero.metrics")
        metrics.count("allowed")
        metrics.count_server("r", "answered")
        assert.is_nil(metrics.exposition({}, nil):find("inference", 1, true))
        assert.equal(1, #lines())
    end)
end)
