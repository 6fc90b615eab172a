---------
-- What a body may ask of the LLM server beside a model: tools that the server itself runs,
-- addresses that it fetches, a place in its queue (threats N11, N12), what it keeps of another
-- answer (N10). Where these stand in a body is a watch for `json_body.scan`, of OpenAI's,
-- Anthropic's and Ollama's dialects alike; who may ask for them a role's `server_side` says, and
-- whose an answer is `answer/own_responses.lua`.
-- Pure. Structure alone counts: a text of a message, the schema of a client's tool and the input of
-- its call are never looked into. What is not known to be run by the client is not allowed: a new
-- kind of tool is refused until it is listed here.

local json_body = require("portero.request.json_body")

local byte, find, lower, sub = string.byte, string.find, string.lower, string.sub
local node = json_body.node

local COMMA, SPACE, TAB, LINE_FEED, RETURN, LETTER_N = byte(", \t\n\rn", 1, 6)
local BLANK = { [SPACE] = true, [TAB] = true, [LINE_FEED] = true, [RETURN] = true }

local _M = {}

---------
-- Tools.

--- The types of tools that the client runs. OpenAI's, and among them two that only choose between
--- the tools which the body lists; then Anthropic's, which end with a date.
local CLIENT_RUN = {
    ["function"] = true, custom = true, local_shell = true, apply_patch = true,
    namespace = true, tool_search = true,
}
local CLIENT_RUN_DATED = {
    "^bash_%d+$", "^text_editor_%d+$", "^computer_%d+$", "^memory_%d+$",
    "^tool_search_tool_%l%w+_%d+$",
}

local function is_client_run(kind)
    if CLIENT_RUN[kind] then
        return true
    end
    for _, pattern in ipairs(CLIENT_RUN_DATED) do
        if find(kind, pattern) then
            return true
        end
    end
    return false
end

--- The first of each is told to the client.
local function asks_tools(field)
    return function(found)
        found.asks_tools = found.asks_tools or field
    end
end

local function tell_type(found, kind)
    if not kind or not is_client_run(kind) then
        asks_tools("tools")(found)
    end
end

local in_tools = { text = asks_tools("tools") }
local TOOL = { members = {
    type = { text = tell_type },
    -- Of an MCP server or a connector, whatever the type says.
    server_url = in_tools, connector_id = in_tools, server_label = in_tools,
} }
-- A list of tools, and the tools of a namespace.
TOOL.members.tools, TOOL.items = TOOL, TOOL

--- LocalAI looks here for MCP servers and for its own assistant, which manages it.
local METADATA = { members = {
    mcp_servers = { text = asks_tools("metadata") },
    mcp_prompt = { text = asks_tools("metadata") },
    mcp_resources = { text = asks_tools("metadata") },
    localai_assistant = { text = asks_tools("metadata") },
} }

--- A field of the top level that asks for tools by being there.
local function read_tools(found, name, bytes, from)
    if bytes[from] ~= LETTER_N then
        asks_tools(name)(found)
    end
end

---------
-- Addresses.

--- Whether a text is the thing itself: a data: URL, or base64 as it is. All else is an address, or
--- something of which some server would make one.
local function is_inline(text)
    return text ~= nil
        and (lower(sub(text, 1, 5)) == "data:" or not find(text, "[^%w+/=_%-\r\n]"))
end

local function tells_address(field)
    return function(found, text)
        if not is_inline(text) then
            found.asks_fetch = found.asks_fetch or field
        end
    end
end

--- A place that is an address or an object with one; also a list of these.
local function media(field)
    local tell = tells_address(field)
    local one = { text = tell, members = { url = { text = tell }, data = { text = tell } } }
    one.items = one
    return one
end

--- A message, an item of the input, or a part of its content: in all dialects they may hold each
--- other. Anthropic's `source` is an object where it is to be fetched; as a text it is the name of
--- what was found.
local PART = { members = {
    image_url = media("image_url"), audio_url = media("audio_url"),
    video_url = media("video_url"), file_url = media("file_url"),
    image = media("image"), video = media("video"), images = media("images"),
    input_image = media("input_image"), input_audio = media("input_audio"),
    input_video = media("input_video"),
    source = { members = { url = { text = tells_address("source") } } },
} }
PART.items = PART
PART.members.content, PART.members.output = PART, PART
PART.members.source.members.content = PART

---------
-- What went before (N10).

--- An item of the input may stand for one that the server keeps, of whichever response.
local ITEM = { members = {
    type = { text = function(found, kind)
        found.refers = found.refers or kind == "item_reference" or nil
    end },
} }
for name, member in pairs(PART.members) do
    ITEM.members[name] = member
end
ITEM.items = ITEM

local function read_previous(found, _, bytes, from, to)
    if bytes[from] ~= LETTER_N then
        found.continues = json_body.text(bytes, from, to)
    end
end

local function read_conversation(found, _, bytes, from)
    found.converses = bytes[from] ~= LETTER_N or nil
end

local NODES = {
    tools = TOOL, metadata = METADATA,
    messages = PART, input = ITEM, inputs = PART, system = PART,
    -- Scores and ranks of images (vLLM).
    query = PART, queries = PART, documents = PART, items = PART,
    text_1 = PART, text_2 = PART, data_1 = PART, data_2 = PART,
    -- Ollama's prompts; embeddings of images (Cohere's dialect); images of images (LocalAI).
    images = media("images"), image = media("image"), file = media("file"),
    files = media("files"), ref_images = media("ref_images"),
}

---------
-- Events of a WebSocket (OpenAI's realtime, and its Responses): a session, a response that is asked
-- for, and an item hold what a body holds at its top.

--- A model within an event, for which the server would leave the one that was judged. What stands
--- in a transcription's place is a helper beside that.
local function tells_model(is_helper)
    return { text = function(found, _, bytes, from, to)
        found.models = found.models or {}
        found.models[#found.models + 1] = {
            name = json_body.text(bytes, from, to), from = from, to = to, is_helper = is_helper,
        }
    end }
end

--- Of the conversation of this very connection, or none.
local OWN_CONVERSATIONS = { auto = true, none = true }
local converses = function(found) found.converses = true end
local CONVERSATION = {
    text = function(found, text)
        found.converses = found.converses or not OWN_CONVERSATIONS[text or ""] or nil
    end,
    members = { id = { text = converses } },
}

local function tells_previous(found, _, bytes, from, to)
    read_previous(found, nil, bytes, from, to)
end

local TRANSCRIPTION = { members = { model = tells_model(true) } }
local SESSION = { members = {
    model = tells_model(false), tools = TOOL, metadata = METADATA, input = ITEM,
    conversation = CONVERSATION,
    previous_response_id = { text = tells_previous },
    input_audio_transcription = TRANSCRIPTION,
    audio = { members = { input = { members = { transcription = TRANSCRIPTION } } } },
} }

local EVENT_NODES = { session = SESSION, response = SESSION, item = ITEM }
for name, place in pairs(NODES) do
    EVENT_NODES[name] = place
end

---------
-- A place in the queue.

local function read_priority(found, _, _, from, to, name_from)
    found.priority = { name_from = name_from, from = from, to = to }
end

local function next_to(bytes, at, step)
    while BLANK[bytes[at]] do
        at = at + step
    end
    return at
end

--- The bytes of a member and of the comma that goes with it.
local function member_of(bytes, name_from, to)
    local before = next_to(bytes, name_from - 1, -1)
    if bytes[before] == COMMA then
        return before, to
    end
    local behind = next_to(bytes, to, 1)
    return name_from, bytes[behind] == COMMA and behind + 1 or to
end

--- How a body's priority is made the policy's: what stands in place of which bytes.
---@param found table what `json_body.scan` found by this watch
---@param bytes ffi.cdata* of the body
---@param priority integer|nil the role's; nil: a body has none
---@return integer|nil from nil where nothing is to be changed
---@return integer|nil to
---@return string|nil text
function _M.change_of_priority(found, bytes, priority)
    local told = found.priority
    if told and priority then
        return told.from, told.to, tostring(priority)
    elseif told then
        local from, to = member_of(bytes, told.name_from, told.to)
        return from, to, ""
    elseif priority then
        local member = ('"priority":%d%s'):format(priority, found.is_empty and "" or ",")
        return found.brace + 1, found.brace + 1, member
    end
end

---------
-- The watch.

local numbered = {}

--- Each place once; they hold each other.
local function number(place)
    if not numbered[place] then
        numbered[place] = true
        node(place)
        for _, member in pairs(place.members or {}) do
            number(member)
        end
        if place.items then
            number(place.items)
        end
    end
end

for _, place in pairs(EVENT_NODES) do
    number(place)
end

--- What `json_body.scan` looks at. It notes `asks_tools` and `asks_fetch`, the field that asks
--- first; `priority`, where it stands; and what the body goes on from: `continues`, the ID of a
--- response, false for what is none; `converses`, a conversation; `refers`, an item by its ID.
_M.WATCH = {
    nodes = NODES,
    fields = {
        web_search_options = read_tools, mcp_servers = read_tools, container = read_tools,
        tool_ids = read_tools, tool_servers = read_tools,
        priority = read_priority,
        previous_response_id = read_previous, conversation = read_conversation,
    },
}

--- The same of an event that comes over a WebSocket: of a session, a response and an item too. It
--- also notes `models`, those that are named within these: { name: false for what is none, from,
--- to, is_helper: of a transcription }.
_M.EVENTS = { nodes = EVENT_NODES, fields = _M.WATCH.fields }

---------
-- Forms.

local FETCHED = {}
for _, name in ipairs({ "image_url", "audio_url", "video_url", "file_url", "image", "images",
    "video", "input_image", "input_audio", "input_video", "file", "files", "ref_images" }) do
    FETCHED[name] = tells_address(name)
end

--- What a field of a form asks for, noted as in JSON; a priority is `priority_parts`, the bytes
--- that are to go.
---@param found table
---@param name string in small letters
---@param text string|nil its beginning; nil for a file
---@param from integer
---@param to integer
function _M.read_field(found, name, text, from, to)
    if name == "priority" then
        found.priority_parts = found.priority_parts or {}
        found.priority_parts[#found.priority_parts + 1] = { from, to }
    elseif name == "tools" or _M.WATCH.fields[name] == read_tools then
        asks_tools(name)(found)
    elseif text and text ~= "" and FETCHED[name] then
        FETCHED[name](found, text)
    elseif text ~= "" and json_body.is_second(name) then
        found.second = name
    end
end

--- What of it a caller may not ask for.
---@param found table
---@param allowed table the role's `server_side`: { tools, fetch, priority }
---@return string|nil code of the refusal
function _M.refusal(found, allowed)
    if found.asks_tools and not allowed.tools then
        return "tools_" .. found.asks_tools
    elseif found.asks_fetch and not allowed.fetch then
        return "fetch_" .. found.asks_fetch
    end
end

return _M
