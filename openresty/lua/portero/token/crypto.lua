---------
-- libcrypto by FFI: MACs, signatures, constant-time comparison, unsealing, random bytes.
-- The only file with an `ffi.cdef` of libcrypto. Inside nginx the symbols are those nginx itself
-- is linked to; a test's LuaJIT loads the library. Results are compared with the documented value
-- of success, and the error queue is left empty: nginx would report what we leave in it. It must
-- never compare a secret with `==`.

local ffi = require("ffi")

ffi.cdef([[
typedef struct evp_md_st EVP_MD;
typedef struct evp_md_ctx_st EVP_MD_CTX;
typedef struct evp_pkey_st EVP_PKEY;
typedef struct evp_pkey_ctx_st EVP_PKEY_CTX;
typedef struct evp_cipher_st EVP_CIPHER;
typedef struct bignum_st BIGNUM;
typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
typedef struct engine_st ENGINE;

const EVP_MD *EVP_sha256(void);
const EVP_MD *EVP_sha384(void);
const EVP_MD *EVP_sha512(void);
unsigned char *HMAC(const EVP_MD *md, const void *key, int key_length,
                    const unsigned char *data, size_t length,
                    unsigned char *mac, unsigned int *mac_length);
typedef struct hmac_ctx_st HMAC_CTX;
HMAC_CTX *HMAC_CTX_new(void);
void HMAC_CTX_free(HMAC_CTX *ctx);
int HMAC_Init_ex(HMAC_CTX *ctx, const void *key, int length, const EVP_MD *md, ENGINE *engine);
int HMAC_Update(HMAC_CTX *ctx, const unsigned char *data, size_t length);
int HMAC_Final(HMAC_CTX *ctx, unsigned char *mac, unsigned int *mac_length);
int EVP_Digest(const void *data, size_t length, unsigned char *digest, unsigned int *digest_length,
               const EVP_MD *md, ENGINE *engine);
int CRYPTO_memcmp(const void *a, const void *b, size_t length);
int RAND_bytes(unsigned char *buffer, int length);
void ERR_clear_error(void);

EVP_PKEY *d2i_PUBKEY(EVP_PKEY **key, const unsigned char **der, long length);
void EVP_PKEY_free(EVP_PKEY *key);
int EVP_PKEY_get_base_id(const EVP_PKEY *key);
int EVP_PKEY_get_bits(const EVP_PKEY *key);
int EVP_PKEY_get_group_name(const EVP_PKEY *key, char *name, size_t size, size_t *length);
int EVP_PKEY_get_bn_param(const EVP_PKEY *key, const char *name, BIGNUM **number);
unsigned long BN_get_word(const BIGNUM *number);
void BN_free(BIGNUM *number);
EVP_MD_CTX *EVP_MD_CTX_new(void);
void EVP_MD_CTX_free(EVP_MD_CTX *ctx);
int EVP_MD_CTX_reset(EVP_MD_CTX *ctx);
int EVP_DigestVerifyInit(EVP_MD_CTX *ctx, EVP_PKEY_CTX **pctx, const EVP_MD *md,
                         ENGINE *engine, EVP_PKEY *key);
int EVP_DigestVerify(EVP_MD_CTX *ctx, const unsigned char *signature, size_t signature_length,
                     const unsigned char *data, size_t length);

const EVP_CIPHER *EVP_aes_256_gcm(void);
EVP_CIPHER_CTX *EVP_CIPHER_CTX_new(void);
void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *ctx);
int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *ctx, int type, int argument, void *pointer);
int EVP_DecryptInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, ENGINE *engine,
                       const unsigned char *key, const unsigned char *iv);
int EVP_DecryptUpdate(EVP_CIPHER_CTX *ctx, unsigned char *out, int *out_length,
                      const unsigned char *in, int in_length);
int EVP_DecryptFinal_ex(EVP_CIPHER_CTX *ctx, unsigned char *out, int *out_length);

typedef struct bio_st BIO;
typedef struct x509_st X509;
typedef struct asn1_string_st ASN1_TIME;
BIO *BIO_new_mem_buf(const void *buffer, int length);
int BIO_free(BIO *bio);
X509 *PEM_read_bio_X509(BIO *bio, X509 **certificate, void *callback, void *argument);
void X509_free(X509 *certificate);
const ASN1_TIME *X509_get0_notAfter(const X509 *certificate);
int X509_cmp_current_time(const ASN1_TIME *time);
const ASN1_TIME *X509_get0_notBefore(const X509 *certificate);
int ASN1_TIME_diff(int *days, int *seconds, const ASN1_TIME *from, const ASN1_TIME *to);
int X509_get_ext_by_NID(const X509 *certificate, int nid, int after);
int X509_check_host(X509 *certificate, const char *name, size_t length, unsigned flags,
                    char **peer);
int X509_check_ip_asc(X509 *certificate, const char *address, unsigned flags);
int X509_check_private_key(const X509 *certificate, const EVP_PKEY *key);
EVP_PKEY *PEM_read_bio_PrivateKey(BIO *bio, EVP_PKEY **key, void *callback, void *argument);
unsigned long X509_subject_name_hash(X509 *certificate);
]])

local function is_loaded()
    return pcall(function() return ffi.C.CRYPTO_memcmp end)
end

--- Into the whole process and for good, as in nginx: what frees our objects must outlive them.
local function load()
    ffi.cdef("void *dlopen(const char *name, int flags);")
    local now_global_for_good = 0x1102
    assert(ffi.C.dlopen("libcrypto.so.3", now_global_for_good) ~= nil, "no libcrypto.so.3")
end

if not is_loaded() then
    load()
end
local C = ffi.C

local SUCCESS = 1
local MAX_MAC_BYTES, SHA256_BYTES = 64, 32
local MIN_SECRET_BYTES = 32
local RSA, EC, ED25519 = 6, 408, 1087 -- NIDs of obj_mac.h
local MIN_RSA_BITS, MIN_RSA_EXPONENT = 2048, 3
local P256, MAX_NAME_BYTES = "prime256v1", 64
local P256_HALF_BYTES, ED25519_SIGNATURE_BYTES = 32, 64
local SEALING_KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
local SET_TAG = 0x11 -- EVP_CTRL_AEAD_SET_TAG

-- What libcrypto writes to is made once. LuaJIT 2.1-20230119 damages its heap now and then where
-- compiled code makes an array of variable length (seen as faults of the specs, never without JIT).
local mac_buffer = ffi.new("unsigned char[?]", MAX_MAC_BYTES)
local mac_length = ffi.new("unsigned int[1]")
local group_name, group_name_length = ffi.new("char[?]", MAX_NAME_BYTES), ffi.new("size_t[1]")
local exponent_of = ffi.new("BIGNUM *[1]")
local der_at = ffi.new("const unsigned char *[1]")
local tag_buffer = ffi.new("unsigned char[?]", TAG_BYTES)

--- The digest of each HMAC algorithm (RFC 7518 section 3.2).
local DIGESTS = {
    HS256 = C.EVP_sha256(),
    HS384 = C.EVP_sha384(),
    HS512 = C.EVP_sha512(),
}

local _M = {}

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

--- Bytes as text, two lower-case digits each.
---@param raw string
---@return string
function _M.hexadecimal(raw)
    return (raw:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

--- Whether two texts are equal, in a time that depends on their lengths alone.
---@param a string
---@param b string
---@return boolean
function _M.equal(a, b)
    return #a == #b and C.CRYPTO_memcmp(a, b, #a) == 0
end

--- Whether so many bytes have this SHA-256 (FIPS 180-4), compared in constant time.
--- https://docs.openssl.org/3.0/man3/EVP_DigestInit/
---@param bytes string|ffi.cdata*
---@param length integer
---@param digest string 32 bytes or more, of which the first 32 count
---@return boolean
function _M.has_sha256(bytes, length, digest)
    if #digest < SHA256_BYTES
        or C.EVP_Digest(bytes, length, mac_buffer, mac_length, DIGESTS.HS256, nil) ~= SUCCESS then
        return false
    end
    return C.CRYPTO_memcmp(mac_buffer, digest, SHA256_BYTES) == 0
end

--- Random bytes from libcrypto's generator.
---@param length integer at most 64
---@return string|nil bytes, string|nil err
function _M.random(length)
    if C.RAND_bytes(mac_buffer, length) ~= SUCCESS then
        return nil, "crypto.random: libcrypto has no randomness"
    end
    return ffi.string(mac_buffer, length)
end

--- MACs by one key: its schedule is computed once and used again for each text.
--- https://docs.openssl.org/3.0/man3/HMAC/
local function hmac_verifier(algorithm)
    return function(key)
        if #key < MIN_SECRET_BYTES then
            return nil, "crypto.verifier: the secret is too short"
        end
        local ctx = ffi.gc(C.HMAC_CTX_new(), C.HMAC_CTX_free)
        if C.HMAC_Init_ex(ctx, key, #key, DIGESTS[algorithm], nil) ~= SUCCESS then
            return nil, "crypto.verifier: libcrypto refused the secret"
        end
        return function(text, length, signature, signature_length)
            if C.HMAC_Init_ex(ctx, nil, 0, nil, nil) ~= SUCCESS
                or C.HMAC_Update(ctx, text, length) ~= SUCCESS
                or C.HMAC_Final(ctx, mac_buffer, mac_length) ~= SUCCESS then
                return false
            end
            return mac_length[0] == signature_length
                and C.CRYPTO_memcmp(mac_buffer, signature, signature_length) == 0
        end
    end
end

--- A DER integer (X.690 section 8.3): no needless leading zeros, one where it would seem negative.
local function der_integer(raw)
    local first = 1
    while first < #raw and raw:byte(first) == 0 do
        first = first + 1
    end
    local digits = raw:sub(first)
    if digits:byte(1) >= 0x80 then
        digits = "\0" .. digits
    end
    return "\2" .. string.char(#digits) .. digits
end

--- `r || s` (RFC 7518 section 3.4) as libcrypto wants it; nil when its length is not exactly right.
local function ecdsa_der(bytes, length)
    if length ~= 2 * P256_HALF_BYTES then
        return nil
    end
    local signature = ffi.string(bytes, length)
    local content = der_integer(signature:sub(1, P256_HALF_BYTES))
        .. der_integer(signature:sub(P256_HALF_BYTES + 1))
    local der = "\48" .. string.char(#content) .. content
    return der, #der
end

local function exactly_64_bytes(signature, length)
    return length == ED25519_SIGNATURE_BYTES and signature or nil, length
end

--- With the exponent 1 a signature is its own text.
local function has_sound_exponent(key)
    exponent_of[0] = nil
    if C.EVP_PKEY_get_bn_param(key, "e", exponent_of) ~= SUCCESS then
        return false
    end
    local exponent = ffi.gc(exponent_of[0], C.BN_free)
    return C.BN_get_word(exponent) >= MIN_RSA_EXPONENT
end

local function is_rsa(key)
    return C.EVP_PKEY_get_base_id(key) == RSA and C.EVP_PKEY_get_bits(key) >= MIN_RSA_BITS
        and has_sound_exponent(key)
end

--- Other curves have 256 bits too.
local function is_p256(key)
    return C.EVP_PKEY_get_base_id(key) == EC
        and C.EVP_PKEY_get_group_name(
            key, group_name, MAX_NAME_BYTES, group_name_length) == SUCCESS
        and ffi.string(group_name, group_name_length[0]) == P256
end

local function is_ed25519(key)
    return C.EVP_PKEY_get_base_id(key) == ED25519
end

local function as_it_is(signature, length)
    return signature, length
end

local function read_public(der, fits)
    der_at[0] = ffi.cast("const unsigned char *", der)
    local key = C.d2i_PUBKEY(nil, der_at, #der)
    if key == nil then
        C.ERR_clear_error()
        return nil
    end
    key = ffi.gc(key, C.EVP_PKEY_free)
    return fits(key) and key or nil
end

--- Signatures by a public key. https://docs.openssl.org/3.0/man3/EVP_DigestVerifyInit/
local function public_verifier(digest, fits, form)
    return function(der)
        local key = read_public(der, fits)
        if not key then
            return nil, "crypto.verifier: no fit public key"
        end
        local ctx = ffi.gc(C.EVP_MD_CTX_new(), C.EVP_MD_CTX_free)
        return function(text, length, signature, signature_length)
            local formed, formed_length = form(signature, signature_length)
            if not formed or C.EVP_MD_CTX_reset(ctx) ~= SUCCESS
                or C.EVP_DigestVerifyInit(ctx, nil, digest, nil, key) ~= SUCCESS then
                return false
            end
            if C.EVP_DigestVerify(ctx, formed, formed_length, text, length) == SUCCESS then
                return true
            end
            C.ERR_clear_error()
            return false
        end
    end
end

--- Algorithm (RFC 7518 section 3.1, RFC 8037 section 3.1) -> from key to verifier.
local VERIFIERS = {
    HS256 = hmac_verifier("HS256"),
    HS384 = hmac_verifier("HS384"),
    HS512 = hmac_verifier("HS512"),
    RS256 = public_verifier(C.EVP_sha256(), is_rsa, as_it_is),
    ES256 = public_verifier(C.EVP_sha256(), is_p256, ecdsa_der),
    EdDSA = public_verifier(nil, is_ed25519, exactly_64_bytes),
}

--- A function that tells whether a signature of so many bytes is by this key, over `length` bytes
--- of a text.
---@param algorithm any
---@param key string a secret for HMAC, else SubjectPublicKeyInfo in DER
---@return function|nil verify (text, length: integer, signature, bytes: integer) -> boolean; text
--- and signature are strings or pointers
---@return string|nil err
function _M.verifier(algorithm, key)
    local of_key = VERIFIERS[algorithm]
    if not of_key then
        return nil, "crypto.verifier: no such algorithm"
    end
    return of_key(key)
end

local function decrypt(ctx, key, label, nonce, text, tag)
    local out, length = ffi.new("unsigned char[?]", #text + 1), ffi.new("int[1]")
    ffi.copy(tag_buffer, tag, TAG_BYTES)
    if C.EVP_DecryptInit_ex(ctx, C.EVP_aes_256_gcm(), nil, key, nonce) ~= SUCCESS
        or C.EVP_DecryptUpdate(ctx, nil, length, label, #label) ~= SUCCESS
        or C.EVP_DecryptUpdate(ctx, out, length, text, #text) ~= SUCCESS then
        return nil
    end
    local written = length[0]
    if C.EVP_CIPHER_CTX_ctrl(ctx, SET_TAG, TAG_BYTES, tag_buffer) ~= SUCCESS
        or C.EVP_DecryptFinal_ex(ctx, out + written, length) ~= SUCCESS then
        return nil
    end
    return ffi.string(out, written + length[0])
end

jit.off(decrypt) -- it makes an array of variable length: see `mac_buffer`

--- Open what was sealed by AES-256-GCM: nonce, text, tag. nil when it was not sealed by this key.
---@param key string 32 bytes
---@param label string what it was sealed for
---@param sealed string
---@return string|nil text
function _M.unseal(key, label, sealed)
    if #key ~= SEALING_KEY_BYTES or #sealed <= NONCE_BYTES + TAG_BYTES then
        return nil
    end
    local ctx = ffi.gc(C.EVP_CIPHER_CTX_new(), C.EVP_CIPHER_CTX_free)
    local nonce = sealed:sub(1, NONCE_BYTES)
    local text, tag = sealed:sub(NONCE_BYTES + 1, -TAG_BYTES - 1), sealed:sub(-TAG_BYTES)
    local opened = decrypt(ctx, key, label, nonce, text, tag)
    C.ERR_clear_error()
    return opened
end

local function reader(text)
    return ffi.gc(C.BIO_new_mem_buf(text, #text), C.BIO_free)
end

--- Read the certificates of a text in PEM, up to the first that cannot be read.
local function each_certificate(text, visit)
    local bio = reader(text)
    while true do
        local certificate = C.PEM_read_bio_X509(bio, nil, nil, nil)
        if certificate == nil then
            C.ERR_clear_error()
            return
        end
        visit(certificate)
        C.X509_free(certificate)
    end
end

--- The certificates of a text in PEM, up to the first that cannot be read.
---@param text string
---@return integer count, integer expired how many there are, and how many of them have expired
function _M.certificates(text)
    local count, expired = 0, 0
    each_certificate(text, function(certificate)
        count = count + 1
        if C.X509_cmp_current_time(C.X509_get0_notAfter(certificate)) < 0 then
            expired = expired + 1
        end
    end)
    return count, expired
end

--- By which names OpenSSL looks certificates up in a folder: the hashes of their subjects.
---@param text string in PEM
---@return string[] hashes of 8 hexadecimal digits, each once
function _M.certificate_hashes(text)
    local hashes, seen = {}, {}
    each_certificate(text, function(certificate)
        local hash = ("%08x"):format(tonumber(C.X509_subject_name_hash(certificate)))
        hashes[#hashes + 1] = not seen[hash] and hash or nil
        seen[hash] = true
    end)
    return hashes
end

---------
-- A certificate of one's own.

local SECONDS_A_DAY = 86400
local SUBJECT_ALT_NAME = 85 -- NID of obj_mac.h
local days, seconds = ffi.new("int[1]"), ffi.new("int[1]")

--- Asked for a pass phrase, libcrypto would wait at the terminal: an empty one is a wrong one.
local NO_PASS_PHRASE = ffi.cast("char *", "")

--- The first certificate of a text in PEM: the server's own.
---@param text string
---@return ffi.cdata*|nil
function _M.certificate(text)
    local read = C.PEM_read_bio_X509(reader(text), nil, nil, nil)
    C.ERR_clear_error()
    return read ~= nil and ffi.gc(read, C.X509_free) or nil
end

--- Whether a text in PEM is the private key of a certificate; nil where it is no private key that
--- can be read without a pass phrase.
---@param certificate ffi.cdata* from `certificate`
---@param text string
---@return boolean|nil
function _M.is_key_of(certificate, text)
    local key = C.PEM_read_bio_PrivateKey(reader(text), nil, nil,
        ffi.cast("void *", NO_PASS_PHRASE))
    local is_its = key ~= nil and C.X509_check_private_key(certificate, key) == SUCCESS
    if key ~= nil then
        C.EVP_PKEY_free(key)
    end
    C.ERR_clear_error()
    if key == nil then
        return nil
    end
    return is_its
end

local function seconds_until(time)
    if C.ASN1_TIME_diff(days, seconds, nil, time) ~= SUCCESS then
        return nil
    end
    return days[0] * SECONDS_A_DAY + seconds[0]
end

--- How long until a certificate begins to hold, and until it ends, in seconds; below zero where
--- that has been.
---@param certificate ffi.cdata* from `certificate`
---@return integer|nil begins, integer|nil ends
function _M.times(certificate)
    return seconds_until(C.X509_get0_notBefore(certificate)),
        seconds_until(C.X509_get0_notAfter(certificate))
end

--- Whether a certificate names a host at all: a common name alone counts for no client (RFC 9525).
---@param certificate ffi.cdata* from `certificate`
---@return boolean
function _M.has_names(certificate)
    return C.X509_get_ext_by_NID(certificate, SUBJECT_ALT_NAME, -1) >= 0
end

--- Whether a certificate is for a host.
---@param certificate ffi.cdata* from `certificate`
---@param host string a name, or an address without brackets
---@return boolean
function _M.is_for(certificate, host)
    local is_its = C.X509_check_host(certificate, host, #host, 0, nil) == SUCCESS
        or C.X509_check_ip_asc(certificate, host, 0) == SUCCESS
    C.ERR_clear_error()
    return is_its
end

return _M
