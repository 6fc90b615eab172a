---------
-- What is spent of budgets, of today and of this month: as the store has it, and as counted here.

local fake_ngx = require("fake_ngx")

--- 2023-11-14 22:13:20 in UTC.
local NOW = 1700000000
local DAY = "2023-11-14"
local TO_MIDNIGHT = 6400
local OWN = { { day = 100, month = 1000 } }

local fake, budgets, waiting

before_each(function()
    fake = fake_ngx.install(NOW)
    budgets = fake.load("portero.quota.budgets")
    waiting = { {}, {} }
    fake.load("portero.quota.usage_counts").waiting = function() return unpack(waiting) end
end)

local function put(rows, is_part)
    return budgets.put({ day = DAY, number = 0, rows = rows, complete = not is_part })
end

describe("refusal", function()
    it("is not ready before all is told once, and where nothing is counted", function()
        assert.equal("not_ready", budgets.refusal("USRSA", OWN, NOW))
        put({}, true)
        assert.equal("not_ready", budgets.refusal("USRSA", OWN, NOW))
        put({})
        assert.is_nil(budgets.refusal("USRSA", OWN, NOW))
        fake.shared.portero_budgets = nil
        package.loaded["portero.quota.budgets"] = nil
        assert.equal("not_ready", require("portero.quota.budgets").refusal("USRSA", OWN, NOW))
    end)

    it("comes with the last token, and says how long until there is something again", function()
        put({ { "u:USRSA", 99, 999 } })
        assert.is_nil(budgets.refusal("USRSA", OWN, NOW))
        budgets.spend("USRSA", OWN, 1, NOW)
        local code, seconds = budgets.refusal("USRSA", { { day = 100 } }, NOW)
        assert.same({ "budget_spent", TO_MIDNIGHT }, { code, seconds })
        code, seconds = budgets.refusal("USRSA", OWN, NOW)
        assert.same({ "budget_spent", TO_MIDNIGHT + 16 * 86400 }, { code, seconds })
    end)

    it("forgets nothing that was counted here, where that cannot be told now", function()
        put({ { "u:USRSA", 100, 100 } })
        waiting = {}
        assert.is_nil(put({ { "u:USRSA", 0, 0 } }))
        assert.equal("budget_spent", budgets.refusal("USRSA", OWN, NOW))
    end)

    it("is over with the day, and not with it where the month is spent", function()
        put({ { "u:USRSA", 100, 100 }, { "u:USRSB", 1, 1000 } })
        assert.equal("budget_spent", budgets.refusal("USRSA", OWN, NOW))
        assert.is_nil(budgets.refusal("USRSA", OWN, NOW + TO_MIDNIGHT))
        assert.equal("budget_spent", budgets.refusal("USRSB", OWN, NOW + TO_MIDNIGHT))
        assert.is_nil(budgets.refusal("USRSB", OWN, NOW + 17 * 86400))
    end)

    it("is that of a group too, which its members share", function()
        local both = { { day = 1000 }, { group = "team", day = 50 } }
        put({ { "g:team", 20, 20, { "USRSA", "USRSB" } } })
        budgets.spend("USRSA", both, 30, NOW)
        assert.equal("budget_spent", budgets.refusal("USRSB", both, NOW))
        assert.is_nil(budgets.refusal("USRSB", { { day = 1000 } }, NOW))
    end)
end)

describe("put", function()
    it("takes the place of what stood there, with what the store has not yet", function()
        put({})
        budgets.spend("USRSA", OWN, 70, NOW)
        waiting = { { USRSA = 30, USRSB = 5 }, { USRSA = 30, USRSB = 6 } }
        put({ { "u:USRSA", 40, 40 }, { "g:team", 40, 40, { "USRSA", "USRSB" } } })
        local dict = fake.shared.portero_budgets
        assert.equal(70, dict:get(DAY .. "u:USRSA"))
        assert.same({ 75, 76 }, { dict:get(DAY .. "g:team"), dict:get("2023-11g:team") })
    end)

    it("says where there is no room", function()
        fake.shared.portero_budgets.most_entries = 1
        assert.is_nil(put({ { "u:USRSA", 1, 1 } }))
    end)
end)

describe("spend", function()
    it("counts where the store has told nothing of a user yet", function()
        put({})
        budgets.spend("USRSA", OWN, 100, NOW)
        assert.equal("budget_spent", budgets.refusal("USRSA", OWN, NOW))
    end)
end)
