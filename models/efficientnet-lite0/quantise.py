#!/usr/bin/env python3
"""Build model.int8.onnx from model.onnx: static quantisation to 8 bits, and its golden embedding.

Ranges of activations are taken from photographs: those of the sample (examples/photos of this
repository) whose labels are set aside for calibration, so that everybody can make the same file,
and no label that error rates are measured on has a part in it. Weights are signed, one scale for
each channel; activations are unsigned, which is the pair that processors have instructions for.

Needs numpy, Pillow, onnx 1.23.2, sympy and onnxruntime 1.32.0. The file is the same, byte for
byte, on every run.
"""

import argparse
import csv
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from golden import MEAN, STD, squash
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

Array = npt.NDArray[Any]

FOLDER = Path(__file__).resolve().parent
SAMPLE = FOLDER.parent.parent / "examples" / "photos"
MODEL_SHA256 = "a9e7c6ee11a0c7de34af6429930d8b8c835df7801b8d240887b3d63d59e83325"
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
# For the method "percentile": what lies beyond is clipped.
PERCENTILE = 99.995


def tensor(path: Path) -> Array:
    """An opaque, upright photograph as the model takes it."""
    pixels = squash(Image.open(path).convert("RGB"))
    values = (pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[np.newaxis], np.float32)


def calibration_images(sample: Path) -> list[Path]:
    """The photographs of labels that are set aside for calibration, in the order of the list."""
    with (sample / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [sample / row["path"] for row in rows if row["split"] == "calib"]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands the calibration images to the quantiser, one at a time."""

    def __init__(self, paths: list[Path]) -> None:
        self.tensors: Iterator[Array] = map(tensor, paths)

    def get_next(self) -> dict[str, Array] | None:
        value = next(self.tensors, None)
        return None if value is None else {"pixels": value}


def quantise(images: list[Path], method: str) -> bytes:
    """The quantised model, as the bytes of one ONNX file."""
    options: dict[str, Any] = {
        "ActivationSymmetric": False,
        "WeightSymmetric": True,
        "CalibTensorRangeSymmetric": False,
    }
    if method == "percentile":
        options["CalibPercentile"] = PERCENTILE
    with tempfile.TemporaryDirectory() as folder:
        prepared, out = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(FOLDER / "model.onnx", prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            out,
            Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
            extra_options=options,
        )
        model = onnx.load(out)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Build model.int8.onnx from model.onnx.",
        epilog="""examples:
  quantise.py                              make model.int8.onnx, and compare its SHA-256
  quantise.py --method entropy --out try.onnx
  golden.py --precision int8               then its golden embedding, golden.int8.f32""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--images",
        type=Path,
        default=SAMPLE,
        help="folder with labels.csv (columns path, split); default: examples/photos",
    )
    parser.add_argument("--method", choices=METHODS, default="percentile")
    parser.add_argument("--out", type=Path, default=FOLDER / "model.int8.onnx")
    arguments = parser.parse_args()

    images = calibration_images(arguments.images)
    if not images:
        print(f"no image of split calib in {arguments.images}", file=sys.stderr)
        return 1
    model = quantise(images, arguments.method)
    sha256 = hashlib.sha256(model).hexdigest()
    arguments.out.write_bytes(model)
    print(f"{sha256}  {arguments.out.name} ({len(model)} bytes, {len(images)} images)")
    usual = arguments.method == "percentile" and arguments.images == SAMPLE
    if usual and sha256 != MODEL_SHA256:
        print(f"this is not the file that was published: {MODEL_SHA256}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
