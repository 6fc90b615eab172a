---------
-- Of the specs themselves: every public function of every module has one, and the pure modules
-- stay pure (design, "The house").

local lfs = require("lfs")

local MODULES = "openresty/lua/portero"
local SPECS = "tests/unit/lua"
--- They know neither nginx nor a request.
local PURE = {
    "crypto", "form_body", "header_parameters", "json_body", "jwt", "model_name", "policy",
    "request_faults", "usage",
}

local function read(path)
    local file = io.open(path, "rb")
    local text = file and file:read("*a")
    if file then
        file:close()
    end
    return text
end

local function names_of_modules()
    local names = {}
    for entry in lfs.dir(MODULES) do
        names[#names + 1] = entry:match("^(.+)%.lua$")
    end
    table.sort(names)
    return names
end

--- The text without its comments: what is only spoken of is not tested.
local function without_comments(text)
    return (text:gsub("%-%-[^\n]*", ""))
end

local function names(text, word)
    return without_comments(text):find("%f[%w_]" .. word .. "%f[^%w_]") ~= nil
end

describe("the specs", function()
    it("cover as many modules as there are", function()
        assert.is_true(#names_of_modules() >= 16)
    end)

    for _, module in ipairs(names_of_modules()) do
        it(("name every public function of %s"):format(module), function()
            local spec = read(("%s/%s_spec.lua"):format(SPECS, module))
            assert.is_string(spec, module .. " has no spec")
            local count = 0
            for name in read(("%s/%s.lua"):format(MODULES, module))
                :gmatch("\nfunction _M[.:]([%w_]+)") do
                count = count + 1
                assert.is_true(names(spec, name), ("%s.%s has no spec"):format(module, name))
            end
            assert.is_true(count > 0)
        end)
    end
end)

describe("the pure modules", function()
    for _, module in ipairs(PURE) do
        local text = read(("%s/%s.lua"):format(MODULES, module))

        it(("do not name ngx: %s"):format(module), function()
            assert.is_false(names(text, "ngx"))
        end)

        it(("require none that does: %s"):format(module), function()
            for required in text:gmatch('require%("portero%.([%w_]+)"%)') do
                assert.is_true((" " .. table.concat(PURE, " ") .. " "):find(
                    " " .. required .. " ", 1, true) ~= nil, required)
            end
        end)
    end
end)
