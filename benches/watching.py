#!/usr/bin/env python3
"""What watching the promise costs a search: processor time and latency with a journal and without, in pairs.

    watching.py PROGRAM EXAMPLES MODEL [PAIRS]

Builds and calibrates EXAMPLES (the sample: gallery.csv, calibrate.csv, images) with PROGRAM, and serves it twice at
once: with `journal` on (every decision recorded, sampled for the audit, compared with the calibration) and off. A pair
is a block of the same searches at each of them, one after the other, so that whatever else the machine does meets both
alike; which is first alternates. Of each server all processor time from the beginning of the pair to its end counts,
so that what is written and evaluated after an answer does too. The interval is a bootstrap over pairs, with a seed.
Needs the Python client (clients/python) and Linux.
"""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import matchpoint

LISTEN = {"on": "127.0.0.1:50971", "off": "127.0.0.1:50972"}
METRICS = {"on": "127.0.0.1:50973", "off": "127.0.0.1:50974"}
#: Searches of a block: a fifth of a second or so, in which the journal writes once.
BLOCK = 25
#: Pairs that are not counted.
WARM_UP = 4
#: A round of left-out searches of the sample has ended by then.
SETTLED_SECONDS = 6
RESAMPLES = 2000


@dataclass
class Server:
    """One that is served, and how long its searches have taken so far."""

    pid: int
    client: matchpoint.Client
    seconds: float = 0.0

    def processor_seconds(self) -> float:
        """Of all threads since its start, also of those that have ended."""
        # Linux's clock of another process, as clock_getcpuclockid() gives it.
        return time.clock_gettime((~self.pid << 3) | 2)

    def search(self, queries: list[bytes]) -> None:
        """One after the other."""
        began = time.monotonic()
        for query in queries:
            self.client.search(query)
        self.seconds += time.monotonic() - began


def ratio(pairs: list[dict[str, float]]) -> float:
    """What is on by what is off."""
    return sum(pair["on"] for pair in pairs) / sum(pair["off"] for pair in pairs)


def interval(pairs: list[dict[str, float]]) -> tuple[float, float]:
    """At 95 %, over pairs."""
    draws = random.Random(7)
    ratios = sorted(ratio(draws.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return ratios[RESAMPLES // 40], ratios[-RESAMPLES // 40]


def serve(program: str, folder: Path, journal: str, stack: ExitStack) -> Server:
    """Until the stack ends."""
    settings = ["--listen", LISTEN[journal], "--metrics-listen", METRICS[journal], "--journal", journal]
    command = [program, "serve", "--deployments", str(folder), *settings]
    process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    stack.callback(process.terminate)
    client = stack.enter_context(matchpoint.Client(f"http://{LISTEN[journal]}"))
    return Server(process.pid, client)


def main() -> None:
    """Prints the means, and the ratio of what is on to what is off."""
    program, examples, model = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 100
    pictures = [path.read_bytes() for path in sorted(examples.glob("images/*/q*.jpg"))]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folders = {journal: Path(name) / journal / "shop" for journal in LISTEN}
        gallery, labelled = str(examples / "gallery.csv"), str(examples / "calibrate.csv")
        for command in (
            ["build", str(folders["on"]), "--images", gallery, "--model", model],
            ["calibrate", str(folders["on"]), "--queries", labelled, "--target-far", "0.1", "--confidence", "0.9"],
        ):
            subprocess.run([program, *command], check=True, capture_output=True)
        shutil.copytree(folders["on"], folders["off"])
        servers = {journal: serve(program, folder, journal, stack) for journal, folder in folders.items()}
        for server in servers.values():
            server.client.search(pictures[0], timeout=60)
        time.sleep(SETTLED_SECONDS)
        cpu: list[dict[str, float]] = []
        wall: list[dict[str, float]] = []
        for number in range(WARM_UP + count):
            queries = [pictures[(number * BLOCK + place) % len(pictures)] for place in range(BLOCK)]
            before = {journal: (server.processor_seconds(), server.seconds) for journal, server in servers.items()}
            for journal in sorted(servers, reverse=number % 2 == 0):
                servers[journal].search(queries)
            if number < WARM_UP:
                continue
            after = {journal: (server.processor_seconds(), server.seconds) for journal, server in servers.items()}
            for place, pairs in enumerate((cpu, wall)):
                pairs.append({journal: after[journal][place] - before[journal][place] for journal in servers})
    for what, pairs in (("processor time", cpu), ("latency", wall)):
        on, off = (1e3 / BLOCK * statistics.mean(pair[journal] for pair in pairs) for journal in ("on", "off"))
        low, high = interval(pairs)
        print(f"{what}: on {on:.3f} ms, off {off:.3f} ms a search: {ratio(pairs):.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
