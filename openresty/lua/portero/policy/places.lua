---------
-- Where in a JSON text each value stands: a path such as `roles.user.routes[1]`, its line and its
-- first characters; and the names that an object holds twice, of which a decoder would silently
-- keep the last. A decoder also makes `{}` and `[]` the same, and `1` and `1.0`.
-- Pure, and for texts that a decoder has accepted: it must never be what decides that one is JSON.

local cjson = require("cjson.safe")

local find, sub = string.find, string.sub

local _M = {}

local function line_counter(text)
    local line, from = 1, 1
    return function(at)
        for _ in sub(text, from, at - 1):gmatch("\n") do
            line = line + 1
        end
        from = math.max(from, at)
        return line
    end
end

local function end_of_string(text, from)
    local at = from + 1
    while true do
        at = find(text, '["\\]', at)
        if sub(text, at, at) == '"' then
            return at
        end
        at = at + 2
    end
end

local function path_in(frame)
    if frame.is_list then
        return frame.path .. "[" .. frame.count .. "]"
    end
    return (frame.path ~= "" and frame.path .. "." or "") .. (frame.name or "")
end

local function take_name(found, frame, text, from, to, line)
    local name = cjson.decode(sub(text, from, to))
    frame.name = name
    local path = path_in(frame)
    found.values[path] = text:match("^%s*:%s*([^%s,}%]]+)", to + 1)
    if frame.names[name] then
        found.twice[#found.twice + 1] = { path = path, line = line }
    end
    frame.names[name] = true
    found.lines[path] = line
end

local function open(found, frames, is_list, line)
    local path = #frames > 0 and path_in(frames[#frames]) or ""
    frames[#frames + 1] = { path = path, is_list = is_list, names = {}, count = 0 }
    found.lines[path] = found.lines[path] or line
end

--- Every element begins behind the bracket or a comma; its line is that of its first character.
local function count_element(found, frame, text, at, line_of)
    local from = frame and frame.is_list and find(text, "[^%s]", at + 1)
    if from and sub(text, from, from) ~= "]" then
        frame.count = frame.count + 1
        found.lines[path_in(frame)] = line_of(from)
    end
end

--- The lines of all values by their path, and the names that stand twice.
---@param text string JSON
---@return table found { lines = { [path] = line }, values = { [path] = first characters },
--- twice = { { path, line }, … } }; `values` has the members of objects alone
function _M.of(text)
    local found = { lines = {}, values = {}, twice = {} }
    local frames, line_of = {}, line_counter(text)
    local at = find(text, '["{}%[%],]')
    while at do
        local c, frame = sub(text, at, at), frames[#frames]
        if c == '"' then
            local stop = end_of_string(text, at)
            if frame and not frame.is_list and find(text, "^%s*:", stop + 1) then
                take_name(found, frame, text, at, stop, line_of(at))
            end
            at = stop
        elseif c == "{" or c == "[" then
            open(found, frames, c == "[", line_of(at))
            count_element(found, frames[#frames], text, at, line_of)
        elseif c == "," then
            count_element(found, frame, text, at, line_of)
        else
            frames[#frames] = nil
        end
        at = find(text, '["{}%[%],]', at + 1)
    end
    return found
end

return _M
