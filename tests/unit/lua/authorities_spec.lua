---------
-- Certificates that one LLM server's entry trusts: a folder each, alike in all workers, and nobody
-- else's later. That nginx trusts them, and no others, tests/stack/test_servers_choice.py asks.

local certificates = require("certificates")
local fake_ngx = require("fake_ngx")

local fake, dict, authorities, root

local function run(command)
    assert.equal(0, os.execute(command))
end

before_each(function()
    fake = fake_ngx.install()
    dict = fake.shared.portero_authorities
    root = os.tmpname()
    run(("rm %s && cd / && mkdir -p %s/server_ca/1 %s/server_ca/2 %s/server_ca/16")
        :format(root, root, root, root))
    fake.prefix = root .. "/"
    authorities = fake.load("portero.server.authorities")
end)

after_each(function()
    run("rm -r " .. root)
end)

local function files(folder)
    local pipe = assert(io.popen("ls -A " .. root .. "/server_ca/" .. folder))
    local text = pipe:read("*a")
    pipe:close()
    return text
end

describe("folder", function()
    it("has the certificates by the name that OpenSSL looks for, and nothing else", function()
        assert.equal(1, authorities.folder(certificates.good))
        assert.matches("^%x%x%x%x%x%x%x%x%.0\n$", files(1))
        local file = assert(io.open(root .. "/server_ca/1/" .. files(1):sub(1, -2)))
        assert.equal(certificates.good, file:read("*a"))
        file:close()
    end)

    it("is the same for the same certificates, in every worker, and another for others", function()
        assert.equal(1, authorities.folder(certificates.good))
        assert.equal(1, authorities.folder(certificates.good))
        local other = fake.new_worker()("portero.server.authorities")
        assert.equal(2, other.folder(certificates.expired))
        assert.equal(1, other.folder(certificates.good))
        assert.equal(2, authorities.folder(certificates.expired))
    end)

    it("is another's where another worker was quicker", function()
        dict.meanwhile.safe_add = function()
            dict:safe_add(1, "other certificates")
        end
        assert.equal(2, authorities.folder(certificates.good))
    end)

    it("is none where all are taken, and where it cannot be written", function()
        for number = 1, 15 do
            dict:safe_add(number, "other certificates")
        end
        assert.equal(16, authorities.folder(certificates.good))
        assert.same({ nil, "no folder is left for other certificates; restart the gateway" },
            { authorities.folder(certificates.expired) })
        dict:delete(3)
        local folder, err = authorities.folder(certificates.expired)
        assert.is_nil(folder)
        assert.matches("No such file", err)
    end)
end)
