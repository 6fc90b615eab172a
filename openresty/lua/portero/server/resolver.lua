---------
-- Addresses of host names, through the C library, so that /etc/hosts and a container engine's
-- names count too (nginx's own resolver asks DNS alone).
-- `watch` blocks and is for the start; `look` lets a thread of the C library wait, so a slow name
-- server never holds up a worker.
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
int getaddrinfo(const char *name, const char *service, const struct portero_addrinfo *hints,
                struct portero_addrinfo **result);
void freeaddrinfo(struct portero_addrinfo *result);
int getnameinfo(const void *address, uint32_t length, char *host, uint32_t host_length,
                char *service, uint32_t service_length, int flags);
int getaddrinfo_a(int mode, struct portero_gaicb *list[], int count, void *event);
int gai_error(struct portero_gaicb *request);
]])

local C = ffi.C

local AF_INET = 2
local SOCK_STREAM = 1
local NI_NUMERICHOST = 1
local GAI_NOWAIT = 1
local EAI_INPROGRESS = -100
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

local function begin(host)
    local lookup = { name = ffi.new("char[?]", #host + 1, host) }
    lookup.request = ffi.new("struct portero_gaicb", { name = lookup.name, hints = hints })
    lookup.list = ffi.new("struct portero_gaicb *[1]", { lookup.request })
    return C.getaddrinfo_a(GAI_NOWAIT, lookup.list, 1, nil) == 0 and lookup or nil
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
    watch.addresses = code == 0 and take(lookup.request.result) or watch.addresses
    return code == 0
end

return _M
