#!/usr/bin/env bash
# Says at once all that is missing to build Matchpoint, and fetches what needs no root: CMake from PyPI,
# NASM from the machine's own Debian or Ubuntu mirror. They are needed for libjpeg-turbo alone.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: build-tools.sh [--dir FOLDER]

  --dir FOLDER  where to put the tools (default: <repository>/.cache/build-tools)

The tools are put into FOLDER/bin. The make targets look there by themselves; to call cargo by hand:

  export PATH="$PWD/.cache/build-tools/bin:$PATH"
TEXT
}

say() { printf '%s\n' "$*" >&2; }
fail() { say "build-tools.sh: $*"; exit 1; }

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.cache/build-tools
while [ $# -gt 0 ]; do
    case "$1" in
        --dir)
            [ $# -ge 2 ] || fail "--dir needs a folder"
            folder=$2
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; fail "unknown argument: $1" ;;
    esac
    shift
done
case "$folder" in /*) ;; *) folder=$PWD/$folder ;; esac
PATH=$folder/bin:$PATH
machine=$(uname -m)

cmake_version=4.4.5
case "$machine" in
    x86_64) cmake_sha256=85625a9b6d5e88ff99c7eb79123d85570844e77ac076366cf75c609cc0b1b579 ;;
    aarch64) cmake_sha256=25fc8469e67857124ef10c002331c0ab416eb7b8d9e1d6e4c58e84e730013ece ;;
    *) cmake_sha256="" ;;
esac

# --- Everything that is missing, before anything is fetched --------------------------------------

has() { command -v "$1" >/dev/null 2>&1; }
# On other machines libjpeg-turbo's SIMD is written in C.
needs_nasm() { [ "$machine" = x86_64 ] && ! has nasm && ! has yasm; }
can_fetch_nasm() { has apt-get && has dpkg-deb; }

missing=() debian=() fedora=()
lacks() { missing+=("$1"); debian+=("$2"); fedora+=("$3"); }
has cc || lacks "a C compiler (cc)" build-essential gcc
has python3 || lacks "Python 3" python3 python3
if ! has python3 || ! python3 -m pip --version >/dev/null 2>&1; then
    lacks "pip of Python 3" python3-pip python3-pip
fi
if ! has python3 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    lacks "venv of Python 3" python3-venv python3
fi
if ! has cmake && [ -z "$cmake_sha256" ]; then lacks CMake cmake cmake; fi
if needs_nasm && ! can_fetch_nasm; then lacks NASM nasm nasm; fi

if ! has cargo; then
    say "missing: a Rust toolchain (cargo). It needs no root: https://rustup.rs"
fi
if [ ${#missing[@]} -gt 0 ]; then
    for what in "${missing[@]}"; do say "missing: $what"; done
    if has dnf; then
        say "one line for all of it: sudo dnf install ${fedora[*]}"
    else
        say "one line for all of it: sudo apt-get install ${debian[*]}"
    fi
fi
has cargo && [ ${#missing[@]} -eq 0 ] || exit 1

# --- What needs no root --------------------------------------------------------------------------

if has cmake && ! needs_nasm; then
    say "a C compiler, CMake and Python are in place"
    exit 0
fi
mkdir -p "$folder/bin" || fail "cannot create $folder"
# Beside the target, so that the move at the end stays within one file system.
work=$(mktemp -d "$folder/.fetch-XXXXXX") || fail "cannot write to $folder"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fetch_cmake() {
    say "fetching CMake $cmake_version from PyPI"
    TMPDIR=$work python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps \
        --only-binary :all: --platform "manylinux2014_$machine" --dest "$work" "cmake==$cmake_version" >&2 \
        || fail "pip could not download cmake==$cmake_version (see above). Or: sudo apt-get install cmake"
    local wheel found
    wheel=$(find "$work" -maxdepth 1 -name 'cmake-*.whl')
    found=$(sha256sum "$wheel" | cut -d ' ' -f 1)
    [ "$found" = "$cmake_sha256" ] || fail "$(basename "$wheel") has SHA-256 $found, expected $cmake_sha256"
    python3 -m zipfile -e "$wheel" "$work/cmake"
    chmod +x "$work/cmake/cmake/data/bin/"*
    rm -rf "$folder/cmake-$cmake_version"
    mv "$work/cmake/cmake/data" "$folder/cmake-$cmake_version"
    ln -sfn "../cmake-$cmake_version/bin/cmake" "$folder/bin/cmake"
}

# apt verifies the package's signature, with lists and a cache of its own: nothing of the machine changes.
fetch_nasm() {
    say "fetching NASM from the package mirror (nothing is installed on the machine)"
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
    local apt=(apt-get --quiet=2 -o "Dir::State=$work/state" -o "Dir::Cache=$work/cache"
        -o Dir::State::status=/var/lib/dpkg/status -o APT::Sandbox::User=)
    if ! (cd "$work" && "${apt[@]}" update >&2 && "${apt[@]}" download nasm >&2); then
        fail "NASM could not be downloaded (see above). Type: sudo apt-get install nasm"
    fi
    dpkg-deb --extract "$work"/nasm_*.deb "$work/nasm"
    mv "$work/nasm/usr/bin/nasm" "$folder/bin/nasm"
}

has cmake || fetch_cmake
if needs_nasm; then fetch_nasm; fi
cmake --version >/dev/null || fail "the fetched CMake does not run; type: sudo apt-get install cmake"
if [ "$machine" = x86_64 ] && has nasm; then
    nasm -v >/dev/null || fail "the fetched NASM does not run; type: sudo apt-get install nasm"
fi
say "in place: $folder/bin"
