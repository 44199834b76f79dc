#!/usr/bin/env bash
# Boots systemd with a package of kvtier in a container, and treats the unit as an operator does: starts it, asks it as a reader and as
# somebody who may not, reloads it, kills it and sees it come back, gives it a wrong configuration, stops it.
#
# usage: unit.sh [PACKAGE.deb|FOLDER]
#
# Default: what `make dist` has put into dist/. FOLDER is a DESTDIR of `make install PREFIX=/usr`. Wants root and systemd-nspawn (Debian:
# systemd-container); without them nothing is tested, and that is said. Nothing of the machine changes: its /usr is shown under that
# of the package, and everything else is made for the container.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

skip() {
    warn "SKIPPED: the systemd unit was not booted: $*"
    exit 0
}
[[ $(id -u) == 0 ]] || skip "only root can boot a container"
have systemd-nspawn || skip "there is no systemd-nspawn here (Debian: systemd-container)"
[[ -x /usr/lib/systemd/systemd ]] || skip "there is no systemd in /usr/lib/systemd"

packages=(dist/kvtier_*.deb)
package="${1:-${packages[0]}}"
[[ -e $package ]] || die "there is no $package: make dist, or name a package or an installation"

lock unit
# Not in /tmp, which may be memory: the daemon has an NVMe directory in here.
stage=$(mktemp -d /var/tmp/kvtier-unit.XXXXXX)
trap 'rm -rf "$stage"' EXIT
if [[ -d $package ]]; then
    cp -r "$package" "$stage/package"
else
    dpkg-deb -x "$package" "$stage/package"
fi
[[ -x $stage/package/usr/bin/kvtierd ]] || die "$package has no usr/bin/kvtierd"

root="$stage/root"
mkdir -p "$root"/{dev,etc/kvtier,etc/systemd/system,mnt,proc,root,run,sys,tmp,usr,var/tmp} "$stage/check"
for name in bin lib lib64 sbin; do ln -s "usr/$name" "$root/$name"; done
printf 'root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
cp /usr/lib/os-release "$root/etc/os-release"
: >"$root/etc/machine-id"
cp packaging/kvtierd.toml "$root/etc/kvtier/kvtierd.toml"

cat >"$root/etc/systemd/system/check.service" <<'UNIT'
[Unit]
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/bin/bash /check/inside
StandardOutput=file:/check/log
StandardError=inherit
TimeoutStartSec=120
UNIT

cat >"$stage/check/inside" <<'INSIDE'
set -euo pipefail
on_error() { systemctl status --no-pager kvtierd || true; journalctl --no-pager -u kvtierd -n 50 || true; }
trap on_error ERR
step() { echo "== $*"; }
eventually() {
    for _ in $(seq 200); do
        if "$@"; then return; fi
        sleep 0.1
    done
    echo "waited too long: $*"
    false
}
as() { local user=$1 group=$2; shift 2; setpriv --reuid "$user" --regid "$group" --clear-groups -- "$@"; }
pid() { systemctl show --value -p MainPID kvtierd; }
answers() { kvtier status >/dev/null 2>&1; }

step "the package's user"
systemd-sysusers kvtier.conf
group=$(getent group kvtier | cut -d: -f3)

step "the configuration: the packaged one with a small memory, a directory and a reader"
sed -i 's/^capacity = "1GiB"/capacity = "64MiB"/' /etc/kvtier/kvtierd.toml
cat >>/etc/kvtier/kvtierd.toml <<CONFIG
[nvme]
directories = ["/var/lib/kvtier/nvme"]
capacity = "96MiB"
[admin]
reader-gids = [$group]
CONFIG
kvtier check-config /etc/kvtier/kvtierd.toml

step "it starts"
systemctl start kvtierd
eventually answers
[[ $(stat -c %U "/proc/$(pid)") == kvtier ]]
[[ $(stat -c '%U:%G %a' /run/kvtier) == "kvtier:kvtier 750" ]]
[[ $(grep -c . "/proc/$(pid)/status") -gt 0 && $(sed -n 's/^CapEff:\t*//p' "/proc/$(pid)/status") == 0000000000000000 ]]
serving() { kvtier devices | grep -q serving; }
eventually serving
kvtier devices

step "a reader of its group asks, and may change nothing"
as 2000 "$group" kvtier status
! as 2000 "$group" kvtier drain 2>/tmp/refused || false
cat /tmp/refused

step "somebody else may not ask"
code=0
as 2001 65534 kvtier status || code=$?
[[ $code == 77 ]]

step "it is reloaded"
before=$(pid)
systemctl reload kvtierd
eventually answers
[[ $(pid) == "$before" ]]

step "it is killed, and comes back"
kill -KILL "$before"
back() { local now; now=$(pid); [[ $now != 0 && $now != "$before" ]] && answers; }
eventually back

step "it is stopped, and ends well"
systemctl stop kvtierd
[[ $(systemctl show --value -p Result kvtierd) == success && $(systemctl show --value -p ExecMainStatus kvtierd) == 0 ]]
[[ -d /run/kvtier ]]

step "a wrong configuration is not tried again"
echo 'nonsense = true' >>/etc/kvtier/kvtierd.toml
systemctl start kvtierd || true
failed() { [[ $(systemctl show --value -p ActiveState kvtierd) == failed ]]; }
eventually failed
[[ $(systemctl show --value -p ExecMainStatus kvtierd) == 64 && $(systemctl show --value -p NRestarts kvtierd) -le 1 ]]

step "what it is exposed to"
systemd-analyze security --no-pager --threshold=20 kvtierd | tail -n 1
touch /check/passed
INSIDE

say "booting systemd with $package"
timeout --kill-after 10 240 systemd-nspawn --quiet --boot --register=no --keep-unit --private-network --machine=kvtier-unit --directory="$root" \
    --overlay="/usr:$stage/package/usr:/usr" --bind="$stage/check:/check" --console=pipe \
    systemd.unit=check.service systemd.log_level=notice systemd.show_status=no </dev/null >"$stage/boot" 2>&1 || true
cat "$stage/check/log" 2>/dev/null || { cat "$stage/boot"; skip "systemd does not boot in a container here"; }
[[ -e $stage/check/passed ]] || { tail -n 40 "$stage/boot"; die "the unit does not do what it should"; }
say "the unit starts, serves, reloads, comes back and stops"
