---------
-- The table of routes, compiled from the list that the issuer pushes: what a client may write for
-- each, and what is sent (docs/http-api.md), threats B14, H10, H11, H13, H20.

local model_name = require("portero.policy.model_name")
local route_table = require("portero.policy.route_table")

local policies = require("policies")

local LISTED = policies.listed().routes
local COMPILED = route_table.compile(LISTED)

local function target_of(method, path, compiled)
    local route, value = route_table.find(compiled or COMPILED, method, path)
    return route and route_table.target(route, value)
end

--- A path that a listed one is meant by.
local function example_of(path)
    return (path:gsub("{digest}", "sha256:0af"):gsub("{%w+}", "x"))
end

--- A table of such routes, each a method and a path of the LLM server's.
local function compiled_of(...)
    local listed = {}
    for index, line in ipairs({ ... }) do
        local method, path = line:match("^(%S+) (%S+)$")
        listed[index] = policies.new_route({ method = method, path = path })
    end
    return route_table.compile(listed)
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

    it("sends every route on as it stands in the list", function()
        for _, listed in ipairs(LISTED) do
            local example = example_of(listed.path)
            assert.equal(example, target_of(listed.method, example))
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
            assert.is_string(route_table.fault_of_path(path))
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
            assert.is_nil(route_table.fault_of_path(path))
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
            assert.is_truthy(model == "" or route_table.fault_of_path("/v1/models/" .. model))
        end)
    end

    it("is what a person would write", function()
        for written, name in pairs({
            ["a"] = "a", ["%2Fa%2fb"] = "/a/b", ["a%3Ab"] = "a:b", ["%E6%A8%A1"] = "模",
            ["a+b%2B%20"] = "a+b+ ", ["%252F"] = "%2F", ["100%25"] = "100%",
        }) do
            assert.equal(name, model_name.unescape(written))
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

describe("fault_of_path", function()
    for path, code in pairs({
        ["/v1/models"] = "none", ["/"] = "none", ["/v1/models/"] = "none",
        ["/a..b/...c/.d"] = "none",
        ["//v1/models"] = "path_doubled_slash", ["/v1//models"] = "path_doubled_slash",
        ["/v1/models//"] = "path_doubled_slash",
        ["/v1/./models"] = "path_dot_segment", ["/v1/../models"] = "path_dot_segment",
        ["/v1/models/.."] = "path_dot_segment", ["/%2e%2E/admin/"] = "path_dot_segment",
        ["/.%2e"] = "path_dot_segment", ["/a%2f..%2Fb"] = "path_dot_segment",
        ["/v1\\models"] = "path_backslash", ["/v1%5Cmodels"] = "path_backslash",
        ["/v1%5cmodels"] = "path_backslash",
        ["/v1/models%00"] = "path_control", ["/a%0d%0aX:y"] = "path_control",
        ["/a%7f"] = "path_control", ["/a\1"] = "path_control", ["/a\0"] = "path_control",
        ["/v1/models#x"] = "path_fragment", ["/v1/mo dels"] = "path_space",
        ["/v1/%zz"] = "path_percent", ["/v1/%"] = "path_percent", ["/v1/%2"] = "path_percent",
        ["/v1/%a/x"] = "path_percent",
        ["/v1/models%2fx"] = "path_escaped_slash", ["/llm%2Fhealth"] = "path_escaped_slash",
        ["/%761/models"] = "path_escape", ["/%252e"] = "path_escape", ["/v1/m%20"] = "path_escape",
        ["/v1/models;x=1"] = "path_character", ["/v1/mod\195\169ls"] = "path_character",
        ["/{x}"] = "path_character", ['/"'] = "path_character",
        [""] = "path_missing", ["*"] = "path_missing", ["v1/models"] = "path_missing",
    }) do
        it(("says %s of %q"):format(code, path), function()
            assert.equal(code, route_table.fault_of_path(path) or "none")
        end)
    end

    it("accepts paths of plain characters, with or without a slash at the end", function()
        for _, path in ipairs({ "/", "/a", "/a/", "/a/b.c", "/~a!$&'()*+,=:@-_", "/...", "/.a" }) do
            assert.is_nil(route_table.fault_of_path(path))
        end
    end)

    it("refuses every byte that a canonical path writes as an escape", function()
        for value = 0, 255 do
            local c = string.char(value)
            if not c:find("^[A-Za-z0-9._~!$&'()*+,=:@/-]$") then
                local path = "/a" .. c .. "b"
                assert.is_string(route_table.fault_of_path(path), ("byte %d"):format(value))
            end
        end
    end)

    it("refuses an empty or dot segment in every place", function()
        for _, path in ipairs({
            "//", "/a//", "//a", "/a//b", "/.", "/./", "/a/.", "/a/./b", "/..", "/../", "/a/..",
            "/a/../b",
        }) do
            assert.is_string(route_table.fault_of_path(path))
        end
    end)
end)

describe("is_known", function()
    it("says whether a path is a route by any method", function()
        for _, listed in ipairs(LISTED) do
            assert.is_true(route_table.is_known(COMPILED, example_of(listed.path)))
        end
        for _, path in ipairs({ "/llm/chat/completions", "/models/x", "/llm/api/delete" }) do
            assert.is_true(route_table.is_known(COMPILED, path))
        end
    end)

    it("knows no other path, nor any where there are no routes", function()
        for _, path in ipairs({ "", "/x", "/v1", "/health/", "//", "/v1/models/..", "/admin" }) do
            assert.is_false(route_table.is_known(COMPILED, path))
        end
        assert.is_false(route_table.is_known({}, "/health"))
    end)
end)

describe("compile", function()
    it("has each route as it was listed, and its place in the list", function()
        for index, listed in ipairs(LISTED) do
            local route = route_table.find(COMPILED, listed.method, example_of(listed.path))
            local allowed = {}
            for _, name in ipairs(listed.roles) do
                allowed[name] = true
            end
            assert.same({
                index, listed.class, listed.model, listed.answered_by, listed.path, allowed,
            }, {
                route.index, route.class, route.model, route.answered_by, route.target,
                route.allowed,
            })
        end
    end)

    it("says of each route whether the LLM server has a part in its answer", function()
        local ANSWERERS = { llm = true, discovery = true, issuer = false, gateway = false }
        for by, is_llm in pairs(ANSWERERS) do
            local compiled = route_table.compile({ policies.new_route({ answered_by = by }) })
            assert.equal(is_llm, route_table.find(compiled, "GET", "/x").is_llm)
        end
    end)

    -- It would be sent to the LLM server, and no limits asked for.
    for _, by in ipairs({ "nobody", "", "LLM", 1, false }) do
        it(("takes no route that %q answers"):format(tostring(by)), function()
            assert.has_error(function()
                route_table.compile({ policies.new_route({ answered_by = by }) })
            end)
        end)
    end

    it("allows no role that the list does not name", function()
        local route = route_table.find(COMPILED, "POST", "/v1/chat/completions")
        for _, role in ipairs({ "nobody", "", "Admin", "admin " }) do
            assert.is_nil(route.allowed[role])
        end
        local compiled = route_table.compile({ policies.new_route({ roles = {} }) })
        assert.same({}, route_table.find(compiled, "GET", "/x").allowed)
    end)

    it("gives the same decision at every name of a route", function()
        local function found(method, path)
            return (route_table.find(COMPILED, method, path))
        end
        for _, path in ipairs({ "/llm/chat/completions", "/chat/completions" }) do
            assert.equal(found("POST", "/v1/chat/completions"), found("POST", path))
        end
        assert.equal(found("DELETE", "/api/delete"), found("DELETE", "/llm/api/delete"))
    end)

    it("gives another name to no route that the issuer or the gateway answers", function()
        for _, by in ipairs({ "issuer", "gateway" }) do
            local compiled = route_table.compile({
                policies.new_route({ path = "/v1/models", answered_by = by }),
            })
            assert.is_table(route_table.find(compiled, "GET", "/v1/models"))
            for _, path in ipairs({ "/llm/v1/models", "/llm/models", "/models" }) do
                assert.is_nil(route_table.find(compiled, "GET", path))
            end
        end
    end)

    it("gives each route the dialect of its path", function()
        for path, name in pairs({
            ["/llm/chat/completions"] = "openai", ["/api/chat"] = "ollama",
            ["/llm/api/chat"] = "ollama", ["/completion"] = "openai",
        }) do
            local compiled = compiled_of("POST /v1/chat/completions", "POST /api/chat",
                "POST /completion")
            local route = route_table.find(compiled, "POST", path)
            assert.equal(require("portero.dialect." .. name), route.dialect)
        end
    end)

    it("gives a name that two routes could have to the one that comes first", function()
        local compiled = compiled_of("GET /v1/models", "GET /v1/models/{model}", "GET /models",
            "GET /models/{x}")
        assert.equal("/v1/models", target_of("GET", "/models", compiled))
        assert.equal("/v1/models", target_of("GET", "/llm/models", compiled))
        assert.equal("/v1/models/a", target_of("GET", "/models/a", compiled))
    end)

    it("prefers the pattern that comes first, and an exact path to any pattern", function()
        local compiled = compiled_of("GET /a/b/{model}", "GET /a/{model}", "GET /a/b/c")
        for path, target in pairs({
            ["/a/b/x"] = "/a/b/{model}", ["/a/c/b"] = "/a/{model}", ["/a/b/c"] = "/a/b/c",
        }) do
            assert.equal(target, route_table.find(compiled, "GET", path).target)
        end
    end)

    it("takes the characters of a route by their bytes, around its parameter too", function()
        local compiled = compiled_of("GET /a.b-c/{x}/d.e", "GET /f.g")
        assert.equal("/a.b-c/v/d.e", target_of("GET", "/a.b-c/v/d.e", compiled))
        assert.equal("/f.g", target_of("GET", "/f.g", compiled))
        for _, path in ipairs({ "/aXb-c/v/d.e", "/a.b-c/v/dXe", "/a.bc/v/d.e", "/fXg" }) do
            assert.is_nil(target_of("GET", path, compiled))
        end
    end)

    it("makes no route at all of a list without any", function()
        assert.same({}, route_table.compile({}))
    end)
end)

describe("compile, of servers that the policy names", function()
    local routes, by_name = route_table.compile({
        policies.new_route({ path = "/v1/x", servers = { 1 } }),
        policies.new_route({ path = "/pull", servers = { 0 }, by_name = true }),
        policies.new_route({ path = "/page", answered_by = "issuer" }),
    })

    it("has which servers have a route, by their places from 1", function()
        assert.same({ [2] = true }, route_table.find(routes, "GET", "/v1/x").servers)
        assert.is_nil(route_table.find(routes, "GET", "/page").servers)
    end)

    it("has what is behind a name alone nowhere else", function()
        assert.is_nil(route_table.find(routes, "GET", "/pull"))
        assert.is_false(route_table.is_known(routes, "/pull"))
        assert.equal("/pull", route_table.find(by_name, "GET", "/pull").target)
    end)

    it("has all of the servers' routes behind a name, by that path alone", function()
        assert.equal("/v1/x", route_table.find(by_name, "GET", "/v1/x").target)
        assert.is_nil(route_table.find(by_name, "GET", "/llm/v1/x"))
        assert.is_nil(route_table.find(by_name, "GET", "/page"))
    end)
end)
