#!/usr/bin/env python3
"""Image to top ten over gRPC: Matchpoint beside a careful Python stack that speaks the same protocol.

    service.py --program target/release/matchpoint [--rows 100000] [--seconds 4] [--rounds 3]

The other server is what a good engineer would write in Python: grpc.aio before a pool of two threads,
Pillow with `draft` (JPEG decoded at a reduced scale, also where that moves the embedding by more than
Matchpoint allows), onnxruntime with one thread a session, hnswlib, exact rescoring of what it finds. Both search the same vectors, with the
model in 32 and in 8 bits. One program asks all of them in turn, in rounds: photographs of the sample
scaled to 640x480 and 1920x1080, by 1, 4 and 8 clients that each wait for their answer. Prints medians
over the rounds. Needs onnxruntime, pillow, numpy, hnswlib, grpcio-tools.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/efficientnet-lite0"
FILES = {"f32": "model.onnx", "int8": "model.int8.onnx"}
SIZES = [(640, 480), (1920, 1080)]
CLIENTS = [1, 4, 8]
THREADS = 2
SIDE = 224
FOUND = 10
CANDIDATES = 64


def make_stubs(folder: Path) -> None:
    """Compiles the protocol, and makes it importable."""
    protos = [str(path) for path in (ROOT / "proto").rglob("*.proto")]
    out = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto"), *out, *protos]
    subprocess.run(command, check=True)
    sys.path.insert(0, str(folder))


def write_vectors(folder: Path, rows: int, dimension: int = 1280) -> Path:
    """Unit vectors around a thousand centres, the same each time."""
    draw = np.random.default_rng(1)
    centres = draw.standard_normal((1000, dimension), dtype=np.float32)
    vectors = np.empty((rows, dimension), np.float32)
    for begin in range(0, rows, 10_000):
        count = min(10_000, rows - begin)
        noise = draw.standard_normal((count, dimension), dtype=np.float32)
        vectors[begin : begin + count] = centres[draw.integers(0, 1000, count)] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(folder / "vectors.npy", vectors)
    lines = ["id,label", *(f"item{row},label{row}" for row in range(rows))]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "vectors.npy"


def write_index(folder: Path) -> None:
    import hnswlib

    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    index = hnswlib.Index(space="cosine", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), M=16, ef_construction=100)
    index.add_items(vectors, num_threads=THREADS)
    index.save_index(str(folder / "hnswlib.bin"))


# --- The Python stack --------------------------------------------------------------------------------


class Stack:
    """What one thread needs for a search, and what all share."""

    def __init__(self, folder: Path, precision: str) -> None:
        import hnswlib

        self.model = str(MODEL / FILES[precision])
        self.vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        self.index = hnswlib.Index(space="cosine", dim=self.vectors.shape[1])
        self.index.load_index(str(folder / "hnswlib.bin"), max_elements=len(self.vectors))
        self.index.set_ef(CANDIDATES)
        self.index.set_num_threads(1)
        self.own = threading.local()

    def session(self) -> Any:
        import onnxruntime

        if not hasattr(self.own, "session"):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self.own.session = onnxruntime.InferenceSession(
                self.model, options, providers=["CPUExecutionProvider"]
            )
        return self.own.session

    def search(self, encoded: bytes) -> list[tuple[int, float]]:
        image = Image.open(io.BytesIO(encoded))
        image.draft("RGB", (SIDE, SIDE))
        pixels = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        values = (np.asarray(pixels, np.float32) - 127) / 128
        tensor = np.ascontiguousarray(values.transpose(2, 0, 1)[np.newaxis])
        (output,) = self.session().run(None, {"pixels": tensor})
        vector = output.reshape(-1)
        vector = vector / np.linalg.norm(vector)
        (found,), _ = self.index.knn_query(vector, k=FOUND)
        scores = self.vectors[found] @ vector
        order = np.argsort(-scores)
        return [(int(found[place]), float(scores[place])) for place in order]


async def serve(folder: Path, precision: str) -> None:
    from matchpoint.v1 import decision_pb2, retrieval_pb2, retrieval_pb2_grpc

    stack, pool = Stack(folder, precision), ThreadPoolExecutor(THREADS)

    class Retrieval(retrieval_pb2_grpc.RetrievalServiceServicer):
        async def Search(self, request: Any, context: Any) -> Any:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(pool, stack.search, request.image)
            matches = [
                decision_pb2.Match(id=f"item{row}", label=f"label{row}", score=score) for row, score in found
            ]
            return retrieval_pb2.SearchResponse(matches=matches)

    server = grpc.aio.server()
    retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(Retrieval(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


# --- The one who asks --------------------------------------------------------------------------------


def images(size: tuple[int, int]) -> list[bytes]:
    """Photographs of the sample, scaled, as JPEG."""
    encoded = []
    for path in sorted((ROOT / "examples/photos/images").glob("*/q2_photometric.jpg"))[:24]:
        out = io.BytesIO()
        scaled = Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        scaled.save(out, "JPEG", quality=90)
        encoded.append(out.getvalue())
    return encoded


async def ask(address: str, encoded: list[bytes], clients: int, seconds: float) -> list[float]:
    """The time of each answer."""
    from matchpoint.v1 import retrieval_pb2, retrieval_pb2_grpc

    took: list[float] = []
    end = time.perf_counter() + seconds

    async def client(first: int) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
            turn = first
            while (begun := time.perf_counter()) < end:
                request = retrieval_pb2.SearchRequest(image=encoded[turn % len(encoded)], limit=FOUND)
                answer = await stub.Search(request)
                assert len(answer.matches) == FOUND
                took.append(time.perf_counter() - begun)
                turn += clients

    await asyncio.gather(*(client(first) for first in range(clients)))
    return took


def start(command: list[str], pattern: str, environment: dict[str, str]) -> tuple[Any, str]:
    """Starts a server, and waits until it says where it listens."""
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    address = ""
    for line in server.stdout or []:
        if found := re.search(pattern, line):
            address = found.group(1)
        if address and ("ready" in line or "listening on" in line):
            break
    # Its log is read on, so that it never waits for us.
    threading.Thread(target=lambda: list(server.stdout or []), daemon=True).start()
    return server, address


def build(program: Path, folder: Path, precision: str) -> Path:
    deployment = folder / f"matchpoint-{precision}"
    if deployment.exists():
        return deployment
    which = [] if precision == "f32" else ["--precision", precision]
    vectors = ["--embeddings", str(folder / "vectors.npy"), "--labels", str(folder / "rows.csv")]
    command = [str(program), "build", str(deployment), *vectors, "--model", str(MODEL), *which]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return deployment


def commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return described.stdout.strip()


def measure(addresses: dict[str, str], seconds: float, rounds: int) -> None:
    print("answers a second, p50 and p99 of their time")
    print(f"{'size':<10} {'clients':>7}  " + "  ".join(f"{name:>24}" for name in addresses))
    for size in SIZES:
        encoded = images(size)
        for clients in CLIENTS:
            rates: dict[str, list[float]] = {name: [] for name in addresses}
            times: dict[str, list[float]] = {name: [] for name in addresses}
            for _ in range(rounds):
                for name, address in addresses.items():
                    took = asyncio.run(ask(address, encoded, clients, seconds))
                    rates[name].append(len(took) / seconds)
                    times[name] += took
            cells = []
            for name in addresses:
                p50, p99 = np.percentile(times[name], [50, 99]) * 1000
                cells.append(f"{statistics.median(rates[name]):6.1f}/s {p50:6.1f} {p99:6.1f} ms")
            print(f"{size[0]}x{size[1]:<5} {clients:>7}  " + "  ".join(f"{cell:>24}" for cell in cells))
            base = statistics.median(rates["python f32"])
            ratios = {name: statistics.median(rate) / base for name, rate in rates.items()}
            equal = ratios["matchpoint int8"] / ratios["python int8"]
            print(
                f"{'':18}  matchpoint by python: {ratios['matchpoint f32']:.2f} at f32, {equal:.2f} at int8;"
                f" int8 by python f32: {ratios['matchpoint int8']:.2f}",
                flush=True,
            )


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/matchpoint")
    parser.add_argument("--folder", type=Path, help="where vectors and indexes are made, or are already")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=FILES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as stubs, tempfile.TemporaryDirectory() as made:
        make_stubs(Path(stubs))
        folder = arguments.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.serve:
            asyncio.run(serve(folder, arguments.serve))
            return
        if not (folder / "rows.csv").exists():
            write_vectors(folder, arguments.rows)
        if not (folder / "hnswlib.bin").exists():
            write_index(folder)
        runtime = next((ROOT / ".cache/onnxruntime").glob("*/libonnxruntime.so"), None)
        environment = dict(os.environ)
        if runtime:
            environment["ORT_DYLIB_PATH"] = str(runtime)
        os.environ.update(environment)
        servers, addresses = [], {}
        for precision in FILES:
            deployment = build(arguments.program, folder, precision)
            listen = ["--listen", "127.0.0.1:0", "--metrics-listen", "off", "--log-format", "json"]
            command = [str(arguments.program), "serve", "--deployments", str(deployment), *listen]
            server, address = start(command, r'"address":"([0-9.:]+)"', environment)
            servers.append(server)
            addresses[f"matchpoint {precision}"] = address
            command = [sys.executable, __file__, "--serve", precision, "--folder", str(folder)]
            server, address = start(command, r"listening on ([0-9.:]+)", environment)
            servers.append(server)
            addresses[f"python {precision}"] = address
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, commit {commit()}")
        print(
            f"{arguments.rows} vectors, {arguments.rounds} rounds of {arguments.seconds:g} s; rate, p50, p99"
        )
        try:
            measure(addresses, arguments.seconds, arguments.rounds)
        finally:
            for server in servers:
                server.kill()


if __name__ == "__main__":
    main()
