---------
-- What is wrong with a request that no route can take: each fault by its own name (_h9).

local request_faults = require("portero.request.request_faults")

describe("of_path", function()
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
            assert.equal(code, request_faults.of_path(path) or "none")
        end)
    end

    it("finds something in every path that is not canonical, and nothing in others", function()
        local route_table = require("portero.policy.route_table")
        local letters = { "/", ".", "a", "%", "2", "e", "F", "\\", "#", ";", "\0", "\195" }
        math.randomseed(1)
        for _ = 1, 20000 do
            local path = math.random() < 0.9 and "/" or ""
            for _ = 1, math.random(0, 6) do
                path = path .. letters[math.random(#letters)]
            end
            assert.equal(route_table.is_canonical(path), request_faults.of_path(path) == nil, path)
        end
    end)
end)

describe("of_head", function()
    local LINE = "GET /v1/models HTTP/1.1"

    local function of(request)
        request.status = request.status or 400
        return request_faults.of_head(request)
    end

    it("goes by nginx's status where that tells all", function()
        assert.equal("uri_too_long", of({ status = 414 }))
        assert.equal("transfer_encoding", of({ status = 501 }))
        assert.equal("unsupported_protocol", of({ status = 505 }))
        assert.equal("invalid_request", of({ status = 421 }))
    end)

    for line, code in pairs({
        ["GET /../x HTTP/1.1"] = "path_dot_segment",
        ["GET //../x?a HTTP/1.1"] = "path_doubled_slash",
        ["GET /a%00 HTTP/1.1"] = "path_control",
        ["GET /a b HTTP/1.1"] = "path_space",
        ["GET /a%zz?b c HTTP/1.1"] = "path_percent",
        ["GET http://h/a//b HTTP/1.1"] = "path_doubled_slash",
        ["GET v1/models HTTP/1.1"] = "path_missing",
        ["GET http://h HTTP/1.1"] = "path_missing",
        ["OPTIONS * HTTP/1.1"] = "path_missing",
        ["CONNECT h:443 HTTP/1.1"] = "path_missing",
        ["PRI * HTTP/2.0"] = "path_missing",
        ["GET /v1/models FOO/1.1"] = "unsupported_protocol",
        ["GET /v1/models HTTP/x"] = "unsupported_protocol",
        ["get /v1/models HTTP/1.1"] = "line_malformed",
        ["hello"] = "line_malformed", [""] = "line_malformed", ["\22\3\1\2"] = "line_malformed",
        [LINE] = "line_malformed",
    }) do
        it(("says %s of a line that nginx could not read, %q"):format(code, line), function()
            assert.equal(code, of({ line = line }))
        end)
    end

    it("takes no line at all for a malformed one", function()
        assert.equal("line_malformed", of({}))
    end)

    --- A head that nginx read to its end, and one that it read to a line that it did not take.
    local function whole(...)
        return table.concat({ LINE, ... }, "\r\n") .. "\r\n\r\n"
    end
    local function cut(...)
        return table.concat({ LINE, ... }, "\r\n") .. "\n\n"
    end

    for what, case in pairs({
        ["no Host"] = { "host_missing", { head = whole("X: y") } },
        ["two lengths of a body"] = { "length_and_encoding", {
            head = whole("Host: x"), host = "x", length = "2", encoding = "chunked" } },
        ["a length that is none"] = { "length_malformed", {
            head = whole("Host: x"), host = "x", length = "-1" } },
        ["an encoding"] = { "transfer_encoding", {
            head = whole("Host: x"), host = "x", encoding = "chunked" } },
        ["a Host at the end that is none"] = { "host_malformed", {
            head = whole("Host: a/b"), host = "a/b" } },
        ["what cannot be told"] = { "header_malformed", { head = whole("Host: x"), host = "x" } },
        ["two Hosts"] = { "host_several", {
            head = cut("host: x", "X: y", "Host: x"), host = "x" } },
        ["two lengths"] = { "header_several", {
            head = cut("Host: x", "Content-Length: 2", "Content-Length: 3"), host = "x" } },
        ["a Host that is none"] = { "host_malformed", { head = cut("Host: a/b"), host = "a/b" } },
        ["an empty Host"] = { "host_malformed", { head = cut("Host: "), host = "" } },
        ["a Host with dots"] = { "host_malformed", { head = cut("Host: a..b"), host = "a..b" } },
        ["a line behind a good Host"] = { "header_malformed", {
            head = cut("Host: x"), host = "x" } },
        ["a line before Host"] = { "header_malformed", { head = cut("X: y") } },
        ["the first line"] = { "header_malformed", { head = cut() } },
        ["a head that nginx does not show"] = { "header_malformed", { head = "" } },
    }) do
        it("says what it is with " .. what, function()
            case[2].uri = "/v1/models"
            assert.equal(case[1], of(case[2]))
        end)
    end
end)
