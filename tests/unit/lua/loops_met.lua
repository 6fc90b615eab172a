---------
-- Whether LuaJIT compiles what every request passes (decision 17).

local funcinfo = require("jit.util").funcinfo
local vmdef = require("jit.vmdef")

local INNER_LOOP = "inner loop in root trace"

--- How often LuaJIT gave up to compile what is done again and again, for a loop of Portero's in it;
--- what a spec plays nginx with may have loops.
---@param work fun()
---@return integer
return function(work)
    local count = 0
    local function note(what, _, at, pc, reason)
        if what == "abort" and vmdef.traceerr[reason] == INNER_LOOP
            and funcinfo(at, pc).source:find("/portero/", 1, true) then
            count = count + 1
        end
    end
    jit.flush()
    jit.attach(note, "trace")
    -- Each time from C, as nginx calls a phase: a loop around it would be a trace by itself.
    string.gsub(string.rep(".", 500), ".", function()
        work()
    end)
    jit.attach(note)
    return count
end
