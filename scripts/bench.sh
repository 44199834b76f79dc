#!/usr/bin/env bash
# Runs kvtier-bench with the given arguments, or everything. The connector's figures need the wheel and vLLM.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

case ${1:-all} in
all | nvme | mixed) scripts/setup.sh bench ;;
esac
case ${1:-all} in
all | connector)
    scripts/venv.sh
    scripts/wheel.sh
    ;;
esac
export KVTIER_PYTHON="${KVTIER_PYTHON:-$VENV/bin/python}"
PYTHONPATH="$SITE" exec "$RELEASE/kvtier-bench" "${@:-all}"
