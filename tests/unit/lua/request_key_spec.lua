---------
-- What the notes of a request are kept by.

local fake_ngx = require("fake_ngx")

local fake, request_key

before_each(function()
    fake = fake_ngx.install(1700000000)
    request_key = fake.load("portero.request_key")
end)

describe("of_this", function()
    it("is a number that is the same to the request's end, and another one's is another", function()
        local first = request_key.of_this()
        assert.is_number(first)
        assert.equal(first, request_key.of_this())
        fake.request({})
        assert.is_not.equal(first, request_key.of_this())
    end)
end)
