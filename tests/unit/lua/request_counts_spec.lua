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
    it("has no series where nothing was asked", function()
        assert.same({}, lines())
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

    --- How many streams run, as all workers tell.
    local function streams()
        return tonumber(request_counts.exposition():match("\nportero_streams_running (%d+)\n"))
    end

    local function begin_stream()
        fake.request({})
        request_counts.note("inference", "agi")
        request_counts.begin_stream()
        return fake.address
    end

    local function end_stream(address)
        fake.request({})
        fake.address, fake.answer.status = address, 200
        request_counts.count()
    end

    it("tells how many streams run, and counts each as any request when it ends", function()
        assert.equal(0, streams())
        local first = begin_stream()
        request_counts.begin_stream()
        assert.equal(1, streams())
        local second = begin_stream()
        serve(200, "inference", "agi")
        assert.equal(2, streams())
        end_stream(first)
        end_stream(second)
        assert.equal(0, streams())
        assert.same({ 'class="inference",role="agi",status="200"} 3' }, lines())
    end)

    it("adds up the streams of all workers, and forgets those of one that was killed", function()
        begin_stream()
        request_counts.flush()
        local own = request_counts
        request_counts, fake.worker_pid = fake.new_worker()("portero.request_counts"), 101
        begin_stream()
        assert.equal(2, streams())
        fake.clock.now = fake.clock.now + 20
        assert.equal(1, streams())
        request_counts, fake.worker_pid = own, 100
        assert.equal(2, streams())
    end)

    it("tells those of a worker on its way out for as long as they run", function()
        local address = begin_stream()
        begin_stream()
        fake.is_exiting = true
        request_counts.flush()
        request_counts, fake.worker_pid = fake.new_worker()("portero.request_counts"), 101
        local new = request_counts
        fake.clock.now = fake.clock.now + 60
        assert.equal(2, streams())
        request_counts = fake.load("portero.request_counts")
        fake.worker_pid = 100
        serve(502, "inference", "agi")
        end_stream(address)
        request_counts, fake.worker_pid, fake.is_exiting = new, 101, false
        assert.equal(1, streams())
        assert.same({
            'class="inference",role="agi",status="200"} 1',
            'class="inference",role="agi",status="502"} 1',
        }, lines())
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
