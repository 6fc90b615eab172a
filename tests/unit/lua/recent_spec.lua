---------
-- A bounded map of what was asked for lately.

local recent = require("portero.token.recent")

local function filled(most, count)
    local map = recent.new(most)
    for i = 1, count do
        map:set("k" .. i, i)
    end
    return map
end

describe("new, set and get", function()
    it("answer what was kept, and nil for what was not", function()
        local map = filled(10, 3)
        assert.equal(2, map:get("k2"))
        assert.is_nil(map:get("k4"))
    end)

    it("keep at least half of the most, and never more than the most", function()
        for count = 1, 100 do
            local map, kept = filled(10, count), 0
            for i = 1, count do
                kept = kept + ((map.young["k" .. i] or map.old["k" .. i]) and 1 or 0)
            end
            assert.is_true(kept <= 10 and kept >= math.min(count, 5))
        end
    end)

    it("keep what is asked for again and again, whatever comes meanwhile", function()
        local map = filled(10, 1)
        for i = 2, 1000 do
            map:set("k" .. i, i)
            assert.equal(1, map:get("k1"))
        end
    end)

    it("forget first what was not asked for", function()
        local map = filled(10, 9)
        assert.equal(1, map:get("k1"))
        map:set("k10", 10)
        map:set("k11", 11)
        assert.is_nil(map:get("k2"))
        assert.equal(1, map:get("k1"))
        assert.equal(11, map:get("k11"))
    end)

    it("hold one entry of a key, however often it is asked for", function()
        local map = filled(10, 6)
        for _ = 1, 50 do
            assert.equal(1, map:get("k1"))
        end
        assert.equal(2, map:get("k2"))
    end)

    it("work for the smallest map", function()
        local map = filled(2, 2)
        assert.equal(1, map:get("k1"))
        assert.is_nil(map:get("k3"))
    end)
end)
