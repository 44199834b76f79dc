#!/usr/bin/env bash
# Builds all of Kubernetes as one program: build.sh VERSION FILE.
#
# Kubernetes is not made to be depended on: its module names its own libraries by paths of its repository. They are modules of
# their own as well, with 0 in place of 1 in their version.
set -euo pipefail
version=$1 file=$2 source=$(dirname "$(readlink -f "$0")")/main.go
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp "$source" "$folder"
cd "$folder"
export GOTOOLCHAIN=local GOFLAGS="-mod=mod -buildvcs=false" CGO_ENABLED=0
kubernetes=$(go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
{
    printf 'module kube\n\ngo 1.26\n\nrequire k8s.io/kubernetes %s\n\nreplace (\n' "$version"
    sed -n "s|^\t\(k8s.io/[a-z-]*\) => ./staging.*|\t\1 => \1 v0${version#v1}|p" "$kubernetes"
    printf ')\n'
} >go.mod
go mod tidy
said=k8s.io/component-base/version
major=${version%%.*} minor=${version#*.}
go build -p 2 -trimpath -o "$file" -ldflags "-s -w -X $said.gitVersion=$version -X $said.gitMajor=${major#v} -X $said.gitMinor=${minor%%.*} \
    -X $said.gitTreeState=clean -X $said.buildDate=1970-01-01T00:00:00Z -X k8s.io/client-go/pkg/version.gitVersion=$version" .
