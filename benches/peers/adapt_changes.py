#!/usr/bin/env python3
"""What more than a head would be worth to `matchpoint adapt`: views, pooling, a second layer, the last block.

adapt_changes.py MODEL.onnx LABELS.csv KEPT.npz [--column class] [--split calib] [--only PATTERN] [--power
.5]

The pictures (column `path`, beside the list) are embedded once, and what came out is kept in KEPT.npz. Each
change is made alone; a head (softmax and TCM, as in adapt_losses.py) is fitted behind it to two folds of
labels, and measured on all pairs of the third. Beside each figure is the 95 % interval of its difference
from the first row, or from the row that is named, over labels drawn again. docs/adapt.md has the table.
Needs numpy, scipy, jax, onnx, onnxruntime and Pillow.
"""

import argparse
import csv
import re
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from adapt_losses import Evidence, Variant, line, loss_of, powers, through, train, unit, whiten
from PIL import Image

HEAD = Variant("")
# Where layers are tuned: labels of a batch, and the rate as a share of the size of a layer's weights.
BATCH, RATE_OF_LAYERS = 50, 2e-3
# The layers of each change that tunes some, as a pattern of the names of their weights.
TUNED = {"last convolution tuned too": "head", "last block tuned too": "head|b15"}
LAST_MAP, BEFORE_LAST_BLOCK, EARLIER = "head.a", "b14.res", "b10.res"
VIEWS = ("mirror", "crop .9", "crop .8", "wider")


def picture(path: Path) -> Image.Image:
    """A picture over white."""
    image = Image.open(path)
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255,) * 4), image)
    return image.convert("RGB")


def views(image: Image.Image) -> dict[str, Image.Image]:
    """The picture, mirrored, cut, and seen smaller on its mean colour."""
    width, height = image.size
    seen = {"plain": image, "mirror": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)}
    for share in (0.9, 0.8):
        off, down = width * (1 - share) / 2, height * (1 - share) / 2
        seen[f"crop {share:.1f}".replace("0.", ".")] = image.crop(
            (round(off), round(down), round(width - off), round(height - down))
        )
    mean = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    seen["wider"] = Image.new("RGB", (round(width * 1.2), round(height * 1.2)), mean)
    seen["wider"].paste(image, (round(width * 0.1), round(height * 0.1)))
    return seen


def embed(model: str, paths: list[Path]) -> dict[str, np.ndarray]:
    """Each view's embedding, and other poolings and layers of the picture itself."""
    network = onnx.load(model)
    taken = (LAST_MAP, BEFORE_LAST_BLOCK, EARLIER)
    for name in taken:
        network.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        network.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rows: dict[str, list[np.ndarray]] = {}
    for path in paths:
        for view, image in views(picture(path)).items():
            pixels = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR), np.float32)
            pixels = ((pixels - 127) / 128).transpose(2, 0, 1)[None]
            embedding, last, before, earlier = session.run(["embedding", *taken], {"pixels": pixels})
            rows.setdefault(view, []).append(embedding[0])
            if view != "plain":
                continue
            last = last[0].reshape(last.shape[1], -1)
            for power in (2, 3, 4):
                rows.setdefault(f"gem {power}", []).append(
                    (np.maximum(last, 1e-6) ** power).mean(1) ** (1 / power)
                )
            rows.setdefault("greatest", []).append(last.max(1))
            rows.setdefault("layer 14", []).append(before[0].mean((1, 2)))
            rows.setdefault("layer 10", []).append(earlier[0].mean((1, 2)))
            rows.setdefault("maps", []).append(before[0].astype(np.float16))
    return {name: np.array(some) for name, some in rows.items()}


Changed = tuple[np.ndarray, np.ndarray, np.ndarray]


def changes(kept: dict[str, np.ndarray], power: float) -> dict[str, Callable[[], Changed]]:
    """What each change gives for the fit, for queries and for the gallery."""

    def mean(names: tuple[str, ...]) -> np.ndarray:
        return powers(np.mean([unit(kept[name].astype(np.float64)) for name in names], 0), power)

    def alike(names: tuple[str, ...]) -> Callable[[], Changed]:
        return lambda: (mean(names),) * 3

    def enrolled(names: tuple[str, ...]) -> Callable[[], Changed]:
        return lambda: (mean(("plain",)), mean(("plain",)), mean(names))

    def beside(*names: str) -> Callable[[], Changed]:
        return lambda: (
            (powers(np.hstack([unit(kept[name].astype(np.float64)) for name in names]), power),) * 3
        )

    five = ("plain", *VIEWS)
    return {
        "none": alike(("plain",)),
        "mirror image averaged, gallery and search": alike(("plain", "mirror")),
        "mirror image averaged, at enrolment": enrolled(("plain", "mirror")),
        "five views averaged, gallery and search": alike(five),
        "five views averaged, at enrolment": enrolled(five),
        "GeM pooling, power 2": alike(("gem 2",)),
        "GeM pooling, power 3": alike(("gem 3",)),
        "GeM pooling, power 4": alike(("gem 4",)),
        "greatest in place of the mean": alike(("greatest",)),
        "GeM 3 beside the mean": beside("plain", "gem 3"),
        "layer 14 beside the last": beside("plain", "layer 14"),
        "layer 10 beside the last": beside("plain", "layer 10"),
    }


def behind(
    changed: Changed, labels: np.ndarray, out: np.ndarray, by: Variant = HEAD
) -> tuple[np.ndarray, np.ndarray]:
    """The queries and the gallery that are held out, behind a head of the others."""
    fit, known = changed[0][~out], labels[~out]
    centre, head = whiten(fit, known, by)
    trained = train(((fit - centre) @ head.T).astype(np.float32), known, by, 0)
    return tuple(unit(np.asarray(through(trained, (rows[out] - centre) @ head.T))) for rows in changed[1:])


def of_labels(similar: np.ndarray, units: np.ndarray, labels: np.ndarray, best: bool) -> np.ndarray:
    """The similarity of each picture to the label of each: to the best of its others, or to their mean."""
    wide = np.array(similar)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if best:
            scores = np.repeat(similar[:, own].max(1)[:, None], len(own), 1)
        else:
            scores = np.repeat((units @ unit(units[own].sum(0)[None])[0])[:, None], len(own), 1)
        for one in own:
            others = own[own != one]
            if len(others):
                mean = unit(units[others].sum(0)[None])[0]
                scores[one] = similar[one, others].max() if best else units[one] @ mean
        wide[:, own] = scores
    return wide


def bent(values: jax.Array) -> jax.Array:
    """ReLU6."""
    return jnp.clip(values, 0, 6)


def block(weights: dict[str, jax.Array], maps: jax.Array) -> jax.Array:
    """The last block of the network."""
    values = bent(maps @ weights["b15.exp.w"] + weights["b15.exp.b"])
    side = values.shape[1]
    padded = jnp.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = weights["b15.dw.w"]
    moved = sum(
        padded[:, down : down + side, right : right + side] * kernel[down, right]
        for down in range(3)
        for right in range(3)
    )
    return bent(moved + weights["b15.dw.b"]) @ weights["b15.proj.w"] + weights["b15.proj.b"]


def pooled(weights: dict[str, jax.Array], maps: jax.Array, power: float) -> jax.Array:
    """The last convolution, pooled, at unit length, as powers."""
    means = bent(maps @ weights["head.w"] + weights["head.b"]).mean((1, 2))
    return (means / jnp.linalg.norm(means, axis=1, keepdims=True) + 1e-8) ** power


def weights_of(model: str) -> dict[str, jax.Array]:
    """The weights of the last block, the channels last."""
    of = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(model).graph.initializer}
    last = {name: of[name] for name in of if name.startswith(("b15.", "head."))}
    shaped = {
        name: value[:, 0].transpose(1, 2, 0) if name == "b15.dw.w" else value.reshape(value.shape[0], -1).T
        for name, value in last.items()
        if value.ndim > 1
    }
    return {name: jnp.asarray(shaped.get(name, value)) for name, value in last.items()}


def in_pieces(of: Callable[[jax.Array], jax.Array], some: np.ndarray) -> np.ndarray:
    """A function of many maps, of some at a time."""
    one = jax.jit(of)
    cut = [some[at : at + 256] for at in range(0, len(some), 256)]
    return np.concatenate([np.asarray(one(jnp.asarray(values, jnp.float32))) for values in cut])


def tune(start: dict[str, jax.Array], tuned: str, data: tuple, power: float) -> np.ndarray:
    """The pictures that are held out, behind a head that is trained together with layers."""
    maps, labels, out = data
    numbers = np.unique(labels[~out], return_inverse=True)[1]
    deep = "b15" in tuned

    def seen(weights: dict[str, jax.Array], some: jax.Array) -> jax.Array:
        return pooled(weights, block(weights, some) if deep else some, power)

    def features(weights: dict[str, jax.Array], some: np.ndarray) -> np.ndarray:
        return in_pieces(lambda values: seen(weights, values), some).astype(np.float64)

    if not deep:
        maps = in_pieces(lambda values: block(start, values), maps)
    fit_maps, side = maps[~out], HEAD.components
    fit = features(start, fit_maps)
    centre, head = whiten(fit, labels[~out], HEAD)
    mapped = (fit - centre) @ head.T
    means = np.stack([mapped[numbers == label].mean(0) for label in range(numbers.max() + 1)])
    free = {name: value for name, value in start.items() if re.match(tuned, name)}
    parameters = {"map": jnp.eye(side), "proxies": jnp.asarray(means, jnp.float32)} | free
    speed = {"map": HEAD.rate, "proxies": 4 * HEAD.rate} | dict.fromkeys(free, RATE_OF_LAYERS)
    narrow, middle = jnp.asarray(head, jnp.float32), jnp.asarray(centre, jnp.float32)

    def loss(now: dict, batch: jax.Array, of: jax.Array) -> jax.Array:
        rows = seen(start | {name: now[name] for name in free}, batch)
        return loss_of(HEAD, {"map": now["map"], "proxies": now["proxies"]}, (rows - middle) @ narrow.T, of)

    @jax.jit
    def step(state: tuple, batch: jax.Array, of: jax.Array, number: float, fallen: float) -> tuple:
        now, first, second = state
        slope = jax.grad(loss)(now, batch, of)
        first = jax.tree.map(lambda mean, new: 0.9 * mean + 0.1 * new, first, slope)
        second = jax.tree.map(lambda mean, new: 0.999 * mean + 0.001 * new**2, second, slope)
        one, two = 1 - 0.9**number, 1 - 0.999**number
        moved = {
            # A layer's rate is a share of the size of its weights.
            key: value
            - fallen
            * speed[key]
            * (first[key] / one)
            / (jnp.sqrt(second[key] / two) + 1e-8)
            * (1.0 if key in ("map", "proxies") else jnp.sqrt(jnp.mean(start[key] ** 2)))
            for key, value in now.items()
        }
        return moved, first, second

    zeros = jax.tree.map(jnp.zeros_like, parameters)
    state, draws = (parameters, zeros, zeros), np.random.default_rng(0)
    of_label = [np.flatnonzero(numbers == label) for label in range(numbers.max() + 1)]
    for number in range(HEAD.steps):
        chosen = draws.permutation(len(of_label))[:BATCH]
        index = np.concatenate([draws.permutation(of_label[label])[:4] for label in chosen])
        index = np.concatenate(
            [index, draws.choice(len(fit_maps), max(0, min(BATCH, len(of_label)) * 4 - len(index)))]
        )
        fallen = min(1.0, (number + 1) / 10) * (0.5 + 0.5 * np.cos(np.pi * number / HEAD.steps))
        batch = jnp.asarray(fit_maps[index], jnp.float32), jnp.asarray(numbers[index])
        state = step(state, *batch, number + 1.0, fallen)
    done = state[0]
    rows = features(start | {name: done[name] for name in free}, maps[out])
    return unit((rows - centre) @ head.T @ np.asarray(done["map"], np.float64).T)


def main() -> None:
    """Prints a line for each change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("labels", type=Path)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--column", default="label")
    parser.add_argument("--split")
    parser.add_argument("--only", default="")
    parser.add_argument("--power", type=float, default=0.5)
    asked = parser.parse_args()
    with open(asked.labels, encoding="utf-8") as file:
        listed = [one for one in csv.DictReader(file) if asked.split in (None, one.get("split"))]
    if not asked.kept.exists():
        np.savez(asked.kept, **embed(asked.model, [asked.labels.parent / one["path"] for one in listed]))
    with np.load(asked.kept) as file:
        kept = {name: file[name] for name in file.files}
    labels = np.unique([one[asked.column] for one in listed], return_inverse=True)[1]
    order = np.random.default_rng(1).permutation(labels.max() + 1)
    folds = [np.isin(labels, order[fold::3]) for fold in range(3)]
    print(f"{len(order)} labels, {len(labels)} pictures; Recall@1, EER, FRR at 1e-2, at 1e-3, OPIS")

    base: list[Evidence] = []
    units: list[np.ndarray] = []
    for name, change in changes(kept, asked.power).items():
        if base and not re.search(asked.only, name):
            continue
        found = [behind(change(), labels, out) for out in folds]
        measured = [
            Evidence(one @ other.T, labels[out]) for (one, other), out in zip(found, folds, strict=True)
        ]
        base, units = base or measured, units or [one for one, _ in found]
        print(line(name, measured, base, len(order)), flush=True)
    if re.search(asked.only, "label"):
        by = [
            [
                Evidence(of_labels(one @ one.T, one, labels[out], best), labels[out])
                for one, out in zip(units, folds, strict=True)
            ]
            for best in (True, False)
        ]
        print(line("best of a label's pictures", by[0], by[0], len(order)))
        print(line("mean of a label's pictures", by[1], by[0], len(order)), flush=True)
    wanted = [name for name in TUNED if re.search(asked.only, name)]
    if wanted:
        maps, start = kept["maps"].transpose(0, 2, 3, 1), weights_of(asked.model)
        plain = changes(kept, asked.power)["none"]()
        found = [behind(plain, labels, out, HEAD._replace(labels=BATCH)) for out in folds]
        alone = [Evidence(one @ one.T, labels[out]) for (one, _), out in zip(found, folds, strict=True)]
        print(line(f"{BATCH} labels a batch", alone, alone, len(order)), flush=True)
        for name in wanted:
            units = [tune(start, TUNED[name], (maps, labels, out), asked.power) for out in folds]
            measured = [Evidence(one @ one.T, labels[out]) for one, out in zip(units, folds, strict=True)]
            print(line(name, measured, alone, len(order)), flush=True)


if __name__ == "__main__":
    main()
