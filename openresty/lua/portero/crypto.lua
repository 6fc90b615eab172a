---------
-- libcrypto by FFI: MACs, constant-time comparison, random bytes.
-- The only file with an `ffi.cdef` of libcrypto. Inside nginx the symbols are those nginx itself
-- is linked to; a test's LuaJIT loads the library. It must never compare a secret with `==`.

local ffi = require("ffi")

ffi.cdef([[
typedef struct evp_md_st EVP_MD;
const EVP_MD *EVP_sha256(void);
const EVP_MD *EVP_sha384(void);
const EVP_MD *EVP_sha512(void);
unsigned char *HMAC(const EVP_MD *md, const void *key, int key_length,
                    const unsigned char *data, size_t length,
                    unsigned char *mac, unsigned int *mac_length);
int CRYPTO_memcmp(const void *a, const void *b, size_t length);
int RAND_bytes(unsigned char *buffer, int length);
]])

local function is_loaded()
    return pcall(function() return ffi.C.CRYPTO_memcmp end)
end

local C = is_loaded() and ffi.C or ffi.load("libcrypto.so.3")

local MOST_MAC_BYTES = 64
local mac_buffer = ffi.new("unsigned char[?]", MOST_MAC_BYTES)
local mac_length = ffi.new("unsigned int[1]")

--- The digest of each HMAC algorithm (RFC 7518 section 3.2).
local DIGESTS = {
    HS256 = C.EVP_sha256(),
    HS384 = C.EVP_sha384(),
    HS512 = C.EVP_sha512(),
}

local _M = {}

--- Whether this is an HMAC algorithm that can be computed here.
---@param algorithm string
---@return boolean
function _M.is_hmac(algorithm)
    return DIGESTS[algorithm] ~= nil
end

--- The raw MAC of a text. https://docs.openssl.org/3.0/man3/HMAC/
---@param algorithm string a JWS name: HS256, HS384 or HS512
---@param key string
---@param text string
---@return string|nil mac, string|nil err
function _M.hmac(algorithm, key, text)
    local digest = DIGESTS[algorithm]
    if C.HMAC(digest, key, #key, text, #text, mac_buffer, mac_length) == nil then
        return nil, "crypto.hmac: libcrypto refused"
    end
    return ffi.string(mac_buffer, mac_length[0])
end

--- Whether two texts are equal, in a time that depends on their lengths alone.
---@param a string
---@param b string
---@return boolean
function _M.equal(a, b)
    return #a == #b and C.CRYPTO_memcmp(a, b, #a) == 0
end

--- Random bytes from libcrypto's generator.
---@param length integer at most 64
---@return string|nil bytes, string|nil err
function _M.random(length)
    if C.RAND_bytes(mac_buffer, length) ~= 1 then
        return nil, "crypto.random: libcrypto has no randomness"
    end
    return ffi.string(mac_buffer, length)
end

return _M
