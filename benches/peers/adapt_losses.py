#!/usr/bin/env python3
"""What each loss, and each step before it, is worth as a recipe of `matchpoint adapt`.

adapt_losses.py VECTORS.npy LABELS.csv [--column class] [--split calib] [--only PATTERN]

Row i of the list belongs to vector i. Labels are cut into three folds, twice; a head is fitted to two folds
and measured on all pairs of pictures of the third. Every variant starts from mixed whitening and is trained
by Adam as crates/adapt/src/training.rs does it, so that only the variant differs. Beside each figure is the
95 % interval of its difference from the first variant, over labels drawn again. docs/adapt.md has the table
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
    barlow: float = 0.0
    rank: int = 0
    layers: int = 1
    equiangular: bool = False


def variants() -> list[Variant]:
    """All that were compared."""
    losses = {
        "supervised contrastive": "supcon",
        "multi-similarity": "multi",
        "proxy anchor": "anchor",
        "decoupled softmax": "decoupled softmax",
        "decoupled contrastive": "decoupled",
        "contrastive .9/.4": "contrastive",
        "SNR contrastive": "snr",
    }
    alone = [Variant(name, softmax=0, tcm=0, other=other) for name, other in losses.items()]
    with_tcm = [Variant(f"{name} + TCM", softmax=0, other=other) for name, other in losses.items()]
    options = {
        "mixup of embeddings": Variant("", other="mixup"),
        "noise .25": Variant("", noise=0.25),
        "decorrelation (VICReg) .1": Variant("", decorrelate=0.1),
        "decorrelation (Barlow) .1": Variant("", barlow=0.1),
        "pulled to the start (L2-SP) .02": Variant("", to_start=0.02),
        "low-rank residual (64)": Variant("", rank=64),
        "two layers, as a residual (512)": Variant("", layers=2),
        "equiangular prototypes": Variant("", equiangular=True),
    }
    return [
        Variant("softmax .1 + TCM of roots"),
        Variant("whitening, components as they are", power=1, shares=(0.5, 0.5, 1.0), steps=0),
        Variant("whitening of roots", shares=(0.5, 0.5, 1.0), steps=0),
        Variant("softmax .15 + TCM, components as they are", power=1, temperature=0.15),
        Variant("softmax .1 + TCM, components as they are", power=1),
        Variant("the same of x^.75", power=0.75),
        Variant("the same of x^.25", power=0.25),
        Variant("softmax .1 alone", tcm=0),
        Variant("TCM alone", softmax=0),
        *alone,
        *with_tcm,
        *[Variant(f"temperature {t}", temperature=t) for t in (0.07, 0.15, 0.2)],
        Variant("TCM twice", tcm=2.0),
        Variant("margins .9/.5", margins=(0.9, 0.5)),
        *[by._replace(name=name) for name, by in options.items()],
        *[by._replace(name=f"{name}, no TCM", tcm=0) for name, by in options.items()],
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
    if kind == "decoupled softmax":
        far = jax.nn.logsumexp(jnp.where(same, -1e9, cosines / 0.1), axis=1)
        lost = jnp.logaddexp(cosines / 0.1, far[:, None]) - cosines / 0.1
        return jnp.mean(jnp.where(mated, lost, 0).sum(1) / jnp.maximum(count, 1))
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


def through(parameters: dict, rows: jax.Array) -> jax.Array:
    """The map that is trained: a whole one, or the identity and two others, perhaps bent between them."""
    if "map" in parameters:
        return rows @ parameters["map"].T
    narrow = rows @ parameters["down"].T
    if "bend" in parameters:
        narrow = jax.nn.relu(narrow + parameters["bend"])
    return rows + narrow @ parameters["up"].T


def barlow(units: jax.Array, mated: jax.Array) -> jax.Array:
    """How far components of two pictures of a label are from one another's, and alike to others."""
    scaled = (units - units.mean(0)) / jnp.maximum(units.std(0), 1e-6)
    shared = scaled.T @ scaled[jnp.argmax(mated, axis=1)] / len(units)
    own = jnp.diag(shared)
    return (((1 - own) ** 2).sum() + 0.005 * ((shared**2).sum() - (own**2).sum())) / len(own)


def equiangular(means: np.ndarray) -> np.ndarray:
    """Directions that are all equally far apart (a simplex), turned to where the labels' means are."""
    count, side = means.shape
    simplex = np.zeros((count, side))
    simplex[:, : min(count, side)] = (np.eye(count) - 1 / count)[:, : min(count, side)]
    left, _, right = np.linalg.svd(simplex.T @ unit(means))
    return unit(simplex @ left @ right)


def loss_of(by: Variant, parameters: dict, rows: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of a batch."""
    mapped = through(parameters, rows)
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
    if by.barlow:
        loss += by.barlow * barlow(units, mated)
    if by.to_start:
        matrix = parameters["map"]
        loss += by.to_start * ((matrix - jnp.eye(len(matrix))) ** 2).sum()
    return loss


def train(rows: np.ndarray, labels: np.ndarray, by: Variant, seed: int) -> dict:
    """The trained continuation of a map, from the identity on."""
    numbers = np.unique(labels, return_inverse=True)[1]
    of_label = [np.flatnonzero(numbers == label) for label in range(numbers.max() + 1)]
    means, side = np.stack([rows[some].mean(0) for some in of_label]), rows.shape[1]
    parameters = {"proxies": jnp.asarray(equiangular(means) if by.equiangular else means, jnp.float32)}
    if by.rank or by.layers == 2:
        rank = by.rank or side
        narrow = np.random.default_rng(seed).standard_normal((rank, side)) / np.sqrt(side)
        parameters |= {"up": jnp.zeros((side, rank)), "down": jnp.asarray(narrow, jnp.float32)}
        if by.layers == 2:
            parameters["bend"] = jnp.zeros(rank)
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
            later.append(state[0])
    return mean_of(later or [state[0]])


def mean_of(some: list[dict]) -> dict:
    """The mean of each parameter."""
    return jax.tree.map(
        lambda *values: np.mean([np.asarray(value, np.float64) for value in values], 0), *some
    )


def powers(rows: np.ndarray, power: float) -> np.ndarray:
    """Each component's power under its sign, at unit length."""
    return unit(np.sign(rows) * np.abs(rows) ** power)


BINS, REPLICATES = 4000, 400


class Evidence:
    """All that pairs of pictures say: rows of similarities search among columns, but for their own."""

    def __init__(self, similar: np.ndarray, labels: np.ndarray) -> None:
        """Of the similarity of each picture to each."""
        self.labels, self.far_apart = labels, 1 - similar
        np.fill_diagonal(self.far_apart, np.inf)
        self.known, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
        paired = counts[numbers] > 1
        found = (labels[self.far_apart.argmin(1)] == labels) & paired
        self.searches = np.bincount(numbers[paired], minlength=len(counts))
        self.found = np.bincount(numbers[found], minlength=len(counts))
        same = labels[:, None] == labels[None]
        bins = np.clip(np.nan_to_num(self.far_apart * (BINS / 2), posinf=BINS), 0, BINS).astype(np.int64)

        def pairs(which: np.ndarray, side: int) -> np.ndarray:
            """How many pairs with a picture of each label are at most so far apart."""
            where = np.nonzero(which & (bins < BINS))
            at = numbers[where[side]] * BINS + bins[where]
            return (
                np.bincount(at, minlength=len(counts) * BINS).reshape(-1, BINS).cumsum(1).astype(np.float64)
            )

        self.mated = pairs(same, 0)
        self.others = (pairs(~same, 0) + pairs(~same, 1)) / 2
        found, spared = self.mated / np.maximum(self.mated[:, -1:], 1), 1 - self.others / self.others[:, -1:]
        self.served = 2 * found * spared / np.maximum(found + spared, 1e-30)

    def figures(self, weights: np.ndarray) -> np.ndarray:
        """Recall@1, EER, FRR at FAR 1e-2 and 1e-3, OPIS, for each row of weights of the labels."""
        mated = weights @ self.mated
        # A pair of labels counts by the sum of both, less one, which is nearly their product.
        others = np.maximum(2 * (weights @ self.others) - self.others.sum(0), 0)
        fars, frrs = np.maximum.accumulate(others, 1) / others[:, -1:], 1 - mated / mated[:, -1:]
        paired = (self.mated[:, -1] > 0) * weights
        paired /= paired.sum(1, keepdims=True)
        spread = paired @ self.served**2 - (paired @ self.served) ** 2
        recall = (weights @ self.found) / (weights @ self.searches)
        rows = []
        for far, frr, spread_of, recalled in zip(fars, frrs, spread, recall, strict=True):
            place = int(np.argmax(frr <= far))
            low, at, high = np.searchsorted(far, [1e-3, 1e-2, 1e-1])
            opis = spread_of[low : high + 1].mean()
            rows.append([recalled, (far[place] + frr[place]) / 2, frr[at], frr[low], opis])
        return np.array(rows)


def figures(found: list[Evidence], labels: int, replicates: int = 0) -> np.ndarray:
    """The mean of the figures of some folds; or for labels drawn again, with the same draws each time."""
    weights = np.ones((1, labels))
    if replicates:
        drawn = np.random.default_rng(0).integers(0, labels, (replicates, labels))
        weights = np.array([np.bincount(row, minlength=labels) for row in drawn], np.float64)
    return np.mean([one.figures(weights[:, one.known]) for one in found], 0)


def line(name: str, found: list[Evidence], base: list[Evidence], labels: int) -> str:
    """The figures of a variant, each with the 95 % interval of its difference from those of another one."""
    values = figures(found, labels)[0]
    if found is base:
        return f"{name:44}" + "".join(f" {value:.4f}" for value in values)
    differences = figures(found, labels, REPLICATES) - figures(base, labels, REPLICATES)
    ends = np.percentile(differences, [2.5, 97.5], axis=0)
    cells = [f" {value:.4f} [{low:+.4f} {high:+.4f}]" for value, low, high in zip(values, *ends, strict=True)]
    return f"{name:44}" + "".join(cells)


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
    base: list[Evidence] = []
    whitened: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
    for by in variants():
        if base and not re.search(asked.only, by.name):
            continue
        seen = powers(rows, by.power)
        found = []
        for number, out in enumerate(held_out):
            key = number, by.power, by.shares, by.components
            if key not in whitened:
                whitened[key] = whiten(seen[~out], labels[~out], by)
            found.append(measured(by, seen, labels, out, whitened[key]))
        base = base or found
        print(line(by.name, found, base, len(order)), flush=True)


def measured(
    by: Variant, seen: np.ndarray, labels: np.ndarray, out: np.ndarray, start: tuple[np.ndarray, np.ndarray]
) -> Evidence:
    """What a head of all others is worth on those that are held out."""
    fit, known, (centre, head) = seen[~out], labels[~out], start
    behind = (seen[out] - centre) @ head.T
    if by.steps:
        mapped = ((fit - centre) @ head.T).astype(np.float32)
        trained = mean_of([train(mapped, known, by, seed) for seed in range(by.seeds)])
        behind = np.asarray(through(trained, behind))
    behind = unit(behind)
    return Evidence(behind @ behind.T, labels[out])


if __name__ == "__main__":
    main()
