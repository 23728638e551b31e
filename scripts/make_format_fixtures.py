"""Writes one small photograph in each format and colour type, and beside it what Pillow makes of it.

Needs Pillow from PyPI. From the root of the repository:

  python scripts/make_format_fixtures.py

The references are what `scripts/make_golden.py` feeds to a model before it resizes: upright, laid over
white, RGB.
"""

from __future__ import annotations

from pathlib import Path

from make_golden import open_image
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PHOTOGRAPH = ROOT / "examples/photos/images/gc_erase_pika/g0_ref.jpg"
FOLDER = ROOT / "crates/embed/tests/fixtures/oracle/formats"
# Odd sides: where blocks, chroma and rows of bits end between two pixels.
SIZE = (93, 61)
WHITE = (255, 255, 255)


def with_alpha(image: Image.Image) -> Image.Image:
    """From opaque at the left to transparent at the right."""
    ramp = Image.linear_gradient("L").rotate(90).resize(image.size)
    image = image.convert("RGBA")
    image.putalpha(ramp)
    return image


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with Image.open(PHOTOGRAPH) as photograph:
        rgb = photograph.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
    rgba = with_alpha(rgb)
    palette = rgb.quantize(64)
    files = {
        "444.jpg": (rgb, {"quality": 90, "subsampling": 0}),
        "422.jpg": (rgb, {"quality": 80, "subsampling": 1}),
        "420.jpg": (rgb, {"quality": 70, "subsampling": 2}),
        "progressive.jpg": (rgb, {"quality": 85, "progressive": True}),
        "grey.jpg": (rgb.convert("L"), {"quality": 85}),
        "cmyk.jpg": (rgb.convert("CMYK"), {"quality": 90}),
        "rgb.png": (rgb, {}),
        "rgba.png": (rgba, {}),
        "grey.png": (rgb.convert("L"), {}),
        "grey_alpha.png": (rgba.convert("LA"), {}),
        "palette.png": (palette, {}),
        "palette_transparent.png": (palette, {"transparency": bytes(range(0, 256, 4))}),
        "bits.png": (rgb.convert("1"), {}),
        "lossy.webp": (rgb, {"quality": 80}),
        "lossy_alpha.webp": (rgba, {"quality": 80}),
        "lossless.webp": (rgb, {"lossless": True}),
        "lossless_alpha.webp": (rgba, {"lossless": True}),
        "palette.gif": (palette, {}),
        "rgb.bmp": (rgb, {}),
    }
    for name, (image, options) in files.items():
        image.save(FOLDER / name, **options)
        open_image(FOLDER / name, WHITE).save(FOLDER / f"{name}.reference.png", optimize=True)


if __name__ == "__main__":
    main()
