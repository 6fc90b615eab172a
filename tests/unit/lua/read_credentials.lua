---------
-- What the gateway reads as the credential of a request, without nginx. For the tests alone: reads
-- lines of JSON, a list of header lines each (name, value), and answers each with the text of the
-- token, or `missing` or `several` behind a `!`, and whether it came by a cookie alone.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")

local fake = fake_ngx.install()
local presented_token = fake.load("portero.token.presented_token")

--- nginx takes spaces from around a value, and tabs from nowhere.
local function as_nginx_reads(value)
    return value:match("^ *(.-) *$")
end

local function headers_of(lines)
    local headers = {}
    for _, line in ipairs(lines) do
        local name, value = line[1]:lower(), as_nginx_reads(line[2])
        local before = headers[name]
        if type(before) == "table" then
            before[#before + 1] = value
        else
            headers[name] = before and { before, value } or value
        end
    end
    return headers
end

local function read(headers)
    -- Which nginx refuses itself.
    if type(headers.authorization) == "table" then
        return "!several", false
    end
    fake.request({ headers = headers })
    local text, fault, by_cookie, from = presented_token.read()
    return text and text:sub(from) or "!" .. fault, by_cookie
end

for line in io.lines() do
    local token, by_cookie = read(headers_of(assert(cjson.decode(line))))
    print(cjson.encode({ token, by_cookie }))
end
