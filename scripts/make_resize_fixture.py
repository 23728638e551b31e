#!/usr/bin/env python3
"""Print what Pillow makes of drawn images, as crates/embed/tests/fixtures/oracle/resize.csv keeps it.

Each row: source width and height, target width and height, filter, SHA-256 of the RGB bytes that
`Image.resize` gives. The source is noise from a 32-bit linear congruential generator, its upper
byte for each value, which crates/embed/tests/it/golden.rs draws again. Needs Python 3.11 and Pillow 13.

  python scripts/make_resize_fixture.py > crates/embed/tests/fixtures/oracle/resize.csv
"""

import hashlib
from collections.abc import Iterator
from itertools import islice

from PIL import Image

FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SIZES = (
    ((320, 240), (224, 224)),
    ((240, 320), (224, 224)),
    ((477, 395), (112, 112)),
    ((224, 100), (224, 224)),
    ((100, 224), (224, 224)),
    ((61, 47), (224, 160)),
    ((1, 1), (5, 7)),
    ((3, 400), (32, 32)),
    ((400, 3), (32, 32)),
    ((97, 89), (1, 1)),
    ((129, 65), (128, 64)),
)


def noise() -> Iterator[int]:
    state = 1
    while True:
        state = (state * 1_664_525 + 1_013_904_223) % 2**32
        yield state >> 24


def main() -> None:
    print("width,height,target_width,target_height,filter,sha256")
    for size, target in SIZES:
        image = Image.frombytes("RGB", size, bytes(islice(noise(), 3 * size[0] * size[1])))
        for name, resample in FILTERS.items():
            digest = hashlib.sha256(image.resize(target, resample).tobytes()).hexdigest()
            print(*size, *target, name, digest, sep=",")


if __name__ == "__main__":
    main()
