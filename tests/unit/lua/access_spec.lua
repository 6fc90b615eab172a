---------
-- The request path, by a policy that was pushed: docs/http-api.md, threats H2, H10-H13, I2, I5,
-- J24, S9, S12.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")
local minted = require("minted")
local policies = require("policies")

local NOW = minted.NOW
local CHAT = "/v1/chat/completions"

local ROLES = policies.listed().roles

local fake, access, active_tokens, upstreams

local function start(changes)
    local settings = { llm = { { path = "" } }, max_staleness_seconds = 0 }
    for name, value in pairs(changes or {}) do
        settings[name] = value
    end
    access.start(settings)
end

local function become_ready()
    active_tokens.end_snapshot(active_tokens.begin_snapshot())
    active_tokens.heard()
end

before_each(function()
    fake = fake_ngx.install(NOW)
    active_tokens = fake.load("portero.token.active_tokens")
    package.loaded["ngx.balancer"] = {}
    upstreams = fake.load("portero.server.upstreams")
    upstreams.set("llm", { { host = "127.0.0.1", port = 8000 } })
    access = fake.load("portero.access")
    start()
    minted.put_key(fake)
    policies.put(fake)
    become_ready()
end)

--- A token of a role, active unless told otherwise.
local function token_of(role, changes, is_inactive)
    local all = {
        role = '"' .. role .. '"',
        sub = '"' .. ROLES[role].code .. 'X1"',
        exp = tostring(NOW + ROLES[role].ttl_seconds),
    }
    for name, value in pairs(changes or {}) do
        all[name] = value
    end
    if not is_inactive then
        active_tokens.activate(minted.JTI, NOW + 3600, NOW)
    end
    return minted.token(minted.payload(all))
end

local function judge(request)
    fake.request(request)
    fake.ngx.var.request_id = "an-id"
    access.judge()
    assert.is_true(fake.answer.endings <= 1)
    return fake.answer
end

local function ask(method, target, token, headers)
    local all = { authorization = token and "Bearer " .. token }
    for name, value in pairs(headers or {}) do
        all[name] = value
    end
    return judge({ method = method, target = target, headers = all })
end

--- Nothing goes on: no target, nobody's name, no jump to another location.
local function assert_not_forwarded()
    local var = fake.ngx.var
    for _, name in ipairs({
        "upstream_target", "auth_user", "auth_role", "auth_token_id",
    }) do
        assert.is_nil(var[name], name)
    end
    assert.is_nil(fake.answer.exec)
    assert.equal(1, fake.answer.endings)
end

local function assert_refused(status, code, answer)
    assert.equal(status, answer.status)
    assert.equal(status, answer.exit)
    assert.equal(code, cjson.decode(answer.body).error.code)
    assert_not_forwarded()
end

--- What came is sent as it came, or the target is named where it is another.
local function assert_forwarded(target, answer)
    local var = fake.ngx.var
    if target == var.request_uri then
        assert.is_nil(answer.exec)
        assert.equal(0, answer.endings)
    else
        assert.equal("@renamed", answer.exec)
        assert.equal(target, var.upstream_target)
    end
    assert.is_string(var.auth_user)
    assert.is_nil(answer.status)
    assert.equal("", answer.body)
end

describe("a role that asks for a client certificate", function()
    it("is judged by the name that nginx has of it, whatever the client's headers say", function()
        local listed = policies.listed()
        listed.roles.user.client_certificate = true
        policies.put(fake, listed)
        local token = token_of("user")
        local function asked(certificate)
            fake.request({ method = "POST", target = CHAT, headers = {
                authorization = "Bearer " .. token,
                ["x-portero-client-certificate"] = "USRSX1",
            } })
            fake.ngx.var.request_id = "an-id"
            fake.ngx.var.client_certificate = certificate
            access.judge()
            return fake.answer
        end
        assert_forwarded(CHAT, asked("USRSX1"))
        assert_refused(401, "invalid_api_key", asked("USRSX2"))
        assert_refused(401, "invalid_api_key", asked(""))
    end)
end)

describe("judge forwards", function()
    it("what its role may use, with the name, role and jti of the token", function()
        assert_forwarded(CHAT, ask("POST", CHAT, token_of("user")))
        local var = fake.ngx.var
        assert.equal("USRSX1", var.auth_user)
        assert.equal("user", var.auth_role)
        assert.equal(minted.JTI, var.auth_token_id)
    end)

    it("and refuses what is marked with its class, and its role where that is known", function()
        local counts = fake.load("portero.request_counts")
        local function assert_marked(labels, ...)
            assert.is_nil(counts.exposition():find(labels, 1, true))
            ask(...)
            fake.answer.status = fake.answer.status or 200
            counts.count()
            assert.is_truthy(counts.exposition():find(labels, 1, true))
        end
        assert_marked('class="inference",role="user"', "POST", CHAT, token_of("user"))
        assert_marked('class="inference",role="monitoring"', "POST", CHAT, token_of("monitoring"))
        assert_marked('class="inference",role="none"', "POST", CHAT, "nothing")
        assert_marked('class="none",role="none"', "POST", "/nothing", token_of("user"))
    end)

    it("a request whose ID the answer tells by the names of its dialect alone", function()
        local token = token_of("user")
        for target, id in pairs({
            ["/v1/messages/count_tokens"] = "an-id", ["/llm/messages/count_tokens"] = "an-id",
            ["/v1/responses"] = false, [CHAT] = false, ["/api/chat"] = false,
        }) do
            local answer = ask("POST", target, token)
            assert.equal(id or nil, answer.headers["request-id"])
            assert.is_string(fake.ngx.var.auth_user)
        end
    end)

    -- How the token may come.
    local WAYS = {
        ["Authorization"] = function(t) return { authorization = "Bearer " .. t } end,
        ["x-api-key"] = function(t) return { ["x-api-key"] = t } end,
        ["the cookie"] = function(t) return { cookie = "a=b; auth_token=" .. t } end,
        ["two that are equal"] = function(t)
            return { authorization = "Bearer " .. t, ["x-api-key"] = t }
        end,
        ["Authorization behind two spaces (_h4)"] = function(t)
            return { authorization = "Bearer  " .. t }
        end,
        ["x-api-key, beside another scheme (_h8)"] = function(t)
            return { authorization = "Basic dTpw", ["x-api-key"] = t }
        end,
        ["the cookie, beside another scheme (_h8)"] = function(t)
            return { authorization = "Basic dTpw", cookie = "auth_token=" .. t }
        end,
    }
    for way, headers in pairs(WAYS) do
        it("a token in " .. way, function()
            local token = token_of("user")
            assert_forwarded(CHAT, ask("POST", CHAT, nil, headers(token)))
        end)
    end

    -- What was asked for, and what is sent: the path judged, the query as it was.
    local TARGETS = {
        ["POST /llm/chat/completions"] = "/v1/chat/completions",
        ["POST /chat/completions?a=b&c=%2F"] = "/v1/chat/completions?a=b&c=%2F",
        ["POST /llm/api/chat"] = "/api/chat",
        ["GET /llm/api/version?x"] = "/api/version?x",
        ["POST /api/show?"] = "/api/show?",
        ["GET /health?/admin/"] = "/health?/admin/",
    }
    for line, target in pairs(TARGETS) do
        it(line .. " as " .. target, function()
            local method, asked = line:match("^(%S+) (%S+)$")
            assert_forwarded(target, ask(method, asked, token_of("user")))
        end)
    end

    it("behind the path of the LLM server's base URL", function()
        start({ llm = { { path = "/base" } } })
        assert_forwarded("/base" .. CHAT .. "?x", ask("POST", CHAT .. "?x", token_of("user")))
    end)

    it("the pages and the console to the issuer, without the LLM server's path", function()
        start({ llm = { { path = "/base" } } })
        assert.equal("@issuer", ask("GET", "/", token_of("user")).exec)
        assert.equal("/", fake.ngx.var.upstream_target)
        local answer = ask("DELETE", "/admin/api/users/USRSX1/sessions", token_of("admin"))
        assert.equal("@issuer", answer.exec)
        assert.equal("/admin/api/users/USRSX1/sessions", fake.ngx.var.upstream_target)
        assert.equal("admin", fake.ngx.var.auth_role)
    end)

    it("questions for models to where their lists are filtered", function()
        for line, target in pairs({
            ["/llm/models/a%2Fb?x"] = "/v1/models/a%2Fb?x", ["/models"] = "/v1/models",
            ["/api/tags"] = "/api/tags",
        }) do
            assert.equal("@discovery", ask("GET", line, token_of("user")).exec)
            assert.equal(target, fake.ngx.var.upstream_target)
        end
    end)

    it("the page to the LLM server where the policy says so", function()
        policies.put(fake, policies.with_page_of_llm())
        assert_forwarded("/", ask("GET", "/", token_of("user")))
    end)

    it("the metrics to the gateway itself", function()
        assert.equal("@metrics", ask("GET", "/metrics", token_of("monitoring")).exec)
    end)

    it("each version of HTTP that there is", function()
        local headers = { authorization = "Bearer " .. token_of("user") }
        for _, protocol in ipairs({ "HTTP/1.0", "HTTP/1.1", "HTTP/2.0" }) do
            local request =
                { method = "POST", target = CHAT, protocol = protocol, headers = headers }
            assert_forwarded(CHAT, judge(request))
        end
    end)

    it("and counts what it allowed", function()
        ask("POST", CHAT, token_of("user"))
        ask("GET", "/", token_of("user"))
        fake.load("portero.metrics").flush()
        assert.equal(2, fake.shared.portero_metrics:get("allowed"))
    end)

    it("a token minted in this very turn of the event loop", function()
        fake.clock.now, fake.clock.real = NOW - 1, NOW
        assert_forwarded(CHAT, ask("POST", CHAT, token_of("user")))
    end)
end)

describe("judge and the roles", function()
    -- docs/policy.md: route -> who may use it.
    local MAY = {
        ["POST /v1/chat/completions"] = "agent_reasoning agent_fast agi user admin",
        ["POST /api/generate"] = "agent_reasoning agent_fast agi user admin",
        ["GET /v1/models"] = "agent_reasoning agent_fast agi user monitoring admin",
        ["GET /health"] = "agent_reasoning agent_fast agi user monitoring admin",
        ["GET /metrics"] = "monitoring admin",
        ["POST /api/pull"] = "admin",
        ["DELETE /api/delete"] = "admin",
        ["GET /"] = "user monitoring admin",
        ["GET /admin/"] = "admin",
        ["GET /admin/api/sessions"] = "admin",
    }
    for line, who in pairs(MAY) do
        it(("let %s use %s and no one else"):format(who, line), function()
            local method, target = line:match("^(%S+) (%S+)$")
            for role in pairs(ROLES) do
                local answer = ask(method, target, token_of(role))
                if who:find("%f[%w_]" .. role .. "%f[^%w_]") then
                    assert.is_nil(answer.exit, role)
                    assert.equal(role, fake.ngx.var.auth_role)
                else
                    assert.equal(403, answer.exit, role)
                    assert_not_forwarded()
                end
            end
        end)
    end

    it("answer 403 insufficient_permissions", function()
        assert_refused(403, "insufficient_permissions", ask("POST", CHAT, token_of("monitoring")))
    end)
end)

describe("judge refuses with 404 and 400", function()
    for _, line in ipairs({
        "POST /v1/unknown", "GET /validate", "GET /sync/status", "POST /sync/apply", "POST /tools",
        "GET /v1/chat/completions", "HEAD /health", "OPTIONS /v1/chat/completions", "TRACE /",
        "FOO /",
        "get /", "GET /.git/config", "GET /x/llm/health", "GET /v1/models/", "GET /admin",
    }) do
        it("what is no route: " .. line, function()
            local method, target = line:match("^(%S+) (%S+)$")
            local token = token_of("admin")
            assert_refused(404, "not_found", ask(method, target, token))
            assert_refused(404, "not_found", ask(method, target))
        end)
    end

    for _, target in ipairs({
        "/llm/../admin/", "/llm/%2e%2e/admin/", "//llm//login", "/llm%2flogin", "/llm/./x", "/a#b",
        "/llm/..;/admin/", "/x;x=1", "/a\\b", "/%c0%ae", "/%252e", "/x%0d%0aX-Auth-Role:%20admin",
        "/v1/models/x%00", "?x", "*",
    }) do
        it(("the path that is not canonical: %q"):format(target), function() -- H10, H11
            assert_refused(400, "invalid_request", ask("GET", target, token_of("admin")))
        end)
    end

    it("such a path, and says what is wrong with it", function()
        local answer = ask("GET", "/llm%2flogin")
        assert_refused(400, "invalid_request", answer)
        assert.matches("escaped slash", answer.body, 1, true)
    end)

    it("what is a route by another method, or without its slash, and says so", function()
        for line, words in pairs({
            ["GET " .. CHAT] = "for this method", ["GET /health/"] = "ends with a slash",
            ["GET /unknown"] = "No such route.",
        }) do
            local answer = ask(line:match("^(%S+) (%S+)$"))
            assert_refused(404, "not_found", answer)
            assert.matches(words, answer.body, 1, true)
        end
    end)

    for _, protocol in ipairs({ "HTTP/0.9", "HTTP/1.2", "HTTP/3.0", "", "http/1.1" }) do
        it(("the protocol '%s'"):format(protocol), function() -- H13
            local headers = { authorization = "Bearer " .. token_of("user") }
            local request = { method = "POST", target = CHAT, protocol = protocol }
            request.headers = headers
            assert_refused(400, "invalid_request", judge(request))
        end)
    end

    for _, query in ipairs({
        "token=x", "access_token=x", "auth_token=x", "a=b&token=x", "api_key=x", "token=",
        "?token=x", "x-api_key=x",
    }) do
        it(("a token in the query, whatever comes beside it: %s"):format(query), function() -- I2
            local answer = ask("POST", CHAT .. "?" .. query, token_of("user"))
            assert_refused(400, "invalid_request", answer)
            assert_refused(400, "invalid_request", ask("POST", CHAT .. "?" .. query))
            assert.is_nil(answer.body:find(query, 1, true))
        end)
    end

    it("two credentials that differ, also where one is good", function() -- H2
        local token = token_of("user")
        for _, headers in ipairs({
            { ["x-api-key"] = "other" },
            { cookie = "auth_token=other" },
            { ["x-api-key"] = { token, token } },
            { authorization = "Bearer:", cookie = "auth_token=" .. token },
            { authorization = "Bearer", ["x-api-key"] = token },
        }) do
            assert_refused(400, "invalid_request", ask("POST", CHAT, token, headers))
        end
        local answer = ask("POST", CHAT, token, { cookie = "auth_token=other" })
        assert.matches("more than one credential", answer.body, 1, true)
    end)
end)

describe("judge refuses with 401", function()
    -- Bad tokens of every kind: one answer for all.
    local BAD = {
        ["no token"] = function() return nil end,
        ["an empty token"] = function() return "" end,
        ["no JWT"] = function() return "abc" end,
        ["a forged signature"] = function()
            return minted.token(nil, minted.header(), "HS256", ("x"):rep(32))
        end,
        ["alg none"] = function() return minted.token(nil, minted.header("none")) end,
        ["an unknown kid"] = function() return minted.token(nil, minted.header("HS256", "k")) end,
        ["another issuer"] = function() return token_of("user", { iss = '"x"' }) end,
        ["a role that is none"] = function() return token_of("user", { role = '"x"' }) end,
        ["a name of another role"] = function() return token_of("user", { sub = '"ADMNX"' }) end,
        ["a lifetime over the TTL"] = function()
            return token_of("user", { exp = tostring(NOW + 901) })
        end,
        ["an iat to come"] = function()
            return token_of("user", { iat = tostring(NOW + 5), exp = tostring(NOW + 9) })
        end,
        ["an expired token with a forged signature"] = function()
            return minted.token(minted.payload({ iat = "1", exp = "2" }), minted.header(), "HS256",
                ("x"):rep(32))
        end,
        ["a token that was never issued"] = function() return token_of("user", {}, true) end,
        ["a revoked token"] = function()
            active_tokens.revoke(minted.JTI, NOW + 900, NOW)
            return token_of("user")
        end,
    }
    local first
    for what, token in pairs(BAD) do
        it("and one answer for all: " .. what, function()
            local answer = ask("POST", CHAT, token())
            assert_refused(401, "invalid_api_key", answer)
            assert.equal('Bearer realm="portero"', answer.headers["www-authenticate"])
            first = first or { answer.body, answer.headers }
            assert.same(first, { answer.body, answer.headers })
        end)
    end

    -- H3: what surrounds a good token in Authorization.
    for _, form in ipairs({
        "Bearer: %s", "Bearer\t%s", "Bearer \t%s", "Bearer %s x", "Bearer %s,%s", "Bearer\n%s",
        "Bearer %s, Basic x", "Token %s", "Basic %s", "%s", "Bearer%s", "Bearer=%s", "Bearer =%s",
        "Bearer \"%s\"", "Bearer %s\n", "Bearer Bearer %s",
    }) do
        it(("the good token of %q"):format(form), function()
            local value = form:gsub("%%s", (token_of("user"):gsub("%%", "%%%%")))
            local answer = ask("POST", CHAT, nil, { authorization = value })
            assert_refused(401, "invalid_api_key", answer)
        end)
    end

    it("and 'token expired' and x-should-retry an authentic token past its time", function()
        local token = token_of("user")
        for _, after in ipairs({ 900, 901, 100000 }) do
            fake.clock.now = NOW + after
            local answer = ask("POST", CHAT, token)
            assert_refused(401, "invalid_api_key", answer)
            assert.equal("true", answer.headers["x-should-retry"])
            assert.equal('Bearer realm="portero"', answer.headers["www-authenticate"])
            assert.equal("token expired", cjson.decode(answer.body).error.message)
        end
    end)

    it("a token in the second of its exp, known or not", function()
        local token = token_of("user")
        fake.clock.now = NOW + 899.999
        assert_forwarded(CHAT, ask("POST", CHAT, token))
        fake.clock.now = NOW + 900
        assert_refused(401, "invalid_api_key", ask("POST", CHAT, token))
    end)

    it("a token from the moment it is revoked, although it was accepted before", function()
        local token = token_of("user")
        assert_forwarded(CHAT, ask("POST", CHAT, token))
        active_tokens.revoke(minted.JTI, NOW + 900, NOW)
        assert_refused(401, "invalid_api_key", ask("POST", CHAT, token))
    end)

    it("a token that the next snapshot does not name", function()
        local token = token_of("user")
        assert_forwarded(CHAT, ask("POST", CHAT, token))
        become_ready()
        assert_refused(401, "invalid_api_key", ask("POST", CHAT, token))
    end)

    it("a token of which any character is another, right after the good one", function() -- J24
        local token = token_of("user")
        assert_forwarded(CHAT, ask("POST", CHAT, token))
        for place = 1, #token do
            local other = token:sub(place, place) == "A" and "B" or "A"
            local flipped = token:sub(1, place - 1) .. other .. token:sub(place + 1)
            assert.equal(401, ask("POST", CHAT, flipped).exit)
            assert_not_forwarded()
        end
    end)

    it("in Ollama's dialect under /api/", function()
        local answer = ask("POST", "/api/chat")
        assert.equal(401, answer.exit)
        assert.is_string(cjson.decode(answer.body).error)
    end)
end)

describe("judge and other sites", function()
    local EVIL = { ["sec-fetch-site"] = "cross-site" }

    local function with_cookie(token, headers)
        local all = { cookie = "auth_token=" .. token, host = "portero" }
        for name, value in pairs(headers) do
            all[name] = value
        end
        return all
    end

    it("refuse a cookie that another site's page brought, with 403", function() -- I5
        for _, headers in ipairs({ EVIL, { origin = "http://evil" }, { origin = "null" } }) do
            local answer = ask("POST", CHAT, nil, with_cookie(token_of("user"), headers))
            assert_refused(403, "insufficient_permissions", answer)
        end
        local headers = with_cookie(token_of("admin"), EVIL)
        local answer = ask("DELETE", "/admin/api/users/USRSX/sessions", nil, headers)
        assert_refused(403, "insufficient_permissions", answer)
    end)

    it("refuse such a cookie beside another scheme, which a browser brings by itself", function()
        local headers = with_cookie(token_of("user"), EVIL)
        headers.authorization = "Basic dTpw" -- _h8
        assert_refused(403, "insufficient_permissions", ask("POST", CHAT, nil, headers))
    end)

    it("forward a cookie of our own page", function()
        local headers = with_cookie(token_of("user"), { origin = "http://portero" })
        assert_forwarded(CHAT, ask("POST", CHAT, nil, headers))
    end)

    it("forward a cookie with a GET, which changes nothing", function()
        local headers = with_cookie(token_of("user"), EVIL)
        assert_forwarded("/health", ask("GET", "/health", nil, headers))
    end)

    it("forward a token that no browser brings by itself", function()
        assert_forwarded(CHAT, ask("POST", CHAT, token_of("user"), EVIL))
        local headers = { ["sec-fetch-site"] = "cross-site", ["x-api-key"] = token_of("user") }
        assert_forwarded(CHAT, ask("POST", CHAT, nil, headers))
    end)
end)

describe("judge and readiness", function()
    local function assert_not_ready(answer)
        assert_refused(503, "not_ready", answer)
        assert.equal("1", answer.headers["retry-after"])
    end

    local function empty()
        fake.shared.portero_sync.entries = {}
        fake.shared.portero_active_tokens.entries = {}
        fake.load("portero.shared_versions").look()
    end

    it("answer 503 and not 401 to a good token before the first snapshot is whole", function()
        empty()
        local token = token_of("user")
        assert_not_ready(ask("POST", CHAT, token))
        active_tokens.begin_snapshot()
        assert_not_ready(ask("POST", CHAT, token))
    end)

    it("answer 503 before the first snapshot although the issuer was heard just now", function()
        empty()
        active_tokens.heard()
        assert_not_ready(ask("POST", CHAT, token_of("user")))
    end)

    -- Its keys and its policy are still in their dictionaries.
    local function empty_but_for(...)
        empty()
        for _, name in ipairs({ ... }) do
            fake.load("portero.shared_versions")["raise_" .. name]()
        end
    end

    it("answer 503 to any token before there are keys, and 401 to none at all", function()
        empty_but_for("policy")
        become_ready()
        assert_not_ready(ask("POST", CHAT, token_of("user")))
        assert_not_ready(ask("POST", CHAT, "abc"))
        assert_refused(401, "invalid_api_key", ask("POST", CHAT))
    end)

    it("answer 503 to everything before there is a policy, a route or none", function()
        empty_but_for("keys")
        become_ready()
        for _, line in ipairs({ "POST " .. CHAT, "GET /", "GET /unknown", "GET //", "FOO /" }) do
            local method, target = line:match("^(%S+) (%S+)$")
            assert_not_ready(ask(method, target, token_of("user")))
            assert_not_ready(ask(method, target))
        end
        policies.put(fake)
        assert_forwarded(CHAT, ask("POST", CHAT, token_of("user")))
    end)

    it("answer 503 with keys and a policy, and without a whole snapshot", function()
        local token = token_of("user")
        empty_but_for("keys", "policy")
        assert_not_ready(ask("POST", CHAT, token))
        become_ready()
        active_tokens.activate(minted.JTI, NOW + 3600, NOW)
        assert_forwarded(CHAT, ask("POST", CHAT, token))
    end)

    it("answer 401 to a bad token before the first snapshot too", function()
        empty_but_for("keys", "policy")
        assert_refused(401, "invalid_api_key", ask("POST", CHAT, "abc"))
        assert_refused(401, "invalid_api_key", ask("POST", CHAT))
    end)

    it("answer 503 to an unknown token that a silent issuer may have minted", function() -- S12
        fake.clock.now = NOW + 10
        local exp = tostring(NOW + 100)
        local new = token_of("user", { iat = tostring(NOW + 5), exp = exp }, true)
        assert_not_ready(ask("POST", CHAT, new))
        local old = token_of("user", { iat = tostring(NOW - 5), exp = exp }, true)
        assert_refused(401, "invalid_api_key", ask("POST", CHAT, old))
    end)

    it("answer 401 to a revoked token of a silent issuer", function()
        fake.clock.now = NOW + 10
        local new = token_of("user", { iat = tostring(NOW + 5), exp = tostring(NOW + 90) })
        active_tokens.revoke(minted.JTI, NOW + 90, NOW + 10)
        assert_refused(401, "invalid_api_key", ask("POST", CHAT, new))
    end)

    it("forward whatever the staleness where no bound is set", function()
        fake.clock.now = NOW + 800
        assert_forwarded(CHAT, ask("POST", CHAT, token_of("user")))
    end)

    it("answer 503 once the issuer was not heard for longer than the bound", function()
        start({ max_staleness_seconds = 30 })
        local token = token_of("user")
        fake.clock.now = NOW + 30
        assert_forwarded(CHAT, ask("POST", CHAT, token))
        fake.clock.now = NOW + 30.1
        assert_not_ready(ask("POST", CHAT, token))
        active_tokens.heard()
        assert_forwarded(CHAT, ask("POST", CHAT, token))
    end)

    it("answer 503 where a bound is set and the issuer was never heard", function()
        start({ max_staleness_seconds = 30 })
        empty_but_for("keys", "policy")
        active_tokens.end_snapshot(active_tokens.begin_snapshot())
        assert_not_ready(ask("POST", CHAT, token_of("user")))
    end)
end)

describe("judge and an LLM server of which no address is known", function()
    before_each(function()
        upstreams.set("llm", { { host = "no-such-host.invalid", port = 8000 } })
        upstreams.set("issuer", { { host = "no-such-host.invalid", port = 9000 } })
    end)

    it("answer 502 before anything is forwarded, and count no allowed request", function()
        for _, line in ipairs({ "POST " .. CHAT, "GET /v1/models", "GET /health" }) do
            local method, target = line:match("^(%S+) (%S+)$")
            assert_refused(502, "upstream_unavailable", ask(method, target, token_of("user")))
        end
        fake.load("portero.metrics").flush()
        assert.equal(3, fake.shared.portero_metrics:get("upstream_unavailable"))
        assert.is_nil(fake.shared.portero_metrics:get("allowed"))
    end)

    it("answer 502 in Ollama's dialect under /api/", function()
        local answer = ask("POST", "/api/chat", token_of("user"))
        assert.equal(502, answer.exit)
        assert.is_string(cjson.decode(answer.body).error)
        assert_not_forwarded()
    end)

    it("say so to nobody who may not use the route", function()
        assert_refused(401, "invalid_api_key", ask("POST", CHAT))
        assert_refused(403, "insufficient_permissions", ask("POST", CHAT, token_of("monitoring")))
        assert_refused(404, "not_found", ask("POST", "/v1/unknown", token_of("user")))
    end)

    it("forward what the issuer and the gateway answer", function()
        assert.equal("@issuer", ask("GET", "/", token_of("user")).exec)
        assert.equal("@metrics", ask("GET", "/metrics", token_of("monitoring")).exec)
    end)

    it("answer 502 for the page where the LLM server answers it", function()
        policies.put(fake, policies.with_page_of_llm())
        assert_refused(502, "upstream_unavailable", ask("GET", "/", token_of("user")))
    end)

    it("forward again once an address is known", function()
        upstreams.set("llm", { { host = "127.0.0.1", port = 8000 } })
        assert_forwarded(CHAT, ask("POST", CHAT, token_of("user")))
    end)
end)

describe("judge and browsers", function()
    local BROWSER = { accept = "text/html,application/xhtml+xml,*/*;q=0.8" }
    local PAGES = { ["/"] = "/login?next=/", ["/admin/"] = "/admin/login?next=/admin/" }

    for target, page in pairs(PAGES) do
        it(("send one without a valid session from %s to %s"):format(target, page), function()
            local expired = token_of("admin", { iat = tostring(NOW - 9), exp = tostring(NOW - 1) })
            local revoked = token_of("admin", {}, true)
            for _, cookie in ipairs({ "a=b", "auth_token=x", "auth_token=" .. expired,
                "auth_token=" .. revoked }) do
                active_tokens.revoke(minted.JTI, NOW + 900, NOW)
                local answer = ask("GET", target, nil, { accept = BROWSER.accept, cookie = cookie })
                assert.equal(page, answer.redirect)
                assert.equal(302, answer.ended_with)
                assert.equal("no-store", answer.headers["cache-control"])
                assert_not_forwarded()
            end
        end)
    end

    it("answer 401 to a program that asks for a page", function()
        for _, accept in ipairs({ "application/json", "*/*", "" }) do
            assert_refused(401, "invalid_api_key", ask("GET", "/", nil, { accept = accept }))
        end
        assert_refused(401, "invalid_api_key", ask("GET", "/"))
    end)

    it("answer 401 to a browser that asks for no page", function()
        assert_refused(401, "invalid_api_key", ask("GET", "/v1/models", nil, BROWSER))
        assert_refused(401, "invalid_api_key", ask("POST", CHAT, nil, BROWSER))
    end)

    it("answer 403 and 503 to a browser, which no login would help", function()
        local answer = ask("GET", "/admin/", token_of("user"), BROWSER)
        assert_refused(403, "insufficient_permissions", answer)
        fake.shared.portero_sync.entries = {}
        assert_refused(503, "not_ready", ask("GET", "/", token_of("user"), BROWSER))
    end)
end)

describe("judge", function()
    --- Refusals in the order of the request path, each with all that follow it wrong too.
    local function request_wrong_from(step)
        local bad, good = "bad", token_of("monitoring")
        local shared_versions = fake.load("portero.shared_versions")
        fake.shared.portero_sync.entries = {}
        if step >= 1 then
            shared_versions.raise_policy()
        end
        if step >= 7 then
            shared_versions.raise_keys()
        end
        local cookie = { cookie = "auth_token=" .. (step <= 7 and bad or good), host = "h",
            ["sec-fetch-site"] = step <= 5 and "cross-site" or "same-origin" }
        if step <= 3 then
            cookie.authorization = "Bearer other"
        elseif step == 4 then
            cookie.cookie = nil
        end
        return {
            method = "POST",
            target = (step <= 1 and "/no/route" or CHAT) .. (step <= 2 and "?token=x" or ""),
            protocol = step <= 2 and "HTTP/1.2" or "HTTP/1.1",
            headers = cookie,
        }
    end
    local ORDER = {
        { "an unknown route", 404, "not_found" },
        { "a query or protocol", 400, "invalid_request" },
        { "two credentials", 400, "invalid_request" },
        { "a missing credential", 401, "invalid_api_key" },
        { "another site", 403, "insufficient_permissions" },
        { "a gateway without keys", 503, "not_ready" },
        { "a bad token", 401, "invalid_api_key" },
        { "an empty gateway", 503, "not_ready" },
    }
    ORDER[0] = { "a gateway without a policy", 503, "not_ready" }
    for step = 0, #ORDER do
        local case = ORDER[step]
        it(("refuses for %s before all that comes later"):format(case[1]), function()
            assert_refused(case[2], case[3], judge(request_wrong_from(step)))
        end)
    end

    it("refuses for staleness before it looks at the role, and for the role at last", function()
        start({ max_staleness_seconds = 30 })
        local token = token_of("monitoring")
        fake.clock.now = NOW + 100
        assert_refused(503, "not_ready", ask("POST", CHAT, token))
        active_tokens.heard()
        assert_refused(403, "insufficient_permissions", ask("POST", CHAT, token))
    end)

    it("refuses an inactive token before it looks at the role", function()
        assert_refused(401, "invalid_api_key", ask("POST", CHAT, token_of("monitoring", {}, true)))
    end)

    it("lets a Lua error out, which nginx answers with 500, and forwards nothing", function()
        local token = token_of("user")
        fake.shared.portero_active_tokens.get = function() error("broken") end
        assert.has_error(function() ask("POST", CHAT, token) end)
        assert.is_nil(fake.ngx.var.auth_user)
        assert.is_nil(fake.answer.exec)
    end)

    it("forwards nothing whatever breaks on the way", function() -- H27
        assert_forwarded(CHAT, ask("POST", CHAT, token_of("user")))
        local tried, seen = 0, 0
        for _, dict in pairs(fake.shared) do
            for _, operation in ipairs({ "get", "ttl", "incr", "safe_add", "safe_set" }) do
                local calls = 0
                seen = seen + 1
                local token = token_of("user", { exp = tostring(NOW + 100 + seen) })
                rawset(dict, operation, function()
                    calls = calls + 1
                    error("broken")
                end)
                local ok = pcall(ask, "POST", CHAT, token)
                rawset(dict, operation, nil)
                if calls > 0 then
                    tried = tried + 1
                    assert.is_false(ok)
                    assert.is_nil(fake.ngx.var.auth_user)
                    assert.is_nil(fake.answer.exec)
                end
            end
        end
        assert.is_true(tried > 1)
    end)

    it("keeps the requests of one worker apart", function() -- H25
        local token = token_of("user")
        assert_forwarded(CHAT, ask("POST", CHAT, token))
        assert_refused(401, "invalid_api_key", ask("POST", CHAT))
        assert_forwarded(CHAT, ask("POST", CHAT, token))
    end)

    it("logs nothing, so no token either", function()
        ask("POST", CHAT, token_of("user"))
        ask("POST", CHAT, "bad")
        assert.same({}, fake.logged)
    end)
end)

describe("judge and servers that the policy names", function()
    local began

    before_each(function()
        fake.load("portero.server.forwarding").begin = function(plan, claims)
            began = { plan = plan, claims = claims }
        end
        local listed = policies.listed()
        listed.servers = {
            {
                name = "rack", kind = "vllm", model_names = "exact", weight = 1,
                models = { "org/one" }, scheme = "http", host = "10.0.0.1", port = 80,
            },
        }
        listed.management = { "admin" }
        listed.aliases = { { name = "fast", models = { "org/one" } } }
        for _, route in ipairs(listed.routes) do
            local is_llm = route.answered_by == "llm" or route.answered_by == "discovery"
            route.servers = is_llm and { 0 } or nil
            route.by_name = is_llm and route.class == "management" or nil
        end
        policies.put(fake, listed)
        began = nil
    end)

    it("lead a request there with its plan, and pages where they ever went", function()
        assert.equal("@server", ask("GET", "/health?x=1", token_of("agi")).exec)
        assert.equal("/health?x=1", fake.ngx.var.upstream_target)
        assert.equal("rack", began.plan.rows[1].name)
        assert.equal("AGIAX1", began.claims.sub)
        assert.equal("@issuer", ask("GET", "/admin/", token_of("admin")).exec)
    end)

    it("send the real model where an alias stands in a path or a query", function()
        local token = token_of("admin")
        local answer = ask("POST", "/servers/rack/load?model=org/one&x=1", token)
        assert.equal("@server", answer.exec)
        assert.equal("/load?model=org/one&x=1", fake.ngx.var.upstream_target)
        local listed = policies.listed()
        listed.servers = { began.plan.rows[1] }
        listed.management, listed.aliases = {}, { { name = "fast", models = { "org/one" } } }
        listed.routes = {
            policies.new_route({ path = "/q", model = "query", servers = { 0 } }),
            policies.new_route({ path = "/p/{model}", model = "path", servers = { 0 } }),
        }
        policies.put(fake, listed)
        token = token_of("user")
        assert.equal("@server", ask("GET", "/q?x=1&model=fast", token).exec)
        assert.equal("/q?x=1&model=org/one", fake.ngx.var.upstream_target)
        assert.equal("@server", ask("GET", "/p/fast", token).exec)
        assert.equal("/p/org/one", fake.ngx.var.upstream_target)
    end)

    it("tell whose list is asked for where a server is named, and send an ID as it is", function()
        ask("GET", "/servers/rack/v1/models", token_of("admin"))
        assert.same({ "rack", "/v1/models" },
            { fake.ngx.var.llm_server, fake.ngx.var.upstream_target })
        assert.equal("@discovery", ask("GET", "/v1/models/fast", token_of("agi")).exec)
        assert.same({ "", "/v1/models/fast" },
            { fake.ngx.var.llm_server, fake.ngx.var.upstream_target })
        assert.is_nil(began)
    end)

    it("refuse what no server has", function()
        assert_refused(404, "model_not_found", ask("GET", "/v1/models/two", token_of("agi")))
        assert_refused(404, "not_found", ask("POST", "/load", token_of("admin")))
    end)
end)

describe("judge and limits", function()
    local function with_limits(limits, users)
        local listed = policies.listed()
        listed.roles.user.limits, listed.users = limits, users or {}
        fake.load("portero.quota.limits").start()
        policies.put(fake, listed)
    end

    it("take what is counted to where it is given back", function()
        with_limits({ requests_per_minute = 2 })
        local answer = ask("POST", CHAT, token_of("user"))
        assert.equal("@limited", answer.exec)
        assert.equal(CHAT, fake.ngx.var.upstream_target)
    end)

    it("leave where it is what is only judged", function()
        with_limits({ largest_body_bytes = 10 })
        assert_forwarded(CHAT, ask("POST", CHAT, token_of("user")))
    end)

    it("refuse what is over them, in the words of the limit", function()
        with_limits({ requests_per_minute = 1 })
        local token = token_of("user")
        ask("POST", CHAT, token)
        local answer = ask("POST", CHAT, token)
        assert_refused(429, "rate_limit_exceeded", answer)
        assert.equal(60, answer.headers["retry-after"])
    end)

    it("are the user's own where there are any, and none where they are none", function()
        with_limits({ requests_per_minute = 1 }, {
            USRSX1 = { limits = { requests_per_minute = 2 } },
        })
        local token = token_of("user")
        for _ = 1, 2 do
            assert.equal("@limited", ask("POST", CHAT, token).exec)
        end
        assert_refused(429, "rate_limit_exceeded", ask("POST", CHAT, token))
        with_limits({ requests_per_minute = 1 }, { USRSX1 = {} })
        for _ = 1, 3 do
            assert_forwarded(CHAT, ask("POST", CHAT, token))
        end
    end)

    it("hold for what is answered from the LLM server's list too", function()
        with_limits({ requests_per_minute = 1 })
        local token = token_of("user")
        assert.equal("@discovery", ask("GET", "/v1/models", token).exec)
        assert_refused(429, "rate_limit_exceeded", ask("GET", "/v1/models", token))
    end)

    it("are asked after the LLM server: what it cannot answer costs nothing", function()
        with_limits({ requests_per_minute = 1 })
        local token = token_of("user")
        upstreams.set("llm", { { host = "no-such-host.invalid", port = 8000 } })
        assert_refused(502, "upstream_unavailable", ask("POST", CHAT, token))
        upstreams.set("llm", { { host = "127.0.0.1", port = 8000 } })
        assert.equal("@limited", ask("POST", CHAT, token).exec)
    end)

    it("are asked after the role: what it may not use costs nothing", function()
        with_limits({ requests_per_minute = 1 })
        local token = token_of("user")
        assert.equal(403, ask("POST", "/api/pull", token).exit)
        assert.equal("@limited", ask("POST", CHAT, token).exec)
    end)

    --- What happens while a body comes.
    local function meanwhile(happens)
        local admission = fake.load("portero.quota.admission")
        local real = admission.refusal
        admission.refusal = function(...)
            admission.refusal = real
            happens()
            return real(...)
        end
    end

    -- What ended, and what is said of it.
    local ENDS = {
        ["was revoked"] = { "Invalid or missing token.", function()
            active_tokens.revoke(minted.JTI, NOW + 900, NOW)
        end },
        ["expired"] = { "token expired", function()
            fake.clock.now = NOW + 900
            become_ready()
        end },
    }
    for what, case in pairs(ENDS) do
        it(("are not met by a token that %s while its body came, and keep nothing"):format(what),
            function()
                with_limits({ requests_per_minute = 5, concurrent_requests = 1 })
                local token = token_of("user")
                meanwhile(case[2])
                local answer = ask("POST", CHAT, token)
                assert_refused(401, "invalid_api_key", answer)
                assert.equal(case[1], cjson.decode(answer.body).error.message)
                assert.is_nil(fake.shared.portero_limits:get("s:USRSX1:1"))
            end)
    end

    it("are those of the policy that the request began with, to its end", function()
        with_limits({ requests_per_minute = 1 })
        local token = token_of("user")
        meanwhile(function() with_limits({ requests_per_minute = 9, concurrent_requests = 1 }) end)
        assert.equal("@limited", ask("POST", CHAT, token).exec)
        assert.is_nil(fake.shared.portero_limits:get("s:USRSX1:1"))
        assert.equal("@limited", ask("POST", CHAT, token).exec)
        assert.is_truthy(fake.shared.portero_limits:get("s:USRSX1:1"))
    end)

    it("say nothing of pages, nor of callers of another role", function()
        with_limits({ requests_per_minute = 1 })
        for _ = 1, 3 do
            assert.equal("@issuer", ask("GET", "/", token_of("user")).exec)
            assert_forwarded(CHAT, ask("POST", CHAT, token_of("agi")))
        end
    end)
end)

describe("judge and questions of browsers", function()
    local ASKED = { origin = "https://a", ["access-control-request-method"] = "POST" }

    it("answer one of an allowed origin without a token", function()
        fake.request({ method = "OPTIONS", target = CHAT, headers = ASKED })
        fake.ngx.var.cors_origin = "https://a"
        access.judge()
        assert.equal(204, fake.answer.exit)
        assert_not_forwarded()
    end)

    it("know nothing of one where no origin is allowed", function()
        assert_refused(404, "not_found", ask("OPTIONS", CHAT, nil, ASKED))
    end)
end)

describe("judge and another policy", function()
    it("know no route any more that it does not list", function()
        local token = token_of("admin")
        assert_forwarded(CHAT, ask("POST", CHAT, token))
        local listed = policies.listed()
        listed.routes = {}
        policies.put(fake, listed)
        assert_refused(404, "not_found", ask("POST", CHAT, token))
    end)

    it("take from a role what it may not use any more, and give what it may", function()
        local token = token_of("monitoring")
        assert_refused(403, "insufficient_permissions", ask("POST", CHAT, token))
        local listed = policies.listed()
        policies.route(listed, "POST", CHAT).roles = { "monitoring" }
        policies.put(fake, listed)
        assert_forwarded(CHAT, ask("POST", CHAT, token))
        assert_refused(403, "insufficient_permissions", ask("POST", CHAT, token_of("admin")))
    end)

    it("refuse the token of a role that is gone, or whose lifetime is less by now", function()
        local token = token_of("user")
        assert_forwarded(CHAT, ask("POST", CHAT, token))
        local listed = policies.listed()
        listed.roles.user.ttl_seconds = 899
        policies.put(fake, listed)
        assert_refused(401, "invalid_api_key", ask("POST", CHAT, token))
        listed.roles.user = nil
        policies.put(fake, listed)
        assert_refused(401, "invalid_api_key", ask("POST", CHAT, token))
        policies.put(fake)
        assert_forwarded(CHAT, ask("POST", CHAT, token))
    end)

    it("leave the former one in force where it was refused", function()
        local in_force = fake.load("portero.policy.in_force")
        assert.is_nil((in_force.put(policies.HISTORY, 2 ^ 40, { routes = {} })))
        assert_forwarded(CHAT, ask("POST", CHAT, token_of("user")))
    end)
end)

describe("start", function()
    it("sets where the LLM server's routes begin, and how long the issuer may be silent", function()
        start({ llm = { { path = "/base" } }, max_staleness_seconds = 1 })
        assert_forwarded("/base" .. CHAT, ask("POST", CHAT, token_of("user")))
        fake.clock.now = NOW + 2
        assert_refused(503, "not_ready", ask("POST", CHAT, token_of("user")))
    end)
end)

describe("where use is counted, judge", function()
    local asked

    before_each(function()
        local admission = fake.load("portero.quota.admission")
        asked = {}
        admission.refusal = function(route) asked[#asked + 1] = route.class end
        fake.load("portero.quota.usage_counts").start({ has_usage = true })
        start({ has_usage = true })
    end)

    it("leaves a caller without limits where it came in, or takes it where that counts", function()
        local answer = ask("POST", CHAT, token_of("user"))
        assert.is_nil(answer.exec)
        answer = ask("POST", "/llm/chat/completions", token_of("user"))
        assert.equal("@limited", answer.exec)
        assert.same({ "inference", "inference" }, asked)
    end)

    it("asks nothing of a request that uses no model", function()
        ask("GET", "/v1/models", token_of("user"))
        ask("GET", "/health", token_of("user"))
        assert.same({}, asked)
    end)
end)
