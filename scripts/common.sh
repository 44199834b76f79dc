# shellcheck shell=bash
# What the scripts share: where things are, and how they speak. Sourced, with the clone as working directory.

KVTIER_CACHE="${KVTIER_CACHE:-$HOME/.cache/kvtier}"
export KVTIER_CACHE
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$KVTIER_CACHE/target}"

# The tool environment (uv, setuptools), the environment with vLLM, and where this clone's wheel is unpacked. The vLLM
# environment is shared between clones and holds third-party packages only; the wheel is put before it by PYTHONPATH.
# shellcheck disable=SC2034 # used by those who source this
TOOLS="$KVTIER_CACHE/tools" VENV="$KVTIER_CACHE/venv" SITE="$PWD/target/site" RELEASE="$CARGO_TARGET_DIR/release"

# One set of packages everywhere: another set unites other features, and cargo would build everything again. So it would where
# a build script asks for the time that archives are given.
build_release() { env -u SOURCE_DATE_EPOCH cargo build --locked --release -p kvstore -p connector-abi -p kvtier-bench; }

say() { printf '==> %s\n' "$*" >&2; }
warn() { printf '\n*** %s\n\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# How C++ is compiled and C headers are read here. Called again by those who install what it looks for (setup.sh).
#
# RocksDB is 343 C++ files. Both profiles ask for the same objects, so with a compiler cache they are compiled once. Who
# chose a compiler keeps it. The variable names the target, so cargo's build scripts read it and nobody else: PyTorch would
# take a plain CXX for the path of one program, and fail to compile its own kernels in the engines we test with.
#
# Debian's libclang comes without clang's own headers (stddef.h and its like); gcc's serve as well for bindgen.
choose_compilers() {
    if have ccache && [[ -z ${CXX-} ]]; then
        export CCACHE_DIR="${CCACHE_DIR:-$KVTIER_CACHE/ccache}" "CXX_$(uname -m)_unknown_linux_gnu=ccache c++"
    fi
    if have gcc && ! compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null &&
        ! compgen -G '/usr/lib/clang/*/include/stddef.h' >/dev/null; then
        export BINDGEN_EXTRA_CLANG_ARGS="${BINDGEN_EXTRA_CLANG_ARGS:--I$(gcc -print-file-name=include)}"
    fi
}
choose_compilers

# Holds the lock NAME of the cache until this process ends, and says so when another run holds it.
lock() {
    mkdir -p "$KVTIER_CACHE"
    local descriptor
    exec {descriptor}>"$KVTIER_CACHE/$1.lock"
    if ! flock --nonblock "$descriptor"; then
        say "waiting: another run holds $KVTIER_CACHE/$1.lock"
        flock "$descriptor"
    fi
}
