"""Compares decoding and resizing with Pillow's, on the same files, one thread each.

Needs numpy and Pillow from PyPI. From the root of the repository:

  python benches/peers/pixels.py --folder /tmp/pixels

The files are made of a photograph of the sample, enlarged with added noise to three sizes, in each
format. Fastest of several runs, milliseconds; the ratio is of decoding and resizing together.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPH = ROOT / "examples/photos/images/gc_erase_pika/g0_ref.jpg"
SIZES = {"640x480": (640, 480), "1080p": (1920, 1080), "12mp": (4000, 3000)}
FORMATS = {"jpg": {"quality": 90}, "png": {}, "webp": {"quality": 90}}
TARGET = (224, 224)


def make(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(1)
    files = []
    with Image.open(PHOTOGRAPH) as photograph:
        for name, size in SIZES.items():
            large = np.asarray(photograph.convert("RGB").resize(size, Image.Resampling.BICUBIC), np.int16)
            grain = draw.normal(0, 4, large.shape).astype(np.int16)
            image = Image.fromarray((large + grain).clip(0, 255).astype(np.uint8))
            for extension, options in FORMATS.items():
                if (name, extension) == ("12mp", "webp"):
                    continue
                files.append(folder / f"{name}.{extension}")
                image.save(files[-1], **options)
    return files


def pillow(file: Path, *, draft: bool = False) -> float:
    data, best = file.read_bytes(), float("inf")
    until = time.perf_counter() + 0.7
    while time.perf_counter() < until:
        start = time.perf_counter()
        with Image.open(io.BytesIO(data)) as image:
            if draft:
                image.draft("RGB", TARGET)
            image.convert("RGB").resize(TARGET, Image.Resampling.BILINEAR)
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the files go")
    files = make(parser.parse_args().folder.resolve())
    command = ["cargo", "bench", "--quiet", "--bench", "pixels", "--", *map(str, files)]
    ours = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    print("| file | decode | resize | Pillow, both | ratio | Pillow with `draft` |")
    print("| --- | --- | --- | --- | --- | --- |")
    for line in ours.splitlines():
        file, decode, resize = line.split(",")
        peer = pillow(Path(file))
        drafted = f"{pillow(Path(file), draft=True):.2f}" if file.endswith("jpg") else ""
        ratio = peer / (float(decode) + float(resize))
        print(f"| {Path(file).name} | {decode} | {resize} | {peer:.2f} | {ratio:.1f} | {drafted} |")


if __name__ == "__main__":
    main()
