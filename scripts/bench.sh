#!/usr/bin/env bash
# Runs kvtier-bench with the given arguments. The connector figures need the vLLM environment and the wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

scripts/venv.sh
scripts/wheel.sh
export KVTIERD="${KVTIERD:-$RELEASE/kvtierd}" KVTIER_PYTHON_BENCH="$VENV/bin/python" PYTHONPATH="$SITE"
exec "$RELEASE/kvtier-bench" "$@"
