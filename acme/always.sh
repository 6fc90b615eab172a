#!/bin/sh
# acme/renew.sh for ever, where no timer runs it: twice a day, and an hour after it failed.
# It must never end because a renewal failed, nor ask so often that an authority shuts its door
# (Let's Encrypt's limit is five failures an hour for a name).
set -u
here=$(dirname "$0")
rest_seconds=43200
retry_seconds=3600

# The first process of a container gets no signal that it does not ask for.
trap 'exit 0' TERM INT

while :; do
    pause=$rest_seconds
    if ! sh "$here/renew.sh"; then
        pause=$retry_seconds
        echo "acme: no certificate was had, what is in force stays; again in $pause seconds" >&2
    fi
    # A trap waits for a command to end, but not for `wait`.
    sleep "$pause" &
    wait $!
done
