---------
-- The other side of `crypto.unseal`, and a look at libcrypto's error queue.

local ffi = require("ffi")

require("portero.token.crypto") -- declares the types

ffi.cdef([[
int EVP_EncryptInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, ENGINE *engine,
                       const unsigned char *key, const unsigned char *iv);
int EVP_EncryptUpdate(EVP_CIPHER_CTX *ctx, unsigned char *out, int *out_length,
                      const unsigned char *in, int in_length);
int EVP_EncryptFinal_ex(EVP_CIPHER_CTX *ctx, unsigned char *out, int *out_length);
unsigned long ERR_peek_error(void);
]])

local C = ffi.load("libcrypto.so.3")
local GET_TAG, TAG_BYTES = 0x10, 16 -- EVP_CTRL_AEAD_GET_TAG

local sealing = {}

--- AES-256-GCM: nonce, text, tag.
---@param key string 32 bytes
---@param label string
---@param text string
---@param nonce string|nil 12 bytes
---@return string
function sealing.seal(key, label, text, nonce)
    nonce = nonce or ("n"):rep(12)
    local ctx = ffi.gc(C.EVP_CIPHER_CTX_new(), C.EVP_CIPHER_CTX_free)
    local out, length = ffi.new("unsigned char[?]", #text + TAG_BYTES), ffi.new("int[1]")
    local tag = ffi.new("unsigned char[?]", TAG_BYTES)
    assert(C.EVP_EncryptInit_ex(ctx, C.EVP_aes_256_gcm(), nil, key, nonce) == 1)
    assert(C.EVP_EncryptUpdate(ctx, nil, length, label, #label) == 1)
    assert(C.EVP_EncryptUpdate(ctx, out, length, text, #text) == 1)
    local written = length[0]
    assert(C.EVP_EncryptFinal_ex(ctx, out + written, length) == 1)
    assert(C.EVP_CIPHER_CTX_ctrl(ctx, GET_TAG, TAG_BYTES, tag) == 1)
    return nonce .. ffi.string(out, written) .. ffi.string(tag, TAG_BYTES)
end
jit.off(sealing.seal) -- it makes arrays of variable length: see `mac_buffer` in portero/crypto

--- Whether libcrypto has no error to report: what is left there nginx would log as its own.
---@return boolean
function sealing.is_error_queue_empty()
    return C.ERR_peek_error() == 0
end

--- Forget errors that were left.
function sealing.clear_errors()
    C.ERR_clear_error()
end

return sealing
