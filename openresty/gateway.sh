#!/bin/sh
# Starts the gateway in the foreground, or reloads a running one:
#   sh openresty/gateway.sh [start | check | reload]
# nginx reads conf/*.conf as they are, and beside them one file that is made here of the environment,
# settings.conf. It must never print a secret.
set -eu
umask 022
# As many connections as this machine grants; each stream holds two.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

# Ranges such as [a-z] mean the characters of ASCII, whatever the language of the machine.
export LC_ALL=C

home=$(cd "$(dirname "$0")" && pwd)
runtime=${GATEWAY_RUNTIME_DIR:-/tmp/portero-gateway}
faults=

fault() {
    faults="$faults
  $1"
}

# A secret that others can read is none.
check_secret_file() {
    eval "path=\${$1:-}"
    if [ -n "$path" ] && [ -n "$(find -L "$path" -perm /077 2>/dev/null)" ]; then
        fault "$1: $path can be read by others; chmod 600 it"
    fi
}

# The key that LLM servers ask for, between double quotes of nginx: from a builtin or a file into a
# pipe. It must never be an argument of a process.
llm_key() {
    if [ -n "${LLM_API_KEY_FILE:-}" ]; then
        cat "$LLM_API_KEY_FILE"
    else
        printf %s "${LLM_API_KEY:-}"
    fi
}

llm_key_quoted() {
    llm_key | sed 's/[\\"]/\\&/g'
}

check_llm_key() {
    bearer=
    [ -n "${LLM_API_KEY:-}${LLM_API_KEY_FILE:-}" ] || return 0
    bearer="Bearer "
    name=LLM_API_KEY${LLM_API_KEY_FILE:+_FILE}
    if [ -n "${LLM_API_KEY:-}" ] && [ -n "${LLM_API_KEY_FILE:-}" ]; then
        fault "LLM_API_KEY: set LLM_API_KEY or LLM_API_KEY_FILE, not both"
    elif ! llm_key >/dev/null 2>&1; then
        fault "$name: cannot read $LLM_API_KEY_FILE"
    elif [ "$(llm_key | tr -d '\040-\176\200-\377' | wc -c)" -ne 0 ]; then
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

read_pool() {
    # The first of a list that commas or blanks separate.
    first=$(echo "${LLM_UPSTREAM:-}" | tr ", " "\n\n" | sed -n "/./{p;q;}")
    llm_scheme=${first%%://*}
    llm_authority=${first#*://}
    llm_authority=${llm_authority%%/*}
    case "$llm_scheme" in https) default_port=443 ;; *) default_port=80 ;; esac
    [ -n "$first" ] || fault "LLM_UPSTREAM: names no server"
    case "$llm_scheme" in http | https) ;; *) fault "LLM_UPSTREAM: must begin http:// or https://" ;; esac
    check_word LLM_UPSTREAM "$llm_authority"
}

read_settings() {
    GATEWAY_LISTEN=${GATEWAY_LISTEN:-127.0.0.1:8080}
    INTERNAL_LISTEN=${INTERNAL_LISTEN:-127.0.0.1:8081}
    GATEWAY_WORKERS=${GATEWAY_WORKERS:-auto}
    ACTIVE_TOKEN_MEMORY=${ACTIVE_TOKEN_MEMORY:-192m}
    LLM_TIMEOUT_SECONDS=${LLM_TIMEOUT_SECONDS:-600}
    # The shortest of the LLM servers that Portero knows.
    LLM_IDLE_SECONDS=${LLM_IDLE_SECONDS:-5}
    nginx=$(command -v openresty || command -v nginx || command -v /usr/sbin/nginx || true)

    [ -n "$nginx" ] || fault "neither openresty nor nginx is installed"
    case "$GATEWAY_WORKERS" in auto | [1-9] | [1-9][0-9]) ;; *) fault "GATEWAY_WORKERS: must be auto or 1 to 99" ;; esac
    case "${ACTIVE_TOKEN_MEMORY%m}" in
        "$ACTIVE_TOKEN_MEMORY" | *[!0-9]* | 0* | "") fault "ACTIVE_TOKEN_MEMORY: must be megabytes, such as 192m" ;;
    esac
    check_word GATEWAY_LISTEN "$GATEWAY_LISTEN"
    check_word INTERNAL_LISTEN "$INTERNAL_LISTEN"
    read_pool
    check_seconds LLM_TIMEOUT_SECONDS "$LLM_TIMEOUT_SECONDS"
    check_seconds LLM_IDLE_SECONDS "$LLM_IDLE_SECONDS"
    check_secret_file SYNC_KEY_FILE
    check_llm_key
    # Each origin exactly as a browser sends it, and never a pattern.
    origins=$(entries "${CORS_ORIGINS:-}")
    check_entries CORS_ORIGINS "$origins"
    # Whose word counts on where a request comes from, and how.
    fronts=$(entries "${TRUSTED_PROXIES:-}")
    check_entries TRUSTED_PROXIES "$fronts"
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
            *[!0-9.:]*)
                echo 'server 0.0.0.1; balancer_by_lua_block { require("portero.server.upstreams").pick("llm") }'
                return
                ;;
            *:*) servers="$servers server $authority;" ;;
            *) servers="$servers server $authority:$default_port;" ;;
        esac
    done
    echo "${servers# }"
}

# each_as FORM ENTRIES: each entry once, as nginx reads it; & stands for the entry.
each_as() {
    printf '%s\n' "$2" | sort -u | sed -n "s|..*|$1|p" | tr "\n" " "
}

# Only https asks for the certificates that are trusted; the names of all are those of the first.
llm_tls() {
    [ "$llm_scheme" = https ] || return 0
    cat <<END

proxy_ssl_server_name on;
proxy_ssl_name $(echo "$llm_authority" | sed "s/:[0-9]*\$//; s/^\[//; s/\]\$//");
proxy_ssl_verify on;
proxy_ssl_verify_depth 5;
proxy_ssl_trusted_certificate llm_ca.pem;
END
}

# What the public listener says and believes for CORS_ORIGINS and TRUSTED_PROXIES.
used_in_public() {
    [ -z "$fronts" ] || printf '\n    %s' "$(each_as "set_real_ip_from &;" "$fronts")"
    [ -n "$origins" ] || return 0
    cat <<"END"

    add_header Access-Control-Allow-Origin $cors_origin always;
    add_header Access-Control-Expose-Headers $cors_exposed always;
    add_header Vary Origin always;
END
}

# What stands in settings.conf. A connection is kept for four fifths of what the LLM server waits: a
# request on its way when the server hangs up is lost, and a chat is never sent twice. `geo` takes a
# dollar as it stands.
settings_conf() {
    authorization='""' scheme='$scheme'
    [ -z "$bearer" ] || authorization='$llm_authorization'
    [ -z "$fronts" ] || scheme='$client_scheme'
    cat <<END
# Made by gateway.sh of the environment, at each start and reload: what nginx takes from no variable.
# jti -> generation or tombstone, and nothing else: entries of one size never fragment it.
# About 130 bytes an entry. docs/operations.md says how to size it.
lua_shared_dict portero_active_tokens $ACTIVE_TOKEN_MEMORY;

# The LLM servers.
upstream llm {
    $(llm_servers)
    keepalive 128;
    keepalive_requests 100000;
    keepalive_timeout $(expr "$LLM_IDLE_SECONDS" \* 800)ms;
}
proxy_send_timeout ${LLM_TIMEOUT_SECONDS}s;
proxy_read_timeout ${LLM_TIMEOUT_SECONDS}s;$(llm_tls)
map "" \$llm_scheme { default $llm_scheme; }
map "" \$llm_authority { default $llm_authority; }
END
    printf 'geo $llm_authorization { default "%s%s"; }\n' "$bearer" "$(llm_key_quoted)"
    cat <<END

# Who asks, and from where.
geo \$realip_remote_addr \$is_trusted_proxy { $(each_as "& 1;" "$fronts")}
map \$http_origin \$cors_origin { default ""; $(each_as '"&" "&";' "$origins")}

server {
    listen $GATEWAY_LISTEN backlog=4096;
    # What an LLM server is told beside llm.conf; what is not used is no variable, and costs nothing.
    proxy_set_header Host $llm_authority;
    proxy_set_header Authorization $authorization;
    proxy_set_header X-Forwarded-Proto $scheme;$(used_in_public)
    include public.conf;
    location / {
        proxy_pass $llm_scheme://llm;
        include judged.conf;
    }
}
server {
    listen $INTERNAL_LISTEN;
    include internal.conf;
}
END
}

# render DIRECTORY: what nginx reads and writes, beneath one directory: conf/*.conf and Lua as they are,
# and settings.conf. That one may hold a key, so it is written for its owner alone, and takes its
# place whole.
render() {
    mkdir -p "$1"
    ln -sf "$home"/conf/*.conf "$1/"
    ln -sfn "$home/conf" "$1/conf"
    ln -sfn "$home/lua" "$1/lua"
    # Where the modules are that /etc/nginx/modules-enabled names, for they are beneath that too.
    ln -sfn /usr/lib/nginx/modules "$1/modules"
    # The certificates by a name that nginx can read, whatever their path is.
    ca=${LLM_CA_FILE:-/etc/ssl/certs/ca-certificates.crt}
    case "$ca" in /*) ;; *) ca=$PWD/$ca ;; esac
    ln -sfn "$ca" "$1/llm_ca.pem"
    rm -f "$1/settings.new"
    (umask 077; set -C; settings_conf >"$1/settings.new")
    mv -f "$1/settings.new" "$1/settings.conf"
}

# run_nginx DIRECTORY FILE [WORD ...]: nginx in place of this process. Workers of a root master drop to
# nobody; in a container the master is no root either.
run_nginx() {
    directives="worker_processes $GATEWAY_WORKERS;"
    [ "$(id -u)" != 0 ] || directives="$directives user nobody $(id -gn nobody);"
    prefix=$1 file=$2
    shift 2
    exec "$nginx" -c "$prefix/$file" -g "$directives" -e stderr -p "$prefix" "$@"
}

# check DIRECTORY: what Lua finds wrong with the settings, and nginx with the configuration. Lua first:
# it names the setting, and nginx the line of a file that nobody wrote.
check() {
    render "$1"
    (run_nginx "$1" check.conf)
    (run_nginx "$1" nginx.conf -t -q)
}

case "${1:-start}" in
    start)
        read_settings
        render "$runtime"
        # nginx reads these certificates before Lua could say what is wrong with them.
        [ -z "${LLM_CA_FILE:-}" ] || (run_nginx "$runtime" check.conf)
        run_nginx "$runtime" nginx.conf
        ;;
    check)
        read_settings
        check "$runtime/check"
        ;;
    reload)
        read_settings
        check "$runtime/check"
        render "$runtime"
        kill -HUP "$(cat "$runtime/nginx.pid")"
        ;;
    *)
        echo "usage: gateway.sh [start | check | reload]" >&2
        exit 2
        ;;
esac
