#!/usr/bin/env python3
"""What each loss, and each step before it, is worth as a recipe of `matchpoint adapt`.

adapt_losses.py VECTORS.npy LABELS.csv [--column class] [--split calib] [--only PATTERN]

Row i of the list belongs to vector i. Labels are cut into three folds, twice; a head is fitted to two folds
and measured on all pairs of pictures of the third. Every variant starts from mixed whitening and is trained
by Adam as crates/adapt/src/training.rs does it, so that only the variant differs. docs/adapt.md has the table
of the emoji set. Needs numpy, scipy and jax; some minutes on one core.
"""

import argparse
import csv
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

COMPONENTS, RATE, PROXIES_FASTER = 512, 5e-4, 4.0


class Variant(NamedTuple):
    """A head: what is whitened, what is trained, and how."""

    name: str
    power: float = 0.5
    shares: tuple[float, float, float] = (0.75, 0.25, 2.0)
    components: int = COMPONENTS
    softmax: float = 1.0
    temperature: float = 0.1
    tcm: float = 1.0
    margins: tuple[float, float] = (0.9, 0.3)
    other: str = ""
    steps: int = 150
    rate: float = RATE
    labels: int = 100
    each: int = 4
    seeds: int = 1
    cosine: bool = True
    averaged: bool = False
    noise: float = 0.0
    decorrelate: float = 0.0
    to_start: float = 0.0
    rank: int = 0
    equiangular: bool = False


def variants() -> list[Variant]:
    """All that were compared."""
    losses = {
        "supervised contrastive": "supcon",
        "multi-similarity": "multi",
        "proxy anchor": "anchor",
        "decoupled contrastive": "decoupled",
        "contrastive .9/.4": "contrastive",
        "SNR contrastive": "snr",
    }
    alone = [Variant(name, softmax=0, tcm=0, other=other) for name, other in losses.items()]
    with_tcm = [Variant(f"{name} + TCM", softmax=0, other=other) for name, other in losses.items()]
    return [
        Variant("whitening, components as they are", power=1, shares=(0.5, 0.5, 1.0), steps=0),
        Variant("whitening of roots", shares=(0.5, 0.5, 1.0), steps=0),
        Variant("softmax .15 + TCM, components as they are", power=1, temperature=0.15),
        Variant("softmax .1 + TCM, components as they are", power=1),
        Variant("softmax .1 + TCM of roots"),
        Variant("the same of x^.75", power=0.75),
        Variant("the same of x^.25", power=0.25),
        Variant("softmax .1 alone", tcm=0),
        Variant("TCM alone", softmax=0),
        *alone,
        *with_tcm,
        *[Variant(f"temperature {t}", temperature=t) for t in (0.07, 0.15, 0.2)],
        Variant("TCM twice", tcm=2.0),
        Variant("margins .9/.5", margins=(0.9, 0.5)),
        Variant("mixup of embeddings", other="mixup"),
        Variant("noise .25", noise=0.25),
        Variant("decorrelation (VICReg) .1", decorrelate=0.1),
        Variant("pulled to the start (L2-SP) .02", to_start=0.02),
        Variant("low-rank residual (64)", rank=64),
        Variant("equiangular prototypes", equiangular=True),
        Variant("mean of 5 seeds", seeds=5),
        Variant("no cosine, mean of the last 75 steps (SWA)", cosine=False, averaged=True),
        Variant("twice the rate", rate=1e-3),
        Variant("300 steps", steps=300),
        Variant("200 labels a batch", labels=200),
        Variant("within .9, total .1", shares=(0.9, 0.1, 2.0)),
        Variant("1,280 components", components=1280),
        Variant("256 components", components=256),
        Variant("128 components", components=128),
    ]


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length one."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def whiten(rows: np.ndarray, labels: np.ndarray, by: Variant) -> tuple[np.ndarray, np.ndarray]:
    """The centre and the map of mixed whitening."""
    side, (within, total, identity) = rows.shape[1], by.shares
    centre = rows.mean(0)
    wide = rows - centre
    scatter = wide.T @ wide
    _, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), side))
    np.add.at(means, numbers, wide)
    means /= np.sqrt(counts)[:, None]
    inner = scatter - means.T @ means
    mixed = within * inner / np.trace(inner) + total * scatter / np.trace(scatter)
    mixed += identity * np.eye(side) / side
    few = min(by.components, side)
    axes = scipy.linalg.eigh(scatter, subset_by_index=[side - few, side - 1])[1]
    head = np.linalg.solve(np.linalg.cholesky(axes.T @ mixed @ axes), axes.T)
    return centre, head / np.linalg.norm(wide @ head.T, axis=1).mean()


def mean_where(values: jax.Array, where: jax.Array) -> jax.Array:
    """The mean of some values; zero of none."""
    return jnp.where(where, values, 0).sum() / jnp.maximum(where.sum(), 1)


def pair_loss(kind: str, cosines: jax.Array, same: jax.Array, mated: jax.Array) -> jax.Array:
    """A loss over the pairs of a batch."""
    other, count = ~same, mated.sum(1)
    if kind == "supcon":
        logs = jax.nn.log_softmax(jnp.where(jnp.eye(len(same), dtype=bool), -1e9, cosines / 0.1))
        return -jnp.mean(jnp.where(mated, logs, 0).sum(1) / jnp.maximum(count, 1))
    if kind == "multi":
        near = jnp.where(mated, jnp.exp(-2 * (cosines - 0.5)), 0).sum(1)
        far = jnp.where(other, jnp.exp(20 * (cosines - 0.5)), 0).sum(1)
        return jnp.mean(jnp.log1p(near) / 2 + jnp.log1p(far) / 20)
    if kind == "decoupled":
        far = jax.nn.logsumexp(jnp.where(same, -1e9, cosines / 0.1), axis=1)
        own = jnp.where(mated, cosines / 0.1, 0).sum(1)
        return jnp.mean((far * count - own) / jnp.maximum(count, 1))
    near = mean_where(jax.nn.relu(0.9 - cosines), mated)
    return near + mean_where(jax.nn.relu(cosines - 0.4), other)


def other_loss(by: Variant, batch: dict[str, jax.Array]) -> jax.Array:
    """The loss that a variant adds."""
    units, proxies, labels = batch["units"], batch["proxies"], batch["labels"]
    if by.other == "anchor":
        cosines = units @ proxies.T
        own = jax.nn.one_hot(labels, len(proxies), dtype=bool)
        near = jnp.log1p(jnp.where(own, jnp.exp(-16 * (cosines - 0.1)), 0).sum(0))
        far = jnp.log1p(jnp.where(own, 0, jnp.exp(16 * (cosines + 0.1))).sum(0))
        return mean_where(near, own.any(0)) + far.mean()
    if by.other == "snr":
        # The variance of each difference, by the variances and the covariance of the two.
        spread = batch["mapped"] - batch["mapped"].mean(1, keepdims=True)
        shared = spread @ spread.T / spread.shape[1]
        own = jnp.diag(shared)
        noise = (own[:, None] + own[None] - 2 * shared) / own[:, None]
        far = mean_where(jax.nn.relu(1.5 - noise), ~batch["same"])
        return mean_where(noise, batch["mated"]) + far
    if by.other == "mixup":
        mixed = 0.5 * units + 0.5 * jnp.roll(units, by.each, 0)
        mixed /= jnp.maximum(jnp.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
        logs = jax.nn.log_softmax(mixed @ proxies.T / by.temperature)
        pick = jnp.arange(len(labels))
        return -0.4 * jnp.mean(logs[pick, labels] + logs[pick, jnp.roll(labels, by.each)]) / 2
    return pair_loss(by.other, batch["cosines"], batch["same"], batch["mated"])


def matrix_of(parameters: dict) -> jax.Array:
    """The map that is trained: a whole one, or the identity and a product of two narrow ones."""
    if "map" in parameters:
        return parameters["map"]
    return jnp.eye(len(parameters["up"])) + parameters["up"] @ parameters["down"]


def equiangular(means: np.ndarray) -> np.ndarray:
    """Directions that are all equally far apart (a simplex), turned to where the labels' means are."""
    count, side = means.shape
    simplex = np.zeros((count, side))
    simplex[:, : min(count, side)] = (np.eye(count) - 1 / count)[:, : min(count, side)]
    left, _, right = np.linalg.svd(simplex.T @ unit(means))
    return unit(simplex @ left @ right)


def loss_of(by: Variant, parameters: dict, rows: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of a batch."""
    mapped = rows @ matrix_of(parameters).T
    units = mapped / jnp.maximum(jnp.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)
    lengths = jnp.maximum(jnp.linalg.norm(parameters["proxies"], axis=1, keepdims=True), 1e-12)
    proxies = parameters["proxies"] / lengths
    cosines, same = units @ units.T, labels[:, None] == labels[None]
    mated = same & ~jnp.eye(len(labels), dtype=bool)
    loss = jnp.float32(0)
    if by.softmax:
        logs = jax.nn.log_softmax(units @ proxies.T / by.temperature)
        loss -= by.softmax * jnp.take_along_axis(logs, labels[:, None], 1).mean()
    if by.tcm:
        near, far = by.margins
        pulled = mean_where(near - cosines, mated & (cosines <= near))
        loss += by.tcm * (pulled + mean_where(cosines - far, ~same & (far <= cosines)))
    if by.other:
        batch = {"units": units, "proxies": proxies, "labels": labels, "mapped": mapped}
        loss += other_loss(by, batch | {"cosines": cosines, "same": same, "mated": mated})
    if by.decorrelate:
        spread = units - units.mean(0)
        shared = spread.T @ spread * units.shape[1] / len(units)
        away = (shared**2).sum() - (jnp.diag(shared) ** 2).sum()
        loss += by.decorrelate * away / units.shape[1]
    if by.to_start:
        matrix = matrix_of(parameters)
        loss += by.to_start * ((matrix - jnp.eye(len(matrix))) ** 2).sum()
    return loss


def train(rows: np.ndarray, labels: np.ndarray, by: Variant, seed: int) -> np.ndarray:
    """The trained continuation of a map, from the identity on."""
    numbers = np.unique(labels, return_inverse=True)[1]
    of_label = [np.flatnonzero(numbers == label) for label in range(numbers.max() + 1)]
    means, side = np.stack([rows[some].mean(0) for some in of_label]), rows.shape[1]
    parameters = {"proxies": jnp.asarray(equiangular(means) if by.equiangular else means, jnp.float32)}
    if by.rank:
        narrow = np.random.default_rng(seed).standard_normal((by.rank, side)) / np.sqrt(side)
        parameters |= {"up": jnp.zeros((side, by.rank)), "down": jnp.asarray(narrow, jnp.float32)}
    else:
        parameters["map"] = jnp.eye(side)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    speed = dict.fromkeys(parameters, 1.0) | {"proxies": 0.0 if by.equiangular else PROXIES_FASTER}

    @jax.jit
    def step(state: tuple, batch: jax.Array, of: jax.Array, number: float, rate: float) -> tuple:
        parameters, first, second = state
        slope = jax.grad(lambda now: loss_of(by, now, batch, of))(parameters)
        first = jax.tree.map(lambda mean, new: 0.9 * mean + 0.1 * new, first, slope)
        second = jax.tree.map(lambda mean, new: 0.999 * mean + 0.001 * new**2, second, slope)
        one, two = 1 - 0.9**number, 1 - 0.999**number
        moved = {
            key: value - rate * speed[key] * (first[key] / one) / (jnp.sqrt(second[key] / two) + 1e-8)
            for key, value in parameters.items()
        }
        return moved, first, second

    draws = np.random.default_rng(seed)
    state, later = (parameters, zeros, zeros), []
    for number in range(by.steps):
        chosen = draws.permutation(len(of_label))[: by.labels]
        picked = [draws.permutation(of_label[label])[: by.each] for label in chosen]
        index = np.concatenate(picked)
        # Batches of one shape are compiled once: labels of few rows are made up by any others.
        missing = min(by.labels, len(of_label)) * by.each - len(index)
        index = np.concatenate([index, draws.choice(len(rows), max(missing, 0))])
        batch = rows[index]
        if by.noise:
            batch = batch + by.noise * draws.standard_normal(batch.shape) / np.sqrt(batch.shape[1])
        fallen = 0.5 + 0.5 * np.cos(np.pi * number / by.steps) if by.cosine else 1.0
        rate = by.rate * min(1.0, (number + 1) / 10) * fallen
        now = jnp.asarray(batch, jnp.float32), jnp.asarray(numbers[index])
        state = step(state, *now, number + 1.0, rate)
        if by.averaged and by.steps // 2 <= number:
            later.append(np.asarray(matrix_of(state[0]), np.float64))
    return np.mean(later, 0) if later else np.asarray(matrix_of(state[0]), np.float64)


def powers(rows: np.ndarray, power: float) -> np.ndarray:
    """Each component's power under its sign, at unit length."""
    return unit(np.sign(rows) * np.abs(rows) ** power)


def figures(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Recall@1, EER, FRR at FAR 1e-2 and 1e-3, OPIS, of all pairs."""
    far_apart = 1 - unit(rows) @ unit(rows).T
    np.fill_diagonal(far_apart, np.inf)
    known, counts = np.unique(labels, return_counts=True)
    paired = np.isin(labels, known[1 < counts])
    recall = (labels[far_apart.argmin(1)] == labels)[paired].mean()
    upper = np.triu_indices(len(labels), 1)
    same = labels[upper[0]] == labels[upper[1]]
    mated, others = np.sort(far_apart[upper][same]), np.sort(far_apart[upper][~same])

    def at(far: float) -> float:
        return float(others[int(far * len(others))])

    cuts = np.unique(np.concatenate([mated, others[:: max(1, len(others) // 5000)]]))
    far = np.searchsorted(others, cuts, "right") / len(others)
    frr = 1 - np.searchsorted(mated, cuts, "right") / len(mated)
    place = int(np.argmax(frr <= far))
    rejected = [(mated > at(rate)).mean() for rate in (1e-2, 1e-3)]
    band, served = np.linspace(at(1e-3), at(1e-1), 200), []
    for label in known[1 < counts]:
        own = labels == label
        within = far_apart[np.ix_(own, own)]
        near = np.sort(within[np.isfinite(within)])
        away = np.sort(far_apart[np.ix_(own, ~own)].ravel())
        found = np.searchsorted(near, band, "right") / len(near)
        spared = 1 - np.searchsorted(away, band, "right") / len(away)
        served.append(2 * found * spared / np.maximum(found + spared, 1e-30))
    opis = np.var(np.array(served), axis=0).mean()
    return np.array([recall, (far[place] + frr[place]) / 2, *rejected, opis])


def main() -> None:
    """Prints a line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vectors")
    parser.add_argument("labels")
    parser.add_argument("--column", default="label")
    parser.add_argument("--split")
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    with open(asked.labels, encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    kept = [row for row, one in enumerate(listed) if asked.split in (None, one.get("split"))]
    rows = unit(np.load(asked.vectors)[kept].astype(np.float64))
    labels = np.unique([listed[row][asked.column] for row in kept], return_inverse=True)[1]
    held_out = []
    for seed in (1, 2):
        order = np.random.default_rng(seed).permutation(labels.max() + 1)
        held_out += [np.isin(labels, order[fold::3]) for fold in range(3)]
    print(f"{len(order)} labels, {len(rows)} vectors; Recall@1, EER, FRR at 1e-2, at 1e-3, OPIS")
    for by in variants():
        if not re.search(asked.only, by.name):
            continue
        measured, seen = [], powers(rows, by.power)
        for out in held_out:
            fit, known = seen[~out], labels[~out]
            centre, head = whiten(fit, known, by)
            if by.steps:
                mapped = ((fit - centre) @ head.T).astype(np.float32)
                trained = [train(mapped, known, by, seed) for seed in range(by.seeds)]
                head = np.mean(trained, 0) @ head
            measured.append(figures((seen[out] - centre) @ head.T, labels[out]))
        print(f"{by.name:44}", *(f"{value:.4f}" for value in np.mean(measured, 0)), flush=True)


if __name__ == "__main__":
    main()
