---------
-- The certificates that a single LLM server's policy entry trusts (`ca_file`), as nginx takes them
-- while it runs: OpenSSL looks a folder of certificates up at each handshake, by the hash of a
-- subject's name, and nginx has a fixed number of locations with a folder each
-- (conf/server_locations.conf).
-- It owns the dictionary `portero_authorities`, in which all workers agree whose folder it is. A
-- folder must never be another's later, not even after a reload: what OpenSSL has read from it, it
-- trusts as long as the worker lives. So they are used up, and free again after a restart alone.

local crypto = require("portero.token.crypto")

local dict = ngx.shared.portero_authorities

local FOLDERS = 16
--- Who writes has a name of its own for what it writes; all write the same.
local NEW = "%s/.%s-%d"

--- Certificates -> folder, of those that this worker has seen written.
local written = {}

local _M = {}

--- The first folder that is theirs, or nobody's.
local function folder_of(digest)
    for folder = 1, FOLDERS do
        if dict:get(folder) == nil then
            dict:safe_add(folder, digest)
        end
        if dict:get(folder) == digest then
            return folder
        end
    end
end

local function write_file(path, new, text)
    local file, err = io.open(new, "wb")
    if not file then
        return nil, err
    end
    local ok, fault = file:write(text)
    file:close()
    if not ok then
        return nil, fault
    end
    return os.rename(new, path)
end

--- Under the name of each of its certificates: which one is looked for is the server's to say.
local function write(folder, certificates)
    local place = ngx.config.prefix() .. "server_ca/" .. folder
    for _, name in ipairs(crypto.certificate_hashes(certificates)) do
        local path = ("%s/%s.0"):format(place, name)
        local ok, err = write_file(path, NEW:format(place, name, ngx.worker.pid()), certificates)
        if not ok then
            return nil, err
        end
    end
    return true
end

--- The folder in which a server's certificates are.
---@param certificates string PEM
---@return integer|nil folder its number, nil where it cannot be had
---@return string|nil err
function _M.folder(certificates)
    local folder = written[certificates]
    if folder then
        return folder
    end
    folder = folder_of(ngx.md5(certificates))
    if not folder then
        return nil, "no folder is left for other certificates; restart the gateway"
    end
    local ok, err = write(folder, certificates)
    if not ok then
        return nil, err
    end
    written[certificates] = folder
    return folder
end

return _M
