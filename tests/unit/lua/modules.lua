---------
-- The gateway's modules as files: which there are, and what is written in them.

local lfs = require("lfs")

local HOME = "openresty/lua/portero"

local modules = {}

--- The text of a file; nil when there is none.
---@param path string
---@return string|nil
function modules.read(path)
    local file = io.open(path, "rb")
    local text = file and file:read("*a")
    if file then
        file:close()
    end
    return text
end

local function collect(folder, prefix, found)
    for entry in lfs.dir(folder) do
        local path = folder .. "/" .. entry
        local name = entry:match("^(.+)%.lua$")
        if name then
            found[#found + 1] = prefix .. name
        elseif not entry:find("^%.") and lfs.attributes(path, "mode") == "directory" then
            collect(path, prefix .. entry .. ".", found)
        end
    end
    return found
end

--- The names of all modules, as `require` has them behind "portero.".
---@return string[]
function modules.names()
    local found = collect(HOME, "", {})
    table.sort(found)
    return found
end

--- The files that call modules: nginx's, and what makes one of them.
---@return string[] paths
function modules.configuration()
    local found = { HOME .. "/settings_conf.lua" }
    for entry in lfs.dir("openresty/conf") do
        if entry:find("%.conf$") then
            found[#found + 1] = "openresty/conf/" .. entry
        end
    end
    return found
end

--- What is written in a module.
---@param name string
---@return string
function modules.text(name)
    return assert(modules.read(("%s/%s.lua"):format(HOME, (name:gsub("%.", "/")))))
end

return modules
