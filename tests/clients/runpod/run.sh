#!/usr/bin/env bash
# Runpod's own clients, by base URL alone: run.sh GANNET COMPONENT
#
# The Python client (sync and async) and the JavaScript client run against a server with the function `task`. Then the
# packages `standardwebhooks` of PyPI and npm verify the webhooks that it sends.
set -euo pipefail
gannet=$(realpath "$1") component=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
place=$here/../../../.build/clients/runpod
mkdir -p "$place"
place=$(realpath "$place")
work=$(mktemp -d)
server= receiver=
finish() {
    for process in $receiver $server; do kill "$process" 2>/dev/null && wait "$process" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT

if [ ! -e "$place/venv/bin/python" ]; then python3 -m venv "$place/venv"; fi
"$place/venv/bin/pip" install --quiet --disable-pip-version-check runpod==1.12.0 standardwebhooks==1.1.0
cp "$here/package.json" "$here/package-lock.json" "$here"/*.mjs "$place"
(cd "$place" && npm ci --silent --no-audit --no-fund)

printf '[egress]\nallow_ranges = ["127.0.0.0/8"]\n[webhooks]\nfirst_retry_ms = 50\n' >"$work/server.toml"
"$gannet" serve --dev --listen 127.0.0.1:0 --data "$work/data" --config "$work/server.toml" 2>"$work/log" &
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

# The first delivery is answered with 500, so it comes twice.
call() { curl --silent --show-error --fail -H "authorization: Bearer gnt_dev_local" "$@"; }
secret=$(call "$url/api/v1/webhooks/secret" | sed -n 's/.*"secret": "\([^"]*\)".*/\1/p')
"$place/venv/bin/python" "$here/webhook.py" "$secret" 500 >"$work/deliveries" 2>"$work/unverified" &
receiver=$!
until [ -s "$work/deliveries" ]; do sleep 0.1; done
hook=$(head -1 "$work/deliveries")
for input in '{"say":"x"}' '{"fail":"why"}'; do
    call "$url/v2/task/run" -d "{\"input\":$input,\"webhook\":\"$hook\"}" >/dev/null
done
for _ in $(seq 300); do
    if [ "$(wc -l <"$work/deliveries")" -ge 4 ]; then break; fi
    sleep 0.1
done
tail -n +2 "$work/deliveries" | (cd "$place" && node verify.mjs) >"$work/verified"
if [ "$(wc -l <"$work/verified")" != 3 ] || [ -s "$work/unverified" ]; then
    cat "$work/deliveries" "$work/unverified" "$work/log"
    exit 1
fi
echo "webhooks: PyPI's and npm's standardwebhooks verify them"
echo "runpod: the Python and the JavaScript client do all they can"
