#!/usr/bin/env bash
# Holds one manifest: builds and launches it, says where it is, then does what the words
# on its input say, and stops it when they end. Its output is for a program.
set -uo pipefail
. "$GW_DIR/gateway.sh"
trap gw_stop EXIT
{ gw_build && gw_launch; } >&2 || { gw_diag >&2; exit 1; }
printf '%s\n' "$GW_DISPLAY" "$GW_PORT" "$GW_PATH" "$GW_MODEL" "$GW_AUTH"
while read -r word; do
  case "$word" in
    rss) gw_rss ;;
    hwm) gw_hwm ;;
  esac
done
