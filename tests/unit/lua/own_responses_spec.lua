---------
-- Whose a kept response is: threat N10.

local fake_ngx = require("fake_ngx")

local fake, own_responses

before_each(function()
    fake = fake_ngx.install(1700000000)
    own_responses = fake.load("portero.answer.own_responses")
end)

describe("server_of", function()
    it("knows a response by its user alone", function()
        own_responses.note("resp_a", "USRSA", "rack")
        assert.equal("rack", own_responses.server_of("resp_a", "USRSA"))
        assert.is_nil(own_responses.server_of("resp_a", "USRSAB"))
        assert.is_nil(own_responses.server_of("resp_a", "USRS"))
        assert.is_nil(own_responses.server_of("resp_b", "USRSA"))
        own_responses.note("resp_c", "USRSA", "")
        assert.equal("", own_responses.server_of("resp_c", "USRSA"))
    end)

    it("forgets it after a day", function()
        own_responses.note("resp_a", "USRSA", "")
        fake.clock.now = fake.clock.now + 24 * 3600 - 1
        assert.equal("", own_responses.server_of("resp_a", "USRSA"))
        fake.clock.now = fake.clock.now + 2
        assert.is_nil(own_responses.server_of("resp_a", "USRSA"))
    end)
end)

describe("note", function()
    it("makes room in a full dictionary, by what has ended or is older", function()
        local dict = fake.shared.portero_responses
        for number = 1, dict.most_entries + 10 do
            own_responses.note("resp_" .. number, "USRSA", "")
            assert.equal("", own_responses.server_of("resp_" .. number, "USRSA"))
        end
    end)
end)

describe("refusal", function()
    before_each(function() own_responses.note("resp_a", "USRSA", "rack") end)

    it("is none for one's own response, and tells which server has it", function()
        assert.same({ nil, "rack" }, { own_responses.refusal({ continues = "resp_a" }, "USRSA") })
        assert.same({}, { own_responses.refusal({}, "USRSA") })
    end)

    it("is the same for another's response and for one that is not there", function()
        local code = "previous_response_not_found"
        assert.equal(code, (own_responses.refusal({ continues = "resp_a" }, "USRSB")))
        assert.equal(code, (own_responses.refusal({ continues = "resp_x" }, "USRSA")))
        assert.equal(code, (own_responses.refusal({ continues = false }, "USRSA")))
    end)

    it("is that of what is tied to nobody", function()
        assert.equal("conversation_not_found", (own_responses.refusal({ converses = true }, "U")))
        assert.equal("item_not_found", (own_responses.refusal({ refers = true }, "U")))
    end)
end)

describe("feed", function()
    local CREATED = 'event: response.created\ndata: {"type":"response.created","response":'
        .. '{"id":"resp_a","object":"response","metadata":{"id":"resp_x","object":"response"}}}\n\n'
    local OTHER = ': ping\r\n\r\nevent: a\ndata: {"type":"a"}\n\n'
    local PLAIN = '{"metadata":{"id":"resp_x","object":"response"},"id":"resp_a",'
        .. '"object":"response","output":[{"id":"resp_y"}]}'

    --- Passes a text in pieces; whose response it was at the end of each.
    local function read(text, size, content_type)
        local reader = own_responses.new_reader("USRSA", content_type)
        for from = 1, #text, size do
            own_responses.feed(reader, text:sub(from, from + size - 1), false, "rack")
        end
        own_responses.feed(reader, "", true, "rack")
        assert.is_nil(own_responses.server_of("resp_x", "USRSA"))
        return own_responses.server_of("resp_a", "USRSA")
    end

    for _, size in ipairs({ 1, 2, 7, 64, 100000 }) do
        it(("notes what passes in pieces of %d"):format(size), function()
            assert.equal("rack", read(PLAIN, size, "application/json; charset=utf-8"))
        end)

        it(("notes a stream's by its first events, in pieces of %d"):format(size), function()
            assert.equal("rack", read(OTHER .. CREATED .. OTHER, size, "text/event-stream"))
        end)
    end

    it("has noted it when the event has passed, not only at the end", function()
        local reader = own_responses.new_reader("USRSA", "text/event-stream")
        own_responses.feed(reader, CREATED, false, "")
        assert.equal("", own_responses.server_of("resp_a", "USRSA"))
    end)

    for _, text in ipairs({ "", "no JSON", "[]", '{"id":"resp_a"}', '{"id":7,"object":"response"}',
        '{"object":"response","output":[{"id":"resp_a","object":"response"}]}',
        '{"error":{"id":"resp_a"}}', '{"id":"' .. ("r"):rep(200) .. '","object":"response"}' }) do
        it("notes nothing of what tells no ID of its own: " .. text:sub(1, 40), function()
            assert.is_nil(read(text, 10, "application/json"))
            assert.is_nil(read("data: " .. text .. "\n\n", 10, "text/event-stream"))
            assert.same({}, fake.shared.portero_responses:get_keys())
        end)
    end

    it("holds no more than it needs", function()
        local reader = own_responses.new_reader("USRSA", "application/json")
        for _ = 1, 80 do
            own_responses.feed(reader, ("x"):rep(64 * 1024), false, "")
        end
        assert.is_nil(reader.parts)
        reader = own_responses.new_reader("USRSA", "text/event-stream")
        for _ = 1, 20 do
            own_responses.feed(reader, OTHER, false, "")
        end
        assert.is_nil(reader.parts)
    end)
end)
