#!/usr/bin/env python3
"""Build model.fp16.onnx from model.onnx: every weight in 16 bits, input and output still in 32.

For GPUs. On a CPU ONNX Runtime computes it in 32 bits with the weights rounded to 16, which is slower
than the original and good for checks only.

Needs numpy and onnx 1.23.2. The file is the same, byte for byte, on every run.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).resolve().parent
MODEL_SHA256 = "5705c42f6091e4af275fe0a72327bb083fcaf60152d8108e54309ea6c8f6de05"


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with weights and everything between input and output in 16 bits."""
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            rounded = values.astype(np.float16)
            if not np.isfinite(rounded).all():
                raise ValueError(f"{tensor.name} has values beyond 65,504")
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    del graph.value_info[:]
    (pixels,), (embedding,) = graph.input, graph.output
    for node in graph.node:
        node.input[:] = [f"{name}_half" if name == pixels.name else name for name in node.input]
        node.output[:] = [f"{name}_half" if name == embedding.name else name for name in node.output]
    first = helper.make_node("Cast", [pixels.name], [f"{pixels.name}_half"], to=TensorProto.FLOAT16)
    last = helper.make_node("Cast", [f"{embedding.name}_half"], [embedding.name], to=TensorProto.FLOAT)
    graph.node.insert(0, first)
    graph.node.append(last)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Build model.fp16.onnx from model.onnx.",
        epilog="""examples:
  half.py                        make model.fp16.onnx, and compare its SHA-256
  golden.py --precision fp16     then its golden embedding, golden.fp16.f32""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=FOLDER / "model.fp16.onnx")
    arguments = parser.parse_args()
    data = half(onnx.load(FOLDER / "model.onnx")).SerializeToString(deterministic=True)
    sha256 = hashlib.sha256(data).hexdigest()
    arguments.out.write_bytes(data)
    print(f"{sha256}  {arguments.out.name} ({len(data)} bytes)")
    if sha256 != MODEL_SHA256:
        print(f"this is not the file that was published: {MODEL_SHA256}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
