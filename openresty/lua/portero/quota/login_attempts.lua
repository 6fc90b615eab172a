---------
-- The login endpoints: an attempt is counted before the issuer is asked, and ended by what the
-- issuer answered. Its 401 is a wrong secret, and nothing else is.
-- Each request's attempt is kept by its ID, as it may move between locations, and ended in the log
-- phase, which always runs.

local errors = require("portero.errors")
local guesses = require("portero.quota.guesses")
local login_name = require("portero.request.login_name")
local open_paths = require("portero.request.open_paths")

local ngx, var = ngx, ngx.var
local find, format, gsub = string.find, string.format, string.gsub

local FIRST_SUCCESS, FIRST_ERROR, UNAUTHORIZED = 200, 400, 401
--- What the issuer is told: whom we read, that we read nobody, or to say how long to wait.
local NOBODY, NAMED, WAIT = "-", "=%s", "wait %d"

--- Where a browser may ask, which is shown the form again.
local PAGES = { ["/login"] = true, ["/auth/login"] = true, ["/admin/login"] = true }

--- Request ID -> attempt, until the log phase.
local attempts = {}

local _M = {}

local function hexadecimal(text)
    return (gsub(text, ".", function(letter) return format("%02x", letter:byte()) end))
end

local function body_of(path)
    if not login_name.is_of_body(path) then
        return nil
    end
    ngx.req.read_body()
    return ngx.req.get_body_data() or ""
end

local function shows_page(path)
    local accept = PAGES[path] and var.http_accept
    return accept and find(accept, "text/html", 1, true)
end

--- The form with what is wrong is the issuer's to make.
local function refuse(path, code, seconds)
    local whole = seconds and math.ceil(seconds)
    if code == "too_many_guesses" and shows_page(path) then
        var.login_told = format(WAIT, whole)
        return
    end
    return errors.refuse(code, whole and { ["Retry-After"] = whole })
end

--- Let a login to the issuer, or say how long to wait (`access`).
function _M.enter()
    if open_paths.enter() or ngx.req.get_method() ~= "POST" then
        return
    end
    local path = var.uri
    local name, offered = login_name.read(path, var.http_authorization, var.http_content_type,
        body_of(path))
    if not name then
        var.login_told = NOBODY
        return
    end
    local attempt, code, seconds = guesses.begin(var.binary_remote_addr, name, offered)
    if not attempt then
        return refuse(path, code, seconds)
    end
    attempts[var.request_id] = attempt
    var.login_told = format(NAMED, hexadecimal(name))
end

--- End the attempt (`log`).
function _M.settle()
    local id = var.request_id
    local attempt = attempts[id]
    if not attempt then
        return
    end
    attempts[id] = nil
    local status = tonumber(var.upstream_status)
    if status == UNAUTHORIZED then
        return guesses.wrong(attempt)
    elseif status and status >= FIRST_SUCCESS and status < FIRST_ERROR then
        return guesses.right(attempt)
    end
    return guesses.undecided(attempt)
end

return _M
