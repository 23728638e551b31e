#!/usr/bin/env python3
"""FRR at equal certified FAR by similarity, margin, AS-norm and their pair: the table of docs/remedies.md.

    margin.py VECTORS.npy LABELS.csv FAR DRAWS

LABELS.csv has a line for each vector, with `label` (or `class`) and `role` (gallery, query, unknown or
unused). In each draw the labels are dealt anew: 35 % are enrolled, half of the others set the threshold by
the exact binomial at 90 % confidence, one query of each, and the rest judge it. Needs numpy.
"""

from __future__ import annotations

import csv
import math
import sys

import numpy as np

ENROLLED, CONFIDENCE, FACTOR = 0.35, 0.9, 0.75
COHORT_MAX, NEAREST_MAX, DEVIATION_MIN = 1000, 300, 1e-3
RULES = ("similarity", "margin", "AS-norm", "AS-norm with margin")


def allowed(trials: int, far: float) -> int:
    """How many of the trials may be accepted (Clopper and Pearson 1934); -1 if too few are there."""
    tail, most = 0.0, -1
    for accepted in range(trials + 1):
        ways = math.lgamma(trials + 1) - math.lgamma(accepted + 1) - math.lgamma(trials - accepted + 1)
        tail += math.exp(ways + accepted * math.log(far) + (trials - accepted) * math.log1p(-far))
        if tail > 1 - CONFIDENCE:
            break
        most = accepted
    return most


def nearest_of_cohort(scores: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the nearest scores of a cohort, without items of the label looked at."""
    count = max(1, min(NEAREST_MAX, scores.shape[1] // 4))
    nearest = -np.sort(-np.where(others, scores, -9), 1)[:, :count]
    return nearest.mean(1), np.maximum(nearest.std(1), DEVIATION_MIN)


def decision_scores(
    scores: np.ndarray, labels: np.ndarray, cohort: np.ndarray, among: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What each rule holds against its threshold, and the label of the best match, for each search."""
    rows = np.arange(len(scores))
    best = scores.argmax(1)
    label = labels[best]
    other = np.where(labels[None, :] == label[:, None], -1, scores)
    second = other.argmax(1)

    one, two = scores[rows, best], other[rows, second]
    # The pair is normalised by the statistics of the query and of its best match, as the product does.
    others = labels[cohort][None, :] != label[:, None]
    by_query = nearest_of_cohort(scores[:, cohort], others)
    by_item = nearest_of_cohort(among[best], others)
    as_one, as_two = (
        sum(0.5 * (score - mean) / deviation for mean, deviation in (by_query, by_item))
        for score in (one, two)
    )
    rules = (one, one - FACTOR * two, as_one, as_one - FACTOR * as_two)
    return dict(zip(RULES, rules, strict=True)), label


def main() -> None:
    """Prints the mean over the draws."""
    vectors = np.load(sys.argv[1]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    far, draws = float(sys.argv[3]), int(sys.argv[4])
    rows: dict[str, tuple[list[int], list[int]]] = {}
    with open(sys.argv[2], newline="") as file:
        for row, line in enumerate(csv.DictReader(file)):
            if line["role"] != "unused":
                of_label = rows.setdefault(line.get("label") or line["class"], ([], []))
                of_label[line["role"] != "gallery"].append(row)
    names = [name for name, (_, queries) in rows.items() if queries]
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES}
    for _ in range(draws):
        dealt = [names[at] for at in rng.permutation(len(names))]
        enrolled = [name for name in dealt if rows[name][0]][: int(len(dealt) * ENROLLED)]
        strangers = [name for name in dealt if name not in set(enrolled)]
        chosen, judged = strangers[: len(strangers) // 2], strangers[len(strangers) // 2 :]
        items = np.array([row for name in enrolled for row in rows[name][0]])
        labels = np.array([name for name in enrolled for _ in rows[name][0]])
        one_each = [rows[name][1][rng.integers(len(rows[name][1]))] for name in chosen]
        mated = [(row, name) for name in enrolled for row in rows[name][1]]
        cohort = rng.permutation(len(items))[:COHORT_MAX]
        among = vectors[items] @ vectors[items][cohort].T

        def searched(queries: list[int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
            return decision_scores(vectors[queries] @ vectors[items].T, labels, cohort, among)  # noqa: B023

        choosing, _ = searched(one_each)
        judging, _ = searched([row for name in judged for row in rows[name][1]])
        mates, label = searched([row for row, _ in mated])
        right = label == np.array([name for _, name in mated])
        most = allowed(len(chosen), far)
        if most < 0:
            sys.exit(f"{len(chosen)} labels of strangers cannot certify FAR {far}")
        for rule in RULES:
            threshold = np.sort(choosing[rule])[::-1][most]
            frr = 1 - ((mates[rule] > threshold) & right).mean()
            found[rule].append((float(frr), float((judging[rule] > threshold).mean())))
    print(f"{len(chosen)} stranger labels, FAR <= {far:g}, {draws} draws")
    for rule in RULES:
        frr, realised = np.mean(found[rule], axis=0)
        print(f"{rule:20} FRR {frr:.3f}, FAR on labels held back {realised:.3f}")


if __name__ == "__main__":
    main()
