"""Measures the gallery at sizes from 10,000 to 1,000,000 items, and draws how it grows.

Needs numpy and matplotlib from PyPI, and a release build. From the root of the repository:

  cargo build --release
  python benches/growth.py --folder /tmp/growth --plot docs/growth.svg

The vectors have 128 components: a mixture of clusters of 100 rows. Centres of unit length in random
directions, each row a centre plus normal noise of length 0.7, scaled to unit length, from a fixed seed.
Queries are drawn alike. Each size is measured by `matchpoint bench index`, whose results stay in the folder;
a size that is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
DIMENSION = 128
ROOT = Path(__file__).resolve().parents[1]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def draw_sets(size: int, folder: Path) -> tuple[Path, Path]:
    draw = np.random.default_rng(size)
    centres = unit(draw.standard_normal((size // 100, DIMENSION)))

    def sample(count: int) -> np.ndarray:
        noise = draw.standard_normal((count, DIMENSION), dtype=np.float32)
        return unit(centres[draw.integers(0, len(centres), count)] + 0.7 / np.sqrt(DIMENSION) * noise)

    base, queries = folder / "base.npy", folder / "queries.npy"
    # The last tenth is enrolled while searches are measured.
    np.save(base, sample(size * 10 // 9 + 1))
    np.save(queries, sample(1000))
    return base, queries


def measure(size: int, folder: Path, program: Path) -> dict:
    result = folder / f"{size}.json"
    if not result.exists():
        base, queries = draw_sets(size, folder)
        command = [program, "bench", "index", "--base", base, "--queries", queries, "--work", folder / "work"]
        found = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE).stdout
        result.write_bytes(found)
    return json.loads(result.read_bytes())


def at(report: dict, recall: float) -> dict:
    """The fastest search by one thread that reaches a recall."""
    reached = [one for one in report["searches"] if one["threads"] == 1 and recall <= one["recall"]]
    return max(reached, key=lambda one: one["per_second"])


def print_table(reports: list[dict]) -> None:
    print("| items | build, s | open, s | bytes an item | at recall .95 | at .99 | ef 128: recall, p50, p99 | exact, p50 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for one in reports:
        default = next(search for search in one["searches"] if search["threads"] == 1 and search["ef"] == 128)
        cells = [
            f"{one['items']:,}",
            f"{one['open']['build_seconds']:.1f}",
            f"{one['open']['seconds']:.2f}",
            f"{one['memory']['resident_bytes_per_item']:,.0f}",
            f"{at(one, 0.95)['per_second']:,.0f}/s",
            f"{at(one, 0.99)['per_second']:,.0f}/s",
            f"{default['recall']:.4f}, {default['p50_us']:.0f} us, {default['p99_us']:.0f} us",
            f"{one['exact']['p50_us'] / 1000:.2f} ms",
        ]
        print("| " + " | ".join(cells) + " |")


def plot(reports: list[dict], path: Path) -> None:
    sizes = [one["items"] for one in reports]
    mpl.rcParams["svg.hashsalt"] = "matchpoint"
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.plot(sizes, [one["exact"]["p50_us"] for one in reports], "o-", label="every item compared")
    for ef in (32, 128, 256):
        found = [next(s for s in one["searches"] if s["threads"] == 1 and s["ef"] == ef) for one in reports]
        left.plot(sizes, [one["p50_us"] for one in found], "o-", label=f"index, ef {ef}")
        right.plot(sizes, [one["recall"] for one in found], "o-", label=f"ef {ef}")
    left.set(xscale="log", yscale="log", xlabel="items", ylabel="median of a search, us", title="Time")
    right.set(xscale="log", xlabel="items", ylabel="recall@10", ylim=(0.9, 1.002), title="Recall")
    for axes in (left, right):
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where vectors and results go")
    parser.add_argument("--plot", type=Path, help="an SVG file to draw")
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/matchpoint")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    reports = [measure(size, options.folder, options.program) for size in options.sizes]
    print_table(reports)
    if options.plot:
        plot(reports, options.plot)


if __name__ == "__main__":
    main()
