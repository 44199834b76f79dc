#!/usr/bin/env bash
# Fuzzes every decoder, each for a while, starting from the committed corpus in fuzz/corpus.
#
# It is libFuzzer with coverage counters on the pinned stable toolchain. The address sanitizer needs a nightly one; the
# decoders have no unsafe code, so what is looked for is panics, overflows, hangs, memory without a bound, and encodings
# that are not unique. What the fuzzer finds is kept in the cache and used again; a finding is left in fuzz/artifacts.
#
# usage: fuzz.sh [SECONDS [TARGET...]]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

seconds="${1:-30}"
shift || true
targets=("$@")
if ((${#targets[@]} == 0)); then
    for path in fuzz/targets/*.rs; do targets+=("$(basename "$path" .rs)"); done
fi
((seconds > 0)) || die "want a number of seconds above 0"

# --target keeps the flags away from build scripts, which have no libFuzzer to link with.
host=$(rustc -vV | sed -n 's/^host: //p')
flags=(
    --cfg fuzzing
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Ccodegen-units=1
)
export CARGO_TARGET_DIR="$CARGO_TARGET_DIR-fuzz"
say "building the fuzz targets"
RUSTFLAGS="${flags[*]}" cargo build --locked --release --manifest-path fuzz/Cargo.toml --target "$host" >&2

mkdir -p fuzz/artifacts
for target in "${targets[@]}"; do
    found="$KVTIER_CACHE/fuzz/$target"
    mkdir -p "$found"
    "$CARGO_TARGET_DIR/$host/release/$target" "$found" "fuzz/corpus/$target" -artifact_prefix="fuzz/artifacts/$target-" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1 -verbosity=0 \
        >"$found.log" 2>&1 || {
        tail -n 40 "$found.log" >&2
        die "$target: see fuzz/artifacts; to see it again: $CARGO_TARGET_DIR/$host/release/$target FILE"
    }
    say "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$found.log") runs in $seconds s"
done
say "nothing was found"
