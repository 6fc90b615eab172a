---------
-- Which model a request names, read so strictly that whoever reads it behind us finds the same:
-- a JSON body (RFC 8259), a query, a multipart form (RFC 7578); and whether an allow-list has it.
-- Pure. It must never let pass what two readers could read in two ways: what it cannot be sure of
-- it refuses, and it never takes a pattern of Lua from what a client or an operator wrote.
-- JSON is one table of states, built below from the grammar, and one loop over the bytes, which
-- LuaJIT compiles: a body costs the same however it is nested or cut.

local bit = require("bit")
local ffi = require("ffi")
local new_table = require("table.new")

-- For the boundaries of a form: a file of many megabytes lies between them.
ffi.cdef("void *memmem(const void *in, size_t in_length, const void *what, size_t what_length);")

local C = ffi.C
local band, bor, bxor, lshift, tobit = bit.band, bit.bor, bit.bxor, bit.lshift, bit.tobit
local byte, char, find, gsub = string.byte, string.char, string.find, string.gsub
local lower, match, sub = string.lower, string.match, string.sub
local min = math.min

local MOST_DEPTH = 128
local MOST_NAMES = 1000
local MOST_NAME_BYTES = 1024
local MOST_MODEL_BYTES = 1024
local MOST_PLAIN = 256
local PAUSE_BYTES = 256 * 1024

local _M = {}

---------
-- Names and allow-lists.

local HOST, LIBRARY, LATEST = "registry.ollama.ai/", "library/", ":latest"

local function without_start(text, start)
    if sub(text, 1, #start) == start then
        return sub(text, #start + 1), true
    end
    return text, false
end

--- A name as Ollama would write it: several names of one model become one.
---@param name string
---@param is_ollama boolean for other servers a name is its bytes
---@return string
function _M.canonical(name, is_ollama)
    if not is_ollama then
        return name
    end
    local short = without_start(without_start(lower(name), HOST), LIBRARY)
    if sub(short, -#LATEST) == LATEST then
        return sub(short, 1, -#LATEST - 1)
    end
    return short
end

--- Whether a canonical name is one that a `*` may stand for. Not: a digest, which may be of any
--- model; a model that leaves the machine; Ollama's other word for where a model runs; and what
--- holds characters that no name has (Ollama trims, so `x:cloud ` would be `x:cloud`).
local function is_ordinary(name)
    if find(name, "[^%w%-_.:/]") then
        return false
    end
    local tag = match(name, ":([^:/]*)$")
    return tag ~= "cloud" and tag ~= "local" and not (tag and sub(tag, -6) == "-cloud")
end

--- The start that a pattern with `*` asks for. One that names the registry or the library means
--- what is in there alone: names with so many slashes, once they are canonical.
local function prefix_of(pattern, is_ollama)
    local start = sub(pattern, 1, -2)
    if not is_ollama then
        return { start = start, most_slashes = math.huge }
    end
    local rest, of_host = without_start(lower(start), HOST)
    local of_library
    rest, of_library = without_start(rest, LIBRARY)
    return { start = rest, most_slashes = of_library and 0 or of_host and 1 or math.huge }
end

--- An allow-list from the patterns of roles.json: exact names, or a start and `*`.
---@param patterns string[] they have no faults
---@param is_ollama boolean whether names are compared as Ollama does
---@return table|nil list nil for `*` alone: no limit
function _M.compile(patterns, is_ollama)
    if #patterns == 1 and patterns[1] == "*" then
        return nil
    end
    local list = { is_ollama = is_ollama, exact = {}, prefixes = {} }
    for _, pattern in ipairs(patterns) do
        if sub(pattern, -1) == "*" then
            list.prefixes[#list.prefixes + 1] = prefix_of(pattern, is_ollama)
        else
            list.exact[_M.canonical(pattern, is_ollama)] = true
        end
    end
    return list
end

local function slashes_of(name)
    local _, count = gsub(name, "/", "/")
    return count
end

local function has_prefix(prefixes, name)
    for i = 1, #prefixes do
        local prefix = prefixes[i]
        if sub(name, 1, #prefix.start) == prefix.start
            and slashes_of(name) <= prefix.most_slashes then
            return true
        end
    end
    return false
end

--- Whether a list allows a name.
---@param list table|nil from `compile`; nil allows all
---@param name string
---@return boolean
function _M.allows(list, name)
    if not list then
        return true
    end
    local canonical = _M.canonical(name, list.is_ollama)
    if list.exact[canonical] then
        return true
    end
    if list.is_ollama and not is_ordinary(canonical) then
        return false
    end
    return has_prefix(list.prefixes, canonical)
end

---------
-- Policy names: what is read of a body, and how.

--- Several letters are one to who folds case as Unicode does, Go's JSON among them: U+017F is an
--- s and U+212A a k.
local function folded(name)
    name = lower(name)
    if find(name, "\197\191", 1, true) or find(name, "\226\132\170", 1, true) then
        return (gsub(gsub(name, "\197\191", "s"), "\226\132\170", "k"))
    end
    return name
end

local function utf8(code)
    if code < 0x80 then
        return char(code)
    end
    if code < 0x800 then
        return char(0xC0 + math.floor(code / 64), 0x80 + code % 64)
    end
    return char(0xE0 + math.floor(code / 4096), 0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
end

local ESCAPES = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

local function unescaped(kind, digits)
    if kind ~= "u" then
        return (ESCAPES[kind] or kind) .. digits
    end
    return utf8(tonumber(digits, 16))
end

--- Two surrogates, three bytes each, are one character of four bytes.
local function joined(high, low)
    local _, a, b = byte(high, 1, 3)
    local _, c, d = byte(low, 1, 3)
    local code = 0x10000 + (a % 16 * 64 + b % 64) * 1024 + (c % 16 * 64 + d % 64)
    return char(0xF0 + math.floor(code / 262144), 0x80 + math.floor(code / 4096) % 64,
        0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
end

--- What stands between the quotes of a string whose grammar is right; nil for half a surrogate
--- pair, which is no character.
local function decoded(raw)
    if not find(raw, "\\", 1, true) then
        return raw
    end
    local text = gsub(raw, "\\(.)(%x?%x?%x?%x?)", unescaped)
    text = gsub(text, "(\237[\160-\175][\128-\191])(\237[\176-\191][\128-\191])", joined)
    return not find(text, "\237[\160-\191]") and text or nil
end

local QUOTE, LETTER_T, LETTER_N = byte('"tn', 1, 3)

--- A value that could name a model, or false.
local function text_of(bytes, from, to)
    local length = to - from - 2
    if bytes[from] ~= QUOTE or length <= 0 or length > MOST_MODEL_BYTES then
        return false
    end
    local raw = ffi.string(bytes + from + 1, length)
    local text = decoded(raw)
    -- Of control characters the grammar has let pass only DEL, and what was escaped.
    if not text or find(text, "\127", 1, true) or text ~= raw and find(text, "[%z\1-\31]") then
        return false
    end
    return text
end

local function is_null(bytes, from)
    return bytes[from] == LETTER_N
end

--- Go leaves a field as it was for null, so null is the same as "" to Ollama.
local function read_name(found, name, bytes, from, to)
    found[name] = text_of(bytes, from, to)
    if is_null(bytes, from) or bytes[from] == QUOTE and to - from == 2 then
        found.is_void = found.is_void or {}
        found.is_void[name] = true
    end
end

local function read_flag(found, name, bytes, from)
    found[name] = bytes[from] == LETTER_T
end

local function read_range(found, name, _, from, to)
    found[name] = { from = from, to = to }
end

local function read_second(found, name, bytes, from)
    if not found.second and not is_null(bytes, from) then
        found.second = name
    end
end

--- Name of the object -> what reads its value. The second selectors are what some server behind us
--- takes a model, or what is laid over one, from.
local POLICY = {
    model = read_name,
    name = read_name,
    stream = read_flag,
    stream_options = read_range,
    -- Ollama, where it copies and creates models
    source = read_second,
    destination = read_second,
    from = read_second,
    adapters = read_second,
    -- llama-server
    lora = read_second,
    -- LocalAI: who runs the model, which of its files, and the model in its ElevenLabs dialect
    backend = read_second,
    model_base_name = read_second,
    model_id = read_second,
    -- vLLM, where it loads adapters; LoRA servers and plugins
    lora_name = read_second,
    lora_path = read_second,
    adapter = read_second,
    lora_adapter = read_second,
    lora_adapters = read_second,
}

---------
-- The grammar as a table: state and byte -> the next state. The numbers from FIRST_EVENT on are no
-- states but events: something to be done, which answers the state.

local FIRST_EVENT, REFUSED = 224, 255

local next_state = ffi.new("uint8_t[65536]")
local is_text = ffi.new("bool[256]") -- states within a string, between two characters
ffi.fill(next_state, 65536, REFUSED)

local handlers = {}
local last_state, last_event = 0, FIRST_EVENT - 1

local function new_state()
    last_state = last_state + 1
    assert(last_state < FIRST_EVENT)
    return last_state
end

local function new_event(handler)
    last_event = last_event + 1
    assert(last_event < REFUSED)
    handlers[last_event] = handler
    return last_event
end

--- In a state, each of these bytes leads to another.
local function on(state, bytes, to)
    for place = 1, #bytes do
        next_state[state * 256 + byte(bytes, place)] = to
    end
end

--- Byte sets one after the other lead from a state to another.
local function path(state, sets, to)
    for place = 1, #sets - 1 do
        local known = next_state[state * 256 + byte(sets[place])]
        local between = known ~= REFUSED and known or new_state()
        on(state, sets[place], between)
        state = between
    end
    on(state, sets[#sets], to)
end

--- All that leads on from one state does from another too.
local function as(state, other)
    ffi.copy(next_state + state * 256, next_state + other * 256, 256)
end

local function range(first, last)
    local bytes = {}
    for value = first, last do
        bytes[#bytes + 1] = char(value)
    end
    return table.concat(bytes)
end

local SPACE = " \t\n\r"
local DIGITS, ONE_TO_NINE = "0123456789", "123456789"
local HEX = DIGITS .. "abcdefABCDEF"
local PLAIN = gsub(range(0x20, 0x7F), '["\\]', "")
local TAIL = range(0x80, 0xBF)
--- RFC 3629 section 4: no overlong form, no surrogate, nothing above U+10FFFF.
local CHARACTERS = {
    { range(0xC2, 0xDF), TAIL },
    { "\224", range(0xA0, 0xBF), TAIL },
    { range(0xE1, 0xEC), TAIL, TAIL },
    { "\237", range(0x80, 0x9F), TAIL },
    { "\238\239", TAIL, TAIL },
    { "\240", range(0x90, 0xBF), TAIL, TAIL },
    { range(0xF1, 0xF3), TAIL, TAIL, TAIL },
    { "\244", range(0x80, 0x8F), TAIL, TAIL },
}

--- The state behind the opening quote of a string (RFC 8259 section 7); the closing one leads on.
local function add_string(done)
    local text = new_state()
    is_text[text] = true
    on(text, PLAIN, text)
    on(text, '"', done)
    path(text, { "\\", '"\\/bfnrt' }, text)
    path(text, { "\\", "u", HEX, HEX, HEX, HEX }, text)
    for _, sets in ipairs(CHARACTERS) do
        path(text, sets, text)
    end
    return text
end

--- RFC 8259 section 6. A number may end in the first three.
local ENDS_OF_NUMBER = { "zero", "whole", "fraction", "exponent" }
local NUMBER = {
    { "value", "-", "minus" },
    { "value", "0", "zero" },
    { "value", ONE_TO_NINE, "whole" },
    { "minus", "0", "zero" },
    { "minus", ONE_TO_NINE, "whole" },
    { "whole", DIGITS, "whole" },
    { "zero", ".", "point" },
    { "whole", ".", "point" },
    { "point", DIGITS, "fraction" },
    { "fraction", DIGITS, "fraction" },
    { "zero", "eE", "e" },
    { "whole", "eE", "e" },
    { "fraction", "eE", "e" },
    { "e", "+-", "sign" },
    { "e", DIGITS, "exponent" },
    { "sign", DIGITS, "exponent" },
    { "exponent", DIGITS, "exponent" },
}

local function add_number(value, behind)
    local states = { value = value }
    for _, name in ipairs(ENDS_OF_NUMBER) do
        states[name] = new_state()
        as(states[name], behind)
    end
    for _, row in ipairs(NUMBER) do
        local from, bytes, to = row[1], row[2], row[3]
        states[to] = states[to] or new_state()
        on(states[from], bytes, states[to])
    end
end

--- What the scan of one body knows: it may pause, and another begin in the meantime.
---@class Scan
---@field bytes ffi.cdata*
---@field state integer
---@field depth integer how many objects and arrays are open
---@field stack ffi.cdata* by depth: the state when what is open there is closed
---@field from integer where the name or value of the top level begins that is being read
---@field name string the name of the member that is being read
---@field names table<string, boolean> of the top level
---@field count integer how many they are
---@field found table
---@field fault string|nil why it ended

local function refuse(scan)
    scan.fault = "invalid_json"
end

local goes_back_to, goes_into = {}, {} -- event of an opening brace or bracket -> state

local function open(scan, at, event)
    local depth = scan.depth
    if depth == MOST_DEPTH then
        return refuse(scan)
    end
    scan.stack[depth] = goes_back_to[event]
    scan.depth = depth + 1
    return goes_into[event], at
end

local function new_opening(into, back_to)
    local event = new_event(open)
    goes_into[event], goes_back_to[event] = into, back_to
    return event
end

local function close(scan, at)
    local depth = scan.depth - 1
    scan.depth = depth
    return scan.stack[depth], at
end

handlers[REFUSED] = refuse
local CLOSED = new_event(close)
local IN_OBJECT, IN_ARRAY = new_state(), new_state()

--- What may stand for a value, in a state that expects one: where it leads once its last byte is
--- read, and what may be behind a number, whose end only the next byte shows.
local function add_value(value, done, behind)
    on(value, SPACE, value)
    on(value, '"', add_string(done))
    add_number(value, behind)
    path(value, { "t", "r", "u", "e" }, done)
    path(value, { "f", "a", "l", "s", "e" }, done)
    path(value, { "n", "u", "l", "l" }, done)
    on(value, "{", new_opening(IN_OBJECT, done))
    on(value, "[", new_opening(IN_ARRAY, done))
end

local function add_array()
    local value, behind = new_state(), new_state()
    on(behind, SPACE, behind)
    on(behind, ",", value)
    on(behind, "]", CLOSED)
    add_value(value, behind, behind)
    as(IN_ARRAY, value)
    on(IN_ARRAY, SPACE, IN_ARRAY)
    on(IN_ARRAY, "]", CLOSED)
end

--- All of an object but its values: from its opening brace to a value, from behind one to its end.
local function add_members(first, quote, colon, value, behind, closed)
    local name = new_state()
    for _, state in ipairs({ first, name, colon, behind }) do
        on(state, SPACE, state)
    end
    on(first, '"', quote)
    on(first, "}", closed)
    on(name, '"', quote)
    on(colon, ":", value)
    on(behind, ",", name)
    on(behind, "}", closed)
end

local function add_object()
    local colon, value, behind = new_state(), new_state(), new_state()
    add_members(IN_OBJECT, add_string(colon), colon, value, behind, CLOSED)
    add_value(value, behind, behind)
end

--- One member's name is read: no other may be the same, nor nearly a policy name. To who reads it
--- as C does, a name ends at NUL.
local function judge_name(scan, raw)
    local name = #raw <= MOST_NAME_BYTES and decoded(raw)
    if not name or scan.count == MOST_NAMES or find(name, "\0", 1, true) then
        return refuse(scan)
    end
    local near = folded(name)
    if scan.names[name] or near ~= name and POLICY[near] then
        scan.fault = "duplicate"
        return nil
    end
    scan.names[name], scan.count = true, scan.count + 1
    scan.name = name
    return true
end

--- The object itself: as any other, but its names and its values are events.
local function add_top(first, finished)
    local colon, value, behind, content = new_state(), new_state(), new_state(), new_state()
    local text = add_string(new_event(function(scan, at)
        local from = scan.from
        if judge_name(scan, ffi.string(scan.bytes + from, at - 1 - from)) then
            return colon, at
        end
    end))
    local quote = new_event(function(scan, at)
        scan.from = at
        return text, at
    end)
    local begun = new_event(function(scan, at)
        scan.from = at - 1
        return content, at - 1
    end)
    local function finish(scan, at)
        local read = POLICY[scan.name]
        if read then
            read(scan.found, scan.name, scan.bytes, scan.from, at)
        end
        return behind, at
    end
    local done, number_done = new_state(), new_event(function(scan, at)
        return finish(scan, at - 1)
    end)
    add_members(first, quote, colon, value, behind, finished)
    on(value, SPACE, value)
    on(value, '"-tfn[{' .. DIGITS, begun)
    on(done, SPACE .. ",}", number_done)
    add_value(content, new_event(finish), done)
end

local START, FINISHED = new_state(), new_state()
do
    local first = new_state()
    add_array()
    add_object()
    add_top(first, FINISHED)
    on(START, SPACE, START)
    on(FINISHED, SPACE, FINISHED)
    on(START, "{", new_event(function(scan, at)
        scan.found.brace = at - 1
        return first, at
    end))
end

---------
-- The scan.

local words_at = ffi.typeof("const int32_t *")
local HIGH_BITS, ONES, SPACES = tobit(0x80808080), 0x01010101, 0x20202020
local QUOTES, BACKSLASHES = 0x22222222, 0x5C5C5C5C
local STEP = 16
--- Only where a string crosses a multiple of so many bytes is its text leapt over: to look more
--- often costs short strings more than it saves long ones (measured).
local LEAP_AT = 31

--- A high bit in the answer: somewhere in these four bytes is a control character, a quote, a
--- backslash, or no ASCII. The other bits mean nothing.
local function signs(word)
    return bor(word, word - SPACES, bxor(word, QUOTES) - ONES, bxor(word, BACKSLASHES) - ONES)
end

--- Leaps over the plain ASCII of a string. Words need not be aligned where LuaJIT has a gateway.
local function leap(bytes, at, stop)
    local last = stop - STEP
    while at <= last do
        local words = ffi.cast(words_at, bytes + at)
        local seen = bor(signs(words[0]), signs(words[1]), signs(words[2]), signs(words[3]))
        if band(seen, HIGH_BITS) ~= 0 then
            return at
        end
        at = at + STEP
    end
    return at
end

-- LuaJIT compiles a loop as it is when it first becomes hot, and this one should leap; of the same
-- type, or it would be another loop.
local practice = ffi.new("unsigned char[4096]", byte("x"))
leap(ffi.cast("const unsigned char *", practice), 0, ffi.sizeof(practice))

--- An event may answer another one.
local function handle(scan, at, event)
    local state = event
    repeat
        state, at = handlers[state](scan, at, state)
    until not state or state < FIRST_EVENT
    return state, at
end

--- From a place up to another; answers nil where it is refused.
local function run(scan, at, stop)
    local bytes, state = scan.bytes, scan.state
    while at < stop do
        state = next_state[bor(lshift(state, 8), bytes[at])]
        at = at + 1
        if state >= FIRST_EVENT then
            state, at = handle(scan, at, state)
            if not state then
                return nil
            end
        elseif band(at, LEAP_AT) == 0 and is_text[state] then
            at = leap(bytes, at, stop)
        end
    end
    scan.state = state
    return at
end

local function new_scan(bytes)
    return {
        bytes = bytes,
        state = START,
        depth = 1,
        stack = ffi.new("uint8_t[128]"),
        from = 0,
        name = "",
        names = new_table(0, 16),
        count = 0,
        found = {},
        fault = nil,
    }
end

--- Reads a body that must be one JSON object, strictly (RFC 8259), and answers what it says of the
--- policy names. `model` and `name`: the text, or false for what is none. `is_void`: which of these
--- are "" or null. `stream`: whether it is true. `stream_options`: its bytes, {from, to}, the last
--- not among them. `second`: another name that chooses a model. `brace`: where the object begins.
---@param bytes ffi.cdata* const unsigned char *
---@param length integer
---@param pause function|nil called now and then in a long body; others may scan meanwhile
---@return table|nil found, string|nil reason "invalid_json" or "duplicate"
function _M.scan(bytes, length, pause)
    local scan = new_scan(bytes)
    local at = 0
    while at < length do
        at = run(scan, at, min(at + PAUSE_BYTES, length))
        if not at then
            return nil, scan.fault
        end
        if pause and at < length then
            pause()
        end
    end
    if scan.state ~= FINISHED then
        return nil, "invalid_json"
    end
    return scan.found
end

local function from_body(found)
    if not found.model then
        return nil, "missing"
    end
    return found.model
end

--- Ollama takes `name` where `model` is empty.
local function from_body_or_name(found)
    local void = found.is_void or {}
    local model, name = found.model, found.name
    if model == false and not void.model or name == false and not void.name then
        return nil, "missing"
    end
    if not model or not name then
        return from_body({ model = model or name })
    end
    if _M.canonical(model, true) ~= _M.canonical(name, true) then
        return nil, "duplicate"
    end
    return model
end

local FROM_JSON = { body = from_body, ["body-or-name"] = from_body_or_name }

--- The model of a body that was scanned.
---@param found table from `scan`
---@param word string "body" or "body-or-name", the route's
---@return string|nil name, string|nil reason "missing", "duplicate", or "invalid"
function _M.from_json(found, word)
    if found.second then
        return nil, "invalid"
    end
    return FROM_JSON[word](found)
end

--- Whether a body is said to be JSON, in an encoding that we read.
---@param content_type string|nil
---@return boolean
function _M.is_json(content_type)
    local kind, rest = match(lower(content_type or ""), "^(application/json)[ \t]*(.*)$")
    return kind ~= nil and (rest == "" or match(rest, '^;[ \t]*charset="?utf%-8"?$') ~= nil)
end

---------
-- The query.

--- What percent signs and plus signs stand for; nil where one stands for nothing.
local function unquoted(text)
    if find(gsub(text, "%%%x%x", ""), "%", 1, true) then
        return nil
    end
    return (gsub(gsub(text, "+", " "), "%%(%x%x)", function(digits)
        return char(tonumber(digits, 16))
    end))
end

local NAMES_OF_MODEL = { model = true, name = true }

--- Whether some reader could take this for the name of a model's parameter. One that cannot be
--- decoded may be anything: llama-server reads `%u006d` as an m.
local function is_name_of_model(raw)
    local name = unquoted(raw)
    return not name or NAMES_OF_MODEL[gsub(lower(name), "[%s%z%c]", "")] or false
end

--- Its parameters that may name a model: how many, the last one's raw name and value. Some readers
--- take a semicolon for an ampersand.
local function model_parameters(query)
    local count, name, value = 0, nil, nil
    for parameter in query:gmatch("[^&;?]+") do
        local its_name, its_value = match(parameter, "^([^=]*)=?(.*)$")
        if is_name_of_model(its_name) then
            count, name, value = count + 1, its_name, its_value
        end
    end
    return count, name, value
end

--- Whether a query names a model in any way.
---@param query string
---@return boolean
function _M.names_model(query)
    return query ~= "" and model_parameters(query) > 0
end

--- What an allow-list could hold, and every reader reads alike.
local function is_plain(name)
    return name ~= "" and #name <= MOST_PLAIN and not find(name, "[^!#-~]")
        and not find(name, "\\", 1, true)
end

--- The model that a query names.
---@param query string with or without its question mark
---@return string|nil name, string|nil reason "missing" or "duplicate"
function _M.from_query(query)
    local count, name, value = model_parameters(query)
    if count == 0 or count == 1 and name == "model" and value == "" then
        return nil, "missing"
    end
    local model = unquoted(value)
    if count > 1 or name ~= "model" or find(query, ";", 1, true)
        or not model or not is_plain(model) then
        return nil, "duplicate"
    end
    return model
end

---------
-- The form.

local MOST_PARTS = 1000
local MOST_HEAD_BYTES = 4096
local LINE_END = "\r\n"
local HEAD_END = LINE_END .. LINE_END
--- What the headers of a part may be. Others say nothing to the servers behind us.
local PART_HEADERS = {
    ["content-disposition"] = true,
    ["content-type"] = true,
    ["content-length"] = true,
    ["content-transfer-encoding"] = true,
}
local PART_PARAMETERS = { name = true, filename = true, ["filename*"] = true }
--- Go decodes quoted-printable by itself.
local SAME_BYTES = { ["7bit"] = true, ["8bit"] = true, binary = true }
local PLAIN_TEXT = {
    ["text/plain"] = true,
    ["text/plain;charset=utf-8"] = true,
    ["text/plain;charset=us-ascii"] = true,
}

--- The boundary in a Content-Type (RFC 2046 section 5.1.1). It must be the only parameter: with a
--- charset the same bytes would be another name.
---@param content_type string|nil
---@return string|nil
function _M.boundary_of(content_type)
    local value = match(content_type or "", "^multipart/form%-data[ \t]*;[ \t]*boundary=(.+)$")
    if not value then
        return nil
    end
    local boundary = match(value, "^[%w'+_.-]+$") or match(value, "^\"([%w'()+_,./:=?-]+)\"$")
    return boundary and #boundary <= 70 and boundary or nil
end

--- Where a text is, from a place on.
local function place_of(bytes, from, length, text, pause)
    local most = PAUSE_BYTES + #text - 1
    while from < length do
        local hit = C.memmem(bytes + from, min(most, length - from), text, #text)
        if hit ~= nil then
            return tonumber(ffi.cast("const unsigned char *", hit) - bytes)
        end
        from = from + PAUSE_BYTES
        if pause and from < length then
            pause()
        end
    end
    return nil
end

--- The parameters of `form-data`: quoted texts without anything that one reader takes for an end
--- and another does not. A filename may be told twice, in plain and encoded (RFC 5987).
local function parameters_of(disposition)
    local rest = match(disposition, "^form%-data(.*)$")
    local parameters = {}
    while rest and rest ~= "" do
        local key, value, behind = match(rest, '^; *(%a+)="([^"\\;]*)"(.*)$')
        if not key then
            key, value, behind = match(rest, "^; *(%a+%*)=([%w!#$&+^_`|~%%.'-]+)(.*)$")
        end
        if not PART_PARAMETERS[key] or parameters[key] then
            return nil
        end
        parameters[key], rest = value, behind
    end
    return rest and parameters
end

--- The headers of a part by their lower-case names; nil for one more than we know, one that is
--- there twice, or goes on in the next line.
local function headers_of(head)
    local headers = {}
    for line in (head .. LINE_END):gmatch("(.-)\r\n") do
        local name, value = match(line, "^([%w-]+):[ \t]*([^%z\1-\31\127]*)$")
        name = name and lower(name)
        if not PART_HEADERS[name] or headers[name] then
            return nil
        end
        headers[name] = value
    end
    local encoding = headers["content-transfer-encoding"]
    return (not encoding or SAME_BYTES[lower(encoding)]) and headers or nil
end

--- Whether a part is the field `model`, written in the one way that all read alike; nil for one
--- that some may take for it.
local function is_model(headers, parameters)
    local name = parameters.name
    if gsub(lower(name), "[%s%z%c]", "") ~= "model" then
        return false
    end
    local kind = gsub(lower(headers["content-type"] or "text/plain"), "[ \t]", "")
    local is_field = name == "model" and not parameters.filename and not parameters["filename*"]
        and not headers["content-transfer-encoding"] and PLAIN_TEXT[kind]
    return is_field or nil
end

--- Which part lies in [from, to): the model's name, or "" for another, or nil and the reason.
local function read_part(bytes, from, to)
    local start = ffi.string(bytes + from, min(to - from, MOST_HEAD_BYTES))
    local head_end = find(start, HEAD_END, 1, true)
    local headers = head_end and headers_of(sub(start, 1, head_end - 1))
    local parameters = headers and parameters_of(headers["content-disposition"] or "")
    if not parameters or not parameters.name then
        return nil, "invalid"
    end
    local is_its = is_model(headers, parameters)
    if not is_its then
        return is_its == false and "" or nil, "duplicate"
    end
    local value = sub(start, head_end + #HEAD_END)
    if from + #start < to or not is_plain(value) then
        return nil, "invalid"
    end
    return value
end

--- What is behind a boundary: the next part begins, or the form ends, or nothing is right.
local function behind_boundary(bytes, at, length)
    local rest = ffi.string(bytes + at, min(length - at, 5))
    if sub(rest, 1, 2) == LINE_END then
        return "part"
    end
    return (rest == "--" or rest == "--" .. LINE_END) and "end" or "fault"
end

local function ends_line(bytes, from, at)
    return at - 2 >= from and ffi.string(bytes + at - 2, 2) == LINE_END
end

--- The model of a multipart form: the one field `model`. The boundary may be nowhere but where it
--- belongs, not even within a file, so that none finds another part than we did.
---@param bytes ffi.cdata* const unsigned char *
---@param length integer
---@param boundary string from `boundary_of`
---@param pause function|nil
---@return string|nil name, string|nil reason "missing", "duplicate" or "invalid"
function _M.from_form(bytes, length, boundary, pause)
    local delimiter = "--" .. boundary
    local model
    local at = place_of(bytes, 0, min(length, #delimiter), delimiter)
    for _ = 1, MOST_PARTS do
        local follows = at and behind_boundary(bytes, at + #delimiter, length)
        if follows == "end" then
            return model, not model and "missing" or nil
        end
        if follows ~= "part" then
            return nil, "invalid"
        end
        local from = at + #delimiter + #LINE_END
        at = place_of(bytes, from, length, delimiter, pause)
        if not at or not ends_line(bytes, from, at) then
            return nil, "invalid"
        end
        local value, reason = read_part(bytes, from, at - #LINE_END)
        if not value or value ~= "" and model then
            return nil, reason or "duplicate"
        end
        model = model or value ~= "" and value or nil
    end
    return nil, "invalid"
end

return _M
