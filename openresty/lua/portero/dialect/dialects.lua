---------
-- Which dialect a path is spoken in. A dialect is a file in this folder and a row of the list
-- below; nothing else in the gateway may know one by its name. Each has the same fields:
--   paths           how its paths begin, by whichever name (below)
--   short_paths     path -> the names that it has outside beside itself and /llm with itself
--   id_headers      headers that tell a request's ID, beside x-request-id
--   error_body      { status, message, code, param, limit, request_id } -> a table; `limit` is what
--                   is spent for now, "requests" or "tokens"
--   event_body      the same for an error that ends a stream
--   error_event     format of a stream ("sse", "lines") -> how it is ended; %s is that body
--   stream_format   type -> the format of a stream whose type names none; nil where words would be
--                   taken for a part of the answer
--   usage_counts    list of counts that make one sum: their names, `object` where they stand in
--                   an object of that name, and which of them are the `prompt`'s, and which the
--                   `completion`'s, where they tell that apart
--   asks_for_usage  path -> how a stream's request is made to tell what was used, `field`
--                   and `options` of its body, and what tells it, `object` and `is_answer`; empty
--                   where all do so unasked
--   keeps           path -> true where a server keeps what it answers, to be asked for by its ID
--   model_list      { path, running, field, names, head, entry, as, is_private }: where all models
--                   are listed, and those that run now (empty: nowhere), where the entries are,
--                   what names one, how an answer begins, what is passed on of an entry, an entry
--                   of any dialect as one of this, under a name, and whether a list holds what is
--                   nobody's business
-- Pure.

--- The first whose paths fit; OpenAI's has all that no other has.
local DIALECTS = {
    require("portero.dialect.ollama"),
    require("portero.dialect.anthropic"),
    require("portero.dialect.responses"),
    require("portero.dialect.oauth"),
    require("portero.dialect.openai"),
}

--- As kinds of LLM servers call the one in which they list their models.
local BY_NAME = {
    ollama = require("portero.dialect.ollama"), openai = require("portero.dialect.openai"),
}

local BEGINS = {}

local function add(dialect, texts)
    for _, text in ipairs(texts) do
        BEGINS[#BEGINS + 1] = { text = text, dialect = dialect }
    end
end

for _, dialect in ipairs(DIALECTS) do
    for _, path in ipairs(dialect.paths) do
        add(dialect, { path, "/llm" .. path })
        add(dialect, dialect.short_paths(path))
    end
end

local _M = {}

--- Every dialect there is.
---@return table[]
function _M.all()
    return DIALECTS
end

--- The dialect of a kind of LLM server.
---@param name string "ollama" or "openai"
---@return table
function _M.named(name)
    return BY_NAME[name]
end

--- The dialect of a path.
---@param path string as the client wrote it, a server's name before it or not, or as the LLM server
---     has it
---@return table
function _M.of(path)
    path = path:match("^/servers/[^/]+(/.*)$") or path
    for _, begin in ipairs(BEGINS) do
        if path:sub(1, #begin.text) == begin.text then
            return begin.dialect
        end
    end
end

return _M
