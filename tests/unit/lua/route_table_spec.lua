---------
-- Which role may use which route, on the real roles.json and route packs: docs/policy.md
-- and docs/http-api.md, threats B14, H10, H11, H13, H20.

local cjson = require("cjson.safe")
local route_table = require("portero.policy.route_table")

local shipped = require("shipped")

local PACKS = shipped.packs()
local LINES = shipped.lines(PACKS)
local ROLES = shipped.roles().roles
local COMPILED = route_table.compile(ROLES, PACKS, "issuer")

--- One pack of some classes.
local function packs_of(routes, name)
    return { { name = name or "ollama", routes = routes } }
end

local function target_of(method, path, compiled)
    local route, value = route_table.find(compiled or COMPILED, method, path)
    return route and route_table.target(route, value)
end

describe("find and target", function()
    -- docs/http-api.md: what the client writes, and what the LLM server gets.
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

    it("sends every route of every pack on as it stands there", function()
        for _, kind in ipairs({ "ollama", "vllm", "llama-server", "localai" }) do
            local packs = shipped.packs(kind)
            local compiled = route_table.compile(ROLES, packs, "llm")
            for _, line in ipairs(shipped.lines(packs)) do
                assert.equal(line.example, target_of(line.method, line.example, compiled))
            end
        end
    end)

    it("answers who serves a route: issuer, gateway, LLM server, or what it lists", function()
        local served = {
            ["/"] = "issuer", ["/admin/"] = "issuer", ["/metrics"] = "gateway",
            ["/v1/models"] = "discovery", ["/v1/models/x"] = "discovery",
            ["/api/tags"] = "discovery", ["/health"] = "llm",
        }
        for path, by in pairs(served) do
            assert.equal(by, route_table.find(COMPILED, "GET", path).answered_by)
        end
    end)

    -- Names that only look like aliases.
    local NO_NAMES = {
        "POST /v1/chat", "POST /v1/completion", "POST /v1/api/chat", "POST /responses",
        "POST /messages", "POST /rerank", "POST /audio/transcriptions", "GET /tags", "GET /ps",
        "GET /app", "GET /bundle.js", "POST /tools", "POST /pooling", "POST /v1/realtime",
        "GET /llm", "GET /llm/", "GET /llm/metrics", "GET /llm/admin/", "GET /admin",
        "POST /llm/llm/v1/chat/completions", "POST /llm/login", "GET /validate", "GET /sync/status",
        "POST /invocations", "GET /.git/config",
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
        assert.is_nil(target_of("HEAD", "/health"))
    end)

    -- H10, H11, H20: none of these is a way to a route of the table.
    local NOT_CANONICAL = {
        "/llm/../admin/", "/llm/%2e%2e/admin/", "//llm//login", "//v1/models", "/v1//models",
        "/v1/./models", "/v1/models/.", "/v1/models/..", "/v1/models/../models", "/./v1/models",
        "/v1/../v1/models", "/llm%2fmodels", "/v1%2Fmodels", "/%761/models", "/v1/models#b",
        "/v1/models;x=1", "/v1;/models", "/llm/..;/admin/", "/v1\\models", "\\v1\\models",
        "/%c0%ae%c0%ae/admin/", "/%252e%252e/admin/", "/v1/models%00", "/v1/models%0d%0aX:y",
        "/v1/models/x%0d%0aX-Auth-Role:%20admin", "/v1/models\0", "/v1/models\r\n",
        "/v1/models/x\n", "/v1/models ", " /v1/models", "/v1/models%20", "/v1/mod\195\169ls",
        "", "v1/models", "*", "http://evil/v1/models", "/v1/models/%7f", "/v1/{model}",
    }
    for _, path in ipairs(NOT_CANONICAL) do
        it(("finds nothing at, and calls not canonical, %q"):format(path), function()
            assert.is_nil(target_of("GET", path))
            assert.is_false(route_table.is_canonical(path))
        end)
    end

    -- H10, H20: written in the one way, yet no route.
    local UNKNOWN = {
        "/V1/models", "/v1/Models", "/ADMIN/", "/admin/x/llm/health",
        "/x/llm/health", "/x/v1/models", "/v1/modelsx", "/xv1/models", "/health/", "/metrics/",
    }
    for _, path in ipairs(UNKNOWN) do
        it("finds nothing at the unknown but canonical " .. path, function()
            assert.is_nil(target_of("GET", path))
            assert.is_true(route_table.is_canonical(path))
        end)
    end

    it("takes no part of a query for a path", function() -- H20
        for _, path in ipairs({ "/admin?x=/llm/health", "/v1/models?x", "/x?/v1/models" }) do
            assert.is_nil(target_of("GET", path))
        end
    end)
end)

describe("the {model} of a route that is looked up", function()
    local function value_of(model, short)
        local route, value = route_table.find(COMPILED, "GET", (short or "/v1/models/") .. model)
        return route and value, route
    end

    -- Names of real models, and what else a list may show; _h3.
    for _, model in ipairs({
        "llama3", "llama3:latest", "library/llama3", "registry.ollama.ai/library/llama3:8b",
        "meta-llama/Llama-3.1-8B-Instruct", "hf.co/bartowski/x-GGUF:Q4_K_M", "model@sha256:abc",
        "a%2Fb", "a%2fb", "llama3%3Alatest", "a%2Fb%3ac", "...", "a..b", "..a", "a.", ".hidden",
        "-", "_", "/models/Qwen3", "%2Fmodels%2FQwen3", "C:%5Cmodels%5Cx.gguf",
        "C:\\models\\x.gguf", "a%20b", "%E6%A8%A1", "\230\168\161", "a+b", "a%2Bb", "a%23b",
        "a%3Fb", "100%25", "%22a%22", "(a)", "a;b", "{model}", "a'b", "a|b", "x/", "/",
        "//a//", "a//b", "%252F", "a%2e",
        "./a", "a/./b", "a/../b", "a%2F..%2Fb", "../models/x", "..%2Fmodels%2Fx", "%41",
    }) do
        it(("may be %q"):format(model), function()
            for _, short in ipairs({
                "/v1/models/", "/llm/v1/models/", "/models/", "/llm/models/",
            }) do
                if not model:find("models", 1, true) or short == "/v1/models/" then
                    local value, route = value_of(model, short)
                    assert.equal(model, value)
                    assert.equal("discovery", route.answered_by)
                end
            end
        end)
    end

    -- What no ID is, and what leads to another route once dots are resolved, as some fronts do.
    for _, model in ipairs({
        "", ".", "..", "../a", "a/..", "..%2Fa", "a%2F..", "..%2F..", "%2e%2e", ".%2e/x", "%2E",
        "..%2F..%2Fslots", "../../admin/", "../../../..", "../models", "../models/",
        "a%2f..%2f..%2fx", "%00", "a%00b", "%0a", "%7F", "a\0b", "a\nb", "a\127", "%", "%2", "%zz",
        "a%", "%%2F3Ax", "a#b", "#", "%u0041",
    }) do
        it(("may not be %q"):format(model), function()
            assert.is_nil(value_of(model))
            assert.is_false(route_table.is_canonical("/v1/models/" .. model) and model ~= "")
        end)
    end

    it("is what a person would write", function()
        for written, name in pairs({
            ["a"] = "a", ["%2Fa%2fb"] = "/a/b", ["a%3Ab"] = "a:b", ["%E6%A8%A1"] = "模",
            ["a+b%2B%20"] = "a+b+ ", ["%252F"] = "%2F", ["100%25"] = "100%",
        }) do
            assert.equal(name, route_table.unescape(written))
        end
    end)
end)

describe("the {model} of a route that is sent", function()
    local PATH = "/models/delete/"

    for _, model in ipairs({
        "llama3", "llama3:latest", "library/llama3", "model@sha256:abc", "a%2Fb", "a%2fb",
        "llama3%3Alatest", "a%2Fb%3ac", "...", "a..b", "..a", "a.", ".hidden", "-", "_",
    }) do
        it(("may be '%s' and is sent on by its bytes"):format(model), function()
            assert.equal(PATH .. model, target_of("POST", PATH .. model))
            assert.equal(PATH .. model, target_of("POST", "/llm" .. PATH .. model))
        end)
    end

    for _, model in ipairs({
        "", "/", "/a", "a/", "a//b", ".", "..", "./a", "a/.", "../a", "a/..", "a/../b", "a/./b",
        "%2e%2e", "%2E", "a%2e", ".%2e/x", "%41", "%25", "%252F", "%00", "%0a", "%", "%2", "%zz",
        "a%", "a b", "a+b", "a;b", "a?b", "a#b", "a\\b", "a\nb", "a\0b", "{model}", "a%5Cb",
        "\195\169", "%20",
    }) do
        it(("may not be %q"):format(model), function()
            assert.is_nil(target_of("POST", PATH .. model))
        end)
    end

    -- Once the slash is decoded, as nginx and Go's ServeMux do, `..%2F..` is two dot segments.
    for _, model in ipairs({
        "..%2F..%2Fslots", "..%2f..%2fslots", "a%2F..", "a%2F..%2Fb", ".%2Fx", "%2Fx", "x%2F",
        "a%2F%2Fb", "a/%2Fb", "..%2F..",
    }) do
        it(("may not hide an empty or dot segment behind %%2F: '%s'"):format(model), function()
            assert.is_nil(target_of("POST", PATH .. model))
        end)
    end

    it("may not be an escape that only another escape's removal shows", function()
        assert.is_nil(target_of("POST", PATH .. "%%2F3Ax"))
    end)
end)

describe("the {digest} of a route", function()
    it("is Ollama's name of a blob, and nothing else", function()
        assert.equal("/api/blobs/sha256:0aF", target_of("POST", "/api/blobs/sha256:0aF"))
        for _, digest in ipairs({ "sha256", "sha256:", "sha256:xyz", "md5:00", "../x", "a" }) do
            assert.is_nil(target_of("POST", "/api/blobs/" .. digest))
        end
    end)
end)

describe("is_canonical", function()
    it("accepts paths of plain characters, with or without a slash at the end", function()
        for _, path in ipairs({ "/", "/a", "/a/", "/a/b.c", "/~a!$&'()*+,=:@-_", "/...", "/.a" }) do
            assert.is_true(route_table.is_canonical(path))
        end
    end)

    it("refuses every byte that a canonical path writes as an escape", function()
        for value = 0, 255 do
            local c = string.char(value)
            if not c:find("^[A-Za-z0-9._~!$&'()*+,=:@/-]$") then
                local path = "/a" .. c .. "b"
                assert.is_false(route_table.is_canonical(path), ("byte %d"):format(value))
            end
        end
    end)

    it("refuses an empty or dot segment in every place", function()
        for _, path in ipairs({
            "//", "/a//", "//a", "/a//b", "/.", "/./", "/a/.", "/a/./b", "/..", "/../", "/a/..",
            "/a/../b",
        }) do
            assert.is_false(route_table.is_canonical(path))
        end
    end)
end)

describe("compile", function()
    -- docs/policy.md, role by role.
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
        it(("lets %s use exactly what docs/policy.md says"):format(role), function()
            local compiled = route_table.compile(ROLES, PACKS, "llm")
            for _, line in ipairs(LINES) do
                local route = route_table.find(compiled, line.method, line.example)
                assert.equal(line.class, route.class, line.path)
                assert.equal(line.model, route.model, line.path)
                assert.equal(classes[line.class] or false, route.allowed[role] or false)
            end
        end)
    end

    it("allows no role that roles.json does not name", function()
        local route = route_table.find(COMPILED, "POST", "/v1/chat/completions")
        for _, role in ipairs({ "nobody", "", "Admin", "admin " }) do
            assert.is_nil(route.allowed[role])
        end
    end)

    it("gives the same decision at every name of a route", function()
        local function allowed(method, path)
            return route_table.find(COMPILED, method, path).allowed
        end
        for _, path in ipairs({ "/llm/chat/completions", "/chat/completions" }) do
            assert.same(allowed("POST", "/v1/chat/completions"), allowed("POST", path))
        end
        assert.same(allowed("DELETE", "/api/delete"), allowed("DELETE", "/llm/api/delete"))
    end)

    it("leaves the page at / to whom the setting names", function()
        for _, by in ipairs({ "issuer", "llm" }) do
            local compiled = route_table.compile(ROLES, PACKS, by)
            assert.equal(by, route_table.find(compiled, "GET", "/").answered_by)
            assert.equal("issuer", route_table.find(compiled, "GET", "/admin/").answered_by)
        end
    end)

    it("has the rest of an LLM server's page only where that page is shown", function()
        local with = route_table.compile(ROLES, PACKS, "llm")
        for _, path in ipairs({ "/index.html", "/bundle.js", "/app" }) do
            assert.is_nil(route_table.find(COMPILED, "GET", path))
            assert.equal("llm", route_table.find(with, "GET", path).answered_by)
        end
    end)

    it("gives each route the dialect of its path", function()
        for path, name in pairs({
            ["/llm/chat/completions"] = "openai", ["/api/chat"] = "ollama",
            ["/llm/api/chat"] = "ollama", ["/completion"] = "openai",
        }) do
            local route = route_table.find(COMPILED, "POST", path)
            assert.equal(require("portero.dialect." .. name), route.dialect)
        end
    end)

    it("gives a short name to the route with /v1, whatever pack has one of that name", function()
        local packs = packs_of({
            inference = { "POST /completions model=body", "POST /v1/completions model=body" },
            models = { "GET /models/{x}", "GET /v1/models/{model} model=path" },
        })
        local compiled = route_table.compile(ROLES, packs, "issuer")
        assert.equal("/v1/completions", target_of("POST", "/completions", compiled))
        assert.equal("/v1/completions", target_of("POST", "/llm/completions", compiled))
        assert.equal("/v1/models/a", target_of("GET", "/models/a", compiled))
    end)

    it("prefers the pattern that says more", function()
        local packs = packs_of({ models = { "GET /a/{model}", "GET /a/b/{model}" } })
        local compiled = route_table.compile(ROLES, packs, "issuer")
        for _ = 1, 20 do
            assert.equal("/a/b/{model}", route_table.find(compiled, "GET", "/a/b/c").target)
            assert.equal("/a/{model}", route_table.find(compiled, "GET", "/a/c/b").target)
        end
    end)

    it("takes the characters of a route by their bytes, around its parameter too", function()
        local routes = { models = { "GET /a.b-c/{x}/d.e", "GET /f.g" } }
        local compiled = route_table.compile({ user = { routes = { "models" } } },
            packs_of(routes), "issuer")
        assert.equal("/a.b-c/v/d.e", target_of("GET", "/a.b-c/v/d.e", compiled))
        assert.equal("/f.g", target_of("GET", "/f.g", compiled))
        for _, path in ipairs({ "/aXb-c/v/d.e", "/a.b-c/v/dXe", "/a.bc/v/d.e", "/fXg" }) do
            assert.is_nil(target_of("GET", path, compiled))
        end
    end)

    it("makes no route of a class that no role may reach", function()
        local routes = { models = { "GET /v1/models" }, hidden = { "GET /slots" } }
        local compiled = route_table.compile({ user = { routes = { "models" } } },
            packs_of(routes), "issuer")
        assert.is_nil(route_table.find(compiled, "GET", "/slots"))
        assert.is_nil(route_table.find(compiled, "GET", "/llm/slots"))
        assert.is_table(route_table.find(compiled, "GET", "/v1/models"))
    end)

    it("makes no route at all where no role has a class", function()
        local compiled = route_table.compile({ user = { routes = {} } }, PACKS, "issuer")
        assert.same({}, compiled)
    end)
end)

describe("limits", function()
    local function limits_of(changes, users)
        local file = shipped.roles()
        for name, value in pairs(changes) do
            file.roles.user.grant[name] = value
        end
        file.users = users or {}
        return route_table.limits(file, true)
    end

    it("are none for the roles as they are shipped", function()
        assert.same({ roles = {}, users = {} }, limits_of({}))
    end)

    it("are a role's when it has one, and nobody else's", function()
        local limits = limits_of({ requests_per_minute = 5 })
        assert.same({ user = { requests_per_minute = 5, is_counted = true } }, limits.roles)
    end)

    it("hold the models where not all are allowed", function()
        assert.is_table(limits_of({ models = { "a" } }).roles.user.models)
        assert.is_table(limits_of({ models = {} }).roles.user.models)
        assert.is_nil(limits_of({ models = { "*" } }).roles.user)
    end)

    it("hold a body's length where it is less than anybody's", function()
        assert.same({ largest_body_bytes = 67108863, is_counted = false },
            limits_of({ largest_body_bytes = 67108863 }).roles.user)
    end)

    it("say whether anything is counted, which is not so for models and lengths", function()
        for name, value in pairs({
            requests_per_minute = 1, tokens_per_minute = 1, concurrent_requests = 1,
        }) do
            assert.is_true(limits_of({ [name] = value }).roles.user.is_counted)
        end
        assert.is_false(limits_of({ models = { "a" } }).roles.user.is_counted)
    end)

    it("are a user's own, and false where the user has none in place of the role's", function()
        local free = shipped.roles().roles.user.grant
        local limits = limits_of({ tokens_per_minute = 9 }, { USRSA = free })
        assert.equal(9, limits.roles.user.tokens_per_minute)
        assert.is_false(limits.users.USRSA)
    end)
end)

describe("unescape", function()
    it("answers the name that a parameter stands for", function()
        assert.equal("a/b:c", route_table.unescape("a%2Fb%3Ac"))
        assert.equal("plain", route_table.unescape("plain"))
    end)
end)

describe("faults", function()
    local FORM = " is not METHOD /path, or METHOD /path model=WHERE"

    it("finds none in the packs of the repository", function()
        assert.same({}, route_table.faults(PACKS))
    end)

    it("lists all faults of all packs at once", function()
        local found = route_table.faults({
            { name = "a", routes = {
                models = { "GET /v1/models", "FETCH /x", "GET x", "get /x", "GET /a b", "GET", "" },
            } },
            { name = "b", routes = {
                models = { "GET /y model=", "GET /y model=head", "GET //" },
            } },
        })
        table.sort(found)
        assert.same({
            "a: routes.models[2]" .. FORM, "a: routes.models[3]" .. FORM,
            "a: routes.models[4]" .. FORM, "a: routes.models[5]" .. FORM,
            "a: routes.models[6]" .. FORM, "a: routes.models[7]" .. FORM,
            "b: routes.models[1]" .. FORM, "b: routes.models[2]" .. FORM,
            "b: routes.models[3]" .. FORM,
        }, found)
    end)

    -- docs/configuration.md: a wrong value is listed; it is no Lua error.
    local LIST = "ollama: routes.models must be a list of METHOD /path"
    local LINE = "ollama: routes.models[1]" .. FORM
    local WRONG_SHAPES = {
        { "a class that is a text", LIST, { models = "GET /v1/models" } },
        { "a class that is null", LIST, { models = cjson.null } },
        { "a class that is an object", LIST, { models = { GET = "/v1/models" } } },
        { "a route that is a number", LINE, { models = { 1 } } },
        { "a route that is null", LINE, { models = { cjson.null } } },
        { "a route that is a list", LINE, { models = { { "GET /x" } } } },
        { "a route with two parameters", LINE, { models = { "GET /{a}/{b}" } } },
    }
    for _, case in ipairs(WRONG_SHAPES) do
        it("lists " .. case[1], function()
            assert.same({ case[2] }, route_table.faults(packs_of(case[3])))
        end)
    end

    --- A pack that says `idle_seconds` so.
    local function pack_saying(written)
        return { {
            name = "vllm", routes = {}, fields = { routes = {}, idle_seconds = 1 },
            written = { idle_seconds = written },
        } }
    end

    it("finds none in seconds of idleness, nor in null for as long as one likes", function()
        for _, written in ipairs({ "1", "5", "86400", "null" }) do
            assert.same({}, route_table.faults(pack_saying(written)))
        end
    end)

    for _, written in ipairs({
        "0", "05", "86401", "-5", "5.0", "5e0", "0x5", '"5"', "true", "[", "{", ("9"):rep(400),
    }) do
        it(("lists %s seconds of idleness"):format(written), function()
            assert.same({
                "vllm: idle_seconds must be a whole number of seconds, 1 to 86400, or null for no"
                    .. " limit",
            }, route_table.faults(pack_saying(written)))
        end)
    end

    it("lists a field that is none", function()
        assert.same({ "vllm: idle is not a known field" }, route_table.faults({
            { name = "vllm", routes = {}, fields = { routes = {}, idle = 5 } },
        }))
    end)

    it("finds none in a class without routes", function()
        assert.same({}, route_table.faults(packs_of({ models = {} })))
    end)

    it("lists a route that stands in one class twice", function()
        assert.same({ "ollama: routes.models[3]: 'GET /x' is listed twice" },
            route_table.faults(packs_of({ models = { "GET /x", "GET /y", "GET /x" } })))
    end)

    it("lists a route that stands in two classes, in the one or the other", function()
        local found = route_table.faults(packs_of({ models = { "GET /x" }, health = { "GET /x" } }))
        assert.equal(1, #found)
        assert.matches("^ollama: routes.%w+%[1%]: 'GET /x' is listed twice$", found[1])
    end)

    -- A parameter's name makes no other route.
    for first, second in pairs({
        ["GET /x/{i}"] = "GET /x/{j}", ["GET /x/{model}/y"] = "GET /x/{id}/y",
        ["DELETE /{a}"] = "DELETE /{a}",
    }) do
        it(("lists %s beside %s"):format(second, first), function()
            assert.same({ "ollama: routes.models[2]: '" .. second .. "' is listed twice" },
                route_table.faults(packs_of({ models = { first, second } })))
        end)
    end

    it("finds none in parameters of other places, methods or neighbours", function()
        assert.same({}, route_table.faults(packs_of({
            models = { "GET /x/{i}", "POST /x/{i}", "GET /x/{i}/y", "GET /{i}/x", "GET /x/i" },
        })))
    end)

    it("finds none in a route that means the same in two packs", function()
        local routes = { models = { "GET /x model=none" } }
        assert.same({}, route_table.faults({
            { name = "a", routes = routes }, { name = "b", routes = routes },
        }))
    end)

    for what, routes in pairs({
        ["class"] = { health = { "GET /x model=none" } },
        ["place of the model"] = { models = { "GET /x model=body" } },
        ["silence about the model"] = { models = { "GET /x" } },
    }) do
        it("lists a route that has another " .. what .. " in another pack", function()
            local found = route_table.faults({
                { name = "a", routes = { models = { "GET /x model=none" } } },
                { name = "b", routes = routes },
            })
            assert.equal(1, #found)
            assert.matches("^b: routes.%w+%[1%]: 'GET /x' means another thing", found[1])
        end)
    end
end)
