#!/usr/bin/env bash
# Builds the JavaScript guest: build.sh WIT_DIRECTORY OUTPUT.wasm
set -euo pipefail

wit=$(realpath "$1")
output=$(realpath -m "$2")
cd "$(dirname "$0")"

# package.json holds jco, which componentize-js only uses to wrap and label the component, to the
# smallest version it accepts: the newest brings 170 MB of compilers that this build never runs.
if [ ! -x node_modules/.bin/componentize-js ]; then
    npm ci --no-audit --no-fund
fi

# componentize-js is called directly: `jco componentize` was tried and did not read a WIT directory here.
# That app.js exports `incomingHandler` turns its fetch-event handler off.
node_modules/.bin/componentize-js app.js --wit "$wit" --world-name gannet:gpu/handler --out "$output"
