---------
-- Values of headers that have parameters: taken as all readers take them, or not at all.

local header_parameters = require("portero.request.header_parameters")

local parse = header_parameters.parse

describe("parse", function()
    it("answers the word and the parameters, in lower case but for what they say", function()
        assert.same({ "text/plain", {} }, { parse("Text/Plain") })
        assert.same({ "form-data", { name = "Model", filename = "a.wav" } },
            { parse('Form-Data; NAME="Model"; FileName=a.wav') })
    end)

    it("takes blanks and tabs wherever programs write them, and a semicolon at the end", function()
        for _, text in ipairs({
            "a;b=c", "a; b=c", "a ;\tb\t= c", 'a;b="c" ', "a; b=c;", "a; b=c ; ",
        }) do
            assert.same({ "a", { b = "c" } }, { parse(text) })
        end
        assert.same({ "a", {} }, { parse("a;") })
    end)

    it("ends a quoted text at the quote that ends it, and leaves escapes as they are", function()
        assert.same({ "a", { b = "c; d=e", f = "g" } }, { parse('a; b="c; d=e"; f=g') })
        assert.same({ "a", { b = [[c\"; d=e]] } }, { parse([[a; b="c\"; d=e"]]) })
        assert.same({ "a", { b = [[c\\]], d = "e" } }, { parse([[a; b="c\\"; d=e]]) })
        assert.same({ "a", { b = "" } }, { parse('a; b=""') })
        assert.same({ "a", { b = "é" } }, { parse('a; b="é"') })
    end)

    it("takes every character of a token", function()
        local token = "!#$%&'*+-.^_`{|}~09azAZ"
        assert.same({ "a", { [token:lower()] = token } },
            { parse(("a; %s=%s"):format(token, token)) })
    end)

    for _, text in ipairs({ "", ";", "; a=b", " a", "a b", "a, b", "a b=c", "a; b", "a; b=",
        "a; =b", "a;; b=c", "a; b=c;;", "a; b=c d", "a; b=c; b=d", "a; b=c; B=c", 'a; b="c',
        [[a; b="c\"]], 'a; b="c"d', 'a; b=c"d"', "a; b='c d'", "a; b=<c>", "a; b=c/d", "a; b=c:d",
        "a; b=c=d", "a; b=é", 'a; "b"=c', "a; b c=d", "a; b=c, d=e", "\0", "a\0", "é" }) do
        it(("does not guess what %q means"):format(text), function()
            assert.is_nil((parse(text)))
        end)
    end
end)
