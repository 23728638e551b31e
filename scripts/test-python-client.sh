#!/usr/bin/env bash
# Tests clients/python: types, then its tests, those of the package and those against a server of its own. It builds a
# deployment from examples/photos, calibrates it, serves it on a free port, and stops the server.
#
# The server is encrypted and asks for a key, as one that others reach. Where bubblewrap is installed,
# it is confined as its container confines it: user 65532, nothing to write to but its data and /tmp,
# no capabilities.
#
# The Python packages are installed once, into .cache/venv-python.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: test-python-client.sh [--program FILE]

  --program FILE  the program to test
                  (default: target/release/matchpoint, which is built first)

Needs bash and Python 3.10 or newer with venv.
TEXT
}

say() { printf '%s\n' "$*" >&2; }
fail() { say "test-python-client.sh: $*"; exit 1; }

cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=""
while [ $# -gt 0 ]; do
    case "$1" in
        --program)
            [ $# -ge 2 ] || fail "--program needs a file"
            program=$(realpath "$2")
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; fail "unknown argument: $1" ;;
    esac
    shift
done

# --- What is needed ----------------------------------------------------------------------------

if [ -z "$program" ]; then
    say "building the program (release)"
    cargo build --quiet --locked --release --bin matchpoint
    program=$PWD/${CARGO_TARGET_DIR:-target}/release/matchpoint
fi
[ -x "$program" ] || fail "there is no program at $program"
ORT_DYLIB_PATH=$(scripts/fetch-onnxruntime.sh)
export ORT_DYLIB_PATH

venv=$(scripts/venv.sh python clients/python/requirements-dev.txt)
export PYTHONDONTWRITEBYTECODE=1

# --- What needs no server ------------------------------------------------------------------------

"$venv/bin/python" clients/python/hatch_build.py
say "types of the Python client (mypy, strict)"
(cd clients/python && "$venv/bin/mypy" --no-error-summary)
say "types of the calibration for Python (mypy, strict)"
(cd clients/calibration-python && "$venv/bin/mypy" --no-error-summary)

# --- A server ------------------------------------------------------------------------------------

work=$(mktemp -d)
server=""
# Bubblewrap hands no signal on to what it runs.
stop() {
    local within
    within=$(cat "/proc/$server/task/$server/children" 2>/dev/null || true)
    # shellcheck disable=SC2086 # there may be none
    kill ${within:-$server} 2>/dev/null
}
# shellcheck disable=SC2329 # the trap calls it
clean_up() {
    # kill fails where the server has ended already.
    if [ -n "$server" ]; then stop || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The caller's own settings are not the test's, and MATCHPOINT_SERVER is none of the program's.
for variable in $(compgen -e MATCHPOINT_ || true); do unset "$variable"; done

say "building and calibrating a deployment from examples/photos"
"$program" build "$work/photos" --images examples/photos/gallery.csv \
    --model models/efficientnet-lite0 >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "build failed"; }
"$program" calibrate "$work/photos" --queries examples/photos/calibrate.csv \
    --target-far 0.10 --confidence 0.90 >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "calibrate failed"; }

# Encrypted and with a key.
command -v openssl >/dev/null || fail "openssl is missing; install it (Debian: apt-get install openssl)"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=matchpoint \
    -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
    -keyout "$work/server.key" -out "$work/server.pem" 2>"$work/log" \
    || { cat "$work/log" >&2; fail "openssl failed"; }
key=$("$program" keys new python --scopes all --keys-file "$work/keys.json" | head -n 1)

confined=()
if command -v bwrap >/dev/null; then
    confined=(bwrap --unshare-user --unshare-ipc --unshare-uts --uid 65532 --gid 65532 --cap-drop ALL
        --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp
        # A checkout may be in /tmp too.
        --ro-bind "$PWD" "$PWD" --ro-bind "$program" "$program" --ro-bind "$ORT_DYLIB_PATH" "$ORT_DYLIB_PATH"
        --bind "$work" "$work" --die-with-parent)
    if ! "${confined[@]}" true 2>"$work/log"; then
        say "serving without bounds: bubblewrap cannot confine here: $(head -n 1 "$work/log")"
        confined=()
    else
        # shellcheck disable=SC2016 # it is the shell within that asks
        "${confined[@]}" sh -c '[ "$(id -u)" = 65532 ] && grep -q "^CapEff:\s*0*$" /proc/self/status && ! touch /etc/x' \
            2>"$work/log" || { cat "$work/log" >&2; fail "bubblewrap does not confine"; }
        say "serving as user 65532, on a read-only root, without capabilities"
    fi
else
    say "serving without bounds: bubblewrap is not installed"
fi

"${confined[@]}" "$program" serve --deployments "$work/photos" --listen 127.0.0.1:0 --metrics-listen off \
    --tls-certificate "$work/server.pem" --tls-key "$work/server.key" --keys-file "$work/keys.json" \
    --log-format json 2>"$work/log" &
server=$!
# Port 0 takes a free port, and the log says which.
address=""
for _ in $(seq 300); do
    address=$(sed -nE 's/.*"address":"([0-9.:]+)".*/\1/p' "$work/log" | head -n 1)
    if [ -n "$address" ] && grep -q '"message":"ready"' "$work/log"; then break; fi
    kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; fail "the server ended"; }
    sleep 0.1
done
[ -n "$address" ] || { cat "$work/log" >&2; fail "the server did not say where it listens"; }

# --- The tests -----------------------------------------------------------------------------------

address=https://localhost:${address##*:}
say "testing the client with the server at $address"
outcome=0
(
    cd clients/python
    export MATCHPOINT_SERVER=$address MATCHPOINT_API_KEY=$key MATCHPOINT_SERVER_CA=$work/server.pem PYTHONPATH=$PWD/src
    "$venv/bin/python" -m pytest --quiet -p no:cacheprovider
) || outcome=$?
if [ "$outcome" -ne 0 ]; then
    say "the server's log:"
    cat "$work/log" >&2
fi

# It must also stop when it is told to.
stop
stopped=0
wait "$server" || stopped=$?
server=""
[ "$stopped" -eq 0 ] || fail "the server ended with exit code $stopped on SIGTERM"
exit "$outcome"
