#!/usr/bin/env bash
# libFuzzer over one way in of tests/it/fuzz/entries.rs: fuzz.sh TARGET SECONDS. It takes a stable compiler: the flags are
# those that `cargo fuzz --sanitizer none` passes. With clang (CLANG=clang-16 for another) the decoders in C, SQLite and
# Zstandard are guided by coverage too, and checked by AddressSanitizer, as all allocations are.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PWD/.cache/build-tools/bin:$PATH

target=${1:?a target: a name in tests/it/fuzz/entries.rs} seconds=${2:-60}
triple=$(rustc -vV | sed -n 's/^host: //p')
clang=${CLANG:-$(command -v clang || true)}

flags="--cfg fuzzing -Cdebug-assertions -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
if [ -n "$clang" ]; then
    sanitize="-fsanitize=address,fuzzer-no-link"
    # By the triple, since host and target are one.
    export "CC_${triple//-/_}=$clang" "CFLAGS_${triple//-/_}=$sanitize -fno-omit-frame-pointer -g1"
    flags+=" -Clinker=$clang -Clink-arg=-fsanitize=address"
fi

cargo build --locked --quiet --bin matchpoint
# With `--target`, these flags are not those of build scripts and macros.
CARGO_INCREMENTAL=0 RUSTFLAGS=$flags cargo build --locked --quiet -p matchpoint-fuzz --target "$triple" \
    --target-dir target/fuzz

corpus=target/fuzz/corpus/$target found=target/fuzz/found/$target
scratch=$(mktemp -d -p "$([ -d /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" matchpoint-fuzz.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$corpus" "$found"
echo "== $target: $seconds s, corpus in $corpus, what breaks in $found"
# `exitcode=77` with a file in $found is a finding. Freed memory is kept for a while, for AddressSanitizer.
TMPDIR=$scratch FUZZ_TARGET=$target FUZZ_CORPUS=$corpus RUST_BACKTRACE=1 \
    FUZZ_PROGRAM=$PWD/target/debug/matchpoint \
    ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=64:allocator_may_return_null=1 \
    "target/fuzz/$triple/debug/any" -max_total_time="$seconds" -rss_limit_mb=3072 -malloc_limit_mb=1024 \
    -timeout=20 -max_len=1048576 -artifact_prefix="$found/" -print_final_stats=1 "$corpus"
