---------
-- The start of the gateway: settings, then each module, and the tick of each worker.

local modules = require("modules")

local fake_ngx = require("fake_ngx")
local minted = require("minted")
local policies = require("policies")

local fake, init, env, getenv

local function balancer_that_records()
    local this = {}
    function this.get_last_failure() end
    function this.set_more_tries() end
    function this.set_current_peer(address, port)
        this.peer = address .. ":" .. port
        return true
    end
    return this
end

before_each(function()
    fake = fake_ngx.install(minted.NOW)
    package.loaded["ngx.balancer"] = balancer_that_records()
    package.loaded["portero.server.resolver"] = {
        watch = function() return { addresses = {} } end,
    }
    env = {
        SYNC_KEY = minted.SYNC_KEY,
        LLM_UPSTREAM = "http://127.0.0.1:8000",
        ISSUER_URL = "http://127.0.0.2:9000",
    }
    getenv = os.getenv
    rawset(os, "getenv", function(name) return env[name] end)
    init = fake.load("portero.init")
end)

after_each(function()
    rawset(os, "getenv", getenv)
    package.loaded["ngx.balancer"] = nil
end)

local function start()
    init.master()
    init.worker()
end

describe("master", function()
    it("has loaded every module there is, as a worker may not read them", function()
        for _, name in ipairs(modules.names()) do
            assert.is_truthy(package.loaded["portero." .. name], name)
        end
    end)

    it("names both upstreams", function()
        init.master()
        local balancer = package.loaded["ngx.balancer"]
        for name, peer in pairs({ llm = "127.0.0.1:8000", issuer = "127.0.0.2:9000" }) do
            fake.load("portero.server.upstreams").pick(name)
            assert.equal(peer, balancer.peer)
        end
    end)

    it("names this life of the dictionaries by 8 random bytes, once", function()
        init.master()
        local active_tokens = fake.load("portero.token.active_tokens")
        local boot = active_tokens.status().boot
        assert.matches("^" .. ("%x"):rep(16) .. "$", boot)
        init.master()
        assert.equal(boot, active_tokens.status().boot)
        fake.shared.portero_sync.entries = {}
        init.master()
        assert.not_equal(boot, active_tokens.status().boot)
    end)

    it("stops the start with all faults in one message and no secret in it", function()
        env.SYNC_KEY, env.LLM_UPSTREAM, env.PUBLIC_URL = "SEEN", ",", "x"
        local ok, err = pcall(init.master)
        assert.is_false(ok)
        assert.matches("^the gateway cannot start:\n  SYNC_KEY: ", err)
        assert.matches("\n  LLM_UPSTREAM: names no server\n", err, 1, true)
        assert.matches("\n  PUBLIC_URL: ", err, 1, true)
        assert.is_nil(err:find("SEEN", 1, true))
    end)

    it("takes an empty setting for none", function()
        env.PUBLIC_URL, env.SYNC_KEY_FILE = "", ""
        assert.has_no_error(function() init.master() end)
    end)
end)

describe("check", function()
    local real_exit, real_stderr, real_stdout, said, written, status

    before_each(function()
        real_exit, real_stderr, real_stdout = os.exit, io.stderr, io.stdout
        said, written = "", ""
        rawset(os, "exit", function(code) status = code end)
        rawset(io, "stderr", { write = function(_, text) said = said .. text end })
        rawset(io, "stdout", {
            write = function(_, text)
                written = written .. text
                return true
            end,
            flush = function() return true end,
        })
    end)

    after_each(function()
        rawset(os, "exit", real_exit)
        rawset(io, "stderr", real_stderr)
        rawset(io, "stdout", real_stdout)
    end)

    it("ends with 0 and writes what nginx must know where there is no fault", function()
        init.check()
        assert.equal(0, status)
        assert.equal("", said)
        assert.matches("\nupstream llm {\n", written, 1, true)
    end)

    it("ends with 1 and says every fault, and no secret", function()
        env.SYNC_KEY, env.PUBLIC_URL = "SEEN", "x"
        init.check()
        assert.equal(1, status)
        assert.equal("", written)
        assert.matches("^the gateway could not start:\n  SYNC_KEY: ", said)
        assert.matches("\n  PUBLIC_URL: ", said, 1, true)
        assert.is_nil(said:find("SEEN", 1, true))
    end)

    it("writes no certificate where there is none, and none beside a fault", function()
        for _, name in ipairs({ "TLS_CERTIFICATE", "INTERNAL_TLS_CERTIFICATE" }) do
            said, written = "", ""
            init.certificate(name)
            assert.same({ 0, "", "" }, { status, said, written })
            env[name] = "/nowhere/cert.pem"
            init.certificate(name)
            assert.same({ 1, "" }, { status, written })
            assert.matches(
                "^the certificate stays as it was:\n  " .. name .. ": cannot read ", said)
        end
    end)
end)

describe("worker", function()
    it("begins every module, so that a token is judged", function()
        start()
        local sealed = minted.sealed(minted.entry())
        assert.is_true(fake.load("portero.token.keys").put(minted.HISTORY, 1, sealed))
        policies.put(fake)
        local active_tokens = fake.load("portero.token.active_tokens")
        active_tokens.end_snapshot(active_tokens.begin_snapshot())
        active_tokens.activate(minted.JTI, minted.NOW + 900, minted.NOW)
        fake.request({
            method = "POST",
            target = "/llm/chat/completions",
            headers = { authorization = "Bearer " .. minted.token() },
        })
        fake.ngx.var.request_id = "one"
        fake.load("portero.access").judge()
        assert.equal("/v1/chat/completions", fake.ngx.var.upstream_target)
    end)

    it("keeps keys and policy over a reload, whose workers read them again", function()
        start()
        local sealed = minted.sealed(minted.entry())
        assert.is_true(fake.load("portero.token.keys").put(minted.HISTORY, 1, sealed))
        policies.put(fake)
        local load = fake.new_worker()
        load("portero.init").master()
        load("portero.init").worker()
        load("portero.shared_versions").look()
        local policy = load("portero.policy.in_force").current()
        assert.equal("USRS", policy.roles.user.code)
        assert.is_table(load("portero.token.token_cache").claims(minted.token(), 1, minted.NOW,
            policy))
    end)

    it("begins the sync with its own key", function()
        start()
        fake.request({ target = "/sync/status" })
        fake.load("portero.sync.receiver").handle()
        assert.equal(401, fake.answer.exit)
    end)

    it("lets streams be watched by the policy that was pushed", function()
        start()
        policies.put(fake)
        fake.request({ method = "POST", target = "/api/chat" })
        local var = fake.ngx.var
        var.auth_role, var.auth_token_id = "user", minted.JTI
        fake.ngx.header["Content-Type"] = "application/x-ndjson"
        local active_tokens = fake.load("portero.token.active_tokens")
        active_tokens.end_snapshot(active_tokens.begin_snapshot())
        fake.clock.now = minted.NOW + 5
        fake.ngx.arg[1] = "{}\n"
        fake.load("portero.answer.stream").filter()
        assert.equal("{}\n", fake.ngx.arg[1])
    end)

    it("sets a tick each second, the look-ups of names, and the asking of LLM servers", function()
        start()
        local seconds = {}
        for index, timer in ipairs(fake.timers) do
            seconds[index] = timer.seconds
        end
        table.sort(seconds)
        assert.same({ 0.25, 1, 2, 2 }, seconds)
    end)

    it("adds its counts to the shared ones at each tick", function()
        start()
        fake.load("portero.metrics").count("allowed")
        fake.tick()
        assert.equal(1, fake.shared.portero_metrics:get("allowed"))
    end)

    it("clears what has expired away at each tick of the first worker alone", function()
        start()
        local tokens = fake.shared.portero_active_tokens
        fake.load("portero.token.active_tokens").activate("a", minted.NOW + 1, minted.NOW)
        fake.clock.now = minted.NOW + 2
        fake.worker_id = 1
        fake.tick()
        assert.equal(1, tokens:count())
        fake.worker_id = 0
        fake.tick()
        assert.equal(0, tokens:count())
    end)
end)
