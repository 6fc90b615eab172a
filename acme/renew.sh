#!/bin/sh
# Has a certificate of an ACME authority (Let's Encrypt where nothing else is named), and renews it from
# 30 days before its end: to be run twice a day. The authority asks the gateway's plain listener
# (TLS_REDIRECT_LISTEN) for a file that certbot puts under ACME_WEBROOT. What is new is put in the place
# of the gateway's files, with their owner, and the gateway shows it by itself; the gateway starts with
# a certificate of `tls make`.
# It must never touch the gateway's files where certbot failed, and its word is certbot's.
#   ACME_HOST="NAME …" ACME_WEBROOT=DIR TLS_CERTIFICATE=FILE TLS_CERTIFICATE_KEY=FILE sh acme/renew.sh
set -eu
umask 077

# The first of the names is the certificate's own.
: "${ACME_HOST:?is not set: the names that the certificate is for, with blanks between}"
: "${ACME_WEBROOT:?is not set: the folder of the gateway setting of that name}"
: "${TLS_CERTIFICATE:?is not set: the file that the gateway reads}"
: "${TLS_CERTIFICATE_KEY:?is not set: the file that the gateway reads}"
folder=${ACME_FOLDER:-/var/lib/portero/certbot}
live=$folder/config/live/portero

# certbot WORD …: its own folders are ours, so that no other certbot of the machine knows of this one.
ask() {
    mkdir -p "$folder"
    certbot certonly --non-interactive --agree-tos --keep-until-expiring --expand \
        --cert-name portero --config-dir "$folder/config" --work-dir "$folder/work" \
        --logs-dir "$folder/log" --webroot --webroot-path "$ACME_WEBROOT" "$@"
}

# put FILE PLACE MODE: whole, and with the owner of what was there.
put() {
    cp "$1" "$2.new"
    chmod "$3" "$2.new"
    [ ! -e "$2" ] || [ "$(id -u)" != 0 ] || chown --reference="$2" "$2.new"
    mv -f "$2.new" "$2"
}

set -- "$@" ${ACME_SERVER:+--server "$ACME_SERVER"}
if [ -n "${ACME_EMAIL:-}" ]; then
    set -- "$@" --email "$ACME_EMAIL"
else
    set -- "$@" --register-unsafely-without-email
fi
for name in $ACME_HOST; do
    set -- "$@" --domain "$name"
done
ask "$@"
if ! cmp -s "$live/fullchain.pem" "$TLS_CERTIFICATE"; then
    put "$live/privkey.pem" "$TLS_CERTIFICATE_KEY" 600
    put "$live/fullchain.pem" "$TLS_CERTIFICATE" 644
    echo "acme: a new certificate is in $TLS_CERTIFICATE"
fi
