#!/usr/bin/env bash
# Install, serve, predict and train one epoch on the newest other Python (3.12 or newer) that pyenv or PATH offers.
set -euo pipefail
own=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
newest='' newest_minor=11
for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3 $(compgen -c python3. | grep -xE 'python3\.[0-9]+' | sort -u); do
  python=$(command -v "$python") || continue
  minor=$("$python" -c 'import sys, sqlite3, venv, ensurepip; print(sys.version_info[1])' 2>/dev/null) || continue
  if [ "3.$minor" != "$own" ] && [ "$minor" -gt "$newest_minor" ]; then newest=$python newest_minor=$minor; fi
done
if [ -z "$newest" ]; then
  echo "no other Python from 3.12 on is here: only $own was tried"
  exit 0
fi
"$newest" -c 'import sys, sqlite3; print("tried on Python", sys.version.split()[0], "with SQLite", sqlite3.sqlite_version)'

work=$(mktemp -d)
export NEUROSERVE_STATE=$work/state NEUROSERVE_PORT=18001
server=
trap '[ -z "$server" ] || { kill -TERM "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }; rm -rf "$work"' EXIT
git clone --quiet . "$work/tree"  # a tree of its own: other installs go on in this one
cd "$work/tree"
make PYTHON="$newest" install
.venv/bin/python -m service &
server=$!
url=http://127.0.0.1:$NEUROSERVE_PORT
for _ in $(seq 120); do curl -sf "$url/health/ready" >/dev/null && break; sleep 0.5; done

field() {  # EXPRESSION: of the JSON on standard input, called `it`
  "$newest" -c "import json, sys; it = json.load(sys.stdin); print($1)"
}
digit=$(curl -sf "$url/predict/digit" -H 'Content-Type: image/png' --data-binary @service/examples/seven.png | field 'it["digit"]')
[ "$digit" = 7 ] || { echo "the digit was $digit, not 7" >&2; exit 1; }
job=$(curl -sf "$url/train" -H 'Content-Type: application/json' \
  -d '{"task": "digit", "network": "mlp", "epochs": 1, "promote": "always"}' | field 'it["id"]')
for _ in $(seq 300); do
  status=$(curl -sf "$url/train/$job" | field 'it["status"]')
  case $status in succeeded) break ;; queued | running) sleep 0.5 ;; *) curl -s "$url/train/$job" >&2; exit 1 ;; esac
done
[ "$status" = succeeded ] || { echo "the training is still $status" >&2; exit 1; }
version=$(curl -sf "$url/predict/digit?model=digit-mlp" -H 'Content-Type: image/png' --data-binary @service/examples/seven.png |
  field 'it["model"]["version"]')
echo "a digit was read, one epoch was trained, and version $version of digit-mlp answers"
