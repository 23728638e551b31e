#!/usr/bin/env python3
"""Make crates/arrays/tests/fixtures/arrays: the same small table as several programs and options write it.

Every file holds 6 rows of 4 values, value(row, column) = row + column / 8 - 2, which half,
single and double precision hold exactly. The tables beside them have the columns

  id      i0 to i5                label   a, a, b, b, c, c (row 3 is null in nulls.parquet)
  number  10 * row - 20           flag    row is even

Usage: make_array_fixtures.py FOLDER. Needs Python 3.11, numpy 2.4.6, pandas 3.1.1,
polars 2.1.0, pyarrow 26.0.1.
"""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

ROWS, DIMENSION = 6, 4


def values() -> npt.NDArray[np.float64]:
    row, column = np.indices((ROWS, DIMENSION))
    return row + column / 8 - 2


def write_numpy(folder: Path) -> None:
    table = values()
    np.save(folder / "c_f4.npy", table.astype("<f4"))
    np.save(folder / "fortran_f4.npy", np.asfortranarray(table.astype("<f4")))
    np.save(folder / "f2.npy", table.astype("<f2"))
    np.save(folder / "fortran_big_f8.npy", np.asfortranarray(table.astype(">f8")))
    np.save(folder / "integers.npy", table.astype("<i4"))
    np.save(folder / "flat.npy", table.astype("<f4").ravel())
    np.save(folder / "objects.npy", table.astype(object), allow_pickle=True)
    np.save(folder / "records.npy", np.zeros(ROWS, dtype=[("v", "<f4", (DIMENSION,)), ("n", "<i8")]))
    arrays = {"embeddings": table.astype("<f4"), "labels": np.arange(ROWS)}
    np.savez(folder / "stored.npz", **arrays)
    np.savez_compressed(folder / "deflated.npz", **arrays)
    np.savez(folder / "two.npz", first=table, second=table[::-1])
    rows = table.astype("<f4")
    lengths = np.full((ROWS, 1), DIMENSION, dtype="<i4")
    (folder / "six.fvecs").write_bytes(np.hstack([lengths.view("<f4"), rows]).tobytes())


def columns() -> dict[str, list]:
    return {
        "id": [f"i{row}" for row in range(ROWS)],
        "label": list("aabbcc"),
        "number": [10 * row - 20 for row in range(ROWS)],
        "flag": [row % 2 == 0 for row in range(ROWS)],
    }


def arrow(vectors: pa.Array) -> pa.Table:
    text = columns()
    return pa.table({**text, "vector": vectors})


def write_parquet(folder: Path) -> None:
    table = values()
    single = pa.array(table.astype("f4").ravel())
    fixed = pa.FixedSizeListArray.from_arrays(single, DIMENSION)
    offsets = list(range(0, ROWS * DIMENSION + 1, DIMENSION))
    doubles = pa.ListArray.from_arrays(offsets, pa.array(table.ravel()))
    pq.write_table(arrow(fixed), folder / "fixed_snappy.parquet")
    pq.write_table(arrow(doubles), folder / "doubles_gzip_v2.parquet", compression="gzip",
                   data_page_version="2.0")
    pq.write_table(arrow(fixed), folder / "groups_zstd.parquet", compression="zstd", row_group_size=2,
                   data_page_size=1, use_dictionary=["label"])
    split = ["vector.list.element"]
    pq.write_table(arrow(fixed), folder / "split_plain.parquet", compression="none",
                   use_dictionary=False, use_byte_stream_split=split)
    pq.write_table(arrow(fixed), folder / "brotli.parquet", compression="brotli")
    rows = table.astype("f4").tolist()
    pq.write_table(arrow(pa.array([*rows[:4], None, rows[5]])), folder / "null_row.parquet")
    pq.write_table(arrow(pa.array([*rows[:4], rows[4][:3], rows[5]])), folder / "ragged.parquet")
    nulls = columns() | {"label": ["a", "a", "b", None, "c", "c"], "when": [0.5] * ROWS}
    pq.write_table(pa.table({**nulls, "vector": fixed}), folder / "nulls.parquet")

    frame = pd.DataFrame({**columns(), "vector": list(table.astype("f4"))})
    frame["label"] = frame["label"].astype("category")
    frame.to_parquet(folder / "pandas.parquet")
    vector = pl.Series("vector", table.astype("f4"), dtype=pl.Array(pl.Float32, DIMENSION))
    pl.DataFrame([*(pl.Series(name, column) for name, column in columns().items()), vector]).write_parquet(
        folder / "polars.parquet"
    )


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_numpy(folder)
    write_parquet(folder)


if __name__ == "__main__":
    main()
