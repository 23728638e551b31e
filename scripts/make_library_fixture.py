#!/usr/bin/env python3
"""Print what torchvision, timm and open_clip themselves make of drawn images.

The output is kept as crates/embed/tests/fixtures/oracle/libraries.csv, in the columns of
make_geometry_fixture.py: its rows follow rules that were read in their source, these come out of
the libraries. Needs Python 3.11, torchvision 0.29, timm 1.0 and open_clip_torch 3.3.

  python scripts/make_library_fixture.py > crates/embed/tests/fixtures/oracle/libraries.csv
"""

import hashlib
from itertools import islice

from make_resize_fixture import noise
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from timm.data import create_transform
from torchvision import transforms
from torchvision.transforms import InterpolationMode

Size = tuple[int, int]

SIZES = ((160, 121), (121, 160), (77, 64), (301, 100), (50, 50), (65, 48), (48, 99), (200, 9))
FILTERS = {mode.value: mode for mode in InterpolationMode if mode.value[:7] != "nearest"}


def source(size: Size) -> Image.Image:
    width, height = size
    return Image.frombytes("RGB", size, bytes(islice(noise(), 3 * width * height)))


def row(sizes: tuple[Size, Size], fit: str, name: str, transform: transforms.Compose) -> None:
    """Applies what comes before the picture becomes numbers."""
    image = source(sizes[0])
    for step in transform.transforms:
        if "Tensor" in type(step).__name__:
            break
        image = step(image)
    assert image.size == sizes[1], (image.size, sizes)
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    print(*sizes[0], *sizes[1], fit, name, "", "", "", "", digest, sep=",")


def torchvision(size: Size) -> None:
    for name, mode in FILTERS.items():
        for short in (48, 49, 55):
            steps = [transforms.Resize(short, mode), transforms.CenterCrop((40, 48))]
            row((size, (48, 40)), f"crop {short}", name, transforms.Compose(steps))
        steps = [transforms.Resize((51, 63), mode), transforms.CenterCrop((40, 48))]
        row((size, (48, 40)), "squash_crop 63 51", name, transforms.Compose(steps))
        row((size, (48, 40)), "squash", name, transforms.Compose([transforms.Resize((40, 48), mode)]))


def timm(size: Size) -> None:
    for name in ("bilinear", "bicubic", "lanczos"):
        for share in (0.875, 0.9, 0.95, 1.0):
            for mode in ("center", "squash"):
                transform = create_transform((3, 48, 48), interpolation=name, crop_pct=share, crop_mode=mode)
                scaled = int(48 / share)
                fit = f"crop {scaled}" if mode == "center" else f"squash_crop {scaled} {scaled}"
                row((size, (48, 48)), fit, name, transform)


def open_clip(size: Size) -> None:
    for name in ("bilinear", "bicubic"):
        for mode, fit in (("shortest", "crop 48"), ("squash", "squash"), ("longest", "pad")):
            how = PreprocessCfg(size=48, interpolation=name, resize_mode=mode, fill_color=(255, 0, 127))
            row((size, (48, 48)), fit, name, image_transform_v2(how, is_train=False))


def main() -> None:
    print("width,height,target_width,target_height,fit,filter,side,margin,place,grey,sha256")
    for size in SIZES:
        torchvision(size)
        timm(size)
        open_clip(size)


if __name__ == "__main__":
    main()
