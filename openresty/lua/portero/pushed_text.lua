---------
-- A text that the issuer pushes whole, kept in a dictionary for all workers under the history and
-- the serial number that name it. It must never be replaced by an older one of the same history.

local MAX_WAIT_SECONDS = 1
--- Beyond this a number is not written in full.
local MAX_SERIAL = 2 ^ 53
local LOCK, VALUE, MARK = "lock", "value", "mark"

local PushedText = {}
PushedText.__index = PushedText

local _M = {}

--- What a dictionary keeps.
---@param dict table one of nginx's shared dictionaries, kept for this alone
---@return table pushed
function _M.new(dict)
    return setmetatable({ dict = dict }, PushedText)
end

--- Its name and its text. One value: nobody finds the name of one with the text of another.
local function value_of(dict)
    return (dict:get(VALUE) or "\n"):match("^(.-)\n(.*)$")
end

--- What it says; empty before there is any.
---@return string
function PushedText:read()
    local _, text = value_of(self.dict)
    return text
end

--- How it is named, once every worker is told to read it. Who wrote it may have ended before: then
--- it has no name yet, and is pushed again.
---@return string mark "HISTORY:SERIAL"; empty before there is any
function PushedText:mark()
    return self.dict:get(MARK) or ""
end

local function is_older(mark, history, serial)
    local known_history, known_serial = mark:match("^(.*):(%d+)$")
    return known_history == history and tonumber(known_serial) > serial
end

local function write(dict, history, serial, text, tell)
    if is_older(value_of(dict), history, serial) then
        return nil, "older"
    end
    local mark = ("%s:%d"):format(history, serial)
    local ok, err = dict:safe_set(VALUE, mark .. "\n" .. text)
    if not ok then
        return nil, err
    end
    tell()
    return dict:safe_set(MARK, mark)
end

--- One worker at a time looks and writes: else a worker that looked before could write after a
--- newer one. A killed worker's lock ends by itself.
local function lock(dict)
    local until_seconds = ngx.now() + 2 * MAX_WAIT_SECONDS
    while true do
        local ok, err = dict:safe_add(LOCK, true, MAX_WAIT_SECONDS)
        if err ~= "exists" then
            return ok, err
        elseif ngx.now() > until_seconds then
            return nil, "busy"
        end
        ngx.sleep(0.001)
    end
end

--- Whether a name has the one form of names.
---@param history any
---@param serial any
---@return boolean
function _M.is_name(history, serial)
    return type(history) == "string" and not history:find("\n", 1, true)
        and type(serial) == "number" and serial % 1 == 0 and serial >= 0 and serial < MAX_SERIAL
end

--- Keep a text in the place of any before it.
---@param history string
---@param serial integer
---@param text string
---@param tell fun() tells every worker to read it
---@return boolean|nil ok, string|nil err "older", "no memory", or "busy"
function PushedText:write(history, serial, text, tell)
    local ok, err = lock(self.dict)
    if not ok then
        return nil, err
    end
    ok, err = write(self.dict, history, serial, text, tell)
    self.dict:delete(LOCK)
    return ok, err
end

return _M
