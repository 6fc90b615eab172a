---------
-- A small nginx for the specs: clock, shared dictionaries, one request and its answer, timers.
-- Each `install` is a new one, and forgets the modules that were loaded with the one before.
-- It records what a module does to the request and ends nothing: after `ngx.exit` the real nginx
-- would run no more Lua, so a module is expected to return.

local DECLARING = {
    "openresty/conf/nginx.conf", "openresty/lua/portero/settings_conf.lua",
}
local BYTES_AN_ENTRY = 128
local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

--- LuaJIT takes the declaration of a C struct once a process, while busted forgets modules after
--- each file, and an `install` all others: what declares C types is kept here. None of these keeps
--- anything of nginx.
local KEPT = "modules of the specs that declare C types"
local DECLARES_TYPES = {
    ["portero.server.resolver"] = true, ["portero.token.crypto"] = true,
    ["portero.request.json_body"] = true, ["portero.request.form_body"] = true,
    ["portero.request.body"] = true,
}

local fake_ngx = {}

---------
-- A dictionary, as far as the gateway uses one. Unlike nginx it clears nothing away by itself, as
-- nginx does not either while what has expired lies behind what is alive (threats S6).

local Dict = {}
Dict.__index = Dict

local function new_dict(clock)
    return setmetatable({
        clock = clock,
        entries = {},
        most_entries = 1000,
        meanwhile = {}, -- operation -> what another worker does just before it, once
    }, Dict)
end

local function milliseconds(seconds)
    return math.floor(seconds * 1000 + 1e-4)
end

--- nginx cuts the ttl to whole milliseconds, and 0 is no end at all.
local function end_of(dict, ttl)
    assert(not ttl or ttl >= 0, 'bad "exptime" argument')
    local whole = ttl and math.floor(ttl * 1000) or 0
    return whole > 0 and milliseconds(dict.clock.now) + whole or nil
end

local function begin(dict, operation)
    local other = dict.meanwhile[operation]
    dict.meanwhile[operation] = nil
    if other then
        other()
    end
end

local function live(dict, key)
    local entry = dict.entries[key]
    if entry and (not entry.ends or entry.ends >= milliseconds(dict.clock.now)) then
        return entry
    end
end

local function put(dict, key, value, ttl)
    if not dict.entries[key] and dict:count() >= dict.most_entries then
        return false, "no memory"
    end
    dict.entries[key] = { value = value, ends = end_of(dict, ttl) }
    return true
end

function Dict:count()
    local count = 0
    for _ in pairs(self.entries) do
        count = count + 1
    end
    return count
end

function Dict:get(key)
    begin(self, "get")
    local entry = live(self, key)
    return entry and entry.value
end

--- Seconds until the end of an entry, below 0 for one that has ended and is still there; 0 for one
--- that never ends.
function Dict:ttl(key)
    local entry = self.entries[key]
    if not entry then
        return nil, "not found"
    end
    return entry.ends and (entry.ends - milliseconds(self.clock.now)) / 1000 or 0
end

--- A new end. As nginx has it, it wakes an entry that has ended and is still there.
function Dict:expire(key, ttl)
    begin(self, "expire")
    local entry = self.entries[key]
    if not entry then
        return nil, "not found"
    end
    entry.ends = end_of(self, ttl)
    return true
end

function Dict:delete(key)
    begin(self, "delete")
    self.entries[key] = nil
    return true
end

function Dict:safe_add(key, value, ttl)
    begin(self, "safe_add")
    if live(self, key) then
        return false, "exists"
    end
    return put(self, key, value, ttl)
end

function Dict:safe_set(key, value, ttl)
    begin(self, "safe_set")
    return put(self, key, value, ttl)
end

function Dict.set()
    error("dict:set evicts what is alive; no module of the gateway may use it")
end

Dict.add = Dict.set

function Dict:incr(key, by, init, init_ttl)
    begin(self, "incr")
    local entry = live(self, key)
    if entry then
        entry.value = entry.value + by
        return entry.value
    end
    if not init then
        return nil, "not found"
    end
    local ok, err = put(self, key, init + by, init_ttl)
    return ok and init + by or nil, err
end

function Dict:flush_expired(most)
    local flushed = 0
    for key in pairs(self.entries) do
        if flushed ~= most and not live(self, key) then
            self.entries[key] = nil
            flushed = flushed + 1
        end
    end
    return flushed
end

function Dict:get_keys()
    local keys = {}
    for key in pairs(self.entries) do
        keys[#keys + 1] = live(self, key) and key
    end
    return keys
end

function Dict:free_space()
    return (self.most_entries - self:count()) * BYTES_AN_ENTRY
end

function Dict:capacity()
    return self.most_entries * BYTES_AN_ENTRY
end

--- The dictionaries that nginx.conf and settings.conf declare, and no other.
local function shared_dicts(clock)
    local dicts = {}
    for _, path in ipairs(DECLARING) do
        for line in io.lines(path) do
            local name = line:match("^%s*lua_shared_dict%s+([%w_]+)")
            if name then
                dicts[name] = new_dict(clock)
            end
        end
    end
    return dicts
end

---------
-- The request and its answer.

local function new_answer()
    return { headers = {}, body = "", endings = 0 }
end

--- Names of headers without regard to case, as `ngx.header` and `ngx.req.get_headers` have them.
local function header_table(values)
    return setmetatable({}, {
        __index = function(_, name) return values()[name:lower()] end,
        __newindex = function(_, name, value) values()[name:lower()] = value end,
    })
end

--- Several headers of a name: nginx joins cookies, and shows the first of all others.
local function shown(name, value)
    if type(value) ~= "table" then
        return value
    end
    return name == "cookie" and table.concat(value, "; ") or value[1]
end

local function set_request(fake, request)
    fake.method = request.method or "GET"
    fake.body, fake.is_read = request.body, false
    fake.http_version = request.http_version or 1.1
    fake.request_headers = {}
    fake.address = fake.address + 1
    fake.answer = new_answer()
    fake.raw_header = request.raw_header or ""
    fake.began = fake.clock.now
    fake.ngx.ctx, fake.ngx.arg = {}, {}
    local var = fake.ngx.var
    for name in pairs(var) do
        var[name] = nil
    end
    var.counted_as = "" -- as the map says it
    var.request_uri = request.target or "/"
    var.uri = request.uri or var.request_uri:match("^[^?]*")
    var.server_protocol = request.protocol or fake.http_version == 2 and "HTTP/2.0" or "HTTP/1.1"
    var.request = ("%s %s HTTP/1.1"):format(fake.method, var.request_uri)
    for name, value in pairs(request.headers or {}) do
        local lower = name:lower()
        fake.request_headers[lower] = value
        var["http_" .. lower:gsub("-", "_")] = shown(lower, value)
    end
end

local function new_req(fake)
    local function request_headers()
        return fake.request_headers
    end
    return {
        get_method = function() return fake.method end,
        get_headers = function() return header_table(request_headers) end,
        clear_header = function(name) fake.request_headers[name:lower()] = nil end,
        start_time = function() return fake.began end,
        http_version = function() return fake.http_version end,
        raw_header = function() return fake.raw_header end,
        read_body = function() fake.is_read = true end,
        get_body_data = function() return fake.is_read and fake.body or nil end,
    }
end

--- Where nginx has the request; each has another place here.
local function add_address(fake)
    fake.address = 0
    package.loaded["resty.core.base"] = {
        get_request = function() return require("ffi").cast("void *", fake.address) end,
    }
end

local function add_output(ngx, fake)
    local function ended(how)
        return function(what, status)
            fake.answer.endings = fake.answer.endings + 1
            fake.answer[how], fake.answer.ended_with = what, status
        end
    end
    ngx.exit, ngx.exec, ngx.redirect = ended("exit"), ended("exec"), ended("redirect")
    ngx.header = header_table(function() return fake.answer.headers end)
    function ngx.print(...)
        fake.answer.body = fake.answer.body .. table.concat({ ... })
    end
    function ngx.say(...)
        ngx.print(...)
        ngx.print("\n")
    end
    -- `ngx.status` is a number that is set: it lands in the answer.
    setmetatable(ngx, {
        __index = function(_, name) return name == "status" and fake.answer.status or nil end,
        __newindex = function(_, name, value)
            assert(name == "status", "the gateway sets no other field of ngx")
            fake.answer.status = value
        end,
    })
end

---------
-- Clock, timers, log.

local function add_time(ngx, fake)
    ngx.config = { nginx_version = 1022001, prefix = function() return fake.prefix end }
    local clock = fake.clock
    function ngx.now() return clock.now end
    package.loaded["resty.core.time"] = {
        monotonic_time = function() return clock.now - clock.stepped end,
    }
    function ngx.time() return math.floor(clock.now) end
    function ngx.update_time() clock.now = clock.real or clock.now end
    function ngx.sleep(seconds)
        fake.slept[#fake.slept + 1] = seconds
        clock.now = clock.now + seconds
    end
    ngx.timer = {
        every = function(seconds, callback)
            fake.timers[#fake.timers + 1] = { seconds = seconds, callback = callback }
            return true
        end,
    }
    ngx.worker = {
        id = function() return fake.worker_id end,
        pid = function() return fake.worker_pid end,
        exiting = function() return fake.is_exiting end,
    }
    function ngx.log(_, ...)
        fake.logged[#fake.logged + 1] = table.concat({ ... })
    end
end

--- What nginx's balancer was told to choose.
local function new_balancer()
    local this = { chosen = {} }
    function this.set_more_tries(count) this.more_tries = count end
    function this.set_current_peer(address, port)
        if this.refuses then
            return nil, "refused"
        end
        this.chosen[#this.chosen + 1] = address .. ":" .. port
        return true
    end
    return this
end

--- Who waits lets the time pass, in which others have their turn: `fake.meanwhile`.
local function new_semaphores(fake)
    return {
        new = function()
            local this = { count = 0 }
            function this.post() this.count = this.count + 1 end
            function this.wait(_, seconds)
                if this.count == 0 then
                    fake.ngx.sleep(seconds)
                    if fake.meanwhile then
                        fake.meanwhile()
                    end
                end
                local is_posted = this.count > 0
                this.count = is_posted and this.count - 1 or 0
                return is_posted, not is_posted and "timeout" or nil
            end
            return this
        end,
    }
end

--- Base64 with its padding (RFC 4648 section 4).
function fake_ngx.encode_base64(raw)
    local out = {}
    for at = 1, #raw, 3 do
        local a, b, c = raw:byte(at, at + 2)
        local bits = a * 65536 + (b or 0) * 256 + (c or 0)
        for place = 3, 0, -1 do
            local sextet = math.floor(bits / 64 ^ place) % 64 + 1
            out[#out + 1] = ALPHABET:sub(sextet, sextet)
        end
        out[#out] = c and out[#out] or "="
        out[#out - 1] = b and out[#out - 1] or "="
    end
    return table.concat(out)
end

local VALUES = {}
for place = 1, #ALPHABET do
    VALUES[ALPHABET:byte(place)] = place - 1
end

--- What base64 stands for, with or without its padding as nginx has it; nil for what is none.
function fake_ngx.decode_base64(text)
    local digits = text:match("^([^=]*)=?=?$")
    if not digits or #digits % 4 == 1 then
        return nil
    end
    local out, held, bits = {}, 0, 0
    for place = 1, #digits do
        local value = VALUES[digits:byte(place)]
        if not value then
            return nil
        end
        held, bits = held * 64 + value, bits + 6
        if bits >= 8 then
            bits = bits - 8
            out[#out + 1] = string.char(math.floor(held / 2 ^ bits))
            held = held % 2 ^ bits
        end
    end
    return table.concat(out)
end

--- Take every module of the gateway away; answers them.
local function forget_modules()
    local forgotten = {}
    for name, module in pairs(package.loaded) do
        if name:find("^portero%.") and not DECLARES_TYPES[name] then
            forgotten[name] = module
        end
    end
    for name in pairs(forgotten) do
        package.loaded[name] = nil
    end
    return forgotten
end

--- Another worker: it loads modules of its own over the same dictionaries.
---@return fun(name: string): table
function fake_ngx.new_worker()
    local own = {}
    return function(name)
        local first = forget_modules()
        for loaded, module in pairs(own) do
            package.loaded[loaded] = module
        end
        local module = fake_ngx.load(name)
        own = forget_modules()
        for loaded, kept in pairs(first) do
            package.loaded[loaded] = kept
        end
        return module
    end
end

---------
-- Sockets and light threads.

--- A socket whose other end says `fake.said`, part by part: a text, a function that is called for
--- one, or { err = why no more comes }. What was sent is in `fake.sent`.
local function new_socket(fake)
    local socket, at = {}, 0
    function socket.connect(_, address)
        fake.connected_to = address
        return not fake.connect_error or nil, fake.connect_error
    end
    function socket.send(_, text)
        fake.sent[#fake.sent + 1] = text
        return #text
    end
    function socket.settimeout() end
    function socket.close()
        fake.closed = (fake.closed or 0) + 1
    end
    --- One part is all up to the pattern.
    function socket.receiveuntil()
        return socket.receiveany
    end
    function socket.receiveany()
        at = at + 1
        local part = type(fake.said) == "function" and fake.said(at) or fake.said[at]
        if type(part) == "table" then
            return nil, part.err
        end
        return part, part == nil and "closed" or nil
    end
    return socket
end

--- Threads that run to their end when they begin.
local function new_threads()
    return {
        spawn = function(callback, ...) return { callback(...) } end,
        wait = function(results) return true, unpack(results, 1, 4) end,
    }
end

local function new_ngx(fake)
    local ngx = {
        shared = shared_dicts(fake.clock),
        var = {},
        req = new_req(fake),
        ctx = {},
        arg = {},
        encode_base64 = fake_ngx.encode_base64,
        decode_base64 = fake_ngx.decode_base64,
        -- Not what it is called, but as good: another text has another one.
        md5 = function(text) return "md5 of " .. text end,
        socket = { tcp = function() return new_socket(fake) end },
        thread = new_threads(),
        HTTP_OK = 200,
        HTTP_BAD_GATEWAY = 502,
        ERROR = -1,
        ERR = 4,
        WARN = 5,
    }
    add_time(ngx, fake)
    add_output(ngx, fake)
    add_address(fake)
    return ngx
end

--- A module of the gateway, or of resty, under the nginx that is installed.
---@param name string
---@return table
function fake_ngx.load(name)
    if not DECLARES_TYPES[name] then
        return require(name)
    end
    local registry = debug.getregistry()
    registry[KEPT] = registry[KEPT] or {}
    registry[KEPT][name] = registry[KEPT][name] or require(name)
    package.loaded[name] = registry[KEPT][name]
    return package.loaded[name]
end

--- A new nginx at a time, in place of the one before.
---@param now number|nil Unix seconds
---@return table fake its `ngx`, `clock`, `answer`, `timers`, `logged`, `slept`, `worker_id`,
--- `worker_pid`, `is_exiting`, `balancer`, `prefix`
function fake_ngx.install(now)
    forget_modules()
    local fake = {
        clock = { now = now or 1700000000, stepped = 0 },
        answer = new_answer(),
        timers = {},
        logged = {},
        slept = {},
        sent = {},
        said = {},
        worker_id = 0,
        worker_pid = 100,
        is_exiting = false,
        balancer = new_balancer(),
        prefix = "/run/portero/",
        load = fake_ngx.load,
        new_worker = fake_ngx.new_worker,
    }
    fake.ngx = new_ngx(fake)
    fake.shared = fake.ngx.shared
    rawset(_G, "ngx", fake.ngx)
    package.loaded["ngx.ssl"] = package.loaded["ngx.ssl"] or {}
    package.loaded["ngx.balancer"] = fake.balancer
    package.loaded["ngx.semaphore"] = new_semaphores(fake)
    for name in pairs(DECLARES_TYPES) do
        fake_ngx.load(name)
    end
    --- Begin a request: method, target, protocol, headers, body.
    function fake.request(request)
        set_request(fake, request)
    end
    --- Set the clock, which is not the time that passes.
    function fake.set_clock(by_seconds)
        fake.clock.now = fake.clock.now + by_seconds
        fake.clock.stepped = fake.clock.stepped + by_seconds
    end
    --- Let every timer fire once.
    function fake.tick()
        for _, timer in ipairs(fake.timers) do
            timer.callback(false)
        end
    end
    fake.request({})
    return fake
end

return fake_ngx
