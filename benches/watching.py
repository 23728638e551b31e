#!/usr/bin/env python3
"""What watching the promise costs a search: the server's processor time with a journal and without.

    watching.py PROGRAM EXAMPLES MODEL [SEARCHES]

Builds and calibrates EXAMPLES (the sample: gallery.csv, calibrate.csv, images) with PROGRAM, then serves it
eight times, alternately with `journal` on (every decision recorded, sampled for the audit, compared with the
calibration) and off, and searches by its pictures, one at a time. Needs the Python client (clients/python).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matchpoint

LISTEN = "127.0.0.1:50971"
ROUNDS = 4
WARM_UP = 20
#: A round of left-out searches of the sample has ended by then.
SETTLED_SECONDS = 6


def processor_seconds(pid: int) -> float:
    """Of all threads of a process since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def milliseconds(program: str, deployment: Path, journal: str, queries: list[bytes]) -> float:
    """Processor time of a search."""
    command = [program, "serve", "--deployments", str(deployment), "--listen", LISTEN, "--journal", journal]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server:
        with matchpoint.Client(f"http://{LISTEN}") as client:
            client.search(queries[0], timeout=60)
            time.sleep(SETTLED_SECONDS)
            for query in queries[:WARM_UP]:
                client.search(query)
            before = processor_seconds(server.pid)
            for query in queries:
                client.search(query)
            # What was recorded is written within a fifth of a second.
            time.sleep(1)
            taken = processor_seconds(server.pid) - before
        server.terminate()
    return 1e3 * taken / len(queries)


def main() -> None:
    """Prints each round, and the ratio of the means."""
    program, examples, model = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    searches = int(sys.argv[4]) if len(sys.argv) > 4 else 1000
    pictures = [path.read_bytes() for path in sorted(examples.glob("images/*/q*.jpg"))]
    queries = [pictures[number % len(pictures)] for number in range(searches)]
    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder) / "shop"
        gallery, labelled = str(examples / "gallery.csv"), str(examples / "calibrate.csv")
        for command in (
            ["build", str(shop), "--images", gallery, "--model", model],
            ["calibrate", str(shop), "--queries", labelled, "--target-far", "0.1", "--confidence", "0.9"],
        ):
            subprocess.run([program, *command], check=True, capture_output=True)
        found: dict[str, list[float]] = {"on": [], "off": []}
        for number in range(2 * ROUNDS):
            # on, off, off, on: what drifts meets both alike.
            journal = ("on", "off", "off", "on")[number % 4]
            found[journal].append(milliseconds(program, shop, journal, queries))
            print(f"journal {journal}: {found[journal][-1]:.3f} ms a search", flush=True)
    on, off = (statistics.mean(found[journal]) for journal in ("on", "off"))
    print(f"on {on:.3f} ms, off {off:.3f} ms: {on / off:.3f}")


if __name__ == "__main__":
    main()
