#!/usr/bin/env python3
"""What another precision of a model costs and gains: cosine, error rates, time.

Embeds a set of labelled images with each ONNX file, by the reference pipeline of the shipped model
(Pillow, onnxruntime on one thread), compares every query with every gallery item in f64, and times
the files in turn by the time of the thread. The set is a folder with labels.csv: path, label (or
class), split (calib or test), role (gallery, query, unknown).
"""

import argparse
import csv
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

Array = npt.NDArray[Any]


def tensor(path: Path) -> Array:
    """An image as the shipped model takes it."""
    image = Image.open(path)
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255,) * 4), image)
    pixels = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
    values = (pixels.astype(np.float32) - 127) / 128
    return np.ascontiguousarray(values.transpose(2, 0, 1)[np.newaxis])


def session(path: Path) -> onnxruntime.InferenceSession:
    """One thread, as a worker of the service has it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def embed(model: onnxruntime.InferenceSession, images: list[Array]) -> Array:
    """Unit-length embeddings in f64."""
    rows = [model.run(None, {"pixels": image})[0][0].astype(np.float64) for image in images]
    matrix = np.stack(rows)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def rates(embeddings: Array, rows: list[dict[str, str]]) -> dict[str, Any]:
    """Recall@1, pairwise FRR and threshold at FAR 1e-2, FNIR at FPIR 1e-1."""
    labels = np.array([row.get("label") or row["class"] for row in rows])
    role = np.array([row["role"] for row in rows])
    gallery, query, unknown = (np.flatnonzero(role == name) for name in ("gallery", "query", "unknown"))
    scores = embeddings[query] @ embeddings[gallery].T
    same = labels[query][:, None] == labels[gallery][None, :]
    best = scores.argmax(axis=1)
    right = labels[gallery][best] == labels[query]
    mated = np.sort(scores[same])
    strangers = np.sort(scores[~same])[::-1]
    threshold = strangers[int(0.01 * strangers.size)]
    top = scores.max(axis=1)
    alarms = np.sort((embeddings[unknown] @ embeddings[gallery].T).max(axis=1))[::-1]
    search = alarms[int(0.1 * alarms.size)]
    return {
        "recall": right.mean(),
        "frr": (mated <= threshold).mean(),
        "fnir": 1 - (right & (search < top)).mean(),
        "threshold": threshold,
        "strangers": strangers,
    }


def times(models: list[onnxruntime.InferenceSession], image: Array, rounds: int) -> list[float]:
    """Least milliseconds of thread time for an image, the models in turn."""
    least = [float("inf")] * len(models)
    for _ in range(rounds):
        for place, model in enumerate(models):
            started = time.thread_time()
            for _ in range(5):
                model.run(None, {"pixels": image})
            least[place] = min(least[place], (time.thread_time() - started) / 5 * 1e3)
    return least


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="""example:
  precision.py --set examples/photos --split test \\
      models/efficientnet-lite0/model.onnx models/efficientnet-lite0/model.int8.onnx""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", type=Path, help="ONNX files; the first is the reference")
    parser.add_argument("--set", type=Path, required=True, help="folder with labels.csv")
    parser.add_argument("--split", default="test", help="which labels [default: test]")
    parser.add_argument("--rounds", type=int, default=40, help="rounds of timing [default: 40]")
    arguments = parser.parse_args()

    with (arguments.set / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == arguments.split]
    rows = [row for row in rows if row["role"] in ("gallery", "query", "unknown")]
    images = [tensor(arguments.set / row["path"]) for row in rows]
    models = [session(path) for path in arguments.models]
    embeddings = [embed(model, images) for model in models]
    found = [rates(matrix, rows) for matrix in embeddings]
    took = times(models, images[0], arguments.rounds)
    print(
        f"{len(rows)} images of {arguments.set.name}/{arguments.split}; "
        f"onnxruntime {onnxruntime.__version__}, {platform.processor() or platform.machine()}, 1 thread"
    )
    print("file                  cosine mean/min  Recall@1  FRR@FAR.01  FNIR@FPIR.1  FAR carried  ms      x")
    for place, path in enumerate(arguments.models):
        cosines = (embeddings[0] * embeddings[place]).sum(axis=1)
        own = found[place]
        carried = (found[0]["threshold"] < own["strangers"]).mean()
        print(
            f"{path.name:<20}  {cosines.mean():.4f} / {cosines.min():.4f}  {own['recall']:.4f}    "
            f"{own['frr']:.4f}      {own['fnir']:.4f}       {carried:.4f}      "
            f"{took[place]:6.2f}  {took[0] / took[place]:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
