#!/usr/bin/env bash
# README's first command and its three calls, as a new user would type them.
set -euo pipefail
export NEUROSERVE_STATE NEUROSERVE_PORT=18000
NEUROSERVE_STATE=$(mktemp -d)
make install
setsid make serve &
server=$!
trap 'kill -TERM -- "-$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$NEUROSERVE_STATE"' EXIT
url=http://127.0.0.1:$NEUROSERVE_PORT
for _ in $(seq 120); do curl -sf "$url/health/ready" >/dev/null && break; sleep 0.5; done
curl -sf "$url/health/ready"
echo

ask() {  # PATH CONTENT-TYPE FILE WHAT-THE-ANSWER-HOLDS
  local answer
  answer=$(curl -sf "$url$1" -H "Content-Type: $2" --data-binary "@service/examples/$3")
  echo "$answer"
  case $answer in *"$4"*) ;; *) echo "the answer lacks $4" >&2; return 1 ;; esac
}
ask /predict/digit image/png seven.png '"digit":7'
ask /predict/sequence application/json headline.json '"label":"Business"'
ask /predict/sequence application/json week.json '"horizon":24'
