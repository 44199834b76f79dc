#!/usr/bin/env bash
# Brings up Kubernetes in namespaces that scripts/cluster.sh has made, and runs a command in it: up.sh COMMAND…
#
# The command has KUBECONFIG, kubectl and helm; CLUSTER_MOUNT is the node's /mnt. When it ends, everything does.
set -euo pipefail
tools="$CLUSTER_TOOLS" state="$CLUSTER_TOOLS/state" node=node-1 address=10.77.0.1
rm -rf "$state"
mkdir -p "$state"/{lib,log,mnt,etc/cni,logs,settings}
export PATH="$tools/bin:$tools/debian/usr/bin:${KVTIER_CACHE:?}/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
unset HTTP_PROXY HTTPS_PROXY http_proxy https_proxy

# Places that cannot be chosen. Nothing of this is seen outside.
mount --bind "$state/lib" /var/lib
mount --bind "$state/log" /var/log
mount --bind "$state/mnt" /mnt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
# The kubelet would change these for the whole machine, and runs as well if it only believes that it did.
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    cat "/proc/sys/$setting" >"$state/settings/${setting//\//.}"
    mount --bind "$state/settings/${setting//\//.}" "/proc/sys/$setting"
done
mount --make-rshared /
ip link set lo up
ip link add node0 type bridge
ip address add "$address/24" dev node0
ip link set node0 up
ip route add default via 10.77.0.254
echo 1 >/proc/sys/net/ipv4/ip_forward

cd "$state/etc"
openssl genrsa -out sa.key 2048 2>/dev/null
openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
openssl req -x509 -newkey rsa:2048 -nodes -keyout apiserver.key -out apiserver.crt -days 2 -subj /CN=kube-apiserver \
    -addext "subjectAltName=IP:$address,IP:10.96.0.1,DNS:kubernetes.default.svc" 2>/dev/null
# member NAME USER GROUP: somebody whom the API server knows by a token.
member() {
    local token
    token=$(openssl rand -hex 16)
    printf '%s,%s,%s,"%s"\n' "$token" "$2" "$1" "$3" >>tokens.csv
    cat >"$1.kubeconfig" <<EOF
apiVersion: v1
kind: Config
clusters: [{name: here, cluster: {server: "https://$address:6443", certificate-authority: $state/etc/apiserver.crt}}]
users: [{name: me, user: {token: "$token"}}]
contexts: [{name: here, context: {cluster: here, user: me}}]
current-context: here
EOF
}
member admin admin system:masters
member controllers system:kube-controller-manager ""
member scheduler system:kube-scheduler ""
member kubelet "system:node:$node" system:nodes
export KUBECONFIG="$state/etc/admin.kubeconfig"

start() {
    local name=$1
    shift
    "$@" >"$state/logs/$name.log" 2>&1 &
}
# wait_for NAME COMMAND…: until the command succeeds; the log of NAME is shown if it does not.
wait_for() {
    local name=$1 turn
    shift
    for ((turn = 0; turn < 240; turn++)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.5
    done
    tail -n 20 "$state/logs/$name.log" >&2
    printf 'error: %s did not get ready\n' "$name" >&2
    exit 1
}

start etcd etcd --data-dir "$state/etcd" --unsafe-no-fsync --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
start apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address="$address" --allow-privileged=true --kubelet-preferred-address-types=InternalIP \
    --tls-cert-file=apiserver.crt --tls-private-key-file=apiserver.key --token-auth-file=tokens.csv \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --service-cluster-ip-range=10.96.0.0/16 \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=sa.pub --service-account-signing-key-file=sa.key
wait_for apiserver kubectl get --raw /readyz
as() { printf -- '--%s=%s.kubeconfig\n' kubeconfig "$1" authentication-kubeconfig "$1" authorization-kubeconfig "$1"; }
mapfile -t controllers < <(as controllers)
mapfile -t scheduler < <(as scheduler)
start controllers kube-controller-manager "${controllers[@]}" --leader-elect=false --use-service-account-credentials \
    --service-account-private-key-file=sa.key --root-ca-file=apiserver.crt
start scheduler kube-scheduler "${scheduler[@]}" --leader-elect=false

# A container's place before the out-of-memory killer: not everybody who is root may raise it.
cat >containerd.toml <<EOF
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "docker.io/cluster/pause:1"
  cni = {bin_dir = "$tools/debian/usr/lib/cni", conf_dir = "$state/etc/cni"}
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
EOF
cat >cni/bridge.conflist <<EOF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
EOF
start containerd containerd --config containerd.toml
wait_for containerd ctr version
images=("$tools"/images/*.tar)
for archive in "${images[@]}" ${CLUSTER_IMAGE:+"$CLUSTER_IMAGE"}; do ctr --namespace k8s.io images import "$archive" >>"$state/logs/images.log"; done
image=docker.io/cluster/kvtier:1
if [[ -n ${CLUSTER_IMAGE-} ]]; then
    names=$(ctr --namespace k8s.io images list --quiet)
    image=$(grep -m1 -E '(^|/)kvtier:0\.1\.0$' <<<"$names") || { printf 'error: %s: want an image kvtier:0.1.0, got %s\n' "$CLUSTER_IMAGE" "$names" >&2; exit 1; }
fi
# Two names of one image, so that it can be changed; and the whole name of one that was built, by which the kubelet looks for it.
for tag in one two 0.1.0; do ctr --namespace k8s.io images tag --force "$image" "docker.io/library/kvtier:$tag" >/dev/null; done

cat >kubelet.yaml <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
resolvConf: ""
syncFrequency: 10s
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
EOF
start kubelet kubelet --config kubelet.yaml --kubeconfig kubelet.kubeconfig --hostname-override="$node" --node-ip="$address"
wait_for kubelet kubectl wait --for=condition=Ready "node/$node" --timeout=1s
wait_for controllers kubectl get serviceaccount default
export CLUSTER_MOUNT=/mnt
cd /
printf '==> the cluster is up: %s\n' "$(kubectl version | grep Server)" >&2
status=0
"$@" || status=$?
exit "$status"
