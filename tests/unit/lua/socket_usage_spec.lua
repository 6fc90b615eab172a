---------
-- What responses over a WebSocket used, each once, as an LLM server's frames tell it.

local cjson = require("cjson.safe")
local fake_ngx = require("fake_ngx")

local TEXT, BINARY, CONTINUATION, PING = 1, 2, 0, 9

local fake, socket_usage, charged, answer, tap

before_each(function()
    fake = fake_ngx.install()
    socket_usage = fake.load("portero.answer.socket_usage")
    charged, answer = {}, nil
    fake.request({})
    fake.ngx.var.request_id = "id1"
    socket_usage.begin(function(prompt, completion, model)
        charged[#charged + 1] = { prompt, completion, model }
        return answer
    end)
    tap = socket_usage.tap()
end)

--- A message in one frame.
local function say(event)
    tap({ opcode = TEXT, is_final = true }, cjson.encode(event), true)
end

local function done(id, usage, more)
    local response = { id = id, usage = usage }
    for name, value in pairs(more or {}) do
        response[name] = value
    end
    return { type = "response.done", response = response }
end

local OPENAIS = {
    total_tokens = 253, input_tokens = 132, output_tokens = 121,
    input_token_details = { text_tokens = 119, audio_tokens = 13, cached_tokens = 64 },
    output_token_details = { text_tokens = 30, audio_tokens = 91 },
}

local function parts(id, count)
    for _ = 1, count do
        say({ type = "response.output_audio.delta", response_id = id, delta = "AAAA" })
    end
end

describe("tap", function()
    it("reads what a response used when it is done, in any dialect's names", function()
        say(done("r1", OPENAIS))
        say(done("r2", { prompt_tokens = 3, completion_tokens = 4, total_tokens = 7 }))
        say(done("r3", { total_tokens = 5 }))
        assert.same({ { 132, 121 }, { 3, 4 }, { 5, 0 } }, charged)
    end)

    it("counts each response once, however often its end is told, and no part beside", function()
        say({ type = "response.created", response = { id = "r1", usage = cjson.null } })
        say({ type = "response.in_progress",
            response = { id = "r1", status = "in_progress", usage = { input_tokens = 1 } } })
        parts("r1", 20)
        say(done("r1", OPENAIS))
        say({ type = "response.completed", response = { id = "r1", usage = OPENAIS } })
        socket_usage.finish()
        assert.same({ { 132, 121 } }, charged)
    end)

    it("counts the parts of one that ends without a word of what it used", function()
        parts("r1", 3)
        parts("r2", 2)
        say(done("r1", cjson.null))
        say({ type = "response.cancelled", response = { id = "r3" } })
        assert.same({ { 0, 3 }, { 0, 0 } }, charged)
        socket_usage.finish()
        assert.same({ 0, 2 }, charged[3])
    end)

    it("reads what an item or a transcription used, which is no response", function()
        say({ type = "conversation.item.input_audio_transcription.completed", item_id = "i",
            usage = { type = "tokens", input_tokens = 14, output_tokens = 2 } })
        say({ type = "conversation.item.input_audio_transcription.completed", item_id = "j",
            usage = { type = "duration", seconds = 3 } })
        say({ type = "transcription.done", text = "x",
            usage = { prompt_tokens = 1, completion_tokens = 2 } })
        assert.same({ { 14, 2, "" }, { 1, 2 } }, charged)
    end)

    it("tells the model that a response names, and remembers it", function()
        say(done("r1", { total_tokens = 1 }, { model = "a" }))
        say(done("r2", { total_tokens = 1 }))
        assert.same({ { 1, 0, "a" }, { 1, 0, "a" } }, charged)
    end)

    it("reads a message in whatever frames and pieces it comes, with others between", function()
        local text = cjson.encode(done("r1", OPENAIS))
        local at = #text / 2 - #text / 2 % 1
        tap({ opcode = TEXT, is_final = false }, text:sub(1, 5), false)
        tap({ opcode = TEXT, is_final = false }, text:sub(6, at), true)
        tap({ opcode = PING, is_final = true }, "ping", true)
        tap({ opcode = CONTINUATION, is_final = false }, "", true)
        tap({ opcode = CONTINUATION, is_final = true }, text:sub(at + 1), true)
        assert.same({ { 132, 121 } }, charged)
    end)

    it("reads no binary message, and nothing that is no event", function()
        local text = cjson.encode(done("r1", OPENAIS))
        tap({ opcode = BINARY, is_final = false }, text, true)
        tap({ opcode = CONTINUATION, is_final = true }, text, true)
        for _, one in ipairs({ "", "no json", "[]", "1", "null", '"text"',
            '{"type":1,"response":1,"usage":1}', '{"type":"response.done","response":[]}' }) do
            tap({ opcode = TEXT, is_final = true }, one, true)
        end
        assert.same({ { 0, 0 } }, charged)
    end)

    it("is not led astray by what a caller had the server say again", function()
        say(done("r1", OPENAIS, { metadata = { a = "x.delta", usage = "0" } }))
        say(done("r2", { total_tokens = 2 }, { instructions = '"usage":{"total_tokens":0}' }))
        assert.same({ { 132, 121 }, { 2, 0 } }, charged)
    end)

    it("reads the counts of a message that is too long to be kept, as it passes", function()
        parts("r1", 4)
        local long = done("r1", OPENAIS, { instructions = ("x"):rep(3 * 1024 * 1024) })
        local text = cjson.encode(long)
        for from = 1, #text, 16384 do
            local piece = text:sub(from, from + 16383)
            tap({ opcode = TEXT, is_final = true }, piece, from + 16384 > #text)
        end
        socket_usage.finish()
        assert.same({ { 132, 121 } }, charged)
    end)

    it("tells no more than a hundred responses apart, and loses no part of others", function()
        for number = 1, 150 do
            parts("r" .. number, 1)
        end
        socket_usage.finish()
        local sum = 0
        for _, one in ipairs(charged) do
            sum = sum + one[2]
        end
        assert.equal(150, sum)
        assert.is_true(#charged <= 101)
    end)
end)

describe("code", function()
    it("is why the connection is to end, once it was told", function()
        say(done("r1", OPENAIS))
        assert.is_nil(socket_usage.code())
        answer = "budget_spent"
        say(done("r2", OPENAIS))
        assert.equal("budget_spent", socket_usage.code())
        answer = nil
        say(done("r3", OPENAIS))
        assert.equal("budget_spent", socket_usage.code())
    end)

    it("is none of another request's, nor is the tap", function()
        fake.ngx.var.request_id = "id2"
        assert.is_nil(socket_usage.code())
        assert.is_nil(socket_usage.tap())
        socket_usage.finish()
        assert.same({}, charged)
    end)
end)
