---------
-- Pages of other sites: threats I5.

local cjson = require("cjson.safe")
local config = require("portero.config")
local fake_ngx = require("fake_ngx")

local fake, origins

before_each(function()
    fake = fake_ngx.install()
    origins = fake.load("portero.request.origins")
end)

describe("from_another_site", function()
    -- What a browser says of the page that asked (I5); the issuer is asked the same.
    local function cases()
        local file = assert(io.open("tests/unit/senders.json", "rb"))
        local text = file:read("*a")
        file:close()
        return cjson.decode(text)
    end

    local ENV = {
        SYNC_KEY = ("k"):rep(32), LLM_UPSTREAM = "http://127.0.0.1:1",
        ISSUER_URL = "http://127.0.0.1:2",
    }

    --- What the setting comes to, by the reader of the settings.
    local function public_origin(url)
        local function env(name) return name == "PUBLIC_URL" and url ~= "" and url or ENV[name] end
        return assert(config.read(env, "openresty/conf")).public_origin
    end

    for _, case in ipairs(cases()) do
        it(("is %s for %s"):format(tostring(case.is_another_site), case.name), function()
            origins.start({ public_origin = public_origin(case.public_url) })
            local headers = { host = case.host ~= cjson.null and case.host or nil }
            for name, value in pairs(case.headers) do
                headers[name] = value
            end
            fake.request({ headers = headers })
            fake.ngx.var.scheme = "http"
            fake.ngx.var.client_scheme = case.over_tls and "https" or nil
            assert.equal(case.is_another_site, origins.from_another_site())
        end)
    end
end)
