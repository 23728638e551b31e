#!/usr/bin/env python3
"""Runs notebooks from the first cell to the last, as a reader would, and fails where a cell does.

    run_notebooks.py --in FOLDER NOTEBOOK...

Each runs in a folder of its own below FOLDER, beside links to the sample and the model. What it
showed stays there.
A notebook in the repository holds no output: it would go stale, and hide a change among numbers.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent


def problem_of(notebook: nbformat.NotebookNode) -> str | None:
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None):
            return f"cell {number} holds output; clear all outputs before it is saved"
    return None


def main() -> int:
    keep_lines = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=keep_lines)
    parser.add_argument("--in", dest="folder", type=Path, required=True)
    parser.add_argument("notebooks", nargs="+", type=Path)
    arguments = parser.parse_args()
    failed = 0
    for path in arguments.notebooks:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        problem = problem_of(notebook)
        # Within the repository's examples, as far as a notebook can tell.
        place = arguments.folder / path.stem
        place.mkdir()
        (place / "examples").symlink_to(ROOT / "examples")
        (place / "models").symlink_to(ROOT / "models")
        started = time.monotonic()
        # Over sockets in a folder of its own, which nobody else on the machine may read.
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(place / "kernel"))
        try:
            NotebookClient(
                notebook, km=kernel, timeout=300, resources={"metadata": {"path": str(place)}}
            ).execute()
        except CellExecutionError as error:
            problem = str(error)
        nbformat.write(notebook, place / path.name)
        if problem:
            failed += 1
            print(f"{path.name}: {problem}")
        else:
            print(f"{path.name}: {time.monotonic() - started:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
