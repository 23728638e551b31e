#!/usr/bin/env bash
# Tests scripts/build-tools.sh as a fresh machine would: with a PATH that lacks what such a machine lacks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { printf '%s\n' "$*" >&2; }
fail() { say "test-build-tools.sh: $*"; sed 's/^/    /' "$work/said" >&2; exit 1; }

# The commands of this machine but for those named, and a compiler where the machine has none.
without() {
    local folder folders tool
    rm -rf "${work:?}/bin"
    mkdir "$work/bin"
    mapfile -t folders < <(tr : '\n' <<<"$PATH" | tac)
    for folder in "${folders[@]}"; do
        find -L "$folder" -maxdepth 1 -type f -perm -u+x -exec ln -sf -t "$work/bin" {} + 2>/dev/null || true
    done
    ln -sf "$(type -P true)" "$work/bin/cargo"
    ln -sf "$(type -P true)" "$work/bin/cc"
    for tool in "$@"; do rm -f "$work/bin/$tool"; done
}
tools() { PATH=$work/bin "$BASH" scripts/build-tools.sh --dir "$work/tools" >"$work/said" 2>&1; }

say "nothing is there: all of it is named at once, with one line to type"
without cargo cc cmake nasm yasm python3
started=$(date +%s%N)
if tools; then fail "it is content without a compiler"; fi
[ $((($(date +%s%N) - started) / 1000000)) -lt 1000 ] || fail "it took more than a second to say so"
for word in rustup.rs "C compiler" "Python 3" build-essential python3-venv; do
    grep -q -- "$word" "$work/said" || fail "it does not name $word"
done
[ "$(grep -c 'one line for all of it' "$work/said")" = 1 ] || fail "it does not give one line for all of it"
[ ! -e "$work/tools" ] || fail "it fetched something all the same"

say "CMake and NASM are missing: they are fetched without root, and run"
without cmake nasm yasm
tools || fail "they are not fetched"
"$work/tools/bin/cmake" --version >"$work/said" 2>&1 || fail "CMake does not run"
if [ "$(uname -m)" = x86_64 ]; then
    "$work/tools/bin/nasm" --version >"$work/said" 2>&1 || fail "NASM does not run"
fi

say "they are there: nothing is fetched again"
without cmake nasm yasm
tools || fail "it is not content with what it fetched"
if grep -q fetching "$work/said"; then fail "it fetched them again"; fi
