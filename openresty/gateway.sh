#!/bin/sh
# Starts the gateway in the foreground, or reloads a running one:
#   sh openresty/gateway.sh [start | check | reload]
# It fills addresses and paths into conf/*.conf and nothing else. It must never print a secret.
set -eu
umask 022
# As many connections as this machine grants; each stream holds two.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

# Ranges such as [a-z] mean the characters of ASCII, whatever the language of the machine.
LC_ALL=C

home=$(cd "$(dirname "$0")" && pwd)
runtime=${GATEWAY_RUNTIME_DIR:-/tmp/portero-gateway}
faults=

fault() {
    faults="$faults
  $1"
}

nginx_program() {
    if command -v openresty >/dev/null 2>&1; then
        echo openresty
    elif command -v nginx >/dev/null 2>&1; then
        echo nginx
    elif [ -x /usr/sbin/nginx ]; then
        echo /usr/sbin/nginx
    fi
}

# A secret that others can read is none.
check_secret_file() {
    eval "path=\${$1:-}"
    if [ -n "$path" ] && [ -n "$(find -L "$path" -perm /077 2>/dev/null)" ]; then
        fault "$1: $path can be read by others; chmod 600 it"
    fi
}

# The key that LLM servers ask for, byte by byte: from a builtin or a file into a pipe. It must never
# be an argument of a process.
llm_key() {
    if [ -n "${LLM_API_KEY_FILE:-}" ]; then
        cat "$LLM_API_KEY_FILE"
    else
        printf %s "${LLM_API_KEY:-}"
    fi
}

# The key between double quotes of nginx.
llm_key_quoted() {
    llm_key | LC_ALL=C sed 's/[\\"]/\\&/g'
}

check_llm_key() {
    llm_authorization='""'
    name=LLM_API_KEY${LLM_API_KEY_FILE:+_FILE}
    [ -n "${LLM_API_KEY:-}${LLM_API_KEY_FILE:-}" ] || return 0
    llm_authorization='$llm_authorization'
    if [ -n "${LLM_API_KEY:-}" ] && [ -n "${LLM_API_KEY_FILE:-}" ]; then
        fault "LLM_API_KEY: set LLM_API_KEY or LLM_API_KEY_FILE, not both"
    elif ! llm_key >/dev/null 2>&1; then
        fault "$name: cannot read $LLM_API_KEY_FILE"
    elif [ "$(llm_key | LC_ALL=C tr -d '\040-\176\200-\377' | wc -c)" -ne 0 ]; then
        fault "$name: must be one line without a newline at its end, and no control character in it"
    else
        case "$(llm_key)" in
            "" | " "* | *" ") fault "$name: must be a key, without a blank before or behind it" ;;
        esac
        # nginx takes no longer word.
        [ "$(llm_key_quoted | wc -c)" -le 4000 ] || fault "$name: is longer than 4000 bytes"
    fi
    check_secret_file LLM_API_KEY_FILE
}

check_seconds() {
    case "$2" in
        *[!0-9]* | ?????? | "") ;;
        *) [ "$2" -ge 1 ] && [ "$2" -le 86400 ] && return ;;
    esac
    fault "$1: must be a whole number from 1 to 86400"
}

check_word() {
    case "$2" in
        *[!A-Za-z0-9._:/\[\]-]* | "") fault "$1: is not a plain address" ;;
    esac
}

# The entries of a list, one a line, without the blanks around them.
entries() {
    printf '%s\n' "$1" | tr "," "\n" | sed "s/^ *//; s/ *\$//; /^\$/d"
}

# check_entries NAME ENTRIES: every fault of a list; what has none is nothing else to nginx.
check_entries() {
    wrong=$(printf '%s\n' "$2" | sed "/^\$/d" | awk -v "setting=$1" -f "$home/lists.awk")
    [ -z "$wrong" ] || fault "$(printf '%s\n' "$wrong" | sed "2,\$s/^/  /")"
}

settings() {
    GATEWAY_LISTEN=${GATEWAY_LISTEN:-127.0.0.1:8080}
    INTERNAL_LISTEN=${INTERNAL_LISTEN:-127.0.0.1:8081}
    GATEWAY_WORKERS=${GATEWAY_WORKERS:-auto}
    ACTIVE_TOKEN_MEMORY=${ACTIVE_TOKEN_MEMORY:-192m}
    # The first of a list that commas or blanks separate.
    first=$(echo "${LLM_UPSTREAM:-}" | tr ", " "\n\n" | sed -n "/./{p;q;}")
    llm_scheme=${first%%://*}
    llm_authority=${first#*://}
    llm_authority=${llm_authority%%/*}
    llm_host=$(echo "$llm_authority" | sed "s/:[0-9]*\$//; s/^\[//; s/\]\$//")
    case "$llm_scheme" in https) default_port=443 ;; *) default_port=80 ;; esac
    # What is named here is trusted, and nothing beside it.
    ca_bundle=${LLM_CA_FILE:+llm_ca.pem}
    ca_bundle=${ca_bundle:-/etc/ssl/certs/ca-certificates.crt}
    LLM_TIMEOUT_SECONDS=${LLM_TIMEOUT_SECONDS:-600}
    nginx=$(nginx_program)

    [ -n "$nginx" ] || fault "neither openresty nor nginx is installed"
    [ -n "$first" ] || fault "LLM_UPSTREAM: names no server"
    case "$llm_scheme" in http | https) ;; *) fault "LLM_UPSTREAM: must begin http:// or https://" ;; esac
    case "$GATEWAY_WORKERS" in auto | [1-9] | [1-9][0-9]) ;; *) fault "GATEWAY_WORKERS: must be auto or 1 to 99" ;; esac
    case "${ACTIVE_TOKEN_MEMORY%m}" in
        "$ACTIVE_TOKEN_MEMORY" | *[!0-9]* | 0* | "") fault "ACTIVE_TOKEN_MEMORY: must be megabytes, such as 192m" ;;
    esac
    check_word GATEWAY_LISTEN "$GATEWAY_LISTEN"
    check_word INTERNAL_LISTEN "$INTERNAL_LISTEN"
    check_word LLM_UPSTREAM "$llm_authority"
    check_seconds LLM_TIMEOUT_SECONDS "$LLM_TIMEOUT_SECONDS"
    check_secret_file SYNC_KEY_FILE
    check_llm_key
    read_cors_origins
    read_trusted_proxies
    if [ -n "$faults" ]; then
        echo "gateway: cannot start:$faults" >&2
        exit 1
    fi
}

# How nginx finds the LLM servers: plain addresses it balances by itself; names are looked up again
# and again, so the balancer names the server then, and the address here is never asked.
llm_servers() {
    servers=
    for url in $(echo "$LLM_UPSTREAM" | tr "," " "); do
        authority=${url#*://}
        authority=${authority%%/*}
        case "$authority" in
            *[!0-9.:]*) servers= && break ;;
            *:*) servers="$servers server $authority;" ;;
            *) servers="$servers server $authority:$default_port;" ;;
        esac
    done
    echo "${servers:-server 0.0.0.1; balancer_by_lua_block { require(\"portero.server.upstreams\").pick(\"llm\") \}}"
}

# The seconds after which a kind of LLM server may end an idle connection; empty for never. What is
# wrong with a pack, Lua says.
idle_seconds_of() {
    { tr -d " \t\r\n" <"$home/conf/routes/$1.json"; } 2>/dev/null |
        sed -n 's/.*"idle_seconds":\([0-9]\{1,5\}\)[^0-9].*/\1/p'
}

# How long a connection to an LLM server may be idle here: four fifths of what it may be there. A
# request on its way when the server hangs up is lost, and a chat is never sent twice.
llm_idle() {
    least=75
    for kind in ${LLM_KIND:-ollama vllm llama-server localai}; do
        seconds=$(idle_seconds_of "$kind")
        [ "${seconds:-$least}" -ge "$least" ] || least=$seconds
    done
    echo "$((least * 800))ms"
}

# What a page of another origin may read of an answer.
cors_exposed="x-request-id, x-portero-code, retry-after, x-ratelimit-limit-requests, \
x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, \
x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"

# CORS_ORIGINS as entries of nginx's map: each exactly as a browser sends it, and never a pattern.
read_cors_origins() {
    listed=$(entries "${CORS_ORIGINS:-}")
    check_entries CORS_ORIGINS "$listed"
    cors_origins=$(each_as '"&" "&";' "$listed")
}

# render_llm_key DIRECTORY: the key as a variable that is asked for only where it is sent. `geo` takes
# a dollar as it stands. Written anew, for its owner alone: the other files may be read by anybody.
render_llm_key() {
    rm -f "$1/llm_key.conf"
    if [ "$llm_authorization" = '""' ]; then
        sed -i -e '/ # key$/d' "$1/nginx.conf"
        return
    fi
    (
        umask 077
        set -C
        printf 'geo $llm_authorization { default "Bearer %s"; }\n' "$(llm_key_quoted)" \
            >"$1/llm_key.conf"
    )
}

# render_llm_ca DIRECTORY: the certificates by a name that nginx can read, whatever their path is.
render_llm_ca() {
    rm -f "$1/llm_ca.pem"
    case "${LLM_CA_FILE:-}" in
        "") ;;
        /*) ln -s "$LLM_CA_FILE" "$1/llm_ca.pem" ;;
        *) ln -s "$PWD/$LLM_CA_FILE" "$1/llm_ca.pem" ;;
    esac
}

# each_as FORM ENTRIES: each entry once, as nginx reads it; & stands for the entry.
each_as() {
    printf '%s\n' "$2" | sort -u | sed -n "s|..*|$1|p" | tr "\n" " "
}

# TRUSTED_PROXIES: whose word counts on where a request comes from, and how.
read_trusted_proxies() {
    listed=$(entries "${TRUSTED_PROXIES:-}")
    check_entries TRUSTED_PROXIES "$listed"
    real_ip_from=$(each_as "set_real_ip_from &;" "$listed")
    trusted_proxies=$(each_as "& 1;" "$listed")
}

# render DIRECTORY: the configuration as nginx shall read it.
render() {
    mkdir -p "$1"
    servers=$(llm_servers)
    idle=$(llm_idle)
    for file in "$home"/conf/*.conf; do
        sed -e "s|@WORKERS@|$GATEWAY_WORKERS|g" \
            -e "s|@ACTIVE_TOKEN_MEMORY@|$ACTIVE_TOKEN_MEMORY|g" \
            -e "s|@RUNTIME_DIR@|$runtime|g" \
            -e "s|@CONF_DIR@|$home/conf|g" \
            -e "s|@LUA_DIR@|$home/lua|g" \
            -e "s|@GATEWAY_LISTEN@|$GATEWAY_LISTEN|g" \
            -e "s|@INTERNAL_LISTEN@|$INTERNAL_LISTEN|g" \
            -e "s|@LLM_SERVERS@|$servers|g" \
            -e "s|@LLM_SCHEME@|$llm_scheme|g" \
            -e "s|@LLM_AUTHORITY@|$llm_authority|g" \
            -e "s|@LLM_HOST@|$llm_host|g" \
            -e "s|@LLM_IDLE@|$idle|g" \
            -e "s|@LLM_AUTHORIZATION@|$llm_authorization|g" \
            -e "s|@LLM_TIMEOUT@|${LLM_TIMEOUT_SECONDS}s|g" \
            -e "s|@CA_BUNDLE@|$ca_bundle|g" \
            -e "s|@CORS_ORIGINS@|$cors_origins|g" \
            -e "s|@CORS_EXPOSED@|$cors_exposed|g" \
            -e "s|@REAL_IP_FROM@|$real_ip_from|g" \
            -e "s|@TRUSTED_PROXIES@|$trusted_proxies|g" \
            "$file" >"$1/$(basename "$file")"
    done
    render_llm_key "$1"
    render_llm_ca "$1"
    # Only https upstreams need the certificates that the machine trusts.
    if [ "$llm_scheme" = http ]; then
        sed -i -e '/proxy_ssl_/d' "$1/llm.conf"
    fi
    if [ -z "$cors_origins" ]; then
        sed -i -e '/ # cors$/d' "$1/nginx.conf" "$1/public.conf"
    fi
    if [ -z "$trusted_proxies" ]; then
        sed -i -e '/ # proxies$/d' "$1/nginx.conf" "$1/public.conf"
    else
        sed -i -e 's/X-Forwarded-Proto $scheme/X-Forwarded-Proto $client_scheme/' \
            "$1/upstream_headers.conf"
    fi
}

# Workers of a root master drop to nobody; in a container the master is no root either.
identity() {
    [ "$(id -u)" = 0 ] && echo "user nobody $(id -gn nobody);"
}

# check DIRECTORY: what Lua finds wrong with the settings, and nginx with the configuration. Lua first:
# it names the setting, and nginx the line of a file that nobody wrote.
check() {
    render "$1"
    "$nginx" -c "$1/check.conf" -e stderr
    "$nginx" -c "$1/nginx.conf" -g "$(identity || true)" -e stderr -t -q
}

case "${1:-start}" in
    start)
        settings
        mkdir -p "$runtime"
        render "$runtime"
        # nginx reads these certificates before Lua could say what is wrong with them.
        [ -z "${LLM_CA_FILE:-}" ] || "$nginx" -c "$runtime/check.conf" -e stderr
        exec "$nginx" -c "$runtime/nginx.conf" -g "$(identity || true)" -e stderr
        ;;
    check)
        settings
        check "$runtime/check"
        ;;
    reload)
        settings
        check "$runtime/check"
        render "$runtime"
        kill -HUP "$(cat "$runtime/nginx.pid")"
        ;;
    *)
        echo "usage: gateway.sh [start | check | reload]" >&2
        exit 2
        ;;
esac
