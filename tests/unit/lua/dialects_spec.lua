---------
-- What every dialect must have, and which one a path is spoken in.

local anthropic = require("portero.dialect.anthropic")
local cjson = require("cjson.safe")
local dialects = require("portero.dialect.dialects")
local modules = require("modules")
local ollama = require("portero.dialect.ollama")
local openai = require("portero.dialect.openai")
local responses = require("portero.dialect.responses")

local FIELDS = {
    paths = "table", short_paths = "function", id_headers = "table", error_body = "function",
    event_body = "function", error_event = "table", stream_format = "function",
    usage_counts = "table", asks_for_usage = "table", model_list = "table",
    keeps = "table",
}
local MODEL_LIST = {
    path = "string", running = "string", field = "string", names = "table", head = "string",
    entry = "function", as = "function", is_private = "boolean",
}
local ASKED = { field = "string", options = "function", object = "string", is_answer = "function" }
local FORMATS = { "sse", "lines" }
local ERROR = {
    status = 404, message = 'No "%s" here.', param = "model",
    code = "model_not_found", request_id = "abc",
}

--- The example of how to add one, which is in no list.
local function example()
    local text = modules.read("CONTRIBUTING.md")
    local code = text:match("<!%-%- tested: dialect %-%->%s+```lua\n(.-)```")
    return assert(loadstring(code))()
end

local function types_of(value)
    local types = {}
    for name, field in pairs(value) do
        types[name] = type(field)
    end
    return types
end

describe("all", function()
    it("has each file of its folder", function()
        local files = 0
        for _, name in ipairs(modules.names()) do
            files = files + (name:find("^dialect%.") and name ~= "dialect.dialects" and 1 or 0)
        end
        assert.equal(files, #dialects.all())
    end)

    for index, dialect in ipairs(dialects.all()) do
        it("has dialects whose paths are their own: " .. dialect.paths[1], function()
            for _, begin in ipairs(dialect.paths) do
                assert.equal(dialect, dialects.of(begin .. "x"))
                assert.equal(dialect, dialects.of("/llm" .. begin .. "x"))
                for _, short in ipairs(dialect.short_paths(begin)) do
                    assert.equal(dialect, dialects.of(short .. "?x"))
                end
            end
            for path in pairs(dialect.asks_for_usage) do
                assert.equal(dialect, dialects.of(path))
            end
            assert.is_true(index == #dialects.all() or dialect ~= dialects.of("/"))
        end)
    end
end)

describe("a dialect", function()
    local all = { example(), unpack(dialects.all()) }

    for _, dialect in ipairs(all) do
        local name = dialect.paths[1] .. "*"

        it("has every field, alike in type, and no other: " .. name, function()
            assert.same(FIELDS, types_of(dialect))
            assert.same(MODEL_LIST, types_of(dialect.model_list))
            for _, asked in pairs(dialect.asks_for_usage) do
                assert.same(ASKED, types_of(asked))
            end
        end)

        it("can say an error, in a stream of each format: " .. name, function()
            local refusal = cjson.encode(dialect.error_body(ERROR))
            assert.is_truthy(refusal:find('No \\"%s\\" here.', 1, true))
            local body = cjson.encode(dialect.event_body(ERROR))
            assert.is_truthy(body:find('No \\"%s\\" here.', 1, true))
            for _, format in ipairs(FORMATS) do
                local event = dialect.error_event[format]:format(body)
                assert.is_truthy(event:find(body, 1, true))
                assert.is_truthy(event:find(format == "sse" and "[^\n]\n\n$" or "^{[^\n]*\n$"))
            end
            for _, type_of_stream in ipairs({ "", "text/plain", "image/png" }) do
                local format = dialect.stream_format(type_of_stream)
                assert.is_truthy(format == nil or dialect.error_event[format])
            end
        end)

        it("has counts with names: " .. name, function()
            assert.is_true(#dialect.usage_counts > 0)
            for _, sum in ipairs(dialect.usage_counts) do
                assert.is_true(#sum > 0)
                assert.is_truthy(sum.object == nil or type(sum.object) == "string")
            end
        end)
    end
end)

describe("named", function()
    it("is the dialect in which a kind of LLM server lists its models", function()
        assert.equal(ollama, dialects.named("ollama"))
        assert.equal(openai, dialects.named("openai"))
        assert.is_nil(dialects.named("x"))
    end)
end)

describe("of", function()
    it("is Ollama's under /api/ and /llm/api/ alone, else OpenAI's", function()
        for _, path in ipairs({ "/api/chat", "/api/", "/llm/api/tags", "/api/x?y" }) do
            assert.equal(ollama, dialects.of(path))
        end
        for _, path in ipairs({
            "/", "/api", "/apix", "/v1/models", "/llm/chat", "/x/api/chat", "/v1/api/chat", "",
            "/admin/api/sessions", "/x?/api/", "/llm", "/completion", "/messages", "/x/v1/messages",
            "/v1/message", "/v1/chat/completions?/v1/messages", "/v1/response", "/responses",
        }) do
            assert.equal(openai, dialects.of(path))
        end
    end)

    it("is Anthropic's for messages and Responses' for responses, by every name", function()
        for what, dialect in pairs({ messages = anthropic, responses = responses }) do
            for _, name in ipairs({ "/v1/%s", "/llm/v1/%s", "/llm/%s" }) do
                local path = name:format(what)
                for _, behind in ipairs({ "", "?beta=true", "/count_tokens", "/x?y" }) do
                    assert.equal(dialect, dialects.of(path .. behind))
                end
            end
        end
    end)
end)

describe("of, behind a server's name", function()
    it("is that of the path", function()
        for _, path in ipairs({ "/api/chat", "/v1/messages", "/v1/responses", "/health" }) do
            assert.equal(dialects.of(path), dialects.of("/servers/rack" .. path))
        end
    end)
end)
