"""The module and `matchpoint calibrate --embeddings` say the same, to the last bit."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import matchpoint_calibration as mc
import numpy as np
import pytest
from sample import Sample, make

PROGRAM = os.environ.get("PROGRAM_TO_COMPARE_WITH")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="PROGRAM_TO_COMPARE_WITH names no program")

TARGETS: list[tuple[list[str], dict[str, object]]] = [
    (["--target-far", "0.1"], {"target_far": 0.1}),
    (
        ["--target-far", "0.05", "--confidence", "0.9", "--seed", "7"],
        {"target_far": 0.05, "confidence": 0.9, "seed": 7},
    ),
    (["--target-far", "0.05", "--estimated"], {"target_far": 0.05, "estimated": True}),
    (["--target-far", "0.1", "--grow-to", "60"], {"target_far": 0.1, "grow_to": 60}),
    (["--target-far", "0.1", "--worst-group-of", "camera"], {"target_far": 0.1, "worst_group_of": "camera"}),
    (["--target-far", "0.1", "--review-frr", "0.2"], {"target_far": 0.1, "review_frr": 0.2}),
    (["--target-frr", "0.3", "--confidence", "0.9"], {"target_frr": 0.3, "confidence": 0.9}),
    (["--equal-error"], {"equal_error": True}),
    (
        ["--min-cost", "--cost-false-accept", "10", "--cost-false-reject", "1", "--prior-mated", "0.5"],
        {"costs": mc.Costs(false_accept=10, false_reject=1, prior_mated=0.5)},
    ),
    (["--target-far", "0.0001"], {"target_far": 0.0001}),
]


def command(sample: Sample, folder: Path, flags: list[str], dtype: str = "<f4") -> tuple[dict[str, Any], str]:
    """What the program prints of a sample, and its report."""
    assert PROGRAM is not None
    np.save(folder / "vectors.npy", np.concatenate([sample.gallery, sample.queries]).astype(dtype))
    enrolled = set(sample.labels)
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "label", "role", "camera"])
        rows.writerows((f"item {row}", label, "gallery", "shop") for row, label in enumerate(sample.labels))
        for row, (label, camera) in enumerate(zip(sample.query_labels, sample.cameras, strict=True)):
            rows.writerow([f"query {row}", label, "query" if label in enrolled else "unknown", camera])
    files = ["--embeddings", folder / "vectors.npy", "--labels", folder / "rows.csv"]
    call = [PROGRAM, "calibrate", *map(str, files), *flags, "--json", "--report", str(folder / "page.html")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 5), done.stderr
    return json.loads(done.stdout), (folder / "page.html").read_text(encoding="utf-8")


def read_time(text: str) -> datetime:
    """Of Python 3.10, too, which reads no Z."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def module(sample: Sample, created: str, asked: dict[str, object]) -> tuple[dict[str, Any], str, mc.Calibration | None]:
    """What the module finds in the same."""
    arguments: dict[str, Any] = {
        **sample.arguments(),
        **asked,
        "ids": [f"item {row}" for row in range(len(sample.labels))],
        "query_ids": [f"query {row}" for row in range(len(sample.query_labels))],
        "conditions": {"camera": ["shop"] * len(sample.labels)},
        "query_conditions": {"camera": sample.cameras},
        "name": "vectors.npy",
        "created": read_time(created),
    }
    try:
        found = mc.calibrate(**arguments)
    except mc.RefusedError as refused:
        return dict(refused.findings), refused.report, None
    return dict(found.findings), found.report, found


def difference(one: object, other: object, place: str = "") -> str | None:
    """The first place where two trees of JSON differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        pairs = [(str(key), one[key], other[key]) for key in one]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(str(row), *both) for row, both in enumerate(zip(one, other, strict=True))]
    else:
        return None if one == other else f"{place}: {str(one)[:200]} and {str(other)[:200]}"
    found = (difference(left, right, f"{place}/{key}") for key, left, right in pairs)
    return next((what for what in found if what), None)


@pytest.mark.parametrize(("flags", "asked"), TARGETS, ids=[" ".join(flags) for flags, _ in TARGETS])
def test_every_number_and_every_word_is_that_of_the_command(
    flags: list[str], asked: dict[str, object], tmp_path: Path
) -> None:
    sample = make()
    printed, page = command(sample, tmp_path, flags)
    content = printed["content"]
    findings, report, found = module(sample, content["created"] if content else "2026-01-01T00:00:00+00:00", asked)
    # Rows of the role unused, which only a list has.
    printed.pop("left_out")
    # Numbers are compared by their bits. Pytest would take minutes to show where two such trees differ.
    assert difference(findings, printed) is None
    assert (found is None) == (printed["outcome"] == "refused")
    if found is not None:
        assert difference(report.splitlines(), page.splitlines()) is None
        assert json.loads(found.operating_point.json)["content"] == content


def test_double_precision_is_rounded_as_the_command_rounds_it(tmp_path: Path) -> None:
    sample = make(seed=3)
    exact = np.random.default_rng(4).normal(size=sample.queries.shape) * 1e-9
    doubles = Sample(
        sample.gallery,
        sample.labels,
        (sample.queries.astype("f8") + exact),
        sample.query_labels,
        sample.cameras,
    )
    printed, _ = command(doubles, tmp_path, ["--equal-error"], "<f8")
    findings, _, _ = module(doubles, printed["content"]["created"], {"equal_error": True})
    assert difference(findings["content"], printed["content"]) is None


def test_a_gallery_that_searches_for_itself_is_the_same_too(tmp_path: Path) -> None:
    assert PROGRAM is not None
    sample = make()
    vectors = np.concatenate([sample.queries, sample.gallery])
    labels = sample.query_labels + sample.labels
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "rows.csv").write_text("label\n" + "\n".join(labels) + "\n", encoding="utf-8")
    call = [PROGRAM, "calibrate", "--embeddings", f"{tmp_path}/v.npy", "--labels", f"{tmp_path}/rows.csv"]
    done = subprocess.run([*call, "--target-far", "0.1", "--json"], capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout)
    created = read_time(printed["content"]["created"])
    found = mc.calibrate(embeddings=vectors, labels=labels, target_far=0.1, name="v.npy", created=created)
    printed.pop("left_out")
    assert difference(found.findings, printed) is None
    # Strangers that are enrolled are not independent.
    assert not found.certified and "does not promise" in found.goal
