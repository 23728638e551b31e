#!/usr/bin/env bash
# Tests clients/calibration-python and the notebooks: builds the wheel, installs it into an environment of its own, checks types,
# compares its numbers with the program's, and runs examples/notebooks as a reader would.
#
# The Python packages are installed once, into .cache/venv-calibration.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: test-calibration-python.sh --program FILE [--profile NAME]

  --program FILE  the program to compare with, and that the notebooks call
  --profile NAME  the profile of cargo to build the wheel with (default: dev)
TEXT
}

say() { printf '%s\n' "$*" >&2; }
fail() { say "test-calibration-python.sh: $*"; exit 1; }

cd "$(dirname "${BASH_SOURCE[0]}")/.."
program="" profile=dev
while [ $# -gt 0 ]; do
    case "$1" in
        --program | --profile)
            [ $# -ge 2 ] || fail "$1 needs a value"
            if [ "$1" = --program ]; then program=$(realpath "$2"); else profile=$2; fi
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; fail "unknown argument: $1" ;;
    esac
    shift
done
[ -x "$program" ] || fail "there is no program at ${program:-nowhere: name it by --program}"
ORT_DYLIB_PATH=$(scripts/fetch-onnxruntime.sh)
export ORT_DYLIB_PATH PYTHONDONTWRITEBYTECODE=1
for variable in $(compgen -e MATCHPOINT_ || true); do unset "$variable"; done

venv=$(scripts/venv.sh calibration clients/calibration-python/requirements-dev.txt)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say "building the wheel ($profile)"
(cd clients/calibration-python && "$venv/bin/maturin" build --quiet --profile "$profile" --locked \
    --target-dir "${CARGO_TARGET_DIR:-$OLDPWD/target}" --out "$work" >&2)
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall "$work"/*.whl
say "$(basename "$work"/*.whl): $(du -h "$work"/*.whl | cut -f 1)"

say "types of the module (mypy, strict)"
(cd clients/calibration-python && "$venv/bin/mypy" --no-error-summary)
say "what it says, and whether the program says the same"
(cd clients/calibration-python && PROGRAM_TO_COMPARE_WITH=$program "$venv/bin/python" -m pytest --quiet -p no:cacheprovider)

say "notebooks"
"$venv/bin/python" clients/python/hatch_build.py
mkdir "$work/bin"
ln -s "$program" "$work/bin/matchpoint"
export PATH=$work/bin:$venv/bin:$PATH PYTHONPATH=$PWD/clients/python/src TMPDIR=$work JUPYTER_PLATFORM_DIRS=1 IPYTHONDIR=$work
"$venv/bin/python" scripts/run_notebooks.py --in "$work" examples/notebooks/*.ipynb
