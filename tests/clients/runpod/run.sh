#!/usr/bin/env bash
# Runpod's own clients, by base URL alone: run.sh GANNET COMPONENT
#
# The Python client (sync and async) and the JavaScript client run against a server with the function `task`.
set -euo pipefail
gannet=$(realpath "$1") component=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
place=$here/../../../.build/clients/runpod
mkdir -p "$place"
place=$(realpath "$place")
work=$(mktemp -d)
server=
finish() {
    if [ -n "$server" ]; then kill "$server" 2>/dev/null && wait "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

if [ ! -e "$place/venv/bin/python" ]; then python3 -m venv "$place/venv"; fi
"$place/venv/bin/pip" install --quiet --disable-pip-version-check runpod==1.12.0 standardwebhooks==1.1.0
cp "$here/package.json" "$here/package-lock.json" "$here"/*.mjs "$place"
(cd "$place" && npm ci --silent --no-audit --no-fund)

"$gannet" serve --dev --listen 127.0.0.1:0 --data "$work/data" 2>"$work/log" &
server=$!
for _ in $(seq 300); do
    url=$(sed -n 's/^listening on //p' "$work/log")
    if [ -n "$url" ]; then break; fi
    kill -0 "$server" || { cat "$work/log"; exit 1; }
    sleep 0.1
done
mkdir "$work/task"
cp "$component" "$work/task/task.wasm"
sed -e 's|^artifact = .*|artifact = "task.wasm"|' -e '/^command = /d' "$here/../../../functions/task/gannet.toml" >"$work/task/gannet.toml"
export GANNET_SERVER=$url GANNET_KEY=gnt_dev_local
"$gannet" deploy "$work/task" --no-build >/dev/null 2>&1 || { cat "$work/log"; exit 1; }

"$place/venv/bin/python" "$here/clients.py" "$url/v2" gnt_dev_local task
(cd "$place" && node check.mjs "$url/v2" gnt_dev_local task)
echo "runpod: the Python and the JavaScript client do all they can"
