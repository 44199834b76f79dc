#!/usr/bin/env bash
# Builds the daemon, the admin command, the library and the bench (release); `daemon`: only the first two.
#
# usage: build.sh [daemon]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

case ${1-} in
"") build_release ;;
daemon) env -u SOURCE_DATE_EPOCH cargo build --locked --release -p kvstore --bins ;;
*) die "unknown part $1, want daemon or nothing" ;;
esac
