#!/usr/bin/env bash
# Builds the daemon, the admin command, the library and the bench (release).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

build_release
