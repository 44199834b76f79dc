#!/usr/bin/env bash
# Builds dist/kvtier-*.whl, which carries libkvtier.so, and unpacks it into target/site for the tests and the demo.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

scripts/tools.sh
build_release
library=python-shim/kvtier/_lib/libkvtier.so
install -D -m 0755 "$RELEASE/libkvtier.so" "$library"
if have strip; then strip --strip-debug "$library"; fi

rm -rf dist/kvtier-*.whl python-shim/build python-shim/*.egg-info "$SITE"
"$TOOLS/bin/uv" build --quiet --wheel --no-build-isolation --python "$TOOLS/bin/python" --out-dir dist python-shim
wheels=(dist/kvtier-*.whl)
[[ -f ${wheels[0]} ]] || die "no wheel came out in dist/"
case ${wheels[0]} in
*-any.whl) die "${wheels[0]} carries a compiled library and must be tagged for its platform" ;;
esac
"$TOOLS/bin/uv" pip install --quiet --no-cache --link-mode copy --no-deps --python "$TOOLS/bin/python" --target "$SITE" "${wheels[0]}"
[[ -f "$SITE/kvtier/_lib/libkvtier.so" ]] || die "${wheels[0]} does not carry libkvtier.so"
say "built ${wheels[0]}"
