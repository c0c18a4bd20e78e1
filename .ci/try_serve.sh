#!/usr/bin/env bash
# README's first command and its three calls, as a new user would type them.
set -euo pipefail
export NEUROSERVE_STATE NEUROSERVE_PORT=18000
NEUROSERVE_STATE=$(mktemp -d)
make install
make serve &
server=$!
trap 'kill -TERM -- "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$NEUROSERVE_STATE"' EXIT
url=http://127.0.0.1:$NEUROSERVE_PORT
for _ in $(seq 120); do curl -sf "$url/health/ready" >/dev/null && break; sleep 0.5; done
curl -sf "$url/health/ready"; echo
expect() { grep -q "$1" || { echo "the answer lacks $1" >&2; exit 1; }; }
curl -sf "$url/predict/digit" -H 'Content-Type: image/png' --data-binary @service/examples/seven.png | tee /dev/stderr | expect '"digit":7'
curl -sf "$url/predict/sequence" -H 'Content-Type: application/json' -d @service/examples/headline.json | tee /dev/stderr | expect '"label":"Business"'
curl -sf "$url/predict/sequence" -H 'Content-Type: application/json' -d @service/examples/week.json | tee /dev/stderr | expect '"horizon":24'
echo
