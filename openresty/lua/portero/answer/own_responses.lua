---------
-- Whose a response is that an LLM server keeps to be continued or asked for by its ID (threat N10):
-- noted as the answer passes, of callers whose bodies are looked at, in the dictionary
-- `portero_responses`. It must never give a response to anybody but who was answered it: what is
-- not known here, or not any more, is nobody's. Each gateway knows what passed it alone.

local cjson = require("cjson.safe")
local stream_events = require("portero.answer.stream_events")

local find, match, sub = string.find, string.match, string.sub
local concat = table.concat

--- How long, and how much of an answer is held until its ID is there.
local KEPT_SECONDS = 24 * 60 * 60
local MAX_ID_BYTES = 128
local MAX_HELD_BYTES = 4 * 1024 * 1024
local MAX_EVENTS = 8
local MAX_DROPPED = 64

local kept = ngx.shared.portero_responses
local end_of_event = stream_events.FORMATS.sse.end_of

local _M = {}

--- What ended goes, and of what has not the entries that were asked for least lately: nobody's
--- responses keep another's out for a day.
local function make_room()
    kept:flush_expired(MAX_DROPPED)
    local oldest = kept:get_keys(MAX_DROPPED)
    for place = 1, #oldest do
        kept:delete(oldest[place])
    end
end

--- Note a response.
---@param id string
---@param user string
---@param server string the LLM server that holds it, "" where there is one pool
function _M.note(id, user, server)
    local value = user .. "\n" .. server
    if not kept:safe_set(id, value, KEPT_SECONDS) then
        make_room()
        kept:safe_set(id, value, KEPT_SECONDS)
    end
end

--- The LLM server that holds a response, if it is this user's.
---@param id string
---@param user string
---@return string|nil server "" where there is one pool; nil for any other response
function _M.server_of(id, user)
    local owner, server = match(kept:get(id) or "", "^([^\n]*)\n(.*)$")
    return owner == user and server or nil
end

--- Whether a body goes on from what is not the caller's own. A conversation and an item by its ID
--- are tied to nobody, so they are nobody's.
---@param found table what a body said, by the watch of `request/server_side.lua`
---@param user string
---@return string|nil code of the refusal
---@return string|nil server that the request must go to
function _M.refusal(found, user)
    if found.converses then
        return "conversation_not_found"
    elseif found.refers then
        return "item_not_found"
    elseif found.continues == nil then
        return nil
    end
    local server = found.continues and _M.server_of(found.continues, user)
    return not server and "previous_response_not_found" or nil, server or nil
end

---------
-- The ID in an answer.

--- The ID of a whole answer, or of an event that has the response in it. What a client wrote may be
--- echoed further inside, and is not looked at.
local function id_of(text)
    local data = cjson.decode(text)
    if type(data) == "table" and type(data.response) == "table" then
        data = data.response
    end
    local id = type(data) == "table" and data.object == "response" and data.id
    return type(id) == "string" and #id <= MAX_ID_BYTES and id or nil
end

--- A reader of one answer.
---@param user string
---@param content_type string|nil
---@return table reader
function _M.new_reader(user, content_type)
    return {
        user = user, is_stream = find(content_type or "", "event-stream", 1, true) ~= nil,
        parts = {}, size = 0, events = 0,
    }
end

local function finish(reader)
    reader.parts, reader.is_done = nil, true
end

--- The events that have come whole, until one has the ID.
local function read_events(reader)
    local text = concat(reader.parts)
    local stop = end_of_event(text, 1, 1)
    while stop and not reader.id and reader.events < MAX_EVENTS do
        reader.id = id_of(stream_events.data(sub(text, 1, stop)))
        reader.events = reader.events + 1
        text = sub(text, stop + 1)
        stop = end_of_event(text, 1, 1)
    end
    reader.parts, reader.size = { text }, #text
end

--- Read what passes, before it does: who has the ID may use it.
---@param reader table
---@param chunk string
---@param is_last boolean
---@param server string
function _M.feed(reader, chunk, is_last, server)
    if reader.is_done then
        return
    end
    reader.parts[#reader.parts + 1] = chunk
    reader.size = reader.size + #chunk
    if reader.is_stream and find(chunk, "[\r\n]") then
        read_events(reader)
    elseif not reader.is_stream and is_last and reader.size <= MAX_HELD_BYTES then
        reader.id = id_of(concat(reader.parts))
    end
    if reader.id then
        _M.note(reader.id, reader.user, server)
    end
    if reader.id or is_last or reader.size > MAX_HELD_BYTES or reader.events >= MAX_EVENTS then
        finish(reader)
    end
end

return _M
