---------
-- The gateway's own reading of a JSON body, without nginx. For the tests alone.
--   luajit body.lua
-- reads lines of a body in hex, and answers each with "ok" and what was found as JSON, or "no". It
-- reads each once more without a leap over its texts, and answers "differs" where that is another
-- reading.

local cjson = require("cjson.safe")
local ffi = require("ffi")

local BODY, TEXT = "portero.request.json_body", "portero.request.json_text"

local json_body = require(BODY)
local server_side = require("portero.request.server_side")

package.loaded[BODY], package.loaded[TEXT] = nil, { leap = function(_, at) return at end }
local plain_body = require(BODY)

local function is_same(one, other)
    if type(one) ~= "table" or type(other) ~= "table" then
        return one == other
    end
    for name, value in pairs(one) do
        if not is_same(value, other[name]) then
            return false
        end
    end
    for name in pairs(other) do
        if one[name] == nil then
            return false
        end
    end
    return true
end

local function text_of(body, range)
    return range and body:sub(range.from + 1, range.to)
end

--- Whether something that must be a text is none: who routes by it refuses the body.
local function is_refused(found)
    return not found or found.model == false or found.name == false or found.continues == false
end

local function read(body)
    local pointer = ffi.cast("const unsigned char *", body)
    local found, code = json_body.scan(pointer, #body, nil, server_side.WATCH)
    local plain, plain_code = plain_body.scan(pointer, #body, nil, server_side.WATCH)
    if not is_same(found, plain) or code ~= plain_code then
        return "differs"
    elseif is_refused(found) then
        return "no"
    end
    return "ok " .. cjson.encode({
        model = found.model, name = found.name, stream = found.stream, second = found.second,
        stream_options = text_of(body, found.stream_options),
        priority = text_of(body, found.priority),
        previous_response_id = found.continues, conversation = found.converses,
        tools = found.asks_tools ~= nil, fetch = found.asks_fetch ~= nil,
    })
end

for line in io.lines() do
    print(read((line:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))))
end
