#!/usr/bin/env python3
"""Freeze what other software answers for the calibration's rules.

Writes crates/calibration/tests/fixtures/oracle/policies.json, which the unit tests of
crates/calibration/src read:

  far, frr     thresholds by MAPIE's fixed-sequence Learn-then-Test with risk "fpr", and the
               accepts or misses that it allows by scipy's binomial distribution
  intervals    scipy's binomtest, and its beta quantiles for the one-sided bounds
  cllr         Cllr by its definition in numpy, its minimum after sklearn's IsotonicRegression
  scales       slope and offset by sklearn's LogisticRegression, weighted to a prior

MAPIE accepts at or above a parameter, as this software does. Its grid is every score and the
number just above it, and -1, so that its lowest valid parameter is the threshold itself. Needs
Python 3.11, numpy 1.26, scipy 1.17, scikit-learn 1.9, mapie 1.6.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mapie.risk_control import BinaryClassificationController
from scipy.stats import beta, binom, binomtest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

Floats = npt.NDArray[np.float64]

OUT = Path(__file__).parent.parent / "crates/calibration/tests/fixtures/oracle/policies.json"
# A slope of ten over one standard deviation, as in crates/calibration/src/evidence.rs.
SLOPE_DEVIATION = 10.0


def above(scores: Floats) -> Floats:
    """The next float32 above each score."""
    up = np.nextafter(scores.astype(np.float32), np.float32(np.inf))
    return up.astype(np.float64)


def lowest_valid(values: Floats, grid: Floats, target: float, confidence: float) -> float | None:
    """The lowest parameter that MAPIE certifies, where an event is a value at or above it."""
    controller = BinaryClassificationController(
        predict_function=lambda x: np.column_stack([-x[:, 0], x[:, 0]]),
        risk="fpr",
        target_level=target,
        confidence_level=confidence,
        list_predict_params=np.unique(grid),
        fwer_method="fixed_sequence",
    )
    # One positive, so that both classes occur; it is no trial of this risk.
    x = np.append(values, 9.0)[:, None]
    y = np.append(np.zeros(len(values), int), 1)
    controller.calibrate(x, y)
    valid = np.asarray(controller.valid_predict_params)
    return float(valid.min()) if len(valid) else None


def allowed(trials: int, target: float, confidence: float) -> int | None:
    events = np.arange(trials + 1)
    supported = events[binom.cdf(events, trials, target) <= (1 - confidence) * (1 + 1e-12)]
    return int(supported.max()) if len(supported) else None


def rounded(scores: Floats, decimals: int) -> Floats:
    return np.round(scores, decimals).astype(np.float32).astype(np.float64)


def shortest(score: float) -> float:
    """The shortest decimal that reads back as the same float32."""
    return float(str(np.float32(score)))


def far_case(rng: np.random.Generator, case: tuple[int, float, float, int]) -> dict[str, Any]:
    trials, target, confidence, decimals = case
    scores = rounded(np.clip(rng.normal(0.2, 0.15, trials), -1, 1), decimals)
    grid = np.concatenate([[-1.0], scores, above(scores)])
    return {
        "target": target,
        "confidence": confidence,
        "scores": [shortest(s) for s in scores],
        "allowed": allowed(trials, target, confidence),
        "threshold": lowest_valid(scores, grid, target, confidence),
    }


def frr_case(rng: np.random.Generator, case: tuple[int, float, float, int]) -> dict[str, Any]:
    trials, target, confidence, decimals = case
    scores = rounded(np.clip(rng.normal(0.7, 0.12, trials), -1, 1), decimals)
    lost = rng.random(trials) < 0.02
    # A miss is a score below t, that is, -score at or above the number just above -t.
    values = np.where(lost, 5.0, -scores)
    grid = above(-scores)
    valid = lowest_valid(values, grid, target, confidence)
    highest = None
    if valid is not None:
        highest = float(-np.nextafter(np.float32(valid), np.float32(-np.inf)))
    return {
        "target": target,
        "confidence": confidence,
        "scores": [None if gone else shortest(s) for s, gone in zip(scores, lost, strict=True)],
        "allowed": allowed(trials, target, confidence),
        "threshold": highest,
    }


def interval(events: int, trials: int, confidence: float) -> dict[str, Any]:
    test = binomtest(events, trials)
    exact = test.proportion_ci(confidence, method="exact")
    wilson = test.proportion_ci(confidence, method="wilson")
    return {
        "events": events,
        "trials": trials,
        "confidence": confidence,
        "exact": [exact.low, exact.high],
        "wilson": [wilson.low, wilson.high],
        "upper": float(beta.ppf(confidence, events + 1, trials - events)),
        "lower": float(beta.ppf(1 - confidence, events, trials - events + 1)) if events else 0.0,
    }


def cllr(mated: Floats, non_mated: Floats) -> float:
    cost = np.mean(np.logaddexp(0, -mated)) + np.mean(np.logaddexp(0, non_mated))
    return float(cost / (2 * np.log(2)))


def min_cllr(mated: Floats, non_mated: Floats) -> float:
    values = np.concatenate([mated, non_mated])
    truth = np.concatenate([np.ones(len(mated)), np.zeros(len(non_mated))])
    share = IsotonicRegression().fit(values, truth).predict(values)
    with np.errstate(divide="ignore"):
        llr = np.log(share) - np.log1p(-share) - np.log(len(mated) / len(non_mated))
    return cllr(llr[: len(mated)], llr[len(mated) :])


def cllr_case(mated: Floats, non_mated: Floats) -> dict[str, Any]:
    return {
        "mated": mated.tolist(),
        "non_mated": non_mated.tolist(),
        "cllr": cllr(mated, non_mated),
        "min_cllr": min_cllr(mated, non_mated),
    }


def scale_case(mated: Floats, non_mated: Floats, prior: float) -> dict[str, Any]:
    values = np.concatenate([mated, non_mated])
    truth = np.concatenate([np.ones(len(mated)), np.zeros(len(non_mated))])
    weights = np.where(truth == 1, prior / len(mated), (1 - prior) / len(non_mated))
    mean = np.sum(weights * values)
    deviation = np.sqrt(np.sum(weights * (values - mean) ** 2))
    strength = SLOPE_DEVIATION**2 * len(values)
    model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-13, max_iter=1000)
    model.fit(((values - mean) / deviation)[:, None], truth, sample_weight=weights)
    slope = float(model.coef_[0, 0]) / deviation
    offset = float(model.intercept_[0]) - slope * mean - np.log(prior / (1 - prior))
    return {
        "mated": mated.tolist(),
        "non_mated": non_mated.tolist(),
        "prior": prior,
        "slope": float(slope),
        "offset": float(offset),
    }


def main() -> None:
    rng = np.random.default_rng(20240817)
    rules = [(60, 0.05, 0.9, 6), (150, 0.05, 0.9, 2), (400, 0.02, 0.95, 6), (300, 0.1, 0.99, 2)]
    overlapping = rounded(rng.normal(0.7, 0.1, 30), 4), rounded(rng.normal(0.3, 0.15, 45), 4)
    apart = np.array([0.8, 0.9, 0.85]), np.array([0.1, 0.2, 0.3, 0.15])
    tied = np.array([2.0, 1.0, 1.0, 0.5, -0.3]), np.array([-2.0, -1.0, 1.0, 1.0, 0.5, -0.7])
    oracle = {
        "far": [far_case(rng, case) for case in rules],
        "frr": [frr_case(rng, case) for case in rules],
        "intervals": [
            interval(*case)
            for case in [(0, 3000, 0.95), (3, 1000, 0.95), (17, 230, 0.9), (5, 50, 0.99)]
        ],
        "cllr": [
            cllr_case(np.array([2, 1, 0.5, -0.3]), np.array([-2, -1, 0.2, -0.7])),
            cllr_case(*tied),
            cllr_case(*(10 * (side - 0.5) for side in overlapping)),
        ],
        "scales": [
            scale_case(*overlapping, prior=0.5),
            scale_case(*overlapping, prior=0.01),
            scale_case(*tied, prior=0.5),
            scale_case(*apart, prior=0.5),
        ],
    }
    # One case a line.
    parts = [
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]"
        for name, cases in oracle.items()
    ]
    OUT.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
