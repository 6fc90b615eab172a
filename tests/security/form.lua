---------
-- The gateway's own reading of a multipart form, without nginx. For the tests alone.
--   luajit form.lua
-- reads lines of a form's Content-Type and body in hex, and answers each with "ok" and the model in
-- hex, or "no" and the reason.

local ffi = require("ffi")
local form_body = require("portero.request.form_body")

local function from_hex(text)
    return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function to_hex(text)
    return (text:gsub(".", function(character) return ("%02x"):format(character:byte()) end))
end

local function read(content_type, body)
    local form, fault = form_body.of_type(content_type)
    if not form then
        return "no " .. fault
    end
    local pointer = ffi.cast("const unsigned char *", body)
    local name, reason = form_body.model(pointer, #body, form)
    return name and "ok " .. to_hex(name) or "no " .. reason
end

io.stdout:setvbuf("line")
for line in io.lines() do
    local content_type, body = line:match("^(%x*) (%x*)$")
    print(read(from_hex(content_type), from_hex(body)))
end
