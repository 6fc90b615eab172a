---------
-- Whether LuaJIT compiles that a variable which is open still is given what the collector frees.
-- Such a trace stays in use when the function that owned the variable has returned, and before
-- 2023-11-05 it then tells the collector nothing (LuaJIT issue 1085).

local bit = require("bit")
local util = require("jit.util")
local vmdef = require("jit.vmdef")

--- IR types from string to userdata, as lj_ir.h counts them.
local FIRST_COLLECTABLE, LAST_COLLECTABLE = 4, 12
local NAME_LENGTH = 6

local function operation(kind)
    local at = bit.rshift(kind, 8) * NAME_LENGTH
    return vmdef.irnames:sub(at + 1, at + NAME_LENGTH):gsub(" ", "")
end

local function is_collectable(trace, ref)
    local kind
    if ref < 0 then
        kind = select(2, util.tracek(trace, ref))
    else
        kind = bit.band(select(2, util.traceir(trace, ref)), 31)
    end
    return kind >= FIRST_COLLECTABLE and kind <= LAST_COLLECTABLE
end

local function is_open_store(trace, number)
    local _, kind, variable, value = util.traceir(trace, number)
    return operation(kind) == "USTORE"
        and operation(select(2, util.traceir(trace, variable))) == "UREFO"
        and is_collectable(trace, value)
end

--- How many instructions of the traces that LuaJIT makes meanwhile are such stores.
---@param work fun()
---@return integer
return function(work)
    local count = 0
    local function note(what, trace)
        for number = 1, what == "stop" and util.traceinfo(trace).nins - 1 or 0 do
            count = count + (is_open_store(trace, number) and 1 or 0)
        end
    end
    jit.attach(note, "trace")
    work()
    jit.attach(note)
    return count
end
