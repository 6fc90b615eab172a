---------
-- The line and the path of each value of a JSON text.

local places = require("portero.policy.places")

local TEXT = [[
{
  "roles": {
    "a": { "list": ["x", {"y": [1,
      2]}], "text": "{\"b\": [\\", "n": 1 },
    "b": {}
  },
  "empty": [ ],
  "last": true
}]]

describe("of", function()
    -- Path, and its line.
    for path, line in pairs({
        [""] = 1, ["roles"] = 2, ["roles.a"] = 3, ["roles.a.list"] = 3, ["roles.a.list[1]"] = 3,
        ["roles.a.list[2]"] = 3, ["roles.a.list[2].y"] = 3, ["roles.a.list[2].y[1]"] = 3,
        ["roles.a.list[2].y[2]"] = 4, ["roles.a.text"] = 4, ["roles.a.n"] = 4, ["roles.b"] = 5,
        ["empty"] = 7, ["last"] = 8,
    }) do
        it(("finds '%s' in line %d"):format(path, line), function()
            assert.equal(line, places.of(TEXT).lines[path])
        end)
    end

    it("finds nothing that is not there", function()
        local lines = places.of(TEXT).lines
        for _, path in ipairs({ "empty[1]", "roles.a.b", "roles.a.list[3]", "b", "x" }) do
            assert.is_nil(lines[path], path)
        end
    end)

    it("finds the names that an object holds twice, each where it stands again", function()
        local found = places.of('{"a": 1,\n"b": {"a": 2, "a": 3},\n"a": [{"c": 1}, {"c": 2}]}')
        assert.same({ { path = "b.a", line = 2 }, { path = "a", line = 3 } }, found.twice)
    end)

    it("takes no text for a name, nor a name's own marks for the file's", function()
        local found = places.of('{"a": "b", "c:{[": ["a", "a"], "d": "a\\"b,", "e": {}}')
        assert.same({}, found.twice)
        assert.equal(1, found.lines["c:{[[2]"])
        assert.equal(1, found.lines.e)
    end)

    it("has nothing to say of a text without an object", function()
        assert.same({ lines = {}, values = {}, twice = {} }, places.of("1"))
    end)

    it("tells forms apart that a decoder takes for the same", function()
        local text = '{"a": {}, "b": [], "c" : 1.0, "d":1, "e":\n"x y", "f": {"g": [1]}}'
        local values = places.of(text).values
        assert.same({
            a = "{", b = "[", c = "1.0", d = "1", e = '"x', f = '{"g":', ["f.g"] = "[1",
        }, values)
    end)

    it("finds a name that is there twice, once by an escape", function()
        assert.same({ { path = "code", line = 1 } },
            places.of('{"code": 1, "\\u0063ode": 2}').twice)
    end)
end)
