---------
-- The gateway's verdict about texts of roles.json. For the tests alone: reads a text a line, in
-- hex, and answers each with how many faults it has.

local roles = require("portero.policy.roles")

for line in io.lines() do
    local text = line:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end)
    local _, faults = roles.parse(text, 86400)
    print(#faults)
end
