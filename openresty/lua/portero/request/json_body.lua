---------
-- The strict scan of a JSON body (RFC 8259): what it says under the policy names, read so that
-- whoever reads it behind us finds the same.
-- Pure. It must never let pass what two readers could read in two ways, nor look behind the body's
-- last byte. What the names mean is not its matter.
-- The grammar is one table of states, built below, and one loop over the bytes, which LuaJIT
-- compiles: a body costs the same however it is nested or cut. Within the outermost object it looks
-- along the paths of a watch alone, and where nobody gives one not at all.

local bit = require("bit")
local cjson = require("cjson.safe")
local ffi = require("ffi")
local header_parameters = require("portero.request.header_parameters")
local json_text = require("portero.request.json_text")
local clear_table = require("table.clear")
local new_table = require("table.new")

local bytes_at = ffi.typeof("const unsigned char *")
local band, bor, lshift = bit.band, bit.bor, bit.lshift
local byte, char, find, gsub = string.byte, string.char, string.find, string.gsub
local lower = string.lower
local leap, min = json_text.leap, math.min

local MAX_DEPTH = 128
local MAX_NAMES = 1000
local MAX_NAME_BYTES = 1024
local MAX_MODEL_BYTES = 1024
local MAX_RANGE_BYTES = 4096
local MAX_SHOWN_BYTES = 96
local PAUSE_BYTES = 256 * 1024
--- What most bodies say of the policy names: found's table need not grow.
local FOUND_FIELDS = 8
--- How many names of bodies are remembered, and of what length.
local MAX_KNOWN, MAX_KNOWN_BYTES = 500, 64
--- Behind so many names a scan's table is thrown away rather than cleared.
local MAX_KEPT_NAMES = 64

local _M = {}

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

--- What stands between the quotes of a string whose grammar is right; nil for half a surrogate
--- pair, which is no character.
local function decoded(raw)
    if not find(raw, "\\", 1, true) then
        return raw
    end
    local list = cjson.decode('["' .. raw .. '"]')
    return list and list[1]
end

local QUOTE, LETTER_T, LETTER_N = byte('"tn', 1, 3)
local OPENS = { [QUOTE] = true, [byte("{")] = true, [byte("[")] = true }

--- A value that could name a model, or false.
local function text_of(bytes, from, to)
    local length = to - from - 2
    if bytes[from] ~= QUOTE or length <= 0 or length > MAX_MODEL_BYTES then
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

--- Where the values stand that may be replaced.
local FROM = { model = "model_from", name = "name_from" }
local TO = { model = "model_to", name = "name_to" }

--- Go leaves a field as it was for null, so null is the same as "" to Ollama.
local function read_name(found, name, bytes, from, to)
    found[name] = text_of(bytes, from, to)
    found[FROM[name]], found[TO[name]] = from, to
    if is_null(bytes, from) or bytes[from] == QUOTE and to - from == 2 then
        found.is_void = found.is_void or {}
        found.is_void[name] = true
    end
end

local function read_flag(found, name, bytes, from)
    found[name] = bytes[from] == LETTER_T
end

local function read_range(found, name, bytes, from, to)
    local text = to - from <= MAX_RANGE_BYTES and ffi.string(bytes + from, to - from) or nil
    found[name] = { from = from, to = to, text = text }
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

local STATES, FIRST_EVENT, REFUSED = 512, 480, 511

local next_state = ffi.new("uint16_t[?]", STATES * 256)
local is_text = ffi.new("bool[?]", STATES) -- states within a string, between two characters
for place = 0, STATES * 256 - 1 do
    next_state[place] = REFUSED
end

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
    ffi.copy(next_state + state * 256, next_state + other * 256, 256 * ffi.sizeof("uint16_t"))
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
---@field from integer where the name or value begins that is being read
---@field name string the name of the member of the top level that is being read
---@field name_from integer where it begins, with its quote
---@field names table<string, boolean> of the top level
---@field count integer how many they are
---@field watch table|nil what to look at beside the policy names
---@field nodes table|nil by depth: what is watched of what is open there
---@field seen table|nil by depth: which of its names were there, a bit each
---@field child table|nil what is watched of the value that comes
---@field back integer the state behind a text that is watched
---@field found table
---@field fault string|nil why it ended

local function refuse(scan)
    scan.fault = "invalid_json"
end

local goes_back_to, goes_into = {}, {} -- event of an opening brace or bracket -> state

local function open(scan, at, event)
    local depth = scan.depth
    if depth == MAX_DEPTH then
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

---------
-- What is watched: within values of the top level, members by their names, and items of arrays.

--- What a place may be: `members` by name, `items` of an array, and `text`, which is told the
--- beginning of a string, the bytes, and where its value stands, quotes and all. Several places may
--- be one, and one may be within itself.
---@param node table { members, items, text }, each or none
---@return table node
function _M.node(node)
    local bits, next_bit = {}, 1
    for name in pairs(node.members or {}) do
        bits[name], next_bit = next_bit, next_bit * 2
    end
    node.bits = bits
    return node
end

--- A string's beginning, as much as is enough to tell what it is; nil for none that is a text.
local function beginning(bytes, from, to)
    if to - from <= MAX_SHOWN_BYTES then
        return decoded(ffi.string(bytes + from, to - from))
    end
    local raw = ffi.string(bytes + from, MAX_SHOWN_BYTES)
    -- An escape may be cut, and so may a character; who looks for ASCII does not mind.
    return decoded((gsub(raw, "\\u?%x?%x?%x?$", "")))
end

local goes_into_watched = {} -- what opens -> { field of a node, state, state without it }
local PLAIN_NAME = range(0x61, 0x7A) .. "_"

--- A value begins that is watched. `back` is the state behind it.
local function open_watched(scan, at, node, back)
    local opening = scan.bytes[at - 1]
    if opening == QUOTE then
        scan.child, scan.back, scan.from = node, back, at
        return goes_into_watched[QUOTE], at
    end
    local depth, into = scan.depth, goes_into_watched[opening]
    if depth == MAX_DEPTH then
        return refuse(scan)
    end
    scan.stack[depth], scan.depth = back, depth + 1
    if not node[into.field] then
        return into.unwatched, at
    end
    scan.nodes[depth], scan.seen[depth] = node, 0
    return into.watched, at
end

--- A name of a watched object is read; whether it stands for what is watched.
local function judge_member(scan, name)
    local depth = scan.depth - 1
    local node = scan.nodes[depth]
    scan.child = node.members[name]
    if not scan.child then
        return true
    end
    local was, is = scan.seen[depth], node.bits[name]
    scan.seen[depth] = bor(was, is)
    scan.fault = band(was, is) ~= 0 and "json_name_twice" or nil
    return scan.fault == nil
end

--- One that is not written in small letters of ASCII: what it stands for, and whether some would
--- take it for another.
local function judge_odd_member(scan, raw)
    local name = decoded(raw)
    if not name or find(name, "\0", 1, true) then
        return refuse(scan)
    end
    local near = folded(name)
    if near ~= name and scan.nodes[scan.depth - 1].members[near] then
        scan.fault = "json_name_near"
        return nil
    end
    return judge_member(scan, name)
end

--- The names of a watched object: most are told from others as they stand.
local function add_watched_name(colon, watched_colon)
    local function behind(judge)
        return new_event(function(scan, at)
            local length = at - 1 - scan.from
            if length > MAX_NAME_BYTES then
                return colon, at
            elseif judge(scan, ffi.string(scan.bytes + scan.from, length)) then
                return scan.child and watched_colon or colon, at
            end
        end)
    end
    local odd, plain = add_string(behind(judge_odd_member)), new_state()
    as(plain, odd)
    on(plain, PLAIN_NAME, plain)
    on(plain, '"', behind(judge_member))
    return plain
end

--- A watched value's text: who watches it is told how it begins.
local function add_watched_text()
    goes_into_watched[QUOTE] = add_string(new_event(function(scan, at)
        local tell = scan.child.text
        if tell then
            local from = scan.from
            tell(scan.found, beginning(scan.bytes, from, at - 1), scan.bytes, from - 1, at)
        end
        return scan.back, at
    end))
end

local function add_watched_object()
    local first, colon, watched_colon = new_state(), new_state(), new_state()
    local value, watched, behind = new_state(), new_state(), new_state()
    local name = add_watched_name(colon, watched_colon)
    local quote = new_event(function(scan, at)
        scan.from = at
        return name, at
    end)
    add_members(first, quote, colon, value, behind, CLOSED)
    add_value(value, behind, behind)
    on(watched_colon, SPACE, watched_colon)
    on(watched_colon, ":", watched)
    as(watched, value)
    on(watched, SPACE, watched)
    on(watched, '"{[', new_event(function(scan, at)
        return open_watched(scan, at, scan.child, behind)
    end))
    goes_into_watched[byte("{")] = { field = "members", watched = first, unwatched = IN_OBJECT }
end

local function add_watched_array()
    local first, value, behind = new_state(), new_state(), new_state()
    on(behind, SPACE, behind)
    on(behind, ",", value)
    on(behind, "]", CLOSED)
    add_value(value, behind, behind)
    on(value, '"{[', new_event(function(scan, at)
        return open_watched(scan, at, scan.nodes[scan.depth - 1].items, behind)
    end))
    as(first, value)
    on(first, SPACE, first)
    on(first, "]", CLOSED)
    goes_into_watched[byte("[")] = { field = "items", watched = first, unwatched = IN_ARRAY }
end

---------
-- The outermost object.

--- Whether a name of the top level, folded, is one that others must not be nearly.
local function counts(scan, name)
    local watch = scan.watch
    return POLICY[name] or watch and (watch.fields[name] or watch.nodes[name])
end

--- What a name of the top level says, and what it is to who folds case; nil where it is none. To
--- who reads it as C does, a name ends at NUL.
local function read_top_name(raw)
    local name = #raw <= MAX_NAME_BYTES and decoded(raw)
    if not name or find(name, "\0", 1, true) then
        return nil
    end
    return name, folded(name)
end

--- Most bodies have the names that others have: of these nothing is asked again. raw -> the name,
--- and raw -> the same folded.
local known_names, known_folded, known_count = {}, {}, 0

local function remembered(raw)
    local name = known_names[raw]
    if name then
        return name, known_folded[raw]
    end
    local near
    name, near = read_top_name(raw)
    if name and #raw <= MAX_KNOWN_BYTES then
        if known_count == MAX_KNOWN then
            known_names, known_folded, known_count = {}, {}, 0
        end
        known_names[raw], known_folded[raw], known_count = name, near, known_count + 1
    end
    return name, near
end

--- One member's name is read: no other may be the same, nor nearly one that counts.
local function judge_name(scan, raw)
    local name, near = remembered(raw)
    if not name or scan.count == MAX_NAMES then
        return refuse(scan)
    end
    if scan.names[name] or near ~= name and counts(scan, near) then
        scan.fault = scan.names.model and near == "model" and "ambiguous_body"
            or scan.names[name] and "json_name_twice" or "json_name_near"
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
        scan.from, scan.name_from = at, at - 1
        return text, at
    end)
    local watched_done = new_event(function(_, at)
        return behind, at
    end)
    local begun = new_event(function(scan, at)
        local node = scan.watch and scan.watch.nodes[scan.name]
        if node and OPENS[scan.bytes[at - 1]] then
            return open_watched(scan, at, node, watched_done)
        end
        scan.from = at - 1
        return content, at - 1
    end)
    local function finish(scan, at)
        local name = scan.name
        local read = POLICY[name] or scan.watch and scan.watch.fields[name]
        if read then
            read(scan.found, name, scan.bytes, scan.from, at, scan.name_from)
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
    add_watched_text()
    add_watched_object()
    add_watched_array()
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

--- After so many bytes it is asked whether we are in a text, which is then leapt over: to ask more
--- often costs short strings more than it saves long ones (measured). No multiple of how long
--- escapes and characters are, or it might always be asked within one. Where leaps were short it is
--- asked later.
local LEAP_AFTER, MAX_PATIENCE = 35, 280

--- An event may answer another one. No loop: LuaJIT would end the trace of a body there.
local function handle(scan, at, event)
    local state
    state, at = handlers[event](scan, at, event)
    if state and state >= FIRST_EVENT then
        return handle(scan, at, state)
    end
    return state, at
end

--- From a place up to another; answers nil where it is refused.
local function run(scan, at, stop)
    local bytes, state = scan.bytes, scan.state
    local leap_at, patience = at + LEAP_AFTER, LEAP_AFTER
    while at < stop do
        state = next_state[bor(lshift(state, 8), bytes[at])]
        at = at + 1
        if state >= FIRST_EVENT then
            state, at = handle(scan, at, state)
            if not state then
                return nil
            end
        elseif at >= leap_at and is_text[state] then
            local from = at
            at = leap(bytes, at, stop)
            if at - from > LEAP_AFTER then
                leap_at, patience = at, LEAP_AFTER
            else
                patience = min(2 * patience, MAX_PATIENCE)
                leap_at = at + patience
            end
        elseif at >= leap_at then
            leap_at = at + LEAP_AFTER
        end
    end
    scan.state = state
    return at
end

local new_stack = ffi.typeof("uint16_t[128]")

local function new_scan()
    return {
        bytes = nil,
        state = START,
        depth = 1,
        stack = new_stack(),
        from = 0,
        name = "",
        name_from = 0,
        names = new_table(0, 16),
        count = 0,
        found = nil,
        fault = nil,
        watch = nil,
        nodes = nil,
        seen = nil,
        child = nil,
        back = 0,
    }
end

--- `scan`: one that is done, to be used again; what it is made of is more than most bodies are. In
--- a table, not a variable: this chunk scans at its end, while its variables are open still, and
--- LuaJIT before 2023-11-05 compiles such an assignment without what tells the collector of it. The
--- trace then goes on being used, and the collector takes what is in use (LuaJIT issue 1085).
local idle = { scan = false }

local function begin(bytes, watch)
    local scan = idle.scan or new_scan()
    idle.scan = false
    scan.bytes, scan.state, scan.depth, scan.count = bytes, START, 1, 0
    scan.found, scan.fault, scan.watch, scan.child = new_table(0, FOUND_FIELDS), nil, watch, nil
    scan.nodes, scan.seen = watch and {}, watch and {}
    return scan
end

--- It must keep nothing of a body.
local function finish(scan)
    if scan.count > MAX_KEPT_NAMES then
        return
    end
    clear_table(scan.names)
    scan.bytes, scan.found, scan.name, scan.child = nil, nil, "", nil
    idle.scan = scan
end

local function scan_all(scan, length, pause)
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
    scan.found.is_empty = scan.count == 0 or nil
    return scan.found
end

--- Reads a body that must be one JSON object, strictly (RFC 8259), and answers what it says of the
--- policy names. `model` and `name`: the text, or false for what is none, and where the value
--- stands, quotes and all: `model_from` up to `model_to`, `name_from` up to `name_to`.
--- `is_void`: which of these are "" or null. `stream`: whether it is true. `stream_options`: its
--- bytes, {from, to}, the last not among them, and their text where it is no long one. `second`:
--- another name that chooses a model. `brace`: where the object begins.
---@param bytes ffi.cdata* const unsigned char *
---@param length integer
---@param pause function|nil called now and then in a long body; others may scan meanwhile
---@param watch table|nil what else is looked at: `fields`, name of the top level -> called with
---     found, name, bytes, from, to, and where the name begins; `nodes`, name of the top level ->
---     from `node`. No name is in both, and none is a policy name
---@return table|nil found
---@return string|nil code of the refusal
function _M.scan(bytes, length, pause, watch)
    local scan = begin(bytes, watch)
    local found, fault = scan_all(scan, length, pause)
    finish(scan)
    return found, fault
end

--- Whether a field of this name is a second word on the model.
---@param name string
---@return boolean
function _M.is_second(name)
    return POLICY[name] == read_second
end

--- The text of a value, where it could name something: not empty, of up to 1024 bytes, and without
--- control characters.
_M.text = text_of

--- Whether a text could name a model in a body: UTF-8 without control characters, and not too long.
---@param text string
---@return boolean
function _M.is_model(text)
    local body = '{"model":"' .. gsub(text, '["\\]', "-") .. '"}'
    local found = _M.scan(ffi.cast(bytes_at, body), #body)
    -- The body is asked for once more, behind the scan: a pointer holds nothing, and where LuaJIT
    -- has compiled this nothing else does.
    return found ~= nil and found.model ~= false and #body > 0
end

--- Whether a body is said to be JSON, in an encoding that we read.
---@param content_type string|nil
---@return boolean
---@return string|nil code of the refusal
function _M.is_json(content_type)
    if content_type == "application/json" then
        return true
    end
    local kind, parameters = header_parameters.parse(content_type or "")
    if kind ~= "application/json" then
        return false, "unsupported_media_type"
    end
    local charset = lower(parameters.charset or "utf-8")
    if charset ~= "utf-8" and charset ~= "utf8" then
        return false, "json_charset"
    end
    return true
end

-- LuaJIT compiles the loop of `run` as it goes round when it first becomes hot. That must not be
-- where it meets a loop of `leap`: it would give up, and in the end for ever.
do
    local text = '{"a":' .. ("1"):rep(4096) .. "}"
    _M.scan(ffi.cast(bytes_at, text), #text)
end

return _M
