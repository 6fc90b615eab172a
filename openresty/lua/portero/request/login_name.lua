---------
-- Whom a login names, and the bytes that hold the secret it offers: Basic in the header, or a field
-- of a form or of JSON.
-- It must never be taken for the issuer's reading: what it finds is told to the
-- issuer, which refuses what it reads otherwise, so a name that is read in two ways is nobody's.

local cjson = require("cjson.safe")
local header_parameters = require("portero.request.header_parameters")

local char, find, gmatch, gsub = string.char, string.find, string.gmatch, string.gsub
local lower, match, sub = string.lower, string.match, string.sub
local decode_base64 = ngx.decode_base64

--- Where a login's name is, by its path; anywhere else it is Basic's. At a form's it never is: a
--- front may ask for Basic of its own. OAuth's may be in either.
local OF_FORM, OF_OAUTH = { field = "username" }, { field = "client_id", may_be_basic = true }
local PLACES = {
    ["/login"] = OF_FORM, ["/auth/login"] = OF_FORM, ["/admin/login"] = OF_FORM,
    ["/oauth/token"] = OF_OAUTH, ["/oauth/revoke"] = OF_OAUTH, ["/oauth/introspect"] = OF_OAUTH,
}
local OF_BASIC = { may_be_basic = true }

local _M = {}

--- A word of a form as it was before it was sent.
local function unescaped(text)
    return (gsub(gsub(text, "+", " "), "%%(%x%x)", function(digits)
        return char(tonumber(digits, 16))
    end))
end

local function of_form(body, _, field)
    for name, value in gmatch(body, "([^&=]*)=?([^&]*)") do
        if unescaped(name) == field then
            return unescaped(value)
        end
    end
end

local function of_json(body, _, field)
    local content = cjson.decode(body)
    local name = type(content) == "table" and content[field]
    return type(name) == "string" and name or nil
end

local function of_parts(body, content_type, field)
    local _, parameters = header_parameters.parse(content_type)
    local boundary = parameters and parameters.boundary
    if not boundary then
        return nil
    end
    local at = "\r\n--" .. boundary
    local from, text = 1, "\r\n" .. body .. at
    while true do
        local _, begun = find(text, at, from, true)
        local ends = begun and find(text, at, begun + 1, true)
        if not ends then
            return nil
        end
        local head, value = match(sub(text, begun + 1, ends - 1), "^(.-)\r\n\r\n(.*)$")
        if head and match(head, '; ?name="?([^";\r]*)') == field then
            return value
        end
        from = ends
    end
end

local READERS = {
    ["application/x-www-form-urlencoded"] = of_form,
    ["multipart/form-data"] = of_parts,
}

local function of_body(body, content_type, field)
    local kind = lower(match(content_type, "^%s*([^;%s]*)"))
    return (READERS[kind] or of_json)(body, content_type, field)
end

local function of_basic(authorization)
    local encoded = match(authorization, "^[Bb][Aa][Ss][Ii][Cc] +([%w+/=]+)%s*$")
    local pair = encoded and decode_base64(encoded)
    return pair and match(pair, "^([^:]*):")
end

--- Whether a path has a body that names the user.
---@param path string
---@return boolean
function _M.is_of_body(path)
    return PLACES[path] ~= nil
end

--- Whom a login names.
---@param path string of the login endpoint, as it is written
---@param authorization string|nil the header
---@param content_type string|nil the header
---@param body string|nil
---@return string|nil name nil where it names nobody, and nothing is there to be checked
---@return string|nil offered the bytes that hold the secret
function _M.read(path, authorization, content_type, body)
    local place = PLACES[path] or OF_BASIC
    if authorization and place.may_be_basic then
        return of_basic(authorization), authorization
    end
    if not place.field or not body then
        return nil
    end
    return of_body(body, content_type or "", place.field) or "", body
end

return _M
