#!/usr/bin/env python3
"""Whether a gate (COSMO) or the ICNN score tells strangers, and heads, better than what `adapt` goes by.

adapt_gates.py VECTORS.npy LABELS.csv [--column class]

The list has columns `split` (calib, test) and `role` (gallery, query, unknown). A gate is fitted to the
searches of the split calib, without a head; behind a head, which has seen those labels, to half of the test
labels, in turn. It is judged on labels that neither has seen: FNIR at FPIR .1 and .01, with the 95 %
interval of the difference from the best similarity, over labels drawn again. Then 300 calibrations behind
the head, each on strangers that it has not seen. Then heads are ranked by their ICNN on labels that are
held out, and by the score of `adapt`. docs/adapt.md has what came out. Needs numpy, scipy and jax.
"""

import argparse
import csv

import numpy as np
import scipy.optimize
import scipy.stats
from adapt_losses import Evidence, Variant, figures, powers, through, train, unit, whiten

NEAREST, GATE_TOP, REPLICATES = 4, 5, 1000


def icnn(far_apart: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row: the share of its nearest that are its own, and how much nearer these are."""
    order = np.argsort(far_apart, 1)[:, :NEAREST]
    own, apart = np.take_along_axis(same, order, 1), np.take_along_axis(far_apart, order, 1)
    other = np.where(same, np.inf, far_apart).min(1)
    near = np.where(own, apart / np.maximum(other, 1e-9)[:, None], 0).sum(1) / np.maximum(own.sum(1), 1)
    away = np.where(own, 0, apart / far_apart[np.isfinite(far_apart)].max()).sum(1) / np.maximum(
        (~own).sum(1), 1
    )
    return own.mean(1), (1 - np.minimum(near, 1) + away) / 2


def searches(units: np.ndarray, labels: np.ndarray, roles: np.ndarray) -> dict[str, np.ndarray]:
    """What each query finds: the labels of the best, and all that a gate may look at."""
    gallery, asked = roles == "gallery", np.isin(roles, ["query", "unknown"])
    similar, of = units[asked] @ units[gallery].T, labels[gallery]
    known, numbers = np.unique(of, return_inverse=True)
    by_label = np.full((len(similar), len(known)), -1.0)
    for number in range(len(known)):
        by_label[:, number] = similar[:, numbers == number].max(1)
    top = -np.sort(-by_label, 1)[:, :GATE_TOP]
    soft = np.exp((by_label - 1) / 0.1)
    soft = -np.sort(-soft / soft.sum(1, keepdims=True), 1)[:, :GATE_TOP]
    best = of[similar.argmax(1)]
    share, nearer = icnn(1 - similar, of[None] == best[:, None])
    return {
        "label": labels[asked],
        "known": roles[asked] == "query",
        "right": best == labels[asked],
        "best": top[:, 0],
        "soft": np.log(soft),
        "top": top,
        "icnn": ((share + nearer) / 2)[:, None],
        "icnn and best": np.column_stack([share, nearer, top[:, 0]]),
    }


def gate(facts: np.ndarray, known: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Logistic regression, shrunk a little: how likely a query's label is enrolled."""
    mean, spread = facts.mean(0), facts.std(0) + 1e-9
    wide = np.column_stack([(facts - mean) / spread, np.ones(len(facts))])
    sign = np.where(known, 1.0, -1.0)
    # Both kinds count the same.
    weight = np.where(known, 0.5 / known.mean(), 0.5 / (1 - known.mean()))

    def loss(of_each: np.ndarray) -> float:
        return float((weight * np.logaddexp(0, -sign * (wide @ of_each))).mean() + 1e-3 * (of_each**2).sum())

    found = scipy.optimize.minimize(loss, np.zeros(wide.shape[1])).x
    return np.column_stack([(of - mean) / spread, np.ones(len(of))]) @ found


def fnir(scores: np.ndarray, facts: dict[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
    """FNIR at FPIR .1 and .01: what is not found and accepted, if so many strangers are accepted."""
    known = facts["known"]
    strangers, order = scores[~known], np.argsort(-scores[~known])
    passed = np.cumsum(weights[~known][order])
    ends = []
    for rate in (0.1, 0.01):
        place = min(int(np.searchsorted(passed, rate * passed[-1], "right")), len(order) - 1)
        accepted = (strangers[order[place]] < scores[known]) & facts["right"][known]
        ends.append(1 - (weights[known] * accepted).sum() / weights[known].sum())
    return np.array(ends)


def compare(name: str, pairs: list[tuple[dict, dict]]) -> None:
    """Each score on the second of each pair, fitted to the first."""
    draws = np.random.default_rng(0)
    scored: dict[str, list[np.ndarray]] = {}
    for fitted, judged in pairs:
        scored.setdefault("best similarity", []).append(judged["best"])
        # What `calibrate --remedy margin` compares.
        scored.setdefault("margin .75", []).append(judged["top"][:, 0] - 0.75 * judged["top"][:, 1])
        scored.setdefault("ICNN score", []).append(judged["icnn"][:, 0])
        for title, facts in [
            ("gate", "soft"),
            ("gate of similarities", "top"),
            ("gate of ICNN and best", "icnn and best"),
        ]:
            scored.setdefault(title, []).append(gate(fitted[facts], fitted["known"], judged[facts]))
    again = []
    for _, judged in pairs:
        labels, numbers = np.unique(judged["label"], return_inverse=True)
        drawn = draws.integers(0, len(labels), (REPLICATES, len(labels)))
        again.append([np.bincount(row, minlength=len(labels))[numbers].astype(float) for row in drawn])

    def rates(title: str, replicate: int | None = None) -> np.ndarray:
        found = []
        for scores, (_, judged), weights in zip(scored[title], pairs, again, strict=True):
            weight = np.ones(len(scores)) if replicate is None else weights[replicate]
            found.append(fnir(scores, judged, weight))
        return np.mean(found, 0)

    base = np.array([rates("best similarity", number) for number in range(REPLICATES)])
    for title in scored:
        value = rates(title)
        change = np.array([rates(title, number) for number in range(REPLICATES)]) - base
        low, high = np.percentile(change, [2.5, 97.5], axis=0)
        cells = [f" {value[at]:.3f} [{low[at]:+.3f} {high[at]:+.3f}]" for at in range(2)]
        print(f"{name}: {title:24}" + "".join(cells), flush=True)


def promised(units: np.ndarray, labels: np.ndarray, runs: int = 300) -> None:
    """How often a FAR that 60 strangers certify at 90 % is exceeded, with half of the labels enrolled."""
    draws = np.random.default_rng(0)
    order = draws.permutation(np.unique(labels))
    enrolled = np.isin(labels, order[::2])
    best, of = (units[~enrolled] @ units[enrolled].T).max(1), labels[~enrolled]
    pictures = [best[of == label] for label in order[1::2]]
    broken = 0
    for _ in range(runs):
        some = [pictures[label] for label in draws.integers(0, len(pictures), 60)]
        # None of 60 is accepted, which at 5 % happens in .95^60 = 4.6 % of all draws; one would be in 19 %.
        threshold = max(draws.choice(scores) for scores in some)
        broken += np.mean([(threshold < scores).mean() for scores in pictures]) > 0.05
    print(f"FAR <= 5 % at 90 %: exceeded by {broken} of {runs}, {len(pictures)} labels of strangers")


def ranked(rows: np.ndarray, labels: np.ndarray) -> None:
    """Heads by their ICNN and by adapt's score on some labels, and what they are worth on others."""
    order = np.random.default_rng(1).permutation(labels.max() + 1)
    parts = [np.isin(labels, order[part::3]) for part in range(3)]
    found = []
    for power in (1.0, 0.75, 0.5, 0.25):
        seen = powers(rows, power)
        for shares in ((0.0, 1.0, 1.0), (0.5, 0.5, 1.0), (0.75, 0.25, 2.0), (0.9, 0.1, 0.3), (1.0, 0.0, 0.1)):
            for components in (128, 512):
                by = Variant("", power=power, shares=shares, components=components)
                centre, head = whiten(seen[parts[0]], labels[parts[0]], by)
                values = []
                for part in parts[1:]:
                    units = unit((seen[part] - centre) @ head.T)
                    one = Evidence(units @ units.T, labels[part])
                    far_apart = 1 - units @ units.T
                    np.fill_diagonal(far_apart, np.inf)
                    share, nearer = icnn(far_apart, labels[part][:, None] == labels[part][None])
                    values.append(np.append(figures([one], labels.max() + 1)[0], (share + nearer).mean() / 2))
                found.append(values)
    chosen, judged = np.array(found).transpose(1, 0, 2)
    score = (chosen[:, [1, 2, 4]] / chosen[:, [1, 2, 4]].mean(0)).mean(1)
    for title, by in [("ICNN", -chosen[:, 5]), ("adapt's score", score)]:
        rho = [scipy.stats.spearmanr(by, judged[:, at])[0] for at in (1, 2, 4)]
        figure = judged[by.argmin()]
        print(
            f"{len(by)} heads by {title}: rank correlation with EER, FRR, OPIS "
            + " ".join(f"{value:.2f}" for value in rho)
            + "; of the chosen one Recall@1, EER, FRR at 1e-2, at 1e-3, OPIS "
            + " ".join(f"{value:.4f}" for value in figure[:5])
        )


def main() -> None:
    """Prints a line for each score and each measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vectors")
    parser.add_argument("labels")
    parser.add_argument("--column", default="label")
    asked = parser.parse_args()
    with open(asked.labels, encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    rows = unit(np.load(asked.vectors).astype(np.float64))
    labels = np.unique([one[asked.column] for one in listed], return_inverse=True)[1]
    splits, roles = (np.array([one[column] for one in listed]) for column in ("split", "role"))
    calib, test = splits == "calib", splits == "test"

    def in_part(units: np.ndarray, part: np.ndarray) -> dict:
        return searches(units[part], labels[part], roles[part])

    compare("no head", [(in_part(rows, calib), in_part(rows, test))])
    by = Variant("")
    seen = powers(rows, by.power)
    centre, head = whiten(seen[calib], labels[calib], by)
    mapped = ((seen[calib] - centre) @ head.T).astype(np.float32)
    units = unit(np.asarray(through(train(mapped, labels[calib], by, 0), (seen - centre) @ head.T)))
    half = np.isin(labels, np.random.default_rng(0).permutation(np.unique(labels[test]))[::2])
    whole = in_part(units, test)
    sides = [
        {key: value[np.isin(whole["label"], labels[half]) == side] for key, value in whole.items()}
        for side in (True, False)
    ]
    compare("a head", [(sides[0], sides[1]), (sides[1], sides[0])])
    promised(units[test], labels[test])
    ranked(rows[calib], np.unique(labels[calib], return_inverse=True)[1])


if __name__ == "__main__":
    main()
