---------
-- Refusals in every dialect: the table of docs/http-api.md.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")

local REFUSED, DENIED, OURS = "invalid_request_error", "permission_error", "server_error"

--- What is refused -> status, code of the body, type.
local TABLE = {
    invalid_request = { 400, "invalid_request", REFUSED },
    path_control = { 400, "invalid_request", REFUSED },
    path_doubled_slash = { 400, "invalid_request", REFUSED },
    path_dot_segment = { 400, "invalid_request", REFUSED },
    path_backslash = { 400, "invalid_request", REFUSED },
    path_fragment = { 400, "invalid_request", REFUSED },
    path_space = { 400, "invalid_request", REFUSED },
    path_percent = { 400, "invalid_request", REFUSED },
    path_escaped_slash = { 400, "invalid_request", REFUSED },
    path_escape = { 400, "invalid_request", REFUSED },
    path_character = { 400, "invalid_request", REFUSED },
    path_missing = { 400, "invalid_request", REFUSED },
    token_in_query = { 400, "invalid_request", REFUSED },
    unsupported_protocol = { 400, "invalid_request", REFUSED },
    uri_too_long = { 400, "invalid_request", REFUSED },
    headers_too_large = { 400, "invalid_request", REFUSED },
    line_malformed = { 400, "invalid_request", REFUSED },
    host_missing = { 400, "invalid_request", REFUSED },
    host_several = { 400, "invalid_request", REFUSED },
    host_malformed = { 400, "invalid_request", REFUSED },
    header_several = { 400, "invalid_request", REFUSED },
    header_malformed = { 400, "invalid_request", REFUSED },
    length_and_encoding = { 400, "invalid_request", REFUSED },
    length_malformed = { 400, "invalid_request", REFUSED },
    transfer_encoding = { 400, "invalid_request", REFUSED },
    body_broken = { 400, "invalid_request", REFUSED },
    slash_at_end = { 404, "not_found", REFUSED },
    other_method = { 404, "not_found", REFUSED },
    several_credentials = { 400, "invalid_request", REFUSED },
    invalid_api_key = { 401, "invalid_api_key", REFUSED },
    expired = { 401, "invalid_api_key", REFUSED },
    insufficient_permissions = { 403, "insufficient_permissions", DENIED },
    other_site = { 403, "insufficient_permissions", DENIED },
    not_found = { 404, "not_found", REFUSED },
    request_too_large = { 413, "request_too_large", REFUSED },
    too_many_guesses = { 429, "rate_limit_exceeded", "rate_limit_error" },
    internal_error = { 500, "internal_error", OURS },
    upstream_unavailable = { 502, "upstream_unavailable", OURS },
    not_ready = { 503, "not_ready", OURS },
    upstream_timeout = { 504, "upstream_timeout", OURS },
    upstream_failed = { 502, "upstream_unavailable", OURS },
    upstream_refused = { 502, "upstream_unavailable", OURS },
    not_offered = { 404, "not_found", REFUSED },
    model_not_found = { 404, "model_not_found", REFUSED, "model" },
    model_missing = { 400, "invalid_request", REFUSED, "model" },
    ambiguous_body = { 400, "invalid_request", REFUSED, "model" },
    invalid_json = { 400, "invalid_json", REFUSED },
    unsupported_media_type = { 415, "unsupported_media_type", REFUSED },
    model_unusable = { 400, "invalid_request", REFUSED, "model" },
    model_second = { 400, "invalid_request", REFUSED, "model" },
    model_in_query = { 400, "invalid_request", REFUSED, "model" },
    body_unexpected = { 400, "invalid_request", REFUSED },
    body_missing = { 400, "invalid_json", REFUSED },
    body_compressed = { 415, "unsupported_media_type", REFUSED },
    json_charset = { 415, "unsupported_media_type", REFUSED },
    json_name_twice = { 400, "invalid_request", REFUSED },
    json_name_near = { 400, "invalid_request", REFUSED },
    form_expected = { 415, "unsupported_media_type", REFUSED },
    form_boundary = { 415, "unsupported_media_type", REFUSED },
    form_charset = { 415, "unsupported_media_type", REFUSED },
    form_missing = { 400, "invalid_request", REFUSED },
    form_broken = { 400, "invalid_request", REFUSED },
    form_too_long = { 400, "invalid_request", REFUSED },
    form_head = { 400, "invalid_request", REFUSED },
    form_model_near = { 400, "invalid_request", REFUSED, "model" },
    form_model_file = { 400, "invalid_request", REFUSED, "model" },
    form_model_encoded = { 400, "invalid_request", REFUSED, "model" },
    form_model_kind = { 400, "invalid_request", REFUSED, "model" },
    too_many_requests = { 429, "rate_limit_exceeded", "requests" },
    too_many_tokens = { 429, "rate_limit_exceeded", "tokens" },
    too_many_at_once = { 429, "rate_limit_exceeded", "requests" },
}
--- When to come again is known beforehand; for other limits the caller of `refuse` says it.
local RETRY_AFTER = { not_ready = "1", too_many_at_once = "1" }

local fake, errors

before_each(function()
    fake = fake_ngx.install()
    errors = fake.load("portero.errors")
end)

local function refuse(code, target)
    fake.request({ target = target })
    errors.refuse(code)
    return fake.answer
end

describe("refuse", function()
    for code, row in pairs(TABLE) do
        it(("answers %d %s in OpenAI's envelope"):format(row[1], code), function()
            local answer = refuse(code, "/v1/chat/completions")
            assert.equal(row[1], answer.status)
            assert.equal(row[1], answer.exit)
            assert.equal(1, answer.endings)
            local content = cjson.decode(answer.body).error
            assert.equal(row[2], content.code)
            assert.equal(row[3], content.type)
            assert.equal(row[4] or cjson.null, content.param)
            assert.is_string(content.message)
        end)

        it(("answers %d %s in Ollama's dialect under /api/"):format(row[1], code), function()
            local openai = cjson.decode(refuse(code, "/v1/chat/completions").body)
            local answer = refuse(code, "/api/chat")
            assert.equal(row[1], answer.status)
            assert.same({ error = openai.error.message }, cjson.decode(answer.body))
        end)

        it(("answers %d %s in Anthropic's envelope"):format(row[1], code), function()
            local openai = cjson.decode(refuse(code, "/v1/chat/completions").body)
            fake.request({ target = "/v1/messages?beta=true" })
            fake.ngx.var.request_id = "abc"
            errors.refuse(code)
            local content = cjson.decode(fake.answer.body)
            assert.equal(row[1], fake.answer.status)
            assert.same({ "error", "abc" }, { content.type, content.request_id })
            assert.equal(openai.error.message, content.error.message)
            assert.equal(row[2], fake.answer.headers["x-portero-code"])
        end)

        it(("makes the answer %s JSON that no cache keeps"):format(code), function()
            local answer = refuse(code, "/")
            assert.equal("application/json", answer.headers["content-type"])
            assert.equal("no-store", answer.headers["cache-control"])
        end)

        it(("counts %s"):format(code), function()
            refuse(code, "/")
            fake.load("portero.metrics").flush()
            assert.equal(1, fake.shared.portero_metrics:get(code))
        end)

        it(("sets the challenge with %s if and only if it is a 401"):format(code), function()
            local challenge = refuse(code, "/").headers["www-authenticate"]
            assert.equal(row[1] == 401 and 'Bearer realm="portero"' or nil, challenge)
        end)

        it(("tells a client to retry %s only where that can help"):format(code), function()
            local headers = refuse(code, "/").headers
            assert.equal(code == "expired" and "true" or nil, headers["x-should-retry"])
            assert.equal(RETRY_AFTER[code], headers["retry-after"])
        end)
    end

    it("sets the headers that it is given beside those of the code", function()
        fake.request({})
        errors.refuse("too_many_at_once", { ["Retry-After"] = 7, ["X-A"] = 1 })
        assert.equal(7, fake.answer.headers["retry-after"])
        assert.equal(1, fake.answer.headers["x-a"])
    end)

    it("says 'token expired' to an expired token", function()
        assert.equal("token expired", cjson.decode(refuse("expired", "/").body).error.message)
    end)

    it("has one body for all other bad tokens", function()
        local first = refuse("invalid_api_key", "/v1/models").body
        assert.equal(first, refuse("invalid_api_key", "/health").body)
    end)

    it("echoes nothing that the client sent", function()
        fake.request({
            method = "POST",
            target = "/v1/SEEN?SEEN",
            headers = { authorization = "Bearer SEEN", cookie = "auth_token=SEEN", host = "SEEN" },
        })
        errors.refuse("invalid_request")
        assert.is_nil(fake.answer.body:find("SEEN", 1, true))
        for _, value in pairs(fake.answer.headers) do
            assert.is_nil(tostring(value):find("SEEN", 1, true))
        end
    end)

    it("bears its code in a header, which every dialect has", function()
        for code, wire in pairs({ expired = "invalid_api_key", not_ready = "not_ready" }) do
            for _, target in ipairs({ "/api/chat", "/v1/chat/completions" }) do
                assert.equal(wire, refuse(code, target).headers["x-portero-code"])
            end
        end
    end)

    it("writes the head that nginx would leave out behind an answer that was no HTTP", function()
        fake.request({ target = "/v1/chat/completions", http_version = 0.9 })
        fake.ngx.var.request_id = "abc"
        errors.refuse("upstream_failed")
        local head, body = fake.answer.body:match("^(.-)\r\n\r\n(.*)$")
        assert.equal("HTTP/1.1 502 ", head:match("^[^\r]*"))
        assert.is_truthy(head:find("x-request-id: abc", 1, true))
        assert.equal(#body, tonumber(head:match("Content%-Length: (%d+)")))
        assert.equal("upstream_unavailable", cjson.decode(body).error.code)
    end)

    it("tells the request's ID by the names that the dialect has for it", function()
        for target, id in pairs({
            ["/v1/messages"] = "abc", ["/llm/messages/count_tokens"] = "abc",
            ["/v1/responses"] = false, ["/v1/chat/completions"] = false, ["/api/chat"] = false,
        }) do
            fake.request({ target = target })
            fake.ngx.var.request_id = "abc"
            errors.refuse("not_found")
            assert.equal(id or nil, fake.answer.headers["request-id"])
            fake.request({ target = target, http_version = 0.9 })
            fake.ngx.var.request_id = "abc"
            errors.refuse("upstream_failed")
            local head = fake.answer.body:match("^(.-)\r\n\r\n")
            assert.equal(id and "abc", head:match("\r\nrequest%-id: (%w+)") or false)
        end
    end)

    it("writes no such head for a client that speaks HTTP/0.9 itself", function()
        fake.request({ target = "/", protocol = "HTTP/0.9", http_version = 0.9 })
        errors.refuse("invalid_request")
        assert.is_table(cjson.decode(fake.answer.body))
    end)

    it("asks for no body that was announced, and closes the connection instead", function() -- H21
        fake.request({ headers = { expect = "100-continue" } })
        errors.refuse("invalid_api_key")
        assert.is_nil(fake.request_headers.expect)
        assert.equal("close", fake.answer.headers.connection)
        assert.is_nil(refuse("invalid_api_key", "/").headers.connection)
    end)

    it("leaves no header of one refusal on the next", function()
        refuse("expired", "/")
        assert.is_nil(refuse("not_found", "/").headers["x-should-retry"])
    end)

    it("answers in OpenAI's dialect when there is no request line to judge by", function()
        fake.request({})
        fake.ngx.var.request_uri = nil
        errors.refuse("invalid_request")
        assert.equal("invalid_request", cjson.decode(fake.answer.body).error.code)
    end)

    it("raises a Lua error, which is a 500, for a code that is in no table", function()
        assert.has_error(function() errors.refuse("no such code") end)
        assert.equal(0, fake.answer.endings)
    end)
end)

describe("tell_id", function()
    it("is told by each name that there is, and else not", function()
        fake.request({})
        fake.ngx.var.request_id = "abc"
        errors.tell_id({ id_headers = {} })
        assert.same({}, fake.answer.headers)
        errors.tell_id({ id_headers = { "request-id", "other-id" } })
        assert.same({ ["request-id"] = "abc", ["other-id"] = "abc" }, fake.answer.headers)
    end)
end)

describe("event", function()
    --- What only a stream that runs is told: code -> status, type, code of the body, message.
    local IN_A_STREAM = {
        revoked = { REFUSED, "invalid_api_key", "The token was revoked." },
        stream_too_long = {
            "rate_limit_error", "rate_limit_exceeded",
            "The stream ran for as long as your role allows.",
        },
    }

    local function data_of(code, path)
        return errors.event(code, path, "sse"):match("data: ([^\n]*)\n\n$")
    end

    for code, row in pairs(IN_A_STREAM) do
        it(("says %s in every dialect"):format(code), function()
            local error = { message = row[3], type = row[1], param = cjson.null, code = row[2] }
            local chat = cjson.decode(data_of(code, "/v1/chat/completions"))
            assert.same({ error = error }, chat)
            assert.same({ error = row[3] }, cjson.decode(data_of(code, "/llm/api/chat?x")))
            local response = cjson.decode(data_of(code, "/v1/responses"))
            assert.same({ "error", row[2], row[3] },
                { response.type, response.code, response.message })
            assert.same(error, response.error)
            local message = cjson.decode(data_of(code, "/llm/messages?beta=true"))
            assert.same({ "error", row[3] }, { message.type, message.error.message })
        end)
    end

    it("ends a stream in the dialect of its path and in its own format", function()
        local text = '{"error":"The token was revoked."}'
        assert.equal(text .. "\n", errors.event("revoked", "/api/chat", "lines"))
        assert.equal("data: " .. text .. "\n\n", errors.event("revoked", "/api/chat", "sse"))
        for _, path in ipairs({ "/v1/messages", "/v1/responses" }) do
            assert.matches("^event: error\ndata: {", errors.event("revoked", path, "sse"))
            assert.matches("^{[^\n]*}\n$", errors.event("revoked", path, "lines"))
        end
    end)

    it("sends nothing and ends nothing", function()
        errors.event("revoked", "/", "sse")
        assert.equal("", fake.answer.body)
        assert.equal(0, fake.answer.endings)
    end)
end)

describe("begin_instead", function()
    it("changes an answer that has begun, and answers the words that it shall have", function()
        fake.request({ target = "/v1/models" })
        fake.ngx.status = 400
        fake.ngx.header["Content-Length"] = 150
        local content = cjson.decode(errors.begin_instead("body_broken"))
        assert.equal("invalid_request", content.error.code)
        assert.is_truthy(content.error.message:find("chunks", 1, true))
        assert.equal(400, fake.answer.status)
        assert.equal("application/json", fake.answer.headers["content-type"])
        assert.equal("no-store", fake.answer.headers["cache-control"])
        assert.is_nil(fake.answer.headers["content-length"])
        assert.equal(0, fake.answer.endings)
        fake.request({ target = "/api/chat" })
        assert.is_string(cjson.decode(errors.begin_instead("body_broken")).error)
    end)
end)

describe("redirect", function()
    it("sends a browser to a place with 302, counts it, and lets no cache keep it", function()
        errors.redirect("/login?next=/")
        assert.equal("/login?next=/", fake.answer.redirect)
        assert.equal(302, fake.answer.ended_with)
        assert.equal("no-store", fake.answer.headers["cache-control"])
        fake.load("portero.metrics").flush()
        assert.equal(1, fake.shared.portero_metrics:get("redirected"))
    end)
end)

describe("exit", function()
    it("ends a request with a status and no body", function()
        errors.exit(409)
        assert.equal(409, fake.answer.exit)
        assert.equal("", fake.answer.body)
    end)
end)

describe("no_content", function()
    it("answers 204 with the headers given, and nothing else", function()
        fake.request({})
        errors.no_content({ ["X-A"] = "b" })
        assert.equal(204, fake.answer.exit)
        assert.equal(204, fake.answer.status)
        assert.equal("", fake.answer.body)
        assert.equal("b", fake.answer.headers["x-a"])
    end)
end)

describe("closing", function()
    it("is the code and the words, as much as a close frame holds", function()
        assert.equal("not_ready: ", errors.closing("not_ready"):sub(1, 11))
        for _, code in ipairs({ "model_not_found", "tools_tools", "json_name_near" }) do
            assert.is_true(#errors.closing(code) <= 123)
        end
    end)
end)
