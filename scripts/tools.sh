#!/usr/bin/env bash
# Makes the small tool environment: uv to install quickly, setuptools to build the wheel. Idempotent.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

packages=(uv==0.13.9 setuptools==78.1.1)
[[ "$(cat "$TOOLS/.complete" 2>/dev/null)" == "${packages[*]}" ]] && exit 0

lock tools
[[ "$(cat "$TOOLS/.complete" 2>/dev/null)" == "${packages[*]}" ]] && exit 0
say "installing ${packages[*]} into $TOOLS"
rm -rf "$TOOLS"
"${PYTHON:-python3}" -m venv "$TOOLS"
"$TOOLS/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
# Written last: an interrupted installation has no such file and starts over.
printf '%s' "${packages[*]}" >"$TOOLS/.complete"
