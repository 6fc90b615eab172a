---------
-- Addresses of host names, through the C library, so that /etc/hosts and a container engine's
-- names count too (nginx's own resolver asks DNS alone).
-- `watch` blocks and is for the start; `look` lets a thread of the C library wait, so a slow name
-- server never holds up a worker. It must never have Lua's collector free what such a thread may
-- still write to: a host may be forgotten, or the worker end, while one is looked up.
-- https://man7.org/linux/man-pages/man3/getaddrinfo_a.3.html

local ffi = require("ffi")

ffi.cdef([[
struct portero_addrinfo {
    int flags; int family; int socket_type; int protocol;
    uint32_t address_length; void *address; char *canonical_name; struct portero_addrinfo *next;
};
struct portero_gaicb {
    const char *name; const char *service;
    const struct portero_addrinfo *hints; struct portero_addrinfo *result;
    int private_state; int reserved[5];
};
struct portero_lookup {
    struct portero_gaicb request; struct portero_gaicb *list[1]; struct portero_addrinfo hints;
    char *name;
};
void *calloc(size_t count, size_t size);
void free(void *memory);
char *strdup(const char *text);
int getaddrinfo(const char *name, const char *service, const struct portero_addrinfo *hints,
                struct portero_addrinfo **result);
void freeaddrinfo(struct portero_addrinfo *result);
int getnameinfo(const void *address, uint32_t length, char *host, uint32_t host_length,
                char *service, uint32_t service_length, int flags);
int getaddrinfo_a(int mode, struct portero_gaicb *list[], int count, void *event);
int gai_error(struct portero_gaicb *request);
int gai_cancel(struct portero_gaicb *request);
]])

local C = ffi.C

local AF_INET = 2
local SOCK_STREAM = 1
local NI_NUMERICHOST = 1
local GAI_NOWAIT = 1
local EAI_INPROGRESS, EAI_NOTCANCELED = -100, -102
local MAX_ADDRESS_CHARACTERS = 64

local hints = ffi.new("struct portero_addrinfo", { socket_type = SOCK_STREAM })
local text = ffi.new("char[?]", MAX_ADDRESS_CHARACTERS)

local _M = {}

local function numeric(entry)
    local failed = C.getnameinfo(entry.address, entry.address_length, text,
        MAX_ADDRESS_CHARACTERS, nil, 0, NI_NUMERICHOST)
    return failed == 0 and ffi.string(text) or nil
end

--- The addresses of a result, which is freed; IPv4 alone where there is any: a server that
--- listens on 127.0.0.1 only would else be asked at ::1 every other time.
local function take(result)
    local v4, v6 = {}, {}
    local entry = result
    while entry ~= nil do
        local list = entry.family == AF_INET and v4 or v6
        list[#list + 1] = numeric(entry)
        entry = entry.next
    end
    C.freeaddrinfo(result)
    return #v4 > 0 and v4 or v6
end

local lookup_at = ffi.typeof("struct portero_lookup *")

--- A look-up that nobody waits for any more. One that a thread is at is left to that thread, some
--- two hundred bytes: there is no way to end it.
local function forget(lookup)
    if C.gai_cancel(lookup.request) == EAI_NOTCANCELED then
        return
    end
    if C.gai_error(lookup.request) == 0 and lookup.request.result ~= nil then
        C.freeaddrinfo(lookup.request.result)
    end
    C.free(lookup.name)
    C.free(lookup)
end

local function begin(host)
    local lookup = ffi.cast(lookup_at, C.calloc(1, ffi.sizeof("struct portero_lookup")))
    if lookup == nil then
        return nil
    end
    lookup.name, lookup.hints = C.strdup(host), hints
    lookup.request.name, lookup.request.hints = lookup.name, lookup.hints
    lookup.list[0] = lookup.request
    if C.getaddrinfo_a(GAI_NOWAIT, lookup.list, 1, nil) ~= 0 then
        C.free(lookup.name)
        C.free(lookup)
        return nil
    end
    return ffi.gc(lookup, forget)
end

--- A host to be looked at again and again, and its addresses, waiting for them; none when it has
--- none.
---@param host string
---@return table watch { host, addresses }
function _M.watch(host)
    local result = ffi.new("struct portero_addrinfo *[1]")
    local failed = C.getaddrinfo(host, nil, hints, result) ~= 0
    return { host = host, addresses = failed and {} or take(result[0]) }
end

--- Begin a look-up, or take what the one that was begun has found: a new address is known after
--- two looks. Addresses that were good stay until better ones are known.
---@param watch table
---@return boolean has_found whether `addresses` are new
function _M.look(watch)
    local lookup = watch.lookup
    if not lookup then
        watch.lookup = begin(watch.host)
        return false
    end
    local code = C.gai_error(lookup.request)
    if code == EAI_INPROGRESS then
        return false
    end
    watch.lookup = nil
    if code == 0 then
        watch.addresses = take(lookup.request.result)
        lookup.request.result = nil
    end
    return code == 0
end

return _M
