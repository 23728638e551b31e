#!/usr/bin/env bash
# Prints what the code of the protocol was generated from, by what, and what came out, each as SHA-256. `make protocol`
# keeps it in proto/generated.sha256 after it has generated the code; --check compares, in the place of a compiler of
# protobuf that would have to be compiled first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seal() {
    find proto crates/client/generated -type f \( -name '*.proto' -o -name 'generated.rs' -o -path '*/generated/*' \) -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum
    # What generates it, at the versions that Cargo.lock has.
    grep -A 2 -E '^name = "(protox|prost-build|tonic-build|tonic-prost-build|prettyplease)"' Cargo.lock | sed '/^--$/d'
}

case "${1:-}" in
    "") seal ;;
    --check)
        if ! difference=$(diff proto/generated.sha256 <(seal)); then
            printf '%s\n' "$difference" "crates/client/generated is not what proto/ gives: type make protocol" >&2
            exit 1
        fi
        ;;
    *) printf 'usage: protocol-seal.sh [--check]\n' >&2; exit 1 ;;
esac
