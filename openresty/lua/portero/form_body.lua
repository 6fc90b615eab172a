---------
-- The multipart form of an upload (RFC 7578, RFC 2046): where its parts are, and which model its
-- one field `model` names.
-- Pure. It must never let pass what two readers could read in two ways: a boundary, a header or a
-- field that some would take for another is refused. Files are leapt over, and never copied.

local ffi = require("ffi")
local model_name = require("portero.model_name")

-- For the boundaries: a file of many megabytes lies between them.
ffi.cdef("void *memmem(const void *in, size_t in_length, const void *what, size_t what_length);")

local C = ffi.C
local find, gsub, lower = string.find, string.gsub, string.lower
local match, sub = string.match, string.sub
local min = math.min

local MOST_PARTS = 1000
local MOST_HEAD_BYTES = 4096
local PAUSE_BYTES = 256 * 1024
local LINE_END = "\r\n"
local HEAD_END = LINE_END .. LINE_END
--- What the headers of a part may be. Others say nothing to the servers behind us.
local PART_HEADERS = {
    ["content-disposition"] = true,
    ["content-type"] = true,
    ["content-length"] = true,
    ["content-transfer-encoding"] = true,
}
local PART_PARAMETERS = { name = true, filename = true, ["filename*"] = true }
--- Go decodes quoted-printable by itself.
local SAME_BYTES = { ["7bit"] = true, ["8bit"] = true, binary = true }
local PLAIN_TEXT = {
    ["text/plain"] = true,
    ["text/plain;charset=utf-8"] = true,
    ["text/plain;charset=us-ascii"] = true,
}

local _M = {}

--- The boundary in a Content-Type (RFC 2046 section 5.1.1). It must be the only parameter: with a
--- charset the same bytes would be another name.
---@param content_type string|nil
---@return string|nil
function _M.boundary_of(content_type)
    local value = match(content_type or "", "^multipart/form%-data[ \t]*;[ \t]*boundary=(.+)$")
    if not value then
        return nil
    end
    local boundary = match(value, "^[%w'+_.-]+$") or match(value, "^\"([%w'()+_,./:=?-]+)\"$")
    return boundary and #boundary <= 70 and boundary or nil
end

--- Where a text is, from a place on.
local function place_of(bytes, from, length, text, pause)
    local most = PAUSE_BYTES + #text - 1
    while from < length do
        local hit = C.memmem(bytes + from, min(most, length - from), text, #text)
        if hit ~= nil then
            return tonumber(ffi.cast("const unsigned char *", hit) - bytes)
        end
        from = from + PAUSE_BYTES
        if pause and from < length then
            pause()
        end
    end
    return nil
end

--- The parameters of `form-data`: quoted texts without anything that one reader takes for an end
--- and another does not. A filename may be told twice, in plain and encoded (RFC 5987).
local function parameters_of(disposition)
    local rest = match(disposition, "^form%-data(.*)$")
    local parameters = {}
    while rest and rest ~= "" do
        local key, value, behind = match(rest, '^; *(%a+)="([^"\\;]*)"(.*)$')
        if not key then
            key, value, behind = match(rest, "^; *(%a+%*)=([%w!#$&+^_`|~%%.'-]+)(.*)$")
        end
        if not PART_PARAMETERS[key] or parameters[key] then
            return nil
        end
        parameters[key], rest = value, behind
    end
    return rest and parameters
end

--- The headers of a part by their lower-case names; nil for one more than we know, one that is
--- there twice, or goes on in the next line.
local function headers_of(head)
    local headers = {}
    for line in (head .. LINE_END):gmatch("(.-)\r\n") do
        local name, value = match(line, "^([%w-]+):[ \t]*([^%z\1-\31\127]*)$")
        name = name and lower(name)
        if not PART_HEADERS[name] or headers[name] then
            return nil
        end
        headers[name] = value
    end
    local encoding = headers["content-transfer-encoding"]
    return (not encoding or SAME_BYTES[lower(encoding)]) and headers or nil
end

--- Whether a part is the field `model`, written in the one way that all read alike; nil for one
--- that some may take for it.
local function is_model(headers, parameters)
    local name = parameters.name
    if gsub(lower(name), "[%s%z%c]", "") ~= "model" then
        return false
    end
    local kind = gsub(lower(headers["content-type"] or "text/plain"), "[ \t]", "")
    local is_field = name == "model" and not parameters.filename and not parameters["filename*"]
        and not headers["content-transfer-encoding"] and PLAIN_TEXT[kind]
    return is_field or nil
end

--- Which part lies in [from, to): the model's name, or "" for another, or nil and the reason.
local function read_part(bytes, from, to)
    local start = ffi.string(bytes + from, min(to - from, MOST_HEAD_BYTES))
    local head_end = find(start, HEAD_END, 1, true)
    local headers = head_end and headers_of(sub(start, 1, head_end - 1))
    local parameters = headers and parameters_of(headers["content-disposition"] or "")
    if not parameters or not parameters.name then
        return nil, "invalid"
    end
    local is_its = is_model(headers, parameters)
    if not is_its then
        return is_its == false and "" or nil, "duplicate"
    end
    local value = sub(start, head_end + #HEAD_END)
    if from + #start < to or not model_name.is_plain(value) then
        return nil, "invalid"
    end
    return value
end

--- What is behind a boundary: the next part begins, or the form ends, or nothing is right.
local function behind_boundary(bytes, at, length)
    local rest = ffi.string(bytes + at, min(length - at, 5))
    if sub(rest, 1, 2) == LINE_END then
        return "part"
    end
    return (rest == "--" or rest == "--" .. LINE_END) and "end" or "fault"
end

local function ends_line(bytes, from, at)
    return at - 2 >= from and ffi.string(bytes + at - 2, 2) == LINE_END
end

--- The model of a multipart form: the one field `model`. The boundary may be nowhere but where it
--- belongs, not even within a file, so that none finds another part than we did.
---@param bytes ffi.cdata* const unsigned char *
---@param length integer
---@param boundary string from `boundary_of`
---@param pause function|nil
---@return string|nil name, string|nil reason "missing", "duplicate" or "invalid"
function _M.model(bytes, length, boundary, pause)
    local delimiter = "--" .. boundary
    local model
    local at = place_of(bytes, 0, min(length, #delimiter), delimiter)
    for _ = 1, MOST_PARTS do
        local follows = at and behind_boundary(bytes, at + #delimiter, length)
        if follows == "end" then
            return model, not model and "missing" or nil
        end
        if follows ~= "part" then
            return nil, "invalid"
        end
        local from = at + #delimiter + #LINE_END
        at = place_of(bytes, from, length, delimiter, pause)
        if not at or not ends_line(bytes, from, at) then
            return nil, "invalid"
        end
        local value, reason = read_part(bytes, from, at - #LINE_END)
        if not value or value ~= "" and model then
            return nil, reason or "duplicate"
        end
        model = model or value ~= "" and value or nil
    end
    return nil, "invalid"
end

return _M
