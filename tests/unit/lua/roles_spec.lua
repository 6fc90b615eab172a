---------
-- roles.json, as the gateway takes it: docs/policy.md, and every fault with its place.

local cjson = require("cjson.safe")
local roles = require("portero.policy.roles")
local shipped = require("shipped")

local ROLE = [[
      "code": "USRS", "ttl_seconds": 900, "door": "/login", "routes": ["models"],
      "models": ["*"], "requests_per_minute": null, "tokens_per_minute": null,
      "concurrent_requests": null, "largest_body_bytes": 67108864, "active_tokens": 100,
      "stream_policy": "finish"]]

--- A file of one role, with a field of another value, on a line of its own.
local function with(field, value, users)
    local role = ROLE
    if field then
        local removed
        role, removed = role:gsub('%s*"' .. field .. '": %[?[^],]*%]?,?', "\n", 1)
        role = role:gsub(",%s*$", "")
        role = role .. (value and (',\n"%s": %s'):format(field, value) or "")
        assert(removed == 1 or field == "zip")
    end
    return ('{"roles": {"user": {\n%s}}%s}'):format(role, users and ', "users": ' .. users or "")
end

local function fault_of(text)
    local file, faults = roles.parse(text, 86400)
    assert.is_nil(file)
    assert.equal(1, #faults, table.concat(faults, "\n"))
    return faults[1]
end

describe("parse", function()
    it("takes the file of the repository", function()
        local file, faults = roles.parse(shipped.text("roles.json"), 86400)
        assert.same({}, faults)
        assert.equal("USRS", file.roles.user.code)
        assert.equal("user", file.roles.user.name)
        assert.same({ models = { "*" }, largest_body_bytes = 67108864 }, file.roles.user.grant)
        assert.same({}, file.users)
    end)

    it("bounds the lifetime of every role, and raises none", function()
        local file = roles.parse(shipped.text("roles.json"), 100)
        assert.equal(60, file.roles.agent_fast.ttl_seconds)
        assert.equal(100, file.roles.admin.ttl_seconds)
    end)

    it("gives a user the role's grant with the user's own values in it", function()
        local users = '{"USRSA": {"models": ["a"], "requests_per_minute": 3},'
            .. '"USRSB": {"tokens_per_minute": null, "concurrent_requests": 2}}'
        local file = roles.parse(with("tokens_per_minute", "7", users), 86400)
        assert.same({
            models = { "a" }, requests_per_minute = 3, tokens_per_minute = 7,
            largest_body_bytes = 67108864,
        }, file.users.USRSA)
        assert.same({
            models = { "*" }, concurrent_requests = 2, largest_body_bytes = 67108864,
        }, file.users.USRSB)
    end)

    -- Values that each field may have, and may not.
    local GOOD = {
        code = { '"ABCD"' }, ttl_seconds = { "1", "86400" }, door = { '"/admin/login"' },
        routes = { "[]", '["inference", "page"]' },
        models = { "[]", '["a*", "b:c/d@e"]', '["' .. ("x"):rep(256) .. '"]' },
        requests_per_minute = { "1", "1000000000", "null" }, tokens_per_minute = { "1", "null" },
        concurrent_requests = { "1", "1000", "null" },
        largest_body_bytes = { "1", "67108864" }, active_tokens = { "1", "1000000" },
        stream_policy = { '"cut"', '"finish"', "1", "600" },
    }
    local BAD = {
        code = { '"abcd"', '"ABC"', '"ABCDE"', '"AB1D"', "1", "null", "true", "[]" },
        ttl_seconds = { "0", "-1", "1.5", "86401", '"900"', "null", "true" },
        door = { '"/x"', '""', "1", "null", "{}" },
        routes = { '"models"', "null", '{"a":1}', "1" },
        models = { '"*"', "null", '{"a":1}', "1" },
        requests_per_minute = { "0", "-1", "1.5", '"1"', "true", "1000000001", "[]" },
        tokens_per_minute = { "0", "-1", "1.5", '"1"', "true", "{}" },
        concurrent_requests = { "0", "1001", "1.5", "false" },
        largest_body_bytes = { "0", "67108865", "null", '"1"' },
        active_tokens = { "0", "1000001", "null", "1e400" },
        stream_policy = { '"end"', '"Cut"', "0", "-1", "1.5", "null", "true", '""' },
    }
    for field, values in pairs(GOOD) do
        for _, value in ipairs(values) do
            it(("takes a role with %s %s"):format(field, value:sub(1, 30)), function()
                assert.same({}, select(2, roles.parse(with(field, value), 86400)))
            end)
        end
    end
    for field, values in pairs(BAD) do
        for _, value in ipairs(values) do
            it(("finds fault with a role's %s %s, by line and place"):format(field, value),
                function()
                    local file, faults = roles.parse(with(field, value), 86400)
                    assert.is_nil(file)
                    local all = table.concat(faults, "\n")
                    assert.is_truthy(all:find("roles.user." .. field .. " must be", 1, true)
                        or all:find("is not valid JSON", 1, true))
                end)
        end
        it("misses " .. field, function()
            local fault = fault_of(with(field))
            assert.is_truthy(fault:find("roles.user." .. field .. " must be", 1, true))
        end)
    end

    -- Elements of the lists.
    for element, list in pairs({
        ['"a*b"'] = "models", ['"*a"'] = "models", ['"a b"'] = "models", ['"\\""'] = "models",
        ['"\\\\"'] = "models", ['""'] = "models", ['"\\u00e9"'] = "models", ['1'] = "models",
        ["null"] = "models", ['"a**"'] = "models",
        ['"' .. ("x"):rep(257) .. '"'] = "models", ['"nothing"'] = "routes", ["2"] = "routes",
        ['"Models"'] = "routes", ["{}"] = "routes",
    }) do
        it(("finds fault with %s among the %s"):format(element:sub(1, 20), list), function()
            local fault = fault_of(with(list, '["page",\n' .. element .. "]"))
            assert.matches(("^roles.json line %%d+: roles.user.%s%%[2%%] "):format(list), fault)
        end)
    end

    -- What is wrong, and what is said of it.
    local CASES = {
        ["text that is no JSON"] = { "{", "roles.json: is not valid JSON" },
        ["NaN"] = { with("ttl_seconds", "NaN"), "roles.json: is not valid JSON" },
        ["a number in hexadecimal"] = {
            with("ttl_seconds", "0x10"), "roles.json: is not valid JSON",
        },
        ["a list"] = { "[1]", "roles.json: must be an object" },
        ["a text"] = { '"x"', "roles.json: must be an object" },
        ["nothing"] = { "{}", "roles.json line 1: roles must be an object that names a role" },
        ["no role"] = {
            '{"roles": {}}', "roles.json line 1: roles must be an object that names a role",
        },
        ["roles that are a list"] = {
            '{"roles": [1]}', "roles.json line 1: roles must be an object that names a role",
        },
        ["a role that is none"] = {
            with():gsub("}}}$", '},\n"b": 1}}'), "roles.json line 6: roles.b must be an object",
        },
        ["a field that nobody knows"] = {
            with("zip", "1"), "roles.json line 6: roles.user.zip is not a known field",
        },
        ["another part of the file"] = {
            with():gsub("}$", ',\n"zip": 1}'), "roles.json line 6: zip is not a known field",
        },
        ["a name that is there twice"] = {
            with():gsub('"finish"', '"cut",\n"code": "USRS"'),
            "roles.json line 6: roles.user.code is there twice",
        },
        ["a class that is listed twice"] = {
            with("routes", '["page",\n"page"]'),
            "roles.json line 8: roles.user.routes[2] is listed twice",
        },
        ["users that are a list"] = {
            with(nil, nil, '["a"]'), "roles.json line 5: users must be an object",
        },
        ["a user that is none"] = {
            with(nil, nil, '{"USRSA": 1}'), "roles.json line 5: users.USRSA must be an object",
        },
        ["a user's field that only a role has"] = {
            with(nil, nil, '{"USRSA":\n{"door": "/login"}}'),
            "roles.json line 6: users.USRSA.door is not a known field",
        },
        ["a user's value that is none"] = {
            with(nil, nil, '{"USRSA":\n{"models": 1}}'),
            "roles.json line 6: users.USRSA.models must be a list of model names",
        },
    }
    for what, case in pairs(CASES) do
        it("finds fault with " .. what, function()
            assert.equal(case[2], fault_of(case[1]))
        end)
    end

    for _, name in ipairs({
        "ADMNA", "USRS", "usrsA", "USRS A", "USRS" .. ("x"):rep(61), "USRS\195\169", "",
    }) do
        it(("finds fault with the user's name '%s'"):format(name), function()
            local fault = fault_of(with(nil, nil, ('{"%s": {}}'):format(name)))
            assert.matches("is no user's name", fault, 1, true)
        end)
    end

    it("finds fault with a code of two roles", function()
        local content = cjson.decode(with())
        content.roles.other = content.roles.user
        assert.matches("^roles.json line 1: roles.%w+.code is used by more than one role$",
            fault_of((cjson.encode(content):gsub("%[%]", "[]"))))
    end)

    it("lists all faults at once, in the order of their lines", function()
        local _, faults = roles.parse(
            '{"roles": {"a": {},\n"b": 1},\n"users": 1,\n"zip": 1}', 86400)
        assert.equal(14, #faults)
        local last = 0
        for _, fault in ipairs(faults) do
            local line = tonumber(fault:match("^roles.json line (%d+): "))
            assert.is_true(line >= last)
            last = line
        end
    end)
end)
