#!/bin/sh
# Install the pinned torch into the given interpreter: with CUDA where an NVIDIA driver is found, else a CPU build.
# The default index of Linux holds only the CUDA build, several gigabytes: so PyTorch's own CPU index is asked first,
# with a short time-out; behind a mirror that lacks it the default index is the last resort.
set -eu
python=$1
pin=$(grep '^torch==' "$(dirname "$0")/../constraints.txt")
pip() { "$python" -m pip --disable-pip-version-check --quiet "$@"; }

if "$python" -c 'import importlib.metadata, sys; sys.exit(importlib.metadata.version("torch").split("+")[0] != sys.argv[1])' "${pin#torch==}" 2>/dev/null; then
  exit 0
fi
if [ -e /proc/driver/nvidia/version ] || [ -e /dev/dxg ] || [ "$(uname -s)" != Linux ]; then
  pip install "$pin"
elif ! pip install --index-url https://download.pytorch.org/whl/cpu --timeout 5 --retries 0 "$pin" 2>/dev/null; then
  pip install "$pin"
fi
