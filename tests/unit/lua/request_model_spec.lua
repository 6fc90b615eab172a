---------
-- Which model a request asks for, wherever its route says that it stands: threats B4-B13.

local ffi = require("ffi")
local fake_ngx = require("fake_ngx")

local fake, request_model, list, text, reads, released, changed

--- A body in memory, as `portero.body` answers one.
local function fake_body()
    return {
        pause = function() end,
        release = function(keep) released = keep end,
        replace_all = function(_, length, changes)
            table.sort(changes, function(one, other) return one[1] > other[1] end)
            changed = text:sub(1, length)
            for _, change in ipairs(changes) do
                changed = changed:sub(1, change[1]) .. change[3] .. changed:sub(change[2] + 1)
            end
        end,
        read = function()
            reads = reads + 1
            if type(text) == "table" then
                return nil, text[1]
            end
            return ffi.cast("const unsigned char *", text), #text, text
        end,
    }
end

before_each(function()
    fake = fake_ngx.install()
    reads, released, changed, text = 0, nil, nil, '{"model":"ok"}'
    package.loaded["portero.request.body"] = fake_body()
    request_model = fake.load("portero.request.request_model")
    list = fake.load("portero.policy.model_name").compile({ "ok", "wild*" }, true)
end)

after_each(function()
    package.loaded["portero.request.body"] = nil
end)

local function refusal(word, options)
    options = options or {}
    local headers = options.headers or { ["content-type"] = "application/json" }
    headers["content-length"] = options.length or (type(text) == "string" and #text .. "") or nil
    fake.request({ method = "POST", target = "/x", headers = headers })
    return (request_model.refusal({ model = word }, options.value, options.query or "", list))
end

describe("refusal", function()
    it("is none for a model of the list, and for no other", function()
        assert.is_nil(refusal("body"))
        text = '{"model":"wilder"}'
        assert.is_nil(refusal("body"))
        text = '{"model":"other"}'
        assert.equal("model_not_found", refusal("body"))
    end)

    it("is that of the route where the route does not say where its model is", function()
        assert.equal("insufficient_permissions", refusal(nil))
        assert.equal(0, reads)
    end)

    -- Body, and what it is refused with.
    for body, code in pairs({
        ["{}"] = "model_missing", ['{"model":null}'] = "model_missing",
        ['{"model":""}'] = "model_missing", ['{"model":"ok","model":"ok"}'] = "ambiguous_body",
        ['{"model":"ok","MODEL":"x"}'] = "ambiguous_body", ["x"] = "invalid_json",
        ['{"model":"ok","lora":[1]}'] = "model_second", ["[]"] = "invalid_json",
        ['{"name":"ok"}'] = "model_missing", ['{"model":1}'] = "model_unusable",
        ['{"model":"ok","a":1,"a":2}'] = "json_name_twice", ['{"Model":"ok"}'] = "json_name_near",
    }) do
        it(("is %s for %s"):format(code, body), function()
            text = body
            assert.equal(code, refusal("body"))
        end)
    end

    it("takes Ollama's name where the route does", function()
        text = '{"name":"ok"}'
        assert.is_nil(refusal("body-or-name"))
        text = '{"name":"other"}'
        assert.equal("model_not_found", refusal("body-or-name"))
    end)

    it("is 415 for what is no plain JSON, unread, and says why", function() -- B8, B9
        for _, case in ipairs({
            { { ["content-type"] = "text/plain" }, "unsupported_media_type", "form_expected" },
            { {}, "unsupported_media_type", "form_expected" },
            { { ["content-type"] = "application/json; charset=utf-16" }, "json_charset",
                "form_expected" },
            { { ["content-type"] = "application/json", ["content-encoding"] = "gzip" },
                "body_compressed", "body_compressed" },
            { { ["content-type"] = "multipart/form-data" }, "unsupported_media_type",
                "form_boundary" },
            { { ["content-type"] = "multipart/form-data; boundary=a; charset=utf-16" },
                "unsupported_media_type", "form_charset" },
        }) do
            assert.equal(case[2], refusal("body", { headers = case[1] }))
            assert.equal(case[3], refusal("form", { headers = case[1] }))
        end
        assert.equal(0, reads)
    end)

    it("is none for a body that is said to be as it is", function()
        for _, name in ipairs({ "identity", "Identity" }) do
            local headers = { ["content-type"] = "application/json", ["content-encoding"] = name }
            assert.is_nil(refusal("body", { headers = headers }))
        end
    end)

    it("is 400 for no body at all, and 500 for one that cannot be read", function() -- B10
        text = { "empty" }
        assert.equal("body_missing", refusal("body"))
        text = { "body: cannot map the file" }
        assert.equal("internal_error", refusal("body"))
    end)

    it("reads the model of a path as a person writes it", function()
        local none = { length = "0", headers = {} }
        none.value = "library%2Fok"
        assert.is_nil(refusal("path", none))
        none.value = "other"
        assert.equal("model_not_found", refusal("path", none))
    end)

    it("reads the model of a query", function()
        local none = { length = "0", headers = {}, query = "?model=ok" }
        assert.is_nil(refusal("query", none))
        none.query = "?a=b"
        assert.equal("model_missing", refusal("query", none))
        none.query = "?model=ok&model=other"
        assert.equal("ambiguous_body", refusal("query", none))
    end)

    it("lets no query name a model where that is not its place", function()
        for _, word in ipairs({ "body", "body-or-name", "form", "path", "listed", "none" }) do
            assert.equal("model_in_query", refusal(word, { query = "?model=ok", value = "ok" }))
        end
    end)

    it("lets no body come where none belongs", function() -- B13
        for _, word in ipairs({ "path", "query", "listed", "none" }) do
            assert.equal("body_unexpected", refusal(word, { value = "ok" }))
            local headers = { ["transfer-encoding"] = "chunked" }
            fake.request({ method = "GET", target = "/x", headers = headers })
            local code = request_model.refusal({ model = word }, "ok", "", list)
            assert.equal("body_unexpected", code)
        end
    end)

    it("is none where nothing names a model", function()
        for _, word in ipairs({ "listed", "none" }) do
            assert.is_nil(refusal(word, { length = "0", headers = {} }))
        end
    end)

    -- A policy may know places that this gateway does not.
    it("lets nothing pass whose model stands where nobody here can read it", function()
        for _, word in ipairs({ "header", "", "Path", "body " }) do
            local options = { length = "0", headers = {}, value = "ok" }
            assert.has_error(function() refusal(word, options) end)
        end
    end)

    it("hands what the JSON body says on, also where its model is refused", function()
        for _, body in ipairs({ '{"model":"ok"}', '{"model":"other"}', '{"model":1}' }) do
            text = body
            local headers = { ["content-type"] = "application/json" }
            fake.request({ method = "POST", target = "/x", headers = headers })
            local _, found = request_model.refusal({ model = "body" }, nil, "", list)
            assert.equal(text, found.keep)
        end
    end)

    it("reads the model of a form", function()
        local FORM = { ["content-type"] = "multipart/form-data; boundary=B" }
        local function form(name)
            text = '--B\r\nContent-Disposition: form-data; name="model"\r\n\r\n' .. name
                .. "\r\n--B--\r\n"
            return refusal("form", { headers = FORM })
        end
        assert.is_nil(form("ok"))
        assert.equal("model_not_found", form("other"))
        text = { "empty" }
        assert.equal("form_missing", refusal("form", { headers = FORM }))
    end)

    it("says why the form is refused", function()
        local function refused(head, value)
            text = "--B\r\nContent-Disposition: form-data; " .. head .. "\r\n\r\n" .. value
                .. "\r\n--B--\r\n"
            return refusal("form", { headers = {
                ["content-type"] = "multipart/form-data; boundary=B",
            } })
        end
        assert.equal("model_missing", refused("name=x", "ok"))
        assert.equal("form_head", refused("x=y", "ok"))
        assert.equal("form_model_near", refused("name=Model", "ok"))
        assert.equal("form_model_file", refused("name=model; filename=a", "ok"))
        assert.equal("form_model_encoded",
            refused("name=model\r\nContent-Transfer-Encoding: base64", "b2s="))
        assert.equal("form_model_kind", refused("name=model\r\nContent-Type: a/b", "ok"))
        assert.equal("model_unusable", refused("name=model", "\0"))
        assert.equal("form_broken", refused("name=model", "x--B"))
        assert.equal("form_too_long",
            refused(("name=x\r\n\r\n\r\n--B\r\nContent-Disposition: form-data; "):rep(1000)
                .. "name=model", "ok"))
        assert.equal("ambiguous_body",
            refused("name=model\r\n\r\nok\r\n--B\r\nContent-Disposition: form-data; name=model",
                "ok"))
    end)
end)

describe("read_json", function()
    it("answers what the body says, with the bytes to change it by", function()
        text = '{"model":"ok","stream":true,"stream_options":{"a":1}}'
        fake.request({ headers = { ["content-type"] = "application/json" } })
        local found = request_model.read_json()
        assert.is_true(found.stream)
        assert.equal(#text, found.length)
        local range = found.stream_options
        assert.equal('{"a":1}', text:sub(range.from + 1, range.to))
        assert.equal(text, found.keep)
        assert.is_nil(released)
    end)

    it("answers nothing that would be changed by itself", function()
        fake.request({ headers = { ["content-type"] = "application/json" } })
        request_model.finish(request_model.read_json())
        assert.is_nil(changed)
    end)

    it("gives back the bytes of a body that says nothing", function()
        text = '{"model":"ok"'
        fake.request({ headers = { ["content-type"] = "application/json" } })
        assert.same({ nil, "invalid_json" }, { request_model.read_json() })
        assert.equal(text, released)
    end)
end)

describe("rename", function()
    --- The body with another model in it, of a JSON body or a form.
    local function renamed(name, word, headers)
        fake.request({ method = "POST", target = "/x", headers = headers or {
            ["content-type"] = "application/json",
        } })
        local everything = { exact = {}, prefixes = { { start = "", most_slashes = 9 } } }
        local code, found = request_model.refusal({ model = word }, nil, "", everything)
        assert.is_nil(code)
        request_model.rename(found, name)
        request_model.finish(found)
        return changed
    end

    it("puts another name in place of the model's, and changes no other byte", function()
        text = '{ "a":"fast", "model" :\t"fa\\u0073t" ,"model_":"fast"}'
        assert.equal('{ "a":"fast", "model" :\t"real/name:7b" ,"model_":"fast"}',
            renamed("real/name:7b", "body"))
    end)

    it("writes a name as JSON does", function()
        text = '{"model":"ok"}'
        assert.equal([[{"model":"C:\\a\"b"}]], renamed([[C:\a"b]], "body"))
    end)

    it("changes Ollama's two names, as either may be the one that is read", function()
        text = '{"model":"ok","name":"ok"}'
        assert.equal('{"model":"real","name":"real"}', renamed("real", "body-or-name"))
        text = '{"name":"ok"}'
        assert.equal('{"name":"real"}', renamed("real", "body-or-name"))
    end)

    it("leaves a name alone that names no model of the route", function()
        text = '{"model":"ok","name":"a voice"}'
        assert.equal('{"model":"real","name":"a voice"}', renamed("real", "body"))
    end)

    it("changes the field of a form", function()
        local form = "--B\r\nContent-Disposition: form-data; name=model\r\n\r\n%s\r\n--B--\r\n"
        text = form:format("ok")
        assert.equal(form:format("real/name"), renamed("real/name", "form", {
            ["content-type"] = "multipart/form-data; boundary=B",
        }))
    end)
end)

describe("change", function()
    it("waits for the end, where all changes are made at once", function()
        fake.request({ headers = { ["content-type"] = "application/json" } })
        local found = request_model.read_json()
        request_model.change(found, 13, 14, ',"b":2}')
        request_model.change(found, 1, 1, '"a":1,')
        assert.is_nil(changed)
        request_model.finish(found)
        assert.equal('{"a":1,"model":"ok","b":2}', changed)
    end)
end)

describe("release", function()
    it("gives the bytes of a body back, and nothing where none was read", function()
        fake.request({ headers = { ["content-type"] = "application/json" } })
        request_model.release(request_model.read_json())
        assert.equal(text, released)
        request_model.release(nil)
    end)
end)

describe("look", function()
    local WATCH = { nodes = {}, fields = {
        flag = function(found) found.flag = true end,
    } }

    local function looked(word, headers)
        fake.request({ method = "POST", target = "/x", headers = headers or {
            ["content-type"] = "application/json", ["content-length"] = tostring(#text),
        } })
        return request_model.look({ model = word }, WATCH)
    end

    it("reads what a JSON body says, whatever its model", function()
        text = '{"flag":1}'
        for _, word in ipairs({ "body", "body-or-name" }) do
            local code, found = looked(word)
            assert.is_nil(code)
            assert.is_true(found.flag)
        end
        assert.is_true(select(2, looked(nil)).flag)
    end)

    it("reads nothing where there is no body, or one of neither kind", function()
        for _, word in ipairs({ "path", "query", "listed", "none" }) do
            assert.same({}, { looked(word) })
        end
        assert.same({}, { looked("body", { ["content-type"] = "application/json" }) })
        assert.equal(0, reads)
    end)

    it("notes what a form asks, whatever its model, and refuses what is none", function()
        local FORM = {
            ["content-type"] = "multipart/form-data; boundary=B", ["content-length"] = "9",
        }
        text = '--B\r\nContent-Disposition: form-data; name="tools"\r\n\r\nx\r\n--B--\r\n'
        local code, found = looked("form", FORM)
        assert.is_nil(code)
        assert.equal("tools", found.asks_tools)
        assert.equal("form_expected", looked("form"))
    end)

    it("refuses what could be read in two ways, and what is no JSON", function()
        text = '{"flag":1,"flag":2}'
        assert.equal("json_name_twice", looked("body"))
        assert.equal("unsupported_media_type",
            looked("body", { ["content-type"] = "text/plain", ["content-length"] = "9" }))
    end)
end)

describe("beside_model", function()
    local server_side = require("portero.request.server_side")

    --- The body as it is sent, or the code of its refusal.
    local function judged(allowed)
        fake.request({ headers = { ["content-type"] = "application/json" } })
        local found = request_model.read_json(server_side.WATCH)
        local code = request_model.beside_model(found, allowed)
        request_model.finish(found)
        return code or changed or text
    end

    it("is the refusal of what the caller may not ask for", function() -- N11
        text = '{"tools":[{"type":"mcp"}]}'
        assert.equal("tools_tools", judged({ tools = false, fetch = false }))
        assert.equal(text, judged({ tools = true, fetch = false }))
    end)

    it("makes the priority the policy's", function() -- N12
        text = '{"model":"ok","priority":-1000}'
        assert.equal('{"model":"ok"}', judged({ tools = false, fetch = false }))
        assert.equal('{"model":"ok","priority":7}',
            judged({ tools = false, fetch = false, priority = 7 }))
    end)
end)

describe("glance and named", function()
    local HEADERS = { ["content-type"] = "application/json", ["content-length"] = "9" }

    local function named(word, value, query, headers)
        fake.request({ method = "POST", headers = headers or HEADERS })
        local route = { model = word }
        local found = request_model.glance(route)
        return request_model.named(route, value, query or "", found) or "none"
    end

    it("tell the model of a body, a form, a path and a query", function()
        assert.equal("ok", named("body"))
        assert.equal("ok", named("body-or-name"))
        assert.equal("a b", named("path", "a%20b"))
        assert.equal("q", named("query", nil, "?model=q"))
        text = "model=f&x=1"
        text = '--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nf\r\n--x--\r\n'
        assert.equal("f", named("form", nil, "", {
            ["content-type"] = "multipart/form-data; boundary=x", ["content-length"] = "9",
        }))
    end)

    it("refuse nothing, and tell no model that could be read in two ways", function()
        for _, body in ipairs({ "no json", '{"model":"a","model":"b"}', '{"model":7}', "{}" }) do
            text = body
            assert.equal("none", named("body"))
        end
        assert.equal("none", named("body", nil, "", { ["content-type"] = "application/json" }))
        assert.equal("none", named("listed"))
    end)
end)
