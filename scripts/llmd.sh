#!/usr/bin/env bash
# Tests what routers make of kvtier's events (tests/llmd). Builds the daemon and the engine that they drive.
#
# usage: llmd.sh [arguments of go test]     e.g. llmd.sh -run Picker -v
#
# Go's caches are its own, outside the clone. Without a new enough Go, nothing is tested, and that is said.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

needed=$(awk '$1 == "go" { print $2 }' tests/llmd/go.mod)
skip() {
    warn "SKIPPED: tests/llmd, what routers make of the events: $*"
    exit 0
}
have go || skip "there is no Go here (want $needed or newer)"
# What is too old would try to download a newer one.
export GOTOOLCHAIN=local GOFLAGS=-mod=readonly
found=$(go env GOVERSION)
found=${found#go}
[[ $(printf '%s\n' "$needed" "$found" | sort -V | head -1) == "$needed" ]] || skip "this Go is $found, want $needed or newer"

if [[ -z ${KVTIERD-} || -z ${KVTIER_DRIVE-} ]]; then
    cargo build --locked -p kvstore -p kvtier-tests --bins
fi
export KVTIERD="${KVTIERD:-$CARGO_TARGET_DIR/debug/kvtierd}" KVTIER_DRIVE="${KVTIER_DRIVE:-$CARGO_TARGET_DIR/debug/kvt-drive}"

# /tmp may be memory, which is no device.
export KVTIER_LLMD_SCRATCH="$KVTIER_CACHE/llmd"
mkdir -p "$KVTIER_LLMD_SCRATCH"
if [[ -z ${KVTIER_LLMD_EPP-} ]]; then
    warn "SKIPPED: the router's own endpoint picker: KVTIER_LLMD_EPP does not name one (tests/llmd/README.md)"
fi

cd tests/llmd
go vet ./...
go test -count=1 -timeout 8m "$@" ./...
