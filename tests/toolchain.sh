#!/usr/bin/env bash
# Tests scripts/guest-toolchain in a folder of its own: two calls at once make one whole toolchain, a broken one is made
# anew, and a folder that somebody else prepared is refused. Prints nothing if all is well.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export GANNET_BUILD_FOLDER=$folder/build

fail() {
    echo "guest toolchain: $1" >&2
    cat "$folder"/*.log >&2
    exit 1
}

scripts/guest-toolchain --from-source >"$folder/first" 2>"$folder/first.log" & first=$!
scripts/guest-toolchain --from-source >"$folder/second" 2>"$folder/second.log" & second=$!
wait $first || fail "the first of two calls failed"
wait $second || fail "the second of two calls failed"
cmp -s "$folder/first" "$folder/second" || fail "two calls at once gave different toolchains"
[ "$(cat "$folder"/*.log | grep -c 'making a toolchain')" = 1 ] || fail "it was not made exactly once"
toolchain=$(tail -n 1 "$folder/first" | cut -d: -f1 | xargs dirname)
[ ! -e "$GANNET_BUILD_FOLDER/new" ] || fail "the folder in which it was made is left"

# Each of these breaks it, as an interrupted build or a cleaned cache would.
for lost in lib/rustlib/src/rust/library/std/src/lib.rs bin/rustc .complete; do
    rm "$toolchain/$lost"
    scripts/guest-toolchain --from-source >"$folder/again" 2>"$folder/again.log" || fail "without $lost it was not made anew"
    [ -e "$toolchain/$lost" ] || fail "without $lost it counted as complete"
done

mkdir "$folder/other"
ln -s "$folder/other" "$folder/link"
if GANNET_BUILD_FOLDER=$folder/link scripts/build-folder >/dev/null 2>&1; then fail "a link was taken for the user's own folder"; fi
if [ "$(id -u)" = 0 ]; then
    chown nobody "$folder/other"
    if GANNET_BUILD_FOLDER=$folder/other scripts/build-folder >/dev/null 2>&1; then fail "another user's folder was taken"; fi
fi
