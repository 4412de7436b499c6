#!/usr/bin/env bash
# Builds the JavaScript guest: build.sh WIT_DIRECTORY OUTPUT.wasm
set -euo pipefail

wit=$(realpath "$1")
output=$(realpath -m "$2")
cd "$(dirname "$0")"

# package.json pins jco to the smallest version that componentize-js accepts: the newest brings 170 MB of
# compilers that this build never runs. componentize-js only uses jco to wrap and label the component.
if [ ! -x node_modules/.bin/componentize-js ]; then
    npm ci --no-audit --no-fund
fi

# componentize-js is called directly, because `jco componentize` did not read a WIT directory here when tried.
# Because app.js exports `incomingHandler`, componentize-js turns its fetch-event handler off.
node_modules/.bin/componentize-js app.js --wit "$wit" --world-name gannet:gpu/handler --out "$output"
