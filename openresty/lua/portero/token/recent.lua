---------
-- A bounded map that keeps what was asked for lately: two generations. What is asked for lives in
-- the young one; when that is full it becomes the old one, and what was old is gone.
-- It costs a look-up, where a list in exact order of use costs several writes and more garbage. It
-- keeps between half of the most and the most, and never forgets what was asked for again within
-- half of the most. Pure.

local new_table = require("table.new")

local Recent = {}
Recent.__index = Recent

local _M = {}

--- A map without entries.
---@param most integer how many entries it may hold, at least 2
---@return table recent
function _M.new(most)
    local half = math.floor(most / 2)
    return setmetatable({ half = half, young = new_table(0, half), old = {}, count = 0 }, Recent)
end

--- Keep a value; the key has none yet.
---@param key string
---@param value any
function Recent:set(key, value)
    if self.count == self.half then
        self.old, self.young, self.count = self.young, new_table(0, self.half), 0
    end
    self.young[key] = value
    self.count = self.count + 1
end

--- The value of a key, or nil.
---@param key string
function Recent:get(key)
    local value = self.young[key]
    if value == nil then
        value = self.old[key]
        if value ~= nil then
            self:set(key, value)
        end
    end
    return value
end

return _M
