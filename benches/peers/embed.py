#!/usr/bin/env python3
"""The model's run by ONNX Runtime, from Rust and from Python, in turn.

    embed.py [--rounds 5] [--seconds 4]

Both with a session of one thread for each CPU, on one tensor again and again: images a second of all of
them. Needs numpy and onnxruntime 1.32.0 from PyPI.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/efficientnet-lite0/model.onnx"


def from_python(seconds: float) -> float:
    tensor = np.resize(np.arange(255, dtype=np.float32) / 128 - 1, (1, 3, 224, 224))
    counts = []

    def work() -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])
        session.run(None, {"pixels": tensor})
        ready.wait()
        count, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            session.run(None, {"pixels": tensor})
            count += 1
        counts.append(count)

    workers = os.cpu_count() or 1
    ready = threading.Barrier(workers)
    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def from_rust(seconds: float) -> float:
    environment = {**os.environ, "BENCH_ALONE": "1", "BENCH_SECONDS": f"{seconds:.0f}"}
    command = ["cargo", "bench", "--quiet", "--bench", "service"]
    run = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return float(run.stdout)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    arguments = parser.parse_args()
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        ours.append(from_rust(arguments.seconds))
        theirs.append(from_python(arguments.seconds))
        print(f"Rust {ours[-1]:.1f}, Python {theirs[-1]:.1f} images/s", flush=True)
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    print(f"median of the ratios: {ratio:.2f}")


if __name__ == "__main__":
    main()
