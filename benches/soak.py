#!/usr/bin/env python3
"""Resident memory of the server under a long mix of images, good and bad.

    soak.py --program target/release/matchpoint [--minutes 30] [--rate 15] [--precision int8]

Serves the sample, and searches at a fixed rate for images of 0.1 to 12 megapixels in every format, cut
and malformed ones among them. Reads the server's resident memory every five seconds, and prints its
slope after the first fifth of the time, its peak, and what docs/operations.md allows. Needs grpcio-tools,
numpy, pillow.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import io
import os
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np
from PIL import Image
from peers.service import MODEL, ROOT, commit, make_stubs, start, subprocess

SIZES = [(400, 300), (640, 480), (1600, 1200), (4000, 3000)]
FORMATS = {
    "JPEG": {"quality": 85},
    "progressive": {"quality": 85, "progressive": True},
    "PNG": {"compress_level": 1},
    "WebP": {"quality": 80},
    "GIF": {},
    "BMP": {},
}
# Of 12 megapixels in these formats a file is larger than the server takes, or takes minutes to make.
SMALL_ONLY = ("PNG", "WebP", "GIF", "BMP")
CONNECTIONS = 8


def mix() -> list[tuple[str, bytes]]:
    files: list[tuple[str, bytes]] = []
    photographs = sorted((ROOT / "examples/photos/images").glob("*/q2_photometric.jpg"))
    for number, size in enumerate(SIZES):
        with Image.open(photographs[number]) as photograph:
            scaled = photograph.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        for name, options in FORMATS.items():
            if name in SMALL_ONLY and size == SIZES[-1]:
                continue
            out = io.BytesIO()
            scaled.save(out, "JPEG" if name == "progressive" else name, **options)
            files.append((f"{name} {size[0]}x{size[1]}", out.getvalue()))
            if size == SIZES[1]:
                files.append((f"{name}, cut", out.getvalue()[: len(out.getvalue()) // 2]))
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    files += [("noise", np.random.default_rng(1).bytes(200_000)), ("a bomb", header + bytes(100))]
    return files


def resident(pid: int) -> dict[str, float]:
    """Resident memory now and at its peak, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
    return {name: int(value.split()[0]) / 1024 for name, value in pairs.items()}


async def load(address: str, files: list[tuple[str, bytes]], rate: float, seconds: float) -> collections.Counter:
    from matchpoint.v1 import retrieval_pb2, retrieval_pb2_grpc

    outcomes: collections.Counter = collections.Counter()
    options = [("grpc.max_send_message_length", 64 << 20)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CONNECTIONS)]
    stubs = [retrieval_pb2_grpc.RetrievalServiceStub(channel) for channel in channels]

    async def one(number: int) -> None:
        _, data = files[number % len(files)]
        try:
            await stubs[number % CONNECTIONS].Search(retrieval_pb2.SearchRequest(image=data), timeout=30)
            outcomes["OK"] += 1
        except grpc.aio.AioRpcError as error:
            outcomes[error.code().name] += 1

    begun, waiting = time.perf_counter(), set()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(begun + number / rate - time.perf_counter())
        task = asyncio.create_task(one(number))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)
    return outcomes


async def watch(pid: int, readings: list[tuple[float, float]]) -> None:
    begun = time.perf_counter()
    while True:
        readings.append((time.perf_counter() - begun, resident(pid)["VmRSS"]))
        await asyncio.sleep(5)


async def soak(address: str, pid: int, rate: float, seconds: float) -> None:
    files, readings = mix(), []
    watching = asyncio.create_task(watch(pid, readings))
    outcomes = await load(address, files, rate, seconds)
    watching.cancel()
    late = np.array([reading for reading in readings if seconds / 5 < reading[0]])
    slope = np.polyfit(late[:, 0], late[:, 1], 1)[0] * 600
    print(f"{len(files)} kinds of files, {sum(outcomes.values())} searches: {dict(outcomes)}")
    print(f"resident after a minute {np.interp(60, *np.array(readings).T):.0f} MiB, at the end {late[-1, 1]:.0f} MiB")
    print(f"slope after the first fifth: {slope:+.2f} MiB in 10 minutes; peak {resident(pid)['VmHWM']:.0f} MiB")


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/matchpoint")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=15, help="searches a second [default: 15]")
    parser.add_argument("--precision", default="f32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make_stubs(folder)
        runtime = next((ROOT / ".cache/onnxruntime").glob("*/libonnxruntime.so"), None)
        if runtime:
            os.environ["ORT_DYLIB_PATH"] = str(runtime)
        which = [] if arguments.precision == "f32" else ["--precision", arguments.precision]
        sample = ["--images", str(ROOT / "examples/photos/gallery.csv"), "--model", str(MODEL), *which]
        subprocess.run([arguments.program, "build", folder / "shop", *sample], check=True, stdout=subprocess.DEVNULL)
        listen = ["--listen", "127.0.0.1:0", "--metrics-listen", "off", "--log-format", "json"]
        command = [str(arguments.program), "serve", "--deployments", str(folder / "shop"), *listen]
        server, address = start(command, r'"address":"([0-9.:]+)"', dict(os.environ))
        print(f"commit {commit()}, {arguments.minutes:g} minutes at {arguments.rate:g} a second, {arguments.precision}")
        try:
            asyncio.run(soak(address, server.pid, arguments.rate, 60 * arguments.minutes))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
