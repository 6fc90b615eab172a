#!/bin/sh
# Starts the gateway in the foreground, or reloads a running one:
#   sh openresty/gateway.sh [start | check | reload]
# nginx reads conf/*.conf as they are, and beside them one file that Lua makes of the environment,
# settings.conf. It must never print a secret.
set -eu
umask 022
# As many connections as this machine grants; each stream holds two.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

# Its real place: a link that leads to the release of the day may lead elsewhere after an upgrade, and
# this gateway goes on with what it began with.
home=$(cd -P "$(dirname "$0")" && pwd -P)
runtime=${GATEWAY_RUNTIME_DIR:-/tmp/portero-gateway}
nginx=$(command -v openresty || command -v nginx || command -v /usr/sbin/nginx || true)
if [ -z "$nginx" ]; then
    echo "gateway: cannot start: neither openresty nor nginx is installed" >&2
    exit 1
fi

# run_nginx DIRECTORY FILE WORKERS [WORD ...]: nginx in place of this process. Workers of a root master
# drop to nobody; in a container the master is no root either.
run_nginx() {
    directives="worker_processes $3;"
    [ "$(id -u)" != 0 ] || directives="$directives user nobody $(id -gn nobody);"
    prefix=$1 file=$2
    shift 3
    exec "$nginx" -c "$prefix/$file" -g "$directives" -e stderr -p "$prefix" "$@"
}

# folders DIRECTORY: where the workers put the certificates of LLM servers that the policy names, each
# set in a folder of its own (authorities.lua).
folders() {
    for number in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
        mkdir -p "$1/$number"
        [ "$(id -u)" != 0 ] || chown nobody "$1/$number"
    done
}

# render DIRECTORY: what nginx reads and writes, beneath one directory: conf/*.conf and Lua as they are,
# and settings.conf, where no setting has a fault. That one may hold a key, so it is written for its
# owner alone, and takes its place whole.
render() {
    mkdir -p "$1"
    ln -sf "$home"/conf/*.conf "$1/"
    ln -sfn "$home/lua" "$1/lua"
    # Where the modules are that /etc/nginx/modules-enabled names, for they are beneath that too.
    ln -sfn /usr/lib/nginx/modules "$1/modules"
    link_file "$1/llm_ca.pem" "$(trusted "${LLM_CA_FILE:-}")"
    link_file "$1/issuer_ca.pem" "$(trusted_issuer)"
    ln -sf "$home/conf/nobody.pem" "$1/nobody.pem"
    folders "$1/server_ca"
    link_file "$1/client_ca.pem" "${TLS_CLIENT_CA:-/dev/null}"
    link_file "$1/acme" "${ACME_WEBROOT:-/dev/null}"
    link_file "$1/access.log" "${ACCESS_LOG:-/dev/stdout}"
    write "$1" check.conf settings.conf
    install_certificates "$1"
}

# trusted FILE: the certificates that others are trusted by: a file of the user's, else what the machine
# has. Where it has none, nobody is.
trusted() {
    if [ -n "$1" ]; then
        echo "$1"
    elif [ -e /etc/ssl/certs/ca-certificates.crt ]; then
        echo /etc/ssl/certs/ca-certificates.crt
    else
        echo "$home/conf/nobody.pem"
    fi
}

# trusted_issuer: the same of the issuer; nobody's where it is asked in plain text, as nginx reads the
# file once a location.
trusted_issuer() {
    case "${ISSUER_URL:-}" in
        https:*) trusted "${ISSUER_CA_FILE:-}" ;;
        *) echo "$home/conf/nobody.pem" ;;
    esac
}

# link_file NAME PATH: a file of the user's by a name that nginx can read, whatever its path is.
link_file() {
    case "$2" in /*) ln -sfn "$2" "$1" ;; *) ln -sfn "$PWD/$2" "$1" ;; esac
}

# write DIRECTORY CONFIGURATION FILE: what Lua makes of the settings, for its owner alone, whole.
write() {
    rm -f "$1/$3.new"
    (umask 077; set -C; run_nginx "$1" "$2" 1 >"$1/$3.new") && mv -f "$1/$3.new" "$1/$3"
}

# install_certificates DIRECTORY: the certificates of the two listeners and their keys, as far as TLS is
# asked for and nothing is wrong with them, where a worker can read them and nobody else.
install_certificates() {
    faulty=0
    install_certificate "$1" "${TLS_CERTIFICATE:-}" certificate.conf tls.pem || faulty=1
    install_certificate "$1" "${INTERNAL_TLS_CERTIFICATE:-}" internal_certificate.conf \
        internal_tls.pem || faulty=1
    return $faulty
}

# install_certificate DIRECTORY CERTIFICATE CONFIGURATION FILE
install_certificate() {
    [ -n "$2" ] || return 0
    write "$1" "$3" "$4" || return
    [ "$(id -u)" != 0 ] || chown nobody "$1/$4"
}

# speaks_tls: whether either listener does.
speaks_tls() {
    [ -n "${TLS_CERTIFICATE:-}${INTERNAL_TLS_CERTIFICATE:-}" ]
}

# What changes when a certificate or its key is replaced.
signature() {
    for file in "${TLS_CERTIFICATE:-}" "${TLS_CERTIFICATE_KEY:-}" "${INTERNAL_TLS_CERTIFICATE:-}" \
        "${INTERNAL_TLS_CERTIFICATE_KEY:-}"; do
        [ -z "$file" ] || stat -Lc '%d %i %s %Y %Z' "$file" 2>&1 || true
    done
}

# watch_certificates: puts a renewed certificate in force. One that changes still is left to settle:
# certificate and key are two files.
watch_certificates() {
    installed=$(signature) before=$installed
    while setpriv --pdeathsig TERM sleep 3; do
        now=$(signature)
        if [ "$now" != "$installed" ] && [ "$now" = "$before" ]; then
            installed=$now
            install_certificates "$runtime" || true
        fi
        before=$now
    done
}

# check DIRECTORY: what Lua finds wrong with the settings, and nginx with the configuration. Lua first:
# it names the setting, and nginx the line of a file that nobody wrote.
check() {
    render "$1"
    (run_nginx "$1" nginx.conf "${GATEWAY_WORKERS:-auto}" -t -q)
}

case "${1:-start}" in
    start)
        rm -rf "$runtime/server_ca"
        render "$runtime"
        # One that was killed has left its socket behind, to which nginx could not listen.
        grep -qF " $runtime/inner.sock" /proc/net/unix || rm -f "$runtime/inner.sock"
        # It ends with this process, which nginx takes the place of.
        if speaks_tls; then
            setpriv --pdeathsig TERM sh "$home/gateway.sh" watch &
        fi
        run_nginx "$runtime" nginx.conf "${GATEWAY_WORKERS:-auto}"
        ;;
    watch)
        watch_certificates
        ;;
    check)
        check "$runtime/check"
        ;;
    reload)
        check "$runtime/check"
        render "$runtime"
        kill -HUP "$(cat "$runtime/nginx.pid")"
        ;;
    *)
        echo "usage: gateway.sh [start | check | reload]" >&2
        exit 2
        ;;
esac
