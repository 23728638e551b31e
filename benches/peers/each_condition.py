#!/usr/bin/env python3
"""A FAR certified for each capture condition beside one for all together: a table of docs/believability.md.

    each_condition.py VECTORS.npy LABELS.csv CONDITION [KIND=VALUE]

LABELS.csv has a line for each vector, with `label` (or `class`), `role` (gallery, query, unknown or unused) and the
column CONDITION; KIND=VALUE keeps the labels that have it. 100 splits: two labels of five are enrolled; up to 200
strangers are drawn from 45 of 100 labels, whose FAR is the true one. The exact binomial certifies the threshold at 90 %
on one query of each stranger, of any condition; or of each condition by itself, of which the highest counts, as with
`--worst-group-of`. Needs numpy.
"""

from __future__ import annotations

import csv
import sys

import numpy as np
from margin import allowed

SPLITS, FAR, STRANGERS_MAX = 100, 0.05, 200


def threshold(scores: list[float]) -> float:
    """What is above it is accepted."""
    most = allowed(len(scores), FAR)
    if most < 0:
        sys.exit(f"{len(scores)} labels of strangers cannot certify FAR {FAR}")
    return float(np.sort(scores)[::-1][most])


def main() -> None:
    """Prints how often the FAR of a condition is exceeded, and the mean FRR."""
    vectors = np.load(sys.argv[1]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    column, kind = sys.argv[3], [argument.split("=", 1) for argument in sys.argv[4:]]
    gallery: dict[str, list[int]] = {}
    queries: dict[str, list[int]] = {}
    condition: dict[int, str] = {}
    with open(sys.argv[2], newline="") as file:
        for row, line in enumerate(csv.DictReader(file)):
            if all(line[key] == value for key, value in kind):
                enrolled = line["role"] in ("gallery", "unused")
                (gallery if enrolled else queries).setdefault(line.get("label") or line["class"], []).append(row)
                condition[row] = line[column]
    names = [name for name in queries if name in gallery]
    conditions = sorted({condition[row] for name in names for row in queries[name]})
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[list[float], float]]] = {"all together": [], "each condition": []}
    for _ in range(SPLITS):
        dealt = [names[at] for at in rng.permutation(len(names))]
        enrolled, population = dealt[: len(dealt) * 40 // 100], dealt[len(dealt) * 40 // 100 : len(dealt) * 85 // 100]
        drawn = min(STRANGERS_MAX, 2 * len(population) // 3)
        strangers = [population[at] for at in rng.integers(len(population), size=drawn)]
        items = vectors[[row for name in enrolled for row in gallery[name]]]
        labels = np.array([name for name in enrolled for _ in gallery[name]])
        rows = [row for name in population for row in queries[name]]
        best = dict(zip(rows, (vectors[rows] @ items.T).max(1), strict=True))
        mates = [(row, name) for name in enrolled for row in queries[name]]
        scores = vectors[[row for row, _ in mates]] @ items.T
        right = labels[scores.argmax(1)] == np.array([name for _, name in mates])

        def of(name: str, value: str) -> list[int]:
            return [row for row in queries[name] if condition[row] == value]

        def one_each(choices: list[list[int]]) -> float:
            return threshold([best[rows[rng.integers(len(rows))]] for rows in choices if rows])  # noqa: B023

        together = one_each([queries[name] for name in strangers])
        each = max(one_each([of(name, value) for name in strangers]) for value in conditions)
        for name, low in zip(found, (together, each), strict=True):
            fars = []
            for value in conditions:
                shown = [of(stranger, value) for stranger in population]
                fars.append(float(np.mean([np.mean([best[row] > low for row in rows]) for rows in shown if rows])))
            found[name].append((fars, 1 - float(((scores.max(1) > low) & right).mean())))
    for name, splits in found.items():
        above = np.array([fars for fars, _ in splits]) > FAR
        worst = int(above.mean(0).argmax())
        print(
            f"certified for {name}: exceeded in any condition in {above.any(1).mean():.0%}, "
            f"in {conditions[worst]} in {above[:, worst].mean():.0%}; FRR {np.mean([frr for _, frr in splits]):.3f}"
        )


if __name__ == "__main__":
    main()
