#!/usr/bin/env python3
"""Whether a server takes more CPU time for a search than another one, or answers differently.

    paired.py DIMENSION COMMAND... -- COMMAND...

Two `matchpoint serve` commands, each with a folder of its own of the same items, are asked the same
searches by vectors, 500 by the one and 500 by the other, 40 times, each first in every other turn: what
else the machine does meets both. Prints the ratio of their CPU times, with an interval for its median by
bootstrap over the turns. Needs the Python of `scripts/venv.sh network scripts/network-requirements.txt`.
"""

from __future__ import annotations

import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SEARCHES, TURNS = 500, 40
WAIT_SECONDS = 120.0


@contextmanager
def with_stubs() -> Iterator[None]:
    """The protocol's messages can be imported, until it ends."""
    with tempfile.TemporaryDirectory() as stubs:
        protos = [str(path) for path in (ROOT / "proto/matchpoint/v1").glob("*.proto")]
        made = [f"-I{ROOT / 'proto'}", f"--python_out={stubs}", f"--grpc_python_out={stubs}"]
        protoc.main(["protoc", f"-I{Path(protoc.__file__).parent / '_proto'}", *made, *protos])
        sys.path.insert(0, stubs)
        yield


class Server:
    def __init__(self, command: list[str]) -> None:
        from matchpoint.v1 import retrieval_pb2_grpc

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        whole = [*command, "--listen", address, "--metrics-listen=off"]
        self.process = subprocess.Popen(whole, stderr=subprocess.DEVNULL)
        self.stub = retrieval_pb2_grpc.RetrievalServiceStub(grpc.insecure_channel(address))

    def wait(self, query) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                self.stub.Search(query, timeout=WAIT_SECONDS)
                return
            except grpc.RpcError as error:
                if end < time.monotonic() or self.process.poll() is not None:
                    sys.exit(f"paired.py: the server does not answer: {error}")
                time.sleep(0.3)

    def cpu_seconds(self) -> float:
        """Of all its threads since its start, also of those that have ended."""
        # Linux's clock of another process, as clock_getcpuclockid() gives it.
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def turn(self, queries: list) -> tuple[float, list]:
        before = self.cpu_seconds()
        answers = [self.stub.Search(query, timeout=WAIT_SECONDS) for query in queries]
        used = (self.cpu_seconds() - before) / len(queries) * 1e6
        return used, [[(found.id, found.score) for found in answer.matches] for answer in answers]


def main() -> int:
    if len(sys.argv) < 4 or "--" not in sys.argv:
        print(__doc__)
        return 2
    dimension, both = int(sys.argv[1]), sys.argv[2:]
    split = both.index("--")
    for name in [name for name in os.environ if name.startswith("MATCHPOINT_")]:
        del os.environ[name]
    with with_stubs():
        from matchpoint.v1 import retrieval_pb2

        chosen, queries = random.Random(7), []
        for _ in range(SEARCHES):
            queries.append(retrieval_pb2.SearchRequest())
            queries[-1].embedding.values.extend(chosen.gauss(0, 1) for _ in range(dimension))
        servers = [Server(both[:split]), Server(both[split + 1 :])]
        try:
            for server in servers:
                server.wait(queries[0])
                server.turn(queries)
            turns, is_same = [], True
            for turn in range(TURNS):
                order = servers if turn % 2 == 0 else servers[::-1]
                used = {server: server.turn(queries) for server in order}
                (first, found), (second, also_found) = (used[server] for server in servers)
                turns.append((first, second))
                is_same &= found == also_found
        finally:
            for server in servers:
                server.stop()
    ratios = [second / first for first, second in turns]
    again = sorted(statistics.median(chosen.choices(ratios, k=TURNS)) for _ in range(2000))
    first, second = (statistics.median(column) for column in zip(*turns, strict=True))
    print(
        f"{first:.1f} and {second:.1f} us of CPU a search; second to first {statistics.median(ratios):.4f} "
        f"(95 % {again[50]:.4f} to {again[1949]:.4f}); {'the same' if is_same else 'OTHER'} answers"
    )
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
