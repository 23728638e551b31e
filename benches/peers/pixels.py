"""Compares decoding and resizing with Pillow's: how long it takes, and how near it comes.

Needs numpy, Pillow and onnxruntime from PyPI. From the root of the repository:

  python benches/peers/pixels.py --folder /tmp/pixels [--photographs FOLDER]

Speed: files made of a photograph of the sample, enlarged with added noise to three sizes, in each
format; one thread each, fastest of several runs, milliseconds. Nearness: photographs of cameras, as
they are and saved in each format at several sizes; grey levels after the resize to 224 x 224, and
1 - cosine of the embeddings, ours to Pillow's, both by the shipped model. Debian's packages of desktop
backgrounds have some forty photographs of 1 to 24 megapixels.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPH = ROOT / "examples/photos/images/gc_erase_pika/g0_ref.jpg"
MODEL = ROOT / "models/efficientnet-lite0/model.onnx"
SIZES = {"640x480": (640, 480), "1080p": (1920, 1080), "12mp": (4000, 3000)}
SPEED = {"jpg": {"quality": 90}, "png": {}, "webp": {"quality": 90}}
NEARNESS = {
    "420.jpg": {"quality": 85, "subsampling": 2},
    "444.jpg": {"quality": 92, "subsampling": 0},
    "progressive.jpg": {"quality": 85, "progressive": True},
    "grey.jpg": {"quality": 85},
    "rgb.png": {"compress_level": 1},
    "lossy.webp": {"quality": 85},
    "palette.gif": {},
    "rgb.bmp": {},
}
NEARNESS_SIZES = {"160x120": (160, 120), **SIZES}
# Files of 12 megapixels in every format take long, and say nothing new.
PHOTOGRAPHS_PER_FORMAT = 6
TARGET = (224, 224)
Image.MAX_IMAGE_PIXELS = None


def make_for_speed(folder: Path) -> list[Path]:
    draw = np.random.default_rng(1)
    files = []
    with Image.open(PHOTOGRAPH) as photograph:
        for name, size in SIZES.items():
            large = np.asarray(photograph.convert("RGB").resize(size, Image.Resampling.BICUBIC), np.int16)
            grain = draw.normal(0, 4, large.shape).astype(np.int16)
            image = Image.fromarray((large + grain).clip(0, 255).astype(np.uint8))
            for extension, options in SPEED.items():
                if (name, extension) == ("12mp", "webp"):
                    continue
                files.append(folder / f"{name}.{extension}")
                image.save(files[-1], **options)
    return files


def make_for_nearness(photographs: list[Path], folder: Path) -> dict[str, list[Path]]:
    """Files by what they have in common."""
    files: dict[str, list[Path]] = {"as the camera wrote it": photographs}
    for number, path in enumerate(photographs[:PHOTOGRAPHS_PER_FORMAT]):
        with Image.open(path) as photograph:
            rgb = ImageOps.exif_transpose(photograph).convert("RGB")
        for size_name, size in NEARNESS_SIZES.items():
            scaled = rgb.resize(size, Image.Resampling.LANCZOS)
            for name, options in NEARNESS.items():
                if size_name == "12mp" and name not in ("420.jpg", "444.jpg"):
                    continue
                file = folder / f"{number}-{size_name}-{name}"
                image = scaled.convert("L") if name == "grey.jpg" else scaled
                image = image.quantize(256) if name == "palette.gif" else image
                image.save(file, **options)
                files.setdefault(f"{name} {size_name}", []).append(file)
    return files


def reference(data: bytes, *, draft: bool = False) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        if draft:
            image.draft("RGB", TARGET)
        upright = ImageOps.exif_transpose(image)
        return upright.convert("RGB").resize(TARGET, Image.Resampling.BILINEAR)


def pillow(file: Path, *, draft: bool = False) -> float:
    data, best = file.read_bytes(), float("inf")
    until = time.perf_counter() + 0.7
    while time.perf_counter() < until:
        start = time.perf_counter()
        reference(data, draft=draft)
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def ours(files: list[Path], out: Path) -> list[list[float]]:
    """Milliseconds to decode, to resize, and for both at a reduced scale."""
    command = ["cargo", "bench", "--quiet", "--bench", "pixels", "--", *map(str, files)]
    environment = {**os.environ, "PIXELS_OUT": str(out)}
    run = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return [[float(ms) for ms in line.rsplit(",", 3)[1:]] for line in run.stdout.splitlines()]


def show_speed(folder: Path) -> None:
    files = make_for_speed(folder)
    print("| file | decode | resize | at a reduced scale | Pillow | ratio | reduced | with `draft` |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for file, (decode, resize, reduced) in zip(files, ours(files, folder), strict=True):
        peer = pillow(file)
        jpeg = file.suffix == ".jpg"
        drafted = f"{pillow(file, draft=True):.2f}" if jpeg else ""
        smaller = f"{peer / reduced:.1f}" if jpeg else ""
        cells = [file.name, f"{decode:.2f}", f"{resize:.2f}", f"{reduced:.2f}" if jpeg else ""]
        cells += [f"{peer:.2f}", f"{peer / (decode + resize):.1f}", smaller, drafted]
        print("| " + " | ".join(cells) + " |")


class Embedder:
    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])

    def embed(self, rgb: np.ndarray) -> np.ndarray:
        pixels = (rgb.astype(np.float32) - 127) / 128
        tensor = pixels.transpose(2, 0, 1)[None]
        vector = self.session.run(None, {self.session.get_inputs()[0].name: tensor})[0][0]
        vector = vector.astype(np.float64)
        return vector / np.linalg.norm(vector)


def show_nearness(photographs: list[Path], folder: Path) -> None:
    embedder = Embedder()
    print("| files | images | full: grey levels, max | 1 - cosine, max | reduced: images | ", end="")
    print("grey levels, mean / max | 1 - cosine, mean / max |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind, files in make_for_nearness(photographs, folder).items():
        ours(files, folder)
        levels, angles = {"full": [], "reduced": []}, {"full": [], "reduced": []}
        means, changed = [], 0
        for file in files:
            expected = np.asarray(reference(file.read_bytes()))
            upright = embedder.embed(expected)
            full = (folder / f"{file.name}.full").read_bytes()
            changed += full != (folder / f"{file.name}.reduced").read_bytes()
            for scale, apart in levels.items():
                raw = (folder / f"{file.name}.{scale}").read_bytes()
                rgb = np.frombuffer(raw, np.uint8).reshape(*TARGET, 3)
                distance = np.abs(rgb.astype(int) - expected)
                apart.append(distance.max())
                angles[scale].append(1 - upright @ embedder.embed(rgb))
                if scale == "reduced" and full != raw:
                    means.append(distance.mean())
        worst = max(angles["full"])
        cells = [kind, len(files), max(levels["full"]), f"{worst:.6f}" if worst > 1e-9 else "0", changed]
        if changed:
            moved = [angle for angle, mean in zip(angles["reduced"], levels["reduced"], strict=True) if mean]
            cells += [f"{np.mean(means):.2f} / {max(levels['reduced'])}"]
            cells += [f"{np.mean(moved):.5f} / {max(moved):.5f}"]
        else:
            cells += ["", ""]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the files go")
    parser.add_argument("--photographs", type=Path, help="a folder of JPEGs as cameras wrote them")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    show_speed(folder)
    if arguments.photographs:
        print()
        show_nearness(sorted(arguments.photographs.resolve().glob("*.jpg")), folder)


if __name__ == "__main__":
    main()
