#!/usr/bin/env bash
# Moves symbols and line numbers out of a program into PROGRAM.debug beside it, where debuggers look for them.
set -euo pipefail

[ $# -eq 1 ] && [ -f "$1" ] || { printf 'usage: strip-program.sh PROGRAM\n' >&2; exit 1; }
program=$1
command -v objcopy >/dev/null || { printf 'strip-program.sh: objcopy is missing (Debian: apt-get install binutils)\n' >&2; exit 1; }
objcopy --only-keep-debug "$program" "$program.debug"
# Cargo has the same file under another name, so it is replaced and not changed.
objcopy --strip-all --add-gnu-debuglink="$program.debug" "$program" "$program.stripped"
mv "$program.stripped" "$program"
