---------
-- Which role may use which route, on the real roles.json and routes.json: contract sections 2 and
-- 5, threats H10, H11, H13, H20.

local cjson = require("cjson.safe")
local policy = require("portero.policy")

local function table_of(name)
    local file = assert(io.open("openresty/conf/" .. name .. ".json", "rb"))
    local text = file:read("*a")
    file:close()
    return assert(cjson.decode(text))[name]
end

local ROLES, ROUTES = table_of("roles"), table_of("routes")
local COMPILED = policy.compile(ROLES, ROUTES, "issuer")

local function target_of(method, path, compiled)
    local route, value = policy.find(compiled or COMPILED, method, path)
    return route and policy.target(route, value)
end

describe("find and target", function()
    -- Contract section 5: what the client writes, and what the LLM server gets.
    local NAMES = {
        ["POST /v1/chat/completions"] = "/v1/chat/completions",
        ["POST /llm/v1/chat/completions"] = "/v1/chat/completions",
        ["POST /llm/chat/completions"] = "/v1/chat/completions",
        ["POST /chat/completions"] = "/v1/chat/completions",
        ["POST /v1/completions"] = "/v1/completions",
        ["POST /llm/completions"] = "/v1/completions",
        ["POST /completions"] = "/v1/completions",
        ["POST /completion"] = "/completion",
        ["POST /llm/completion"] = "/completion",
        ["POST /v1/embeddings"] = "/v1/embeddings",
        ["POST /llm/embeddings"] = "/v1/embeddings",
        ["POST /embeddings"] = "/v1/embeddings",
        ["POST /llm/responses"] = "/v1/responses",
        ["POST /llm/messages/count_tokens"] = "/v1/messages/count_tokens",
        ["POST /llm/audio/transcriptions"] = "/v1/audio/transcriptions",
        ["GET /v1/models"] = "/v1/models",
        ["GET /llm/v1/models"] = "/v1/models",
        ["GET /llm/models"] = "/v1/models",
        ["GET /models"] = "/v1/models",
        ["GET /v1/models/llama3"] = "/v1/models/llama3",
        ["GET /llm/models/llama3"] = "/v1/models/llama3",
        ["GET /llm/v1/models/llama3"] = "/v1/models/llama3",
        ["GET /models/llama3"] = "/v1/models/llama3",
        ["POST /api/chat"] = "/api/chat",
        ["POST /llm/api/chat"] = "/api/chat",
        ["POST /api/embeddings"] = "/api/embeddings",
        ["POST /llm/api/embeddings"] = "/api/embeddings",
        ["GET /api/tags"] = "/api/tags",
        ["DELETE /api/delete"] = "/api/delete",
        ["DELETE /llm/api/delete"] = "/api/delete",
        ["POST /chat"] = "/chat",
        ["POST /llm/chat"] = "/chat",
        ["GET /health"] = "/health",
        ["GET /llm/health"] = "/health",
        ["GET /"] = "/",
        ["GET /metrics"] = "/metrics",
        ["GET /admin/"] = "/admin/",
        ["GET /admin/api/sessions"] = "/admin/api/sessions",
        ["DELETE /admin/api/sessions/AAAAAAAAAAAAAAAAAAAAAA"] =
            "/admin/api/sessions/AAAAAAAAAAAAAAAAAAAAAA",
        ["DELETE /admin/api/users/USRSABC/sessions"] = "/admin/api/users/USRSABC/sessions",
    }
    for line, target in pairs(NAMES) do
        it(("sends %s on as %s"):format(line, target), function()
            assert.equal(target, target_of(line:match("^(%S+) (%S+)$")))
        end)
    end

    it("sends every route of routes.json on as it stands there", function()
        for _, lines in pairs(ROUTES) do
            for _, line in ipairs(lines) do
                local method, path = line:gsub("{%w+}", "x"):match("^(%S+) (%S+)$")
                assert.equal(path, target_of(method, path))
            end
        end
    end)

    it("answers who serves a route: the issuer, the gateway or the LLM server", function()
        local served = {
            ["/"] = "issuer", ["/admin/"] = "issuer", ["/metrics"] = "gateway",
            ["/v1/models"] = "llm", ["/health"] = "llm",
        }
        for path, by in pairs(served) do
            assert.equal(by, policy.find(COMPILED, "GET", path).answered_by)
        end
    end)

    -- Names that only look like aliases.
    local NO_NAMES = {
        "POST /v1/chat", "POST /v1/completion", "POST /v1/api/chat", "POST /responses",
        "POST /messages", "POST /rerank", "POST /audio/transcriptions", "GET /tags", "GET /ps",
        "GET /llm", "GET /llm/", "GET /llm/metrics", "GET /llm/admin/", "GET /admin",
        "POST /llm/llm/v1/chat/completions", "POST /llm/login", "GET /validate", "GET /sync/status",
        "GET /v1/health", "GET /slots", "GET /props", "POST /invocations", "GET /.git/config",
        "GET /v1/models/", "GET /models/", "DELETE /admin/api/sessions/",
        "DELETE /admin/api/sessions/a/b", "DELETE /admin/api/users/a/b/sessions",
        "DELETE /admin/api/users//sessions", "DELETE /admin/api/sessions/a%2Fb",
        "DELETE /admin/api/sessions/a:b", "GET /index.html", "GET /v1",
    }
    for _, line in ipairs(NO_NAMES) do
        it("finds nothing at " .. line, function()
            assert.is_nil(target_of(line:match("^(%S+) (%S+)$")))
        end)
    end

    -- H13
    it("finds a route by its own method alone", function()
        for _, method in ipairs({
            "GET", "get", "Post", "POST ", "FOO", "TRACE", "CONNECT", "OPTIONS", "HEAD", "PUT",
            "PATCH", "", "exact",
        }) do
            assert.is_nil(target_of(method, "/v1/chat/completions"))
        end
        assert.is_nil(target_of("POST", "/v1/models"))
        assert.is_nil(target_of("HEAD", "/"))
    end)

    -- H10, H11, H20: none of these is a way to a route of the table.
    local NOT_CANONICAL = {
        "/llm/../admin/", "/llm/%2e%2e/admin/", "//llm//login", "//v1/models", "/v1//models",
        "/v1/./models", "/v1/models/.", "/v1/models/..", "/v1/models/../models", "/./v1/models",
        "/v1/../v1/models", "/llm%2fmodels", "/v1%2Fmodels", "/%761/models", "/v1/models#b",
        "/v1/models;x=1", "/v1;/models", "/llm/..;/admin/", "/v1\\models", "\\v1\\models",
        "/%c0%ae%c0%ae/admin/", "/%252e%252e/admin/", "/v1/models%00", "/v1/models%0d%0aX:y",
        "/v1/models/x%0d%0aX-Auth-Role:%20admin", "/v1/models\0", "/v1/models\r\n",
        "/v1/models/x\n", "/v1/models ", " /v1/models", "/v1/models%20", "/v1/models/\195\169",
        "", "v1/models", "*", "http://evil/v1/models", "/v1/models/%7f", "/v1/models/{model}",
    }
    for _, path in ipairs(NOT_CANONICAL) do
        it(("finds nothing at, and calls not canonical, %q"):format(path), function()
            assert.is_nil(target_of("GET", path))
            assert.is_false(policy.is_canonical(path))
        end)
    end

    -- H10, H20: written in the one way, yet no route.
    local UNKNOWN = {
        "/v1/models/x/", "/V1/models", "/v1/Models", "/ADMIN/", "/admin/x/llm/health",
        "/x/llm/health", "/x/v1/models", "/v1/modelsx", "/xv1/models", "/health/", "/metrics/",
    }
    for _, path in ipairs(UNKNOWN) do
        it("finds nothing at the unknown but canonical " .. path, function()
            assert.is_nil(target_of("GET", path))
            assert.is_true(policy.is_canonical(path))
        end)
    end

    it("takes no part of a query for a path", function() -- H20
        for _, path in ipairs({ "/admin?x=/llm/health", "/v1/models?x", "/x?/v1/models" }) do
            assert.is_nil(target_of("GET", path))
        end
    end)
end)

describe("the {model} of a route", function()
    -- Names of real models, and what else may stand there; each is sent on as it was written.
    for _, model in ipairs({
        "llama3", "llama3:latest", "library/llama3", "registry.ollama.ai/library/llama3:8b",
        "meta-llama/Llama-3.1-8B-Instruct", "hf.co/bartowski/x-GGUF:Q4_K_M", "model@sha256:abc",
        "a%2Fb", "a%2fb", "llama3%3Alatest", "a%2Fb%3ac", "...", "a..b", "..a", "a.", ".hidden",
        "-", "_",
    }) do
        it(("may be '%s' and is sent on by its bytes"):format(model), function()
            assert.equal("/v1/models/" .. model, target_of("GET", "/v1/models/" .. model))
            assert.equal("/v1/models/" .. model, target_of("GET", "/llm/models/" .. model))
        end)
    end

    for _, model in ipairs({
        "", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "../a", "a/..", "a/../b", "a/./b",
        "%2e%2e", "%2E", "a%2e", ".%2e/x", "%41", "%25", "%252F", "%00", "%0a", "%", "%2", "%zz",
        "a%", "a b", "a+b", "a;b", "a?b", "a#b", "a\\b", "a\nb", "a\0b", "{model}", "a%5Cb",
    }) do
        it(("may not be %q"):format(model), function()
            assert.is_nil(target_of("GET", "/v1/models/" .. model))
        end)
    end

    -- Once the slash is decoded, as nginx and Go's ServeMux do, `..%2F..` is two dot segments.
    for _, model in ipairs({
        "..%2F..%2Fslots", "..%2f..%2fslots", "a%2F..", "a%2F..%2Fb", ".%2Fx", "%2Fx", "x%2F",
        "a%2F%2Fb", "a/%2Fb", "..%2F..",
    }) do
        it(("may not hide an empty or dot segment behind %%2F: '%s'"):format(model), function()
            assert.is_nil(target_of("GET", "/v1/models/" .. model))
        end)
    end

    it("may not be an escape that only another escape's removal shows", function()
        assert.is_nil(target_of("GET", "/v1/models/%%2F3Ax"))
    end)
end)

describe("is_canonical", function()
    it("accepts paths of plain characters, with or without a slash at the end", function()
        for _, path in ipairs({ "/", "/a", "/a/", "/a/b.c", "/~a!$&'()*+,=:@-_", "/...", "/.a" }) do
            assert.is_true(policy.is_canonical(path))
        end
    end)

    it("refuses every byte that a canonical path writes as an escape", function()
        for value = 0, 255 do
            local c = string.char(value)
            if not c:find("^[A-Za-z0-9._~!$&'()*+,=:@/-]$") then
                assert.is_false(policy.is_canonical("/a" .. c .. "b"), ("byte %d"):format(value))
            end
        end
    end)

    it("refuses an empty or dot segment in every place", function()
        for _, path in ipairs({
            "//", "/a//", "//a", "/a//b", "/.", "/./", "/a/.", "/a/./b", "/..", "/../", "/a/..",
            "/a/../b",
        }) do
            assert.is_false(policy.is_canonical(path))
        end
    end)
end)

describe("compile", function()
    -- Contract section 2, role by role.
    local MAY = {
        agent_reasoning = { inference = true, models = true, health = true },
        agent_fast = { inference = true, models = true, health = true },
        agi = { inference = true, models = true, health = true },
        user = { inference = true, models = true, health = true, page = true },
        monitoring = { models = true, health = true, metrics = true, page = true },
        admin = {
            inference = true, models = true, health = true, metrics = true, management = true,
            page = true, console = true,
        },
    }
    for role, classes in pairs(MAY) do
        it(("lets %s use exactly what the contract says"):format(role), function()
            for class, lines in pairs(ROUTES) do
                for _, line in ipairs(lines) do
                    local method, path = line:gsub("{%w+}", "x"):match("^(%S+) (%S+)$")
                    local route = policy.find(COMPILED, method, path)
                    assert.equal(class, route.class)
                    assert.equal(classes[class] or false, route.allowed[role] or false, line)
                end
            end
        end)
    end

    it("allows no role that roles.json does not name", function()
        local route = policy.find(COMPILED, "POST", "/v1/chat/completions")
        for _, role in ipairs({ "nobody", "", "Admin", "admin " }) do
            assert.is_nil(route.allowed[role])
        end
    end)

    it("gives the same decision at every name of a route", function()
        local function allowed(method, path)
            return policy.find(COMPILED, method, path).allowed
        end
        for _, path in ipairs({ "/llm/chat/completions", "/chat/completions" }) do
            assert.same(allowed("POST", "/v1/chat/completions"), allowed("POST", path))
        end
        assert.same(allowed("DELETE", "/api/delete"), allowed("DELETE", "/llm/api/delete"))
    end)

    it("has the streams of inference and management watched, and no others", function()
        local watched = { inference = true, management = true }
        for class, lines in pairs(ROUTES) do
            for _, line in ipairs(lines) do
                local method, path = line:gsub("{%w+}", "x"):match("^(%S+) (%S+)$")
                local route = policy.find(COMPILED, method, path)
                assert.equal(watched[class] or false, route.is_watched, line)
            end
        end
        assert.is_true(policy.find(COMPILED, "POST", "/chat/completions").is_watched)
        assert.is_true(policy.find(COMPILED, "POST", "/llm/api/pull").is_watched)
    end)

    it("leaves the page at / to whom the setting names", function()
        for _, by in ipairs({ "issuer", "llm" }) do
            local compiled = policy.compile(ROLES, ROUTES, by)
            assert.equal(by, policy.find(compiled, "GET", "/").answered_by)
            assert.equal("issuer", policy.find(compiled, "GET", "/admin/").answered_by)
        end
    end)

    it("takes the characters of a route by their bytes, around its parameter too", function()
        local routes = { models = { "GET /a.b-c/{x}/d.e", "GET /f.g" } }
        local compiled = policy.compile({ user = { routes = { "models" } } }, routes, "issuer")
        assert.equal("/a.b-c/v/d.e", target_of("GET", "/a.b-c/v/d.e", compiled))
        assert.equal("/f.g", target_of("GET", "/f.g", compiled))
        for _, path in ipairs({ "/aXb-c/v/d.e", "/a.b-c/v/dXe", "/a.bc/v/d.e", "/fXg" }) do
            assert.is_nil(target_of("GET", path, compiled))
        end
    end)

    it("makes no route of a class that no role may reach", function()
        local routes = { models = { "GET /v1/models" }, hidden = { "GET /slots" } }
        local compiled = policy.compile({ user = { routes = { "models" } } }, routes, "issuer")
        assert.is_nil(policy.find(compiled, "GET", "/slots"))
        assert.is_nil(policy.find(compiled, "GET", "/llm/slots"))
        assert.is_table(policy.find(compiled, "GET", "/v1/models"))
    end)

    it("makes no route at all where no role has a class", function()
        local compiled = policy.compile({ user = { routes = {} } }, ROUTES, "issuer")
        assert.same({}, compiled)
    end)
end)

describe("faults", function()
    it("finds none in the tables of the repository", function()
        assert.same({}, policy.faults(ROLES, ROUTES))
    end)

    it("lists all faults of both tables at once", function()
        local roles = { user = { routes = { "models", "nothing" } }, b = { routes = { "no" } } }
        local routes = {
            models = { "GET /v1/models", "FETCH /x", "GET x", "get /x", "GET /a b", "GET", "" },
        }
        local found = policy.faults(roles, routes)
        table.sort(found)
        assert.same({
            "roles.json: roles.b.routes[1] is no class of routes.json",
            "roles.json: roles.user.routes[2] is no class of routes.json",
            "routes.json: routes.models[2] is not METHOD /path",
            "routes.json: routes.models[3] is not METHOD /path",
            "routes.json: routes.models[4] is not METHOD /path",
            "routes.json: routes.models[5] is not METHOD /path",
            "routes.json: routes.models[6] is not METHOD /path",
            "routes.json: routes.models[7] is not METHOD /path",
        }, found)
    end)

    -- Contract section 4: a wrong value is listed; it is no Lua error. What the one fault is,
    -- role "user" having these classes, of these routes.
    local LIST = "routes.json: routes.models must be a list of METHOD /path"
    local LINE = "routes.json: routes.models[1] is not METHOD /path"
    local CLASSES = "roles.json: roles.user.routes must be a list of classes"
    local CLASS = "roles.json: roles.user.routes[1] is no class of routes.json"
    local WRONG_SHAPES = {
        { "a class that is a text", LIST, {}, { models = "GET /v1/models" } },
        { "a class that is null", LIST, {}, { models = cjson.null } },
        { "a class that is an object", LIST, {}, { models = { GET = "/v1/models" } } },
        { "a route that is a number", LINE, {}, { models = { 1 } } },
        { "a route that is null", LINE, {}, { models = { cjson.null } } },
        { "a route that is a list", LINE, {}, { models = { { "GET /x" } } } },
        { "a role's classes that are a text", CLASSES, "models", { models = {} } },
        { "a role's classes that are an object", CLASSES, { models = true }, { models = {} } },
        { "a role's class that is an object", CLASS, { {} }, {} },
        { "a role's class that is null", CLASS, { cjson.null }, {} },
        { "a role's class that is a number", CLASS, { 1 }, {} },
    }
    for _, case in ipairs(WRONG_SHAPES) do
        it("lists " .. case[1], function()
            assert.same({ case[2] }, policy.faults({ user = { routes = case[3] } }, case[4]))
        end)
    end

    it("finds none in a class without routes and a role without classes", function()
        assert.same({}, policy.faults({ user = { routes = {} } }, { models = {} }))
    end)

    it("lists a route that stands in one class twice", function()
        local routes = { models = { "GET /x", "GET /y", "GET /x" } }
        assert.same({ "routes.json: routes.models[3]: 'GET /x' is listed twice" },
            policy.faults({}, routes))
    end)

    it("lists a route that stands in two classes, in the one or the other", function()
        local found = policy.faults({}, { models = { "GET /x" }, console = { "GET /x" } })
        assert.equal(1, #found)
        assert.matches("^routes.json: routes.%w+%[1%]: 'GET /x' is listed twice$", found[1])
    end)

    -- A parameter's name makes no other route.
    for first, second in pairs({
        ["GET /x/{i}"] = "GET /x/{j}", ["GET /x/{model}/y"] = "GET /x/{id}/y",
        ["DELETE /{a}"] = "DELETE /{a}",
    }) do
        it(("lists %s beside %s"):format(second, first), function()
            assert.same({ "routes.json: routes.models[2]: '" .. second .. "' is listed twice" },
                policy.faults({}, { models = { first, second } }))
            assert.equal(1, #policy.faults({}, { models = { first }, health = { second } }))
        end)
    end

    it("finds none in parameters of other places, methods or neighbours", function()
        assert.same({}, policy.faults({}, {
            models = { "GET /x/{i}", "POST /x/{i}", "GET /x/{i}/y", "GET /{i}/x", "GET /x/i" },
        }))
    end)

    it("finds none in one path by two methods", function()
        assert.same({}, policy.faults({}, { models = { "GET /x", "POST /x" } }))
    end)
end)
