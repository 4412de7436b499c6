#!/usr/bin/env bash
# Checks gRPC in both directions with its own Python library: run.sh GANNET COMPONENT.wasm
set -euo pipefail
gannet=$(realpath "$1")
component=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
if [ ! -x "$here/.venv/bin/python" ] || ! "$here/.venv/bin/python" -c 'import grpc' 2>/dev/null; then
    python3 -m venv "$here/.venv"
    "$here/.venv/bin/pip" install --quiet --disable-pip-version-check grpcio==1.76.0
fi
exec "$here/.venv/bin/python" "$here/check.py" "$gannet" "$component"
