---------
-- The one reader of a request's credential: `Authorization: Bearer` (RFC 6750 section 2.1),
-- `x-api-key`, or the cookie `auth_token`; of who asks for WebSocket also the subprotocols, as a
-- browser can send it in no other way (OpenAI's client does). Never the query. What is of another
-- scheme is none of ours and is not counted. Two that differ are refused, and a bad one never falls
-- back to a good one. The issuer's reader of the same rules is `issuer/tokens/presented_token.py`.

local var = ngx.var
local byte, find, lower = string.byte, string.find, string.lower
local match, sub = string.match, string.sub

local SCHEME = "Bearer "
local COOKIE = "auth_token="
local SPACE, TAB = 0x20, 0x09
--- A scheme is a token of RFC 9110 section 5.6.2; another character ends it.
local SCHEME_AND_REST = "^([%w!#$%%&'*+.^_`|~-]+)(.*)$"

local _M = {}

local function is_blank(character)
    return character == SPACE or character == TAB
end

--- A header's value without the blanks around it (RFC 9110 section 5.5): nginx leaves tabs.
local function trimmed(value)
    local from, to = 1, #value
    while is_blank(byte(value, from)) do
        from = from + 1
    end
    while to > from and is_blank(byte(value, to)) do
        to = to - 1
    end
    return from == 1 and to == #value and value or sub(value, from, to)
end

--- Where the token begins in an Authorization value of the usual form: the scheme, one space, and
--- no blank beside what follows. nil for any other.
local function usual(value)
    if find(value, SCHEME, 1, true) ~= 1 and lower(sub(value, 1, #SCHEME)) ~= lower(SCHEME) then
        return nil
    end
    if byte(value, #SCHEME + 1) == SPACE or byte(value, #value) == TAB then
        return nil
    end
    return #SCHEME + 1
end

--- The token of an Authorization value: behind one space or more (RFC 9110 section 11.4), and empty
--- where anything else stands there. nil where the scheme is another. Whether it has the form of a
--- token at all is the verifier's question.
local function bearer(value)
    local scheme, rest = match(trimmed(value), SCHEME_AND_REST)
    if not scheme or lower(scheme) ~= "bearer" then
        return nil
    end
    return match(rest, "^ +(.*)$") or ""
end

--- nginx before 1.23 shows the first of several headers of a name: look at the raw ones. It refuses
--- a second Authorization itself.
local function is_repeated(name)
    return type(ngx.req.get_headers(0)[name]) == "table"
end

--- All lines of a Cookie, as nginx joins them; those with a tab are trimmed first, each by itself.
local function joined(cookie)
    if not find(cookie, "\t", 1, true) then
        return cookie
    end
    local lines = ngx.req.get_headers(0).cookie
    if type(lines) ~= "table" then
        return trimmed(cookie)
    end
    for i, line in ipairs(lines) do
        lines[i] = trimmed(line)
    end
    return table.concat(lines, "; ")
end

--- All values of the cookie, from the raw header: split at semicolons only, names by their bytes.
local function cookies(header)
    local first, differs
    local at = 1
    while at <= #header do
        local stop = find(header, ";", at, true) or #header + 1
        while is_blank(byte(header, at)) do
            at = at + 1
        end
        if sub(header, at, at + #COOKIE - 1) == COOKIE then
            local value = sub(header, at + #COOKIE, stop - 1)
            differs = differs or (first and first ~= value)
            first = first or value
        end
        at = stop + 1
    end
    return first, differs
end

--- Where more than one place may name a token, or one in another than the usual form.
local function read_all(authorization, key, cookie)
    local token = authorization and bearer(authorization)
    local from_cookie, differs
    if cookie then
        from_cookie, differs = cookies(joined(cookie))
    end
    key = key and trimmed(key)
    if key and (is_repeated("x-api-key") or (token and token ~= key)) then
        return nil, "several", false
    end
    token = token or key
    if differs or (token and from_cookie and token ~= from_cookie) then
        return nil, "several", false
    end
    if not token and not from_cookie then
        return nil, "missing", false
    end
    return token or from_cookie, nil, not token
end

local PROTOCOL = "openai-insecure-api-key."

--- Whether a subprotocol is a credential.
---@param name string
---@return boolean
function _M.is_protocol(name)
    return sub(name, 1, #PROTOCOL) == PROTOCOL
end

--- The token among the subprotocols that are offered; nil where there is none, false where there
--- are several.
---@return string|false|nil
function _M.among_protocols()
    local found
    for name in string.gmatch(var.http_sec_websocket_protocol or "", "[^%s,]+") do
        if _M.is_protocol(name) then
            local its = sub(name, #PROTOCOL + 1)
            if found and found ~= its then
                return false
            end
            found = its
        end
    end
    return found
end

--- The same of a request that asks for WebSocket, where nothing else or a cookie names a token.
local function with_protocols(token, fault, by_cookie)
    local its = _M.among_protocols()
    if its == nil then
        return token, fault, by_cookie
    elseif its == false or fault == "several" or token and token ~= its then
        return nil, "several", false
    end
    return its, nil, false
end

--- The caller's token: a text, and where in it the token begins. Nearly all come in Authorization
--- alone, in its usual form; they are left in the header's value, for a text of their own would be
--- the longest of the request.
---@return string|nil text, string|nil fault "missing" or "several"
---@return boolean by_cookie whether a browser brought it by itself
---@return integer from
function _M.read()
    local authorization, key, cookie = var.http_authorization, var.http_x_api_key, var.http_cookie
    if authorization and not key and not cookie then
        local from = usual(authorization)
        if from then
            return authorization, nil, false, from
        end
    end
    local token, fault, by_cookie = read_all(authorization, key, cookie)
    if var.http_upgrade then
        token, fault, by_cookie = with_protocols(token, fault, by_cookie)
    end
    return token, fault, by_cookie, 1
end

return _M
