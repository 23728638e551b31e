#!/usr/bin/env python3
"""How alike pictures that show little are to a model: cosines by contrast, and of plain colours.

Embeds photographs at falling contrast, plain colours and smooth gradients with the shipped model, by
its reference pipeline (Pillow, onnxruntime), and prints the cosines of all pairs. A service that
decides on such pictures accepts strangers: the limit in crates/embed/src/embedder.rs rests on this table.
"""

import argparse
import platform
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image, ImageFilter
from precision import session, tensor

Array = npt.NDArray[Any]
SIDE = 224
REFUSED = 8  # CONTRAST_TOO_LOW in crates/embed/src/embedder.rs


def embed(model: onnxruntime.InferenceSession, images: list[Image.Image], folder: Path) -> Array:
    """Unit-length embeddings; of a picture for which the model gives only zeros, zeros."""
    rows = []
    for image in images:
        image.save(folder / "picture.png")
        row = model.run(None, {"pixels": tensor(folder / "picture.png")})[0][0].astype(np.float64)
        rows.append(row / max(float(np.linalg.norm(row)), 1e-12))
    return np.stack(rows)


def at_contrast(image: Image.Image, levels: float) -> Image.Image:
    """The same picture with its grey levels brought into a range around the middle."""
    values = np.asarray(image, dtype=np.float64)
    least, most = values.min(), values.max()
    scaled = 127 + levels * ((values - least) / (most - least) - 0.5)
    return Image.fromarray(np.round(scaled).astype(np.uint8))


def contrast(image: Image.Image) -> int:
    """As crates/embed/src/embedder.rs has it: the largest difference of neighbours, and of pixels a 16th of a side apart."""
    values = np.asarray(image).astype(int)
    across = [np.abs(values[:, step:] - values[:, :-step]).max() for step in (1, values.shape[1] // 16)]
    down = [np.abs(values[step:] - values[:-step]).max() for step in (1, values.shape[0] // 16)]
    return int(max(across + down))


def gradient(colour: Array, levels: float, angle: float) -> Image.Image:
    """A colour that becomes brighter by so many levels from one side to the other."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    slope = np.cos(angle) * x + np.sin(angle) * y
    slope = (slope - slope.min()) / (slope.max() - slope.min())
    values = colour * (1 - levels / 255) + levels * slope[..., None]
    return Image.fromarray(values.astype(np.uint8))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/efficientnet-lite0/model.onnx"))
    parser.add_argument("--photos", type=Path, default=Path("examples/photos/images"))
    parser.add_argument("--scratch", type=Path, default=Path("/tmp"))
    flags = parser.parse_args()
    model = session(flags.model)
    random = np.random.default_rng(1)
    paths = sorted(flags.photos.rglob("*ref*.jpg"))[:30]
    photos = [Image.open(path).convert("RGB").resize((SIDE, SIDE)) for path in paths]
    colours = random.integers(0, 256, (20, 3)).astype(np.float64)
    print(f"{platform.machine()}, onnxruntime {onnxruntime.__version__}, {len(photos)} photographs, 20 colours")
    print("| pictures | median cosine | 90th percentile | share at .65 or more | contrast, median | refused |")
    print("| --- | --- | --- | --- | --- | --- |")
    sets: list[tuple[str, list[Image.Image]]] = [("photographs", photos)]
    for levels in (64, 32, 16, 8, 6, 4, 2):
        sets.append((f"the same at a contrast of {levels} levels", [at_contrast(one, levels) for one in photos]))
    plain = [Image.new("RGB", (SIDE, SIDE), tuple(int(c) for c in colour)) for colour in colours]
    sets.append(("plain colours", plain))
    for radius in (4, 16):
        blurred = [one.filter(ImageFilter.GaussianBlur(radius)) for one in photos]
        sets.append((f"photographs blurred, radius {radius}", blurred))
    for levels in (8, 32, 128, 255):
        angles = random.uniform(0, 2 * np.pi, len(colours))
        smooth = [gradient(colour, levels, angle) for colour, angle in zip(colours, angles, strict=True)]
        sets.append((f"smooth gradients over {levels} levels", smooth))
    for name, images in sets:
        vectors = embed(model, images, flags.scratch)
        pairs = (vectors @ vectors.T)[np.triu_indices(len(images), 1)]
        tenth, share = np.quantile(pairs, 0.9), (pairs >= 0.65).mean()
        contrasts = np.array([contrast(image) for image in images])
        scores = f"{np.median(pairs):.3f} | {tenth:.3f} | {share:.2f}"
        print(f"| {name} | {scores} | {np.median(contrasts):.0f} | {(contrasts <= REFUSED).mean():.2f} |")


if __name__ == "__main__":
    main()
