"""What needs no server: queries, results, errors, addresses, and that all of it fits the protocol and the documents."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import PHOTOS, REPOSITORY
from PIL import Image

import matchpoint
from matchpoint import _calls, errors, results
from matchpoint._connection import address
from matchpoint._queries import Payload, payload
from matchpoint._reading import read
from matchpoint.v1 import (
    calibration_pb2,
    decision_pb2,
    gallery_pb2,
    monitoring_pb2,
    operating_point_pb2,
    retrieval_pb2,
    server_pb2,
)

PHOTO = PHOTOS / "images" / "gc_monuments_tajMahal" / "g0_ref.jpg"

MESSAGES: list[tuple[type[Any], Any]] = [
    (results.AcceptedItem, gallery_pb2.AcceptedItem),
    (results.Activation, operating_point_pb2.ActivateOperatingPointResponse),
    (results.Activation, operating_point_pb2.RollBackOperatingPointResponse),
    (results.Basis, decision_pb2.DecisionBasis),
    (results.CalibrationDoubts, calibration_pb2.CalibrateMetadata),
    (results.CrowdedStrangers, calibration_pb2.CrowdedStrangers),
    (results.CrowdedGroup, calibration_pb2.CrowdedGroup),
    (results.FailedQuery, calibration_pb2.FailedQuery),
    (results.DeploymentInfo, server_pb2.DeploymentInfo),
    (results.Embedding, retrieval_pb2.EmbedResponse),
    (results.Enrolled, gallery_pb2.UpsertItemResponse),
    (results.Relabelled, gallery_pb2.RelabelItemResponse),
    (results.Item, gallery_pb2.Item),
    (results.Match, decision_pb2.Match),
    (results.OperatingPoint, operating_point_pb2.OperatingPoint),
    (results.OperatingPoints, operating_point_pb2.ListOperatingPointsResponse),
    (results.Rate, operating_point_pb2.MeasuredRate),
    (results.RecordedDecision, monitoring_pb2.RecordedDecision),
    (results.ReviewBand, operating_point_pb2.ReviewBand),
    (results.SearchResult, retrieval_pb2.SearchResponse),
    (results.ServerInfo, server_pb2.GetServerInfoResponse),
    (results.Timings, decision_pb2.StageTimings),
    (results.UnopenedDeployment, server_pb2.UnopenedDeployment),
    (results.VerifyResult, retrieval_pb2.VerifyResponse),
]


def accepted() -> matchpoint.SearchResult:
    match = decision_pb2.Match(id="a/1", label="a", score=0.75, metadata={"camera": "front"})
    basis = decision_pb2.DecisionBasis(operating_point_id="op-1", threshold=0.5, target_far=0.01, certified=True)
    basis.within_calibrated_size = True
    message = retrieval_pb2.SearchResponse(
        decision=decision_pb2.DECISION_ACCEPT,
        matches=[match],
        basis=basis,
        decision_id="d",
        decided_item_id="a/1",
        decided_label="a",
    )
    return read(matchpoint.SearchResult, message)


@pytest.mark.parametrize(("result", "message"), MESSAGES, ids=lambda one: one.__name__)
def test_every_field_of_a_result_is_one_of_the_protocol(result: type[Any], message: Any) -> None:
    made = read(result, message())
    if not isinstance(made, results._Decided):
        assert made == read(result, message())
    copied = pickle.loads(pickle.dumps(made))
    assert dataclasses.astuple(copied) == dataclasses.astuple(made)
    hash(made)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(made)[0].name, None)


def test_what_is_absent_is_none_and_not_zero() -> None:
    basis = read(matchpoint.Basis, decision_pb2.DecisionBasis())
    assert basis.threshold is None and basis.operating_point_id is None and basis.undecided_reason is None
    assert read(matchpoint.Basis, decision_pb2.DecisionBasis(threshold=0)).threshold == 0


def test_accepted_is_true_for_accept_alone() -> None:
    for number, decision in enumerate(["UNDECIDED", "ACCEPT", "REJECT", "UNDECIDED", "UNDECIDED"]):
        message = retrieval_pb2.SearchResponse(decision=number, decided_label="a")  # type: ignore[arg-type]
        result = read(matchpoint.SearchResult, message)
        # 0 is never sent, and 4 is of a server that is newer than this client.
        assert result.decision is matchpoint.Decision(decision)
        assert result.accepted is result.answer.accepted is (number == 1)
        assert result.label == result.answer.label == ("a" if number == 1 else None)


def test_the_label_is_that_of_the_item_that_was_decided_on() -> None:
    scores = {"a": 0.9, "b": 0.8, "c": 0.3}
    near, decided, far = (decision_pb2.Match(id=name, label=name, score=score) for name, score in scores.items())
    # A search that was wider than the decision's, one that was narrower, and a match that was not asked for.
    for matches in ([near, decided, far], [far], []):
        message = retrieval_pb2.SearchResponse(matches=matches, decision=decision_pb2.DECISION_ACCEPT)
        message.decided_item_id, message.decided_label = "b", "b"
        result = read(matchpoint.SearchResult, message)
        assert result.accepted and result.label == result.answer.label == result.answer.item_id == "b"
        assert result.decided == (read(matchpoint.Match, decided) if decided in matches else None)


def test_a_result_is_not_taken_for_a_yes_by_being_there() -> None:
    result = accepted()
    assert str(result) == "ACCEPT: a (a/1) at 0.7500; threshold 0.5000, FAR <= 0.01, op-1"
    outcome = matchpoint.Outcome(0, "x.jpg", None, result)
    for one in (result, result.decision, result.answer, outcome):
        with pytest.raises(TypeError, match="neither true nor false"):
            bool(one)


def test_a_decision_is_equal_to_its_name() -> None:
    # `if decision == "REJECT": ... else: let_in()` must not let in.
    for decision in matchpoint.Decision:
        assert decision == decision.value == str(decision) == f"{decision}"
        assert json.loads(json.dumps(decision)) == decision
    assert accepted().decision != "REJECT"


def test_an_outcome_that_failed_has_no_result_to_overlook() -> None:
    outcome: matchpoint.Outcome[str, int] = matchpoint.Outcome(3, "x.jpg", matchpoint.ImageError("broken"), None)
    with pytest.raises(matchpoint.ImageError, match="broken"):
        _ = outcome.result


def test_a_reason_that_is_newer_than_the_client_is_the_server_s_reason_all_the_same() -> None:
    undecided = decision_pb2.DecisionBasis(undecided_reason=99)  # type: ignore[arg-type]
    assert read(matchpoint.Basis, undecided).undecided_reason is matchpoint.UndecidedReason.UNKNOWN
    error = errors.refusal("search", "NOT_FOUND", "no moon", reason="MOON_NOT_FOUND")
    assert isinstance(error, matchpoint.NotFoundError) and error.reason == "MOON_NOT_FOUND"
    assert type(errors.refusal("search", "A_CODE_OF_TOMORROW", "x")) is matchpoint.ServerError


def test_every_reason_of_the_documents_has_a_class_and_every_class_of_a_reason_is_documented() -> None:
    text = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z_]+) \| ([A-Z_, ]+) \|", text, re.MULTILINE)
    documented = {reason: code for code, reasons in rows for reason in reasons.split(", ")}
    assert len(documented) > 50
    for reason, code in documented.items():
        kind = errors.error_class(code, reason)
        assert kind is not matchpoint.ServerError or reason in ("INTERNAL", "DISK_FULL"), reason
        assert kind is not errors.InvalidRequestError or not reason.startswith("IMAGE_"), reason
    assert set(errors._BY_REASON) | set(errors._REMEDIES) <= set(documented)


def test_an_error_says_what_where_and_how_to_fix_it_and_can_be_sent_to_another_process() -> None:
    error = errors.refusal("search for x.jpg at http://h:1", "UNAUTHENTICATED", "no key came", reason="KEY_MISSING")
    assert str(error).startswith("search for x.jpg at http://h:1: UNAUTHENTICATED (KEY_MISSING): no key came; pass api")
    for kind in [value for value in vars(errors).values() if inspect.isclass(value)]:
        if issubclass(kind, matchpoint.MatchpointError):
            made = kind("words")
            made.reason = "R"
            copied = pickle.loads(pickle.dumps(made))
            assert type(copied) is kind and (str(copied), copied.reason) == ("words", "R")
            assert kind is matchpoint.MatchpointError or kind.__name__ in matchpoint.__all__


def test_the_two_clients_have_the_same_surface() -> None:
    pairs = (matchpoint.Client, matchpoint.AsyncClient), (matchpoint.Deployment, matchpoint.AsyncDeployment)
    for waits, awaited in pairs:
        public = {name for name in dir(waits) if not name.startswith("_")}
        assert public == {name for name in dir(awaited) if not name.startswith("_")}
        for name in public:
            one, other = getattr(waits, name), getattr(awaited, name)
            assert inspect.getdoc(one) == inspect.getdoc(other), name
            if not isinstance(one, property):
                assert list(inspect.signature(one).parameters) == list(inspect.signature(other).parameters), name
                defaults = [p.default for p in inspect.signature(one).parameters.values()]
                assert defaults == [p.default for p in inspect.signature(other).parameters.values()], name


def test_a_picture_may_be_bytes_a_path_an_open_file_or_a_buffer() -> None:
    content = PHOTO.read_bytes()
    with PHOTO.open("rb") as file:
        for query in (content, bytearray(content), memoryview(content), PHOTO, str(PHOTO), file, io.BytesIO(content)):
            assert payload(query).image == content


def test_pillow_images_and_arrays_are_sent_without_loss() -> None:
    image = Image.open(PHOTO)
    pixels = numpy.asarray(image.convert("RGB"))
    for query in (image, pixels, pixels.copy(order="F")):
        sent = payload(query).image
        assert sent is not None
        assert numpy.array_equal(numpy.asarray(Image.open(io.BytesIO(sent)).convert("RGB")), pixels)
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"):
        assert (payload(Image.new(mode, (8, 8))).image or b"").startswith(b"\x89PNG")


def test_pillow_images_keep_their_transparency_and_their_16_bits() -> None:
    half = Image.new("RGBA", (8, 8), (200, 100, 0, 128))
    grey = Image.new("LA", (8, 8), (200, 128))
    palette = Image.new("PA", (8, 8), (200, 128))
    for given, same in ((half.convert("RGBa"), half), (grey.convert("La"), grey), (palette, palette)):
        sent = payload(given).image
        assert sent is not None and Image.open(io.BytesIO(sent)).convert("RGBA").getpixel((0, 0)) == pytest.approx(
            same.convert("RGBA").getpixel((0, 0)), abs=1
        )
    for mode in ("I;16", "I;16B", "I;16L"):
        sent = payload(Image.new(mode, (8, 8), 0x1234)).image
        assert sent is not None and Image.open(io.BytesIO(sent)).getpixel((0, 0)) == 0x1234
    for mode in ("F", "I"):
        with pytest.raises(matchpoint.ImageError, match=f"mode {mode} has no level that is white"):
            payload(Image.new(mode, (8, 8)))


def test_a_picture_that_a_camera_marked_as_turned_is_sent_upright() -> None:
    image = Image.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    sent = payload(Image.open(file)).image
    assert sent is not None and Image.open(io.BytesIO(sent)).size == (20, 40)


def test_a_vector_may_be_an_array_or_a_list() -> None:
    for query in ([0.5, 1, 2], (0.5, 1, 2), numpy.array([0.5, 1, 2]), numpy.array([0.5, 1, 2], dtype="f2")):
        assert list(payload(query).vector or ()) == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("query", "kind", "says"),
    [
        (numpy.zeros((4, 4, 3)), ValueError, "4 x 4 x 3, float64, is neither a picture"),
        (numpy.zeros((4, 1280)), ValueError, "search_many takes a matrix"),
        (numpy.zeros((4, 4), dtype="u1"), ValueError, "height x width x 3"),
        (numpy.zeros((0, 4, 3), dtype="u1"), matchpoint.ImageError, "without pixels"),
        ("https://example.org/x.jpg", matchpoint.ImageError, "not fetched"),
        ("nowhere.jpg", FileNotFoundError, "nowhere.jpg"),
        (io.StringIO("text"), TypeError, "mode 'rb'"),
        (None, TypeError, "a NoneType is no query; pass a picture"),
        (["x.jpg"], TypeError, "a list is no query"),
        (3, TypeError, "a int is no query"),
    ],
)
def test_what_is_no_query_is_refused_with_what_is(query: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=re.escape(says)):
        payload(query)


def test_an_option_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(TypeError, match="no option top_k; it has limit, exact, filter"):
        _calls.search("", Payload("x", image=b"x"), {"top_k": 3})  # type: ignore[typeddict-unknown-key]


def test_an_argument_of_a_wrong_kind_is_named() -> None:
    with pytest.raises(ValueError, match="the option limit is -1"):
        _calls.search("", Payload("x", image=b"x"), {"limit": -1})
    with pytest.raises(TypeError, match=r"metadata 'aisle' is 7, and must be text; write str\(...\)"):
        _calls.enrol("", "id", "label", Payload("x", image=b"x"), {"aisle": 7})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="id is 1"):
        _calls.delete("", 1)  # type: ignore[arg-type]


def of(server: str | None = None, key: str | None = None, file: Any = None, **tls: Any) -> Any:
    names = "server_ca", "client_certificate", "client_certificate_key"
    return address(server, key, file, *(tls.get(name) for name in names))


def test_an_address_is_read_as_the_commands_read_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SERVER", "SERVER_CA", "API_KEY", "API_KEY_FILE"):
        monkeypatch.delenv(f"MATCHPOINT_{name}", raising=False)
    assert of().server == "http://127.0.0.1:50051"
    assert of("h:1").target == of("http://h:1/").target == of("https://h:1").target == "h:1"
    assert of("[::1]:7").target == "[::1]:7"
    monkeypatch.setenv("MATCHPOINT_SERVER", "https://other:2")
    monkeypatch.setenv("MATCHPOINT_API_KEY", "mp_secret")
    found = of()
    assert found.server == "https://other:2" and found.metadata == (("authorization", "Bearer mp_secret"),)
    assert "secret" not in repr(found)
    key = tmp_path / "till.key"
    key.write_text("mp_file\n")
    monkeypatch.setenv("MATCHPOINT_API_KEY_FILE", str(key))
    assert of().metadata == of(file=key).metadata == (("authorization", "Bearer mp_file"),)
    assert of(key="mp_given").metadata == (("authorization", "Bearer mp_given"),)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"server": "shop"}, "`shop` is not the address of a server; write HOST:PORT"),
        ({"server": "ftp://h:1"}, "is not the address"),
        ({"server": "http://h:1", "key": "mp_secret"}, "a key is not sent to h unencrypted; write https://h:1"),
        ({"server": "https://h:1", "key": "mp_ secret"}, "holds characters that no key has"),
        ({"server": "http://h:1", "server_ca": b"x"}, "server_ca need an encrypted connection"),
        ({"server": "https://h:1", "server_ca": b"x"}, "is not PEM"),
        ({"server": "https://h:1", "client_certificate": b"-----BEGIN X"}, "are given together"),
    ],
)
def test_what_is_no_address_or_key_is_refused_without_showing_it(
    given: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MATCHPOINT_API_KEY", raising=False)
    with pytest.raises(ValueError, match=re.escape(says)) as raised:
        of(**given)
    assert "secret" not in str(raised.value)


def test_a_key_goes_unencrypted_to_this_machine_alone() -> None:
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert of(f"http://{host}:1", key="mp_x").metadata
    assert of("unix:/run/shop.sock", key="mp_x").metadata
    assert of("unix:/run/shop.sock").target == "unix:/run/shop.sock"


def test_results_become_a_table() -> None:
    result = accepted()
    failed: matchpoint.Outcome[Any, Any] = matchpoint.Outcome(1, Path("bad.jpg"), matchpoint.ImageError("broken"), None)
    table = matchpoint.to_pandas([matchpoint.Outcome(0, "a.jpg", None, result), failed])
    # A row that failed is not accepted: a missing value would count as true.
    assert table["accepted"].tolist() == [True, False]
    assert table["query"].tolist() == ["a.jpg", "bad.jpg"]
    assert table["label"][0] == "a" and table["message"][1] == "broken"
    matches = matchpoint.to_pandas([result], matches=True)
    assert matches[["rank", "id", "metadata.camera"]].values.tolist() == [[1, "a/1", "front"]]
    with pytest.raises(TypeError, match="a str is no result"):
        matchpoint.to_pandas("x.jpg")
