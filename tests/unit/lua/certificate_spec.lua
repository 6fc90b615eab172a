---------
-- What a certificate of the public listener must be.

local certificates = require("certificates")
local certificate = require("portero.tls.certificate")

describe("faults", function()
    it("finds none of a certificate that holds, with its key", function()
        assert.is_nil(certificate.faults(certificates.own, certificates.own_key))
        local chain = certificates.own .. certificates.good
        assert.same({}, { certificate.faults(chain, certificates.own_key) })
    end)

    -- Certificates, key, what is wrong with either.
    local CASES = {
        { "own", "future_key", nil, "another certificate's key" },
        { "own", "good", nil, "no private key in PEM" },
        { "ended", "ended_key", "has expired" },
        { "future", "future_key", "does not hold yet" },
        { "good", "own_key", "is for no name", "another certificate's key" },
        { "own_key", "own_key", "holds no certificate" },
    }
    for _, case in ipairs(CASES) do
        it(("finds what is wrong with %s and %s"):format(case[1], case[2]), function()
            local of_one, of_key = certificate.faults(certificates[case[1]], certificates[case[2]])
            assert.equal(case[3] ~= nil, of_one ~= nil, of_one)
            assert.is_truthy((of_one or ""):find(case[3] or "", 1, true), of_one)
            assert.is_truthy((of_key or ""):find(case[4] or "", 1, true), of_key)
        end)
    end

    it("reads the whole chain, and all of a certificate", function()
        local chain = certificates.own .. certificates.good:sub(1, 200)
        assert.matches("cannot be read", certificate.faults(chain, certificates.own_key))
        assert.matches("cannot be read",
            certificate.faults(certificates.own:sub(1, 300), certificates.own_key))
    end)

    it("takes no key with a pass phrase, and asks nobody for one", function()
        local _, of_key = certificate.faults(certificates.own, certificates.sealed_key)
        assert.matches("pass phrase", of_key)
    end)
end)
