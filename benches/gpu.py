#!/usr/bin/env python3
"""The service on a GPU with batches and without, beside bare runs of the same model.

    gpu.py --program target/release/matchpoint [--device cuda] [--precisions f32,fp16] [--batches 1,4,16]

For each precision and size of batch, in turn, in rounds: ONNX Runtime alone from Python, its input and
output kept in the device's memory, as `trtexec` measures; and the service with `batch_max` set to that
size, asked by `matchpoint bench load`: its capacity, and the waits at 80 % of it. Prints medians over the
rounds. With `--device cpu` everything runs without a GPU, which shows that the benchmark does. Needs
numpy, and onnxruntime or, for a GPU, onnxruntime-gpu 1.31.1; for the service on a GPU
`scripts/fetch-onnxruntime.sh --cuda`, and CUDA and cuDNN where the loader finds them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from peers.service import MODEL, ROOT, commit, start

FILES = {"f32": "model.onnx", "int8": "model.int8.onnx", "fp16": "model.fp16.onnx"}
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# Of the capacity: where waits are read.
SHARE = 0.8


class Bare:
    """One session, run on one tensor again and again."""

    def __init__(self, device: str, precision: str, batch: int) -> None:
        provider = PROVIDERS[device]
        session = onnxruntime.InferenceSession(str(MODEL / FILES[precision]), providers=[provider])
        if session.get_providers()[0] != provider:
            raise SystemExit(
                f"onnxruntime has no {provider} here; it would have run {session.get_providers()}"
            )
        memory = "cpu" if device == "cpu" else "cuda"
        tensor = np.resize(np.arange(255, dtype=np.float32) / 128 - 1, (batch, 3, 224, 224))
        self.binding = session.io_binding()
        self.binding.bind_ortvalue_input(
            "pixels", onnxruntime.OrtValue.ortvalue_from_numpy(tensor, memory, 0)
        )
        self.binding.bind_output("embedding", memory, 0)
        self.session, self.batch = session, batch
        # The first run chooses kernels and takes memory.
        self.session.run_with_iobinding(self.binding)

    def images_per_second(self, seconds: float) -> float:
        done, begun = 0, time.perf_counter()
        while (took := time.perf_counter() - begun) < seconds:
            # Returns when the output is there.
            self.session.run_with_iobinding(self.binding)
            done += self.batch
        return done / took


class Service:
    """A server of the sample, that joins up to so many images."""

    def __init__(self, program: Path, deployment: Path, device: str, batch: int) -> None:
        listen = ["--listen", "127.0.0.1:0", "--metrics-listen", "off", "--log-format", "json"]
        command = [str(program), "serve", "--deployments", str(deployment), "--device", device, *listen]
        environment = {**os.environ, "MATCHPOINT_BATCH_MAX": str(batch)}
        self.program = program
        self.server, address = start(command, r'"address":"([0-9.:]+)"', environment)
        self.ask = ["--server", f"http://{address}", "--clients", str(max(16, 4 * batch)), "--json"]

    def load(self, images: list[str], seconds: float) -> tuple[float, float, float]:
        """Answers a second, and p50 and p99 in ms at a part of that."""
        command = [
            str(self.program),
            "bench",
            "load",
            *self.ask,
            "--times",
            str(SHARE),
            "--seconds",
            f"{seconds}",
        ]
        run = subprocess.run([*command, *images], check=True, capture_output=True, text=True)
        report = json.loads(run.stdout)
        answered = report["runs"][0]["answered"]
        return report["capacity_per_second"], answered["p50_us"] / 1e3, answered["p99_us"] / 1e3


def build(program: Path, folder: Path, precision: str) -> Path:
    deployment = folder / precision
    which = [] if precision == "f32" else ["--precision", precision]
    sample = ["--images", str(ROOT / "examples/photos/gallery.csv"), "--model", str(MODEL), *which]
    subprocess.run([program, "build", deployment, *sample], check=True, stdout=subprocess.DEVNULL)
    return deployment


def machine() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no GPU"


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/matchpoint")
    parser.add_argument("--device", choices=PROVIDERS, default="cuda")
    parser.add_argument("--precisions", default="f32,fp16")
    parser.add_argument("--batches", default="1,4,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    variant = "1.32.0" if arguments.device == "cpu" else "1.31.1-cuda"
    runtime = ROOT / ".cache/onnxruntime" / variant / "libonnxruntime.so"
    if runtime.exists():
        os.environ["ORT_DYLIB_PATH"] = str(runtime)
    images = [str(path) for path in sorted((ROOT / "examples/photos/images").glob("*/q*.jpg"))]
    bare = f"onnxruntime {onnxruntime.__version__} from Python"
    print(f"{machine()}, {os.cpu_count()} CPUs, commit {commit()}, {bare}")
    print(f"{len(images)} photographs, {arguments.rounds} rounds of {arguments.seconds:g} s; medians")
    print("| precision, batch | bare run, images a second | service | ratio | p50 / p99 ms at 80 % |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as made:
        for precision in arguments.precisions.split(","):
            deployment = build(arguments.program, Path(made), precision)
            for batch in map(int, arguments.batches.split(",")):
                bare = Bare(arguments.device, precision, batch)
                service = Service(arguments.program, deployment, arguments.device, batch)
                alone, served = [], []
                try:
                    for _ in range(arguments.rounds):
                        alone.append(bare.images_per_second(arguments.seconds))
                        served.append(service.load(images, arguments.seconds))
                finally:
                    service.server.kill()
                    service.server.wait()
                capacity, p50, p99 = (statistics.median(column) for column in zip(*served, strict=True))
                ratio = statistics.median(one / other for (one, *_), other in zip(served, alone, strict=True))
                rates = f"{statistics.median(alone):.1f} | {capacity:.1f} | {ratio:.2f}"
                print(f"| {precision}, {batch} | {rates} | {p50:.1f} / {p99:.1f} |", flush=True)


if __name__ == "__main__":
    main()
