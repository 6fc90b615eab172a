---------
-- Which server is next: in turn, another after a failure, found again at a new address.

local fake_ngx = require("fake_ngx")

local fake, balancer, hosts, upstreams

--- A resolver whose names the spec sets, and whose async answers take one tick.
local function fake_resolver()
    return {
        watch = function(host) return { host = host, addresses = hosts[host] or {} } end,
        look = function(watch)
            local is_done = watch.is_begun and hosts.delay ~= true
            watch.is_begun = not is_done
            watch.addresses = is_done and hosts[watch.host] or watch.addresses
            return is_done and hosts[watch.host] ~= nil
        end,
    }
end

before_each(function()
    fake = fake_ngx.install()
    balancer, hosts = fake.balancer, {}
    package.loaded["portero.server.resolver"] = fake_resolver()
    upstreams = fake.load("portero.server.upstreams")
end)

after_each(function()
    package.loaded["ngx.balancer"] = nil
end)

local function set(...)
    local urls = {}
    for index, host in ipairs({ ... }) do
        urls[index] = { host = host, port = 8000 }
    end
    upstreams.set("llm", urls)
end

--- A request, as a function: each call of it is one more try.
local function new_request(name)
    local ctx = {}
    return function()
        fake.ngx.ctx = ctx
        upstreams.pick(name or "llm")
        return balancer.chosen[#balancer.chosen]
    end
end

--- One request: its first choice.
local function pick(name)
    balancer.more_tries = nil
    return new_request(name)()
end

describe("reach", function()
    before_each(function() fake.sent, fake.said = {}, {} end)

    it("connects to each address, and closes again", function()
        set("10.0.0.1", "10.0.0.2")
        assert.same({ { address = "10.0.0.1:8000" }, { address = "10.0.0.2:8000" } },
            upstreams.reach("llm"))
        assert.equal(2, fake.closed)
    end)

    it("says why there was no connection", function()
        set("10.0.0.1")
        fake.connect_error = "connection refused"
        assert.same({ { address = "10.0.0.1:8000", error = "connection refused" } },
            upstreams.reach("llm"))
    end)

    it("says which name is not known", function()
        set("nowhere")
        assert.same({ { address = "nowhere", error = "its name is not known" } },
            upstreams.reach("llm"))
    end)
end)

describe("pick", function()
    it("chooses the only server every time, and asks for no second try", function()
        set("10.0.0.1")
        assert.equal("10.0.0.1:8000", pick())
        assert.equal("10.0.0.1:8000", pick())
        assert.is_nil(balancer.more_tries)
    end)

    it("takes the servers in turn", function()
        set("10.0.0.1", "10.0.0.2", "10.0.0.3")
        for _ = 1, 6 do
            pick()
        end
        assert.same({
            "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000",
            "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000",
        }, balancer.chosen)
    end)

    it("takes all addresses of a name in turn", function()
        hosts.llm = { "10.0.0.1", "10.0.0.2" }
        set("llm")
        assert.not_equal(pick(), pick())
    end)

    it("asks for as many more tries as there are other servers, once a request", function()
        set("10.0.0.1", "10.0.0.2", "10.0.0.3")
        local try = new_request()
        try()
        assert.equal(2, balancer.more_tries)
        balancer.more_tries = nil
        try()
        assert.is_nil(balancer.more_tries)
    end)

    it("chooses another server after a failure", function()
        set("10.0.0.1", "10.0.0.2")
        local try = new_request()
        assert.equal("10.0.0.1:8000", try())
        assert.equal("10.0.0.2:8000", try())
    end)

    it("chooses another although the name's addresses come in another order meanwhile", function()
        hosts.issuer = { "10.0.0.1", "10.0.0.2" }
        upstreams.set("issuer", { { host = "issuer", port = 9000 } })
        upstreams.start()
        local try = new_request("issuer")
        local first = try()
        hosts.issuer = { "10.0.0.2", "10.0.0.1" }
        fake.tick()
        fake.tick()
        assert.not_equal(first, try())
    end)

    it("has tried every server after as many tries, whoever's turn it was", function()
        set("10.0.0.1", "10.0.0.2", "10.0.0.3")
        for _ = 1, 3 do
            local try = new_request()
            local tried = { [try()] = true, [try()] = true, [try()] = true }
            assert.same({
                ["10.0.0.1:8000"] = true, ["10.0.0.2:8000"] = true, ["10.0.0.3:8000"] = true,
            }, tried)
            pick()
        end
    end)

    it("chooses another server although other requests come between", function()
        set("10.0.0.1", "10.0.0.2")
        local try = new_request()
        local first = try()
        pick()
        assert.not_equal(first, try())
    end)

    it("has each of two requests try every server, however their tries fall", function()
        set("10.0.0.1", "10.0.0.2", "10.0.0.3")
        local tries = { new_request(), new_request() }
        local tried = { {}, {} }
        for _, which in ipairs({ 1, 2, 2, 1, 2, 1 }) do
            tried[which][tries[which]()] = true
        end
        for which = 1, 2 do
            assert.same({
                ["10.0.0.1:8000"] = true, ["10.0.0.2:8000"] = true, ["10.0.0.3:8000"] = true,
            }, tried[which])
        end
    end)

    it("does not use up another request's turn by a retry", function()
        set("10.0.0.1", "10.0.0.2", "10.0.0.3")
        local try = new_request()
        try()
        try()
        assert.equal("10.0.0.2:8000", pick())
    end)

    it("finds a server for a retry when there are fewer than before", function()
        set("10.0.0.1", "10.0.0.2", "10.0.0.3")
        pick()
        pick()
        local try = new_request()
        assert.equal("10.0.0.3:8000", try())
        set("10.0.0.1", "10.0.0.2")
        assert.equal("10.0.0.2:8000", try())
        set("10.0.0.1")
        assert.equal("10.0.0.1:8000", try())
    end)

    it("ends with 502 where there is no server", function()
        set("nobody")
        upstreams.pick("llm")
        assert.equal(502, fake.answer.exit)
        assert.same({}, balancer.chosen)
    end)

    it("ends with 502 and says so in the log where nginx refuses the address", function()
        set("10.0.0.1")
        balancer.refuses = true
        upstreams.pick("llm")
        assert.equal(502, fake.answer.exit)
        assert.same({ "upstreams.pick: refused" }, fake.logged)
    end)

    it("keeps the upstreams apart", function()
        upstreams.set("llm", { { host = "10.0.0.1", port = 1 } })
        upstreams.set("issuer", { { host = "10.0.0.2", port = 2 } })
        assert.equal("10.0.0.1:1", pick("llm"))
        assert.equal("10.0.0.2:2", pick("issuer"))
    end)

    -- nginx takes an IPv6 address in brackets only: "invalid port" without them.
    it("gives nginx an IPv6 address in brackets", function()
        hosts.llm = { "fe80::2" }
        set("::1", "llm")
        assert.equal("[::1]:8000", pick())
        assert.equal("[fe80::2]:8000", pick())
    end)
end)

describe("is_known", function()
    it("is true where any address of the upstream is known", function()
        hosts.llm = { "10.0.0.9" }
        for _, names in ipairs({ { "10.0.0.1" }, { "::1" }, { "llm" }, { "nobody", "llm" } }) do
            set(unpack(names))
            assert.is_true(upstreams.is_known("llm"))
        end
    end)

    it("is false where no name of the upstream could be looked up", function()
        set("nobody", "no-one")
        assert.is_false(upstreams.is_known("llm"))
    end)

    it("is each upstream's own", function()
        set("nobody")
        upstreams.set("issuer", { { host = "10.0.0.2", port = 2 } })
        assert.is_false(upstreams.is_known("llm"))
        assert.is_true(upstreams.is_known("issuer"))
    end)

    it("becomes true once the name is found, and stays true when it is lost again", function()
        set("late")
        upstreams.start()
        assert.is_false(upstreams.is_known("llm"))
        hosts.late = { "10.0.0.5" }
        fake.tick()
        fake.tick()
        assert.is_true(upstreams.is_known("llm"))
        hosts.late = nil
        fake.tick()
        fake.tick()
        assert.is_true(upstreams.is_known("llm"))
    end)
end)

describe("set", function()
    it("looks a name up at once and takes an address as it is", function()
        hosts.llm = { "10.0.0.9" }
        set("llm", "10.0.0.1")
        assert.equal("10.0.0.9:8000", pick())
        assert.equal("10.0.0.1:8000", pick())
    end)
end)

describe("start", function()
    before_each(function()
        hosts.llm = { "10.0.0.1" }
        set("llm")
        upstreams.start()
    end)

    local function ticks(count)
        for _ = 1, count do
            fake.tick()
        end
    end

    it("keeps looking names up every two seconds", function()
        assert.equal(1, #fake.timers)
        assert.equal(2, fake.timers[1].seconds)
    end)

    it("finds a name again that comes back with another address", function()
        hosts.llm = { "10.0.0.2" }
        assert.equal("10.0.0.1:8000", pick())
        ticks(2)
        assert.equal("10.0.0.2:8000", pick())
        hosts.llm = { "10.0.0.3" }
        ticks(2)
        assert.equal("10.0.0.3:8000", pick())
    end)

    it("finds a name that nobody knew at the start", function()
        set("late")
        hosts.late = { "10.0.0.5" }
        ticks(2)
        assert.equal("10.0.0.5:8000", pick())
    end)

    it("keeps a good address while its name cannot be looked up", function()
        hosts.llm = nil
        ticks(10)
        assert.equal("10.0.0.1:8000", pick())
    end)

    it("keeps a good address while another name of its upstream moves", function()
        hosts.other = { "10.0.1.1" }
        set("llm", "other")
        hosts.llm, hosts.other = nil, { "10.0.1.2" }
        ticks(2)
        assert.equal("10.0.0.1:8000", pick())
        assert.equal("10.0.1.2:8000", pick())
    end)

    it("keeps a good address while a look-up takes its time, and takes the answer then", function()
        hosts.llm, hosts.delay = { "10.0.0.2" }, true
        ticks(10)
        assert.equal("10.0.0.1:8000", pick())
        hosts.delay = false
        ticks(1)
        assert.equal("10.0.0.2:8000", pick())
    end)

    it("goes on in turn when there are fewer servers than before", function()
        hosts.llm = { "10.0.0.1", "10.0.0.2", "10.0.0.3" }
        ticks(2)
        for _ = 1, 3 do
            pick()
        end
        hosts.llm = { "10.0.0.1", "10.0.0.2" }
        ticks(2)
        assert.not_equal(pick(), pick())
    end)

    it("never looks an address up", function()
        set("10.0.0.1")
        package.loaded["portero.server.resolver"].look = function() error("asked") end
        ticks(3)
        assert.equal("10.0.0.1:8000", pick())
    end)
end)
