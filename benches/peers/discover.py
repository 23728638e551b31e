#!/usr/bin/env python3
"""How well rejected pictures are grouped by each way to cluster them, as docs/discover.md states it.

discover.py VECTORS.npy LABELS.csv [--column class] [--known calib] [--new test] [--singles 300]

Row i of the list belongs to vector i. The similarity from which two pictures count as one thing is read off
the pairs of the split that is known, at each pairwise FAR. Grouped are pictures of the other split, whose
labels are new: all of them, and ten times all pictures of 30 labels among one picture each of --singles
others. Needs numpy, scipy and scikit-learn.
"""

import argparse
import csv
import warnings

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.cluster import HDBSCAN

FARS, SMALLEST, LABELS, DRAWS = (1e-2, 1e-3, 1e-4), 3, 30, 10
LINKAGES = ("single", "average", "complete")


def cosines(rows: np.ndarray) -> np.ndarray:
    """All of them."""
    return np.clip(rows @ rows.T, -1, 1)


def threshold(rows: np.ndarray, labels: np.ndarray, far: float) -> float:
    """The similarity that this share of pairs of two labels reaches."""
    upper = np.triu_indices(len(labels), 1)
    others = cosines(rows)[upper][labels[upper[0]] != labels[upper[1]]]
    accepted = max(1, int(far * len(others)))
    return float(np.partition(others, -accepted)[-accepted])


def pairs(counts: np.ndarray) -> int:
    """Pairs within groups of these sizes."""
    return int((counts * (counts - 1) // 2).sum())


def measure(groups: np.ndarray, labels: np.ndarray) -> list[float]:
    """Pairs within groups that are right, pairs found, groups, groups of one label, the largest."""
    right = within = pure = 0
    names, sizes = np.unique(groups, return_counts=True)
    kept = [name for name, size in zip(names, sizes, strict=True) if 0 <= name and SMALLEST <= size]
    largest = 0
    for name in kept:
        counts = np.unique(labels[groups == name], return_counts=True)[1]
        right += pairs(counts)
        within += pairs(counts.sum(keepdims=True))
        pure += len(counts) == 1
        largest = max(largest, int(counts.sum()))
    mated = pairs(np.unique(labels, return_counts=True)[1])
    count = max(len(kept), 1)
    return [right / max(within, 1), right / mated, len(kept), pure / count, largest]


def grouped(rows: np.ndarray, cuts: dict[float, float]) -> dict[str, np.ndarray]:
    """The number of the group of each row; below zero for none."""
    apart = 1 - cosines(rows)
    np.fill_diagonal(apart, 0)
    found = {}
    for how in LINKAGES:
        tree = linkage(squareform(apart, checks=False), how)
        for far, cut in cuts.items():
            found[f"{how}, FAR {far:g}"] = fcluster(tree, 1 - cut, "distance")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_density = HDBSCAN(SMALLEST, min_samples=1, metric="precomputed", cluster_selection_method="leaf")
        found["HDBSCAN"] = by_density.fit_predict(apart.copy())
    return found


def main() -> None:
    """Prints a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vectors")
    parser.add_argument("labels")
    parser.add_argument("--column", default="label")
    parser.add_argument("--known", default="calib")
    parser.add_argument("--new", default="test")
    parser.add_argument("--singles", type=int, default=300)
    asked = parser.parse_args()
    with open(asked.labels, encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    rows = np.load(asked.vectors).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = np.unique([row[asked.column] for row in listed], return_inverse=True)[1]
    split = np.array([row["split"] for row in listed])
    known, new = split == asked.known, np.flatnonzero(split == asked.new)
    cuts = {far: threshold(rows[known], labels[known], far) for far in FARS}
    worlds = {"all": [new], "few": []}
    for seed in range(DRAWS):
        draws = np.random.default_rng(seed)
        order = draws.permutation(np.unique(labels[new]))
        whole = new[np.isin(labels[new], order[:LABELS])]
        others = order[LABELS : LABELS + asked.singles]
        single = [draws.choice(new[labels[new] == label]) for label in others]
        worlds["few"].append(np.concatenate([whole, single]).astype(int))
    for name, drawn in worlds.items():
        measured: dict[str, list[list[float]]] = {}
        for chosen in drawn:
            for how, groups in grouped(rows[chosen], cuts).items():
                measured.setdefault(how, []).append(measure(groups, labels[chosen]))
        print(f"{name}: {len(drawn[0])} pictures; precision, recall, groups, of one label, largest")
        for how, figures in measured.items():
            print(f"{how:22}", *(f"{value:.3f}" for value in np.mean(figures, 0)), flush=True)


if __name__ == "__main__":
    main()
