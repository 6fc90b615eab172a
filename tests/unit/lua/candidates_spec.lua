---------
-- Which servers may answer: by route, by model, by what the caller may use; and what aliases stand
-- for (docs/llm-servers.md).

local candidates = require("portero.policy.candidates")
local model_name = require("portero.policy.model_name")

local function row(name, changes)
    local found = { name = name, model_names = "exact", weight = 1 }
    for field, value in pairs(changes or {}) do
        found[field] = value
    end
    return found
end

local function fleet_of(rows, aliases)
    return candidates.load({ servers = rows, aliases = aliases, management = { "admin" } })
end

--- What is known: server -> the models that it lists; "down" before them for one that is not up.
local function view_of(lists)
    local view = {}
    for name, models in pairs(lists) do
        local state = {
            is_up = models[1] ~= "down", is_listed = true, is_known = true, models = {},
        }
        for _, model in ipairs(models) do
            state.models[model] = model
        end
        view[name] = state
    end
    return view
end

local function limits_of(...)
    return {
        models = model_name.compile({ ... }, true),
        exact_models = model_name.compile({ ... }, false),
    }
end

--- The names of the servers that are left, the model in place of an alias; or the code.
local function narrowed(fleet, name, view, limits)
    local plan = { rows = fleet.rows, view = view, limits = limits }
    local code = candidates.narrow(fleet, plan, name)
    if code then
        return code
    end
    local names = {}
    for index, one in ipairs(plan.rows) do
        names[index] = one.name
    end
    return table.concat(names, " "), plan.model
end

describe("load", function()
    it("is nothing where the policy names no servers", function()
        assert.is_nil(candidates.load({ routes = {} }))
    end)

    it("knows servers by name, how each compares names, and who may name one", function()
        local fleet = fleet_of({ row("a"), row("b", { model_names = "ollama" }) })
        assert.equal("b", fleet.by_name.b.name)
        assert.same({ false, true }, { fleet.by_name.a.is_ollama, fleet.by_name.b.is_ollama })
        assert.is_true(fleet.is_ollama)
        assert.is_true(fleet.management.admin)
        assert.is_nil(fleet.management.user)
    end)
end)

describe("of_route", function()
    it("are those whose kind lists it, and all where the route does not say", function()
        local fleet = fleet_of({ row("a"), row("b") })
        assert.same({ fleet.rows[2] }, candidates.of_route(fleet, { servers = { [2] = true } }))
        assert.same(fleet.rows, candidates.of_route(fleet, {}))
    end)
end)

describe("may_use", function()
    it("goes by how the server compares names", function()
        local limits = limits_of("a")
        local exact, ollama = row("x"), row("y", { is_ollama = true })
        assert.is_true(candidates.may_use(limits, exact, "a"))
        assert.is_false(candidates.may_use(limits, exact, "A:latest"))
        assert.is_true(candidates.may_use(limits, ollama, "A:latest"))
        assert.is_true(candidates.may_use(nil, exact, "anything"))
    end)
end)

describe("narrow", function()
    local fleet = fleet_of({ row("a"), row("b"), row("c", { model_names = "ollama" }) }, {
        { name = "fast", models = { "one", "two" } },
        { name = "two", models = { "three" } },
        { name = "claude-*", models = { "none", "two" } },
        { name = "claude-x*", models = { "one" } },
    })
    local LISTS = { a = { "one" }, b = { "one", "two", "claude-real" }, c = { "three" } }
    local view = view_of(LISTS)

    it("leaves the servers that have the model, each by its own way to compare names", function()
        assert.equal("a b", narrowed(fleet, "one", view))
        assert.equal("c", narrowed(fleet, "Three:latest", view))
        assert.equal("model_not_found", narrowed(fleet, "One", view))
    end)

    it("leaves those that have it and are down, as they are to be told from none", function()
        local down = view_of({ a = { "down", "only" }, b = {}, c = {} })
        assert.equal("a", narrowed(fleet, "only", down))
    end)

    it("takes an alias before a model of its name", function()
        assert.same({ "c", "three" }, { narrowed(fleet, "two", view) })
    end)

    it("takes the first model of an alias that a server has that is up", function()
        assert.same({ "a b", "one" }, { narrowed(fleet, "fast", view) })
        local one_down = view_of({ a = { "down", "one" }, b = { "two" }, c = {} })
        assert.same({ "b", "two" }, { narrowed(fleet, "fast", one_down) })
    end)

    it("takes the first that one has where none of them is up", function()
        local down = view_of({ a = { "down", "one" }, b = { "down", "two" }, c = {} })
        assert.same({ "a", "one" }, { narrowed(fleet, "fast", down) })
    end)

    it("takes the first model of an alias that the caller may use", function()
        assert.same({ "b", "two" }, { narrowed(fleet, "fast", view, limits_of("two")) })
        assert.equal("model_not_found", narrowed(fleet, "fast", view, limits_of("three")))
    end)

    it("takes a model before an alias that is a pattern, and patterns in their order", function()
        assert.same({ "b" }, { narrowed(fleet, "claude-real", view) })
        assert.same({ "b", "two" }, { narrowed(fleet, "claude-x1", view) })
    end)

    it("takes a pattern where the caller may not use the model of that name", function()
        assert.same({ "b", "two" }, { narrowed(fleet, "claude-real", view, limits_of("two")) })
    end)

    it("knows an alias as Ollama would write it, where a server is Ollama", function()
        assert.same({ "a b", "one" }, { narrowed(fleet, "fast:latest", view) })
        local exact = fleet_of({ row("a") }, { { name = "fast", models = { "one" } } })
        assert.equal("model_not_found", narrowed(exact, "fast:latest", view))
    end)

    it("says of a model that may be used nowhere that there is none", function()
        assert.equal("model_not_found", narrowed(fleet, "one", view, limits_of("two")))
        assert.equal("model_not_found", narrowed(fleet, "nothing", view, limits_of("nothing")))
    end)

    local function one_unknown(changes)
        local unknown = view_of({ a = { "one" }, b = {}, c = {} })
        unknown.b.is_known = false
        for name, value in pairs(changes) do
            unknown.b[name] = value
        end
        return unknown
    end

    it("says to wait as long as a server was not asked that may have it", function()
        local unknown = one_unknown({ is_listed = false })
        assert.equal("not_ready", narrowed(fleet, "nothing", unknown))
        assert.equal("a", narrowed(fleet, "one", unknown))
        assert.equal("not_ready", narrowed(fleet, "claude-9", unknown, limits_of("none")))
        assert.equal("model_not_found", narrowed(fleet, "nothing", unknown, limits_of("one")))
        assert.equal("model_not_found", narrowed(fleet, "nothing", one_unknown({})))
    end)

    it("says that a server refuses the gateway where that one may have it", function()
        assert.equal("upstream_refused",
            narrowed(fleet, "nothing", one_unknown({ is_misconfigured = true })))
    end)

    it("goes by `models:` alone where nothing is known", function()
        local filtered = fleet_of({ row("a", { models = { "q*" } }), row("b") })
        assert.equal("a b", narrowed(filtered, "qwen"))
        assert.equal("b", narrowed(filtered, "llama"))
    end)
end)

describe("pin", function()
    it("leaves the one server that is named, if it is in question", function()
        local plan = { rows = { row("a"), row("b") } }
        assert.is_false(candidates.pin(plan, "c"))
        assert.equal(2, #plan.rows)
        assert.is_true(candidates.pin(plan, "b"))
        assert.same({ "b", 1 }, { plan.rows[1].name, #plan.rows })
    end)
end)
