---------
-- What an LLM server answered that no caller may see, and what nginx refused by itself, as the
-- caller is told: docs/http-api.md.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")
local policies = require("policies")

local CHAT = "/v1/chat/completions"

local fake, upstream_errors

before_each(function()
    fake = fake_ngx.install()
    upstream_errors = fake.load("portero.answer.upstream_errors")
    policies.put(fake)
end)

local function refuse(who, status, target, upstream_status)
    fake.request({ method = target == "/health" and "GET" or "POST", target = target })
    fake.ngx.var.upstream_status = upstream_status
    fake.ngx.status = status
    upstream_errors.refuse(who)
    return fake.answer.exit, cjson.decode(fake.answer.body).error
end

describe("refuse", function()
    -- Whom nginx asked, its own status, what the LLM server had said, and what the caller is told.
    for _, case in ipairs({
        { "llm", 502, "404", 404, "model_not_found" },
        { "llm", 502, "405", 404, "model_not_found", "/llm/chat/completions?x" },
        { "llm", 502, "404", 404, "not_found", "/health" },
        { "llm", 502, "404", 404, nil, "/api/pull" },
        { "llm", 500, nil, 500, "internal_error" },
        { "llm", 500, "", 500, "internal_error" },
        { "llm", 500, "-", 500, "internal_error" },
        { "llm", 502, "502, 401", 502, "upstream_unavailable" },
        { "llm", 502, "502 : 503", 503, "not_ready" },
        { "llm", 418, nil, 400, "invalid_request" },
        { "llm", 418, "418", 400, "invalid_request" },
        { "llm", 413, nil, 413, "request_too_large" },
        { "issuer", 502, "502", 503, "not_ready" },
        { "issuer", 500, nil, 503, "not_ready" },
        { "issuer", 504, "504", 503, "not_ready" },
        { "issuer", 413, nil, 413, "request_too_large" },
        { "issuer", 400, nil, 400, "invalid_request" },
        { "nginx", 404, nil, 404, "not_found" },
        { "nginx", 405, nil, 404, "not_found" },
        { "nginx", 405, nil, 405, "method_not_allowed", "/llm/login?x" },
        { "nginx", 494, nil, 400, "invalid_request" },
        { "nginx", 501, nil, 400, "invalid_request" },
        { "nginx", 507, nil, 500, "internal_error" },
        { "nginx", 504, nil, 504, "upstream_timeout" },
    }) do
        local who, own, said, status, code, target = unpack(case, 1, 6)
        target = target or CHAT
        it(("tells %s's %d at %s, the LLM server having said %s, as %d %s"):format(
            who, own, target, tostring(said), status, tostring(code)), function()
            local told, err = refuse(who, own, target, said)
            assert.equal(status, told)
            assert.equal(code, type(err) == "table" and err.code or nil)
        end)
    end

    it("logs what the header filter has not seen, and nothing twice", function()
        refuse("llm", 401, CHAT, "401")
        assert.equal(1, #fake.logged)
        refuse("llm", 418, CHAT, "200")
        assert.equal(1, #fake.logged)
    end)

    it("asks nothing of the caller that the LLM server asked of the gateway", function()
        fake.request({ method = "GET", target = CHAT })
        fake.ngx.var.upstream_status = "401"
        fake.ngx.status = 401
        fake.ngx.header["WWW-Authenticate"] = 'Basic realm="CANARY"'
        upstream_errors.refuse("llm")
        assert.is_nil(fake.answer.headers["www-authenticate"])
    end)

    it("speaks Ollama's dialect where that was spoken", function()
        local _, err = refuse("llm", 502, "/api/chat", "404")
        assert.is_string(err)
    end)
end)

describe("refuse, of what nginx could not read,", function()
    local function said(request)
        fake.request(request)
        fake.ngx.status = 400
        fake.ngx.var.request_uri = request.target
        fake.ngx.var.uri = request.uri or "/refused/"
        upstream_errors.refuse("nginx")
        return cjson.decode(fake.answer.body).error.message
    end

    it("tells what is wrong with the head", function()
        assert.is_truthy(said({
            target = CHAT, raw_header = "POST / HTTP/1.1\r\nX: y\r\n\r\n",
        }):find("no Host", 1, true))
        -- HTTP/2 has no head to be shown.
        assert.is_truthy(said({ target = CHAT, http_version = 2 }):find("no Host", 1, true))
        assert.is_truthy(said({ uri = "/refused/headers_too_large", target = CHAT })
            :find("too large", 1, true))
    end)
end)

describe("code_of", function()
    -- What the caller is told of each status that an LLM server could answer.
    local TOLD = {
        [400] = "rejected", [401] = "upstream_refused", [402] = "upstream_refused",
        [403] = "upstream_refused", [404] = "model_not_found", [405] = "model_not_found",
        [407] = "upstream_refused", [408] = "upstream_timeout", [409] = "rejected_conflict",
        [410] = "model_not_found", [413] = "request_too_large",
        [415] = "unsupported_media_type", [422] = "rejected_content", [429] = "upstream_busy",
        [501] = "not_offered", [502] = "upstream_unavailable", [503] = "not_ready",
        [504] = "upstream_timeout", [529] = "not_ready",
    }

    it("has an answer for every status there could be", function()
        fake.request({ method = "POST", target = CHAT })
        for status = 0, 999 do
            local hundred = math.floor(status / 100)
            local expected = TOLD[status] or (hundred == 3 and "upstream_redirected")
                or (hundred == 4 and "rejected") or "upstream_failed"
            assert.equal(expected, upstream_errors.code_of(status), status)
        end
    end)
end)

--- The head of an answer, looked at; what the log says of it.
local function look(head)
    fake.request({ method = head.method or "POST", target = head.target or CHAT })
    fake.logged = {}
    fake.ngx.status = head.status
    fake.ngx.header["Content-Type"] = head.type
    fake.ngx.var.upstream_status = head.said ~= false and tostring(head.said or head.status) or nil
    fake.ngx.var.upstream_http_location = head.location
    return upstream_errors.look(), fake.answer.exit, table.concat(fake.logged)
end

local JSON, HTML = "application/json", "text/html; charset=utf-8"

describe("look", function()
    for _, head in ipairs({
        { status = 200, type = JSON }, { status = 200, type = "text/event-stream" },
        { status = 200 }, { status = 204 }, { status = 206, type = "audio/mpeg" },
        { status = 304 }, { status = 400, type = "application/json; charset=utf-8" },
        { status = 409, type = JSON }, { status = 422, type = "application/problem+json" },
        { status = 429, type = "Application/JSON" },
        -- Portero's own.
        { status = 401, type = JSON, said = false }, { status = 503, type = JSON, said = false },
        { status = 302, type = "text/html", said = false }, { status = 204, said = false },
    }) do
        it("lets pass " .. cjson.encode(head), function()
            local is_refused, exit, logged = look(head)
            assert.is_false(is_refused)
            assert.is_nil(exit)
            assert.equal("", logged)
        end)
    end

    -- What is refused, and what the operator reads of it.
    for _, case in ipairs({
        { { status = 200, type = HTML }, "a page" },
        { { status = 200, type = "TEXT/HTML" }, "a page" },
        { { status = 200, type = "application/xhtml+xml" }, "a page" },
        { { status = 100 }, "no HTTP" }, { { status = 103, type = JSON }, "no HTTP" },
        { { status = 9, said = 200 }, "no HTTP" }, { { status = 999, type = JSON }, "no HTTP" },
        { { status = 400, type = HTML }, "" }, { { status = 400 }, "" },
        { { status = 429, type = "text/plain" }, "more to do" }, { { status = 422 }, "" },
        { { status = 401, type = JSON }, "LLM_API_KEY" }, { { status = 403 }, "LLM_API_KEY" },
        { { status = 404, type = JSON }, "" }, { { status = 500, type = JSON }, "its own log" },
        { { status = 503, type = JSON }, "starting" }, { { status = 599 }, "its own log" },
        { { status = 307, location = "https://llm.internal/x?key=CANARY" },
            "answered 307 with Location https://llm.internal/x: set LLM_UPSTREAM" },
    }) do
        local head, words = case[1], case[2]
        it(("refuses %s, and says %q"):format(cjson.encode(head), words), function()
            local is_refused, exit, logged = look(head)
            assert.is_true(is_refused)
            assert.equal(418, exit)
            assert.is_truthy(logged:find(words, 1, true), logged)
            assert.equal(words == "", logged == "")
        end)
    end

    -- The LLM server was not asked, so there is nothing to say of it.
    it("puts words in the place of nginx's own page for a body that it could not read", function()
        local is_refused, exit, logged = look({ status = 400, type = HTML, said = false })
        assert.is_true(is_refused)
        assert.is_nil(exit)
        assert.equal("", logged)
        assert.is_nil(fake.answer.headers["content-length"])
        fake.ngx.arg = { "<html>", false }
        require("portero.answer.stream").filter()
        local said = cjson.decode(fake.ngx.arg[1]).error
        assert.is_truthy(said.message:find("body is broken", 1, true))
    end)

    it("lets pages pass where the LLM server's own are asked for", function()
        policies.put(fake, policies.with_page_of_llm())
        assert.is_false(look({ status = 200, type = HTML, target = "/", method = "GET" }))
        assert.is_true(look({ status = 200, type = HTML, target = CHAT }))
        assert.is_true(look({ status = 404, type = HTML, target = "/", method = "GET" }))
    end)

    it("lets the head of a page pass, where nothing but a head is asked for", function()
        assert.is_false(look({ status = 200, type = HTML, target = "/", method = "HEAD" }))
        assert.is_true(look({ status = 404, type = HTML, target = "/", method = "HEAD" }))
    end)

    it("writes no more of a Location than tells it", function()
        local _, _, logged = look({ status = 301, location = ("x"):rep(5000) })
        assert.is_true(#logged < 400)
    end)
end)

describe("look_at_list", function()
    for status, lines in pairs({ [200] = 0, [404] = 0, [401] = 1, [103] = 1, [307] = 1 }) do
        it(("says of %d what look says, and ends nothing"):format(status), function()
            fake.request({ target = "/v1/models" })
            fake.logged = {}
            fake.ngx.status = status
            fake.ngx.var.upstream_status = tostring(status)
            upstream_errors.look_at_list()
            assert.equal(lines, #fake.logged)
            assert.is_nil(fake.answer.exit)
        end)
    end
end)

describe("the policy in force", function()
    local function code_without_routes()
        local listed = policies.listed()
        listed.routes = {}
        policies.put(fake, listed)
        return select(2, refuse("llm", 502, CHAT, "404")).code
    end

    it("decides which routes there are, anew for each answer", function()
        assert.equal("not_found", code_without_routes())
        policies.put(fake)
        assert.equal("model_not_found", select(2, refuse("llm", 502, CHAT, "404")).code)
    end)

    it("may be none yet: no route is known then, and the answer is told all the same", function()
        fake = fake_ngx.install()
        upstream_errors = fake.load("portero.answer.upstream_errors")
        local status, err = refuse("llm", 502, CHAT, "404")
        assert.same({ 404, "not_found" }, { status, err.code })
    end)
end)
