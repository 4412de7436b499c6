#!/usr/bin/env bash
# Builds the Python guest: build.sh WIT_DIRECTORY OUTPUT.wasm
set -euo pipefail

wit=$(realpath "$1")
output=$(realpath -m "$2")
here=$(cd "$(dirname "$0")" && pwd)

# The tool carries its own CPython for Wasm; the Python here only has to run pip.
if [ ! -x "$here/.venv/bin/componentize-py" ]; then
    python3 -m venv "$here/.venv"
    "$here/.venv/bin/pip" install --quiet --disable-pip-version-check componentize-py==0.25.1
fi

# Only app.py goes on the path: everything in a path directory would be packed into the component.
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
cp "$here/app.py" "$source/"
cd "$source"
"$here/.venv/bin/componentize-py" -d "$wit" -w gannet:gpu/handler componentize -p "$source" app -o "$output"
