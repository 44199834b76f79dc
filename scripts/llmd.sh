#!/usr/bin/env bash
# Tests what routers make of kvtier's events (tests/llmd). Builds the daemon and the engine that they drive.
#
# usage: llmd.sh [arguments of go test]     e.g. llmd.sh -run Picker -v
#
# KVTIER_LLMD_ROUTER=FOLDER: sources of llm-d-router v0.10.0. The tests then run against the router's own packages as well,
# and against its endpoint picker. Without it, Go's module proxy is asked for them.
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

# The router's own packages, which are no part of this repository: what is built of them and for them is in the cache.
router_module=$(awk '$1 ~ /llm-d-router$/ { print $1 "@" $2 }' tests/llmd/router/go.mod)
router_build="$KVTIER_CACHE/llmd-router"
mkdir -p "$router_build"

# These two are subshells: their lock and their settings end with them.
# shellcheck disable=SC2030,SC2031
build_router_from_folder() (
    tests="$PWD/tests/llmd/router"
    sources=$(cd "$KVTIER_LLMD_ROUTER" && pwd)
    lock llmd-router
    rm -f "$router_build"/go.*
    # A workspace of both, so that the versions and sums of everything else are the router's own.
    export GOWORK="$router_build/go.work" GOFLAGS=
    (cd "$router_build" && go work init "$tests" "$sources" && go work edit -replace "$router_module=$sources")
    export GOFLAGS=-buildvcs=false
    (cd "$tests" && go build -o "$router_build/kvt-router" .)
    (cd "$sources" && go build -o "$router_build/epp" ./cmd/epp)
)

# shellcheck disable=SC2030,SC2031
build_router_from_proxy() (
    lock llmd-router
    rm -f "$router_build"/go.*
    # A copy of go.mod, which Go may complete and to which it writes sums.
    cp tests/llmd/router/go.mod "$router_build/go.mod"
    export GOWORK=off GOFLAGS="-mod=mod -modfile=$router_build/go.mod"
    cd tests/llmd/router
    go build -o "$router_build/kvt-router" .
    go build -o "$router_build/epp" "${router_module%@*}/cmd/epp"
)

router_built=
if [[ -n ${KVTIER_LLMD_ROUTER-} ]]; then
    say "building llm-d-router's packages and endpoint picker from $KVTIER_LLMD_ROUTER (minutes, the first time)"
    build_router_from_folder
    router_built=yes
elif why=$(cd / && GOFLAGS='' timeout 60 go mod download "$router_module" 2>&1); then
    say "building llm-d-router's packages and endpoint picker (minutes, the first time)"
    build_router_from_proxy
    router_built=yes
else
    warn "SKIPPED: llm-d-router's own packages, so what follows is about our model of it. Go's module proxy does not give them:
    ${why//$'\n'/$'\n'    }
    To test with them: git clone -b ${router_module#*@} https://${router_module%@*} FOLDER, then KVTIER_LLMD_ROUTER=FOLDER $0"
fi
[[ -z $router_built ]] || export KVTIER_LLMD_EPP="${KVTIER_LLMD_EPP:-$router_build/epp}"
if [[ -z ${KVTIER_LLMD_EPP-} ]]; then
    warn "SKIPPED: the router's own endpoint picker: KVTIER_LLMD_EPP does not name one (tests/llmd/README.md)"
fi

cd tests/llmd
go vet ./...
status=0
go test -count=1 -timeout 8m "$@" ./... || status=1
if [[ -n $router_built ]]; then
    say "the same tests with llm-d-router's own packages instead of the model"
    # It waits 5 s before it opens a socket again, and 30 s after a replay that failed.
    KVTIER_LLMD_ROUTER_PROGRAM="$router_build/kvt-router" \
        go test -count=1 -timeout 30m -skip 'Picker|Golden|Maps' "$@" . || status=1
fi
exit $status
