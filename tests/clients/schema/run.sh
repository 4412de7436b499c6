#!/usr/bin/env bash
# Tests the control API and the job API against their own OpenAPI document: run.sh GANNET_BINARY [EXAMPLES]. There must
# be no 5xx and no undocumented response.
set -euo pipefail
binary=$(realpath "$1")
examples=${2:-200}
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"

if [ ! -x .venv/bin/schemathesis ]; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check schemathesis==4.32.5
fi

data=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill "$server" 2>/dev/null; rm -rf "$data"' EXIT
printf 'spares = 0\n[limits]\nrequests_per_s = 1000000\nrequests_burst = 1000000\nkeys = 10000\nsecrets = 10000\nschedules = 10000\nhooks = 10000\n' >"$data/server.toml"
"$binary" serve --listen 127.0.0.1:0 --data "$data/data" --config "$data/server.toml" --allow-unconfined 2>"$data/log" &
server=$!
until url=$(grep -o 'listening on .*' "$data/log" 2>/dev/null | cut -d' ' -f3) && [ -n "$url" ]; do
    kill -0 "$server" || { cat "$data/log"; exit 1; }
    read -rt 0.1 <> <(:) || :
done
key=$(cat "$data/data/operator.key")
export GANNET_SERVER=$url GANNET_KEY=$key
"$binary" tenant create acme >/dev/null 2>&1
"$binary" deploy ../../../functions/prebuilt/hello.wasm --name hello --tenant acme >/dev/null 2>&1
"$binary" deploy ../../../functions/prebuilt/task.wasm --name task --tenant acme >/dev/null 2>&1
export PYTHONPATH=$here TOKEN=$key
.venv/bin/schemathesis --config-file schemathesis.toml run "$url/api/v1/openapi.json" \
    --checks all --max-examples "$examples" --phases examples,coverage,fuzzing --mode all --generation-deterministic \
    --continue-on-failure --request-timeout 20 -H "x-gannet-tenant: acme" --no-color || {
    status=$?
    tail -20 "$data/log"
    exit $status
}
