---------
-- What an LLM server tells over a WebSocket of the tokens that its responses used: each response
-- once, as it ends. Of one that the connection's end cuts off, what was seen: an event of its text
-- or its sound counts as one token, as in other streams (usage.lua).
-- Each connection's own notes are kept by its request's ID, from `begin` to `finish`, which always
-- comes. It must never hold a frame back, nor keep more of a message than 1 MiB: of a longer one
-- the counts are read as it passes.

local cjson = require("cjson.safe")
local usage = require("portero.answer.usage")

local concat = table.concat
local sub = string.sub

local TEXT, FIRST_CONTROL, CONTINUATION = 0x1, 0x8, 0x0
local MOST_BYTES = 1024 * 1024
--- Responses of a connection that are told apart.
local MOST_RESPONSES = 100
local PART = ".delta"
--- How a response ends that tells nothing of what it used.
local ENDS = {
    ["response.done"] = true, ["response.completed"] = true, ["response.incomplete"] = true,
    ["response.failed"] = true, ["response.cancelled"] = true,
}
local NOTHING = {}

--- Request ID -> { charge, code, model: that a response named last, parts and size: of the message
--- that comes, or the meter of a long one, is_within, is_text, open: ID -> events of a response
--- that has not ended, done: IDs of those that have, open_count, done_count }.
local readers = {}

local _M = {}

--- Note that a connection's responses are counted.
---@param charge fun(prompt: integer, completion: integer, model: string|nil): string|nil is told
---     the tokens of each response, and its model where it says one; answers the code by which the
---     connection is to end, if it is
function _M.begin(charge)
    readers[ngx.var.request_id] = {
        charge = charge, open = {}, open_count = 0, done = {}, done_count = 0, size = 0,
    }
end

--- Why this request's connection is to end by what was used, or nil.
---@return string|nil code
function _M.code()
    local reader = readers[ngx.var.request_id]
    return reader and reader.code
end

local function charge(reader, prompt, completion, model)
    reader.code = reader.charge(prompt, completion, model or reader.model) or reader.code
end

--- The tokens of an object that tells them, in any dialect's names.
local function tokens_of(told)
    if type(told) ~= "table" then
        return 0, 0
    end
    local meter = usage.new()
    usage.feed(meter, '{"usage":' .. cjson.encode(told) .. "}")
    return usage.apart(meter)
end

--- One more event of a response that runs.
local function count_part(reader, id)
    if not reader.open[id] and reader.open_count >= MOST_RESPONSES then
        id = ""
    end
    if not reader.open[id] then
        reader.open[id], reader.open_count = 0, reader.open_count + 1
    end
    reader.open[id] = reader.open[id] + 1
end

--- A response has ended: what its events were, unless it was counted before.
local function close(reader, id)
    local parts = reader.open[id] or 0
    if reader.open[id] then
        reader.open[id], reader.open_count = nil, reader.open_count - 1
    end
    if id == "" then
        return parts
    elseif reader.done[id] then
        return nil
    elseif reader.done_count >= MOST_RESPONSES then
        reader.done, reader.done_count = {}, 0
    end
    reader.done[id], reader.done_count = true, reader.done_count + 1
    return parts
end

local function text_or(value, other)
    return type(value) == "string" and value or other
end

--- What an event is about: its response, and the ID of that, or of the item that is written down.
local function subject_of(event)
    local response = type(event.response) == "table" and event.response or NOTHING
    local id = text_or(response.id, text_or(event.response_id, text_or(event.item_id, "")))
    return response, id
end

--- The model of an event that tells what was used. An item is written down by a model of its own,
--- which it does not name.
local function model_of(event, response)
    return text_or(response.model, response == NOTHING and event.item_id and "" or nil)
end

local function read_event(reader, event)
    local kind = text_or(event.type, "")
    local response, id = subject_of(event)
    reader.model = text_or(response.model, reader.model)
    if sub(kind, -#PART) == PART then
        return count_part(reader, id)
    end
    local prompt, completion = tokens_of(response.usage or event.usage)
    local is_told = prompt + completion > 0 and response.status ~= "in_progress"
    local parts = (is_told or ENDS[kind]) and close(reader, id)
    if parts and is_told then
        charge(reader, prompt, completion, model_of(event, response))
    elseif parts then
        charge(reader, 0, parts)
    end
end

--- A message that was too long to be kept: whose it is nobody knows, so it is that of all that run.
local function read_long(reader)
    local prompt, completion = usage.apart(reader.meter)
    if reader.meter.counts and prompt + completion > 0 then
        reader.open, reader.open_count = {}, 0
        charge(reader, prompt, completion)
    end
end

local function end_message(reader)
    local parts, is_text = reader.parts, reader.is_text
    reader.is_within = false
    if is_text and reader.meter then
        read_long(reader)
    elseif is_text then
        local event = cjson.decode(concat(parts))
        if type(event) == "table" then
            read_event(reader, event)
        end
    end
    reader.parts, reader.meter, reader.size = nil, nil, 0
end

--- Keep a piece, or read it where there is too much to be kept.
local function gather(reader, piece)
    reader.size = reader.size + #piece
    if not reader.meter and reader.size > MOST_BYTES then
        reader.meter = usage.new()
        usage.feed(reader.meter, concat(reader.parts))
        reader.parts = nil
    end
    if reader.meter then
        usage.feed(reader.meter, piece)
    else
        reader.parts[#reader.parts + 1] = piece
    end
end

local function feed(reader, head, piece, is_end)
    local opcode = head.opcode
    if opcode >= FIRST_CONTROL then
        return
    elseif opcode ~= CONTINUATION and not reader.is_within then
        reader.is_within, reader.is_text, reader.parts = true, opcode == TEXT, {}
    end
    if reader.is_within and reader.is_text then
        gather(reader, piece)
    end
    if is_end and head.is_final and reader.is_within then
        end_message(reader)
    end
end

--- A tap of the LLM server's frames (`frames.way`); nil where nobody counts.
---@return fun(head: table, piece: string, is_end: boolean)|nil
function _M.tap()
    local reader = readers[ngx.var.request_id]
    return reader and function(head, piece, is_end)
        feed(reader, head, piece, is_end)
    end
end

--- The connection has ended, and with it what still ran (`log`).
function _M.finish()
    local id = ngx.var.request_id
    local reader = readers[id]
    readers[id] = nil
    for _, parts in pairs(reader and reader.open or NOTHING) do
        charge(reader, 0, parts)
    end
end

return _M
