---------
-- Every refusal of the gateway, in the dialect of the caller's path, and the only `ngx.exit`.
-- It must never say more about a bad token than that it is invalid or (when authentic) expired, and
-- never echo what the client sent. Only a running stream is told that its token was revoked.

local cjson = require("cjson.safe")
local dialects = require("portero.dialect.dialects")
local metrics = require("portero.metrics")

local RETRY_SECONDS = "1"
local NO_CONTENT = 204
local HTTP_09 = 0.9
local CHALLENGE = 'Bearer realm="portero"'

--- code -> status, message, and what else there is: the code that the client sees, the parameter
--- meant, the limit that is spent, more headers (docs/http-api.md).
local ERRORS = {
    invalid_request = { 400, "The request is not acceptable." },
    slash_at_end = { 404, "The path ends with a slash; leave it out.", code = "not_found" },
    other_method = { 404, "No such route for this method.", code = "not_found" },
    invalid_api_key = {
        401, "Invalid or missing token.",
        headers = { ["WWW-Authenticate"] = CHALLENGE },
    },
    expired = {
        401, "token expired", code = "invalid_api_key",
        headers = {
            ["WWW-Authenticate"] = CHALLENGE,
            ["x-should-retry"] = "true",
            ["retry-after-ms"] = "10",
        },
    },
    revoked = { 401, "The token was revoked.", code = "invalid_api_key" },
    stream_too_long = {
        429, "The stream ran for as long as your role allows.", code = "rate_limit_exceeded",
    },
    insufficient_permissions = { 403, "Your role may not use this route." },
    other_site = { 403, "This request came from another site.", code = "insufficient_permissions" },
    upgrade_required = {
        426, "This route speaks WebSocket: ask for it by Upgrade: websocket, in version 13.",
        code = "invalid_request",
        headers = { ["Upgrade"] = "websocket", ["Sec-WebSocket-Version"] = "13" },
    },
    not_found = { 404, "No such route." },
    other_host = {
        421, "The certificate has no such name; ask by one that it has.", code = "invalid_request",
    },
    method_not_allowed = { 405, "This path is asked by other methods; Allow names them." },
    model_not_found = {
        404, "The model does not exist, or you do not have access to it.", param = "model",
    },
    response_not_found = { 404, "You have no such response.", code = "not_found" },
    previous_response_not_found = {
        404, "You have no such response to go on from; send what was said before in the input.",
        code = "not_found", param = "previous_response_id",
    },
    conversation_not_found = {
        404, "You have no such conversation; send what was said before in the input.",
        code = "not_found", param = "conversation",
    },
    item_not_found = {
        404, "An item of the input refers to one that the server keeps; send the item itself.",
        code = "not_found", param = "input",
    },
    not_offered = { 404, "The LLM server does not offer this.", code = "not_found" },
    invalid_json = { 400, "The body is not one JSON object in UTF-8." },
    length_required = {
        411, "Over HTTP/2 say how long the body is, in Content-Length.", code = "invalid_request",
    },
    body_missing = { 400, "The request has no body.", code = "invalid_json" },
    unsupported_media_type = { 415, "The body must be JSON, application/json." },
    too_many_requests = {
        429, "You have sent as many requests as your limit for a minute.",
        code = "rate_limit_exceeded", limit = "requests",
    },
    too_many_tokens = {
        429, "You have used as many tokens as your limit for a minute.",
        code = "rate_limit_exceeded", limit = "tokens",
    },
    budget_spent = {
        429, "You, or a group that you are in, have used as many tokens as the budget of the day "
            .. "or the month has.",
        code = "insufficient_quota", limit = "insufficient_quota",
        headers = { ["x-should-retry"] = "false" },
    },
    too_many_at_once = {
        429, "You have as many requests running as your limit allows.",
        code = "rate_limit_exceeded", limit = "requests",
        headers = { ["Retry-After"] = RETRY_SECONDS },
    },
    too_many_guesses = {
        429, "Too many secrets were wrong from your address; wait as long as Retry-After says.",
        code = "rate_limit_exceeded",
    },
    request_too_large = { 413, "The request is too large." },
    internal_error = { 500, "Something went wrong on our side." },
    upstream_unavailable = { 502, "The LLM server cannot be reached." },
    upstream_failed = { 502, "The LLM server failed to answer.", code = "upstream_unavailable" },
    upstream_refused = {
        502, "The LLM server refused the gateway.", code = "upstream_unavailable",
    },
    upstream_redirected = {
        502, "The LLM server answered with a redirect.", code = "upstream_unavailable",
    },
    rejected = { 400, "The LLM server did not accept the request.", code = "invalid_request" },
    rejected_conflict = {
        409, "The LLM server did not accept the request.", code = "invalid_request",
    },
    rejected_content = {
        422, "The LLM server did not accept the request.", code = "invalid_request",
    },
    upstream_busy = {
        429, "The LLM server has more to do than it takes.", code = "rate_limit_exceeded",
        headers = { ["Retry-After"] = RETRY_SECONDS },
    },
    not_ready = {
        503, "Not ready yet; try again shortly.",
        headers = { ["Retry-After"] = RETRY_SECONDS },
    },
    upstream_timeout = { 504, "The LLM server did not answer in time." },
}

--- Refusals that the client knows by one code, each with a message of its own.
local function add(status, code, param, messages)
    for name, message in pairs(messages) do
        ERRORS[name] = { status, message, code = code, param = param }
    end
end

add(400, "invalid_request", nil, {
    path_control = "The path has a control character, as it is or escaped.",
    path_doubled_slash = "The path has two slashes in a row; write one.",
    path_dot_segment = "The path has a dot segment (. or ..); leave it out.",
    path_backslash = "The path has a backslash; its parts are set apart by /.",
    path_fragment = "The path has a #; what begins there is not sent.",
    path_space = "The path has a space; write %20.",
    path_percent = "The path has a percent sign that is no escape; write %25.",
    path_escaped_slash = "The path has an escaped slash; write / itself.",
    path_escape = "The path has an escape that no route needs; leave it out.",
    path_character = "The path has a character that no route has.",
    path_missing = "The request asks for no path: one begins with a slash.",
    token_in_query = "The query seems to hold a token; send it in the Authorization header.",
    unsupported_protocol = "Only HTTP/1.0 and HTTP/1.1 are spoken here.",
    uri_too_long = "The path and the query are longer than 16 KiB.",
    headers_too_large = "The headers are too large: one may have 16 KiB, all together 64 KiB.",
    line_malformed =
        "The first line is none of HTTP: METHOD /path HTTP/1.1, the method in capital letters.",
    host_missing = "The request has no Host header.",
    host_several = "The request has more than one Host header.",
    host_malformed = "The Host header is no name of a host.",
    header_several = "The request has a header twice that may be there once.",
    header_malformed =
        "A header is malformed: a name, a colon, and a value without control characters.",
    length_and_encoding =
        "The request has both Content-Length and Transfer-Encoding; send one of them.",
    length_malformed = "The Content-Length is no number of bytes.",
    transfer_encoding = "The only Transfer-Encoding is chunked, told once, and in HTTP/1.1.",
    body_broken = "The body is broken: its chunks are malformed, or it is cut off.",
    several_credentials = "The request carries more than one credential.",
    handshake_malformed = "The Sec-WebSocket-Key is none: 16 bytes in base64.",
    socket_query = "The query may say model and intent here, and nothing else.",
    body_unexpected = "This route takes no body.",
    json_name_twice = "The body has a name twice in one object.",
    json_name_near = 'The body has a name that some servers take for "model" or another field that'
        .. " counts; write such names in lower case.",
    form_missing = "The request has no body.",
    form_broken = "The form is broken: its parts do not begin and end where its boundary says.",
    form_too_long = "The form has more than 1000 parts.",
    form_head =
        "The head of one of the form's parts is malformed, or servers differ on what it means.",
})

add(400, "invalid_request", "model", {
    ambiguous_body = "The request names its model in more than one way.",
    model_missing = "The request names no model.",
    model_unusable =
        "The model must be a text of 1 to 1024 bytes, in UTF-8 and without control characters.",
    model_second =
        "The body chooses a model or an adapter in another field than model; leave that out.",
    model_in_query =
        "The query names a model, and this route looks for it elsewhere; leave it out there.",
    form_model_near =
        'The form has a field that some servers take for "model"; write its name exactly so.',
    form_model_file = "The form's model is sent as a file; leave its filename out.",
    form_model_encoded = "The form's model is in a Content-Transfer-Encoding; send it as it is.",
    form_model_kind = "The form's model must be text/plain in UTF-8, or have no Content-Type.",
})

--- What a body asks of the LLM server beside its model, by the field that asks for it.
local function add_asked(what, message, fields)
    for _, field in ipairs(fields) do
        add(400, "invalid_request", field, { [what .. "_" .. field] = message:format(field) })
    end
end

add_asked("tools", '"%s" has the server run a tool, which your role may not ask for; leave it out,'
    .. " and let your program run its tools.", {
    "tools", "metadata", "web_search_options", "mcp_servers", "container", "tool_ids",
    "tool_servers",
})

add_asked("fetch", '"%s" names an address that the server would fetch, which your role may not ask'
    .. " for; send the data itself, in base64.", {
    "image_url", "audio_url", "video_url", "file_url", "image", "video", "images", "input_image",
    "input_audio", "input_video", "source", "file", "files", "ref_images",
})

add(415, "unsupported_media_type", nil, {
    body_compressed = "The body is compressed; send it without Content-Encoding.",
    json_charset = "JSON must be in UTF-8; its Content-Type says another charset.",
    form_expected = "The body must be a form, multipart/form-data.",
    form_boundary =
        "The Content-Type of a multipart/form-data must name one boundary, of 1 to 70 characters.",
    form_charset = "The form must be in UTF-8; its Content-Type says another charset.",
})

local _M = {}

--- What each dialect makes its words of.
local function told(code)
    local row = ERRORS[code]
    return {
        status = row[1], message = row[2], code = row.code or code, param = row.param,
        limit = row.limit, request_id = ngx.var.request_id,
    }
end

--- What a stream ends with, in the dialect of its path.
---@param code string a key of the table above
---@param path string
---@param format string of the stream, "sse" or "lines"
---@return string
function _M.event(code, path, format)
    local dialect = dialects.of(path)
    return dialect.error_event[format]:format(cjson.encode(dialect.event_body(told(code))))
end

local MOST_OF_REASON = 123

--- What a WebSocket is closed with: counted as a refusal is.
---@param code string a key of the table above
---@return string reason at most 123 bytes (RFC 6455 section 5.5)
function _M.closing(code)
    local row = ERRORS[code]
    metrics.count(code)
    return ((row.code or code) .. ": " .. row[2]):sub(1, MOST_OF_REASON)
end

--- A body that was announced and not yet asked for is not asked for now (RFC 9110 section 10.1.1).
local function decline_body()
    if ngx.var.http_expect then
        ngx.req.clear_header("Expect")
        ngx.header["Connection"] = "close"
    end
end

local function set_headers(headers)
    for name, value in pairs(headers or {}) do
        ngx.header[name] = value
    end
end

--- Tell a request's ID by the names that its dialect has for it (x-request-id is nginx's).
---@param dialect table
function _M.tell_id(dialect)
    for _, name in ipairs(dialect.id_headers) do
        ngx.header[name] = ngx.var.request_id
    end
end

--- nginx takes what is no HTTP from an LLM server for HTTP/0.9, and then sends the client no head
--- either: it is written here, as a part of what is sent.
local function say_head(row, body, code, dialect)
    if ngx.req.http_version() ~= HTTP_09 or ngx.var.server_protocol == "HTTP/0.9" then
        return
    end
    ngx.print("HTTP/1.1 ", row[1], " \r\nContent-Type: application/json\r\nContent-Length: ",
        #body, "\r\nCache-Control: no-store\r\nx-portero-code: ", row.code or code,
        "\r\nx-request-id: ", ngx.var.request_id)
    for _, name in ipairs(dialect.id_headers) do
        ngx.print("\r\n", name, ": ", ngx.var.request_id)
    end
    ngx.print("\r\nConnection: close\r\n\r\n")
end

--- The head of an error's answer, but for its length.
local function begin(code, headers)
    local row = ERRORS[code]
    local dialect = dialects.of(ngx.var.request_uri or "/")
    metrics.count(code)
    ngx.status = row[1]
    ngx.header["Content-Type"] = "application/json"
    ngx.header["Cache-Control"] = "no-store"
    -- Not every dialect has a place for it.
    ngx.header["x-portero-code"] = row.code or code
    _M.tell_id(dialect)
    set_headers(row.headers)
    set_headers(headers)
    return row, cjson.encode(dialect.error_body(told(code))) .. "\n", dialect
end

--- The same for an answer that nginx itself has begun, which cannot be left for another any more
--- (`header_filter`). Who filters its body puts these words in their place.
---@param code string a key of the table above
---@return string body
function _M.begin_instead(code)
    local _, body = begin(code)
    ngx.header["Content-Length"] = nil
    return body
end

--- Answer the error and end the request.
---@param code string a key of the table above
---@param headers table|nil name -> value, beside those of the code
function _M.refuse(code, headers)
    decline_body()
    local row, body, dialect = begin(code, headers)
    ngx.header["Content-Length"] = #body
    say_head(row, body, code, dialect)
    ngx.print(body)
    return ngx.exit(row[1])
end

--- Answer that there is nothing more to say than these headers, and end the request.
---@param headers table name -> value
function _M.no_content(headers)
    ngx.status = NO_CONTENT
    set_headers(headers)
    return ngx.exit(NO_CONTENT)
end

--- Send a browser elsewhere on this host; to a login page, where `next` brings it back.
---@param location string a path: what the client calls this host goes into no answer
---@param status integer|nil 302 when nil
function _M.redirect(location, status)
    metrics.count("redirected")
    ngx.header["Cache-Control"] = "no-store"
    return ngx.redirect(location, status or 302)
end

--- End a request of the internal listener with a status alone.
---@param status integer
function _M.exit(status)
    return ngx.exit(status)
end

return _M
