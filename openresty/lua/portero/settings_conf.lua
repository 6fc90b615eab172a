---------
-- The one file of nginx's that differs from one deployment to another, settings.conf: what nginx
-- takes from no variable. It may hold a key.
-- Pure. It must never be given settings that have a fault: what has none is nothing else to nginx.

--- Of each second that the LLM server waits a connection is kept so long: a request on its way when
--- the server hangs up is lost, and a chat is never sent twice.
local KEPT_MILLISECONDS = 800
--- Plain addresses nginx balances by itself; names are looked up again and again, so the balancer
--- names the server then, and the address here is never asked.
local BALANCED = "server 0.0.0.1; "
    .. "balancer_by_lua_block { require(\"portero.server.upstreams\").pick(\"llm\") }"

--- `@name@` is filled in. `geo` takes a dollar as it stands.
local TEXT = [[
# Made by gateway.sh at each start and reload: what nginx takes from no variable.
# jti -> generation or tombstone, and nothing else: entries of one size never fragment it.
# About 130 bytes an entry. docs/operations.md says how to size it.
lua_shared_dict portero_active_tokens @memory@;
# API keys: ID -> digest, owner, end, models. About 260 bytes a key, more where it has models.
lua_shared_dict portero_api_keys @api_key_memory@;@usage@

# The LLM servers.
upstream llm {
    @servers@
    keepalive 128;
    keepalive_requests 100000;
    keepalive_timeout @kept@ms;
}
@pools@proxy_send_timeout @timeout@s;
proxy_read_timeout @timeout@s;@tls@
map "" $llm_scheme { default @scheme@; }
map "" $llm_authority { default @authority@; }
geo $llm_authorization { default "@key@"; }
map "" $issuer_scheme { default @issuer_scheme@; } map "" $issuer_host { default @issuer_host@; }
@client_name@

# Who asks, and from where.
geo $realip_remote_addr $is_trusted_proxy { @trusted@}
map $http_origin $cors_origin { default ""; @origins@}@counted@

@door@server {
    listen @internal@@internal_tls@;
    include internal.conf;
}
server {
    listen "unix:@inner@";
    include inner.conf;
}@redirect@
]]

--- The public listener. Without it the gateway is shut: it is told all, and ends what it has begun.
--- nginx reads a body for as long as there is more of it, and answers nobody meanwhile: a client
--- that is quicker than the gateway is held back by how little may wait unread (`rcvbuf`).
local DOOR = [[
server {
    listen @listen@@speaks@ backlog=4096 rcvbuf=256k@shared@;@own_tls@
    # What an LLM server is told beside llm.conf; what is not used is no variable and costs nothing.
    proxy_set_header Host @authority@;
    proxy_set_header Authorization @authorization@;
    proxy_set_header X-Forwarded-Proto @client_scheme@;@fronts@@cors@@most@
    include public.conf;
    location / {
        proxy_pass @scheme@://llm;
        include @judged@.conf;
    }
}
]]
--- Another gateway may listen beside this one: the kernel gives a connection to either.
local SHARED = " reuseport"

--- Some 20,000 rows, and as many that are on their way.
local USAGE = [[

# What was used and is not in the store yet.
lua_shared_dict portero_usage 16m;
# What users and groups with budgets have used of them.
lua_shared_dict portero_budgets 16m;]]

local OWN_TLS = "\n    include tls.conf;"
local INTERNAL_TLS = " ssl;\n    include internal_tls.conf"
--- The name of a client's certificate, for the log and for roles that ask for one. A subject is
--- read as a whole (RFC 2253: a backslash, \x5c, escapes), so that a CN within another part is
--- none; of one that has several CNs nobody could say which counts, and it has no name.
local OTHER_PART = [[(?!CN=)[^=,+\x5c]++=(?:\x5c.|[^,+\x5c])*+]]
local CLIENT_NAME = 'map $ssl_client_s_dn $client_certificate { default ""; "~^(?:' .. OTHER_PART
    .. [=[[,+])*+CN=(?<client_cn>(?:\x5c.|[^,+\x5c])++)(?:[,+]]=] .. OTHER_PART
    .. ')*+$" $client_cn; }'
local NO_CLIENT_NAME = 'map "" $client_certificate { default ""; }'
local CLIENT_CA = "\n    ssl_client_certificate client_ca.pem;\n    ssl_verify_client on;"
--- From here on HTTP/2 is no word of `listen` any more.
local HTTP2_DIRECTIVE = 1025001

local REDIRECT = [[

server {
    listen @redirect_listen@@shared@;
    include redirect.conf;
}]]

--- Only https asks for the certificates that are trusted; the names of all are those of the first.
local TLS = [[

proxy_ssl_server_name on;
proxy_ssl_name @host@;
proxy_ssl_verify on;
proxy_ssl_verify_depth 5;
proxy_ssl_trusted_certificate llm_ca.pem;]]

--- The pools of places.lua: a place has one, and the first, without kept connections, is for all
--- that came too late.
local POOLS = 64
local POOL = "upstream server_%d { server 0.0.0.1; "
    .. "balancer_by_lua_block { require(\"portero.server.places\").pick() }%s }\n"
local KEPT = " keepalive 128; keepalive_requests 100000; keepalive_timeout @kept@ms;"

--- Who asks for more at a time is told to come again. 10 MB are 80,000 addresses, and who finds no
--- room in them is told the same.
local COUNTED = "\nlimit_conn_zone $binary_remote_addr zone=addresses:10m;"
local MOST = "\n    limit_conn addresses %d;\n    limit_conn_log_level notice;"

local CORS = [[

    add_header Access-Control-Allow-Origin $cors_origin always;
    add_header Access-Control-Expose-Headers $cors_exposed always;
    add_header Vary Origin always;]]

--- Where the policy names servers, nobody asks the pool.
local NO_POOL = { scheme = "http", authority = "none", host = "none" }

local _M = {}

local function servers_of(urls)
    if not urls[1] then
        return BALANCED
    end
    local servers = {}
    for i, url in ipairs(urls) do
        if url.host:find("[^%d.]") then
            return BALANCED
        end
        servers[i] = ("server %s:%d;"):format(url.host, url.port)
    end
    return table.concat(servers, " ")
end

local function pools(kept)
    local found = { POOL:format(0, "") }
    for number = 1, POOLS do
        found[#found + 1] = POOL:format(number, (KEPT:gsub("@kept@", kept)))
    end
    return table.concat(found)
end

--- Each entry once, in a form of nginx's.
local function each(form, entries)
    local seen, found = {}, {}
    for _, entry in ipairs(entries) do
        found[#found + 1] = not seen[entry] and form:gsub("&", entry) or nil
        seen[entry] = true
    end
    return table.concat(found)
end

--- How the public listener speaks: the words behind its address, and what else it needs.
local function spoken(settings, nginx_version)
    if not settings.tls then
        return "", ""
    end
    local has_directive = nginx_version >= HTTP2_DIRECTIVE
    return has_directive and " ssl" or " ssl http2",
        (has_directive and "\n    http2 on;" or "") .. OWN_TLS
            .. (settings.tls_client_ca and CLIENT_CA or "")
end

--- The text of the file.
---@param settings table of `config.read`
---@param folder string the runtime directory, with a slash at its end
---@param nginx_version integer as nginx says it, 1022001 for 1.22.1
---@return string
function _M.text(settings, folder, nginx_version)
    local speaks, own_tls = spoken(settings, nginx_version)
    local redirect = not settings.is_shut and settings.tls_redirect_listen
    local most = settings.connections_per_address
    local llm, key = settings.llm[1] or NO_POOL, settings.llm_key
    local has_fronts, has_origins = #settings.fronts > 0, #settings.origins > 0
    local values = {
        memory = settings.active_token_memory,
        api_key_memory = settings.api_key_memory,
        usage = settings.has_usage and USAGE or "",
        judged = settings.has_usage and "counted" or "judged",
        servers = servers_of(settings.llm),
        kept = settings.llm_idle_seconds * KEPT_MILLISECONDS,
        pools = pools(settings.llm_idle_seconds * KEPT_MILLISECONDS),
        timeout = settings.llm_timeout_seconds,
        tls = llm.scheme == "https" and TLS:gsub("@host@", llm.host) or "",
        scheme = llm.scheme,
        authority = llm.authority,
        key = key and "Bearer " .. key:gsub('[\\"]', "\\%0") or "",
        trusted = each("& 1; ", settings.fronts),
        origins = each('"&" "&"; ', settings.origins),
        listen = settings.listen,
        speaks = speaks,
        own_tls = own_tls,
        shared = settings.shares_port and SHARED or "",
        redirect = redirect and REDIRECT or "",
        redirect_listen = redirect,
        door = settings.is_shut and "" or DOOR,
        authorization = key and "$llm_authorization" or '""',
        client_scheme = has_fronts and "$client_scheme" or "$scheme",
        fronts = has_fronts and "\n    " .. each("set_real_ip_from &; ", settings.fronts) or "",
        cors = has_origins and CORS or "",
        counted = most and COUNTED or "",
        most = most and MOST:format(most) or "",
        internal = settings.internal_listen,
        internal_tls = settings.internal_tls and INTERNAL_TLS or "",
        client_name = settings.tls_client_ca and CLIENT_NAME or NO_CLIENT_NAME,
        issuer_scheme = settings.issuer[1].scheme,
        issuer_host = settings.issuer[1].host,
        inner = (folder .. "inner.sock"):gsub('[\\"]', "\\%0"),
    }
    -- What a value brings is filled in after it.
    return (TEXT:gsub("@([%w_]+)@", { door = values.door, redirect = values.redirect })
        :gsub("@([%w_]+)@", values))
end

return _M
