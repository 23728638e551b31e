#!/usr/bin/env python3
"""Make the golden pair of a model folder: an image, and the embedding due for it.

Reads MODEL_FOLDER/model.toml, prepares the image with Pillow as the manifest says, runs
the model with ONNX Runtime and writes

  golden.jpg (or .png, ...)   a copy of the image, unless it is already in place
  golden.f32                  the unit-length embedding, little-endian float32
  model.toml                  [file] sha256; [golden] where it is missing

It then prints how far the embedding moves under every other resize filter: cosine_min
has to lie above the nearest of these. The [golden] table that it adds leaves a quarter
of that distance to harmless differences. Needs Python 3.11, numpy, Pillow, onnxruntime.
"""

import argparse
import hashlib
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
FITS = ("squash", "crop", "pad")
LAYOUTS = ("nchw", "nhwc")
COLOURS = ("rgb", "bgr")
TAKES = ("vector", "first_token", "mean_of_tokens")
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
    mean: Floats
    std: Floats
    fit: str
    filter: str
    short_side: int
    fill: tuple[int, int, int]


@dataclass(frozen=True)
class Manifest:
    """The part of model.toml that making a golden pair needs."""

    model: Path
    input_name: str
    preprocessing: Preprocessing
    output_name: str
    take: str
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
    if min(input_table["std"]) < 1:
        raise ManifestError(
            "input.mean and input.std are in grey levels: 255 times those for 0..1"
        )
    fit = one_of("resize.fit", resize["fit"], FITS)
    width, height = input_table["width"], input_table["height"]
    short_side = resize["short_side"] if fit == "crop" else 0
    if fit == "crop" and short_side < max(width, height):
        raise ManifestError(
            f"resize.short_side = {short_side} is smaller than the model's input"
        )
    return Preprocessing(
        width=width,
        height=height,
        layout=one_of("input.layout", input_table["layout"], LAYOUTS),
        colour=one_of("input.colour", input_table["colour"], COLOURS),
        background=rgb(input_table.get("background", [255, 255, 255])),
        mean=np.array(input_table["mean"], np.float32),
        std=np.array(input_table["std"], np.float32),
        fit=fit,
        filter=one_of("resize.filter", resize["filter"], tuple(FILTERS)),
        short_side=short_side,
        fill=rgb(resize.get("fill", [0, 0, 0])),
    )


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
    filter_used = FILTERS[filter_name]
    target = (how.width, how.height)
    if how.fit == "squash":
        return image.resize(target, filter_used)
    if how.fit == "crop":
        return crop_centre(
            resize_short_side(image, how.short_side, filter_used), target
        )
    return pad(image, target, filter_used, how.fill)


def resize_short_side(
    image: Image.Image, short_side: int, filter_used: int
) -> Image.Image:
    """The short side to the given length; the long side rounded down, as torchvision does."""
    width, height = image.size
    if width <= height:
        return image.resize((short_side, short_side * height // width), filter_used)
    return image.resize((short_side * width // height, short_side), filter_used)


def crop_centre(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    """Cut the centre out; half a pixel is rounded to the even number, as torchvision does."""
    width, height = target
    left = round((image.width - width) / 2)
    top = round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def pad(
    image: Image.Image,
    target: tuple[int, int],
    filter_used: int,
    fill: tuple[int, int, int],
) -> Image.Image:
    """Scale to fit inside, then centre on the fill colour; an odd pixel goes right or below."""
    width, height = target
    scale = min(width / image.width, height / image.height)
    inner_width = min(max(round(image.width * scale), 1), width)
    inner_height = min(max(round(image.height * scale), 1), height)
    padded = Image.new("RGB", target, fill)
    inner = image.resize((inner_width, inner_height), filter_used)
    padded.paste(inner, ((width - inner_width) // 2, (height - inner_height) // 2))
    return padded


def to_tensor(image: Image.Image, how: Preprocessing) -> Floats:
    """Grey levels to model values, in the model's channel order and layout, as a batch of one."""
    values = (np.asarray(image, np.float32) - how.mean) / how.std
    if how.colour == "bgr":
        values = values[:, :, ::-1]
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
        inputs = {port.name: port.type for port in self.session.get_inputs()}
        outputs = {port.name: port.type for port in self.session.get_outputs()}
        require_float("input", manifest.input_name, inputs)
        require_float("output", manifest.output_name, outputs)

    def embed(self, image: Image.Image, filter_name: str) -> Floats:
        """The unit-length embedding of a decoded image, resized with the named filter."""
        manifest = self.manifest
        how = manifest.preprocessing
        tensor = to_tensor(resize(image, how, filter_name), how)
        (output,) = self.session.run(
            [manifest.output_name], {manifest.input_name: tensor}
        )
        vector = take_vector(output, manifest.take).astype(np.float64)
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


def require_float(kind: str, name: str, ports: dict[str, str]) -> None:
    if name not in ports:
        raise ManifestError(
            f'the model has no {kind} "{name}"; it has {", ".join(ports)}'
        )
    if ports[name] != "tensor(float)":
        raise ManifestError(
            f'{kind} "{name}" is {ports[name]}; it has to be tensor(float)'
        )


def take_vector(output: Floats, take: str) -> Floats:
    """The embedding within the output for a batch of one."""
    rank = 2 if take == "vector" else 3
    if output.ndim != rank:
        raise ManifestError(
            f'output.take = "{take}" needs {rank} axes; the output is {output.shape}'
        )
    if take == "vector":
        return np.asarray(output[0])
    return np.asarray(output[0, 0] if take == "first_token" else output[0].mean(axis=0))


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
        print(f"  {name:9} {cosine:.5f}")
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
    wrong = (name for name in FILTERS if name != right)
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
