#!/bin/sh
# Puts a whole MLflow into a virtual environment of its own: fetch_mlflow.sh FOLDER [PYTHON]
#
# The server wants older versions of what the tests' other tools need, so it does not go beside them. Its version is
# that of the client in constraints.txt. What is there already is not fetched again.
set -eu
folder=$1
python=${2:-python3}
pin=$(sed -n 's/^mlflow-skinny==//p' "$(dirname "$0")/../constraints.txt")
[ "$(cat "$folder/version" 2>/dev/null)" = "$pin" ] && exit 0
rm -rf "$folder"
"$python" -m venv "$folder"
"$folder/bin/python" -m pip --disable-pip-version-check --quiet install "mlflow==$pin"
echo "$pin" >"$folder/version"
