#!/usr/bin/env bash
# Shows kvtier at work with real vLLM engines. See scripts/demo/main.py for what it does.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

failed() {
    printf '{"demo":"failed","reason":"%s"}\n' "$1"
    exit 1
}

say "kvtier demo: checks the machine, builds, then runs engines; about 2 minutes when everything is cached, 20 the first time"
scripts/setup.sh test || failed "the machine lacks something, see above"
choose_compilers
lock run
say "building the daemon and the wheel"
build_release || failed "the daemon did not build, see above"
scripts/wheel.sh || failed "the wheel did not build, see above"
scripts/venv.sh || failed "the vLLM environment could not be made, see above"

PYTHONPATH="$SITE" exec "$VENV/bin/python" scripts/demo/main.py --kvtierd "$RELEASE/kvtierd"
