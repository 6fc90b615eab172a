---------
-- What nginx is told of the settings. tests/unit/test_nginx_files.py asks nginx itself.

local certificates = require("certificates")
local config = require("portero.config")
local settings_conf = require("portero.settings_conf")

--- Of what waits for the gateway.
local BOUNDS = " backlog=4096 rcvbuf=256k"

local function text_of(changes, folder, version)
    local env = {
        SYNC_KEY = ("x"):rep(40),
        LLM_UPSTREAM = "http://127.0.0.1:8000",
        ISSUER_URL = "http://127.0.0.1:9000",
    }
    for name, value in pairs(changes) do
        env[name] = value
    end
    local settings, faults = config.read(function(name) return env[name] end)
    assert.same({}, faults)
    return settings_conf.text(settings, folder or "/run/portero/", version or 1022001)
end

local function assert_says(text, words)
    assert.is_truthy(text:find(words, 1, true), words)
end

describe("text", function()
    -- Setting, value, what nginx reads of it.
    local CASES = {
        { "LLM_UPSTREAM", "http://10.0.0.5,http://10.0.0.6:81",
            "server 10.0.0.5:80; server 10.0.0.6:81;" },
        { "LLM_UPSTREAM", "https://10.0.0.5", "server 10.0.0.5:443;" },
        { "LLM_UPSTREAM", "https://LLM:1", "proxy_set_header Host LLM:1;" },
        { "LLM_UPSTREAM", "https://[::1]:8443/x", "proxy_ssl_name ::1;" },
        { "LLM_UPSTREAM", "http://10.0.0.5,http://b", '.pick("llm") }' },
        { "LLM_UPSTREAM", "http://[::1]", '.pick("llm") }' },
        { "LLM_API_KEY", 'a"b\\c$d@kept@%1', '{ default "Bearer a\\"b\\\\c$d@kept@%1"; }' },
        { "LLM_TIMEOUT_SECONDS", "7", "proxy_read_timeout 7s;" },
        { "LLM_IDLE_SECONDS", "7", "keepalive_timeout 5600ms;" },
        { "ACTIVE_TOKEN_MEMORY", "9m", "lua_shared_dict portero_active_tokens 9m;" },
        { "GATEWAY_LISTEN", "[::]:80", "listen [::]:80 backlog=4096 rcvbuf=256k;" },
        { "INTERNAL_LISTEN", "gateway:81", "listen gateway:81;" },
        { "TRUSTED_PROXIES", "::1,::1, 10.0.0.0/8",
            "{ ::1 1; 10.0.0.0/8 1; }" },
        { "CONNECTIONS_PER_ADDRESS", "40", "limit_conn addresses 40;" },
        { "CORS_ORIGINS", "app://x,https://a,app://x",
            '{ default ""; "app://x" "app://x"; "https://a" "https://a"; }' },
    }
    for _, case in ipairs(CASES) do
        it(("has %s, %s"):format(case[1], case[2]), function()
            assert_says(text_of({ [case[1]] = case[2] }), case[3])
        end)
    end

    it("counts use unless USAGE is off, and then has nothing of it", function()
        local on, off = text_of({}), text_of({ USAGE = "off" })
        assert_says(on, "include counted.conf;")
        assert_says(on, "lua_shared_dict portero_usage ")
        assert_says(off, "include judged.conf;")
        assert.is_nil(off:find("usage", 1, true))
    end)

    it("has the gateway's own door in the runtime directory, whatever that is called", function()
        assert_says(text_of({}), 'listen "unix:/run/portero/inner.sock";')
        assert_says(text_of({}, [[/a "b\c/]]), [[listen "unix:/a \"b\\c/inner.sock";]])
    end)

    local function with_tls(changes, version, name)
        name = name or "TLS_CERTIFICATE"
        local certificate, key = os.tmpname(), os.tmpname()
        local function write(path, text)
            local file = assert(io.open(path, "wb"))
            file:write(text)
            file:close()
        end
        write(certificate, certificates.own)
        write(key, certificates.own_key)
        assert(os.execute("chmod 600 " .. key))
        changes[name], changes[name .. "_KEY"] = certificate, key
        local text = text_of(changes, nil, version)
        os.remove(certificate)
        os.remove(key)
        return text
    end

    it("speaks TLS and HTTP/2 where there is a certificate, in either nginx's words", function()
        local old = with_tls({ TLS_REDIRECT_LISTEN = "0.0.0.0:80" })
        assert_says(old, "listen 127.0.0.1:8080 ssl http2" .. BOUNDS .. ";\n    include tls.conf;")
        assert_says(old, "listen 0.0.0.0:80;\n    include redirect.conf;")
        assert.is_nil(old:find("@", 1, true))
        local new = with_tls({}, 1025001)
        assert_says(new, "listen 127.0.0.1:8080 ssl" .. BOUNDS .. ";\n    http2 on;\n    include")
        assert.is_nil(new:find("redirect", 1, true))
        assert.is_nil(text_of({}):find("tls.conf", 1, true))
    end)

    it("speaks TLS at the internal listener where that has a certificate", function()
        local text = with_tls({}, nil, "INTERNAL_TLS_CERTIFICATE")
        assert_says(text, "listen 127.0.0.1:8081 ssl;\n    include internal_tls.conf;")
        assert.is_nil(text:find("include tls.conf", 1, true))
        assert_says(text_of({}), "listen 127.0.0.1:8081;\n    include internal.conf;")
    end)

    it("asks the issuer as its URL says", function()
        assert_says(text_of({ ISSUER_URL = "https://issuer.lan:9000" }),
            'map "" $issuer_scheme { default https; } '
            .. 'map "" $issuer_host { default issuer.lan; }')
        assert_says(text_of({}), 'map "" $issuer_scheme { default http; }')
    end)

    it("lets another gateway listen beside it where it is told so", function()
        local text = with_tls({ GATEWAY_SHARES_PORT = "on", TLS_REDIRECT_LISTEN = "0.0.0.0:80" })
        assert_says(text, "listen 127.0.0.1:8080 ssl http2" .. BOUNDS .. " reuseport;")
        assert_says(text, "listen 0.0.0.0:80 reuseport;")
        assert_says(text, "listen 127.0.0.1:8081;")
        assert.is_nil(text_of({}):find("reuseport", 1, true))
    end)

    it("has no public listener while it is shut, and is told as ever", function()
        local file = os.tmpname()
        local shut = with_tls({ GATEWAY_SHUT_FILE = file, TLS_REDIRECT_LISTEN = "0.0.0.0:80" })
        os.remove(file)
        assert.is_nil(shut:find("8080", 1, true))
        assert.is_nil(shut:find("0.0.0.0:80", 1, true))
        assert.is_nil(shut:find("@", 1, true))
        assert_says(shut, "listen 127.0.0.1:8081;")
        assert_says(text_of({ GATEWAY_SHUT_FILE = file }), "listen 127.0.0.1:8080 ")
    end)

    it("leaves nothing to be filled in", function()
        assert.is_nil(text_of({}):find("@", 1, true))
    end)
end)
