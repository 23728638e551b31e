#!/usr/bin/env python3
"""Make the golden pair of a model folder: an image, and the embedding due for it.

Reads MODEL_FOLDER/model.toml, prepares the image with Pillow, or OpenCV, as the manifest
says, runs the model with ONNX Runtime and writes

  golden.jpg (or .png, ...)   a copy of the image, unless it is already in place
  golden.f32                  the unit-length embedding, little-endian float32
  model.toml                  [file] sha256; [golden] where it is missing

It then prints how far the embedding moves under every other resize filter: cosine_min
has to lie above the nearest of these. The [golden] table that it adds leaves a quarter
of that distance to harmless differences. Needs Python 3.11, numpy, Pillow, onnxruntime,
and opencv-python-headless for the filters of OpenCV.
"""

import argparse
import hashlib
import math
import re
import shutil
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image, ImageOps

Floats = npt.NDArray[np.float32]

FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# By OpenCV's names for them.
OPENCV = {
    "opencv_linear": "INTER_LINEAR",
    "opencv_cubic": "INTER_CUBIC",
    "opencv_lanczos4": "INTER_LANCZOS4",
    "opencv_area": "INTER_AREA",
}
FITS = ("squash", "squash_crop", "crop", "pad")
LAYOUTS = ("nchw", "nhwc")
# How many channels each has.
COLOURS = {"rgb": 3, "bgr": 3, "grey": 1, "rgba": 4, "bgra": 4}
SCALES = ("mean_std", "unit", "none", "image")
TAKES = ("vector", "first_token", "last_token", "token", "mean_of_tokens")
# What the model may take and give; f16 and so on become what they are by numpy.
TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}
# Decoders and processors differ a little: never ask for more than this by default.
COSINE_MIN_MAX = 0.9995


class ManifestError(Exception):
    """model.toml, the model or the image cannot be used; the text says why."""


@dataclass(frozen=True)
class Preprocessing:
    """The [input] and [resize] tables: from an image to the tensor that the model takes."""

    width: int
    height: int
    layout: str
    colour: str
    background: tuple[int, int, int]
    scale: str
    mean: Floats
    std: Floats
    fit: str
    filter: str
    short_side: int
    scaled: tuple[int, int]
    fill: tuple[int, int, int]
    side: str
    margin: str
    place: str


@dataclass(frozen=True)
class Manifest:
    """The part of model.toml that making a golden pair needs."""

    model: Path
    input_name: str
    preprocessing: Preprocessing
    output_name: str
    take: str
    token: int
    skip_tokens: int
    dimension: int
    golden: dict[str, Any] | None


# --- Reading model.toml ----------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """Parse model.toml. Only what this script needs is checked; `matchpoint inspect` checks all."""
    path = folder / "model.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        input_table, resize, output = table["input"], table["resize"], table["output"]
        return Manifest(
            model=folder / table["file"]["path"],
            input_name=input_table["name"],
            preprocessing=read_preprocessing(input_table, resize),
            output_name=output["name"],
            take=one_of("output.take", output.get("take", "vector"), TAKES),
            token=output.get("token", 0),
            skip_tokens=output.get("skip_tokens", 0),
            dimension=output["dimension"],
            golden=table.get("golden"),
        )
    except FileNotFoundError:
        raise ManifestError(f"{path} does not exist") from None
    except tomllib.TOMLDecodeError as error:
        raise ManifestError(f"{path} is not TOML: {error}") from None
    except KeyError as error:
        raise ManifestError(f"{path} lacks the key or table {error}") from None


def read_preprocessing(
    input_table: dict[str, Any], resize: dict[str, Any]
) -> Preprocessing:
    colour = one_of("input.colour", input_table["colour"], tuple(COLOURS))
    scale = one_of("input.scale", input_table.get("scale", "mean_std"), SCALES)
    mean, std = mean_and_std(input_table, scale, COLOURS[colour])
    fit = one_of("resize.fit", resize["fit"], FITS)
    width, height = input_table["width"], input_table["height"]
    short_side = resize["short_side"] if fit == "crop" else 0
    if fit == "crop" and short_side < max(width, height):
        raise ManifestError(
            f"resize.short_side = {short_side} is smaller than the model's input"
        )
    scaled = (0, 0)
    if fit == "squash_crop":
        scaled = (resize["scaled_width"], resize["scaled_height"])
    usual_side = "nearest" if fit == "pad" else "down"
    return Preprocessing(
        width=width,
        height=height,
        layout=one_of("input.layout", input_table["layout"], LAYOUTS),
        colour=colour,
        background=rgb(input_table.get("background", [255, 255, 255])),
        scale=scale,
        mean=mean,
        std=std,
        fit=fit,
        filter=one_of("resize.filter", resize["filter"], (*FILTERS, *OPENCV)),
        short_side=short_side,
        scaled=scaled,
        fill=rgb(resize.get("fill", [0, 0, 0])),
        side=one_of("resize.side", resize.get("side", usual_side), ("down", "nearest", "up")),
        margin=one_of("resize.margin", resize.get("margin", "even"), ("even", "down")),
        place=one_of(
            "resize.place", resize.get("place", "centre"), ("centre", "top_left")
        ),
    )


def mean_and_std(
    input_table: dict[str, Any], scale: str, channels: int
) -> tuple[Floats, Floats]:
    """In grey levels and RGB order, one of each for each channel."""
    if scale != "mean_std":
        spread = 255 if scale == "unit" else 1
        return np.zeros(channels, np.float32), np.full(channels, spread, np.float32)
    mean, std = input_table["mean"], input_table["std"]
    if min(std) < 1:
        raise ManifestError(
            "input.mean and input.std are in grey levels: 255 times those for 0..1"
        )
    return np.array(mean, np.float32), np.array(std, np.float32)


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ManifestError(f'{key} = "{value}" is none of {", ".join(allowed)}')
    return value


def rgb(levels: list[int]) -> tuple[int, int, int]:
    red, green, blue = levels
    return (red, green, blue)


# --- From an image to an embedding -----------------------------------------------------------


def open_image(path: Path, background: tuple[int, int, int]) -> Image.Image:
    """Decode, turn upright as EXIF says, lay transparent pixels over the background."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    return image.convert("RGB")


def resize(image: Image.Image, how: Preprocessing, filter_name: str) -> Image.Image:
    """Bring the image to the model's input size."""
    target = (how.width, how.height)
    if how.colour == "grey":
        image = image.convert("L").convert("RGB")
    if how.fit == "squash":
        return scale_to(image, target, filter_name)
    if how.fit == "squash_crop":
        return crop_centre(scale_to(image, how.scaled, filter_name), target, how.margin)
    if how.fit == "crop":
        size = with_short_side(image.size, how)
        return crop_centre(scale_to(image, size, filter_name), target, how.margin)
    return pad(image, how, filter_name)


def scale_to(
    image: Image.Image, size: tuple[int, int], filter_name: str
) -> Image.Image:
    """Pillow's resize, or OpenCV's, which is imported only where it is asked for."""
    if filter_name in FILTERS:
        return image.resize(size, FILTERS[filter_name])
    try:
        import cv2
    except ImportError:
        raise ManifestError(
            f'resize.filter = "{filter_name}" needs pip install opencv-python-headless'
        ) from None
    interpolation = getattr(cv2, OPENCV[filter_name])
    return Image.fromarray(
        cv2.resize(np.asarray(image), size, interpolation=interpolation)
    )


def with_short_side(size: tuple[int, int], how: Preprocessing) -> tuple[int, int]:
    """The long side rounded down, as torchvision does, or to the nearest, as PaddlePaddle does."""
    width, height = size
    if how.side == "nearest":
        share = float(how.short_side) / min(width, height)
        return (round(width * share), round(height * share))
    if how.side == "up":
        short = min(width, height)
        return (
            math.ceil(how.short_side * (width / short)),
            math.ceil(how.short_side * (height / short)),
        )
    if width <= height:
        return (how.short_side, how.short_side * height // width)
    return (how.short_side * width // height, how.short_side)


def crop_centre(
    image: Image.Image, target: tuple[int, int], margin: str
) -> Image.Image:
    """Cut the centre out; half a pixel becomes the even number, as torchvision has it, or none."""
    width, height = target
    half_left, half_top = (image.width - width) / 2, (image.height - height) / 2
    if margin == "even":
        half_left, half_top = round(half_left), round(half_top)
    left, top = int(half_left), int(half_top)
    return image.crop((left, top, left + width, top + height))


def pad(image: Image.Image, how: Preprocessing, filter_name: str) -> Image.Image:
    """Scale to fit inside, then lay on the fill colour; an odd pixel goes right or below."""
    width, height = how.width, how.height
    scale = min(width / image.width, height / image.height)
    whole = round if how.side == "nearest" else int
    inner_width, inner_height = whole(image.width * scale), whole(image.height * scale)
    if how.side == "up":  # PaddleOCR's order of operations: a whole number stays what it is.
        narrow = width / image.width < height / image.height
        to, of = (width, image.width) if narrow else (height, image.height)
        inner_width, inner_height = (math.ceil(to * (side / of)) for side in image.size)
    inner_width, inner_height = min(max(inner_width, 1), width), min(max(inner_height, 1), height)
    inner = scale_to(image, (inner_width, inner_height), filter_name)
    corner = (0, 0)
    if how.place == "centre":
        corner = ((width - inner_width) // 2, (height - inner_height) // 2)
    padded = Image.new("RGB", (width, height), how.fill)
    padded.paste(inner, corner)
    return padded


def to_tensor(image: Image.Image, how: Preprocessing) -> Floats:
    """Grey levels to model values, in the model's channel order and layout, as a batch of one."""
    levels = np.asarray(image, np.float32)
    if how.colour == "grey":
        levels = levels[:, :, :1]
    if how.colour in ("rgba", "bgra"):
        opaque = np.full((*levels.shape[:2], 1), 255, np.float32)
        levels = np.concatenate([levels, opaque], axis=2)
    if how.scale == "image":
        # FaceNet's prewhitening.
        exact = levels.astype(np.float64)
        spread = max(exact.std(), 1 / np.sqrt(exact.size))
        values = ((exact - exact.mean()) / spread).astype(np.float32)
    else:
        values = (levels - how.mean) / how.std
    if how.colour in ("bgr", "bgra"):
        values = values[:, :, [2, 1, 0, 3][: values.shape[2]]]
    if how.layout == "nchw":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[np.newaxis])


class Embedder:
    """A model and its manifest, ready to embed images."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.session = onnxruntime.InferenceSession(
            str(manifest.model), providers=["CPUExecutionProvider"]
        )
        inputs = {port.name: port for port in self.session.get_inputs()}
        outputs = {port.name: port for port in self.session.get_outputs()}
        require_type("input", manifest.input_name, inputs)
        require_type("output", manifest.output_name, outputs)
        taken = inputs[manifest.input_name]
        self.type = TYPES[taken.type]
        self.batch = taken.shape[0] if isinstance(taken.shape[0], int) else 1

    def embed(self, image: Image.Image, filter_name: str) -> Floats:
        """The unit-length embedding of a decoded image, resized with the named filter."""
        manifest = self.manifest
        how = manifest.preprocessing
        tensor = to_tensor(resize(image, how, filter_name), how).astype(self.type)
        tensor = np.repeat(tensor, self.batch, axis=0)
        (output,) = self.session.run(
            [manifest.output_name], {manifest.input_name: tensor}
        )
        vector = take_vector(output, manifest).astype(np.float64)
        if vector.shape != (manifest.dimension,):
            raise ManifestError(
                f"output.dimension = {manifest.dimension}, but the model gives {vector.size} numbers"
            )
        length = np.linalg.norm(vector)
        if not np.isfinite(length) or length == 0:
            raise ManifestError(
                "the embedding is zero or not finite: are mean and std right?"
            )
        return np.asarray(vector / length, np.float32)


def require_type(kind: str, name: str, ports: dict[str, Any]) -> None:
    if name not in ports:
        raise ManifestError(
            f'the model has no {kind} "{name}"; it has {", ".join(ports)}'
        )
    if ports[name].type not in TYPES:
        raise ManifestError(
            f'{kind} "{name}" is {ports[name].type}; it has to be one of {", ".join(TYPES)}'
        )


def take_vector(output: Floats, manifest: Manifest) -> Floats:
    """The embedding within the output for the first image."""
    take, first = manifest.take, np.asarray(output[0], np.float64)
    if take == "vector":
        return first.reshape(-1)
    if first.ndim != 2:
        raise ManifestError(f'output.take = "{take}" needs three axes: {output.shape}')
    if take == "mean_of_tokens":
        return first[manifest.skip_tokens :].mean(axis=0)
    numbers = {"first_token": 0, "last_token": -1, "token": manifest.token}
    return first[numbers[take]]


# --- Writing ---------------------------------------------------------------------------------


def set_file_sha256(text: str, sha256: str) -> str:
    """Replace sha256 in the [file] table, or add it; comments and order stay as they are."""
    table = re.search(r"^\[file\][^\n]*\n(?:(?!\[)[^\n]*(?:\n|$))*", text, re.MULTILINE)
    if table is None:
        raise ManifestError("model.toml has no line that reads [file]")
    line = f'sha256 = "{sha256}"'
    block, replaced = re.subn(
        r"^sha256\s*=[^\n]*", line, table.group(), flags=re.MULTILINE
    )
    if not replaced:
        block = re.sub(r"^(path\s*=[^\n]*)", rf"\1\n{line}", block, flags=re.MULTILINE)
    return text[: table.start()] + block + text[table.end() :]


def golden_table(image_name: str, cosine_min: float) -> str:
    return (
        f'\n[golden]\nimage = "{image_name}"\nembedding = "golden.f32"\n'
        f"cosine_min = {cosine_min}\n"
    )


def make_golden(folder: Path, source: Path) -> None:
    """Do everything that the command promises, and print what was done."""
    manifest = read_manifest(folder)
    embedder = Embedder(manifest)
    image = open_image(source, manifest.preprocessing.background)
    embedding = embedder.embed(image, manifest.preprocessing.filter)

    golden = manifest.golden or {
        "image": f"golden{source.suffix.lower()}",
        "embedding": "golden.f32",
    }
    image_path, embedding_path = folder / golden["image"], folder / golden["embedding"]
    if source.suffix.lower() != image_path.suffix.lower():
        raise ManifestError(
            f"{source} cannot become {image_path.name}: change golden.image first"
        )
    if not (image_path.exists() and image_path.samefile(source)):
        shutil.copyfile(source, image_path)
    embedding_path.write_bytes(embedding.astype("<f4").tobytes())

    manifest_path = folder / "model.toml"
    model_sha256 = hashlib.sha256(manifest.model.read_bytes()).hexdigest()
    text = set_file_sha256(manifest_path.read_text(encoding="utf-8"), model_sha256)
    cosines = other_filters(embedder, image, embedding)
    nearest = max(cosines.values())
    suggestion = min(round(1 - (1 - nearest) / 4, 4), COSINE_MIN_MAX)
    cosine_min = golden.get("cosine_min", suggestion)
    if manifest.golden is None:
        text = text.rstrip("\n") + "\n" + golden_table(image_path.name, cosine_min)
    manifest_path.write_text(text, encoding="utf-8")

    print(f"image      {image_path} ({image.width} x {image.height})")
    print(f"embedding  {embedding_path} ({embedding.size} numbers)")
    print(f"model      sha256 {model_sha256}")
    print(f'cosine to "{manifest.preprocessing.filter}" under the other filters:')
    for name, cosine in sorted(cosines.items(), key=lambda pair: pair[1]):
        print(f"  {name:15} {cosine:.5f}")
    print(f"cosine_min {cosine_min}")
    if cosine_min <= nearest:
        print(
            "warning: cosine_min would let a wrong filter pass; raise it, or take a sharper"
            " image, several times larger than the model's input",
            file=sys.stderr,
        )


def other_filters(
    embedder: Embedder, image: Image.Image, reference: Floats
) -> dict[str, float]:
    """What a wrong filter would cost: the cosine to the reference under each of the others."""
    right = embedder.manifest.preprocessing.filter
    names = (*FILTERS, *OPENCV) if right in OPENCV else FILTERS
    wrong = (name for name in names if name != right)
    return {
        name: float(np.dot(reference, embedder.embed(image, name))) for name in wrong
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Make the golden pair of a model folder with Pillow and ONNX Runtime.",
        epilog="""example:
  make_golden.py models/my-model photograph.jpg
  matchpoint inspect --model models/my-model

Take a sharp photograph of several hundred pixels: a small or smooth one hides a wrong filter.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", type=Path, metavar="MODEL_FOLDER", help="holds model.toml"
    )
    parser.add_argument(
        "image", type=Path, metavar="IMAGE", help="the photograph to embed"
    )
    arguments = parser.parse_args()
    try:
        make_golden(arguments.folder, arguments.image)
    except (ManifestError, OSError) as error:
        print(f"make_golden.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
