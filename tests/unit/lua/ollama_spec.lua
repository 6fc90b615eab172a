---------
-- Ollama's dialect.

local cjson = require("cjson.safe")
local ollama = require("portero.dialect.ollama")

describe("short_paths", function()
    it("are none", function()
        assert.same({}, ollama.short_paths("/api/chat"))
    end)
end)

describe("error_body", function()
    it("is the message alone", function()
        assert.same({ error = "m" }, ollama.error_body({ status = 404, message = "m", code = "c" }))
    end)
end)

describe("stream_format", function()
    it("is lines, whatever an answer is called", function()
        for _, name in ipairs({ "", "application/json", "application/octet-stream" }) do
            assert.equal("lines", ollama.stream_format(name))
        end
    end)
end)

describe("model_list", function()
    it("keeps an empty list from becoming an object", function()
        local entry = ollama.model_list.entry({ capabilities = {}, details = { families = {} } })
        assert.same({ capabilities = cjson.null, details = { families = cjson.null } }, entry)
    end)

    it("takes an entry whose details are none", function()
        for _, details in ipairs({ cjson.null, "x", 1, true }) do
            assert.same({ details = details }, ollama.model_list.entry({ details = details }))
        end
    end)
end)
