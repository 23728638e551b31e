#!/usr/bin/env bash
# Builds the program as a Python wheel, and tries it as its user will: installed into a new virtual
# environment, outside of the repository, `matchpoint demo`.
#
# The last line on standard output is the path of the wheel; everything else goes to standard error.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: build-wheel.sh [--profile NAME | --tested] [--out FOLDER] [--untried]

  --profile NAME  the profile of cargo to build with (default: release)
  --tested        around the program that the tests have built, target/debug/matchpoint: nothing is compiled
  --out FOLDER    where to put the wheel (default: target/wheels)
  --untried       build it only

The wheel runs on Linux with a C library at least as new as the one of this machine.
TEXT
}

say() { printf '%s\n' "$*" >&2; }
fail() { say "build-wheel.sh: $*"; exit 1; }

cd "$(dirname "${BASH_SOURCE[0]}")/.."
profile=release out="" tried=true tested=false
while [ $# -gt 0 ]; do
    case "$1" in
        --profile | --out)
            [ $# -ge 2 ] || fail "$1 needs a value"
            if [ "$1" = --profile ]; then profile=$2; else out=$(realpath -m "$2"); fi
            shift
            ;;
        --tested) profile=dev tested=true ;;
        --untried) tried=false ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; fail "unknown argument: $1" ;;
    esac
    shift
done
repository=$PWD
: "${out:=$repository/target/wheels}"
# Binaries of the development profiles are in target/debug: no other build is thrown away.
target=${CARGO_TARGET_DIR:-$repository/target}

# --- What goes into it ---------------------------------------------------------------------------

stage=.cache/wheel
rm -rf "$stage"
mkdir -p "$stage/data/data/share/matchpoint/examples" "$stage/data/data/share/matchpoint/models"
cp deploy/wheel/pyproject.toml README.md LICENSE* NOTICE THIRD-PARTY-LICENSES.txt "$stage"
cp -r examples/photos "$stage/data/data/share/matchpoint/examples/"
cp -r models/efficientnet-lite0 "$stage/data/data/share/matchpoint/models/"
find "$stage" -name __pycache__ -prune -exec rm -rf {} +

# Builds by the version that pip would build by.
sed -n 's/^requires = \["\(maturin==.*\)"\]$/\1/p' deploy/wheel/pyproject.toml >"$stage/requirements.txt"
venv=$(scripts/venv.sh wheel "$stage/requirements.txt")

# --- Build ---------------------------------------------------------------------------------------

say "building the wheel ($profile)"
rm -rf "$stage/out"
if $tested; then
    # Maturin asks cargo for the program alone, whose dependencies would be built again with other features; what the
    # tests are built by gives the program as well, beside tests that maturin would take for it.
    cargo=$(command -v cargo)
    cat >"$stage/cargo" <<TEXT
#!/usr/bin/env bash
set -o pipefail
[ "\$1" = rustc ] || exec "$cargo" "\$@"
cd "$repository"
"$cargo" build --locked --bins --tests --target-dir "$target" --message-format json-render-diagnostics |
    grep --invert-match '"test":true},"features"'
TEXT
    chmod +x "$stage/cargo"
    export CARGO=$PWD/$stage/cargo
fi
(cd "$stage" && "$venv/bin/maturin" build --quiet --profile "$profile" --locked \
    --target-dir "$target" --out out >&2)
wheel=$(find "$stage/out" -name '*.whl')
[ -n "$wheel" ] || fail "maturin built no wheel"
mkdir -p "$out"
mv "$wheel" "$out/"
wheel=$out/$(basename "$wheel")
say "$(basename "$wheel"): $(du -h "$wheel" | cut -f 1)"

# --- Try it --------------------------------------------------------------------------------------

if $tried; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    say "installing it into a new environment"
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$wheel"
    say "matchpoint demo, as installed"
    # Nothing of this repository, and no setting of this shell, helps it.
    (cd "$work" && env -i PATH="$work/venv/bin:/usr/bin:/bin" HOME="$work" matchpoint demo >"$work/demo.txt" 2>&1) \
        || { cat "$work/demo.txt" >&2; fail "the installed program fails"; }
    tail -n 3 "$work/demo.txt" >&2
fi
printf '%s\n' "$wheel"
