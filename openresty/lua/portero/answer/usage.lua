---------
-- How many LLM tokens an answer used, and a stream without the event that says so where only the
-- gateway has asked for it. Pure: bytes come in as chunks, cut anywhere.
--
-- A meter takes the counts that servers tell: OpenAI's, Anthropic's and Responses' object `usage`,
-- the numbers of Ollama's last line and of llama-server's own completions. A name counts where it
-- is one of JSON: a quote inside a string is escaped. The greatest of each count is kept, for they
-- are cumulative, or come in parts. Events are counted beside them, one token each: a caller who
-- always leaves before the last one, or has the model write counts of its own, pays for those.
-- A meter keeps 4 KiB at most, and must never hold an answer back.
--
-- The filter holds an event back that is not whole, and nothing else. It must never change a byte
-- of an event that it lets pass.

local cjson = require("cjson.safe")

local byte, find, sub = string.byte, string.find, string.sub

local MAX_TOKENS = 1e9
--- The longest piece of JSON that is waited for, from its name on.
local MAX_TOLD = 4096
--- The longest name, its first quote, and what may stand before that: so much is seen again.
local MAX_NAME = 19
local MAX_EVENT = 65536
--- Events behind the last count that carry no text: "message_stop", a count told twice.
local CLOSING_EVENTS = 2
--- Events of a whole answer that carry no text.
local SILENT_EVENTS = 16

--- Counts that belong together: what came in and what went out.
local SUMS = {
    { "total_tokens" },
    { "prompt_tokens", "completion_tokens" },
    {
        "input_tokens", "output_tokens",
        "cache_creation_input_tokens", "cache_read_input_tokens",
    },
    { "prompt_eval_count", "eval_count" },
    { "tokens_evaluated", "tokens_predicted" },
}

local BACKSLASH, QUOTE, COLON, OPEN, CLOSE = byte('\\":{}', 1, 5)
local SPACE, NEWLINE, BRACKET, CLOSING_BRACKET, LETTER_D = byte(" \n[]d", 1, 5)
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

--- What is looked for. A needle that begins with a rare letter is found soonest.
local ROWS = {
    { needle = 'usage"', names = { "usage" }, read = read_object },
    { needle = '_count"', names = { "eval_count", "prompt_eval_count" }, read = read_number },
    { needle = '_predicted"', names = { "tokens_predicted" }, read = read_number },
    { needle = '_evaluated"', names = { "tokens_evaluated" }, read = read_number },
}

--- The name that ends with a quote at `stop`, and the place of its first quote.
local function name_at(text, stop, names)
    for _, name in ipairs(names) do
        local quote = stop - 1 - #name
        if byte(text, quote) == QUOTE and sub(text, quote + 1, stop - 1) == name then
            return byte(text, quote - 1) ~= BACKSLASH and name, quote
        end
    end
end

--- Read the value of a name that begins at `quote`: its last place, or nil when it is not whole and
--- may become so; and whether it told any news.
local function read_value(row, counts, text, name, quote)
    local last = math.min(#text, quote + MAX_TOLD - 1)
    local behind_name = quote + #name + 2
    local at = value_place(text, behind_name)
    if not at then
        return behind_name - 1, false
    end
    local stop, is_news
    if at <= last then
        stop, is_news = row.read(counts, text, at, last, name)
    end
    if not stop and last == quote + MAX_TOLD - 1 then
        return last, false
    end
    return stop, is_news
end

--- Read what one row looks for, up to where another's value is not whole. Answers where the last
--- news ended, where reading ended, and the place of a name whose value is not whole.
local function read_row(row, counts, text, most)
    local news_at, done = nil, 0
    while true do
        local start, stop = find(text, row.needle, done + 1, true)
        if not start or start > most then
            return news_at, done
        end
        local name, quote = name_at(text, stop, row.names)
        if name then
            local is_news
            stop, is_news = read_value(row, counts, text, name, quote)
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
    for index = 1, #ROWS do
        local news, read_to, waiting = read_row(ROWS[index], counts, text, waits_at or #text)
        news_at = news and math.max(news, news_at or 0) or news_at
        done = math.max(done, read_to)
        waits_at = waiting or waits_at
    end
    return news_at, waits_at or seen_again(text, done)
end

--- Whether an event begins at the begin of a line; nil when that is still to come.
local function is_event(text, at)
    local first = byte(text, at)
    if first ~= LETTER_D then
        return first == OPEN
    end
    local start = sub(text, at, at + 4)
    local behind = at + 5 + (byte(text, at + 5) == SPACE and 1 or 0)
    if behind > #text and start == sub("data:", 1, #start) then
        return nil
    end
    -- "[DONE]" is none.
    return start == "data:" and byte(text, behind) ~= BRACKET
end

--- Behind the end of the line that `at` is in, or nil.
local function next_line(text, at, line_end)
    local stop = find(text, line_end, at, true)
    return stop and stop + 1
end

--- Count the events that begin in a chunk, and those of them behind the last news.
local function count_events(meter, chunk, news_at)
    local begun = meter.begun
    local text = (begun and begun ~= "") and begun .. chunk or chunk
    local line_end = find(text, "\n", 1, true) and "\n" or "\r"
    local at = begun and 1 or next_line(text, 1, line_end)
    local before = #text - #chunk
    meter.since = news_at and 0 or meter.since
    while at and at <= #text do
        local counts = is_event(text, at)
        if counts == nil then
            break
        end
        if counts then
            meter.events = meter.events + 1
            meter.since = meter.since + ((not news_at or at - before > news_at) and 1 or 0)
        end
        at = next_line(text, at, line_end)
    end
    meter.begun = at and sub(text, at)
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
        begun = "", -- the begin of a line whose kind cannot be told yet; nil inside a line
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

local function told(counts)
    local most = 0
    for _, names in ipairs(SUMS) do
        local sum = 0
        for _, name in ipairs(names) do
            sum = sum + counts[name]
        end
        most = math.max(most, sum)
    end
    return most
end

--- The tokens of what has passed so far.
---@param meter table
---@return integer tokens
---@return string source "usage" as the server told, or "events" where it told nothing or too little
function _M.total(meter)
    local usage = told(meter.counts)
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

--- Whether a text holds a name, its last quote with it, whose value begins with these characters.
local function holds(text, name, first, second)
    local from = 1
    while true do
        local _, stop = find(text, name, from, true)
        if not stop then
            return false
        end
        local at = value_place(text, stop + 1)
        if at and byte(text, at) == first
            and (not second or byte(text, behind_spaces(text, at + 1)) == second) then
            return true
        end
        from = stop + 1
    end
end

--- Few texts do, and only those are looked at event by event.
local function may_tell(text)
    return holds(text, 'usage"', OPEN)
end

--- The data of an event, its lines joined.
local function data_of(event)
    local lines = {}
    for line in event:gmatch("[^\r\n]+") do
        lines[#lines + 1] = line:match("^data:(.*)$")
    end
    return table.concat(lines, "\n")
end

--- Whether an event is the one that tells the usage and nothing else.
local function is_extra(event)
    if not may_tell(event) or not holds(event, 'choices"', BRACKET, CLOSING_BRACKET) then
        return false
    end
    local data = cjson.decode(data_of(event))
    return type(data) == "table" and type(data.usage) == "table"
        and type(data.choices) == "table" and next(data.choices) == nil
end

local function end_by_newlines(text, from)
    local _, stop = find(text, "\n\n", from, true)
    return stop
end

--- A line may end with \n, \r\n or \r. Behind "\r\r" nothing is waited for, so that its event goes
--- at once; behind "\n\r" a "\n" is.
local function end_by_any(text, from)
    while true do
        local at = find(text, "[\r\n][\r\n]", from)
        local pair = at and sub(text, at, at + 1)
        if pair == "\n\r" then
            local third = sub(text, at + 2, at + 2)
            return third ~= "" and at + (third == "\n" and 2 or 1) or nil
        end
        if pair ~= "\r\n" then
            return at and at + 1
        end
        from = at + 1
    end
end

local function is_whole(chunk)
    local ending = sub(chunk, -2)
    return ending == "\n\n" or ending == "\r\r" or sub(chunk, -4) == "\r\n\r\n"
end

--- A filter for one stream.
---@return table state
function _M.new_filter()
    return {
        parts = {}, -- the begin of an event that is not whole
        size = 0, -- of the parts
        tail = "", -- the last characters of the event that is not whole
        is_passing = false, -- whether that event passes as it comes, being too long
    }
end

local function forget(state)
    state.parts, state.size, state.tail, state.is_passing = {}, 0, "", false
end

--- Hold the begin of an event, or let it go where it is too long to be held.
local function hold(state, piece, out)
    state.tail = sub(state.tail .. piece, -2)
    local parts = state.is_passing and out or state.parts
    parts[#parts + 1] = piece
    state.size = state.size + #piece
    if state.size > MAX_EVENT and not state.is_passing then
        out[#out + 1] = table.concat(state.parts)
        state.parts, state.is_passing = {}, true
    end
end

--- Let an event go that has become whole, unless it is the extra one.
local function let_go(state, piece, out)
    state.parts[#state.parts + 1] = piece
    local event = table.concat(state.parts)
    if state.is_passing or not is_extra(event) then
        out[#out + 1] = event
    end
    forget(state)
end

--- Go through a chunk event by event: an empty line ends one.
local function split(state, chunk)
    local out = {}
    local text = state.tail .. chunk
    local end_of_event = find(text, "\r", 1, true) and end_by_any or end_by_newlines
    local from = #state.tail + 1
    local stop = end_of_event(text, 1)
    while stop do
        let_go(state, sub(text, from, stop), out)
        from = stop + 1
        stop = end_of_event(text, from)
    end
    if from <= #text then
        hold(state, sub(text, from), out)
    end
    return out
end

--- A chunk without the extra event.
---@param state table of `new_filter`
---@param chunk string
---@param is_last boolean whether no more will come
---@return string
function _M.filter(state, chunk, is_last)
    if state.size == 0 and is_whole(chunk) and not may_tell(chunk) then
        return chunk
    end
    local out = split(state, chunk)
    if is_last then
        out[#out + 1] = table.concat(state.parts)
        forget(state)
    end
    return table.concat(out)
end

return _M
