---------
-- How many LLM tokens an answer used, and a stream without the event that says so where only the
-- gateway has asked for it. Pure: bytes come in as chunks, cut anywhere.
--
-- A meter takes the counts of all dialects, as a server may tell those of another than its path's.
-- A name counts where it is one of JSON: a quote inside a string is escaped. The greatest of each
-- count is kept, for they are cumulative, or come in parts. Events are counted beside them, one
-- token each: a caller who always leaves before the last one, or has the model write counts of its
-- own, pays for those.
-- A meter keeps 4 KiB at most, and must never hold an answer back.
--
-- What every answer passes has no loop in it: LuaJIT compiles the way of an answer as one trace,
-- and would interpret all of it for a loop's sake (decision 17). Loops are for what is rarer.
--
-- The filter holds an event back that is not whole, and nothing else.

local cjson = require("cjson.safe")
local ffi = require("ffi")
local dialects = require("portero.dialect.dialects")
local stream_events = require("portero.answer.stream_events")

ffi.cdef([[
unsigned long strtoul(const char *text, char **behind, int base);
]])

local C = ffi.C
local chars_at, behind_digits = ffi.typeof("const char *"), ffi.new("char *[1]")

local byte, find, max, min, sub = string.byte, string.find, math.max, math.min, string.sub

local MAX_TOKENS = 1e9
--- The longest piece of JSON that is waited for, from its name on.
local MAX_TOLD = 4096
--- Events behind the last count that carry no text: "message_stop", a count told twice.
local CLOSING_EVENTS = 2
--- Events of a whole answer that carry no text.
local SILENT_EVENTS = 16

local BACKSLASH, QUOTE, COLON, OPEN, CLOSE, NEWLINE = byte('\\":{}\n', 1, 6)
local COMMA, ZERO, NINE, LETTER_N = byte(",09n", 1, 4)
local SPACES = { [byte(" ")] = true, [byte("\t")] = true, [byte("\r")] = true, [byte("\n")] = true }

local _M = {}

--- The first place from `at` on that is no space.
local function behind_spaces(text, at)
    if not SPACES[byte(text, at)] then
        return at
    elseif not SPACES[byte(text, at + 1)] then
        return at + 1
    end
    while SPACES[byte(text, at)] do
        at = at + 1
    end
    return at
end

--- Where the value of a name begins; behind the text when that is still to come, and nil when it
--- was no name.
local function value_place(text, behind_name)
    local colon = behind_spaces(text, behind_name)
    if colon > #text then
        return colon
    end
    return byte(text, colon) == COLON and behind_spaces(text, colon + 1) or nil
end

--- The last place of a string that begins at `at`, or nil.
local function end_of_string(text, at, last)
    local place = at + 1
    while place <= last do
        local character = byte(text, place)
        if character == QUOTE then
            return place
        end
        place = place + (character == BACKSLASH and 2 or 1)
    end
end

--- The last place of an object that begins at `at`, or nil.
local function end_of_object(text, at, last)
    local depth, place = 0, at
    while place and place <= last do
        local character = byte(text, place)
        if character == QUOTE then
            place = end_of_string(text, place, last)
        elseif character == OPEN then
            depth = depth + 1
        elseif character == CLOSE then
            depth = depth - 1
            if depth == 0 then
                return place
            end
        end
        place = place and place + 1
    end
end

--- Keep the greatest of a count. Whether it is news.
local function take(counts, name, value)
    local known = counts[name]
    if not known or type(value) ~= "number" or value % 1 ~= 0 or value > MAX_TOKENS
        or value <= known then
        return false
    end
    counts[name] = value
    return true
end

--- Where a number ends that something follows: a comma or a brace.
local function behind_number(text, at)
    local comma, brace = find(text, ",", at, true), find(text, "}", at, true)
    return comma and brace and min(comma, brace) or comma or brace
end

--- Where a value ends that is no count: null, a text without escapes, an object with none inside.
local function behind_other(text, at)
    local first = byte(text, at)
    if first == LETTER_N then
        return at + #"null"
    end
    local stop = find(text, first == OPEN and "}" or '"', at + 1, true)
    if not stop or first ~= OPEN and first ~= QUOTE or byte(text, stop - 1) == BACKSLASH then
        return nil
    end
    local inner = first == OPEN and find(text, "{", at + 1, true)
    return not (inner and inner < stop) and stop + 1 or nil
end

--- What the members of an object told that is being read: a name, or false, and its number.
local told_names, told_values = { false, false, false, false, false, false }, { 0, 0, 0, 0, 0, 0 }

--- A whole number as nearly all are written, of digits with a comma or a brace behind them, and
--- where that is; nil for another. It makes no text of them.
local function plain_number(text, at)
    local start = ffi.cast(chars_at, text)
    local value = tonumber(C.strtoul(start + at - 1, behind_digits, 10))
    local behind = tonumber(behind_digits[0] - start) + 1
    local stop = byte(text, behind)
    return (stop == COMMA or stop == CLOSE) and value or nil, behind
end

--- The same of any number.
local function number_at(text, at)
    local value, behind = plain_number(text, at)
    if value then
        return value, behind
    end
    behind = behind_number(text, at)
    return behind and tonumber(sub(text, at, behind - 1)), behind
end

--- Where a member's value ends, which is noted where it is a number.
local function behind_value(text, at, stop, value_at, place)
    local first = byte(text, value_at)
    if not first or first < ZERO or first > NINE then
        return first and behind_other(text, value_at)
    end
    local value, behind = number_at(text, value_at)
    told_names[place] = value and sub(text, at + 1, stop - 1) or false
    told_values[place] = value or 0
    return value and behind
end

--- Read a member of an object as servers write their usage. Answers where the next one begins, or
--- the object's last place; nil for what is written otherwise, or goes on.
local function read_member(text, at, place)
    told_names[place] = false
    if not at or byte(text, at) ~= QUOTE then
        return at and byte(text, at) == CLOSE and at or nil
    end
    local stop = find(text, '"', at + 1, true)
    local is_name = stop and byte(text, stop + 1) == COLON
    local behind = is_name and behind_value(text, at, stop, behind_spaces(text, stop + 2), place)
    local last = behind and byte(text, behind)
    if last == COMMA then
        return behind_spaces(text, behind + 1)
    end
    return last == CLOSE and behind or nil
end

--- Keep what a member told, if it told a number. Whether it is news.
local function take_told(counts, place)
    local name = told_names[place]
    return name and take(counts, name, told_values[place])
end

--- Read the members, of whom there are a few: the object's last place, or nil where it is written
--- otherwise, or goes on; and whether it told any news.
local function read_members(counts, text, at, last)
    at = read_member(text, behind_spaces(text, at + 1), 1)
    at = read_member(text, at, 2)
    at = read_member(text, at, 3)
    at = read_member(text, at, 4)
    at = read_member(text, at, 5)
    at = read_member(text, at, 6)
    if not at or at > last or byte(text, at) ~= CLOSE then
        return nil, false
    end
    local one, two, three = take_told(counts, 1), take_told(counts, 2), take_told(counts, 3)
    local four, five, six = take_told(counts, 4), take_told(counts, 5), take_told(counts, 6)
    return at, one or two or three or four or five or six or false
end

--- Readers of a value at a place, known to begin before `last`: its last place, or nil when it is
--- not whole, and whether it told any news.
local function read_any_object(counts, text, at, last)
    local stop = end_of_object(text, at, last)
    local object = stop and cjson.decode(sub(text, at, stop))
    local is_news = false
    for name, value in pairs(object or {}) do
        is_news = take(counts, name, value) or is_news
    end
    return stop, is_news
end

local function read_object(counts, text, at, last)
    if byte(text, at) ~= OPEN then
        return at - 1, false
    end
    local stop, is_news = read_members(counts, text, at, last)
    if stop then
        return stop, is_news
    end
    return read_any_object(counts, text, at, last)
end

local function read_any_number(counts, text, at, last, name)
    local _, stop = find(text, "^[%d.eE+-]+", at)
    if not stop then
        return at - 1, false
    end
    if stop >= last then
        return nil, false
    end
    return stop, take(counts, name, tonumber(sub(text, at, stop)))
end

local function read_number(counts, text, at, last, name)
    local first = byte(text, at)
    local value, behind
    if first and first >= ZERO and first <= NINE then
        value, behind = number_at(text, at)
    end
    if not value or behind > last then
        return read_any_number(counts, text, at, last, name)
    end
    return behind - 1, take(counts, name, value)
end

--- Of all dialects: counts that belong together; what reads the value of a name; how such names
--- end, which is rarer than how they begin; and how much of a text is seen again: the longest name,
--- its first quote, and what may stand before that.
local SUMS, READERS, NEEDLES, MAX_NAME = {}, {}, {}, 0
--- The names that end with a needle.
local NAMES = {}
--- Of them, those of the prompt and those of the answer.
local PROMPTS, COMPLETIONS = {}, {}

local function look_for(name, read)
    local needle = name:match("_?[^_]+$") .. '"'
    READERS[name] = read
    MAX_NAME = max(MAX_NAME, #name + 2)
    if not NAMES[needle] then
        NAMES[needle], NEEDLES[#NEEDLES + 1] = {}, needle
    end
    local names = NAMES[needle]
    if not names[name] then
        names[name], names[#names + 1] = true, name
    end
end

for _, dialect in ipairs(dialects.all()) do
    for _, sum in ipairs(dialect.usage_counts) do
        SUMS[#SUMS + 1] = sum
        PROMPTS[#PROMPTS + 1], COMPLETIONS[#COMPLETIONS + 1] = sum.prompt, sum.completion
        for _, name in ipairs(sum.object and { sum.object } or sum) do
            look_for(name, sum.object and read_object or read_number)
        end
    end
end

--- A function that is one expression, made of what the dialects tell.
local function made(head, parts, tail)
    return assert(loadstring(head .. table.concat(parts, ",") .. tail))()
end

local function initial_counts()
    local parts = {}
    for _, names in ipairs(SUMS) do
        for _, name in ipairs(names) do
            parts[#parts + 1] = name .. "=0"
        end
    end
    return made("return function() return {", parts, "} end")
end

local function greatest_of(sums)
    local parts = { "0" }
    for _, names in ipairs(sums) do
        parts[#parts + 1] = "c." .. table.concat(names, "+c.")
    end
    return made("local max = math.max return function(c) return max(", parts, ") end")
end

--- () -> a count of 0 for each name; counts -> the greatest of the sums.
local no_counts, greatest_sum = initial_counts(), greatest_of(SUMS)
local greatest_prompt, greatest_completion = greatest_of(PROMPTS), greatest_of(COMPLETIONS)

--- How many needles there may be, and names that end with one; what reads them names each.
local MOST_NEEDLES, MOST_NAMES = 4, 2
assert(#NEEDLES <= MOST_NEEDLES, "usage: `read` has to name one needle more")
for _, needle in ipairs(NEEDLES) do
    assert(#NAMES[needle] <= MOST_NAMES, "usage: `name_at` has to name one name more")
end

--- Where the first quote of a name stands whose last one is at `stop`; nil for another name.
local function quote_of(name, text, stop)
    local quote = stop - #name - 1
    return quote > 0 and byte(text, quote) == QUOTE and sub(text, quote + 1, stop - 1) == name
        and byte(text, quote - 1) ~= BACKSLASH and quote or nil
end

--- The name looked for that ends with a quote at `stop`, and the place of its first quote.
local function name_at(needle, text, stop)
    local names = NAMES[needle]
    local first, second = names[1], names[2]
    local quote = quote_of(first, text, stop)
    if quote then
        return first, quote
    end
    quote = second and quote_of(second, text, stop)
    return quote and second, quote
end

--- Read the value of a name that begins at `quote`: its last place, or nil when it is not whole and
--- may become so; and whether it told any news.
local function read_value(counts, text, name, quote)
    local last = min(#text, quote + MAX_TOLD - 1)
    local behind_name = quote + #name + 2
    local at = value_place(text, behind_name)
    if not at then
        return behind_name - 1, false
    end
    local stop, is_news
    if at <= last then
        stop, is_news = READERS[name](counts, text, at, last, name)
    end
    if not stop and last == quote + MAX_TOLD - 1 then
        return last, false
    end
    return stop, is_news
end

--- Read the next name behind a place that ends with a needle. Answers where reading ended, nil
--- where there is nothing more to be read; where the news ended, if there was any; and the place of
--- a name whose value is not whole.
local function read_name(needle, counts, text, most, done)
    local start, stop = find(text, needle, done + 1, true)
    if not start or start > most then
        return nil
    end
    local name, quote = name_at(needle, text, stop)
    if not name then
        return stop
    end
    local is_news
    stop, is_news = read_value(counts, text, name, quote)
    return stop, stop and is_news and stop or nil, not stop and quote or nil
end

--- The same of all that follow.
local function read_more(needle, counts, text, most, done, news_at)
    while true do
        local stop, news, waits_at = read_name(needle, counts, text, most, done)
        if not stop then
            return news_at, done, waits_at
        end
        done, news_at = stop, news or news_at
    end
end

--- Read the names that end with a needle, up to where another's value is not whole. Answers where
--- the last news ended, where reading ended, and the place of a name whose value is not whole.
local function read_names(needle, counts, text, most)
    local first, news_at, waits_at = read_name(needle, counts, text, most, 0)
    if not first then
        return nil, 0, waits_at
    end
    local second, third, news
    second, news, waits_at = read_name(needle, counts, text, most, first)
    news_at = news or news_at
    if not second then
        return news_at, first, waits_at
    end
    third, news, waits_at = read_name(needle, counts, text, most, second)
    news_at = news or news_at
    if not third or not find(text, needle, third + 1, true) then
        return news_at, third or second, waits_at
    end
    return read_more(needle, counts, text, most, third, news_at)
end

--- From where on a text is to be seen again, that was read up to a place: where a name may have
--- begun. None goes over the end of a line, or of an object.
local function seen_again(text, done)
    local last = byte(text, -1)
    if last == NEWLINE or last == CLOSE then
        return #text + 1
    end
    return max(done + 1, #text - MAX_NAME + 1)
end

--- The same beside what other needles have told.
local function read_beside(needle, counts, text, news, done, waits_at)
    local its_news, its_done, waiting = read_names(needle, counts, text, waits_at or #text)
    return its_news and max(news or 0, its_news) or news, max(done, its_done), waiting or waits_at
end

--- Read a text. Answers where the last news ended, and from where on the text is to be seen again.
--- Each needle is named, as a loop would end the trace.
local function read(meter, text)
    local one = find(text, NEEDLES[1], 1, true)
    local two, three = find(text, NEEDLES[2], 1, true), find(text, NEEDLES[3], 1, true)
    local four = find(text, NEEDLES[4], 1, true)
    if not (one or two or three or four) then
        return nil, seen_again(text, 0)
    end
    local counts = meter.counts or no_counts()
    meter.counts = counts
    local news, done, waits_at = nil, 0, nil
    if one then
        news, done, waits_at = read_names(NEEDLES[1], counts, text, #text)
    end
    if two then
        news, done, waits_at = read_beside(NEEDLES[2], counts, text, news, done, waits_at)
    end
    if three then
        news, done, waits_at = read_beside(NEEDLES[3], counts, text, news, done, waits_at)
    end
    if four then
        news, done, waits_at = read_beside(NEEDLES[4], counts, text, news, done, waits_at)
    end
    return news, waits_at or seen_again(text, done)
end

--- Count the events that begin in a chunk, and those of them behind the last news.
local function count_events(meter, chunk, news_at)
    local count, behind
    meter.begun, count, behind = stream_events.count(meter.begun, chunk, news_at or -math.huge)
    meter.events = meter.events + count
    meter.since = (news_at and 0 or meter.since) + behind
end

--- A meter for one answer.
---@return table meter
function _M.new()
    return {
        counts = nil, -- name -> the greatest that was told, once any was
        events = 0,
        since = 0, -- events behind the last news
        held = "", -- the end of what came, as far as it is to be seen again
        begun = "", -- the begin of a line, as stream_events has it
    }
end

--- Read what passes.
---@param meter table
---@param chunk string
function _M.feed(meter, chunk)
    if chunk == "" then
        return
    end
    local held = meter.held
    local text = held ~= "" and held .. chunk or chunk
    local news_at, from = read(meter, text)
    meter.held = sub(text, from)
    count_events(meter, chunk, news_at and news_at - #held)
end

--- The tokens of what has passed so far, apart. What no server has told, as where a stream ended
--- early, counts as the answer's: its events. One event alone is an answer that came whole.
---@param meter table
---@return integer prompt
---@return integer completion
function _M.apart(meter)
    local counts = meter.counts
    if not counts then
        return 0, meter.events <= 1 and 0 or meter.events
    end
    local prompt, completion = greatest_prompt(counts), greatest_completion(counts)
    local sum = greatest_sum(counts)
    if prompt + completion == 0 and (sum > 0 or meter.events <= 1) then
        return sum, 0
    end
    return prompt, max(completion, _M.total(meter) - prompt)
end

--- The tokens of what has passed so far.
---@param meter table
---@return integer tokens
---@return string source "usage" as the server told, or "events" where it told nothing or too little
function _M.total(meter)
    local usage = meter.counts and greatest_sum(meter.counts) or 0
    if usage == 0 then
        return meter.events, "events"
    end
    local total = max(
        usage + max(meter.since - CLOSING_EVENTS, 0),
        meter.events - SILENT_EVENTS
    )
    return total, total == usage and "usage" or "events"
end

---------
-- The filter.

--- Whether a text holds a name whose value is an object. Few texts do.
local function holds(text, name)
    local from = 1
    while true do
        local _, stop = find(text, name, from, true)
        if not stop then
            return false
        end
        local at = value_place(text, stop + 1)
        if at and byte(text, at) == OPEN then
            return true
        end
        from = stop + 1
    end
end

--- A filter for one stream of SSE, without the event that tells the usage and nothing else.
---@param asked table what a dialect asks for usage with (dialects.lua)
---@return table state
function _M.new_filter(asked)
    local name = asked.object .. '"'
    local function is_extra(event)
        local data = holds(event, name) and cjson.decode(stream_events.data(event))
        return type(data) == "table" and asked.is_answer(data)
    end
    return { reader = stream_events.new(), name = name, is_extra = is_extra }
end

--- A chunk without that event.
---@param state table of `new_filter`
---@param chunk string
---@param is_last boolean whether no more will come
---@return string
function _M.filter(state, chunk, is_last)
    if stream_events.is_whole(state.reader, chunk) and not holds(chunk, state.name) then
        return chunk
    end
    return stream_events.without(state.reader, chunk, is_last, state.is_extra)
end

return _M
