---------
-- What the gateway says of CORS_ORIGINS, without nginx. For the tests alone: reads the setting, and
-- prints its faults.

local config = require("portero.config")

local setting = io.read("*a")
local _, faults = config.read(function(name)
    return name == "CORS_ORIGINS" and setting or nil
end)
for _, fault in ipairs(faults) do
    if fault:find("^CORS_ORIGINS: ") then
        print(fault)
    end
end
