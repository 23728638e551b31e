#!/usr/bin/env bash
# Builds the image `cpu` of the Dockerfile and runs it: the demo, then deploy/compose.yaml until Docker calls the server
# healthy and its Prometheus has scraped it. In a Docker daemon of its own, which it stops; no image is pulled, and none
# of yours is touched.
#
# The images that the Dockerfile begins with are made here: Debian by debootstrap, and in place of Rust's a Debian whose
# `cargo build` hands out the program that was built on this machine. So the Dockerfile's own compilation is not tested.
# Prometheus is Debian's, and there is no Grafana: nothing here packages it.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: test-image.sh --program FILE

  --program FILE  the program to put into the image, built on Debian 12 or older

Needs root, Debian's docker.io, docker-compose and debootstrap, some three minutes and 3 GB.
TEXT
}
say() { printf '%s\n' "$*" >&2; }
fail() { say "test-image.sh: $*"; exit 1; }

[ $# -eq 2 ] && [ "$1" = --program ] || { usage >&2; exit 1; }
program=$(realpath "$2")
[ -x "$program" ] || fail "there is no program at $program"
[ "$(id -u)" = 0 ] || fail "dockerd and debootstrap need root"
for tool in dockerd docker-compose debootstrap; do
    command -v "$tool" >/dev/null || fail "$tool is missing (Debian: apt-get install docker.io docker-compose debootstrap)"
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

say "== deploy/compose.yaml"
docker tag matchpoint "$(sed -nE 's/^ +image: (matchpoint:\S+)$/\1/p' deploy/compose.yaml)"
mkdir "$work/prometheus"
cat >"$work/prometheus/Dockerfile" <<'TEXT'
FROM debian:bookworm-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus && mkdir /prometheus && chown 65534 /prometheus
USER 65534
ENTRYPOINT ["/usr/bin/prometheus"]
TEXT
docker build --network host --tag "$(sed -nE 's/^ +image: (prom\S+)$/\1/p' deploy/compose.yaml)" "$work/prometheus" >"$work/log" 2>&1 ||
    { tail -n 5 "$work/log" >&2; fail "there is no image of Prometheus"; }
# Debian's docker-compose knows no `name`; the project is named by the flag.
sed '/^name:/d' deploy/compose.yaml >"$work/compose.yaml"
compose() { docker-compose --project-name matchpoint --project-directory deploy --file "$work/compose.yaml" "$@"; }
photos=(--volume "$PWD/examples/photos:/photos:ro")
compose run --rm "${photos[@]}" matchpoint build /data/photos --images /photos/gallery.csv \
    --model /models/efficientnet-lite0 >"$work/log" 2>&1 || { tail -n 5 "$work/log" >&2; fail "build failed"; }
compose run --rm "${photos[@]}" matchpoint calibrate /data/photos --queries /photos/calibrate.csv \
    --target-far 0.10 --confidence 0.90 >"$work/log" 2>&1 || { tail -n 5 "$work/log" >&2; fail "calibrate failed"; }
compose up --detach matchpoint prometheus >"$work/log" 2>&1 || { tail -n 5 "$work/log" >&2; fail "it does not come up"; }
server=$(compose ps --quiet matchpoint)
health=""
for _ in $(seq 150); do
    health=$(docker inspect --format '{{.State.Health.Status}}' "$server")
    if [ "$health" = healthy ]; then break; fi
    sleep 0.2
done
[ "$health" = healthy ] || { docker logs "$server" >&2; fail "the server is $health"; }
docker exec "$server" matchpoint status
# Scraped every 15 s.
asked='http://127.0.0.1:9090/api/v1/query?query=matchpoint_target_far_ratio'
scraped=""
for _ in $(seq 150); do
    scraped=$(python3 -c "import urllib.request; print(urllib.request.urlopen('$asked').read().decode())" 2>/dev/null || true)
    if grep -q '"0.1"' <<<"$scraped"; then break; fi
    sleep 0.2
done
grep -q '"0.1"' <<<"$scraped" || { compose logs prometheus >&2; fail "Prometheus does not know the target: $scraped"; }
compose stop matchpoint >/dev/null 2>&1
code=$(docker inspect --format '{{.State.ExitCode}}' "$server")
[ "$code" = 0 ] || { docker logs "$server" >&2; fail "the server ended with $code"; }
compose down >/dev/null 2>&1
say "the image is built and tells its story; with Compose it serves, Prometheus watches it, and it ends with 0"
