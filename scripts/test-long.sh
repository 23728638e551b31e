#!/usr/bin/env bash
# What `make test` tries for a moment, at random from fixed seeds, for longer: MINUTES in all (48 unless given). On top come
# a quarter for the soak, the libraries' own tests with properties on 2,000 inputs of a new seed, unless one has a number of
# its own, and what has to be fetched. Needs what the tests are built with; without root, strace or
# libfaketime (Debian: strace, libfaketime, valgrind) some are skipped, and say so. The output is in
# target/test-long.txt too.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${1:-48}
program=target/debug/matchpoint
export RUST_BACKTRACE=0

# Runs a part of the tests, each for its share of the time, in tenths of a minute of 48: NAME SHARE PACKAGE THREADS FILTER...
part() {
    local name=$1 seconds=$(($2 * minutes * 60 / 48 / 10)) package=$3 threads=$4
    shift 4
    echo "== $name: $seconds s each"
    TESTS_SECONDS=$seconds cargo test --locked --quiet -p "$package" --test it -- \
        --test-threads "$threads" --nocapture "$@"
}

all() {
    date --utc
    echo "== $minutes minutes, $(nproc) processors, commit $(git rev-parse --short HEAD)"
    seed=$(date +%s)
    echo "== properties of the libraries, seed $seed"
    PROPTEST_RNG_SEED=$seed PROPTEST_CASES=2000 cargo test --locked --quiet --lib
    part "killed under load" 150 matchpoint 1 crashes::a_service_that_is_killed
    part "switched under load" 50 matchpoint 1 crashes::switched_again
    part "disks, clocks, descriptors" 1 matchpoint 1 crashes::while crashes::a_clock crashes::with_too_few
    part "damaged files" 90 matchpoint 1 damage::
    part "fuzzing" 10 matchpoint 1 fuzz::
    part "the time that a key takes" 2 matchpoint 1 identity::the_time_that_a_key_takes
    part "hostile clients" 4 matchpoint 1 hostile::
    part "a gallery's writer, killed" 30 matchpoint-gallery 1 again_and_again
    if command -v valgrind >/dev/null; then
        echo "== kernels under Valgrind"
        tests=$(cargo test --locked --quiet -p matchpoint-vector --lib --no-run --message-format json |
            sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
        valgrind --quiet --error-exitcode=1 "$tests" --test-threads=1
    else
        echo "== skipped: kernels under Valgrind (valgrind is not installed)"
    fi
    echo "== soak"
    scripts/soak.py --program "$program" --minutes $((minutes < 12 ? 3 : (minutes + 3) / 4)) --rate 5
    echo "== Pillow's test pictures"
    scripts/test_corpus.py --program "$program"
    date --utc
}

mkdir -p target
all 2>&1 | tee target/test-long.txt
