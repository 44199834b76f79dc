#!/usr/bin/env bash
# Runs the Helm chart in a real Kubernetes cluster of one node (tests/cluster), which is made for it and goes with it.
#
# usage: cluster.sh                         the tests
#        cluster.sh -k pytest-words         some of them
#        cluster.sh -- COMMAND…             a command in the cluster, such as bash: kubectl and helm are in its PATH
#
# Root on Debian, with Go. Kubernetes is compiled once (ten minutes of CPU, 2 GB of disk meanwhile), the rest are Debian's packages; all
# of it stays in the cache. KVTIER_IMAGE=FILE takes an image archive that was built, named kvtier:0.1.0, in place of a stand-in.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

kubernetes=v1.33.13
packages=(containerd etcd-server containernetworking-plugins)
have_all=(pgrep go apt-get dpkg-deb debootstrap runc unshare nsenter ip openssl gcc)

[[ $(id -u) == 0 ]] || die "only root can make a cluster"
for program in "${have_all[@]}"; do have "$program" || die "there is no $program here"; done
tools="$KVTIER_CACHE/cluster"
mkdir -p "$tools"/{bin,images}
lock cluster
# Both would have the same cgroups.
! pgrep -x kubelet >/dev/null || die "a kubelet runs here; take a machine without one"

if [[ "$(cat "$tools/.kubernetes" 2>/dev/null)" != "$kubernetes" ]]; then
    say "compiling Kubernetes $kubernetes"
    nice tests/cluster/kube/build.sh "$kubernetes" "$tools/bin/kube"
    for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do ln -sfn kube "$tools/bin/$name"; done
    printf '%s' "$kubernetes" >"$tools/.kubernetes"
fi

if [[ ! -d $tools/debian ]]; then
    say "taking ${packages[*]} out of Debian's packages"
    scratch=$(mktemp -d)
    chmod 0755 "$scratch"
    (cd "$scratch" && { apt-get download -qq "${packages[@]}" || { apt-get update -qq && apt-get download -qq "${packages[@]}"; }; } >/dev/null)
    for package in "$scratch"/*.deb; do dpkg-deb -x "$package" "$tools/debian.part"; done
    rm -rf "$scratch"
    mv "$tools/debian.part" "$tools/debian"
fi

if [[ ! -f $tools/base.tar ]]; then
    say "making a base for images"
    scratch=$(mktemp -d)
    # shellcheck source=/dev/null
    debootstrap --variant=minbase --include=python3,libstdc++6 "$(source /etc/os-release && printf '%s' "$VERSION_CODENAME")" "$scratch/base" >"$scratch/said" ||
        { tail "$scratch/said" >&2; die "debootstrap failed"; }
    tar -C "$scratch/base" --numeric-owner --exclude=./var/cache/apt/archives/*.deb --exclude=./dev/* -cf "$tools/base.part" .
    mv "$tools/base.part" "$tools/base.tar"
    rm -rf "$scratch"
fi

# As for the chart's tests, who names a daemon has its neighbours taken too.
programs="$RELEASE"
if [[ -n ${KVTIERD-} ]]; then programs=$(dirname "$KVTIERD"); else build_release; fi
# helm and the tests' Python come with the chart's tests.
[[ -x $KVTIER_CACHE/bin/helm && -x $KVTIER_CACHE/chart/bin/python ]] || KVTIERD="$programs/kvtierd" KVTIER="$programs/kvtier" scripts/chart.sh -k lint

say "making images"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python="$KVTIER_CACHE/chart/bin/python" path='"PATH=/usr/sbin:/usr/bin:/sbin:/bin"'
# image NAME CONFIGURATION LAYER.tar…, from the folder of that name.
image() {
    local name=$1 configuration=$2
    shift 2
    tar -C "$scratch/$name" --owner=0 --group=0 --numeric-owner -cf "$scratch/$name.tar" .
    "$python" tests/cluster/image.py "$tools/images/$name.tar" "docker.io/cluster/$name:1" "$configuration" "$@" "$scratch/$name.tar"
}
mkdir -p "$scratch"/{pause,kvtier/usr/bin,engine/opt/engine}
gcc -O2 -static -s -o "$scratch/pause/pause" tests/cluster/pause.c
image pause '{"Entrypoint": ["/pause"], "User": "65535:65535"}'
for program in kvtierd kvtier; do install -s "$programs/$program" "$scratch/kvtier/usr/bin"; done
image kvtier "{\"Entrypoint\": [\"kvtierd\"], \"User\": \"10470:10470\", \"Env\": [$path]}" "$tools/base.tar"
install -s "$programs/libkvtier.so" "$scratch/engine/opt/engine"
cp -r tests/cluster/engine.py python-shim/kvtier "$scratch/engine/opt/engine"
image engine "{\"Entrypoint\": [\"python3\", \"/opt/engine/engine.py\"], \"Env\": [$path, \"KVTIER_LIBRARY=/opt/engine/libkvtier.so\", \"PYTHONPATH=/opt/engine\"]}" "$tools/base.tar"

command=("$python" -m pytest -p no:cacheprovider -ra "$PWD/tests/cluster" "$@")
if [[ ${1-} == -- ]]; then
    shift
    command=("$@")
fi
# Definitions of ServiceMonitor and its like, of the version that the chart's tests take.
KVTIER_OPERATOR=$(GOFLAGS=-mod=mod go mod download -json "$(sed -n 's/^operator=//p' scripts/chart.sh)" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
export KVTIER_OPERATOR CLUSTER_TOOLS="$tools" CLUSTER_IMAGE="${KVTIER_IMAGE-}" PYTHONDONTWRITEBYTECODE=1
status=0
# All of it is in namespaces of its own: processes, mounts and addresses go when the command ends.
unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private tests/cluster/up.sh "${command[@]}" || status=$?
find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null || true
exit "$status"
