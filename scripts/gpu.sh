#!/usr/bin/env bash
# What only a GPU can show, in two halves, because the machine that has one may have no toolchain:
#
#   scripts/gpu.sh pack DIR    here: builds, and puts what is needed into DIR (about 60 MB)
#   scripts/gpu.sh run DIR     there: the conformance suite and the figures on the GPU; writes DIR/out
#   scripts/gpu.sh try DIR     anywhere: the same steps on the stand-in for a driver; no figures
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

usage() { die "usage: scripts/gpu.sh pack|run|try DIR"; }
[[ $# -eq 2 ]] || usage
part="$1" folder="$2"

pack() {
    build_release
    local tests
    tests=$(cargo test --locked --release -p connector-abi --lib --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
    mkdir -p "$folder"
    install -m 0755 "$RELEASE/kvtierd" "$RELEASE/kvtier-bench" "$RELEASE/libkvtier.so" "$folder"
    install -m 0755 "$tests" "$folder/conformance"
    strip --strip-debug "$folder"/*
    du -sh "$folder" >&2
}

figures() {
    local out="$folder/out"
    mkdir -p "$out"
    "$folder/kvtier-bench" device --json --daemon "$folder/kvtierd" --library "$folder/libkvtier.so" "$@" | tee "$out/device.jsonl"
}

case "$part" in
pack) pack ;;
run)
    have nvidia-smi && nvidia-smi
    mkdir -p "$folder/out"
    "$folder/conformance" --nocapture a_gpu_copies_as_promised 2>&1 | tee "$folder/out/conformance.log"
    grep -q '1 passed' "$folder/out/conformance.log"
    grep -q skipped "$folder/out/conformance.log" && die "there is no CUDA device here"
    figures
    ;;
try)
    "$folder/conformance" a_gpu_copies_as_promised
    figures --stand-in --device-mib 32 --device-compute-ms 20 --rounds 5
    ;;
*) usage ;;
esac
