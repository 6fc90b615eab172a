---------
-- A header's value that has parameters (RFC 2045 section 5.1, RFC 9110 section 5.6.6):
-- `text/plain; charset=utf-8`, `form-data; name=model`.
-- Pure. It takes tokens and quoted strings, names of any case, and blanks wherever programs write
-- them; of the rest it must never guess what was meant.

local byte, find, lower = string.byte, string.find, string.lower
local match, sub = string.match, string.sub

local QUOTE = byte('"')
--- RFC 2045's token, which leaves out more than RFC 9110's: Go and Node read no other.
local TOKEN = "([%w!#$%%&'*+.^_`{|}~-]+)"
local WORD = "^([%w!#$%%&'*+.^_`{|}~/-]+)[ \t]*(.*)$"
local NAME = "^;[ \t]*" .. TOKEN .. "[ \t]*=[ \t]*(.*)$"
local VALUE = "^" .. TOKEN .. "[ \t]*(.*)$"

local _M = {}

--- What stands between the quotes a text begins with, as it stands there, and what is behind.
local function quoted(text)
    local at = 2
    while true do
        local place = find(text, '["\\]', at)
        if not place then
            return nil
        end
        if byte(text, place) == QUOTE then
            return sub(text, 2, place - 1), match(text, "^[ \t]*(.*)$", place + 1)
        end
        at = place + 2
    end
end

--- The first of the parameters, its name in lower case; and what is behind it.
local function first_of(rest)
    local name, from = match(rest, NAME)
    if not name then
        return nil
    end
    local value, behind
    if byte(from) == QUOTE then
        value, behind = quoted(from)
    else
        value, behind = match(from, VALUE)
    end
    return value and lower(name), value, behind
end

--- The value taken apart. A semicolon at the end stands for nothing.
---@param text string without control characters but tabs
---@return string|nil word in lower case, as "form-data"; nil for what is malformed
---@return table|nil parameters name in lower case -> value; escapes in quotes are left as they are
function _M.parse(text)
    local word, rest = match(text, WORD)
    local parameters = {}
    while word and not match(rest, "^;?[ \t]*$") do
        local name, value, behind = first_of(rest)
        if not name or parameters[name] then
            return nil
        end
        parameters[name], rest = value, behind
    end
    return word and lower(word), parameters
end

return _M
