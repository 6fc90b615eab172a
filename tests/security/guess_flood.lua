---------
-- A flood of guesses against `quota/guesses`, in an nginx of its own: nothing but the counts. It
-- answers what came of it as JSON. For the tests alone.

local cjson = require("cjson.safe")
local guesses = require("portero.quota.guesses")

local NAMES, ADDRESSES = "USRS%d", 2 ^ 32
local KNOWN, VICTIM, HOME = "\10\0\0\1", "AGNRVICTIM", "\10\0\0\2"
local random = math.random

local function network()
    local text = {}
    for place = 1, 16 do
        text[place] = string.char(random(0, 255))
    end
    return table.concat(text)
end

local function try(address, name, is_right)
    local attempt, code = guesses.begin(address, name, is_right and "right" or tostring(random()))
    if attempt then
        guesses[is_right and "right" or "wrong"](attempt)
    end
    return code or is_right and "right" or "wrong"
end

local function guess_until_shut()
    local count = 0
    while try(KNOWN, VICTIM) == "wrong" do
        count = count + 1
    end
    return count
end

local function memory()
    collectgarbage()
    collectgarbage()
    return collectgarbage("count")
end

local count = tonumber(ngx.var.arg_count)
try(HOME, VICTIM, true)
local told = { tried = guess_until_shut(), before = memory(), seen = {}, known = {} }
for place = 1, count do
    local code = try(network(), NAMES:format(random(ADDRESSES)))
    told.seen[code] = (told.seen[code] or 0) + 1
    if place % 1000 == 0 then
        -- As a guesser who does not stop; and the user, from where he logs in every day.
        for name, became in pairs({ guesser = try(KNOWN, VICTIM),
            user = try(HOME, VICTIM, true) }) do
            became = name .. " " .. became
            told.known[became] = (told.known[became] or 0) + 1
        end
        ngx.update_time()
    end
end
told.after = memory()
ngx.say(cjson.encode(told))
