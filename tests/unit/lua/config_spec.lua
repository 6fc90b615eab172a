---------
-- The gateway's settings: docs/configuration.md, threats K1.

local lfs = require("lfs")

local certificates = require("certificates")
local config = require("portero.config")

local SYNC_KEY = "SYNC-KEY-OF-A-SPEC-0123456789abcd"

local directory, files

before_each(function()
    directory, files = os.tmpname(), {}
    os.remove(directory)
    assert(lfs.mkdir(directory))
end)

after_each(function()
    for path in pairs(files) do
        os.remove(path)
    end
    lfs.rmdir(directory)
end)

local function write(name, text)
    local path = directory .. "/" .. name
    files[path] = true
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
    assert(os.execute("chmod 600 " .. path))
    return path
end

local function good_env(changes)
    local values = {
        SYNC_KEY = SYNC_KEY,
        LLM_UPSTREAM = "http://127.0.0.1:8000",
        ISSUER_URL = "http://127.0.0.1:9000",
    }
    for name, value in pairs(changes or {}) do
        values[name] = value or nil
    end
    return function(name) return values[name] end
end

local function read(changes)
    return config.read(good_env(changes))
end

--- The faults of one wrong setting, which must be the only one.
local function fault_of(changes)
    local settings, faults = read(changes)
    assert.is_nil(settings)
    assert.equal(1, #faults, table.concat(faults, "\n"))
    return faults[1]
end

describe("read", function()
    it("answers all settings, with a default for each that needs none from outside", function()
        local settings, faults = read()
        assert.same({}, faults)
        assert.equal(SYNC_KEY, settings.sync_key)
        assert.equal(0, settings.max_staleness_seconds)
        assert.is_true(settings.has_usage)
        assert.equal("127.0.0.1", settings.issuer[1].host)
        assert.is_nil(settings.public_origin)
        assert.is_nil(settings.internal_host)
    end)

    -- Setting, value, field, what it becomes.
    local VALUES = {
        { "SYNC_MAX_STALENESS_SECONDS", "30", "max_staleness_seconds", 30 },
        { "USAGE", "off", "has_usage", false },
        { "USAGE", "on", "has_usage", true },
        { "SYNC_MAX_STALENESS_SECONDS", "86400", "max_staleness_seconds", 86400 },
        { "CONNECTIONS_PER_ADDRESS", "1", "connections_per_address", 1 },
        { "CONNECTIONS_PER_ADDRESS", "65535", "connections_per_address", 65535 },
        { "INTERNAL_LISTEN", "gateway:8081", "internal_host", "gateway" },
        { "INTERNAL_LISTEN", "127.0.0.1:8081", "internal_host", nil },
        { "SYNC_KEY", ("x"):rep(32), "sync_key", ("x"):rep(32) },
        { "SYNC_KEY", "\0\255" .. ("x"):rep(32), "sync_key", "\0\255" .. ("x"):rep(32) },
    }
    for index, case in ipairs(VALUES) do
        it(("takes %s from the environment (%d)"):format(case[1], index), function()
            assert.equal(case[4], read({ [case[1]] = case[2] })[case[3]])
        end)
    end

    it("reads SYNC_KEY from the file that SYNC_KEY_FILE names", function()
        local path = write("key", ("k"):rep(40))
        local settings = read({ SYNC_KEY = false, SYNC_KEY_FILE = path })
        assert.equal(("k"):rep(40), settings.sync_key)
    end)

    -- The issuer alone takes these; no key that could mint comes here.
    local OF_ISSUER = {
        "SECRET_KEY", "SECRET_KEY_FILE", "JWT_ALGORITHM", "ROLES_FILE", "POLICY_FILE", "LLM_KIND",
        "WEB_UI", "TOKEN_TTL_SECONDS", "TOKEN_CACHE_SIZE",
    }
    it("asks for nothing that is the issuer's, and minds none of it", function()
        local asked, changes = {}, {}
        for _, name in ipairs(OF_ISSUER) do
            changes[name] = "SEEN"
        end
        local env = good_env(changes)
        local settings, faults = config.read(function(name)
            asked[name] = true
            return env(name)
        end)
        assert.same({}, faults)
        assert.same(read(), settings)
        for _, name in ipairs(OF_ISSUER) do
            assert.is_nil(asked[name], name)
        end
    end)
end)

describe("a server of LLM_UPSTREAM", function()
    -- What is written, and its scheme, host, port, path.
    local URLS = {
        ["http://127.0.0.1:8000"] = { "http", "127.0.0.1", 8000, "" },
        ["http://llm"] = { "http", "llm", 80, "" },
        ["http://llm8000"] = { "http", "llm8000", 80, "" },
        ["https://llm.example"] = { "https", "llm.example", 443, "" },
        ["http://my_llm-1:65535/"] = { "http", "my_llm-1", 65535, "" },
        ["https://h:8443/a/b~c/"] = { "https", "h", 8443, "/a/b~c" },
        ["http://[::1]:8000/v"] = { "http", "::1", 8000, "/v" },
        ["https://[fe80::1]"] = { "https", "fe80::1", 443, "" },
        ["http://[::ffff:10.0.0.1]:1"] = { "http", "::ffff:10.0.0.1", 1, "" },
        ["http://l:1"] = { "http", "l", 1, "" },
        ["http://10.0.0.1/"] = { "http", "10.0.0.1", 80, "" },
        ["http://llm/.a/..b/c."] = { "http", "llm", 80, "/.a/..b/c." },
    }
    for text, parts in pairs(URLS) do
        it("may be " .. text, function()
            local url = read({ LLM_UPSTREAM = text }).llm[1]
            assert.same({
                scheme = parts[1], authority = text:match("//([^/]+)"), host = parts[2],
                port = parts[3], path = parts[4],
            }, url)
        end)
    end

    it("may be one of a list, with commas or spaces between", function()
        for _, text in ipairs({ "http://a:1,http://b:2", " http://a:1 ,, http://b:2, " }) do
            local llm = read({ LLM_UPSTREAM = text }).llm
            assert.equal(2, #llm)
            assert.equal("b", llm[2].host)
        end
    end)

    for _, text in ipairs({
        "127.0.0.1:8000", "llm", "ftp://llm", "HTTP://llm", "http://", "http://:80", "http:/llm",
        "http://llm:65536", "http://llm:99999999", "http://u@llm", "http://llm/?x", "http://llm/#x",
        "http://llm:8000/%2e", "http://[::1", "http://::1", "http://[x]",
        "unix:/run/llm", "http://ll\\m", "http://llm;x", "http://llm/a\"b", "http://llm/$x",
        "http://llm:8000x", "http://llm~x", "http://llm:8000v1/", "http://llm:x", "http://llm:0",
        "http://llm:", "http://llm:1:2", "http://llm-", "http://[::1]:", "http://[::1]:0",
        "http://[::1]:65536", "http://[::1]x", "http://[]:1", "http://[::1]]:1",
        "http://-llm", "http://.llm", "http://llm.", "http://_", "http://[1]", "http://[:]",
        "http://[[::1]", "http://llm//", "http://llm/a//b", "http://llm/./a", "http://llm/a/../b",
        "http://llm/../", "http://u:p@llm:1", "http:///llm", "http://llm/a:b", "http://llm:+1",
        "http://llm:8e1", "http://llm/%41", "http://http://llm",
    }) do
        it("may not be " .. text, function()
            for _, name in ipairs({ "LLM_UPSTREAM", "ISSUER_URL" }) do
                assert.equal(name .. ": number 1 is not http://HOST:PORT",
                    fault_of({ [name] = text }))
            end
        end)
    end

    it("is named by its place in the list where it is wrong, as are all others", function()
        local settings, faults = read({ LLM_UPSTREAM = "http://a, nothing, http://b ,llm:1" })
        assert.is_nil(settings)
        assert.same({
            "LLM_UPSTREAM: number 2 is not http://HOST:PORT",
            "LLM_UPSTREAM: number 4 is not http://HOST:PORT",
        }, faults)
    end)

    -- Path, what of it is to be left out.
    for path, route in pairs({
        ["/v1"] = "/v1", ["/v1/"] = "/v1", ["/v1/chat/completions"] = "/v1/chat/completions",
        ["/ollama/v1"] = "/v1", ["/openai/v1/models/"] = "/v1/models", ["/api"] = "/api",
        ["/api/chat"] = "/api/chat", ["/x/api/generate"] = "/api/generate",
        ["/models"] = "/models", ["/chat/completions"] = "/chat/completions",
        ["/v1/api"] = "/v1/api",
    }) do
        it("ends before its routes, which " .. path .. " does not", function()
            assert.equal(("LLM_UPSTREAM: number 1 ends in %s: leave out %s, a base URL is what"
                .. " comes before /v1 and /api"):format(route, route),
                fault_of({ LLM_UPSTREAM = "http://a" .. path }))
        end)
    end

    for _, path in ipairs({
        "/ollama", "/v10", "/v2", "/av1", "/api2", "/xapi", "/api/llm", "/my-models", "/chat",
    }) do
        it("may have the path " .. path, function()
            assert.equal(path, read({ LLM_UPSTREAM = "http://a" .. path }).llm[1].path)
        end)
    end

    it("must share scheme and path with all others", function()
        for _, text in ipairs({
            "http://a,https://b", "http://a/x,http://b/y", "http://a,http://b/x",
        }) do
            assert.equal("LLM_UPSTREAM: all servers must share one scheme and one path",
                fault_of({ LLM_UPSTREAM = text }))
        end
    end)

    it("may be missing, as the policy may name servers; what is set names one", function()
        assert.same({}, read({ LLM_UPSTREAM = false }).llm)
        assert.equal("LLM_UPSTREAM: names no server", fault_of({ LLM_UPSTREAM = " , " }))
    end)

    it("of the issuer must be there", function()
        assert.equal("ISSUER_URL: names no server", fault_of({ ISSUER_URL = false }))
    end)
end)

describe("PUBLIC_URL", function()
    it("is known by the origin that a browser makes of it", function()
        for url, origin in pairs({
            ["http://portero.example"] = "http://portero.example",
            ["https://Portero.Example/"] = "https://portero.example",
            ["https://portero.example:443"] = "https://portero.example",
            ["http://portero.example:443"] = "http://portero.example:443",
            ["http://10.0.0.1:08080"] = "http://10.0.0.1:8080",
            ["http://[::1]:3000"] = "http://[::1]:3000",
            ["https://[FD00::1]:443"] = "https://[fd00::1]",
        }) do
            assert.equal(origin, read({ PUBLIC_URL = url }).public_origin)
        end
        assert.is_nil(read().public_origin)
    end)

    it("is a base URL and no more", function()
        for _, url in ipairs({
            "portero.example", "ftp://portero.example", "http://", "http://x/y", "http://x//",
            "http://x?y", "http://x#y", "http://u:p@x", "http://x:0", "http://x:65536", "http://x:",
            "http://x:y", "http://a b", "http://x,http://y", "http://*", "http://-x", "HTTP://x",
        }) do
            assert.equal(
                "PUBLIC_URL: must be http://HOST:PORT or https://HOST:PORT and no more",
                fault_of({ PUBLIC_URL = url }), url)
        end
    end)
end)

describe("a wrong setting", function()
    local SHORT = "must be at least 32 bytes, without a newline at its end"
    local STALENESS = "SYNC_MAX_STALENESS_SECONDS: must be a whole number from 0 to 86400"
    -- Settings, and the one fault they are.
    local CASES = {
        { "a missing SYNC_KEY", { SYNC_KEY = false }, "SYNC_KEY: " .. SHORT },
        { "a SYNC_KEY of 31 bytes", { SYNC_KEY = ("x"):rep(31) }, "SYNC_KEY: " .. SHORT },
        { "a newline at a secret's end", { SYNC_KEY = SYNC_KEY .. "\n" }, "SYNC_KEY: " .. SHORT },
        { "a CR at a secret's end", { SYNC_KEY = SYNC_KEY .. "\r" }, "SYNC_KEY: " .. SHORT },
        { "no connection at all", { CONNECTIONS_PER_ADDRESS = "0" },
            "CONNECTIONS_PER_ADDRESS: must be a whole number from 1 to 65535" },
        { "a staleness over a day", { SYNC_MAX_STALENESS_SECONDS = "86401" }, STALENESS },
        { "a negative staleness", { SYNC_MAX_STALENESS_SECONDS = "-1" }, STALENESS },
        { "a fraction of a staleness", { SYNC_MAX_STALENESS_SECONDS = "1.5" }, STALENESS },
        { "a staleness in words", { SYNC_MAX_STALENESS_SECONDS = "1m" }, STALENESS },
        { "a staleness in hexadecimal", { SYNC_MAX_STALENESS_SECONDS = "0x10" }, STALENESS },
        { "a staleness of 400 digits", { SYNC_MAX_STALENESS_SECONDS = ("9"):rep(400) }, STALENESS },
    }
    for _, case in ipairs(CASES) do
        it("is named: " .. case[1], function()
            assert.equal(case[3], fault_of(case[2]))
        end)
    end

    it("is named: a secret given twice", function()
        local path = write("key", SYNC_KEY)
        local fault = fault_of({ SYNC_KEY_FILE = path })
        assert.equal("SYNC_KEY: set SYNC_KEY or SYNC_KEY_FILE, not both", fault)
    end)

    it("is named: a secret's file that cannot be read", function()
        local _, faults = read({ SYNC_KEY = false, SYNC_KEY_FILE = directory .. "/none" })
        assert.matches("SYNC_KEY_FILE: .*/none: No such file", table.concat(faults, "\n"))
    end)

    it("is named: a newline at the end of a secret's file", function()
        local path = write("key", SYNC_KEY .. "\n")
        assert.equal("SYNC_KEY_FILE: " .. SHORT,
            fault_of({ SYNC_KEY = false, SYNC_KEY_FILE = path }))
    end)

    it("stops the start together with all others, and none of them shows a secret", function()
        local settings, faults = config.read(good_env({
            SYNC_KEY = "SEEN" .. ("x"):rep(40) .. "\n",
            SYNC_MAX_STALENESS_SECONDS = "x",
            LLM_UPSTREAM = "llm",
            ISSUER_URL = false,
            PUBLIC_URL = "x",
            LLM_CA_FILE = directory .. "/none",
        }))
        assert.is_nil(settings)
        local all = table.concat(faults, "\n")
        for _, name in ipairs({
            "SYNC_KEY", "SYNC_MAX_STALENESS_SECONDS", "LLM_UPSTREAM", "ISSUER_URL", "PUBLIC_URL",
            "LLM_CA_FILE",
        }) do
            assert.matches(name .. ": ", all, 1, true)
        end
        assert.is_nil(all:find("SEEN", 1, true))
    end)

    for _, case in ipairs(CASES) do
        it("never shows a secret: " .. case[1], function()
            local text = fault_of(case[2])
            assert.is_nil(text:find("SPEC", 1, true))
            assert.is_nil(text:find("xxxx", 1, true))
        end)
    end

    it("never shows the password of a server's URL", function()
        for _, name in ipairs({ "LLM_UPSTREAM", "ISSUER_URL" }) do
            local fault = fault_of({ [name] = "http://good,http://user:SEEN@llm:8000" })
            assert.equal(name .. ": number 2 is not http://HOST:PORT", fault)
        end
    end)

    it("never shows the value of a setting, which may be a secret in the wrong place", function()
        for _, name in ipairs({
            "SYNC_MAX_STALENESS_SECONDS", "LLM_UPSTREAM", "ISSUER_URL", "PUBLIC_URL", "SYNC_KEY",
        }) do
            local settings, faults = read({ [name] = "SEEN" })
            assert.is_nil(settings)
            assert.is_nil(table.concat(faults, "\n"):find("SEEN", 1, true), name)
        end
    end)
end)

describe("LLM_CA_FILE", function()
    local HTTPS = "https://llm"
    local GOOD, EXPIRED = certificates.good, certificates.expired
    local DAMAGED = GOOD:gsub("\n[^\n]+\n", "\n", 1)

    local function fault_of_text(text)
        local path = write("ca.pem", text)
        return fault_of({ LLM_UPSTREAM = HTTPS, LLM_CA_FILE = path }):sub(#path + 16)
    end

    it("may hold several certificates, old ones too where one is in force", function()
        for _, text in ipairs({ GOOD, GOOD .. EXPIRED, EXPIRED .. GOOD, "# mine\n" .. GOOD }) do
            local path = write("ca.pem", text)
            assert.is_table((read({ LLM_UPSTREAM = HTTPS, LLM_CA_FILE = path })))
        end
    end)

    -- Text, fault.
    for text, fault in pairs({
        [""] = "holds no certificate in PEM",
        ["no PEM"] = "holds no certificate in PEM",
        [DAMAGED] = "its certificate number 1 cannot be read",
        [GOOD .. DAMAGED] = "its certificate number 2 cannot be read",
        [EXPIRED] = "its certificate has expired",
        [EXPIRED .. EXPIRED] = "all its certificates have expired",
    }) do
        it(("may not be %q"):format(text:sub(1, 10) .. #text), function()
            assert.equal(fault, fault_of_text(text))
        end)
    end

    it("must be a file that is there", function()
        local path = directory .. "/none"
        assert.equal("LLM_CA_FILE: " .. path .. ": No such file or directory",
            fault_of({ LLM_UPSTREAM = HTTPS, LLM_CA_FILE = path }))
        assert.equal("LLM_CA_FILE: " .. directory .. ": Is a directory",
            fault_of({ LLM_UPSTREAM = HTTPS, LLM_CA_FILE = directory }))
    end)

    it("is of no use for http://, and says so", function()
        local path = write("ca.pem", GOOD)
        assert.equal("LLM_CA_FILE: is for https://, and LLM_UPSTREAM is http://",
            fault_of({ LLM_CA_FILE = path }))
    end)
end)

describe("TLS", function()
    local function tls(changes)
        local all = {
            TLS_CERTIFICATE = write("cert.pem", certificates.own),
            TLS_CERTIFICATE_KEY = write("key.pem", certificates.own_key),
        }
        for name, value in pairs(changes) do
            all[name] = value
        end
        return all
    end

    it("takes a certificate and its key", function()
        local settings = assert(read(tls({ TLS_REDIRECT_LISTEN = "0.0.0.0:80" })))
        assert.equal(certificates.own, settings.tls.chain)
        assert.equal("0.0.0.0:80", settings.tls_redirect_listen)
        assert.is_nil(assert(read()).tls)
    end)

    -- What is set, the fault that names it.
    local CASES = {
        { { TLS_CERTIFICATE_KEY = false }, "^TLS_CERTIFICATE_KEY: is not set" },
        { { TLS_CERTIFICATE = "/nowhere/x.pem" }, "^TLS_CERTIFICATE: cannot read /nowhere/x.pem" },
        { { PUBLIC_URL = "http://door.lan" }, "^PUBLIC_URL: is http://" },
        { { TLS_REDIRECT_LISTEN = "127.0.0.1:8080" }, "^TLS_REDIRECT_LISTEN: is GATEWAY_LISTEN" },
        { { TLS_REDIRECT_LISTEN = "80" }, "^TLS_REDIRECT_LISTEN: must be ADDRESS:PORT" },
        { { ACME_WEBROOT = "/" }, "^ACME_WEBROOT: is served by TLS_REDIRECT_LISTEN" },
        { { ACME_WEBROOT = "/nowhere", TLS_REDIRECT_LISTEN = "127.0.0.1:80" },
            "^ACME_WEBROOT: /nowhere is no folder" },
        { { TLS_CLIENT_CA = "/nowhere/x" }, "^TLS_CLIENT_CA: /nowhere/x" },
    }
    for _, case in ipairs(CASES) do
        it("stops the start: " .. case[2], function()
            assert.matches(case[2], fault_of(tls(case[1])))
        end)
    end

    it("tells of a key that others may read, of another's, and of what has expired", function()
        local key = write("open.pem", certificates.own_key)
        assert(os.execute("chmod 644 " .. key))
        assert.matches("^TLS_CERTIFICATE_KEY_FILE: .* can be read by others",
            fault_of(tls({ TLS_CERTIFICATE_KEY = key })))
        assert.matches("another certificate's key",
            fault_of(tls({ TLS_CERTIFICATE_KEY = write("other.pem", certificates.ended_key) })))
        local _, faults = read(tls({ TLS_CERTIFICATE = write("old.pem", certificates.ended) }))
        assert.equal(2, #faults)
        assert.matches("^TLS_CERTIFICATE: .* has expired", faults[1])
    end)

    it("has another certificate for the internal listener, under the same conditions", function()
        local internal = {
            INTERNAL_TLS_CERTIFICATE = write("internal.pem", certificates.own),
            INTERNAL_TLS_CERTIFICATE_KEY = write("internal-key.pem", certificates.own_key),
        }
        local settings = assert(read(internal))
        assert.equal(certificates.own, settings.internal_tls.chain)
        assert.is_nil(settings.tls)
        local alone = config.own_certificate(function(name) return internal[name] end, {},
            "INTERNAL_TLS_CERTIFICATE")
        assert.equal(certificates.own_key, alone.key)
        internal.INTERNAL_TLS_CERTIFICATE_KEY = write("other.pem", certificates.ended_key)
        assert.matches("^INTERNAL_TLS_CERTIFICATE_KEY: .* another certificate's key",
            fault_of(internal))
        internal.INTERNAL_TLS_CERTIFICATE = nil
        assert.matches("^INTERNAL_TLS_CERTIFICATE_KEY: is of no use without INTERNAL_TLS_CERT",
            fault_of(internal))
    end)

    it("asks the issuer by https where its name can be looked for, by whom it trusts", function()
        local path = write("ca.pem", certificates.good)
        local settings = assert(read({
            ISSUER_URL = "https://issuer.lan:9000", ISSUER_CA_FILE = path,
        }))
        assert.equal(path, settings.issuer_ca_file)
        assert.matches("^ISSUER_CA_FILE: is for https://", fault_of({ ISSUER_CA_FILE = path }))
        assert.matches("^ISSUER_CA_FILE: .* holds no certificate", fault_of({
            ISSUER_URL = "https://issuer.lan:9000", ISSUER_CA_FILE = write("no.pem", "x"),
        }))
        for _, address in ipairs({ "10.0.0.5", "[fd00::5]" }) do
            assert.matches("^ISSUER_URL: is an address", fault_of({
                ISSUER_URL = "https://" .. address .. ":9000",
            }))
        end
    end)

    it("is of no use in part", function()
        for _, name in ipairs({ "TLS_CERTIFICATE_KEY", "TLS_REDIRECT_LISTEN" }) do
            assert.matches("^" .. name .. ": is of no use without TLS_CERTIFICATE",
                fault_of({ [name] = "127.0.0.1:80" }))
        end
    end)
end)
