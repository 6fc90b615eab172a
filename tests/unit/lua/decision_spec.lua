---------
-- The one decider: the order of its codes, whose limits hold, and the same decision explained
-- (docs/policy.md).

local decision = require("portero.policy.decision")
local model_name = require("portero.policy.model_name")
local policies = require("policies")

local CHAT = "/v1/chat/completions"

--- The policy of the specs with limits for roles and users by name, and what else a spec changes.
local function loaded(limits, users, change)
    local listed = policies.listed()
    for name, its in pairs(limits or {}) do
        listed.roles[name].limits = its
    end
    for name, its in pairs(users or {}) do
        listed.users[name] = { limits = its or nil }
    end
    if change then
        change(listed)
    end
    return decision.load(listed)
end

describe("load", function()
    it("has every role by its name, with what tokens and streams are judged by", function()
        local listed = policies.listed()
        listed.roles.user.stream_policy = 30
        local policy = decision.load(listed)
        assert.same({
            name = "user", code = "USRS", ttl_seconds = 900, stream_policy = 30,
        }, policy.roles.user)
        for name, role in pairs(listed.roles) do
            assert.same({ name, role.code }, { policy.roles[name].name, policy.roles[name].code })
        end
    end)

    it("has the routes that the issuer listed", function()
        local policy = loaded()
        assert.equal("llm", policy.routes.POST.exact[CHAT].answered_by)
        assert.equal("issuer", policy.routes.GET.exact["/"].answered_by)
    end)

    it("has budgets of users and of their groups, whatever else they are held to", function()
        local policy = loaded({ agi = { tokens_per_day = 5, concurrent_requests = 2 } },
            { USRSown = { tokens_per_month = 9 }, USRSfree = false }, function(listed)
                listed.groups = {
                    { name = "a", tokens_per_day = 7, members = { "AGIAX", "USRSown",
                        "USRSfree" } },
                    { name = "b", members = { "USRSown", "XXXXnobody" }, tokens_per_month = 8 },
                }
            end)
        local of_a, of_b = { group = "a", day = 7 }, { group = "b", month = 8 }
        local agi, own = policy.users.AGIAX, policy.users.USRSown
        assert.same({ { day = 5 }, of_a }, agi.budgets)
        assert.same({ 2, true }, { agi.concurrent_requests, agi.is_counted })
        assert.same({ { month = 9 }, of_a, of_b }, own.budgets)
        assert.same({ budgets = { of_a }, is_counted = true }, policy.users.USRSfree)
        assert.same({ { day = 5 } }, policy.roles.agi.limits.budgets)
        assert.is_true(policy.roles.agi.limits.is_counted)
    end)

    it("has labels for the models that it names whole, a hundred at most", function()
        local policy = loaded({ agi = { models = { "a", "b*" } } },
            { USRSA = { models = { 'q"', "c" } } }, function(listed)
                listed.servers = { { name = "s", kind = "vllm", models = { "d" } } }
                listed.aliases = { { name = "fast", models = { "e" } } }
            end)
        assert.same({ a = true, c = true, d = true, e = true }, policy.labels)
        local many = {}
        for number = 1, 300 do
            many[number] = "m" .. number
        end
        local count = 0
        for _ in pairs(loaded({ agi = { models = many } }).labels) do
            count = count + 1
        end
        assert.equal(100, count)
    end)

    it("has limits as far as there are any", function()
        local limits = {
            requests_per_minute = 5, tokens_per_minute = 6, concurrent_requests = 7,
            largest_body_bytes = 8,
        }
        local policy = loaded({ user = limits })
        limits.is_counted = true
        assert.same(limits, policy.roles.user.limits)
        assert.is_nil(policy.roles.agi.limits)
    end)

    it("says whether anything is counted, which is not so for models and lengths", function()
        for name, value in pairs({
            requests_per_minute = 1, tokens_per_minute = 1, concurrent_requests = 1,
        }) do
            assert.is_true(loaded({ user = { [name] = value } }).roles.user.limits.is_counted)
        end
        for name, value in pairs({ models = { "a" }, largest_body_bytes = 1 }) do
            assert.is_false(loaded({ user = { [name] = value } }).roles.user.limits.is_counted)
        end
    end)

    it("has the models that a caller is held to, none at all among them", function()
        local function allows(models, name)
            local policy = loaded({ user = { models = models } })
            return model_name.allows(policy.roles.user.limits.models, name)
        end
        assert.same({ true, false }, { allows({ "a" }, "a"), allows({ "a" }, "b") })
        assert.same({ true, false }, { allows({ "a*" }, "ab"), allows({ "a*" }, "b") })
        assert.is_false(allows({}, "a"))
        assert.is_true(allows({ "*" }, "a"))
    end)

    it("compares models as Ollama does where the LLM server is one, else by their bytes", function()
        for names, is_same in pairs({ ollama = true, exact = false }) do
            local policy = loaded({ user = { models = { "a" } } }, { USRSA = { models = { "a" } } },
                function(listed) listed.model_names = names end)
            assert.equal(is_same, policy.is_ollama)
            for _, limits in ipairs({ policy.roles.user.limits, policy.users.USRSA }) do
                assert.equal(is_same, model_name.allows(limits.models, "A:latest"))
            end
        end
    end)

    it("knows of a user whether there are own limits, and that there are none", function()
        local policy = loaded({}, { USRSA = { requests_per_minute = 1 }, USRSB = false })
        assert.equal(1, policy.users.USRSA.requests_per_minute)
        assert.is_false(policy.users.USRSB)
        assert.is_nil(policy.users.USRSC)
    end)

    it("leaves what was listed as it is", function()
        local listed = policies.listed()
        listed.roles.user.limits = { models = { "a" }, requests_per_minute = 1 }
        decision.load(listed)
        assert.same({ models = { "a" }, requests_per_minute = 1 }, listed.roles.user.limits)
        listed.roles.user.limits = nil
        assert.same(policies.listed(), listed)
    end)

    -- A role's code goes to C, where nothing is an address.
    for what, change in pairs({
        ["code"] = function(role) role.code = nil end,
        ["whole code"] = function(role) role.code = "ABC" end,
        ["lifetime"] = function(role) role.ttl_seconds = nil end,
    }) do
        it("is an error for a role without its " .. what, function()
            assert.has_error(function()
                loaded({}, {}, function(listed) change(listed.roles.user) end)
            end)
        end)
    end
end)

describe("limits", function()
    local OF_ROLE, OWN = { requests_per_minute = 1 }, { requests_per_minute = 2 }

    local function limit(policy, user, role)
        local limits = decision.limits(policy, user, role)
        return limits and limits.requests_per_minute
    end

    it("are the user's own in place of the role's, and none where they are none", function()
        local policy = loaded({ user = OF_ROLE }, { USRSOWN = OWN, USRSFREE = false })
        assert.equal(2, limit(policy, "USRSOWN", "user"))
        assert.is_nil(decision.limits(policy, "USRSFREE", "user"))
        assert.equal(1, limit(policy, "USRSX", "user"))
    end)

    it("are a user's own where the role has none", function()
        assert.equal(2, limit(loaded({}, { USRSOWN = OWN }), "USRSOWN", "user"))
    end)

    it("are none where neither has any", function()
        assert.is_nil(decision.limits(loaded({ user = OF_ROLE }), "AGIAX", "agi"))
    end)

    it("allow no model where the role is none", function()
        local limits = decision.limits(loaded({ user = OF_ROLE }), "X", "nobody")
        assert.is_false(model_name.allows(limits.models, "tiny"))
        assert.is_false(limits.is_counted)
    end)
end)

describe("model_refusal", function()
    local LIST = model_name.compile({ "ok", "wild*" }, true)

    local function refusal(word, read)
        return { decision.model_refusal({ model = word }, "value", "?query", LIST, read) }
    end

    it("is that of the route where the route does not say where its model is, unread", function()
        assert.same({ "insufficient_permissions" }, refusal(nil, error))
    end)

    it("is none for a model of the list, and for no other", function()
        for _, name in ipairs({ "ok", "wilder" }) do
            assert.same({}, refusal("body", function() return name end))
        end
        for _, name in ipairs({ "other", "" }) do
            assert.same({ "model_not_found" }, refusal("body", function() return name end))
        end
    end)

    it("is none where the reader says that there is none to be judged", function()
        assert.same({}, refusal("listed", function() end))
    end)

    it("is the reader's own, whatever name comes with it", function()
        assert.equal("ambiguous_body", refusal("body", function()
            return nil, "ambiguous_body"
        end)[1])
        assert.equal("ambiguous_body", refusal("body", function()
            return "other", "ambiguous_body"
        end)[1])
    end)

    it("asks the reader once, where the route says, and hands on what else it found", function()
        local asked
        local found = {}
        for name, code in pairs({ ok = false, other = "model_not_found" }) do
            asked = nil
            local answer = refusal("path", function(...)
                assert.is_nil(asked)
                asked = { ... }
                return name, nil, found
            end)
            assert.same({ "path", "value", "?query" }, asked)
            assert.equal(code or nil, answer[1])
            assert.equal(found, answer[2])
        end
    end)
end)

describe("decide", function()
    local POLICY = loaded()
    local asked

    local function note(what, ...)
        asked[#asked + 1] = what
        return ...
    end

    --- A request that may do all, but for what `answers` says.
    local function decide(method, path, answers)
        asked = {}
        answers = answers or {}
        return decision.decide(POLICY, method, path, "?q", {
            caller = function(policy, query)
                assert.equal(POLICY, policy)
                assert.equal("?q", query)
                note("caller")
                if answers.caller then
                    return nil, answers.caller
                end
                return answers.claims or { sub = "USRSX", role = "user" }
            end,
            reach = function(route)
                assert.is_true(route.is_llm)
                return note("reach", answers.reach)
            end,
            admit = function(route, value, query, claims)
                assert.is_true(route.is_llm)
                assert.equal("?q", query)
                assert.equal(answers.claims, claims)
                asked.value = value
                return note("admit", answers.admit, answers.headers)
            end,
        })
    end

    local LIMITED = { sub = "USRSX", role = "user", limits = {} }
    local STRANGER = { sub = "X", role = "nobody", limits = {} }

    it("answers the route, the parameter and the claims of what is allowed", function()
        local code, route, value, claims = decide("GET", "/v1/models/a%2Fb", { claims = LIMITED })
        assert.is_nil(code)
        assert.equal("/v1/models/{model}", route.target)
        assert.equal("a%2Fb", value)
        assert.equal(LIMITED, claims)
        assert.equal("a%2Fb", asked.value)
    end)

    -- Everything that is wrong at once, one thing less each time: what is refused first.
    local ALL = { caller = "invalid_api_key", claims = STRANGER, reach = "upstream_unavailable",
        admit = "too_many_requests" }
    local function without(...)
        local rest = {}
        for name, value in pairs(ALL) do
            rest[name] = value
        end
        for _, name in ipairs({ ... }) do
            rest[name] = nil
        end
        rest.claims = rest.claims or LIMITED
        return rest
    end
    for _, case in ipairs({
        { "a path that is none", "/a//b", without(), "path_doubled_slash" },
        { "an unknown path", "/unknown", without(), "not_found" },
        { "the caller", CHAT, without(), "invalid_api_key", "caller" },
        { "the caller's role", CHAT, without("caller"), "insufficient_permissions", "caller" },
        { "an LLM server out of reach", CHAT, without("caller", "claims"), "upstream_unavailable",
            "caller reach" },
        { "the caller's limits", CHAT, without("caller", "claims", "reach"), "too_many_requests",
            "caller reach admit" },
        { "nothing", CHAT, without("caller", "claims", "reach", "admit"), nil,
            "caller reach admit" },
    }) do
        it(("refuses for %s before all that comes later, and asks no more"):format(case[1]),
            function()
                assert.equal(case[4], (decide("POST", case[2], case[3])))
                assert.equal(case[5] or "", table.concat(asked, " "))
            end)
    end

    for _, case in ipairs({
        { "GET", CHAT, "other_method" }, { "POST", "/v1/models/x", "other_method" },
        { "get", "/", "other_method" }, { "", "/health", "other_method" },
        { "GET", "/v1/models/", "slash_at_end" }, { "GET", "/health/", "slash_at_end" },
        { "GET", CHAT .. "/", "slash_at_end" },
        { "GET", "/unknown", "not_found" }, { "GET", "/unknown/", "not_found" },
        { "GET", "/V1/models", "not_found" },
        { "GET", "", "path_missing" }, { "GET", "//", "path_doubled_slash" },
        { "GET", "/health//", "path_doubled_slash" },
        { "GET", "/a/../health", "path_dot_segment" },
        { "GET", "/health%2F", "path_escaped_slash" },
    }) do
        it(("says of %s %q that it is %s, and asks nothing"):format(unpack(case)), function()
            assert.same({ case[3] }, { decide(case[1], case[2]) })
            assert.same({}, asked)
        end)
    end

    it("lets no role use a route that is listed for none", function()
        local policy = loaded({}, {}, function(listed)
            listed.routes = { policies.new_route({ roles = {} }) }
        end)
        local code = decision.decide(policy, "GET", "/x", "", {
            caller = function() return { role = "admin" } end,
        })
        assert.equal("insufficient_permissions", code)
    end)

    it("decides by the roles of the route alone, whatever they are called", function()
        local policy = loaded({}, {}, function(listed)
            listed.routes = { policies.new_route({ answered_by = "issuer", roles = { "agi" } }) }
        end)
        for role, code in pairs({
            agi = false, admin = true, user = true, Agi = true, [""] = true, ["agi "] = true,
        }) do
            local told = decision.decide(policy, "GET", "/x", "", {
                caller = function() return { role = role } end,
            })
            assert.equal(code and "insufficient_permissions" or nil, told)
        end
    end)

    it("answers the route of a refusal too, and whose it is where that is known", function()
        local code, route, value, claims = decide("GET", "/", { caller = "expired" })
        assert.same({ "expired", "page" }, { code, route.class })
        assert.same({}, { value, claims })
        for _, answers in ipairs({
            without("caller"), without("caller", "claims"), without("caller", "claims", "reach"),
        }) do
            code, route, value, claims = decide("GET", "/v1/models/x", answers)
            assert.is_string(code)
            assert.equal("/v1/models/{model}", route.target)
            assert.is_nil(value)
            assert.equal(answers.claims, claims)
        end
    end)

    it("hands the headers of a refusal on", function()
        local headers = { ["Retry-After"] = 3 }
        local answers = without("caller", "claims", "reach")
        answers.headers = headers
        assert.equal(headers, (select(5, decide("POST", CHAT, answers))))
    end)

    it("asks for limits callers who have some alone", function()
        assert.is_nil((decide("POST", CHAT)))
        assert.equal("caller reach", table.concat(asked, " "))
    end)

    it("asks neither reach nor limits of what no LLM server answers", function()
        local answers = without("caller", "claims")
        answers.claims = { sub = "ADMNX", role = "admin", limits = {} }
        for _, path in ipairs({ "/", "/metrics", "/admin/" }) do
            local code, route, _, claims = decide("GET", path, answers)
            assert.is_nil(code)
            assert.is_false(route.is_llm)
            assert.equal(answers.claims, claims)
            assert.equal("caller", table.concat(asked, " "))
        end
    end)

    it("asks for both where the LLM server's own list is what is answered from", function()
        decide("GET", "/v1/models", { claims = LIMITED })
        assert.equal("caller reach admit", table.concat(asked, " "))
    end)
end)

describe("a role that asks for a client certificate", function()
    local POLICY = loaded(nil, nil, function(listed)
        listed.roles.user.client_certificate = true
        listed.servers = { { name = "rack", kind = "vllm", models = { "*" } } }
        listed.management = { "user" }
    end)

    local function code_of(policy, claims, certificate, path)
        return (decision.decide(policy, "GET", path or "/", "", {
            caller = function()
                return claims, not claims and "expired" or nil
            end,
            certificate = function()
                return certificate or error("asked for a certificate")
            end,
            reach = function() end,
            admit = function() end,
        }))
    end

    it("is refused without that of the user's name, as without a token", function()
        local claims = { sub = "USRSX", role = "user" }
        assert.is_nil(code_of(POLICY, claims, "USRSX"))
        for _, other in ipairs({ "", "usrsx", "USRSX,O=a", "USRSXY", "USRS" }) do
            assert.equal("invalid_api_key", code_of(POLICY, claims, other), other)
            assert.equal("invalid_api_key", code_of(POLICY, claims, other, "/servers/none/x"))
        end
        assert.equal("not_found", code_of(POLICY, claims, "USRSX", "/servers/none/x"))
        local key = { sub = "USRSX", role = "user", is_api_key = true }
        assert.equal("invalid_api_key", code_of(POLICY, key, "USRSY"))
    end)

    it("says of a bad token what it says without", function()
        assert.equal("expired", code_of(POLICY, nil, ""))
    end)

    it("leaves others alone, whose certificate is not looked at", function()
        assert.is_nil(code_of(POLICY, { sub = "ADMNX", role = "admin" }))
        assert.is_nil(code_of(loaded(), { sub = "USRSX", role = "user" }))
        assert.is_nil(loaded().bound)
    end)

    it("is explained as with the right one", function()
        assert.is_nil((decision.explain(POLICY, "GET", "/", "USRSX")))
    end)
end)

describe("explain", function()
    local LISTED = policies.listed()

    local function explain(policy, method, path, user, model)
        return { decision.explain(policy, method, path, user, model) }
    end

    --- Code, route, role and model, which may be nil each.
    local function assert_explained(expected, policy, ...)
        local code, index, role, asked = unpack(explain(policy, ...), 1, 4)
        local route = index and LISTED.routes[index]
        assert.same({
            code = expected[1] or nil, route = expected[2], role = expected[3], asked = expected[4],
        }, { code = code, route = route and route.method .. " " .. route.path, role = role,
            asked = asked })
    end

    it("tells for every role what it may use, its own pages and its console too", function()
        local policy = loaded()
        for name, role in pairs(LISTED.roles) do
            for index, route in ipairs(LISTED.routes) do
                local path = route.path:gsub("{digest}", "sha256:0a"):gsub("{%w+}", "x")
                local may = false
                for _, its in ipairs(route.roles) do
                    may = may or its == name
                end
                local code, at, its = unpack(explain(policy, route.method, path, role.code .. "X"),
                    1, 3)
                assert.equal(not may and "insufficient_permissions" or nil, code)
                assert.same({ index, name }, { at, its })
            end
        end
    end)

    it("knows a role by the code that begins a username", function()
        local policy = loaded()
        assert_explained({ nil, "GET /admin/", "admin" }, policy, "GET", "/admin/", "ADMNEVE")
        assert_explained({ "insufficient_permissions", "GET /admin/", "user" }, policy, "GET",
            "/admin/", "USRSADMN")
    end)

    -- No token can be of these.
    for _, user in ipairs({ "", "X", "USR", "USRS", "usrsX", "XUSRS", " USRSX",
        "admnX" }) do
        it(("knows no user %q"):format(user), function()
            assert_explained({ "invalid_api_key", "POST " .. CHAT }, loaded(), "POST", CHAT, user,
                "a")
        end)
    end

    it("says what is wrong with a path before it asks for the user", function()
        local policy = loaded()
        for path, code in pairs({
            ["/unknown"] = "not_found", ["/health/"] = "slash_at_end",
            ["//"] = "path_doubled_slash",
            [CHAT] = "other_method",
        }) do
            assert_explained({ code, nil, "user" }, policy, "GET", path, "USRSX")
            assert_explained({ code }, policy, "GET", path, "nobody")
        end
    end)

    it("names the listed route at every name of it, first come first", function()
        local policy = loaded()
        for _, path in ipairs({ CHAT, "/llm/chat/completions", "/chat/completions" }) do
            assert_explained({ nil, "POST " .. CHAT, "user" }, policy, "POST", path, "USRSX", "a")
        end
        local first = decision.load({ roles = LISTED.roles, users = {}, routes = {
            policies.new_route({ path = "/y" }), policies.new_route({ path = "/x" }),
            policies.new_route({ path = "/x", class = "health" }),
        } })
        assert.equal(2, explain(first, "GET", "/x", "USRSX")[2])
    end)

    it("judges no model of a caller who may use all", function()
        for _, model in ipairs({ "a", "", false }) do
            assert_explained({ nil, "POST " .. CHAT, "user" },
                loaded({ user = { requests_per_minute = 1 } }), "POST", CHAT, "USRSX",
                model or nil)
        end
    end)

    local MODELS = { user = { models = { "a", "b/c" } } }

    it("judges the model that the request would name", function()
        local policy = loaded(MODELS)
        assert_explained({ nil, "POST " .. CHAT, "user", "A:latest" }, policy, "POST", CHAT,
            "USRSX", "A:latest")
        assert_explained({ "model_not_found", "POST " .. CHAT, "user", "z" }, policy, "POST", CHAT,
            "USRSX", "z")
        for _, case in ipairs({
            { "POST", "/api/show" }, { "POST", "/v1/audio/transcriptions" },
        }) do
            assert.equal("model_not_found", explain(policy, case[1], case[2], "USRSX", "z")[1])
            assert.is_nil(explain(policy, case[1], case[2], "USRSX", "a")[1])
        end
    end)

    it("says that a model is missing where one would have to be named", function()
        assert_explained({ "model_missing", "POST " .. CHAT, "user" }, loaded(MODELS), "POST", CHAT,
            "USRSX")
    end)

    it("takes the model of the path, as a person writes it, whatever else is named", function()
        local policy = loaded(MODELS)
        assert_explained({ nil, "GET /v1/models/{model}", "user", "b/c" }, policy, "GET",
            "/v1/models/b%2Fc", "USRSX", "z")
        assert_explained({ "model_not_found", "GET /v1/models/{model}", "user", "b c" }, policy,
            "GET", "/llm/models/b%20c", "USRSX", "a")
    end)

    it("judges no model where a route asks for none, or lists them", function()
        local policy = loaded(MODELS)
        for _, path in ipairs({ "/v1/models", "/health" }) do
            assert_explained({ nil, "GET " .. path, "user" }, policy, "GET", path, "USRSX", "z")
        end
    end)

    it("refuses who is held to models a route that does not say where its model is", function()
        local policy = loaded(MODELS)
        local path = "/v1/text-to-speech/x"
        assert_explained({ "insufficient_permissions", "POST /v1/text-to-speech/{voice}", "user" },
            policy, "POST", path, "USRSX", "a")
        assert.is_nil(explain(policy, "POST", path, "AGIAX", "a")[1])
    end)

    it("judges by the user's own models, and by none where the user has none", function()
        local policy = loaded(MODELS, { USRSOWN = { models = { "z" } }, USRSFREE = false })
        for user, code in pairs({ USRSOWN = false, USRSFREE = false, USRSX = "model_not_found" }) do
            assert.equal(code or nil, explain(policy, "POST", CHAT, user, "z")[1])
        end
        assert.equal("model_not_found", explain(policy, "POST", CHAT, "USRSOWN", "a")[1])
    end)
end)

describe("servers that the policy names", function()
    local ROWS = {
        { name = "rack", kind = "vllm", model_names = "exact", weight = 1 },
        { name = "box", kind = "ollama", model_names = "ollama", weight = 1 },
    }

    --- Chat is of both, Ollama's routes of the second alone, management behind a name.
    local function fleet(limits)
        return loaded(limits, {}, function(listed)
            listed.servers, listed.management = ROWS, { "admin" }
            listed.aliases = { { name = "fast", models = { "one" } } }
            for _, route in ipairs(listed.routes) do
                local is_llm = route.answered_by == "llm" or route.answered_by == "discovery"
                route.servers = is_llm and (route.path:find("^/api/") and { 1 } or { 0, 1 }) or nil
                route.by_name = route.class == "management" or nil
            end
        end)
    end

    local VIEW = {
        rack = { is_up = true, is_listed = true, is_known = true, models = { one = "one" } },
        box = { is_up = true, is_listed = true, is_known = true, models = { two = "two" } },
    }

    --- Decide about a request of a role for a model.
    local function decided(policy, role, method, path, model)
        local code, _, _, _, _, plan = decision.decide(policy, method, path, "", {
            caller = function()
                return { sub = "X", role = role, limits = decision.limits(policy, "X", role) }
            end,
            reach = function() error("there is no pool") end,
            view = function() return VIEW end,
            admit = function(route, value, query, claims, its)
                local list = claims.limits and claims.limits.models
                return (decision.model_refusal(route, value, query, list,
                    function() return model end, its))
            end,
        })
        return code, plan
    end

    local function names(plan)
        local found = {}
        for index, row in ipairs(plan.rows) do
            found[index] = row.name
        end
        return table.concat(found, " ")
    end

    it("are led to by the model, by an alias too, for callers without limits too", function()
        local policy = fleet()
        for model, name in pairs({ one = "rack", ["Two:latest"] = "box", fast = "rack" }) do
            local code, plan = decided(policy, "agi", "POST", CHAT, model)
            assert.same({ nil, name }, { code, names(plan) })
            assert.equal(model == "fast" and "one" or nil, plan.model)
        end
        assert.equal("model_not_found", decided(policy, "agi", "POST", CHAT, "ONE"))
        assert.equal("model_not_found", decided(policy, "agi", "POST", "/api/chat", "one"))
    end)

    it("have names that a caller's list judges as each server does", function()
        local policy = fleet({ agi = { models = { "one", "two" } } })
        assert.is_nil(decided(policy, "agi", "POST", CHAT, "TWO"))
        assert.equal("model_not_found", decided(policy, "agi", "POST", CHAT, "ONE"))
        local narrow = fleet({ agi = { models = { "two" } } })
        for _, model in ipairs({ "one", "fast", "none" }) do
            assert.equal("model_not_found", decided(narrow, "agi", "POST", CHAT, model))
        end
    end)

    it("are all in question where no model is named", function()
        local code, plan = decided(fleet(), "agi", "GET", "/health")
        assert.same({ nil, "rack box" }, { code, names(plan) })
    end)

    it("are managed behind their names alone", function()
        local policy = fleet()
        assert.equal("not_found", decided(policy, "admin", "POST", "/api/pull", "new"))
        local code, plan = decided(policy, "admin", "GET", "/servers/box/api/version")
        assert.same({ nil, "box", "box" }, { code, names(plan), plan.by_name })
        assert.equal("not_found", decided(policy, "admin", "GET", "/servers/rack/api/version"))
        assert.equal("other_method", decided(policy, "admin", "PUT", "/servers/box/api/version"))
        assert.equal("not_found", decided(policy, "admin", "GET", "/servers/none/health"))
        assert.equal("not_found", decided(policy, "admin", "GET", "/servers/box/metrics"))
        assert.equal("path_dot_segment",
            decided(policy, "admin", "GET", "/servers/rack/../box/health"))
    end)

    it("are named by who may manage them, and nobody else learns which there are", function()
        for _, name in ipairs({ "box", "none" }) do
            assert.equal("insufficient_permissions",
                decided(fleet(), "agi", "GET", "/servers/" .. name .. "/health"))
        end
        assert.equal("not_found", decided(loaded(), "admin", "GET", "/servers/box/health"))
    end)

    it("open no route by their names that the role may not use (N13)", function()
        local policy = fleet()
        policy.by_name.POST.exact["/api/pull"].allowed = {}
        assert.equal("insufficient_permissions",
            decided(policy, "admin", "POST", "/servers/box/api/pull"))
    end)

    it("are asked by name for what they do not have yet, within the caller's list", function()
        assert.is_nil(decided(fleet(), "admin", "POST", "/servers/box/api/chat", "new"))
        local policy = fleet({ admin = { models = { "two" } } })
        assert.is_nil(decided(policy, "admin", "POST", "/servers/box/api/chat", "TWO"))
        assert.equal("model_not_found",
            decided(policy, "admin", "POST", "/servers/box/api/chat", "new"))
        assert.equal("model_not_found",
            decided(policy, "admin", "POST", "/servers/rack/v1/chat/completions", "TWO"))
    end)

    it("are explained by name, with what an alias stands for", function()
        local policy = fleet()
        local function explained(model, view)
            local code, _, _, asked, servers, real =
                decision.explain(policy, "POST", CHAT, "AGIAX1", model, view)
            return { code, asked, table.concat(servers, " "), real }
        end
        assert.same({ nil, "fast", "rack", "one" }, explained("fast", VIEW))
        assert.same({ nil, "any", "rack box" }, explained("any"))
        assert.same({ nil, nil, "rack box" }, explained(nil, VIEW))
        assert.same({ "model_not_found", "any", "" }, explained("any", VIEW))
    end)

    it("are explained behind their names too, whatever model a question names", function()
        local code, _, _, _, servers =
            decision.explain(fleet(), "POST", "/servers/box/api/pull", "ADMNX1", "any", VIEW)
        assert.same({ nil, "box" }, { code, table.concat(servers, " ") })
    end)
end)

describe("role_of", function()
    it("is the role whose code begins the name, which is longer", function()
        local policy = loaded()
        assert.equal("user", decision.role_of(policy, "USRSX").name)
        for _, user in ipairs({ "", "USRS", "USR", "usrsX", "XXXXX" }) do
            assert.is_nil(decision.role_of(policy, user))
        end
    end)
end)

describe("narrowed", function()
    it("keeps every limit, and lets both lists allow a model", function()
        local policy = loaded({ user = { models = { "a*" }, requests_per_minute = 5 } })
        local whole = decision.limits(policy, "USRSX", "user")
        local narrowed = decision.narrowed(policy, whole, { "zz" })
        assert.equal(whole.is_counted, narrowed.is_counted)
        assert.is_table(narrowed.models.narrower)
        assert.is_nil(whole.models.narrower)
        assert.is_nil(decision.narrowed(policy, nil, { "zz" }).models.narrower)
        assert.is_nil(narrowed.exact_models)
        assert.same({ tools = true }, decision.narrowed(policy, nil, { "zz" }, {
            tools = true,
        }).server_side)
    end)
end)

describe("a narrowed credential", function()
    local policy

    local function decided(method, path, claims)
        claims.sub, claims.role = "ADMNX", "admin"
        return (decision.decide(policy, method, path, "", {
            caller = function() return claims end,
            reach = function() end,
            admit = function() end,
        }))
    end

    before_each(function()
        local listed = policies.listed()
        policies.route(listed, "GET", "/admin/api/sessions").no_api_keys = true
        policy = decision.load(listed)
    end)

    it("is refused every class that its scope does not name", function()
        local scope = { models = true }
        assert.is_nil(decided("GET", "/v1/models", { scope = scope }))
        assert.is_nil(decided("POST", CHAT, {}))
        assert.equal("insufficient_permissions", decided("POST", CHAT, { scope = scope }))
        assert.equal("insufficient_permissions", decided("GET", "/metrics", { scope = scope }))
    end)

    it("is refused where no API key counts, if it is one", function()
        assert.is_nil(decided("GET", "/admin/api/sessions", {}))
        assert.is_nil(decided("GET", "/metrics", { is_api_key = true }))
        assert.equal("insufficient_permissions",
            decided("GET", "/admin/api/sessions", { is_api_key = true }))
    end)
end)

describe("a response that a server keeps", function() -- N10
    local KEPT = { method = "GET", path = "/v1/responses/{response}", class = "inference",
        answered_by = "llm", model = "response", roles = { "admin" } }

    local function decided(limits, path, has_servers)
        local policy = loaded(limits, {}, function(listed)
            local row = {}
            for name, value in pairs(KEPT) do
                row[name] = value
            end
            row.servers = has_servers and { 0 } or nil
            listed.routes[#listed.routes + 1] = row
            listed.servers = has_servers and { { name = "rack", kind = "vllm",
                model_names = "exact", weight = 1 } } or nil
            listed.management, listed.aliases = has_servers and { "admin" }, {}
        end)
        return (decision.decide(policy, "GET", path, "", {
            caller = function()
                return { sub = "ADMNX", role = "admin",
                    limits = decision.limits(policy, "ADMNX", "admin") }
            end,
            reach = function() end,
            admit = function() end,
        }))
    end

    it("is nobody's of whom nobody looks at the bodies, by a server's name neither", function()
        local looked_at = { admin = { server_side = { tools = false, fetch = false } } }
        for path, has_servers in pairs({ ["/v1/responses/resp_a"] = false,
            ["/llm/v1/responses/resp_a"] = true, ["/servers/rack/v1/responses/resp_a"] = true }) do
            assert.equal("response_not_found", decided({}, path, has_servers))
            assert.is_nil(decided(looked_at, path, has_servers))
        end
    end)
end)
