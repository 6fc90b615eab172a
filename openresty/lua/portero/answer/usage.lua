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
-- The filter holds an event back that is not whole, and nothing else.

local cjson = require("cjson.safe")
local dialects = require("portero.dialect.dialects")
local stream_events = require("portero.answer.stream_events")

local byte, find, sub = string.byte, string.find, string.sub

local MAX_TOKENS = 1e9
--- The longest piece of JSON that is waited for, from its name on.
local MAX_TOLD = 4096
--- Events behind the last count that carry no text: "message_stop", a count told twice.
local CLOSING_EVENTS = 2
--- Events of a whole answer that carry no text.
local SILENT_EVENTS = 16

local BACKSLASH, QUOTE, COLON, OPEN, CLOSE, NEWLINE = byte('\\":{}\n', 1, 6)
local SPACES = { [byte(" ")] = true, [byte("\t")] = true, [byte("\r")] = true, [byte("\n")] = true }

local _M = {}

--- The first place from `at` on that is no space.
local function behind_spaces(text, at)
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

--- Readers of a value at a place, known to begin before `last`: its last place, or nil when it is
--- not whole, and whether it told any news.
local function read_object(counts, text, at, last)
    if byte(text, at) ~= OPEN then
        return at - 1, false
    end
    local stop = end_of_object(text, at, last)
    local object = stop and cjson.decode(sub(text, at, stop))
    local is_news = false
    for name, value in pairs(object or {}) do
        is_news = take(counts, name, value) or is_news
    end
    return stop, is_news
end

local function read_number(counts, text, at, last, name)
    local _, stop = find(text, "^[%d.eE+-]+", at)
    if not stop then
        return at - 1, false
    end
    if stop >= last then
        return nil, false
    end
    return stop, take(counts, name, tonumber(sub(text, at, stop)))
end

--- Of all dialects: counts that belong together; what reads the value of a name; how such names
--- end, which is rarer than how they begin; and how much of a text is seen again: the longest name,
--- its first quote, and what may stand before that.
local SUMS, READERS, NEEDLES, MAX_NAME = {}, {}, {}, 0
--- Of them, those of the prompt and those of the answer.
local PROMPTS, COMPLETIONS = {}, {}

local function look_for(name, read)
    local needle = name:match("_?[^_]+$") .. '"'
    READERS[name] = read
    MAX_NAME = math.max(MAX_NAME, #name + 2)
    if not NEEDLES[needle] then
        NEEDLES[needle], NEEDLES[#NEEDLES + 1] = true, needle
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

--- The name looked for that ends with a quote at `stop`, and the place of its first quote.
local function name_at(text, stop)
    for quote = stop - 1, math.max(1, stop - MAX_NAME), -1 do
        if byte(text, quote) == QUOTE then
            local name = sub(text, quote + 1, stop - 1)
            return READERS[name] and byte(text, quote - 1) ~= BACKSLASH and name, quote
        end
    end
end

--- Read the value of a name that begins at `quote`: its last place, or nil when it is not whole and
--- may become so; and whether it told any news.
local function read_value(counts, text, name, quote)
    local last = math.min(#text, quote + MAX_TOLD - 1)
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

--- Read the names that end with a needle, up to where another's value is not whole. Answers where
--- the last news ended, where reading ended, and the place of a name whose value is not whole.
local function read_names(needle, counts, text, most)
    local news_at, done = nil, 0
    while true do
        local start, stop = find(text, needle, done + 1, true)
        if not start or start > most then
            return news_at, done
        end
        local name, quote = name_at(text, stop)
        if name then
            local is_news
            stop, is_news = read_value(counts, text, name, quote)
            if not stop then
                return news_at, done, quote
            end
            news_at = is_news and stop or news_at
        end
        done = stop
    end
end

--- From where on a text is to be seen again, that was read up to a place: where a name may have
--- begun. None goes over the end of a line.
local function seen_again(text, done)
    if byte(text, -1) == NEWLINE then
        return #text + 1
    end
    return math.max(done + 1, #text - MAX_NAME + 1)
end

--- Read a text. Answers where the last news ended, and from where on the text is to be seen again.
local function read(counts, text)
    local news_at, done, waits_at = nil, 0, nil
    for index = 1, #NEEDLES do
        local most = waits_at or #text
        local news, read_to, waiting = read_names(NEEDLES[index], counts, text, most)
        news_at = news and math.max(news, news_at or 0) or news_at
        done = math.max(done, read_to)
        waits_at = waiting or waits_at
    end
    return news_at, waits_at or seen_again(text, done)
end

--- Count the events that begin in a chunk, and those of them behind the last news.
local function count_events(meter, chunk, news_at)
    local count, behind
    meter.begun, count, behind = stream_events.count(meter.begun, chunk, news_at or -math.huge)
    meter.events = meter.events + count
    meter.since = (news_at and 0 or meter.since) + behind
end

local function no_counts()
    local counts = {}
    for _, names in ipairs(SUMS) do
        for _, name in ipairs(names) do
            counts[name] = 0
        end
    end
    return counts
end

--- A meter for one answer.
---@return table meter
function _M.new()
    return {
        counts = no_counts(), -- name -> the greatest that was told
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
    local held = meter.held
    local text = held ~= "" and held .. chunk or chunk
    local news_at, from = read(meter.counts, text)
    meter.held = sub(text, from)
    count_events(meter, chunk, news_at and news_at - #held)
end

--- The greatest of some sums.
local function greatest(counts, sums)
    local most = 0
    for _, names in ipairs(sums) do
        local sum = 0
        for _, name in ipairs(names) do
            sum = sum + counts[name]
        end
        most = math.max(most, sum)
    end
    return most
end

--- The tokens of what has passed so far, apart. What no server has told, as where a stream ended
--- early, counts as the answer's: its events. One event alone is an answer that came whole.
---@param meter table
---@return integer prompt
---@return integer completion
function _M.apart(meter)
    local prompt, completion = greatest(meter.counts, PROMPTS), greatest(meter.counts, COMPLETIONS)
    local sum = greatest(meter.counts, SUMS)
    if prompt + completion == 0 and (sum > 0 or meter.events <= 1) then
        return sum, 0
    end
    return prompt, math.max(completion, _M.total(meter) - prompt)
end

--- The tokens of what has passed so far.
---@param meter table
---@return integer tokens
---@return string source "usage" as the server told, or "events" where it told nothing or too little
function _M.total(meter)
    local usage = greatest(meter.counts, SUMS)
    if usage == 0 then
        return meter.events, "events"
    end
    local total = math.max(
        usage + math.max(meter.since - CLOSING_EVENTS, 0),
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
