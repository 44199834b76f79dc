#!/usr/bin/env bash
# Builds the image of the daemon with docker, podman or buildah, whichever is there first. Its time is that of the last commit; so is
# that of files in it with podman and buildah (docker: see the Dockerfile).
#
# usage: image.sh [TAG] [argument of the builder...]     e.g. image.sh registry.example/kvtier:0.1.0 --build-arg BASE=debian:bookworm-slim@sha256:…
#
# KVTIER_IMAGE_BUILDER chooses the builder.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
tag="${1:-kvtier:$version}"
shift || true
epoch="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"

builder="${KVTIER_IMAGE_BUILDER-}"
for name in docker podman buildah; do
    if [[ -n $builder ]] || ! have "$name"; then continue; fi
    # Without its daemon it builds nothing.
    if [[ $name == docker ]] && ! docker info >/dev/null 2>&1; then continue; fi
    builder=$name
done
arguments=(build --tag "$tag" --build-arg "SOURCE_DATE_EPOCH=$epoch")
case $builder in
docker) ;;
podman | buildah) arguments+=(--timestamp "$epoch") ;;
"") die "there is no docker with a daemon, no podman and no buildah here" ;;
*) die "unknown builder $builder, want docker, podman or buildah" ;;
esac
say "building $tag with $builder"
exec "$builder" "${arguments[@]}" "$@" .
