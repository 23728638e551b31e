#!/usr/bin/env bash
# Makes a virtual environment of Python below .cache, once for each list of packages, and prints its folder.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: venv.sh NAME REQUIREMENTS

  NAME          the folder will be .cache/venv-NAME
  REQUIREMENTS  a file of packages, as pip reads it
TEXT
}

say() { printf '%s\n' "$*" >&2; }
fail() { say "venv.sh: $*"; exit 1; }

if [ $# -ne 2 ]; then
    usage >&2
    exit 1
fi
requirements=$(realpath "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$PWD/.cache/venv-$1
# What the folder was made from: another list or another Python makes it anew.
made_from="$(sha256sum <"$requirements") $(python3 --version) $PWD"
if [ "$(cat "$venv/made-from" 2>/dev/null)" != "$made_from" ]; then
    say "installing the packages of $2 into .cache/venv-$1"
    rm -rf "$venv"
    python3 -m venv "$venv" || fail "python3 has no venv; install it (Debian: apt-get install python3-venv)"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    printf '%s\n' "$made_from" >"$venv/made-from"
fi
printf '%s\n' "$venv"
