#!/usr/bin/env bash
# Checks the real models through the real clients: run.sh GANNET [OPTIONS OF check.py …]. Fetches the
# weights and the packages that the comparison needs. With GANNET_GPU_CLASS=gpu the first GPU gets the class of a real
# one: a software driver then runs the kernels that GPUs get, and only check.py runs, which compares the numbers.
set -euo pipefail
cd "$(dirname "$0")/../../.."
gannet=$(realpath "$1")
shift
scripts/fetch-models
python3 -m venv .build/models-venv
.build/models-venv/bin/pip install --quiet --disable-pip-version-check numpy gguf tokenizers openai
(cd tests/clients/openai && npm ci --silent --no-audit --no-fund)
folder=$(mktemp -d)
[ -z "${GANNET_GPU_CLASS:-}" ] || printf '[[gpus]]\nindex = 0\nclass = "%s"\n' "$GANNET_GPU_CLASS" >"$folder/server.toml"
touch "$folder/server.toml"
"$gannet" serve --dev --listen 127.0.0.1:0 --data "$folder/data" --config "$folder/server.toml" 2>"$folder/log" &
server=$!
trap 'kill $server 2>/dev/null || true; wait $server 2>/dev/null || true; rm -rf "$folder"' EXIT
until url=$(sed -n 's/^listening on //p' "$folder/log") && [ -n "$url" ]; do kill -0 $server; done
export GANNET_SERVER=$url GANNET_KEY=gnt_dev_local
"$gannet" asset put smollm2-135m-instruct-q4_1 .models/smollm2-135m-instruct-q4_1.gguf
"$gannet" asset put all-minilm-l6-v2 .models/all-minilm-l6-v2.safetensors
"$gannet" asset put all-minilm-l6-v2-tokenizer .models/all-minilm-l6-v2-tokenizer.json
"$gannet" deploy functions/embed --no-build
"$gannet" deploy functions/chat --no-build
# A thousand positions in one request take minutes on a software driver. With kernels for GPUs every request does.
for function in chat embed; do
    "$gannet" configure $function limits.timeout_ms=600000 limits.cpu_ms=600000
done
.build/models-venv/bin/python tests/clients/models/check.py "$url" gnt_dev_local .models "$@"
[ -z "${GANNET_GPU_CLASS:-}" ] || exit 0
.build/models-venv/bin/python tests/clients/models/broken.py "$gannet" .models
.build/models-venv/bin/python tests/clients/openai/clients.py "$url" gnt_dev_local
node tests/clients/openai/check.mjs "$url" gnt_dev_local
