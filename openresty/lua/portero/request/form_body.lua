---------
-- The multipart form of an upload (RFC 7578, RFC 2046): where its parts are, and which model its
-- one field `model` names.
-- Pure. It must never let pass what two readers could read in two ways. Those behind us are Go's
-- mime/multipart, python-multipart as Starlette asks it, and llama-server's cpp-httplib: a part, a
-- parameter or a boundary that one of them would take for another is refused, and so is a model
-- that one of the first two would pass over: it would serve its default in its place.
-- Files are leapt over, and never copied. tests/security/test_forms.py asks those readers.

local ffi = require("ffi")
local header_parameters = require("portero.request.header_parameters")
local json_body = require("portero.request.json_body")

-- For the boundaries: a file of many megabytes lies between them.
ffi.cdef("void *memmem(const void *in, size_t in_length, const void *what, size_t what_length);")

local C = ffi.C
local bytes_at = ffi.typeof("const unsigned char *")
local find, gsub, lower = string.find, string.gsub, string.lower
local gmatch, match, sub = string.gmatch, string.match, string.sub
local min = math.min

local MAX_PARTS = 1000
local MAX_HEAD_BYTES = 4096
local MAX_BOUNDARY_BYTES = 70
local PAUSE_BYTES = 256 * 1024
local LINE_FEED = 10
local LINE_END = "\r\n"
local HEAD_END = LINE_END .. LINE_END
--- A header's line: no name but a token, no control characters.
local HEADER = "^([%w!#$%%&'*+.^_`|~-]+):[ \t]*([^%z\1-\8\10-\31\127]-)[ \t]*$"
--- The headers of a part that say how to read it. Others say nothing to the servers behind us.
local TOLD_ONCE = {
    ["content-disposition"] = true,
    ["content-type"] = true,
    ["content-transfer-encoding"] = true,
}
--- Others are undone by some readers and not by others: Go decodes quoted-printable by itself.
local SAME_BYTES = { ["7bit"] = true, ["8bit"] = true, binary = true }
--- In these a text of ASCII has the same bytes; false where it is so of ASCII alone.
local CHARSETS = {
    ["utf-8"] = true, utf8 = true, ["us-ascii"] = false, ascii = false, ["iso-8859-1"] = false,
    ["iso-8859-15"] = false, latin1 = false, ["windows-1252"] = false,
}

local _M = {}

--- Whether a text is read alike in the charset of these parameters; nil for a charset that may
--- have other bytes for it.
local function reads_utf8(parameters)
    return CHARSETS[lower(parameters.charset or "utf-8")]
end

--- The boundary as who looks for the letters alone would cut it out: cpp-httplib and fasthttp.
local function cut_out_boundary(content_type)
    local cut = match(content_type, "boundary=([^;]*)") or ""
    return match(cut, '^"(.*)"$') or cut
end

local function is_boundary(text)
    return #text <= MAX_BOUNDARY_BYTES and find(text, "^[!-~ ]+$") ~= nil
        and not find(text, '^ ') and not find(text, ' $') and not find(text, '[\\;"]')
end

--- How a form's Content-Type says that its parts are set apart (RFC 2046 section 5.1.1).
---@param content_type string|nil
---@return table|nil form { boundary, other, is_utf8 }; `other` is what some would take for the
---     boundary, where it is not the same
---@return string|nil code of the refusal
function _M.of_type(content_type)
    local kind = match(content_type or "", "^[^; \t]*")
    if lower(kind) ~= "multipart/form-data" then
        return nil, "form_expected"
    end
    local word, parameters = header_parameters.parse(content_type)
    local boundary = word == lower(kind) and parameters.boundary
    local _, mentions = gsub(lower(content_type), "boundary[ \t]*[*=]", "")
    if not boundary or mentions > 1 or not is_boundary(boundary) then
        return nil, "form_boundary"
    end
    local is_utf8 = reads_utf8(parameters)
    if is_utf8 == nil then
        return nil, "form_charset"
    end
    local other = cut_out_boundary(content_type)
    return {
        boundary = boundary, is_utf8 = is_utf8,
        other = other ~= "" and other ~= boundary and other or nil,
    }
end

--- Where a text is, from a place on.
local function place_of(bytes, from, length, text, pause)
    local most = PAUSE_BYTES + #text - 1
    while from < length do
        local hit = C.memmem(bytes + from, min(most, length - from), text, #text)
        if hit ~= nil then
            return tonumber(ffi.cast(bytes_at, hit) - bytes)
        end
        from = from + PAUSE_BYTES
        if pause and from < length then
            pause()
        end
    end
    return nil
end

--- Whether who cuts at semicolons without regard to quotes, as cpp-httplib does, would find a
--- parameter within a value that chooses what the part is.
local function hides_parameter(value)
    for piece in gmatch(value, ";([^;]*)") do
        local name = lower(match(piece, '^[ \t"\\=]*([^ \t"\\=*]*)'))
        if name == "name" or name == "filename" then
            return true
        end
    end
    return false
end

--- The parameters of `form-data`, where all who read them find the same name.
local function parameters_of(disposition)
    local word, parameters = header_parameters.parse(disposition)
    if word ~= "form-data" or not parameters.name then
        return nil
    end
    for name, value in pairs(parameters) do
        if find(name, "^name%*") or hides_parameter(value) then
            return nil
        end
    end
    return parameters
end

--- The headers of a part by their lower-case names; nil for a line that is none, or goes on in the
--- next one, and where one is told twice that must not be.
local function headers_of(head)
    local headers = {}
    for line in gmatch(head .. LINE_END, "(.-)\r\n") do
        local name, value = match(line, HEADER)
        name = name and lower(name)
        if not name or headers[name] and TOLD_ONCE[name] then
            return nil
        end
        headers[name] = value
    end
    return headers
end

--- A field's name as whoever is least exact reads it.
local function plain_name(name)
    return (gsub(gsub(lower(name), '[%s%z%c"\\]', ""), "%[%]$", ""))
end

--- Which field a part is: true for `model`, false for another, nil for one that some may take for
--- it.
local function is_model(name)
    if name == "model" then
        return true
    end
    if plain_name(name) ~= "model" then
        return false
    end
    return nil
end

local function is_file(parameters)
    for name in pairs(parameters) do
        if find(name, "^filename") then
            return true
        end
    end
    return false
end

--- Why the field `model` would not be a text to all, or not the same one; nil where it would.
local function fault_of_field(headers, parameters, value, is_utf8)
    if is_file(parameters) then
        return "form_model_file"
    end
    if not SAME_BYTES[lower(headers["content-transfer-encoding"] or "binary")] then
        return "form_model_encoded"
    end
    local kind, of_kind = header_parameters.parse(headers["content-type"] or "text/plain")
    local in_utf8 = kind == "text/plain" and reads_utf8(of_kind)
    if kind ~= "text/plain" or in_utf8 == nil then
        return "form_model_kind"
    end
    if not json_body.is_model(value) then
        return value == "" and "model_missing" or "model_unusable"
    end
    return not (is_utf8 and in_utf8) and find(value, "[\128-\255]") and "form_model_kind" or nil
end

--- Have another field than the model looked at, where somebody does.
local function show(watch, parameters, bytes, from, to)
    if not watch then
        return
    end
    local shown = min(to - from, MAX_HEAD_BYTES)
    local text = not is_file(parameters) and ffi.string(bytes + from, shown) or nil
    watch(plain_name(parameters.name), text)
end

--- What the part in [from, to) is: the model's name, nil, and where it begins; "" for another part;
--- or nil and the reason.
local function read_part(bytes, from, to, is_utf8, watch)
    local start = ffi.string(bytes + from, min(to - from, MAX_HEAD_BYTES))
    local head_end = find(start, HEAD_END, 1, true)
    local headers = head_end and headers_of(sub(start, 1, head_end - 1))
    local parameters = headers and parameters_of(headers["content-disposition"] or "")
    if not parameters then
        return nil, "form_head"
    end
    local is_its = is_model(parameters.name)
    local value_from = from + head_end - 1 + #HEAD_END
    if is_its == false then
        show(watch, parameters, bytes, value_from, to)
        return ""
    elseif not is_its then
        return nil, "form_model_near"
    end
    local value = ffi.string(bytes + value_from, min(to - value_from, MAX_HEAD_BYTES))
    local fault = fault_of_field(headers, parameters, value, is_utf8)
    return not fault and value or nil, fault, value_from
end

--- What is behind a boundary: the next part begins, or the form ends, or nothing is right. What
--- follows the end is read by nobody (RFC 2046 section 5.1.1).
local function behind_boundary(bytes, at, length)
    local rest = ffi.string(bytes + at, min(length - at, MAX_BOUNDARY_BYTES))
    if sub(rest, 1, 2) == LINE_END then
        return "part"
    end
    local is_end = find(rest, "^%-%-[ \t]*\r\n") or find(rest, "^%-%-[ \t]*$")
    return is_end and "end" or "fault"
end

local function ends_line(bytes, from, at)
    return at - 2 >= from and ffi.string(bytes + at - 2, 2) == LINE_END
end

--- Where the first boundary is: at the beginning, or of a line, as nobody reads what is before it.
local function first_boundary(bytes, length, delimiter, pause)
    local at = place_of(bytes, 0, length, delimiter, pause)
    return at and (at == 0 or bytes[at - 1] == LINE_FEED) and at or nil
end

--- The parts of a form, one after the other: `read` is asked of each until it answers a reason.
--- Why the form is none; nil where it is one to its end.
local function walk(bytes, length, delimiter, pause, read)
    local at = first_boundary(bytes, length, delimiter, pause)
    for _ = 1, MAX_PARTS do
        local follows = at and behind_boundary(bytes, at + #delimiter, length)
        if follows == "end" then
            local goes_on = place_of(bytes, at + #delimiter, length, delimiter, pause)
            return goes_on and "form_broken" or nil
        end
        local begun, from = at, follows == "part" and at + #delimiter + #LINE_END
        at = from and place_of(bytes, from, length, delimiter, pause)
        if not at or not ends_line(bytes, from, at) then
            return "form_broken"
        end
        local reason = read(from, at - #LINE_END, begun, at)
        if reason then
            return reason
        end
    end
    return "form_too_long"
end

--- The model of a multipart form: the one field `model`. The boundary may be nowhere but where it
--- belongs, not even within a file, so that none finds another part than we did.
---@param bytes ffi.cdata* const unsigned char *
---@param length integer
---@param form table from `of_type`
---@param pause function|nil
---@param watch fun(name: string, text: string|nil, from: integer, to: integer)|nil is told each
---     other field: its name in small letters, the beginning of its text, nil for a file, and which
---     bytes are to go if it shall not be there
---@return string|nil name
---@return string|nil code of the refusal
---@return integer|nil from where the name begins; it ends `#name` bytes on
function _M.model(bytes, length, form, pause, watch)
    if form.other and place_of(bytes, 0, length, "--" .. form.other, pause) then
        return nil, "form_broken"
    end
    local model, model_from
    local reason = walk(bytes, length, "--" .. form.boundary, pause, function(from, to, begun, stop)
        local value, fault, value_from = read_part(bytes, from, to, form.is_utf8, watch
            and function(name, text) watch(name, text, begun, stop) end)
        if not value or value ~= "" and model then
            return fault or "ambiguous_body"
        end
        if value ~= "" then
            model, model_from = value, value_from
        end
    end)
    if reason then
        return nil, reason
    end
    return model, not model and "model_missing" or nil, model_from
end

return _M
