#!/usr/bin/env bash
# Formatting, lints, shell scripts, licences and advisories. What is skipped is said.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

say "cargo fmt --check"
cargo fmt --all --check
say "cargo clippy"
cargo clippy --locked --workspace --all-targets --keep-going -- -D warnings

if have shellcheck; then
    say "shellcheck"
    shellcheck --external-sources scripts/*.sh tests/cluster/up.sh tests/cluster/kube/build.sh .ci/run
else
    warn "SKIPPED: shellcheck is not installed, so the scripts were not checked"
fi

if cargo deny --version >/dev/null 2>&1; then
    say "cargo deny"
    cargo deny --locked check
else
    warn "SKIPPED: cargo-deny is not installed (cargo install cargo-deny), so advisories were not checked; the tidy test still checks licences and sources"
fi
