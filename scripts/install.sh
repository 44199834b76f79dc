#!/usr/bin/env bash
# Installs what `make build` made: programs, library, header, manual pages, completions, the systemd unit.
#
# usage: install.sh DESTDIR PREFIX
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

destination="${1-}" prefix="${2:?PREFIX}"
root="$destination$prefix"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
soname=$(readelf -d "$RELEASE/libkvtier.so" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
[[ -n $soname ]] || die "$RELEASE/libkvtier.so has no soname"

install -D -m 0755 -t "$root/bin" "$RELEASE/kvtierd" "$RELEASE/kvtier" "$RELEASE/kvtier-bench"
install -D -m 0755 "$RELEASE/libkvtier.so" "$root/lib/libkvtier.so.$version"
ln -sfn "libkvtier.so.$version" "$root/lib/$soname"
ln -sfn "$soname" "$root/lib/libkvtier.so"
install -D -m 0644 -t "$root/lib" "$RELEASE/libkvtier.a"
install -D -m 0644 -t "$root/include" connector-abi/include/kvtier.h
mkdir -p "$root/lib/pkgconfig"
sed -e "s|@PREFIX@|$prefix|g" -e "s|@VERSION@|$version|g" connector-abi/kvtier.pc.in >"$root/lib/pkgconfig/kvtier.pc"
if grep -q '@[A-Z_]*@' "$root/lib/pkgconfig/kvtier.pc"; then
    die "kvtier.pc.in has a field that install.sh does not fill"
fi

share="$root/share"
"$RELEASE/kvtier" man "$share/man/man1"
"$RELEASE/kvtier" completions bash | install -D -m 0644 /dev/stdin "$share/bash-completion/completions/kvtier"
"$RELEASE/kvtier" completions zsh | install -D -m 0644 /dev/stdin "$share/zsh/site-functions/_kvtier"
"$RELEASE/kvtier" completions fish | install -D -m 0644 /dev/stdin "$share/fish/vendor_completions.d/kvtier.fish"
install -D -m 0644 -t "$share/doc/kvtier" LICENSE packaging/kvtierd.toml
scripts/guides.py "$share/doc/kvtier"
install -D -m 0644 packaging/kvtier.sysusers "$root/lib/sysusers.d/kvtier.conf"
mkdir -p "$root/lib/systemd/system"
sed "s|@PREFIX@|$prefix|g" packaging/kvtierd.service.in >"$root/lib/systemd/system/kvtierd.service"
say "installed under $root; if the loader does not search $prefix/lib, run ldconfig or set LD_LIBRARY_PATH"
