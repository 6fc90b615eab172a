---------
-- What is refused at OAuth's endpoints.

local dialects = require("portero.dialect.dialects")
local oauth = require("portero.dialect.oauth")

describe("error_body", function()
    it("is what OAuth's clients read", function()
        for status, word in pairs({ [429] = "temporarily_unavailable", [401] = "invalid_client",
            [503] = "temporarily_unavailable", [413] = "invalid_request" }) do
            assert.same({ error = word, error_description = "m" },
                oauth.error_body({ status = status, message = "m", code = "c" }))
        end
        assert.equal(oauth, dialects.of("/oauth/token"))
    end)
end)
