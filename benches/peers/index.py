"""Compares the index of crates/gallery/src/index with its peers on the same vectors.

Needs numpy and crates/gallery/benches/index.rs for our side, and from PyPI the peers that are asked for:
hnswlib, faiss-cpu, usearch, rabitqlib (SymphonyQG, and HNSW with RaBitQ codes), scann, scalable-vs (SVS).
From the root of the repository:

  cargo bench --bench index --no-run
  python benches/peers/index.py --ours --folder /tmp/index

Sets, each with a fixed seed:
  A  200,000 x 128: a mixture of 2,000 clusters. Centres of unit length in random directions, each row a
     centre plus normal noise of length 0.7, scaled to unit length. Queries are drawn alike.
  R  100,000 x 1,280: rows of real embeddings (--embeddings, .npy files) plus three times 0.2 of the
     difference of two of them, scaled to unit length. Queries are drawn alike.
  T  100,000 x 128: as A, with 40 clusters and noise of length 0.1, and a tenth of the rows all the same one:
     what shops and cameras have, and more than 8-bit codes can tell apart.
  U  100,000 x 64: random directions. Nothing is near anything, which is the hardest for a graph.
  S  2,000,000 x 32: as A.
  O  60,000 x 1,280: rows as R; queries are made alike from embeddings of other things (--asked), so that
     they lie outside of what the graph was built on.

A row counts as found if it is as near as the tenth nearest: of rows that are equally near, any will do.

Every measurement is taken in turn for all of them, --rounds times over, and the fastest is reported.
CPU time is that of all threads that search; it does not count what other programs take. The latency of a
single query includes the call from Python for the peers and not for ours. All are built with two
threads. The bytes per row of the peers include their copy of the vectors. Ours keeps none and computes scores
from those of its caller, which are not counted: 4 bytes a value. HNSW with RaBitQ codes keeps no vectors and
decides by its codes. ScaNN has no breadth: in its place is the number of leaves, half of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

K = 10
WIDTHS = (10, 14, 20, 28, 40, 64, 100, 160, 300)
BUILD_THREADS = 2
ROOT = Path(__file__).resolve().parents[2]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clusters(
    rows: int, queries: int, centres: int = 2000, noise: float = 0.7, dimension: int = 128
) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    middle = unit(draw.standard_normal((centres, dimension)))

    def sample(count: int) -> np.ndarray:
        added = draw.standard_normal((count, dimension), dtype=np.float32)
        return unit(middle[draw.integers(0, centres, count)] + noise / np.sqrt(dimension) * added)

    return sample(rows), sample(queries)


def tight(rows: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    found, asked = clusters(rows, queries, 40, 0.1)
    found[np.random.default_rng(3).permutation(rows)[: rows // 10]] = found[0]
    return found, asked


def directions(rows: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(4)
    return unit(draw.standard_normal((rows, 64))), unit(draw.standard_normal((queries, 64)))


def differences(
    files: list[Path], asked: list[Path], rows: int, queries: int
) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(2)

    def sample(real: np.ndarray, count: int) -> np.ndarray:
        def pick() -> np.ndarray:
            return real[draw.integers(0, len(real), count)]

        made = pick()
        for _ in range(3):
            made = made + 0.2 * (pick() - pick())
        return unit(made)

    def read(files: list[Path]) -> np.ndarray:
        return np.concatenate([unit(np.load(file)) for file in files])

    return sample(read(files), rows), sample(read(asked), queries)


def nearest(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    found = np.empty((len(queries), K), np.int32)
    for start in range(0, len(queries), 500):
        scores = queries[start : start + 500] @ rows.T
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        found[start : start + 500] = best
    return found


def resident() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


class Peer:
    """An index in this process: `search(queries, width, threads)` gives the rows found."""

    def __init__(self, name: str, rows: np.ndarray, build: Callable[[], tuple[Callable, int]]) -> None:
        self.name, self.vectors = name, rows
        before, wall, cpu = resident(), time.perf_counter(), time.process_time()
        self.search, rows = build()
        self.about = {
            "build_s": time.perf_counter() - wall,
            "build_cpu_s": time.process_time() - cpu,
            "bytes_per_row": (resident() - before) / rows,
        }

    def measure(self, queries: np.ndarray, truth: np.ndarray, width: int, threads: int) -> dict:
        wall, cpu = time.perf_counter(), time.process_time()
        found = self.search(queries, width, threads)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        least = self.scores(queries, truth).min(1)
        hits = ((0 <= found) & (least[:, None] - 1e-9 <= self.scores(queries, found))).mean()
        return {"recall": float(hits), "wall_s": wall, "cpu_s": cpu, "queries": len(queries)}

    def scores(self, queries: np.ndarray, found: np.ndarray) -> np.ndarray:
        parts = range(0, len(queries), 500)
        return np.concatenate(
            [
                np.einsum(
                    "qd,qkd->qk",
                    queries[start : start + 500].astype(np.float64),
                    self.vectors[found[start : start + 500]].astype(np.float64),
                )
                for start in parts
            ]
        )

    def latency(self, queries: np.ndarray, width: int) -> tuple[float, float]:
        took = []
        for query in queries[:2000]:
            start = time.perf_counter_ns()
            self.search(query[None], width, 1)
            took.append((time.perf_counter_ns() - start) / 1000)
        return float(np.percentile(took, 50)), float(np.percentile(took, 99))


def program() -> Path:
    """crates/gallery/benches/index.rs as it was compiled last."""
    files = (ROOT / "target" / "release" / "deps").glob("index-*")
    programs = [file for file in files if not file.suffix]
    if not programs:
        raise SystemExit("there is no target/release/deps/index-*: run cargo bench --bench index --no-run")
    return max(programs, key=lambda file: file.stat().st_mtime)


class Ours:
    """Our index, in a process of its own."""

    def __init__(self, command: list[str], folder: Path, links: int, breadth: int) -> None:
        self.name = "ours"
        self.folder = folder
        self.process = subprocess.Popen(
            [*command, folder / "rows.npy", folder / "queries.npy", str(links), str(breadth)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "RAYON_NUM_THREADS": str(BUILD_THREADS)},
        )
        self.about = self.answer()

    def answer(self) -> dict:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def measure(self, _queries: np.ndarray, _truth: np.ndarray, width: int, threads: int) -> dict:
        assert self.process.stdin is not None
        self.process.stdin.write(f"search {self.folder / 'truth.npy'} {width} {threads}\n")
        self.process.stdin.flush()
        return self.answer()

    def latency(self, queries: np.ndarray, width: int) -> tuple[float, float]:
        found = self.measure(queries, queries, width, 1)
        return found["p50_us"], found["p99_us"]


def build_hnswlib(rows: np.ndarray, links: int, breadth: int) -> tuple[Callable, int]:
    import hnswlib

    index = hnswlib.Index("ip", rows.shape[1])
    index.init_index(len(rows), M=links, ef_construction=breadth)
    index.add_items(rows, num_threads=BUILD_THREADS)

    def search(queries: np.ndarray, width: int, threads: int) -> np.ndarray:
        index.set_ef(width)
        return index.knn_query(queries, K, num_threads=threads)[0].astype(np.int32)

    return search, len(rows)


def build_faiss(rows: np.ndarray, links: int, breadth: int) -> tuple[Callable, int]:
    import faiss

    faiss.omp_set_num_threads(BUILD_THREADS)
    index = faiss.IndexHNSWFlat(rows.shape[1], links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = breadth
    index.add(rows)

    def search(queries: np.ndarray, width: int, threads: int) -> np.ndarray:
        faiss.omp_set_num_threads(threads)
        index.hnsw.efSearch = width
        return index.search(queries, K)[1].astype(np.int32)

    return search, len(rows)


def build_faiss_sq8(rows: np.ndarray, links: int, breadth: int) -> tuple[Callable, int]:
    """8-bit codes, and the exact scores of the best of them, as ours."""
    import faiss

    faiss.omp_set_num_threads(BUILD_THREADS)
    dimension = rows.shape[1]
    codes = faiss.ScalarQuantizer.QT_8bit
    graph = faiss.IndexHNSWSQ(dimension, codes, links, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = breadth
    graph.train(rows)
    graph.add(rows)
    index = faiss.IndexRefineFlat(graph, faiss.swig_ptr(rows))
    index.k_factor = 2

    def search(queries: np.ndarray, width: int, threads: int) -> np.ndarray:
        faiss.omp_set_num_threads(threads)
        graph.hnsw.efSearch = width
        return index.search(queries, K)[1].astype(np.int32)

    return search, len(rows)


def build_usearch(
    rows: np.ndarray, links: int, breadth: int, dtype: str = "f32"
) -> tuple[Callable, int]:
    """Scores are of this precision: those of fewer bits are not computed anew."""
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="ip", dtype=dtype, connectivity=links, expansion_add=breadth)
    index.add(np.arange(len(rows)), rows, threads=BUILD_THREADS)

    def search(queries: np.ndarray, width: int, threads: int) -> np.ndarray:
        index.expansion_search = width
        return np.atleast_2d(index.search(queries, K, threads=threads).keys).astype(np.int32)

    return search, len(rows)


def build_symphonyqg(rows: np.ndarray, links: int, breadth: int) -> tuple[Callable, int]:
    import rabitqlib

    index = rabitqlib.SymqgIndex(rows.shape[1], 2 * links, metric="ip")
    index.build(rows, breadth, num_threads=BUILD_THREADS)

    def search(queries: np.ndarray, width: int, threads: int) -> np.ndarray:
        return np.asarray(index.search_batch(queries, K, width, threads)[0]).astype(np.int32)

    return search, len(rows)


def build_rabitq(rows: np.ndarray, links: int, breadth: int) -> tuple[Callable, int]:
    """Seven bits a value; scores are those of the codes."""
    import faiss
    import rabitqlib

    means = faiss.Kmeans(rows.shape[1], 16, seed=1)
    means.train(rows)
    nearest_mean = means.index.search(rows, 1)[1].ravel().astype(np.uint32)
    index = rabitqlib.HnswIndex(rows.shape[1], len(rows), links, breadth, nbits=7, metric="ip")
    index.build(rows, means.centroids, nearest_mean, num_threads=BUILD_THREADS)

    def search(queries: np.ndarray, width: int, threads: int) -> np.ndarray:
        return np.asarray(index.search(queries, K, width, threads)[0]).astype(np.int32)

    return search, len(rows)


def build_scann(rows: np.ndarray, _links: int, _breadth: int) -> tuple[Callable, int]:
    """Leaves, products of four-bit codes, the exact scores of the best 100: as its authors advise."""
    import scann

    index = (
        scann.scann_ops_pybind.builder(rows, K, "dot_product")
        .tree(num_leaves=int(2 * np.sqrt(len(rows))), num_leaves_to_search=10, training_sample_size=100_000)
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(100)
        .set_n_training_threads(BUILD_THREADS)
        .build()
    )

    def search(queries: np.ndarray, width: int, threads: int) -> np.ndarray:
        leaves = max(1, width // 2)
        if threads == 1:
            return index.search_batched(queries, leaves_to_search=leaves)[0].astype(np.int32)
        index.set_num_threads(threads)
        return index.search_batched_parallel(queries, leaves_to_search=leaves)[0].astype(np.int32)

    return search, len(rows)


def build_svs(rows: np.ndarray, links: int, breadth: int) -> tuple[Callable, int]:
    import svs

    about = svs.VamanaBuildParameters(graph_max_degree=2 * links, window_size=breadth, alpha=0.95)
    index = svs.Vamana.build(about, rows, svs.DistanceType.MIP, num_threads=BUILD_THREADS)

    def search(queries: np.ndarray, width: int, threads: int) -> np.ndarray:
        index.num_threads = threads
        index.search_window_size = width
        return index.search(queries, K)[0].astype(np.int32)

    return search, len(rows)


PEERS = {
    "hnswlib": build_hnswlib,
    "faiss": build_faiss,
    "faiss-sq8": build_faiss_sq8,
    "usearch": build_usearch,
    "usearch-bf16": partial(build_usearch, dtype="bf16"),
    "usearch-i8": partial(build_usearch, dtype="i8"),
    "symphonyqg": build_symphonyqg,
    "rabitq": build_rabitq,
    "scann": build_scann,
    "svs": build_svs,
}


def at_recall(points: list[tuple[float, float]], wanted: float) -> str:
    """Queries per second at a recall, linear between the two points around it."""
    points = sorted(points)
    if not points or points[-1][0] < wanted:
        return "-"
    if wanted <= points[0][0]:
        return f">{points[0][1]:.0f}"
    for (below, speed_below), (above, speed_above) in pairwise(points):
        if below <= wanted <= above:
            share = (wanted - below) / max(above - below, 1e-9)
            return f"{speed_below + (speed_above - speed_below) * share:.0f}"
    return "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=("A", "R", "T", "U", "S", "O"), default="A")
    parser.add_argument(
        "--ours",
        nargs="?",
        const="",
        metavar="COMMAND",
        help="measure our index too: the program and its leading arguments, in one string, or nothing for "
        '"target/release/deps/index-* serve" as cargo bench --bench index --no-run compiled it last',
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--embeddings", nargs="*", type=Path, default=[], help=".npy files, for sets R and O")
    parser.add_argument("--asked", nargs="*", type=Path, default=[], help=".npy files of queries, for set O")
    parser.add_argument(
        "--folder", type=Path, required=True, help="for the vectors, about 600 MB; no spaces in it"
    )
    parser.add_argument("--rows", type=int)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--links", type=int, default=16, help="M")
    parser.add_argument("--breadth", type=int, default=200, help="ef_construction")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    # Absolute, for a command that runs elsewhere, as cargo bench does.
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.set == "A":
        rows, queries = clusters(options.rows or 200_000, options.queries)
    elif options.set == "T":
        rows, queries = tight(options.rows or 100_000, options.queries)
    elif options.set == "U":
        rows, queries = directions(options.rows or 100_000, options.queries)
    elif options.set == "S":
        rows, queries = clusters(options.rows or 2_000_000, options.queries, dimension=32)
    else:
        asked = options.asked if options.set == "O" else options.embeddings
        default = 60_000 if options.set == "O" else 100_000
        rows, queries = differences(options.embeddings, asked, options.rows or default, options.queries)
    truth = nearest(rows, queries)
    for name, values in (("rows", rows), ("queries", queries), ("truth", truth)):
        np.save(options.folder / f"{name}.npy", values)
    contenders: list[Ours | Peer] = []
    if options.ours is not None:
        command = shlex.split(options.ours) or [str(program()), "serve"]
        contenders.append(Ours(command, options.folder, options.links, options.breadth))
        print(json.dumps({"index": "ours", **contenders[-1].about}), flush=True)
    for name in options.peers:
        build = PEERS[name]
        peer = Peer(name, rows, lambda build=build: build(rows, options.links, options.breadth))
        contenders.append(peer)
        print(json.dumps({"index": name, **peer.about}), flush=True)
    best: dict[tuple[str, int, int], dict] = {}
    for _ in range(options.rounds):
        for width in WIDTHS:
            for threads in (1, 2):
                for index in contenders:
                    found = index.measure(queries, truth, width, threads)
                    key = (index.name, threads, width)
                    kept = best.setdefault(key, found)
                    for measure in ("wall_s", "cpu_s"):
                        kept[measure] = min(kept[measure], found[measure])
    for index in contenders:
        for threads in (1, 2):
            runs = [(width, best[index.name, threads, width]) for width in WIDTHS]
            row: dict[str, object] = {"index": index.name, "threads": threads}
            for measure in ("cpu_s", "wall_s"):
                points = [(run["recall"], run["queries"] / run[measure]) for _, run in runs]
                for wanted in (0.95, 0.99):
                    row[f"per_{measure}_at_{wanted}"] = at_recall(points, wanted)
            width = next((width for width, run in runs if 0.95 <= run["recall"]), WIDTHS[-1])
            if threads == 1:
                row["width"] = width
                row["p50_us"], row["p99_us"] = index.latency(queries, width)
            row["runs"] = [
                (width, round(run["recall"], 4), round(run["queries"] / run["cpu_s"])) for width, run in runs
            ]
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
