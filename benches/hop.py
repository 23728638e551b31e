#!/usr/bin/env python3
"""How long a search by a vector takes with the index in Qdrant, and with the server's own, in turns.

    hop.py PROGRAM [ITEMS [COMPONENTS]]

Builds ITEMS vectors (100,000 of 1,280 components, in clusters of 100) with PROGRAM, and serves them twice at
once: with its own index and with that in Qdrant (`QDRANT_URLS`; `scripts/test_qdrant.py COMMAND` sets it and
has Qdrant's engine behind a server in Python). One client asks 200 searches at the one and at the other, 15
times. Needs numpy and what `scripts/network-requirements.txt` lists.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
from paired import Server, with_stubs

SEARCHES, TURNS = 200, 15


def made(folder: Path, items: int, components: int) -> numpy.ndarray:
    """Writes vectors and their list, and returns queries near to them."""
    chosen = numpy.random.default_rng(7)
    centres = chosen.standard_normal((items // 100, components), dtype=numpy.float32)
    rows = numpy.lib.format.open_memmap(folder / "rows.npy", "w+", numpy.float32, (items, components))
    for start in range(0, items, 10_000):
        count = min(10_000, items - start)
        near = centres[chosen.integers(0, len(centres), count)]
        rows[start : start + count] = near + chosen.standard_normal((count, components), dtype=numpy.float32)
    rows.flush()
    listed = "".join(f"item {number},label {number}\n" for number in range(items))
    (folder / "rows.csv").write_text(f"id,label\n{listed}")
    near = centres[chosen.integers(0, len(centres), SEARCHES * TURNS)]
    return near + chosen.standard_normal(near.shape, dtype=numpy.float32)


def main() -> int:
    if len(sys.argv) < 2 or "QDRANT_URLS" not in os.environ:
        print(__doc__)
        return 2
    program = sys.argv[1]
    items, components = int((sys.argv[2:] or [100_000])[0]), int((sys.argv[3:] or [1280])[0])
    with tempfile.TemporaryDirectory() as name, with_stubs():
        from matchpoint.v1 import retrieval_pb2

        folder = Path(name)
        queries = []
        for values in made(folder, items, components):
            queries.append(retrieval_pb2.SearchRequest())
            queries[-1].embedding.values.extend(values.tolist())
        build = [program, "build", str(folder / "own"), "--embeddings", str(folder / "rows.npy")]
        vectors = ["--labels", str(folder / "rows.csv"), "--vectors-of", "mixture"]
        subprocess.run([*build, *vectors], check=True, capture_output=True)
        (folder / "rows.npy").unlink()
        subprocess.run(["cp", "-r", folder / "own", folder / "qdrant"], check=True)
        remote = ["--index", "qdrant", "--qdrant-urls", os.environ["QDRANT_URLS"]]
        servers = {
            "own index": Server([program, "serve", "--deployments", str(folder / "own")]),
            "Qdrant": Server([program, "serve", "--deployments", str(folder / "qdrant"), *remote]),
        }
        taken: dict[str, list[float]] = {which: [] for which in servers}
        try:
            for server in servers.values():
                server.wait(queries[0])
                server.turn(queries[:SEARCHES])
            for turn in range(TURNS):
                for which in sorted(servers, reverse=turn % 2 == 0):
                    for query in queries[turn * SEARCHES : (turn + 1) * SEARCHES]:
                        began = time.monotonic()
                        servers[which].stub.Search(query)
                        taken[which].append(1e3 * (time.monotonic() - began))
        finally:
            for server in servers.values():
                server.stop()
    for which, times in taken.items():
        median, high = numpy.percentile(times, [50, 99])
        print(f"{which}: median {median:.2f} ms, 99th percentile {high:.2f} ms of {len(times)} searches")
    return 0


if __name__ == "__main__":
    sys.exit(main())
