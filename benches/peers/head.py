#!/usr/bin/env python3
"""What a head costs at inference: head.py BASE.onnx HEAD.onnx [HEAD.onnx ...], networks for 224 x 224 pictures.

One picture at a time on one thread, all networks in turn and in random order, by the time of the thread. Each is
opened several times, since it matters where its weights lie: the intervals are over copies and runs.
"""

import argparse
import time

import numpy as np
import onnxruntime


def session(path: str) -> onnxruntime.InferenceSession:
    """One thread, as a worker of the service has it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Prints the cost of each head, in percent of the network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", help="the network, then the same with heads")
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--copies", type=int, default=4)
    flags = parser.parse_args()
    draws = np.random.default_rng(0)
    pixels = draws.uniform(-1, 1, (1, 3, 224, 224)).astype(np.float32)
    sessions = [[session(path) for _ in range(flags.copies)] for path in flags.networks]
    times = np.zeros((len(sessions), flags.copies, flags.runs))
    for run in range(flags.runs):
        for place in draws.permutation(len(sessions) * flags.copies):
            network, copy = divmod(int(place), flags.copies)
            started = time.thread_time_ns()
            sessions[network][copy].run(None, {"pixels": pixels})
            times[network, copy, run] = (time.thread_time_ns() - started) / 1e6

    def cost(of: np.ndarray, base: np.ndarray) -> float:
        return 100 * float(np.median(of) / np.median(base) - 1)

    def drawn() -> tuple[np.ndarray, np.ndarray]:
        """Copies and runs with replacement; the runs of all networks are drawn together."""
        copies = draws.integers(0, flags.copies, flags.copies)[:, None]
        return copies, draws.integers(0, flags.runs, flags.runs)

    print(f"{flags.networks[0]}: {np.median(times[0]):.2f} ms")
    for path, of in zip(flags.networks[1:], times[1:], strict=True):
        again = []
        for _ in range(1000):
            copies, runs = drawn()
            again.append(cost(of[copies, runs], times[0][drawn()[0], runs]))
        low, high = np.percentile(again, [2.5, 97.5])
        print(f"{path}: {cost(of, times[0]):+.1f} % [{low:+.1f} .. {high:+.1f}]")


if __name__ == "__main__":
    main()
