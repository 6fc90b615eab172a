---------
-- What is known of LLM servers: what failures, answers and lists make of one, and that a server
-- that answers well costs no write.

local fake_ngx = require("fake_ngx")

local fake, dict, state, policy

local function row(name, changes)
    local found = {
        name = name, kind = "vllm", dialect = "openai", model_names = "exact",
        scheme = "http", host = "10.0.0.1", port = 8000, path = "",
    }
    for field, value in pairs(changes or {}) do
        found[field] = value
    end
    return found
end

before_each(function()
    fake = fake_ngx.install()
    dict = fake.shared.portero_servers
    state = fake.load("portero.server.server_state")
    policy = { servers = { row("a"), row("b") } }
end)

local function a()
    return state.view(policy).a
end

local function list_of(...)
    local entries = {}
    for _, id in ipairs({ ... }) do
        entries[#entries + 1] = { id = id }
    end
    return { entries = entries }
end

local function word(index)
    return state.status(policy)[index or 1].state
end

local function times(count, report)
    for _ = 1, count do
        report(policy, "a")
    end
end

describe("view", function()
    it("knows nothing of a server that was not asked yet, and lets it be asked", function()
        assert.is_false(a().is_listed)
        assert.is_false(a().is_known)
        assert.is_true(a().is_up)
        assert.same({}, a().models)
        assert.equal("unknown", word())
    end)

    it("has one that an admin took out for not up, however well it lists its models", function()
        state.listed(policy.servers[1], list_of("m"))
        assert.is_true(a().is_first)
        policy = { servers = { row("a", { taken_out = true }), row("b") } }
        assert.is_true(a().is_out)
        assert.same({ false, false }, { a().is_up, a().is_first })
        assert.equal("m", a().models.m)
        local told = state.status(policy)
        assert.same({ "up", true }, { told[1].state, told[1].taken_out })
        assert.is_nil(told[2].taken_out)
        policy = { servers = { row("a"), row("b") } }
        assert.is_true(a().is_first)
    end)

    it("tells what was not asked yet from what does not list a model", function()
        state.listed(policy.servers[1], list_of())
        assert.is_true(a().is_listed)
        assert.is_true(a().is_known)
        assert.same({}, a().models)
        assert.is_false(state.view(policy).b.is_listed)
    end)

    it("is the same table until something changes", function()
        local before = state.view(policy)
        assert.equal(before, state.view(policy))
        state.listed(policy.servers[1], list_of("m"))
        local after = state.view(policy)
        assert.are_not.equal(before, after)
        state.listed(policy.servers[1], list_of("m"))
        assert.equal(after, state.view(policy))
    end)

    it("names models as their server does: Ollama's by what they become", function()
        policy.servers[1].model_names = "ollama"
        local entries = { { name = "Llama3:latest" }, { name = "x:1b" } }
        state.listed(policy.servers[1], { entries = entries })
        assert.same({ llama3 = "Llama3:latest", ["x:1b"] = "x:1b" }, a().models)
        policy.servers[2].model_names = "exact"
        state.listed(policy.servers[2], list_of("X:latest"))
        assert.same({ ["X:latest"] = "X:latest" }, state.view(policy).b.models)
    end)

    it("has of a list what models: lets through", function()
        policy.servers[1].models = { "qwen*", "phi" }
        state.listed(policy.servers[1], list_of("qwen3", "phi", "phi2", "llama"))
        assert.same({ qwen3 = "qwen3", phi = "phi" }, a().models)
    end)

    it("has the exact names of models: where a server cannot list, or has not yet", function()
        policy.servers[1].models = { "qwen*", "phi" }
        assert.same({ phi = "phi" }, a().models)
        assert.is_true(a().is_known)
        state.listed(policy.servers[1], {})
        assert.same({ phi = "phi" }, a().models)
        assert.equal("up", word())
    end)

    it("begins anew for a server that is another under the same name", function()
        state.listed(policy.servers[1], list_of("m"))
        times(3, state.failed)
        assert.is_true(a().is_ejected)
        policy = { servers = { row("a", { port = 8001 }), row("b") } }
        assert.is_false(a().is_ejected)
        assert.is_false(a().is_listed)
    end)

    it("is built by each worker, from what another has written", function()
        local other = fake.new_worker()("portero.server.server_state")
        assert.is_false(other.view(policy).a.is_listed)
        state.listed(policy.servers[1], list_of("m"))
        assert.same({ m = "m" }, other.view(policy).a.models)
        times(3, state.failed)
        assert.is_true(other.view(policy).a.is_ejected)
    end)
end)

for _, report in ipairs({ "failed", "answered_503" }) do
    describe(report, function()
        it("puts a server behind the others at once", function()
            assert.is_true(a().is_first)
            times(1, state[report])
            assert.is_false(a().is_first)
            assert.is_true(a().is_up)
            assert.is_true(state.view(policy).b.is_first)
        end)

        it("ejects at three in a row for 1, 2, 4 up to 30 seconds", function()
            times(2, state[report])
            for _, seconds in ipairs({ 1, 2, 4, 8, 16, 30, 30 }) do
                times(1, state[report])
                assert.is_true(a().is_ejected)
                fake.clock.now = fake.clock.now + seconds - 0.1
                assert.is_false(a().is_up)
                fake.clock.now = fake.clock.now + 0.2
                assert.is_true(a().is_up)
            end
            assert.equal(7, state.status(policy)[1].ejections)
        end)

        it("ejects once however many fail at the same time", function()
            times(100, state[report])
            assert.equal(1, state.status(policy)[1].ejections)
            fake.clock.now = fake.clock.now + 1.1
            assert.is_true(a().is_up)
        end)

        it("is forgiven by an answer: three must be in a row", function()
            times(2, state[report])
            state.answered(policy, "a")
            assert.is_true(a().is_first)
            times(2, state[report])
            assert.is_true(a().is_up)
            times(1, state[report])
            assert.is_false(a().is_up)
        end)
    end)
end

describe("answered", function()
    it("writes nothing where nothing changes", function()
        state.listed(policy.servers[1], list_of("m"))
        state.view(policy)
        for _, operation in ipairs({ "safe_set", "safe_add", "incr", "delete" }) do
            dict.meanwhile[operation] = function() error("a write: " .. operation) end
        end
        times(100, state.answered)
        dict.meanwhile = {}
    end)

    it("lets the time of the next ejection be the first again", function()
        times(3, state.failed)
        fake.clock.now = fake.clock.now + 1.1
        state.answered(policy, "a")
        times(3, state.failed)
        fake.clock.now = fake.clock.now + 1.1
        assert.is_true(a().is_up)
    end)

    it("is counted by server and outcome, as all reports are", function()
        local metrics = fake.load("portero.metrics")
        state.answered(policy, "a")
        state.failed(policy, "b")
        state.answered_503(policy, "b")
        state.refused_credential(policy, "b")
        metrics.flush()
        assert.equal(1, fake.shared.portero_metrics:get("a\nanswered"))
        for _, outcome in ipairs({ "failed", "unavailable", "refused" }) do
            assert.equal(1, fake.shared.portero_metrics:get("b\n" .. outcome))
        end
    end)
end)

describe("refused_credential", function()
    it("makes a server misconfigured and puts it behind, until it answers or for 30 s", function()
        state.listed(policy.servers[1], list_of("m"))
        state.refused_credential(policy, "a")
        assert.is_true(a().is_misconfigured)
        assert.is_true(a().is_up)
        assert.is_false(a().is_first)
        assert.equal("misconfigured", word())
        state.answered(policy, "a")
        assert.is_true(a().is_first)
        state.refused_credential(policy, "a")
        state.listed(policy.servers[1], list_of("m"))
        assert.is_true(a().is_misconfigured)
        fake.clock.now = fake.clock.now + 30.1
        assert.is_false(a().is_misconfigured)
    end)
end)

describe("list_refused", function()
    it("is misconfigured until the list comes, and no failure", function()
        for _ = 1, 5 do
            state.list_refused(policy.servers[1])
        end
        assert.is_true(a().is_misconfigured)
        assert.is_true(a().is_up)
        assert.is_true(a().is_listed)
        assert.is_false(a().is_known)
        state.listed(policy.servers[1], list_of("m"))
        assert.is_true(a().is_first)
        assert.equal("up", word())
    end)
end)

describe("silent", function()
    it("is down, ejected at three in a row, and keeps what was listed", function()
        state.listed(policy.servers[1], list_of("m"))
        state.silent(policy.servers[1], "no answer")
        assert.equal("down", word())
        assert.is_true(a().is_up)
        state.silent(policy.servers[1], "no answer")
        state.silent(policy.servers[1], "no answer")
        assert.is_false(a().is_up)
        assert.same({ m = "m" }, a().models)
        fake.clock.now = fake.clock.now + 60
        assert.is_false(a().is_up)
        assert.equal("its list of models: no answer", state.status(policy)[1].last_error)
    end)

    it("is over with the first list that comes, whatever time was left", function()
        for _ = 1, 9 do
            state.silent(policy.servers[1], "no answer")
        end
        state.listed(policy.servers[1], list_of("m"))
        assert.is_true(a().is_first)
        assert.is_true(a().is_clean)
    end)
end)

describe("listed", function()
    it("ends no ejection of a server that listed all the time: only its time does", function()
        state.listed(policy.servers[1], list_of("m"))
        times(3, state.answered_503)
        state.listed(policy.servers[1], list_of("m"))
        assert.is_true(a().is_ejected)
        fake.clock.now = fake.clock.now + 1.1
        assert.is_true(a().is_first)
        times(1, state.answered_503)
        assert.is_true(a().is_ejected)
    end)

    it("says so where there is no room for the list, and keeps the one before", function()
        state.listed(policy.servers[1], list_of("m"))
        local set = dict.safe_set
        rawset(dict, "safe_set", function(self, name, ...)
            if name:find("\nlist$") then
                return false, "no memory"
            end
            return set(self, name, ...)
        end)
        state.listed(policy.servers[1], list_of("m", "n"))
        assert.same({ m = "m" }, a().models)
        assert.equal("down", word())
        assert.matches("no room", state.status(policy)[1].last_error)
        assert.matches("a: list not written: no memory", table.concat(fake.logged, "\n"), 1, true)
    end)
end)

describe("changes", function()
    it("are told once each, with how many models there are and why", function()
        assert.same({}, state.changes(policy))
        state.listed(policy.servers[1], list_of("m", "n"))
        assert.same({ { server = "a", state = "up", was = "unknown", models = 2 } },
            state.changes(policy))
        assert.same({}, state.changes(policy))
        state.listed(policy.servers[1], list_of("m"))
        assert.same({ { server = "a", state = "up", was = "up", models = 1 } },
            state.changes(policy))
        times(3, state.failed)
        assert.same({ {
            server = "a", state = "ejected", was = "up", models = 1,
            error = "it could not be reached",
        } }, state.changes(policy))
        assert.equal(fake.clock.now, state.status(policy)[1].since)
        fake.clock.now = fake.clock.now + 1.1
        assert.equal("up", state.changes(policy)[1].state)
    end)
end)

describe("tidy", function()
    it("forgets servers that no policy names any more, and nothing else", function()
        state.listed(policy.servers[1], list_of("m"))
        state.listed(policy.servers[2], list_of("n"))
        assert.is_true(state.lease(3))
        policy = { servers = { row("a") } }
        state.tidy(policy)
        assert.same({ m = "m" }, a().models)
        for name in pairs(dict.entries) do
            assert.is_nil(name:find("^b "))
        end
        assert.equal(fake.worker_pid, dict:get("asker"))
    end)
end)

describe("lease", function()
    it("is one worker's as long as it lives, and another's soon after", function()
        assert.is_true(state.lease(3))
        fake.worker_pid = 101
        assert.is_false(state.lease(3))
        fake.worker_pid = 100
        assert.is_true(state.lease(3))
        fake.worker_pid = 101
        fake.clock.now = fake.clock.now + 3.1
        assert.is_true(state.lease(3))
    end)

    it("is let go by its holder alone", function()
        assert.is_true(state.lease(3))
        fake.worker_pid = 101
        state.leave()
        assert.is_false(state.lease(3))
        fake.worker_pid = 100
        state.leave()
        fake.worker_pid = 101
        assert.is_true(state.lease(3))
    end)
end)
