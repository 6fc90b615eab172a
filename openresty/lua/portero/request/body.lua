---------
-- The bytes of a request's body, for who must judge them, and the one way to change some of them.
-- What nginx keeps in memory is read there; what it has put into a file is mapped, never copied
-- into Lua. "No body in memory" never means "no body" (threats B10).
-- The cdefs stand here because nobody else opens files. The length is asked by lseek, since a
-- `struct stat` is laid out differently on every machine.

local ffi = require("ffi")

ffi.cdef([[
int open(const char *path, int flags, ...);
int close(int fd);
long lseek(int fd, long offset, int whence);
void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset);
int munmap(void *address, size_t length);
]])

local C = ffi.C

local READ_ONLY = 0x80000 -- O_RDONLY with O_CLOEXEC, the same number on x86-64 and arm64
local SEEK_END = 2
local PROT_READ, MAP_PRIVATE = 1, 2
local FAILED = ffi.cast("void *", -1)
local PIECE_BYTES = 64 * 1024
local HTTP_1 = { ["HTTP/1.1"] = true, ["HTTP/1.0"] = true }
--- Not 0: an nginx that is not OpenResty's own then logs a warning at every pause.
local PAUSE_SECONDS = 0.001

local concat, sort = table.concat, table.sort

local bytes_at = ffi.typeof("const unsigned char *")

local function unmap(map)
    if map.address ~= nil then
        C.munmap(map.address, map.length)
        map.address = nil
    end
end

--- Anonymous, so that it can be declared again and again.
local new_map = ffi.metatype(ffi.typeof("struct { void *address; size_t length; }"), {
    __gc = unmap,
})

local _M = {}

--- A descriptor's content; the caller closes the descriptor.
local function map_descriptor(fd)
    local length = tonumber(C.lseek(fd, 0, SEEK_END))
    if length <= 0 then
        return nil, "body: the file is empty"
    end
    local address = C.mmap(nil, length, PROT_READ, MAP_PRIVATE, fd, 0)
    if address == FAILED then
        return nil, "body: cannot map the file"
    end
    return new_map(address, length)
end

local function map_file(path)
    local fd = C.open(path, READ_ONLY)
    if fd < 0 then
        return nil, "body: cannot open the file"
    end
    local map, err = map_descriptor(fd)
    C.close(fd)
    return map, err
end

--- Asked of a variable, which LuaJIT compiles.
local function is_http_2()
    return not HTTP_1[ngx.var.server_protocol]
end

--- Some versions raise where a body comes over HTTP/2 and its length was not told. Nothing else is
--- called by pcall, behind which LuaJIT compiles no trace further.
local function read_body()
    if is_http_2() and not ngx.var.http_content_length then
        return pcall(ngx.req.read_body)
    end
    ngx.req.read_body()
    return true
end

--- All of the request's body. Bytes are valid as long as `keep` is there, or until it is released.
---@return ffi.cdata*|nil bytes, integer|string length or the reason, any keep
function _M.read()
    if not read_body() then
        return nil, "no length"
    end
    local text = ngx.req.get_body_data()
    if text then
        return ffi.cast(bytes_at, text), #text, text
    end
    local path = ngx.req.get_body_file()
    if not path then
        return nil, "empty"
    end
    local map, err = map_file(path)
    if not map then
        return nil, err
    end
    return ffi.cast(bytes_at, map.address), tonumber(map.length), map
end

--- Give the memory of a mapped body back at once; the collector would some time.
---@param keep any from `read`
function _M.release(keep)
    if type(keep) == "cdata" then
        unmap(keep)
    end
end

local WITHOUT_BODY = { GET = true, HEAD = true }

--- Over HTTP/2 a body may come that no header tells of: see to it that it is judged as any other.
--- One that nobody expects is thrown away; nil and a code where it cannot be read.
---@return boolean|nil ok, string|nil code
function _M.find_untold()
    if not is_http_2() or ngx.var.http_content_length then
        return true
    elseif WITHOUT_BODY[ngx.req.get_method()] then
        ngx.req.discard_body()
        return true
    end
    local _, length, keep = _M.read()
    _M.release(keep)
    return length ~= "no length" or nil, "length_required"
end

--- How long a body is that does not say so; it is read to know it.
---@return integer bytes; 0 where there is none
function _M.untold_length()
    if not ngx.var.http_transfer_encoding and not is_http_2() then
        return 0
    end
    local _, length, keep = _M.read()
    _M.release(keep)
    return type(length) == "number" and length or 0
end

--- For a long scan: let the worker's other requests have their turn.
function _M.pause()
    ngx.sleep(PAUSE_SECONDS)
end

local function append(bytes, from, to)
    while from < to do
        local length = math.min(to - from, PIECE_BYTES)
        ngx.req.append_body(ffi.string(bytes + from, length))
        from = from + length
    end
end

local function is_before(one, other)
    if one[1] ~= other[1] then
        return one[1] < other[1]
    end
    return one[2] < other[2]
end

--- The bytes between the changes, and the texts of these, in the order of the new body.
local function each_piece(bytes, length, changes, on_bytes, on_text)
    local at = 0
    for _, change in ipairs(changes) do
        on_bytes(bytes, at, change[1])
        on_text(change[3])
        at = change[2]
    end
    on_bytes(bytes, at, length)
end

local function replace_in_memory(bytes, length, changes)
    local pieces = {}
    local function add(text)
        pieces[#pieces + 1] = text
    end
    each_piece(bytes, length, changes, function(_, from, to)
        add(ffi.string(bytes + from, to - from))
    end, add)
    ngx.req.set_body_data(concat(pieces))
end

--- The same body with some of its bytes replaced, all in one pass; nginx sends its length. What
--- `read` answered is not the body any more.
---@param bytes ffi.cdata* from `read`
---@param length integer
---@param changes table[] { from, to, text }: text in place of the bytes [from, to); in any order,
---     which is put right here, and none over another
function _M.replace_all(bytes, length, changes)
    sort(changes, is_before)
    if ngx.req.get_body_data() then
        return replace_in_memory(bytes, length, changes)
    end
    -- nginx drops its old file here; the map outlives it.
    ngx.req.init_body(PIECE_BYTES)
    each_piece(bytes, length, changes, append, ngx.req.append_body)
    ngx.req.finish_body()
end

return _M
