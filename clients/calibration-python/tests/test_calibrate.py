"""What a result holds, what is refused, and what is wrong input."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import matchpoint_calibration as mc
import numpy as np
import pytest
from sample import make

SAMPLE = make()


def test_a_result_says_what_is_promised_and_what_was_measured() -> None:
    found = mc.calibrate(**SAMPLE.arguments(), target_far=0.1)
    assert found.certified
    assert found.goal == "promised FAR <= 10 % per search, at 95 % confidence"
    assert found.far_bound is not None and found.far_bound <= 0.1
    assert found.far is not None and found.far.lower <= found.far.value <= found.far.upper
    assert found.far.labels == 120 and found.far.trials == 240
    assert found.held_out_frr is not None and found.opis is not None and found.recall_at_1 is not None
    assert found.frr_bound is None
    assert found.assumptions and f"accept from {found.threshold:.4f}" in str(found)
    content = json.loads(found.operating_point.json)["content"]
    assert np.float32(found.threshold) == np.float32(content["threshold"])


def test_scores_are_accepted_as_the_service_compares_them() -> None:
    found = mc.calibrate(**SAMPLE.arguments(), equal_error=True)
    at = np.float32(found.threshold)
    below = np.nextafter(at, np.float32(-1))
    # Doubles that single precision does not tell from the threshold are the threshold.
    near = float(at) - 1e-10
    assert found.accepts([at, below, near, np.nan, 1.0]).tolist() == [True, False, True, False, True]


def test_a_threshold_above_one_accepts_nothing_however_scores_were_rounded() -> None:
    # Each stranger finds a copy of itself, by a product that rounds to above 1: only a threshold above that is left.
    names = [f"stranger {number}" for number in range(40)]
    scores = np.full(40, 1.0005, dtype=np.float32)
    asked: dict[str, Any] = {"query_labels": names, "found": ["cup"] * 40, "labels": ["cup", "jug"]}
    found = mc.calibrate(scores=scores, **asked, target_far=0.1)
    assert found.threshold > 1 and found.far is not None and found.far.events == 0
    assert not found.accepts(scores).any() and not found.accepts([found.threshold, 1.0, 1.001]).any()
    # As the calibration counts them, and by the same words refuses them.
    anything = mc.calibrate(**SAMPLE.arguments(), equal_error=True)
    assert anything.accepts([1.001, -1.001]).tolist() == [True, False]
    for beyond in (1.5, -37.0, np.inf):
        with pytest.raises(mc.InputError, match="row 1 of scores is outside of -1 to 1"):
            anything.accepts([0.5, beyond])


def test_scores_of_the_services_arithmetic_are_decided_as_they_were_counted() -> None:
    # Numpy's products may put the nearest stranger on the other side: the threshold is the next number above it.
    found = mc.calibrate(**SAMPLE.arguments(), target_far=0.1)
    scores = mc.similarities(SAMPLE.queries, SAMPLE.gallery)
    assert scores.dtype == np.float32 and scores.shape == (len(SAMPLE.queries), len(SAMPLE.gallery))
    is_stranger = np.array([label not in SAMPLE.labels for label in SAMPLE.query_labels])
    accepted = found.accepts(scores.max(axis=1))
    assert found.far is not None and int(accepted[is_stranger].sum()) == found.far.events
    assert 1 - mc.similarities(SAMPLE.gallery[:1], SAMPLE.gallery[:1]).item() < 1e-6
    with pytest.raises(mc.InputError, match="queries have 24 components and items 2"):
        mc.similarities(SAMPLE.queries, MATRIX)


def test_the_record_is_sealed_and_can_be_kept(tmp_path: Path) -> None:
    point = mc.calibrate(**SAMPLE.arguments(), target_far=0.1).operating_point
    path = point.save(tmp_path)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["id"] == point.id and record["format"] == 1
    recording = json.loads((tmp_path / "recordings" / path.name).read_text(encoding="utf-8"))
    assert recording["digest"] == record["content"]["calibration_digest"]
    assert len(recording["searches"]) == len(SAMPLE.queries)


def test_a_notebook_shows_the_report_in_a_frame_where_nothing_runs() -> None:
    found = mc.calibrate(**SAMPLE.arguments(), target_far=0.1, name="<b>mine</b>")
    shown = found._repr_html_()
    assert "<iframe sandbox" in shown and "<script" not in shown and "<b>mine" not in shown
    assert found.report.startswith("<!DOCTYPE html>")


def test_too_few_strangers_are_refused_with_what_it_takes() -> None:
    with pytest.raises(mc.RefusedError) as caught:
        mc.calibrate(**SAMPLE.arguments(), target_far=0.001)
    refused = pickle.loads(pickle.dumps(caught.value))
    assert refused.reason == "CALIBRATION_UNDERPOWERED"
    assert (refused.needed, refused.present) == (2995, 120)
    assert refused.best_supported is not None and 0.02 < refused.best_supported < 0.03
    assert "2995 labels of strangers" in str(refused) and "<!DOCTYPE html>" in refused.report


def test_scores_give_the_threshold_that_their_vectors_give() -> None:
    similarities = mc.similarities(SAMPLE.queries, SAMPLE.gallery)
    labels: dict[str, Any] = {"labels": SAMPLE.labels, "query_labels": SAMPLE.query_labels}
    by_vectors = mc.calibrate(**SAMPLE.arguments(), target_far=0.1)
    assert repr(by_vectors).startswith(f"<Calibration {by_vectors.operating_point.id}: accept from")
    by_matrix = mc.calibrate(scores=similarities, **labels, target_far=0.1)
    best = similarities.argmax(axis=1)
    found = [SAMPLE.labels[column] for column in best]
    by_best = mc.calibrate(scores=similarities.max(axis=1), found=found, **labels, target_far=0.1)
    assert by_matrix.threshold == by_best.threshold
    assert by_vectors.threshold == by_matrix.threshold
    assert by_matrix.far == by_best.far and by_matrix.frr == by_vectors.frr
    assert by_matrix.opis is None
    assert any("Only scores were given" in assumption for assumption in by_matrix.assumptions)


def test_copies_are_doubted_and_not_counted() -> None:
    queries = np.concatenate([SAMPLE.queries, SAMPLE.gallery[:2]])
    found = mc.calibrate(
        embeddings=SAMPLE.gallery,
        labels=SAMPLE.labels,
        queries=queries,
        query_labels=[*SAMPLE.query_labels, SAMPLE.labels[0], SAMPLE.labels[1]],
        target_far=0.1,
    )
    assert any("2 queries are items of the gallery" in doubt for doubt in found.doubts)
    assert found.frr is not None and found.frr.trials == 60


MATRIX = [[1.0, 0.0], [0.0, 1.0]]
AB = ["a", "b"]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"embeddings": MATRIX, "labels": ["a"], "equal_error": True}, "labels has 1 entries, and embeddings has 2 rows"),
    ({"embeddings": MATRIX, "labels": "ab", "equal_error": True}, "labels is str; give a list"),
    ({"embeddings": MATRIX, "labels": ["a", ""], "equal_error": True}, "entry 1 of labels is empty"),
    ({"embeddings": MATRIX, "labels": ["a", None], "equal_error": True}, "entry 1 of labels is None"),
    ({"embeddings": MATRIX, "labels": ["a", 0.5], "equal_error": True}, "entry 1 of labels is 0.5"),
    ({"embeddings": MATRIX, "labels": ["a", "b\n"], "equal_error": True}, "control character"),
    ({"embeddings": MATRIX, "labels": ["a", "a"], "equal_error": True}, "all rows show 'a'"),
    ({"embeddings": [], "labels": [], "equal_error": True}, "shape (0,)"),
    ({"embeddings": np.zeros((0, 4)), "labels": [], "equal_error": True}, "embeddings is empty"),
    ({"embeddings": [1.0, 2.0], "labels": AB, "equal_error": True}, "shape (2,); give one row for each"),
    ({"embeddings": [[1.0], [1.0, 2.0]], "labels": AB, "equal_error": True}, "embeddings"),
    ({"embeddings": [["x"], ["y"]], "labels": AB, "equal_error": True}, "embeddings holds <U1"),
    (
        {"embeddings": [[1.0, np.nan], [0.0, 1.0]], "labels": AB, "equal_error": True},
        "row 0 of embeddings holds NaN",
    ),
    (
        {"embeddings": [[1.0, 0.0], [0.0, 1e300]], "labels": AB, "equal_error": True},
        "row 1 of embeddings holds",
    ),
    (
        {"embeddings": [[1.0, 0.0], [0.0, 0.0]], "labels": AB, "equal_error": True},
        "row 1 of embeddings is zero",
    ),
    (
        {"embeddings": np.ma.masked_greater(MATRIX, 0.5), "labels": AB, "equal_error": True},
        "embeddings has masked entries; leave their rows out",
    ),
    (
        {"embeddings": list(np.ma.masked_greater([[1.0, 0.2], [0.1, 0.3]], 0.5)), "labels": AB, "equal_error": True},
        "embeddings has masked entries;",
    ),
    (
        {"scores": np.ma.masked_greater([[0.5, 0.9]], 0.6), "labels": AB, "query_labels": ["a"], "equal_error": True},
        "scores has masked entries",
    ),
    (
        {
            "scores": [[0.5, np.ma.masked_array(0.9, mask=True)]],
            "labels": AB,
            "query_labels": ["a"],
            "equal_error": True,
        },
        "scores has masked entries",
    ),
    ({"embeddings": MATRIX, "labels": AB}, "give exactly one of target_far"),
    ({"embeddings": MATRIX, "labels": AB, "target_far": 0.1, "equal_error": True}, "there are 2"),
    ({"embeddings": MATRIX, "labels": AB, "target_far": 1}, "target FAR 1 is outside"),
    ({"embeddings": MATRIX, "labels": AB, "target_far": "1 %"}, "target_far is '1 %'; give a fraction"),
    ({"embeddings": MATRIX, "labels": AB, "target_far": 0.1, "confidence": 95}, "confidence 95 is outside"),
    ({"embeddings": MATRIX, "labels": AB, "target_far": 0}, "target FAR 0 is outside"),
    ({"embeddings": MATRIX, "labels": AB, "target_far": True}, "target_far is True; give a fraction"),
    ({"embeddings": MATRIX, "labels": AB, "target_far": 0.1, "estimated": 1}, "estimated is 1; give True or False"),
    (
        {"embeddings": MATRIX, "labels": AB, "costs": mc.Costs(np.nan, 1.0, 0.5)},
        "costs.false_accept is nan; give a number",
    ),
    ({"embeddings": MATRIX, "labels": AB, "costs": (100, 1, 0.5)}, "costs is (100, 1, 0.5); give Costs("),
    ({"embeddings": MATRIX, "labels": AB, "equal_error": True, "seed": -1}, "seed is -1"),
    ({"embeddings": MATRIX, "labels": AB, "equal_error": True, "seed": np.int64(-1)}, "give a whole number from 0"),
    ({"embeddings": MATRIX, "labels": AB, "equal_error": True, "grow_to": 0}, "grow_to goes with target_far"),
    ({"embeddings": MATRIX, "labels": AB, "equal_error": True, "created": "today"}, "created is 'today'; give"),
    ({"embeddings": MATRIX, "labels": AB, "equal_error": True, "grow_to": 10}, "grow_to goes with target_far"),
    (
        {"embeddings": MATRIX, "labels": AB, "equal_error": True, "ids": ["x", "x"]},
        "ids has 'x' twice, at 0 and 1",
    ),
    ({"embeddings": MATRIX, "labels": AB, "equal_error": True, "queries": MATRIX}, "query_labels is missing"),
    (
        {"embeddings": MATRIX, "labels": AB, "equal_error": True, "queries": [[1.0]], "query_labels": ["a"]},
        "queries have 1 components and embeddings 2",
    ),
    (
        {"embeddings": MATRIX, "labels": AB, "equal_error": True, "query_labels": ["a"]},
        "query_labels goes with queries",
    ),
    ({"labels": AB, "equal_error": True}, "give one of embeddings and scores"),
    (
        {"embeddings": MATRIX, "scores": MATRIX, "labels": AB, "equal_error": True},
        "give one of embeddings and scores",
    ),
    ({"scores": [0.5], "labels": AB, "equal_error": True}, "query_labels is missing"),
    ({"scores": [0.5], "labels": AB, "query_labels": ["a"], "equal_error": True}, "found is missing"),
    ({"scores": [0.5], "found": ["c"], "labels": ["a"], "query_labels": ["b"], "equal_error": True}, "found has 'c'"),
    (
        {"scores": [[0.5, np.nan]], "labels": AB, "query_labels": ["a"], "equal_error": True},
        "row 0 of scores holds NaN",
    ),
    ({"scores": [[0.5, 7.0]], "labels": AB, "query_labels": ["a"], "equal_error": True}, "outside of -1 to 1"),
    (
        {"embeddings": MATRIX, "labels": AB, "equal_error": True, "created": datetime(2026, 1, 1)},
        "created has no time zone",
    ),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[said for _, said in WRONG])
def test_wrong_input_is_named_with_what_to_do(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(mc.InputError) as caught:
        mc.calibrate(**arguments)
    assert said in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_labels_that_differ_by_spelling_are_refused_unless_vouched_for() -> None:
    labels = ["Red chair", *SAMPLE.query_labels[1:]]
    arguments: dict[str, Any] = {**SAMPLE.arguments(), "query_labels": labels}
    arguments["labels"] = ["red  chair", *SAMPLE.labels[1:]]
    with pytest.raises(mc.InputError, match="spelling"):
        mc.calibrate(**arguments, target_far=0.1)
    found = mc.calibrate(**arguments, target_far=0.1, labels_as_they_are=True)
    assert any("but for spelling" in assumption for assumption in found.assumptions)


def test_whole_numbers_and_arrays_are_labels() -> None:
    numbers = {label: number for number, label in enumerate(dict.fromkeys([*SAMPLE.labels, *SAMPLE.query_labels]))}
    found = mc.calibrate(
        embeddings=SAMPLE.gallery.astype(np.float16).tolist(),
        labels=np.array([numbers[label] for label in SAMPLE.labels]),
        queries=SAMPLE.queries[:, :],
        query_labels=np.array([numbers[label] for label in SAMPLE.query_labels], dtype=np.uint8),
        target_far=0.1,
    )
    assert found.certified


def test_numbers_and_truth_values_of_numpy_mean_what_pythons_mean() -> None:
    numpys: dict[str, Any] = {"confidence": np.float32(0.5), "seed": np.int64(3), "estimated": np.True_}
    of_numpy = mc.calibrate(**SAMPLE.arguments(), target_far=np.float32(0.125), **numpys)
    of_python = mc.calibrate(**SAMPLE.arguments(), target_far=0.125, estimated=True, confidence=0.5, seed=3)
    assert of_numpy.threshold == of_python.threshold
    assert of_numpy.findings["content"]["evidence"] == of_python.findings["content"]["evidence"]
    # A bound that is only estimated is none that is not exceeded.
    assert not of_python.certified and of_python.far_bound is None
    costs = mc.Costs(np.float32(8), np.int64(1), np.float16(0.5))
    whole = mc.calibrate(**SAMPLE.arguments(), costs=mc.Costs(8, 1, 0.5))
    assert mc.calibrate(**SAMPLE.arguments(), costs=costs).threshold == whole.threshold


def test_masked_scores_are_not_accepted() -> None:
    found = mc.calibrate(**SAMPLE.arguments(), equal_error=True)
    assert found.accepts(np.ma.masked_array([1.0, 1.0], mask=[True, False])).tolist() == [False, True]
    row: Any = np.ma.masked_array([1.0, 1.0], mask=[True, False])
    lists: list[Any] = [[row, row], ([row], [row]), [[[row], [row]]], [[np.ma.masked, 1.0]]]
    for nested in lists:
        accepted = found.accepts(nested)
        assert accepted.shape[-1] == 2 and not accepted[..., 0].any() and accepted[..., 1].all()
    # Nothing is masked here, so the numbers are all there is.
    unmasked: Any = np.ma.masked_array(SAMPLE.gallery)
    assert mc.calibrate(**{**SAMPLE.arguments(), "embeddings": unmasked}, equal_error=True).threshold == found.threshold


# Each takes far longer than the test waits: more than a minute on two cores, in a development build.
LONG = {
    "calibrate": "mc.calibrate(embeddings=random.normal(size=(120_000, 64)), labels=range(120_000), equal_error=True)",
    "similarities": "mc.similarities(*random.normal(size=(2, 6_000, 4_096)))",
}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted by /proc")
@pytest.mark.parametrize("call", LONG.values(), ids=LONG.keys())
def test_control_c_ends_long_work_once_it_is_underway(call: str) -> None:
    program = f"""
import numpy, os, signal, sys, matchpoint_calibration as mc
# What runs in the background is started with it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
random = numpy.random.default_rng(1)
print(len(os.listdir("/proc/self/task")), flush=True)
try:
    {call}
except KeyboardInterrupt:
    sys.exit(7)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        threads = int(running.stdout.readline())
        # The compiled module works on threads of its own: when there is one more, that has begun.
        while len(list(Path(f"/proc/{running.pid}/task").iterdir())) <= threads:
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        try:
            assert running.wait(timeout=10) == 7
        finally:
            running.kill()


def test_more_similarities_than_one_array_takes_are_refused() -> None:
    many = np.ones((40_000, 1), dtype=np.float32)
    with pytest.raises(mc.InputError, match="40000 queries and 40000 items have 1600000000 similarities"):
        mc.similarities(many, many)
