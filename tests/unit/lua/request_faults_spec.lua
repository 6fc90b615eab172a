---------
-- What is wrong with a head that nginx refuses: each fault by its own name (_h9).

local request_faults = require("portero.request.request_faults")

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
