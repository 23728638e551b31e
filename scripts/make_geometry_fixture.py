#!/usr/bin/env python3
"""Print what OpenCV and Pillow make of drawn images.

The output is kept as crates/embed/tests/fixtures/oracle/geometry.csv.

Each row: source width and height, target width and height, then the fit with its sizes, the filter,
the side, margin and place as model.toml names them, whether the image was made grey first, and the
SHA-256 of the RGB bytes. With a folder as its argument the script writes there, as PNG, what the
cubic interpolation gives, which other builds of OpenCV give with a grey level more or less here and
there. The source is the noise of make_resize_fixture.py. Needs Python 3.11, Pillow 13 and
opencv-python-headless 5.

  python scripts/make_geometry_fixture.py crates/embed/tests/fixtures/oracle/opencv_cubic \\
      > crates/embed/tests/fixtures/oracle/geometry.csv
"""

import hashlib
import math
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from make_resize_fixture import FILTERS as PILLOW
from make_resize_fixture import noise
from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Size = tuple[int, int]

OPENCV = {
    "opencv_linear": cv2.INTER_LINEAR,
    "opencv_lanczos4": cv2.INTER_LANCZOS4,
    "opencv_area": cv2.INTER_AREA,
}
SIZES = (
    ((320, 240), (224, 224)),
    ((240, 320), (224, 224)),
    ((477, 395), (112, 112)),
    ((224, 100), (224, 224)),
    ((61, 47), (224, 160)),
    ((100, 50), (64, 64)),
    ((1, 1), (5, 7)),
    ((3, 400), (32, 32)),
    ((400, 3), (32, 32)),
    ((97, 89), (1, 1)),
    ((128, 64), (64, 32)),
    ((90, 60), (30, 20)),
    ((96, 64), (24, 32)),
    ((341, 256), (300, 224)),
)
CUBIC = (((61, 47), (40, 32)), ((40, 30), (61, 47)), ((64, 96), (32, 32)))


def source(size: Size) -> Pixels:
    width, height = size
    values = bytes(islice(noise(), 3 * width * height))
    return np.frombuffer(values, np.uint8).reshape(height, width, 3)


def resized(pixels: Pixels, size: Size, name: str) -> Pixels:
    if name in OPENCV:
        return cv2.resize(pixels, size, interpolation=OPENCV[name])
    return np.asarray(Image.fromarray(pixels).resize(size, PILLOW[name]))


def cut(pixels: Pixels, target: Size, margin: str) -> Pixels:
    """The middle; half a pixel to the even number, as torchvision has it, or down."""
    (width, height), (rows, columns) = target, pixels.shape[:2]
    left, top = (columns - width) / 2, (rows - height) / 2
    if margin == "even":
        left, top = round(left), round(top)
    left, top = int(left), int(top)
    return pixels[top : top + height, left : left + width]


def row(sizes: tuple[Size, Size], how: tuple[str, ...], pixels: Pixels) -> None:
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    print(*sizes[0], *sizes[1], *how, digest, sep=",")


def squashes() -> None:
    for size, target in SIZES:
        for name in OPENCV:
            how = ("squash", name, "", "", "", "")
            row((size, target), how, resized(source(size), target, name))


def crops() -> None:
    for size in ((160, 121), (121, 160), (77, 64)):
        for name in ("bilinear", "bicubic", "opencv_linear", "opencv_area", "opencv_lanczos4"):
            for margin in ("even", "down"):
                target, scaled = (48, 40), (63, 51)
                pixels = cut(resized(source(size), scaled, name), target, margin)
                row((size, target), ("squash_crop 63 51", name, "", margin, "", ""), pixels)
                for side in ("down", "nearest"):
                    scaled = short_side(size, 49, side)
                    pixels = cut(resized(source(size), scaled, name), target, margin)
                    row((size, target), ("crop 49", name, side, margin, "", ""), pixels)


def short_side(size: Size, length: int, side: str) -> Size:
    """torchvision's rounding of the long side, and PaddlePaddle'."""
    width, height = size
    if side == "nearest":
        percent = float(length) / min(width, height)
        return (round(width * percent), round(height * percent))
    if width <= height:
        return (length, length * height // width)
    return (length * width // height, length)


def inside(size: Size, target: Size, side: str) -> Size:
    """The largest size of that shape; `up` is PaddleOCR's, for lines of text."""
    across, down = target[0] / size[0], target[1] / size[1]
    if side == "up":
        by = 0 if across < down else 1
        width, height = (math.ceil(target[by] * (length / size[by])) for length in size)
        return (min(width, target[0]), min(height, target[1]))
    whole = int if side == "down" else round
    return (whole(size[0] * min(across, down)), whole(size[1] * min(across, down)))


def letterboxes() -> None:
    for size in ((160, 121), (121, 161), (30, 77)):
        for name in ("bilinear", "opencv_linear"):
            for side in ("down", "nearest", "up"):
                target = width, height = (48, 40)
                inner = resized(source(size), inside(size, target, side), name)
                right, below = width - inner.shape[1], height - inner.shape[0]
                for place in ("centre", "top_left"):
                    left, top = (right // 2, below // 2) if place == "centre" else (0, 0)
                    border = (top, below - top, left, right - left)
                    boxed = cv2.copyMakeBorder(inner, *border, cv2.BORDER_CONSTANT, value=(255, 0, 127))
                    row((size, target), ("pad", name, side, "", place, ""), boxed)


def greys() -> None:
    for size in ((160, 121), (77, 64)):
        for name in PILLOW:
            grey = Image.fromarray(source(size)).convert("L").resize((48, 40), PILLOW[name])
            how = ("squash", name, "", "", "", "grey")
            row((size, (48, 40)), how, np.asarray(grey.convert("RGB")))


def cubics(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for size, target in CUBIC:
        pixels = cv2.resize(source(size), target, interpolation=cv2.INTER_CUBIC)
        name = "-".join(f"{width}x{height}" for width, height in (size, target))
        Image.fromarray(pixels).save(folder / f"{name}.png", optimize=True)


def main() -> None:
    print("width,height,target_width,target_height,fit,filter,side,margin,place,grey,sha256")
    squashes()
    crops()
    letterboxes()
    greys()
    for folder in sys.argv[1:]:
        cubics(Path(folder))


if __name__ == "__main__":
    main()
