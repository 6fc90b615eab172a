---------
-- Of the specs and the modules themselves: every public function of every module has a spec, the
-- pure modules stay pure, and arrows between rooms point down only (docs/architecture.md).

local modules = require("modules")

local SPECS = "tests/unit/lua"
--- They know neither nginx nor a request; nor does any dialect.
local PURE = {
    "answer.stream_events", "answer.usage",
    "policy.candidates", "policy.decision", "policy.model_name", "policy.route_table",
    "request.form_body", "request.header_parameters", "request.json_body", "request.json_text",
    "settings_conf", "token.crypto", "token.jwt",
}
for _, module in ipairs(modules.names()) do
    PURE[#PURE + 1] = module:find("^dialect%.") and module or nil
end

--- The rooms from top to bottom; a module may require what is below its own room, or within it.
--- Those without a folder stand by themselves.
local LAYERS = {
    { "init" },
    { "access", "sync" },
    { "quota" },
    { "answer" },
    { "request", "server" },
    { "config", "settings_conf" },
    { "tls" },
    { "token" },
    { "policy" },
    {
        "shared_versions", "errors", "histograms", "metrics", "pushed_text", "request_counts",
        "request_key",
    },
    { "dialect" },
}

--- The text without its comments: what is only spoken of is not tested.
local function without_comments(text)
    return (text:gsub("%-%-[^\n]*", ""))
end

local function names(text, word)
    return without_comments(text):find("%f[%w_]" .. word .. "%f[^%w_]") ~= nil
end

local function required_by(text)
    return without_comments(text):gmatch('require%("portero%.([%w_.]+)"%)')
end

describe("the specs", function()
    it("cover as many modules as there are", function()
        assert.is_true(#modules.names() >= 30)
    end)

    for _, module in ipairs(modules.names()) do
        it(("name every public function of %s"):format(module), function()
            local spec = modules.read(("%s/%s_spec.lua"):format(SPECS, module:match("[%w_]+$")))
            assert.is_string(spec, module .. " has no spec")
            local count = 0
            for name in modules.text(module):gmatch("\nfunction _M[.:]([%w_]+)") do
                count = count + 1
                assert.is_true(names(spec, name), ("%s.%s has no spec"):format(module, name))
            end
            assert.is_true(count > 0)
        end)
    end
end)

describe("the configuration", function()
    local known = {}
    for _, module in ipairs(modules.names()) do
        known[module] = true
    end

    it("calls no module that is not there", function()
        local count = 0
        for _, path in ipairs(modules.configuration()) do
            for called in modules.read(path):gmatch('require%(\\?"portero%.([%w_.]+)\\?"%)') do
                count = count + 1
                assert.is_true(known[called], path .. " calls " .. called)
            end
        end
        assert.is_true(count > 20)
    end)
end)

describe("the pure modules", function()
    local pure = {}
    for _, module in ipairs(PURE) do
        pure[module] = true
    end

    for _, module in ipairs(PURE) do
        it(("do not name ngx, nor require one that does: %s"):format(module), function()
            local text = modules.text(module)
            assert.is_false(names(text, "ngx"))
            for required in required_by(text) do
                assert.is_true(pure[required], required)
            end
        end)
    end
end)

--- How far down a module stands: by its own name, else by its room's.
local function layer_of(module)
    local found
    for depth, layer in ipairs(LAYERS) do
        for _, name in ipairs(layer) do
            if name == module then
                return depth
            elseif name == module:match("^([%w_]+)%.") then
                found = depth
            end
        end
    end
    return found
end

describe("the rooms", function()
    for _, module in ipairs(modules.names()) do
        it(("have arrows that point down only: %s"):format(module), function()
            local depth = assert(layer_of(module), module .. " is in no room")
            for required in required_by(modules.text(module)) do
                local below = assert(layer_of(required), required .. " is in no room")
                assert.is_true(below > depth or (below == depth
                    and required:match("^[%w_]+%.") == module:match("^[%w_]+%.")), required)
            end
        end)
    end

    it("have no circles", function()
        local state = {}
        local function walk(module)
            assert.is_true(state[module] ~= "open", module .. " requires itself in the end")
            if state[module] then
                return
            end
            state[module] = "open"
            for required in required_by(modules.text(module)) do
                walk(required)
            end
            state[module] = "done"
        end
        for _, module in ipairs(modules.names()) do
            walk(module)
        end
    end)
end)
