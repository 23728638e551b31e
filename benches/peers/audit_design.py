#!/usr/bin/env python3
"""How far 400 labels of the audit go under other sampling rates: the table of docs/monitoring.md.

    audit_design.py [VECTORS.npy LABELS.csv [COLUMN=VALUE]]

Without a set, scores are normal as in the simulations of docs/evidence.md. Else LABELS.csv has a line for
each vector, with `label` (or `class`) and `role`; 40 % of the labels are enrolled (roles gallery and unused),
and the others are strangers. Traffic is half mated. Look-alikes (strangers near the threshold or above)
double the FAR; mates that are missed become half as many again as the limit, or there is no figure of the FRR
(`-`) where that is more than all. Shown is how fast evidence grows, by the best stake for it, which is chosen
with the change known: 13,000 searches times the expected log of what one of them multiplies it by. Rates are
scaled so that 400 labels are expected of traffic as it was. Seeds are fixed. Needs numpy.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass

import numpy as np

EDGES = np.array([-0.2, -0.05, 0, 0.05, 0.15])
DESIGNS = {
    "usual": [0.005, 0.02, 0.2, 0.2, 0.1, 0.02],
    "half as many just below the threshold": [0.005, 0.02, 0.1, 0.2, 0.1, 0.02],
    "a quarter of them, twice as many far below": [0.01, 0.02, 0.05, 0.2, 0.1, 0.02],
    "all alike": [1.0] * 6,
}
SEARCHES, LABELS, MATED, LIMIT = 13_000, 400, 0.5, 0.02


@dataclass
class World:
    """Searches with their weights before and after a change of the FAR, and of the FRR."""

    distance: np.ndarray
    """Score less threshold."""
    margin: np.ndarray
    """Score less that of the best of another label."""
    stranger: np.ndarray
    error: np.ndarray
    frr_limit: float
    """NaN where half as many misses again are more than there are mates."""
    before: np.ndarray
    more_accepts: np.ndarray
    more_misses: np.ndarray


def world(mates: np.ndarray, right: np.ndarray, strangers: np.ndarray, margins: np.ndarray) -> World:
    """Of scores; a threshold that accepts 1.4 % of strangers, with a limit of 2 %."""
    threshold = np.quantile(strangers, 1 - 0.7 * LIMIT)
    distance = np.concatenate([mates, strangers]) - threshold
    stranger = np.arange(len(distance)) >= len(mates)
    error = np.where(
        stranger, distance >= 0, (distance < 0) | ~np.concatenate([right, np.zeros(len(strangers), bool)])
    )
    before = np.where(stranger, (1 - MATED) / len(strangers), MATED / len(mates))
    alike = stranger & (distance >= -0.03)
    far, far_alike = error[stranger].mean(), error[alike].mean()
    part = (2 * LIMIT - far) / (far_alike - far)
    accepts = np.where(stranger, before * (1 - part), before) + alike * (1 - MATED) * part / alike.sum()
    frr = error[~stranger].mean()
    limit = 1.2 * frr + 0.005
    missed = 1.5 * limit
    if missed >= 1:
        limit = missed = np.nan
    misses = np.where(
        stranger, before, np.where(error, before * missed / frr, before * (1 - missed) / (1 - frr))
    )
    return World(distance, margins, stranger, error, limit, before, accepts, misses)


def growth(weights: np.ndarray, rates: np.ndarray, gains: np.ndarray) -> float:
    """The log of evidence after all searches, by the best stake that costs at most half of it at once."""
    if np.isnan(gains).any():
        return np.nan
    gains = gains / rates
    stakes = 0.5 / -gains.min() * np.geomspace(1e-3, 1, 60)
    return float(SEARCHES * max((weights * rates * np.log1p(stake * gains)).sum() for stake in stakes))


def grown(of: World, rates: np.ndarray) -> tuple[float, float]:
    """Evidence against FAR and FRR, with the rates scaled to the number of labels."""
    low, high = 1e-6, 1e6
    for _ in range(60):
        scale = np.sqrt(low * high)
        few = SEARCHES * (of.before * np.clip(scale * rates, 1e-6, 1)).sum() < LABELS
        low, high = (scale, high) if few else (low, scale)
    rates = np.clip(low * rates, 1e-6, 1)
    far = growth(of.more_accepts, rates, of.stranger * (of.error - LIMIT))
    frr = growth(of.more_misses, rates, ~of.stranger * (of.error - of.frr_limit))
    return far, frr


def best_rates(of: World, cells: np.ndarray) -> np.ndarray:
    """Neyman's allocation for the FAR by traffic as it was: the root of the mean square in each cell."""
    gains = (of.stranger * (of.error - LIMIT)) ** 2
    total = np.bincount(cells, of.before)
    share = np.sqrt(np.bincount(cells, of.before * gains) / np.maximum(total, 1e-12))
    return np.maximum(share, share[share > 0].min())[cells]


def evidence(of: World) -> dict[str, tuple[float, float]]:
    """Of each design."""
    strata = np.searchsorted(EDGES, of.distance, side="right")
    found = {name: grown(of, np.array(rates)[strata]) for name, rates in DESIGNS.items()}
    found["the best rates for the FAR in these strata"] = grown(of, best_rates(of, strata))
    accepted = of.distance >= 0
    cuts = np.quantile(of.margin[accepted & ~of.stranger], [1 / 3, 2 / 3])
    cells = 3 * strata + np.where(accepted, np.searchsorted(cuts, of.margin), 0)
    found["the best, accepts also by three parts of the margin"] = grown(of, best_rates(of, cells))
    known = np.where(of.stranger & accepted, 1.0, 0.01)
    found["nearly only false accepts, as if they were known"] = grown(of, known)
    return found


def normal(draw: int) -> World:
    """Scores as in the simulations: a margin says nothing there."""
    rng = np.random.default_rng(draw)
    mates, strangers = rng.normal(0.72, 0.1, 40_000), rng.normal(0.2, 0.11, 40_000)
    return world(mates, np.ones(len(mates), bool), strangers, rng.random(80_000))


def dealt(vectors: np.ndarray, labels: dict[str, tuple[list[int], list[int]]], draw: int) -> World:
    """Labels dealt into enrolled ones and strangers."""
    rng = np.random.default_rng(draw)
    names = [name for name, (items, queries) in labels.items() if items and queries]
    names = [names[place] for place in rng.permutation(len(names))]
    enrolled, strangers = names[: 2 * len(names) // 5], names[2 * len(names) // 5 :]
    items = [row for name in enrolled for row in labels[name][0]]
    label = np.array([place for place, name in enumerate(enrolled) for _ in labels[name][0]])

    def found(names: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        queries = [(row, place) for place, name in enumerate(names) for row in labels[name][1]]
        scores = vectors[[row for row, _ in queries]] @ vectors[items].T
        best = scores.argmax(1)
        score = scores[np.arange(len(scores)), best]
        other = np.where(label[None, :] == label[best][:, None], -1, scores).max(1)
        return score, score - other, label[best] == np.array([place for _, place in queries])

    mates, mates_margin, right = found(enrolled)
    scores, margin, _ = found(strangers)
    return world(mates, right, scores, np.concatenate([mates_margin, margin]))


def figure(value: float) -> str:
    """A dash where there is none."""
    return "-" if np.isnan(value) else f"{value:.1f}"


def main() -> None:
    """Prints the means over the draws, and the ratios to the usual design."""
    if len(sys.argv) < 3:
        worlds = [normal(draw) for draw in range(3)]
    else:
        vectors = np.load(sys.argv[1]).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        column, _, value = sys.argv[3].partition("=") if len(sys.argv) > 3 else ("", "", "")
        labels: dict[str, tuple[list[int], list[int]]] = {}
        with open(sys.argv[2], newline="") as file:
            for row, line in enumerate(csv.DictReader(file)):
                if not column or line[column] == value:
                    of_label = labels.setdefault(line.get("label") or line["class"], ([], []))
                    of_label[line["role"] not in ("gallery", "unused")].append(row)
        worlds = [dealt(vectors, labels, draw) for draw in range(20)]
    found = [evidence(one) for one in worlds]
    frr = np.mean([one.error[~one.stranger].mean() for one in worlds])
    usual = np.mean([one["usual"] for one in found], 0)
    print(
        f"FRR {frr:.3f}; ln E of the usual design after {LABELS} labels: "
        f"FAR {figure(usual[0])}, FRR {figure(usual[1])}\n"
    )
    print("| sampling rates | FAR, FRR: times the evidence of the usual design |\n| --- | --- |")
    for name in found[0]:
        far, frr_ratio = np.mean([one[name] for one in found], 0) / usual
        print(f"| {name} | {figure(far)}, {figure(frr_ratio)} |")


if __name__ == "__main__":
    main()
