#!/usr/bin/env bash
# Tests the Helm chart, its alert rules and what packages are made of (tests/chart).
#
# usage: chart.sh [arguments of pytest]     e.g. -k golden, or test_rules.py; KVTIER_BLESS=1 writes the goldens anew
#
# The tools come from package registries into the cache, once: helm and kubeconform are compiled (three and a half minutes
# of CPU), promtool and runc are Debian's. Without a new enough Go nothing is tested, and that is said.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

go_needed=1.26.0
programs=(helm.sh/helm/v3/cmd/helm@v3.22.0 github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0)
operator=github.com/prometheus-operator/prometheus-operator@v0.85.0
promtool=github.com/prometheus/prometheus/cmd/promtool@v0.316.0
requirements=tests/chart/requirements.txt

skip() {
    warn "SKIPPED: tests/chart, the Helm chart: $*"
    exit 0
}
have go || skip "there is no Go here (want $go_needed or newer)"
export GOTOOLCHAIN=local GOFLAGS=-mod=mod
found=$(go env GOVERSION)
found=${found#go}
[[ $(printf '%s\n' "$go_needed" "$found" | sort -V | head -1) == "$go_needed" ]] || skip "this Go is $found, want $go_needed or newer"

bin="$KVTIER_CACHE/bin" venv="$KVTIER_CACHE/chart"
mkdir -p "$bin"
lock chart

# A stamp beside each program names what it was made of; it is written last.
made_of() { [[ -x "$bin/$1" && "$(cat "$bin/.$1" 2>/dev/null)" == "$2" ]]; }

go_program() {
    local name
    name=$(basename "${1%@*}")
    made_of "$name" "$1 $found" && return
    say "compiling $1"
    GOBIN="$bin" nice go install -p 2 -ldflags='-s -w' "$1"
    printf '%s' "$1 $found" >"$bin/.$name"
}

# debian_program NAME PACKAGE PATH: takes one program out of a package; what else is in it (a server, say) is not installed.
debian_program() {
    made_of "$1" debian && return
    have apt-get && have dpkg-deb || return 1
    local scratch
    scratch=$(mktemp -d)
    chmod 0755 "$scratch"
    if (cd "$scratch" && { apt-get download -qq "$2" || { apt-get update -qq && apt-get download -qq "$2"; }; } &&
        dpkg-deb -x "$2"_*.deb .) >"$scratch/said" 2>&1; then
        install -m 0755 "$scratch/$3" "$bin/$1"
        printf debian >"$bin/.$1"
        rm -rf "$scratch"
        return 0
    fi
    sed 's/^/    /' "$scratch/said" >&2
    rm -rf "$scratch"
    return 1
}

for program in "${programs[@]}"; do go_program "$program"; done
have promtool || debian_program promtool prometheus usr/bin/promtool || go_program "$promtool"
have runc || debian_program runc runc usr/sbin/runc || warn "NOT INSTALLED: runc; what the chart's pod may do is not tried in a container"

python="${PYTHON:-python3}"
stamp="$("$python" -V) $(sha256sum <"$requirements" | cut -d' ' -f1)"
if [[ "$(cat "$venv/.complete" 2>/dev/null)" != "$stamp" ]]; then
    scripts/tools.sh
    say "installing $requirements into $venv"
    rm -rf "$venv"
    "$TOOLS/bin/uv" venv --quiet --python "$python" "$venv"
    "$TOOLS/bin/uv" pip install --quiet --no-deps --python "$venv/bin/python" -r "$requirements"
    printf '%s' "$stamp" >"$venv/.complete"
fi
# Definitions of ServiceMonitor and its like; nothing of it is compiled.
operator_directory=$(go mod download -json "$operator" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
[[ -d $operator_directory ]] || die "$operator did not come"

if [[ -z ${KVTIERD-} || -z ${KVTIER-} ]]; then
    cargo build --locked --workspace --bins
    cargo build --locked -p connector-abi
fi
export KVTIERD="${KVTIERD:-$CARGO_TARGET_DIR/debug/kvtierd}" KVTIER="${KVTIER:-$CARGO_TARGET_DIR/debug/kvtier}"
export KVTIER_OPERATOR="$operator_directory"
# /tmp may be memory, which is no device.
export KVTIER_CHART_SCRATCH="$KVTIER_CACHE/chart-scratch"
mkdir -p "$KVTIER_CHART_SCRATCH"

cd tests/chart
PATH="$bin:$venv/bin:$PATH" PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" -m pytest -p no:cacheprovider -ra --durations=3 "$@"
