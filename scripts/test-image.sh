#!/usr/bin/env bash
# Builds the image `cpu` of the Dockerfile and runs it: the demo, then a server on a read-only root until Docker calls
# it healthy. In a Docker daemon of its own, which it stops; no image is pulled, and none of yours is touched.
#
# The images that the Dockerfile begins with are made here: Debian by debootstrap, and in place of Rust's a Debian whose
# `cargo build` hands out the program that was built on this machine. So the Dockerfile's own compilation is not tested.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: test-image.sh --program FILE

  --program FILE  the program to put into the image, built on Debian 12 or older

Needs root, Debian's docker.io and debootstrap, some two minutes and 2 GB.
TEXT
}
say() { printf '%s\n' "$*" >&2; }
fail() { say "test-image.sh: $*"; exit 1; }

[ $# -eq 2 ] && [ "$1" = --program ] || { usage >&2; exit 1; }
program=$(realpath "$2")
[ -x "$program" ] || fail "there is no program at $program"
[ "$(id -u)" = 0 ] || fail "dockerd and debootstrap need root"
for tool in dockerd debootstrap; do
    command -v "$tool" >/dev/null || fail "$tool is missing (Debian: apt-get install docker.io debootstrap)"
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Debian's client, which needs no plug-in for building.
PATH=/usr/bin:$PATH
work=$(mktemp -d)
daemon=""
# shellcheck disable=SC2329 # the trap calls it
clean_up() {
    if [ -n "$daemon" ]; then kill "$daemon" && wait "$daemon" || true; fi
    rm -rf "$work"
}
trap clean_up EXIT
export DOCKER_HOST=unix://$work/docker.sock DOCKER_BUILDKIT=1

say "== a Docker daemon"
dockerd --data-root "$work/data" --exec-root "$work/exec" -p "$work/pid" -H "$DOCKER_HOST" >"$work/dockerd.log" 2>&1 &
daemon=$!
for _ in $(seq 100); do
    if docker version >/dev/null 2>&1; then break; fi
    kill -0 "$daemon" 2>/dev/null || { tail -n 5 "$work/dockerd.log" >&2; fail "dockerd ended"; }
    sleep 0.2
done

say "== the images that the Dockerfile begins with"
debootstrap --variant=minbase bookworm "$work/root" http://deb.debian.org/debian >"$work/log" 2>&1 ||
    { tail -n 5 "$work/log" >&2; fail "debootstrap failed"; }
# What this machine trusts, where its way out has an authority of its own.
install -D /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/ca-certificates.crt"
mkdir -p "$work/root/usr/local/share"
cp -rT /usr/local/share/ca-certificates "$work/root/usr/local/share/ca-certificates"
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$work/root/etc/pip.conf"
tar -C "$work/root" -c . | docker import - debian:bookworm-slim >/dev/null
rust=$(sed -nE 's/^FROM (rust:\S+) AS build$/\1/p' Dockerfile)
mkdir "$work/rust"
cp "$program" "$work/rust/matchpoint"
printf '#!/bin/sh\ninstall -D /prebuilt/matchpoint target/release/matchpoint\n' >"$work/rust/cargo"
printf 'FROM debian:bookworm-slim\nCOPY --chmod=755 cargo /usr/bin/\nCOPY matchpoint /prebuilt/\n' >"$work/rust/Dockerfile"
docker build --quiet --tag "$rust" "$work/rust" >/dev/null

say "== docker build"
docker build --network host --progress plain --tag matchpoint . >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; fail "the image cannot be built"; }

say "== docker run matchpoint demo"
docker run --rm matchpoint demo >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; fail "the demo failed"; }
grep '^Done' "$work/log"

say "== a server, as deploy/compose.yaml confines it"
confined=(--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --volume data:/data)
docker run --rm "${confined[@]}" matchpoint build /data/photos --images /examples/photos/gallery.csv \
    --model /models/efficientnet-lite0 >"$work/log" 2>&1 || { tail -n 5 "$work/log" >&2; fail "build failed"; }
open=(--env MATCHPOINT_PLAINTEXT_ON_NETWORK=true --env MATCHPOINT_ANYONE_ON_NETWORK=true)
docker run --detach --name server "${confined[@]}" "${open[@]}" matchpoint serve --deployments /data/photos >/dev/null
health=""
for _ in $(seq 150); do
    health=$(docker inspect --format '{{.State.Health.Status}}' server)
    if [ "$health" = healthy ]; then break; fi
    sleep 0.2
done
[ "$health" = healthy ] || { docker logs server >&2; fail "the server is $health"; }
docker stop server >/dev/null
code=$(docker inspect --format '{{.State.ExitCode}}' server)
[ "$code" = 0 ] || { docker logs server >&2; fail "the server ended with $code"; }
say "the image is built, tells its story, serves, and ends with 0"
