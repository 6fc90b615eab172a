#!/usr/bin/env bash
# Portero as an entrant of GetBusbar/benchmarking: its contract for gateways/<name>/gateway.sh.
#
# As shipped but for the mock as its LLM server and for limits, which are on and out of reach, so that
# all is counted and nothing refused: a client key is checked at each request, requests, tokens and
# requests at once are counted, the model is looked for, each request is in the access log, and
# metrics and usage are kept.
#
# It is sourced by bash; whoever sources it has set GW_DIR (this folder), MOCK_PORT and CORES. Outside
# of Portero's own checkout PORTERO names one, in whose git-ignored .cache it keeps what it makes. It must
# never end a process that it did not start, nor show the key elsewhere than in GW_AUTH.
GW_KIND=native
GW_DISPLAY="Portero"
GW_LANG="Other"
GW_CLASS="the doorman for your own LLM servers"
GW_PORT="${GW_PORT:-8080}"
GW_PATH=/v1/chat/completions
GW_MODEL=gpt-4o-mini
GW_AUTH=""   # an API key, made by gw_launch

PORTERO="${PORTERO:-$(cd "$GW_DIR/../../.." && pwd)}"
_PORTERO_STATE="$PORTERO/.cache/harness-$GW_PORT"
_PORTERO_DATA="$_PORTERO_STATE/data"
_PORTERO_LOG="$_PORTERO_STATE/launch.log"
_PORTERO_POLICY="$_PORTERO_STATE/policy.yaml"

gw_version() { git -C "$PORTERO" describe --always --dirty; }

gw_build() {
  mkdir -p "$_PORTERO_STATE"
  (cd "$PORTERO" && python3 -c 'from run import set_up; set_up.prepare((), (set_up.PRODUCT,))')
  # Every agent of one role, by lines behind its code, as a user of the file would write them.
  sed '/^    code: AGIA$/a\
    models: ["gpt-*"]\
    requests_per_minute: 1000000000\
    tokens_per_minute: 1000000000\
    concurrent_requests: 1000' "$PORTERO/policy/policy.yaml" > "$_PORTERO_POLICY"
}

gw_launch() {
  local workers key
  workers="$(taskset -c "$CORES" nproc)"
  rm -rf "$_PORTERO_DATA"
  (cd "$PORTERO" && exec env RUNTIME=local GATEWAY_PORT="$GW_PORT" DATA_DIR="$_PORTERO_DATA" \
    INTERNAL_PORT="${INTERNAL_PORT:-$((GW_PORT + 1))}" ISSUER_PORT="${ISSUER_PORT:-$((GW_PORT + 2))}" \
    GATEWAY_WORKERS="$workers" POLICY_FILE="$_PORTERO_POLICY" LLM_KIND=vllm LLM_UPSTREAM="http://127.0.0.1:$MOCK_PORT" \
    taskset -c "$CORES" python3 -m run) > "$_PORTERO_LOG" 2>&1 < /dev/null &
  echo "$!" > "$_PORTERO_STATE/pid"
  for _ in $(seq 1 120); do
    grep -q '^ready ' "$_PORTERO_LOG" && break
    kill -0 "$(cat "$_PORTERO_STATE/pid")" 2> /dev/null || return 1
    sleep 0.5
  done
  key="$(_portero_admin api-keys create "$(_portero_user)" --name bench --days 1)" || return 1
  GW_AUTH="$(grep -o 'sk-portero-[A-Za-z0-9_-]*' <<< "$key")"
}

gw_rss() { _portero_mebibytes VmRSS; }
gw_hwm() { _portero_mebibytes VmHWM; }
gw_diag() { tail -n 25 "$_PORTERO_LOG"; }

gw_stop() {
  local pid
  pid="$(cat "$_PORTERO_STATE/pid" 2> /dev/null)" || return 0
  kill "$pid" 2> /dev/null
  wait "$pid" 2> /dev/null
  while kill -0 "$pid" 2> /dev/null; do sleep 0.1; done
  rm -f "$_PORTERO_STATE/pid"
}

_portero_admin() { (cd "$PORTERO" && DATA_DIR="$_PORTERO_DATA" python3 -m run admin "$@"); }

_portero_user() { grep -o -m 1 'AGIA[A-Za-z0-9]*' "$_PORTERO_DATA/demo-logins"; }

# All that it takes to run: gateway, issuer, reconciler, and what started them.
_portero_mebibytes() {
  local pid
  for pid in $(_portero_tree "$(cat "$_PORTERO_STATE/pid")"); do
    grep "^$1:" "/proc/$pid/status"
  done | awk '{ sum += $2 } END { printf "%.0f\n", sum / 1024 }'
}

_portero_tree() {
  local child
  echo "$1"
  for child in $(cat "/proc/$1/task/"*/children 2> /dev/null); do _portero_tree "$child"; done
}
