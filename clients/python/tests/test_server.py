"""The client against a real server, encrypted and with a key: scripts/test-python-client.sh builds, calibrates and
serves examples/photos, and sets the variables that clients read. What the tests enrol, they remove."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import PHOTOS, REPOSITORY
from google.rpc import code_pb2
from PIL import Image

import matchpoint
from matchpoint import Decision
from matchpoint.v1 import monitoring_pb2, retrieval_pb2, retrieval_pb2_grpc

pytestmark = pytest.mark.skipif("MATCHPOINT_SERVER" not in os.environ, reason="scripts/test-python-client.sh runs it")

# An enrolled label, whose queries took part in no calibration, and one that is never enrolled.
KNOWN = "gc_monuments_tajMahal"
UNKNOWN = "gc_world_animals_dragon"
NEW_ID = "python/\N{GREEK SMALL LETTER PI}"


def photo(label: str, name: str = "g0_ref.jpg") -> Path:
    return PHOTOS / "images" / label / name


def enrolled() -> int:
    """How many items the gallery was built from."""
    with (PHOTOS / "gallery.csv").open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def forget(client: Any, id: str) -> None:
    with contextlib.suppress(matchpoint.ItemNotFoundError):
        client.delete(id)


def test_the_server_describes_itself(client: Any) -> None:
    client.wait_until_ready()
    for service in ("", "liveness", "matchpoint.v1.RetrievalService"):
        assert client.health(service)
    info = client.info()
    (deployment,) = info.deployments
    assert (deployment.name, deployment.gallery_items) == ("photos", enrolled()) and deployment.within_calibrated_size
    assert len(deployment.model_fingerprint) == 64 and deployment.operating_point_id
    assert client.deployment("photos").search(photo(KNOWN)).accepted


def test_a_known_picture_is_accepted_with_its_label_and_a_stranger_is_not(client: Any) -> None:
    known = client.search(photo(KNOWN, "q2_photometric.jpg"), limit=3)
    assert known.accepted and known.label == known.best.label == KNOWN and len(known.matches) == 3
    assert known.best.score >= known.basis.threshold and known.basis.target_far == 0.10
    assert known.timings.inference_seconds > 0
    stranger = client.search(photo(UNKNOWN))
    assert stranger.decision is Decision.REJECT and not stranger.accepted and stranger.label is None
    assert stranger.best.score < stranger.basis.threshold
    answer = client.decide(photo(KNOWN, "q2_photometric.jpg"))
    assert (answer.accepted, answer.label, answer.item_id) == (True, KNOWN, known.best.id)
    assert answer.score == known.best.score


def test_the_same_picture_has_the_same_score_in_every_form(client: Any) -> None:
    path = photo(KNOWN, "q1_rotpersp.jpg")
    image = Image.open(path)
    expected = client.search(path).best
    pixels = numpy.asarray(image.convert("RGB"))
    for query in (path.read_bytes(), str(path), image, pixels):
        assert client.search(query).best == expected
    embedding = client.embed(path)
    for vector in (embedding.values, numpy.array(embedding.values, dtype="f4")):
        best = client.search(vector).best
        assert best.id == expected.id and abs(best.score - expected.score) < 1e-6


def test_options_reach_the_server(client: Any) -> None:
    path = photo(KNOWN, "q1_rotpersp.jpg")
    result = client.search(path, limit=5, filter=f"NOT label = {KNOWN}", one_per_label=True, conditions={"a": "b"})
    assert len(result.matches) == 5 and KNOWN not in [match.label for match in result.matches]
    assert not client.search(path, min_score=1.0, exact=True).matches
    hidden = client.search(photo(KNOWN, "q2_photometric.jpg"), min_score=1.0)
    assert (hidden.accepted, hidden.label, hidden.matches, hidden.decided) == (True, KNOWN, (), None)
    with pytest.raises(matchpoint.InvalidRequestError) as raised:
        client.search(path, filter="colour = red")
    assert raised.value.reason == "FILTER_INVALID"


def test_what_is_wrong_has_a_class_of_its_own(client: Any) -> None:
    whole = photo(KNOWN).read_bytes()
    for query, kind, reason in [
        (b"not an image", matchpoint.ImageError, "IMAGE_UNSUPPORTED_FORMAT"),
        (whole[: len(whole) // 2], matchpoint.ImageError, "IMAGE_UNDECODABLE"),
        (numpy.full((64, 64, 3), 7, dtype="u1"), matchpoint.ImageError, "IMAGE_WITHOUT_CONTENT"),
        ([1.0, 2.0], matchpoint.VectorError, "VECTOR_INVALID"),
    ]:
        with pytest.raises(kind) as raised:
            client.search(query)
        assert raised.value.reason == reason
    with pytest.raises(matchpoint.DeploymentNotFoundError, match="this server has: photos"):
        client.deployment("nowhere").search(whole)
    with pytest.raises(matchpoint.ItemNotFoundError):
        client.item("nothing")
    with pytest.raises(matchpoint.ItemError):
        client.enrol("", "label", whole)
    with pytest.raises(matchpoint.DecisionNotFoundError):
        client.decision("01890000-0000-7000-8000-000000000000")


def test_keys_and_certificates_are_asked_for(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(matchpoint.AuthenticationError, match=r"KEY_UNKNOWN.*matchpoint keys new"):
        connect(api_key="mp_" + "A" * 43).search(photo(KNOWN))
    monkeypatch.delenv("MATCHPOINT_API_KEY")
    with pytest.raises(matchpoint.AuthenticationError, match=r"KEY_MISSING.*api_key="):
        connect().search(photo(KNOWN))
    monkeypatch.delenv("MATCHPOINT_SERVER_CA")
    with pytest.raises(matchpoint.UnreachableError, match="server_ca="):
        connect().search(photo(KNOWN), timeout=5)


def test_150_searches_at_once_are_all_answered(client: Any) -> None:
    paths = sorted((PHOTOS / "images").glob("*/*.jpg"))[:150]
    outcomes = list(client.search_many(paths, in_flight=150, ordered=False))
    assert sorted(outcome.index for outcome in outcomes) == list(range(150))
    assert all(outcome.error is None for outcome in outcomes)


def test_150_threads_and_150_tasks_of_one_client_are_all_answered() -> None:
    image = photo(KNOWN).read_bytes()
    with matchpoint.Client() as client, ThreadPoolExecutor(150) as pool:
        assert all(pool.map(lambda _: client.search(image).accepted, range(150)))

    async def all_at_once() -> list[matchpoint.SearchResult]:
        async with matchpoint.AsyncClient() as client:
            return list(await asyncio.gather(*(client.search(image) for _ in range(150))))

    assert all(result.accepted for result in asyncio.run(all_at_once()))


def test_an_item_can_be_enrolled_read_found_and_removed(client: Any) -> None:
    image = photo(UNKNOWN)
    try:
        before = client.search(image)
        first = client.enrol(NEW_ID, "new", image, metadata={"from": "python"})
        assert not first.replaced and first.generation > before.generation
        assert client.enrol(NEW_ID, "new", image, metadata={"from": "python"}).replaced
        stored = client.item(NEW_ID, with_embedding=True)
        assert (stored.label, stored.metadata, len(stored.embedding)) == ("new", {"from": "python"}, 1280)
        ids = [item.id for item in client.items(page_size=20)]
        assert NEW_ID in ids and len(ids) == enrolled() + 1 and ids == sorted(ids, key=str.encode)
        found = client.search(image, limit=1)
        assert (found.label, found.gallery_items, found.best.metadata) == ("new", enrolled() + 1, {"from": "python"})
        assert found.basis.items_added == 1 and found.basis.gallery_coverage < 1
        # It takes another label, and keeps all else; who saw it before that is told.
        renamed = client.relabel(NEW_ID, "newer", etag=client.item(NEW_ID).etag)
        assert renamed.generation > first.generation and renamed.accepted_as_count == 0
        now = client.item(NEW_ID, with_embedding=True)
        assert (now.label, now.metadata, now.embedding) == ("newer", stored.metadata, stored.embedding)
        with pytest.raises(matchpoint.ConflictError, match="look again"):
            client.relabel(NEW_ID, "newest", etag=stored.etag)
        assert client.relabel(NEW_ID, "new").accepted_as == () and client.item(NEW_ID).etag == stored.etag
        # The same thing under another label is said.
        again = client.enrol(f"{NEW_ID}2", "other", image)
        assert again.accepted_as[0].id == NEW_ID and again.accepted_as_count >= 1
        client.delete(NEW_ID)
        with pytest.raises(matchpoint.ItemNotFoundError, match="delete item"):
            client.delete(NEW_ID)
    finally:
        forget(client, NEW_ID)
        forget(client, f"{NEW_ID}2")
    assert client.search(image).basis.within_calibrated_size


def test_many_are_enrolled_and_one_that_fails_has_its_place(client: Any) -> None:
    pictures: list[Any] = [photo(UNKNOWN), b"no picture", photo(UNKNOWN, "q1_rotpersp.jpg")]
    items = [matchpoint.NewItem(f"many/{at}", "new", picture) for at, picture in enumerate(pictures)]
    try:
        outcomes = list(client.enrol_many(items, in_flight=2))
        assert [type(outcome.error) for outcome in outcomes] == [type(None), matchpoint.ImageError, type(None)]
        assert outcomes[1].given is items[1] and not outcomes[2].result.replaced
        assert client.search(pictures[2]).label == "new"
    finally:
        for item in items:
            forget(client, item.id)


def test_what_has_a_label_is_no_tuple(client: Any) -> None:
    with pytest.raises(TypeError, match=r"write NewItem\(id, label, query\)"):
        list(client.enrol_many([("id", "label", photo(KNOWN))]))
    with pytest.raises(TypeError, match=r"write LabelledQuery\(id, label, query\)"):
        client.calibrate([("id", "label", photo(KNOWN))], target_far=0.1)


def labelled() -> list[matchpoint.LabelledQuery]:
    with (PHOTOS / "calibrate.csv").open(encoding="utf-8", newline="") as file:
        return [matchpoint.LabelledQuery(r["path"], r["label"], PHOTOS / r["path"]) for r in csv.DictReader(file)]


def test_a_calibration_finds_what_the_command_found_and_changes_nothing(client: Any) -> None:
    # The server decides by what `matchpoint calibrate` made of the same list.
    decides = client.operating_point()
    found = client.calibrate(labelled(), target_far=0.10, confidence=0.90)
    assert not found.active and found.etag is None and found.doubts.failed_total == 0
    point = found.operating_point
    assert (point.threshold, point.far, point.frr) == (decides.threshold, decides.far, decides.frr)
    assert (point.far_upper_bound, point.certified) == (decides.far_upper_bound, True)
    assert client.operating_point() == decides


def test_a_calibration_that_the_data_do_not_support_is_refused_with_what_it_takes(client: Any) -> None:
    with pytest.raises(matchpoint.NotPossibleError) as raised:
        client.calibrate(labelled(), target_far=0.001)
    assert raised.value.reason == "CALIBRATION_UNDERPOWERED"
    assert raised.value.metadata == {"trials_needed": "2995", "trials_present": "24"}
    with pytest.raises(matchpoint.InvalidRequestError, match="target"):
        client.calibrate(labelled())


def test_a_calibration_lists_a_bad_picture_and_ends_at_a_missing_one(client: Any) -> None:
    bad = matchpoint.LabelledQuery("bad", "nobody", b"no picture")
    doubts = client.calibrate([bad, *labelled()], target_far=0.10, confidence=0.90).doubts
    assert [(one.id, doubts.failed_total) for one in doubts.failed] == [("bad", 1)]
    gone = matchpoint.LabelledQuery("gone", "nobody", "gone.jpg")
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        client.calibrate([*labelled(), gone], target_far=0.10, confidence=0.90)


def test_verify_compares_with_an_item_and_with_another_picture(client: Any) -> None:
    query = photo(KNOWN, "q2_photometric.jpg")
    item_id = client.search(photo(KNOWN)).best.id
    assert client.verify(query, item_id=item_id).accepted
    other = client.verify(query, photo(UNKNOWN))
    assert other.decision is Decision.REJECT and other.score < other.basis.threshold
    for wrong in ({}, {"other": query, "item_id": item_id}):
        with pytest.raises(TypeError, match="either another picture"):
            client.verify(query, **wrong)


def test_operating_points_are_listed_activated_and_rolled_back(client: Any) -> None:
    points = client.operating_points()
    active = points.active
    assert active == client.operating_point() and active.certified and active.target_far == 0.10
    assert active.threshold == client.search(photo(KNOWN)).basis.threshold
    assert active.far.trials == 120 and active.created.year >= 2024
    changed = client.activate(active.id, etag=points.etag)
    assert changed.operating_point == active and changed.previous_id == active.id
    with pytest.raises(matchpoint.ConflictError):
        client.activate(active.id, etag="another")
    with pytest.raises(matchpoint.OperatingPointNotFoundError):
        client.activate("op-0000000000000000")
    with pytest.raises(matchpoint.NotPossibleError) as raised:
        client.roll_back()
    assert raised.value.reason == "NOTHING_TO_ROLL_BACK_TO"


def test_what_queries_showed_is_reported(client: Any) -> None:
    result = client.search(photo(KNOWN))
    assert client.label(result, KNOWN, annotator="ann") is matchpoint.AnnotationOutcome.ADDED
    assert client.label(result.decision_id, KNOWN, annotator="ann") is matchpoint.AnnotationOutcome.REPEATED
    stranger = matchpoint.Stranger("a passer-by")
    assert client.label(result.answer, stranger, annotator="ann") is matchpoint.AnnotationOutcome.CORRECTED
    recorded = client.decision(result.decision_id)
    assert recorded.truth == stranger and recorded.accepted and recorded.matched_label == KNOWN
    client.label(recorded, matchpoint.Unusable())
    assert client.decision(result.decision_id).truth == matchpoint.Unusable()
    with pytest.raises(matchpoint.InvalidRequestError) as raised:
        client.label(result, "no such label")
    assert raised.value.reason == "ANNOTATION_INVALID"
    with pytest.raises(TypeError, match="is no truth"):
        client.label(result, None)


def test_labels_count_in_the_rates_only_where_the_audit_sampled_the_decision(client: Any) -> None:
    def annotated() -> int:
        return int(client.call("MonitoringService.GetDrift", monitoring_pb2.GetDriftRequest()).annotated)

    # Near the threshold more is sampled: some of these are.
    list(client.search_many(sorted((PHOTOS / "images").glob("*/*.jpg"))[:150]))
    before = annotated()
    (sampled, *_) = client.audit_queue()
    assert sampled.sampled and sampled.truth is None
    client.label(sampled.decision_id, matchpoint.Stranger())
    assert annotated() == before, "feedback enters no rate"
    client.label(sampled, matchpoint.Stranger("a stranger"))
    assert annotated() == before + 1


def test_whatever_has_no_method_can_be_called(client: Any) -> None:
    with pytest.raises(ValueError, match=r"the protocol has no `Retrieval\.Find`"):
        client.call("Retrieval.Find", retrieval_pb2.SearchRequest())
    with pytest.raises(ValueError, match="is a stream"):
        client.call("RetrievalService.SearchStream", retrieval_pb2.SearchRequest())


def test_a_bad_item_does_not_end_a_stream() -> None:
    good = photo(KNOWN).read_bytes()
    images = {"a": good, "bad": b"not an image", "b": good}
    requests = [
        retrieval_pb2.SearchStreamRequest(request_id=name, search=retrieval_pb2.SearchRequest(image=image))
        for name, image in images.items()
    ]
    with matchpoint.Client() as client:
        stub = retrieval_pb2_grpc.RetrievalServiceStub(client.channel)
        came = stub.SearchStream(iter(requests), metadata=client.call_metadata, timeout=30)
        answers = {answer.request_id: answer for answer in came}
        assert answers["bad"].error.code == code_pb2.INVALID_ARGUMENT
        assert all(answers[name].result.matches[0].label == KNOWN for name in ("a", "b"))


def test_the_programs_of_the_documents_run_as_they_are_written(tmp_path: Path) -> None:
    for document in (REPOSITORY / "docs" / "python.md", REPOSITORY / "README.md"):
        blocks = re.findall(r"^```python\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        assert blocks, document
        place = tmp_path / document.stem
        (place / "photos").mkdir(parents=True)
        (place / "photos" / UNKNOWN).mkdir()
        places = [("photo.jpg", KNOWN), ("other.jpg", UNKNOWN)]
        places += [("photos/1.jpg", KNOWN), (f"photos/{UNKNOWN}/1.jpg", UNKNOWN)]
        for name, label in places:
            (place / name).write_bytes(photo(label, "q2_photometric.jpg").read_bytes())
        for number, block in enumerate(blocks):
            program = place / f"program{number}.py"
            program.write_text(block, encoding="utf-8")
            ran = subprocess.run(
                [sys.executable, "-W", "error", program.name], cwd=place, capture_output=True, text=True, timeout=60
            )
            assert ran.returncode == 0, f"{document}, program {number}:\n{block}\n{ran.stdout}{ran.stderr}"


def test_the_examples_run() -> None:
    folder = REPOSITORY / "examples" / "python"
    for arguments, says in (
        (["search_folder.py", str(PHOTOS / "images" / KNOWN)], rf"q2_photometric.jpg: ACCEPT {KNOWN}"),
        (["calibrate.py", str(PHOTOS / "calibrate.csv"), "--target-far", "0.1", "--confidence", "0.9"], "FAR <= 0.1"),
        (["calibrate.py", str(PHOTOS / "calibrate.csv"), "--target-far", "0.001"], "CALIBRATION_UNDERPOWERED.*2,?995"),
    ):
        ran = subprocess.run(
            [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert re.search(says, ran.stdout + ran.stderr), ran.stdout + ran.stderr
