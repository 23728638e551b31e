#!/usr/bin/env python3
"""Serves for long at a steady load, and says whether anything grows.

    soak.py --program target/debug/matchpoint --minutes 20 [--rate 10]

A server of the sample with its journal, searches for photographs at a fixed rate in rounds of half a
minute, and between them a snapshot over the network and a status. After each round memory, descriptors,
threads and latency are looked at; after a fifth of the time, for warming up, a line is fitted through
them, whose slope is printed with a 95 % interval. Ends with exit code 1 if a search failed, if more than
one in 100 was late or refused, or if that interval lies above 1 MiB of memory, half a descriptor or half a
thread in ten minutes. Takes 3 minutes or more, since a line needs rounds. Linux alone;
latency means something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "examples/photos"
ROUND_SECONDS = 30
# Long, since the machine may have much else to do.
DEADLINE_MS = 10_000
# In ten minutes: the pass marks.
SLOPES_MAX = {"resident MiB": 1.0, "descriptors": 0.5, "threads": 0.5}
# Of all searches. If more are not answered, the load was not what memory and latency are said of.
LATE_SHARE_MAX = 0.01
MINUTES_MIN = 3.0
# Student's t at 97.5 %, for three rounds, four, and so on to nine; for more it is less.
T = [12.7, 4.3, 3.2, 2.8, 2.6, 2.5, 2.4]


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def of_process(pid: int) -> dict[str, float]:
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        if ":" in line
    )
    return {
        "resident MiB": int(status["VmRSS"].split()[0]) / 1024,
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
    }


def slope(minutes: list[float], values: list[float]) -> tuple[float, float]:
    """Of a line through them, by least squares, in ten minutes; and half the width of its 95 % interval."""
    count = len(values)
    middle, mean = sum(minutes) / count, sum(values) / count
    square = sum((at - middle) ** 2 for at in minutes)
    pairs = list(zip(minutes, values, strict=True))
    rise = sum((at - middle) * (value - mean) for at, value in pairs) / square
    rest = sum((value - mean - rise * (at - middle)) ** 2 for at, value in pairs)
    t = T[min(count - 3, len(T) - 1)]
    return 10 * rise, 10 * t * math.sqrt(rest / (count - 2) / square)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--rate", type=float, default=10.0, help="searches a second")
    asked = parser.parse_args()
    if asked.minutes < MINUTES_MIN:
        parser.error(f"--minutes {asked.minutes:g} is too short for a line through the rounds; 3 or more")
    program = asked.program.resolve()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        return soak(asked, program, f"http://127.0.0.1:{port}", Path(folder))


def soak(asked: argparse.Namespace, program: Path, url: str, folder: Path) -> int:
    deployment = folder / "sample"
    model = ROOT / "models/efficientnet-lite0"
    run(program, "build", deployment, "--images", PHOTOS / "gallery.csv", "--model", model)
    run(
        *(program, "calibrate", deployment, "--queries", PHOTOS / "calibrate.csv"),
        *("--target-far", "0.1", "--confidence", "0.9"),
    )
    (folder / "data").mkdir()
    log = (folder / "log").open("w", encoding="utf-8")
    server = subprocess.Popen(
        [
            *(program, "serve", "--deployments", deployment, "--listen", url.removeprefix("http://")),
            *("--metrics-listen", "off", "--data-dir", folder / "data"),
        ],
        stderr=log,
    )
    try:
        rounds = [*watched(asked, program, url, server.pid, folder)]
    finally:
        server.send_signal(signal.SIGTERM)
        ended = server.wait(timeout=60)
    wrong = judged(rounds)
    if ended != 0:
        wrong.append(f"the server ended with {ended}")
    print("\n".join(f"NOT {problem}" for problem in wrong) or "ok")
    return 1 if wrong else 0


def watched(asked: argparse.Namespace, program: Path, url: str, pid: int, folder: Path):
    images = sorted((PHOTOS / "images/gc_fishes_fish3").iterdir())
    ready = [str(program), "health", "--server", url]
    while subprocess.run(ready, capture_output=True, check=False).returncode != 0:
        time.sleep(0.2)
    began = time.monotonic()
    number = 0
    while (minutes := (time.monotonic() - began) / 60) < asked.minutes:
        load = ["bench", "load", *images, "--server", url, "--rate", asked.rate]
        load += ["--seconds", ROUND_SECONDS, "--deadline-ms", DEADLINE_MS]
        [offered] = json.loads(run(program, *load, "--json"))["runs"]
        answered = offered["answered"]
        archive = folder / f"{number}.snap"
        run(program, "snapshot", "sample", archive, "--server", url)
        archive.unlink()
        run(program, "status", "--server", url)
        found = {
            "minutes": minutes,
            **of_process(pid),
            "searches": offered["sent"],
            "failed": sum(offered["failed"].values()),
            "late or refused": offered["late"] + offered["refused"],
            "p50 ms": answered["p50_us"] / 1e3,
            "p99 ms": answered["p99_us"] / 1e3,
        }
        print("  ".join(f"{name} {value:.1f}" for name, value in found.items()), flush=True)
        if offered["failed"]:
            print(f"failed: {offered['failed']}", flush=True)
        yield found
        number += 1


def judged(rounds: list[dict[str, float]]) -> list[str]:
    """What grew, or failed; the slopes are printed."""
    end = rounds[-1]["minutes"]
    warm = [one for one in rounds if end / 5 <= one["minutes"]]
    minutes = [one["minutes"] for one in warm]
    if len(warm) < 3:
        return [f"{len(warm)} rounds after warming up, and a line needs 3: give more --minutes"]
    wrong = []
    for name in ["resident MiB", "descriptors", "threads", "p50 ms", "p99 ms"]:
        values = [one[name] for one in warm]
        rise, half = slope(minutes, values)
        print(
            f"{name}: {values[0]:.1f} at first, {values[-1]:.1f} at last, {max(values):.1f} at most; "
            f"{rise:+.2f} ({rise - half:+.2f} to {rise + half:+.2f}) in ten minutes"
        )
        most = SLOPES_MAX.get(name, math.inf)
        if most < rise - half:
            wrong.append(f"{name} grows by {rise:.2f} in ten minutes")
    searches, failed, late = (
        int(sum(one[name] for one in rounds)) for name in ["searches", "failed", "late or refused"]
    )
    print(f"{searches} searches in {end:.1f} minutes, {failed} failed, {late} late or refused")
    if failed:
        wrong.append(f"{failed} searches failed")
    if LATE_SHARE_MAX * searches < late:
        wrong.append(f"{late} of {searches} searches were late or refused, more than {LATE_SHARE_MAX:.0%}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
