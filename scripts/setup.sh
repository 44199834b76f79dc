#!/usr/bin/env bash
# Checks what the machine has. Missing Debian packages are installed when we are root; otherwise it says which.
#
# usage: setup.sh daemon|build|test|bench     (daemon: no more than the programs need that run in an image)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

scope="${1:?daemon, build, test or bench}"
needed=()
wanted=()

have cc || needed+=(gcc libc6-dev)
have c++ || needed+=(g++)
python="${PYTHON:-python3}"
if [[ $scope != daemon ]]; then
    have git || needed+=(git)
    have flock || needed+=(util-linux)
    have "$python" || needed+=(python3 python3-venv)
    if have "$python" && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        needed+=(python3-venv)
    fi
    have ccache || wanted+=(ccache)
fi
# bindgen loads libclang at build time, to read RocksDB's C header. (libclang-cpp is another library.)
if [[ -z ${LIBCLANG_PATH-} ]] && ! grep -qE 'libclang(-[0-9.]+)?\.so' <<<"$(/sbin/ldconfig -p)" &&
    ! compgen -G '/usr/lib/llvm-*/lib/libclang.so*' >/dev/null && ! compgen -G '/usr/lib/llvm-*/lib/libclang-[0-9]*.so*' >/dev/null; then
    needed+=(libclang1)
fi
if [[ $scope == bench ]]; then
    have fio || wanted+=(fio)
fi
if [[ $scope == test ]]; then
    # vLLM's CPU build links it; PyPI cannot bring it.
    grep -qF libnuma.so.1 <<<"$(/sbin/ldconfig -p)" || needed+=(libnuma1)
    have valgrind || wanted+=(valgrind)
    have shellcheck || wanted+=(shellcheck)
    # Boots the systemd unit.
    have systemd-nspawn || wanted+=(systemd-container)
    # Looks at the page for people.
    have chromium || wanted+=(chromium)
fi

# Installs the named packages; false if that is not possible here.
install_packages() {
    [[ $(id -u) == 0 ]] && have apt-get || return 1
    say "installing from Debian: $*"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >&2
}

if ((${#needed[@]})); then
    install_packages "${needed[@]}" || die "missing packages; as root: apt-get install ${needed[*]}"
fi
if ((${#wanted[@]})); then
    install_packages "${wanted[@]}" ||
        warn "NOT INSTALLED: ${wanted[*]}; what needs them is skipped. As root: apt-get install ${wanted[*]}"
fi

[[ $scope == daemon ]] || "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2])' ||
    die "$python is $("$python" -V 2>&1), want 3.10 or newer (set PYTHON to choose another)"
have cargo || die "no cargo: install rustup, then the toolchain that rust-toolchain.toml names"
if ! cargo --version >/dev/null 2>&1; then
    have rustup || die "the toolchain of rust-toolchain.toml is not installed, and there is no rustup to ask for it"
    say "installing the Rust toolchain of rust-toolchain.toml"
    rustup toolchain install >&2
fi
