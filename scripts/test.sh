#!/usr/bin/env bash
# Runs the test stages one after the other and sums them up. The first failure ends the run.
#
# usage: test.sh all|rust|python
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

part="${1:?all, rust or python}"
summary=()
began=$SECONDS

summarise() {
    printf '\n%s\n' "stage                                      result    seconds"
    printf '%s\n' "${summary[@]}"
    printf '%-42s %-9s %7d\n' "all" "$1" $((SECONDS - began))
}

# stage NAME COMMAND...: runs the command; a failure is the end of the run.
stage() {
    local name="$1" start=$SECONDS
    shift
    printf '\n=== %s (%s, %d s so far)\n' "$name" "$(date -u +%H:%M:%S)" $((SECONDS - began))
    if "$@"; then
        summary+=("$(printf '%-42s %-9s %7d' "$name" ok $((SECONDS - start)))")
    else
        local status=$?
        summary+=("$(printf '%-42s %-9s %7d' "$name" FAILED $((SECONDS - start)))")
        summarise FAILED
        printf '\nerror: stage "%s" failed (exit %d): %s\n' "$name" "$status" "$*" >&2
        exit 1
    fi
}

loom() {
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$KVTIER_CACHE/target-loom" \
        cargo test --locked -p connector-shm --release --lib loom
}

python_tests() {
    KVTIERD="$RELEASE/kvtierd" KVTIER_S3_SERVER="$CARGO_TARGET_DIR/debug/examples/s3_server" PYTHONPATH="$SITE" PYTHONDONTWRITEBYTECODE=1 \
        "$VENV/bin/python" -m pytest -p no:cacheprovider -ra --durations=5 "$@"
}

# More runs than `cargo test` makes, in release. Each prints its seed; `make sim SEED=N` replays one.
simulation() {
    local fresh
    fresh=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
    cargo build --locked --release -p kvstore-engine --features sim --example sim &&
        "$RELEASE/examples/sim" --seed 1 --count 20 &&
        "$RELEASE/examples/sim" --seed "$fresh" --count 20
}

rust_stages() {
    stage "lint" scripts/lint.sh
    stage "build the binaries" cargo build --locked --workspace --bins
    stage "build the library" cargo build --locked -p connector-abi
    export KVTIERD="$CARGO_TARGET_DIR/debug/kvtierd"
    stage "cargo test" scripts/emulators.sh cargo test --locked --workspace
    KVTIER_DRIVE="$CARGO_TARGET_DIR/debug/kvt-drive" stage "routers, in Go" scripts/llmd.sh
    KVTIER="$CARGO_TARGET_DIR/debug/kvtier" stage "Helm chart and packages" scripts/chart.sh
    unset KVTIERD
    stage "rings under loom" loom
    stage "simulation: fixed and fresh seeds (release)" simulation
}

python_stages() {
    stage "build for release" build_release
    stage "S3 server" cargo build --locked --workspace --example s3_server
    stage "wheel" scripts/wheel.sh
    stage "packages" scripts/dist.sh
    stage "systemd unit" scripts/unit.sh
    stage "vLLM environment" scripts/venv.sh
    stage "Python package" python_tests python-shim/tests
    stage "demo's own tests" python_tests scripts/demo
    stage "vLLM end to end" python_tests tests/vllm
    stage "demo" env PYTHONPATH="$SITE" "$VENV/bin/python" scripts/demo/main.py --kvtierd "$RELEASE/kvtierd"
}

lock run
stage "machine" scripts/setup.sh test
choose_compilers
case $part in
all)
    rust_stages
    python_stages
    ;;
rust) rust_stages ;;
python) python_stages ;;
*) die "unknown part $part, want all, rust or python" ;;
esac
summarise ok
