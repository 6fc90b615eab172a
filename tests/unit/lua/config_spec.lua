---------
-- The gateway's settings: docs/configuration.md, threats K1.

local lfs = require("lfs")

local certificates = require("certificates")
local config = require("portero.config")
local model_name = require("portero.policy.model_name")
local shipped = require("shipped")

local CONF = "openresty/conf"
local SYNC_KEY = "SYNC-KEY-OF-A-SPEC-0123456789abcd"

local directory, files

before_each(function()
    directory, files = os.tmpname(), {}
    os.remove(directory)
    assert(lfs.mkdir(directory))
    assert(lfs.mkdir(directory .. "/routes"))
end)

after_each(function()
    for path in pairs(files) do
        os.remove(path)
    end
    lfs.rmdir(directory .. "/routes")
    lfs.rmdir(directory)
end)

local function write(name, text)
    local path = directory .. "/" .. name
    files[path] = true
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
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

local function read(changes, conf)
    return config.read(good_env(changes), conf or CONF)
end

--- The faults of one wrong setting, which must be the only one.
local function fault_of(changes, conf)
    local settings, faults = read(changes, conf)
    assert.is_nil(settings)
    assert.equal(1, #faults, table.concat(faults, "\n"))
    return faults[1]
end

--- The repository's roles and packs, one of them changed, in a directory of their own.
local function conf_with(name, text)
    for _, one in ipairs({
        "roles.json", "routes/portero.json", "routes/ollama.json", "routes/vllm.json",
        "routes/llama-server.json", "routes/localai.json",
    }) do
        write(one, one == name and text or shipped.text(one))
    end
    return directory
end

describe("read", function()
    it("answers all settings, with a default for each that needs none from outside", function()
        local settings, faults = read()
        assert.same({}, faults)
        assert.equal(SYNC_KEY, settings.sync_key)
        assert.equal("portero", settings.web_ui)
        assert.equal(0, settings.max_staleness_seconds)
        assert.equal(900, settings.roles.user.ttl_seconds)
        assert.is_table(settings.policy.POST.exact["/v1/chat/completions"])
    end)

    -- Setting, value, field, what it becomes.
    local VALUES = {
        { "WEB_UI", "upstream", "web_ui", "upstream" },
        { "SYNC_MAX_STALENESS_SECONDS", "30", "max_staleness_seconds", 30 },
        { "SYNC_KEY", ("x"):rep(32), "sync_key", ("x"):rep(32) },
        { "SYNC_KEY", "\0\255" .. ("x"):rep(32), "sync_key", "\0\255" .. ("x"):rep(32) },
    }
    for index, case in ipairs(VALUES) do
        it(("takes %s from the environment (%d)"):format(case[1], index), function()
            assert.equal(case[4], read({ [case[1]] = case[2] })[case[3]])
        end)
    end

    it("lets WEB_UI decide who answers the page", function()
        assert.equal("issuer", read().policy.GET.exact["/"].answered_by)
        assert.equal("llm", read({ WEB_UI = "upstream" }).policy.GET.exact["/"].answered_by)
    end)

    it("reads SYNC_KEY from the file that SYNC_KEY_FILE names", function()
        local path = write("key", ("k"):rep(40))
        local settings = read({ SYNC_KEY = false, SYNC_KEY_FILE = path })
        assert.equal(("k"):rep(40), settings.sync_key)
    end)

    it("asks for no key that tokens are signed with, and keeps none that it is given", function()
        local asked = {}
        local env = good_env({ SECRET_KEY = "x", SECRET_KEY_FILE = "/none", JWT_ALGORITHM = "x" })
        local settings, faults = config.read(function(name)
            asked[name] = true
            return env(name)
        end, CONF)
        assert.same({}, faults)
        assert.is_nil(settings.secret_key)
        for _, name in ipairs({ "SECRET_KEY", "SECRET_KEY_FILE", "JWT_ALGORITHM" }) do
            assert.is_nil(asked[name], name)
        end
    end)

    it("bounds every role's TTL by TOKEN_TTL_SECONDS and raises none", function()
        local roles = read({ TOKEN_TTL_SECONDS = "100" }).roles
        assert.equal(60, roles.agent_fast.ttl_seconds)
        assert.equal(100, roles.agent_reasoning.ttl_seconds)
        assert.equal(100, roles.admin.ttl_seconds)
        assert.equal(3600, read({ TOKEN_TTL_SECONDS = "86400" }).roles.admin.ttl_seconds)
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
                scheme = parts[1], host = parts[2], port = parts[3], path = parts[4],
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

    it("must be there, as must the issuer", function()
        assert.equal("LLM_UPSTREAM: names no server", fault_of({ LLM_UPSTREAM = false }))
        assert.equal("LLM_UPSTREAM: names no server", fault_of({ LLM_UPSTREAM = " , " }))
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
    local TTL = "must be a whole number from 1 to 86400"
    -- Settings, and the one fault they are.
    local CASES = {
        { "a missing SYNC_KEY", { SYNC_KEY = false }, "SYNC_KEY: " .. SHORT },
        { "a SYNC_KEY of 31 bytes", { SYNC_KEY = ("x"):rep(31) }, "SYNC_KEY: " .. SHORT },
        { "a newline at a secret's end", { SYNC_KEY = SYNC_KEY .. "\n" }, "SYNC_KEY: " .. SHORT },
        { "a CR at a secret's end", { SYNC_KEY = SYNC_KEY .. "\r" }, "SYNC_KEY: " .. SHORT },
        { "another web UI", { WEB_UI = "none" }, "WEB_UI: must be one of portero, upstream" },
        { "a TTL of nothing", { TOKEN_TTL_SECONDS = "0" }, "TOKEN_TTL_SECONDS: " .. TTL },
        { "a TTL over a day", { TOKEN_TTL_SECONDS = "86401" }, "TOKEN_TTL_SECONDS: " .. TTL },
        { "a negative TTL", { TOKEN_TTL_SECONDS = "-1" }, "TOKEN_TTL_SECONDS: " .. TTL },
        { "a fraction of a TTL", { TOKEN_TTL_SECONDS = "1.5" }, "TOKEN_TTL_SECONDS: " .. TTL },
        { "a TTL in words", { TOKEN_TTL_SECONDS = "1m" }, "TOKEN_TTL_SECONDS: " .. TTL },
        { "a TTL in hexadecimal", { TOKEN_TTL_SECONDS = "0x10" }, "TOKEN_TTL_SECONDS: " .. TTL },
        { "a TTL of 400 digits", { TOKEN_TTL_SECONDS = ("9"):rep(400) },
            "TOKEN_TTL_SECONDS: " .. TTL },
        { "a negative staleness", { SYNC_MAX_STALENESS_SECONDS = "-1" },
            "SYNC_MAX_STALENESS_SECONDS: must be a whole number from 0 to 86400" },
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
        assert.equal("SYNC_KEY: " .. SHORT, fault_of({ SYNC_KEY = false, SYNC_KEY_FILE = path }))
    end)

    it("stops the start together with all others, and none of them shows a secret", function()
        local settings, faults = config.read(good_env({
            SYNC_KEY = "SEEN" .. ("x"):rep(40) .. "\n",
            WEB_UI = "x",
            TOKEN_TTL_SECONDS = "x",
            SYNC_MAX_STALENESS_SECONDS = "x",
            LLM_UPSTREAM = "llm",
            ISSUER_URL = false,
        }), directory)
        assert.is_nil(settings)
        local all = table.concat(faults, "\n")
        for _, name in ipairs({
            "SYNC_KEY", "WEB_UI", "TOKEN_TTL_SECONDS", "SYNC_MAX_STALENESS_SECONDS",
            "LLM_UPSTREAM", "ISSUER_URL", "ROLES_FILE", "routes/portero.json",
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
            "WEB_UI", "TOKEN_TTL_SECONDS", "SYNC_MAX_STALENESS_SECONDS", "LLM_UPSTREAM",
            "ISSUER_URL", "SYNC_KEY",
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

describe("roles.json and the packs", function()
    it("may be others than the repository's", function()
        local conf = conf_with("routes/ollama.json", '{"routes":{"models":["GET /v1/mine"]}}')
        assert.is_true(read({}, conf).policy.GET.exact["/v1/mine"].allowed.user)
    end)

    it("may be of one kind of LLM server alone", function()
        local all, one = read().policy, read({ LLM_KIND = "vllm" }).policy
        assert.is_table(all.POST.exact["/api/chat"])
        assert.is_nil(one.POST.exact["/api/chat"])
        assert.is_table(one.POST.exact["/v1/chat/completions"])
        assert.is_table(one.GET.exact["/admin/"])
    end)

    it("name models as Ollama does, but for another kind of LLM server", function()
        local path = write("mine.json", (shipped.text("roles.json"):gsub('"%*"', '"a"')))
        local function allows(kind)
            local limits = read({ ROLES_FILE = path, LLM_KIND = kind }).limits
            return model_name.allows(limits.roles.user.models, "A:latest")
        end
        assert.is_true(allows(nil))
        assert.is_true(allows("ollama"))
        assert.is_false(allows("vllm"))
    end)

    it("may not be of a kind that nobody knows", function()
        assert.equal("LLM_KIND: must be one of ollama, vllm, llama-server, localai",
            fault_of({ LLM_KIND = "SEEN" }))
    end)

    it("are roles of another file where ROLES_FILE names one", function()
        local path = write("mine.json", (shipped.text("roles.json"):gsub("900", "901")))
        assert.equal(901, read({ ROLES_FILE = path }).roles.user.ttl_seconds)
    end)

    it("have the faults of both listed together", function()
        local conf = conf_with("routes/ollama.json", '{"routes":{"models":["GET"]}}')
        local path = write("mine.json", (shipped.text("roles.json"):gsub("900", "0")))
        local settings, faults = read({ ROLES_FILE = path }, conf)
        assert.is_nil(settings)
        assert.equal(2, #faults)
        assert.matches("^roles.json line %d+: roles.user.ttl_seconds must be", faults[1])
        assert.matches("^routes/ollama: routes.models%[1%] is not METHOD", faults[2])
    end)

    for _, text in ipairs({ "", "{", "[1", "1", '"x"', "null", '{"routes":"x"}', "{}" }) do
        it(("may not be %q"):format(text), function()
            local fault = fault_of({}, conf_with("routes/ollama.json", text))
            assert.is_truthy(fault:find("ollama.json: must hold an object 'routes'", 1, true)
                or fault:find("ollama.json: is not valid JSON", 1, true))
            local settings, faults = read({ ROLES_FILE = write("mine.json", text) })
            assert.is_nil(settings)
            assert.matches("^roles.json", faults[1])
        end)
    end

    it("say of an LLM server how long it lets connections idle, once and well", function()
        for text, fault in pairs({
            ['{"idle_seconds":5.0,"routes":{}}'] = "routes/vllm: idle_seconds must be a whole",
            ['{"idle":5,"routes":{}}'] = "routes/vllm: idle is not a known field",
            ['{"idle_seconds":5,\n"idle_seconds":6,"routes":{}}'] =
                "routes/vllm.json line 2: idle_seconds is there twice",
        }) do
            assert.equal(fault, fault_of({}, conf_with("routes/vllm.json", text)):sub(1, #fault))
        end
        assert.is_table((read({}, conf_with("routes/vllm.json",
            '{"idle_seconds":null,"routes":{}}'))))
    end)

    it("must be there", function()
        local settings, faults = read({}, directory)
        assert.is_nil(settings)
        local all = table.concat(faults, "\n")
        assert.matches("ROLES_FILE: .*/roles.json: No such file", all)
        assert.matches("/routes/vllm.json: .*No such file", all)
    end)
end)
