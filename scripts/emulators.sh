#!/usr/bin/env bash
# Runs a command beside emulators of Google Cloud Storage and Azure Blob Storage, for the tests of the remote tier
# (kvstore/remote/tests/README.md). They are fetched and built once, into the cache. What cannot be had is not started, and that is
# said; the tests that want it do nothing then.
#
# usage: emulators.sh COMMAND...     e.g. emulators.sh cargo test -p kvstore --test remote_clouds
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

azurite=3.35.0
folder="$KVTIER_CACHE/emulators"
mkdir -p "$folder"

skip() { warn "SKIPPED: the remote tier at an emulator of $1: $2"; }

# These are subshells: their locks and settings end with them.
# shellcheck disable=SC2030,SC2031
install_azurite() (
    place="$folder/azurite"
    lock emulators
    [[ "$(cat "$place/.complete" 2>/dev/null)" == "$azurite" ]] && exit 0
    say "installing azurite $azurite into $place"
    rm -rf "$place"
    mkdir -p "$place"
    timeout 300 npm install --prefix "$place" --no-audit --no-fund --no-update-notifier --fetch-retries=1 --omit=dev "azurite@$azurite" >"$place/log" 2>&1 ||
        { tail -5 "$place/log" | sed 's/^/    /' >&2; exit 1; }
    # Written last: an interrupted installation has no such file and starts over.
    printf '%s' "$azurite" >"$place/.complete"
)

# shellcheck disable=SC2030,SC2031
build_gcs() (
    lock emulators
    export GOTOOLCHAIN=local GOFLAGS=-mod=readonly GOWORK=off
    cd tests/gcs
    [[ -x "$folder/kvt-gcs" ]] || say "building fake-gcs-server (minutes, the first time)"
    timeout 60 go mod download github.com/fsouza/fake-gcs-server
    timeout 900 go build -p 2 -ldflags='-s -w' -o "$folder/kvt-gcs" .
)

emulators=()
go_needed=$(awk '$1 == "go" { print $2 }' tests/gcs/go.mod)
go_found=
have go && go_found=$(GOTOOLCHAIN=local go env GOVERSION)
go_found=${go_found#go}
if [[ -z $go_found ]]; then
    skip "Google Cloud Storage" "there is no Go here (want $go_needed or newer)"
elif [[ $(printf '%s\n' "$go_needed" "$go_found" | sort -V | head -1) != "$go_needed" ]]; then
    skip "Google Cloud Storage" "this Go is $go_found, want $go_needed or newer"
elif build_gcs; then
    emulators+=(--gcs "$folder/kvt-gcs")
else
    skip "Google Cloud Storage" "fake-gcs-server cannot be built (above); Go's module proxy has to be reached once"
fi
if ! have node || ! have npm; then
    skip "Azure Blob Storage" "there is no Node.js with npm here"
elif install_azurite; then
    emulators+=(--azure "$folder/azurite")
else
    skip "Azure Blob Storage" "azurite cannot be installed (above); npm's registry has to be reached once"
fi

exec "${PYTHON:-python3}" scripts/emulators.py "${emulators[@]}" "$@"
