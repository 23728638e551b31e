#!/usr/bin/env python3
"""Mixed whitening with numpy, as the bench `fit` of crates/adapt does it: adapt.py ROWS COMPONENTS.

The ratio of the two times, taken one after the other on one machine, is what docs/adapt.md states.
"""

import resource
import sys
import time

import numpy as np

WITHIN, TOTAL, IDENTITY, COMPONENTS_MAX = 0.5, 0.5, 1.0, 512


def whiten(rows: np.ndarray, labels: np.ndarray, components: int) -> np.ndarray:
    """The map of mixed whitening, on the leading eigenvectors of the scatter of all rows."""
    side = rows.shape[1]
    wide = rows.astype(np.float64)
    mean = wide.mean(0)
    wide -= mean
    total = wide.T @ wide
    known, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.zeros((len(known), side))
    np.add.at(means, numbers, wide)
    means /= np.sqrt(counts)[:, None]
    within = total - means.T @ means
    mixed = WITHIN * within / np.trace(within) + TOTAL * total / np.trace(total)
    mixed += IDENTITY * np.eye(side) / side
    axes = np.linalg.eigh(total)[1][:, ::-1][:, :components]
    factor = np.linalg.cholesky(axes.T @ mixed @ axes)
    head = np.linalg.solve(factor, axes.T)
    return head / np.linalg.norm(wide @ head.T, axis=1).mean()


def main() -> None:
    """Times one fit."""
    rows, side = (int(one) for one in sys.argv[1:3])
    draws = np.random.default_rng(0)
    data = draws.random((rows, side), dtype=np.float32) - 0.5
    data += np.repeat(draws.random((rows // 7 + 1, side), dtype=np.float32) - 0.5, 7, 0)[:rows] / 2
    data /= np.sqrt(1 + np.arange(side, dtype=np.float32))
    data /= np.linalg.norm(data, axis=1, keepdims=True)
    labels = np.arange(rows) // 7
    started = time.perf_counter()
    head = whiten(data, labels, min(COMPONENTS_MAX, side))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"numpy: {rows} x {side} to {head.shape[0]} in {seconds:.2f} s, {peak:.0f} MB at the most")


if __name__ == "__main__":
    main()
