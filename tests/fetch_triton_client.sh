#!/bin/sh
# Puts Triton's perf_analyzer and the Python client of its release, 2.48.0, into a folder: fetch_triton_client.sh FOLDER [PYTHON]
#
# The binary lies in the Linux wheel of that client alone: later wheels need a newer glibc, or hold none. It needs two
# libraries: libcudart.so.12 comes from NVIDIA's wheel, libb64.so.0d from the system or, without root, from Debian's
# package. `FOLDER/perf_analyzer` runs it. What is there already is not fetched again.
set -eu
folder=$1
python=${2:-python3}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

fetch() { # fetch NAME PACKAGE
  [ -d "$folder/$1" ] && return
  rm -rf "$folder/$1.new"
  "$python" -m pip --disable-pip-version-check --quiet install --no-deps --target "$folder/$1.new" "$2"
  mv "$folder/$1.new" "$folder/$1"
}

fetch client tritonclient==2.48.0
fetch cuda nvidia-cuda-runtime-cu12==12.9.79
fetch protobuf protobuf==6.33.6

libraries=$folder/cuda/nvidia/cuda_runtime/lib
if ! ldconfig -p | grep -q 'libb64\.so\.0d'; then
  if [ ! -d "$folder/b64" ]; then
    rm -rf "$folder/b64.new"
    mkdir "$folder/b64.new"
    (cd "$folder/b64.new" && { apt-get -qq download libb64-0d || { apt-get -qq update && apt-get -qq download libb64-0d; }; })
    dpkg-deb -x "$folder"/b64.new/*.deb "$folder/b64.new"
    mv "$folder/b64.new" "$folder/b64"
  fi
  libraries=$libraries:$(dirname "$(find "$folder/b64" -name 'libb64.so.0d')")
fi

cat >"$folder/perf_analyzer" <<END
#!/bin/sh
LD_LIBRARY_PATH=$libraries exec "$folder/client/bin/perf_analyzer" "\$@"
END
chmod +x "$folder/perf_analyzer" "$folder/client/bin/perf_analyzer"
