#!/usr/bin/env python3
"""The reference pipeline of this model, in full: Pillow, numpy and ONNX Runtime.

Without options it writes golden.f32, the embedding of golden.jpg; with --precision int8 or fp16 that
of model.int8.onnx, golden.int8.f32, and so on. It shares no code with the
service nor with scripts/make_golden.py, so that the three can be held against each other.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

Array = npt.NDArray[Any]

FOLDER = Path(__file__).resolve().parent
# By precision: the network, and the embedding due from it.
FILES = {
    "f32": ("model.onnx", "golden.f32"),
    "int8": ("model.int8.onnx", "golden.int8.f32"),
    "fp16": ("model.fp16.onnx", "golden.fp16.f32"),
}
SIDE = 224
MEAN = (127.0, 127.0, 127.0)
STD = (128.0, 128.0, 128.0)
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


# --- The pipeline ----------------------------------------------------------------------------


def read_golden_image() -> Image.Image:
    """golden.jpg is opaque and upright; other images also need EXIF and alpha looked after."""
    return Image.open(FOLDER / "golden.jpg").convert("RGB")


def squash(image: Image.Image, resampling: int = Image.Resampling.BILINEAR) -> Array:
    """224 x 224, aspect ratio ignored; Pillow widens the filter when it makes an image smaller."""
    return np.asarray(image.resize((SIDE, SIDE), resampling))


class Model:
    """An ONNX file, run on the CPU."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def embed(
        self,
        pixels: Array,
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
    ) -> Array:
        """224 x 224 x 3 grey levels to the unit-length embedding."""
        values = (pixels - np.array(mean, np.float32)) / np.array(std, np.float32)
        batch = np.ascontiguousarray(values.transpose(2, 0, 1)[np.newaxis])
        (features,) = self.session.run(["embedding"], {"pixels": batch})
        vector = features[0].astype(np.float64)
        return np.asarray(vector / np.linalg.norm(vector), np.float32)


# --- What can go wrong -----------------------------------------------------------------------


def squash_without_antialiasing(image: Image.Image) -> Array:
    """Two-tap bilinear, as OpenCV's INTER_LINEAR and PyTorch's interpolate do by default."""
    pixels = np.asarray(image, np.float64)

    def taps(length: int) -> tuple[Array, Array, Array]:
        centre = np.clip((np.arange(SIDE) + 0.5) * length / SIDE - 0.5, 0, length - 1)
        low = np.floor(centre).astype(int)
        return (
            low,
            np.minimum(low + 1, length - 1),
            (centre - low)[:, np.newaxis, np.newaxis],
        )

    top, bottom, weight = taps(pixels.shape[0])
    rows = pixels[top] * (1 - weight) + pixels[bottom] * weight
    left, right, weight = taps(pixels.shape[1])
    columns = rows.transpose(1, 0, 2)
    squashed = columns[left] * (1 - weight) + columns[right] * weight
    return np.asarray(np.rint(squashed.transpose(1, 0, 2)), np.float32)


def squash_centre(image: Image.Image) -> Array:
    """The usual ImageNet evaluation crop: the centre 7/8 of the short side."""
    side = min(image.size) * 7 // 8
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return squash(image.crop((left, top, left + side, top + side)))


def with_blocky_colour(image: Image.Image) -> Image.Image:
    """A decoder that repeats subsampled colour instead of interpolating it."""
    luma, blue, red = image.convert("YCbCr").split()
    half = (image.width // 2, image.height // 2)

    def repeat(plane: Image.Image) -> Image.Image:
        return plane.resize(half, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)

    return Image.merge("YCbCr", (luma, repeat(blue), repeat(red))).convert("RGB")


def with_noise(image: Image.Image, levels: int) -> Image.Image:
    """A decoder that is off by up to `levels` grey levels, at random."""
    pixels = np.asarray(image, np.int16)
    noise = np.random.default_rng(0).integers(-levels, levels + 1, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def sensitivity(model: Model, image: Image.Image) -> list[tuple[str, float]]:
    """The cosine to the reference under each deviation."""
    right = squash(image)
    filters = Image.Resampling
    deviations: dict[str, Callable[[], Array]] = {
        "mean 127.5, std 127.5": lambda: model.embed(right, (127.5,) * 3, (127.5,) * 3),
        "decoder off by at most 1 grey level": lambda: model.embed(squash(with_noise(image, 1))),
        "decoder repeats colour samples": lambda: model.embed(squash(with_blocky_colour(image))),
        "bicubic": lambda: model.embed(squash(image, filters.BICUBIC)),
        "hamming": lambda: model.embed(squash(image, filters.HAMMING)),
        "box": lambda: model.embed(squash(image, filters.BOX)),
        "lanczos": lambda: model.embed(squash(image, filters.LANCZOS)),
        "bilinear without antialiasing": lambda: model.embed(squash_without_antialiasing(image)),
        "nearest": lambda: model.embed(squash(image, filters.NEAREST)),
        "values 0..1": lambda: model.embed(right, (0.0,) * 3, (255.0,) * 3),
        "BGR": lambda: model.embed(right[:, :, ::-1]),
        "centre crop instead of squash": lambda: model.embed(squash_centre(image)),
        "ImageNet mean and std": lambda: model.embed(right, IMAGENET_MEAN, IMAGENET_STD),
    }
    reference = model.embed(right)
    return [(name, float(np.dot(reference, embed()))) for name, embed in deviations.items()]


# --- The command -----------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Make or check the golden embedding of this model.",
        epilog="""examples:
  golden.py                            write golden.f32
  golden.py --check                    compare golden.f32 with a fresh embedding, write nothing
  golden.py --precision int8           write golden.int8.f32, likewise fp16
  golden.py --sensitivity              what each mistake in preprocessing costs
  golden.py --photograph coffee.png    make golden.jpg anew, then write golden.f32""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="compare instead of writing")
    choice.add_argument("--sensitivity", action="store_true", help="print the table of the README")
    choice.add_argument("--photograph", type=Path, help="the source of golden.jpg")
    parser.add_argument("--precision", choices=FILES, default="f32")
    arguments = parser.parse_args()
    onnx, golden = FILES[arguments.precision]

    if arguments.photograph:
        photograph = Image.open(arguments.photograph).convert("RGB")
        photograph.save(FOLDER / "golden.jpg", quality=85, subsampling="4:2:0", optimize=True)

    model = Model(FOLDER / onnx)
    image = read_golden_image()
    if arguments.sensitivity:
        for name, cosine in sensitivity(model, image):
            print(f"{cosine:.5f}  {name}")
        return 0

    embedding = model.embed(squash(image))
    path = FOLDER / golden
    if arguments.check:
        cosine = float(np.dot(embedding, np.fromfile(path, "<f4")))
        print(f"cosine to {golden}: {cosine:.7f}")
        return 0 if 1 - 1e-5 < cosine else 1
    path.write_bytes(embedding.astype("<f4").tobytes())
    print(f"wrote {path} ({embedding.size} numbers)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
