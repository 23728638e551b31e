#!/usr/bin/env python3
"""How a head grows with labels, and with pictures of each.

adapt_growth.py VECTORS.npy LABELS.csv [--column class]

Mixed whitening of roots (`root-whitening`), fitted to random labels of the split calib and measured on all
pairs of the split test; several draws each, as ranges. Fewer labels than `matchpoint adapt` takes are among
them. docs/adapt.md has what came out. Needs numpy, scipy and jax.
"""

import argparse
import csv

import numpy as np
from adapt_losses import Evidence, Variant, figures, powers, unit, whiten

SHARES = (0.5, 0.5, 1.0)


def main() -> None:
    """Prints a line for each number of labels, and of pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vectors")
    parser.add_argument("labels")
    parser.add_argument("--column", default="label")
    parser.add_argument("--draws", type=int, default=3)
    asked = parser.parse_args()
    with open(asked.labels, encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    seen = powers(np.load(asked.vectors).astype(np.float64), 0.5)
    labels = np.unique([one[asked.column] for one in listed], return_inverse=True)[1]
    fit, judged = (np.array([one["split"] == split for one in listed]) for split in ("calib", "test"))
    known, counts = np.unique(labels[fit], return_counts=True)

    def worth(rows: np.ndarray) -> np.ndarray:
        units = unit(rows)
        return figures([Evidence(units @ units.T, labels[judged])], labels.max() + 1)[0]

    def line(name: str, found: list[np.ndarray]) -> None:
        low, high = np.min(found, 0), np.max(found, 0)
        print(
            f"{name:40}" + "".join(f" {a:.4f}..{b:.4f}" for a, b in zip(low, high, strict=True)), flush=True
        )

    def fitted(chosen: np.ndarray) -> np.ndarray:
        few = min(512, len(chosen) - 1)
        centre, head = whiten(seen[chosen], labels[chosen], Variant("", shares=SHARES, components=few))
        return worth((seen[judged] - centre) @ head.T)

    line("no head", [worth(unit(np.load(asked.vectors)[judged].astype(np.float64)))])
    draws = np.random.default_rng(0)
    for count in (10, 30, 100, 300, len(known)):
        if len(known) < count:
            continue
        times = 1 if count == len(known) else asked.draws
        some = [draws.permutation(known)[:count] for _ in range(times)]
        line(f"{count} labels", [fitted(np.flatnonzero(fit & np.isin(labels, one))) for one in some])
    rich = known[counts >= 8]
    for each in (2, 4, 8):
        some = []
        for _ in range(asked.draws):
            own = [np.flatnonzero(fit & (labels == label)) for label in rich]
            some.append(fitted(np.concatenate([draws.permutation(rows)[:each] for rows in own])))
        line(f"{each} pictures of each of {len(rich)} labels", some)


if __name__ == "__main__":
    main()
