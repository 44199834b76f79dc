#!/usr/bin/env bash
# Makes what is handed out, in dist/: a tarball, a Debian package, the wheel, the chart, a bill of materials, checksums.
# Equal sources, tools and SOURCE_DATE_EPOCH (default: the last commit's time) make equal archives.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
name="kvtier-$version-linux-$(uname -m)"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
umask 022

archive() { # FILE FOLDER NAME: a tarball that depends on nothing but its content
    tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=ustar -C "$2" -cf - "$3" | gzip -9n >"$1"
}

debian_package() {
    local deb="$stage/deb" glibc kib
    mkdir -p "$deb/DEBIAN" "$deb/usr/lib/x86_64-linux-gnu" "$deb/etc/kvtier"
    cp -r "$stage/$name"/{bin,include,share} "$deb/usr/"
    cp -r "$stage/$name/lib"/{systemd,sysusers.d} "$deb/usr/lib/"
    cp -r "$stage/$name/lib"/{libkvtier.*,pkgconfig} "$deb/usr/lib/x86_64-linux-gnu/"
    # shellcheck disable=SC2016 # pkg-config expands it
    sed -i -e 's|^prefix=.*|prefix=/usr|' -e 's|^libdir=.*|libdir=${prefix}/lib/x86_64-linux-gnu|' "$deb/usr/lib/x86_64-linux-gnu/pkgconfig/kvtier.pc"
    sed 's|@PREFIX@|/usr|g' packaging/kvtierd.service.in >"$deb/usr/lib/systemd/system/kvtierd.service"
    mv "$deb/usr/share/doc/kvtier/LICENSE" "$deb/usr/share/doc/kvtier/copyright"
    find "$deb/usr/share/man" -name '*.1' -exec gzip -9n {} +
    install -m 0644 packaging/kvtierd.toml "$deb/etc/kvtier/kvtierd.toml"
    install -m 0755 -t "$deb/DEBIAN" packaging/debian/{postinst,prerm,postrm}
    echo /etc/kvtier/kvtierd.toml >"$deb/DEBIAN/conffiles"
    glibc=$(objdump -T "$deb"/usr/bin/* "$deb"/usr/lib/x86_64-linux-gnu/libkvtier.so | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -V | tail -n 1)
    kib=$(du -sk --exclude=DEBIAN "$deb" | cut -f1)
    sed -e "s|@VERSION@|$version|" -e "s|@GLIBC@|$glibc|" -e "s|@KIB@|$kib|" packaging/debian/control.in >"$deb/DEBIAN/control"
    find "$deb" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group --build -Zxz -z3 "$deb" "dist/kvtier_${version}_amd64.deb" >&2

    # What was packed is what runs.
    dpkg-deb -x "dist/kvtier_${version}_amd64.deb" "$stage/unpacked"
    "$stage/unpacked/usr/bin/kvtier" check-config "$stage/unpacked/etc/kvtier/kvtierd.toml" >&2
    [[ $("$stage/unpacked/usr/bin/kvtierd" --version) == "kvtierd $version" ]] || die "the package has another version of kvtierd"
}

mkdir -p dist
rm -f dist/kvtier-*.tar.gz dist/kvtier_*.deb dist/kvtier-*.tgz dist/kvtier-*.cdx.json dist/SHA256SUMS
scripts/wheel.sh

say "bill of materials"
python3 scripts/sbom.py >"dist/kvtier-$version.cdx.json"

say "tarball"
# It is for /usr/local: that is where its unit and its pkg-config file look.
scripts/install.sh "$stage/root" /usr/local
mv "$stage/root/usr/local" "$stage/$name"
if have strip; then strip --strip-debug "$stage/$name/bin"/kvtier{,d,-bench} "$stage/$name"/lib/libkvtier.so.*.*.*; fi
cp "dist/kvtier-$version.cdx.json" "$stage/$name/share/doc/kvtier/"
archive "dist/$name.tar.gz" "$stage" "$name"

say "Debian package"
if have dpkg-deb && have objdump; then
    debian_package
else
    warn "SKIPPED: the Debian package: dpkg-deb or objdump is not installed"
fi

say "chart"
mkdir "$stage/chart"
cp -r charts/kvtier "$stage/chart/kvtier"
archive "dist/kvtier-$version.tgz" "$stage/chart" kvtier

(cd dist && sha256sum kvtier* >SHA256SUMS)
say "made:"
ls -l dist >&2
