"""What the module saves is taken by `matchpoint points import`, with the same threshold to the last bit."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import matchpoint_calibration as mc
import numpy as np
import pytest
from sample import Sample, make
from test_same_as_command import PROGRAM, TARGETS

needs_program = pytest.mark.skipif(PROGRAM is None, reason="PROGRAM_TO_COMPARE_WITH names no program")


def given(sample: Sample) -> dict[str, Any]:
    return {
        **sample.arguments(),
        "ids": [f"item {row}" for row in range(len(sample.labels))],
        "query_conditions": {"camera": sample.cameras},
    }


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    assert PROGRAM is not None
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False)


def build(sample: Sample, folder: Path) -> Path:
    """A deployment of the gallery."""
    np.save(folder / "vectors.npy", sample.gallery)
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as file:
        rows = ((f"item {row}", label) for row, label in enumerate(sample.labels))
        csv.writer(file).writerows([("id", "label"), *rows])
    vectors = ["--embeddings", folder / "vectors.npy", "--labels", folder / "rows.csv"]
    built = run("build", folder / "shop", *vectors, "--vectors-of", "made up")
    assert built.returncode == 0, built.stderr
    return folder / "shop"


@needs_program
def test_each_policy_comes_to_the_same_in_a_deployment(tmp_path: Path) -> None:
    sample = make()
    shop = build(sample, tmp_path)
    for flags, asked in TARGETS:
        arguments: dict[str, Any] = {**given(sample), **asked}
        try:
            found = mc.calibrate(**arguments)
        except mc.RefusedError:
            continue
        # Into the same folder, again and again: the latest counts.
        done = run("points", "import", shop, found.save(tmp_path / "saved"), "--json")
        assert done.returncode == 0, f"{flags}: {done.stderr}"
        imported = json.loads(done.stdout)
        assert imported["active"] and imported["made_as"] == found.operating_point.id
        assert np.float32(imported["content"]["threshold"]) == np.float32(found.threshold), flags
        for what in ("policy", "promise", "evidence", "measured", "trials", "calibration_digest"):
            assert imported["content"].get(what) == found.findings["content"].get(what), (flags, what)


@needs_program
def test_ids_that_the_deployment_does_not_know_are_refused(tmp_path: Path) -> None:
    sample = make()
    shop = build(sample, tmp_path)
    arguments = given(sample)
    arguments.pop("ids")
    done = run("points", "import", shop, mc.calibrate(**arguments, equal_error=True).save(tmp_path / "saved"))
    assert done.returncode == 4
    assert "30 of its items are not here (row 0, row 1, row 2 and 27 more)" in done.stderr


def test_vectors_that_were_changed_are_not_saved(tmp_path: Path) -> None:
    sample = make()
    found = mc.calibrate(**given(sample), equal_error=True)
    sample.queries[0, 0] += 1
    with pytest.raises(mc.InputError, match="changed since they were calibrated"):
        found.save(tmp_path)


def test_scores_and_a_gallery_alone_have_nothing_to_search_for_again(tmp_path: Path) -> None:
    sample = make()
    scores = mc.similarities(sample.queries, sample.gallery)
    by_scores = mc.calibrate(scores=scores, labels=sample.labels, query_labels=sample.query_labels, equal_error=True)
    vectors, labels = np.concatenate([sample.gallery, sample.queries]), sample.labels + sample.query_labels
    by_itself = mc.calibrate(embeddings=vectors, labels=labels, equal_error=True)
    for found in (by_scores, by_itself):
        with pytest.raises(mc.InputError, match=r"operating_point\.save"):
            found.save(tmp_path)
    assert by_itself.operating_point.save(tmp_path).exists()
