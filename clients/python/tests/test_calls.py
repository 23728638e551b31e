"""How calls go: what is sent again and what is not, deadlines, many at once. Each test holds both clients."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from small_server import Refusal, SmallServer

import matchpoint
from matchpoint.v1 import decision_pb2, gallery_pb2, retrieval_pb2

Serve = Callable[[Callable[[Any], Any]], SmallServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[SmallServer] = []

    def start(answer: Callable[[Any], Any], port: int = 0) -> SmallServer:
        servers.append(SmallServer(answer, port))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def found(request: Any) -> retrieval_pb2.SearchResponse:
    """The picture's own bytes as the label."""
    return retrieval_pb2.SearchResponse(decision=decision_pb2.DECISION_ACCEPT, decided_label=request.image.decode())


def in_turn(*replies: Any) -> Callable[[Any], Any]:
    """One after the other; the last for ever."""
    rest = itertools.chain(replies, itertools.repeat(replies[-1]))
    lock = threading.Lock()

    def answer(request: Any) -> Any:
        with lock:
            reply = next(rest)
        return reply(request) if callable(reply) else reply

    return answer


FULL = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "all workers are busy", retry_after=0.01)


def test_a_full_server_is_asked_again_when_it_says_so(connect: Any, serve: Serve) -> None:
    # More often than gRPC's own retries, which end at five attempts.
    server = serve(in_turn(*[FULL] * 12, found))
    assert connect(server.address).search(b"a").label == "a"
    assert server.calls == 13


def test_a_large_picture_is_sent_again_too(connect: Any, serve: Serve) -> None:
    server = serve(in_turn(Refusal(grpc.StatusCode.UNAVAILABLE), lambda request: found(retrieval_pb2.SearchRequest())))
    assert connect(server.address).search(b"a" * (2 << 20)).accepted
    assert server.calls == 2


def test_asking_again_ends_at_the_deadline_and_says_why(connect: Any, serve: Serve) -> None:
    server = serve(in_turn(FULL))
    began = time.monotonic()
    with pytest.raises((matchpoint.OverloadedError, matchpoint.DeadlineError)) as raised:
        connect(server.address).search(b"a", timeout=0.3)
    assert time.monotonic() - began < 2
    if isinstance(raised.value, matchpoint.OverloadedError):
        assert raised.value.reason == "QUEUE_FULL" and raised.value.retry_after == 0.01
        assert dict(raised.value.metadata) == {"n": "1"}


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "IMAGE_UNDECODABLE", matchpoint.ImageError),
        (grpc.StatusCode.UNAUTHENTICATED, "KEY_UNKNOWN", matchpoint.AuthenticationError),
        (grpc.StatusCode.DATA_LOSS, "GALLERY_DAMAGED", matchpoint.DamagedError),
        (grpc.StatusCode.FAILED_PRECONDITION, "REASON_OF_TOMORROW", matchpoint.NotPossibleError),
        (grpc.StatusCode.INTERNAL, "", matchpoint.ServerError),
    ],
)
def test_what_stays_wrong_is_asked_once(
    connect: Any, serve: Serve, code: grpc.StatusCode, reason: str, kind: type[matchpoint.MatchpointError]
) -> None:
    server = serve(in_turn(Refusal(code, reason, "the server's words")))
    with pytest.raises(kind, match="the server's words") as raised:
        connect(server.address).search(b"a")
    assert (raised.value.code, raised.value.reason, server.calls) == (code.name, reason, 1)
    assert server.address in str(raised.value) and "a picture of 1 bytes" in str(raised.value)


def test_deleting_is_not_repeated_where_it_may_have_been_done(connect: Any, serve: Serve) -> None:
    lost = serve(in_turn(found, Refusal(grpc.StatusCode.UNAVAILABLE), gallery_pb2.DeleteItemResponse()))
    client = connect(lost.address)
    client.search(b"the server is there")
    with pytest.raises(matchpoint.UnreachableError):
        client.delete("x")
    assert lost.calls == 2
    # The server says that it did nothing.
    full = serve(in_turn(FULL, gallery_pb2.DeleteItemResponse(generation=7)))
    assert connect(full.address).delete("x") == 7


def test_the_key_goes_with_each_call(connect: Any, serve: Serve) -> None:
    server = serve(found)
    connect(server.address, api_key="mp_x").search(b"a")
    assert server.metadata[0]["authorization"] == "Bearer mp_x"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a certificate and key of a server, and of a client: each vouches for itself."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "client"):
        line = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
        line += f" -addext subjectAltName=DNS:localhost -keyout {name}.key -out {name}.pem"
        subprocess.run(line.split(), cwd=folder, check=True, capture_output=True)
    return folder


def test_a_client_shows_the_certificate_that_a_server_asks_for(connect: Any, certificates: pathlib.Path) -> None:
    pem = {path.name: path.read_bytes() for path in certificates.iterdir()}
    pair = [(pem["server.key"], pem["server.pem"])]
    credentials = grpc.ssl_server_credentials(pair, pem["client.pem"], require_client_auth=True)
    server = SmallServer(found, credentials=credentials)
    address, own = f"https://localhost:{server.port}", certificates / "client.pem"
    # Files and bytes are the same.
    shown = {"server_ca": pem["server.pem"], "client_certificate": own}
    client = connect(address, **shown, client_certificate_key=str(certificates / "client.key"), api_key="mp_x")
    assert client.search(b"a").label == "a" and server.metadata[0]["authorization"] == "Bearer mp_x"
    with pytest.raises(matchpoint.UnreachableError, match="if it asks for yours, pass client_certificate="):
        connect(address, server_ca=pem["server.pem"]).search(b"a")
    server.stop()


def test_one_of_many_says_that_it_may_wait(connect: Any, serve: Serve) -> None:
    server = serve(found)
    client = connect(server.address)
    assert client.search(b"a").label == "a"
    assert [outcome.result.label for outcome in client.search_many([b"b"])] == ["b"]
    assert [metadata.get("priority") for metadata in server.metadata] == [None, "u=5"]


def test_a_deadline_is_the_client_s_unless_the_call_has_its_own(connect: Any, serve: Serve) -> None:
    release = threading.Event()
    server = serve(lambda request: release.wait(5) and found(request))
    client = connect(server.address, timeout=0.2)
    for own in ({}, {"timeout": 0.1}):
        with pytest.raises(matchpoint.DeadlineError, match="allow more by timeout="):
            client.search(b"a", **own)
    release.set()
    assert client.search(b"a", timeout=5).accepted


def test_a_server_that_is_not_there_is_named_soon_with_what_to_do(connect: Any) -> None:
    began = time.monotonic()
    with pytest.raises(matchpoint.UnreachableError, match=r"127\.0\.0\.1:1: UNAVAILABLE.*`matchpoint serve`") as raised:
        connect("127.0.0.1:1").search(b"a")
    assert isinstance(raised.value, ConnectionError)
    assert time.monotonic() - began < 10


def test_a_server_that_restarts_loses_no_query(connect: Any, serve: Any) -> None:
    first = serve(found)
    client = connect(first.address)
    labels = []
    queries = (str(number).encode() for number in range(60))
    for outcome in client.search_many(queries, in_flight=4):
        labels.append(outcome.result.label)
        if len(labels) == 20:
            first.stop()
            threading.Timer(0.5, serve, (found, first.port)).start()
    assert labels == [str(number) for number in range(60)]


def test_many_are_answered_in_order_or_as_they_come_and_bounded(connect: Any, serve: Serve) -> None:
    late = threading.Event()

    def answer(request: Any) -> Any:
        if request.image == b"0":
            late.wait(5)
        return found(request)

    server = serve(answer)
    client = connect(server.address)
    taken: list[int] = []

    def queries() -> Iterator[bytes]:
        for number in range(40):
            taken.append(number)
            yield str(number).encode()

    came = client.search_many(queries(), in_flight=4, ordered=False)
    first = next(came)
    assert first.index != 0 and first.result.label == first.given.decode()
    assert len(taken) <= 9, "no more is taken than is needed"
    late.set()
    assert sorted([first.index, *(outcome.index for outcome in came)]) == list(range(40))

    ordered = [outcome.result.label for outcome in client.search_many(queries(), in_flight=4)]
    assert ordered == [str(number) for number in range(40)]
    assert server.under_way_max <= 4
    for wrong in (0, 1001):
        with pytest.raises(ValueError, match="1 to 1000"):
            client.search_many([], in_flight=wrong)


def test_one_that_fails_has_its_error_in_its_place(connect: Any, serve: Serve) -> None:
    bad = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "IMAGE_UNDECODABLE", "broken")
    server = serve(lambda request: bad if request.image == b"bad" else found(request))
    outcomes = list(connect(server.address).search_many([b"a", b"bad", "nowhere.jpg", b"b"]))
    assert [type(outcome.error) for outcome in outcomes] == [
        type(None),
        matchpoint.ImageError,
        FileNotFoundError,
        type(None),
    ]
    assert [outcomes[0].result.label, outcomes[3].result.label] == ["a", "b"]


def test_what_all_would_meet_ends_the_run(connect: Any, serve: Serve) -> None:
    denied = Refusal(grpc.StatusCode.UNAUTHENTICATED, "KEY_UNKNOWN", "nobody has this key")
    server = serve(in_turn(found, denied))
    outcomes = connect(server.address).search_many((b"a" for _ in range(1000)), in_flight=1)
    assert next(outcomes).result.label == "a"
    with pytest.raises(matchpoint.AuthenticationError, match="nobody has this key"):
        list(outcomes)
    assert server.calls < 10


def test_a_client_that_is_closed_says_so(connect: Any, serve: Serve) -> None:
    release = threading.Event()
    server = serve(lambda request: (request.image == b"a" or release.wait(5)) and found(request))
    client = connect(server.address)
    outcomes = client.search_many((b"a" for _ in range(1000)), in_flight=2)
    next(outcomes)
    client.close()
    for call in (lambda: list(outcomes), lambda: client.search(b"a")):
        with pytest.raises(matchpoint.CancelledCallError, match="closed"):
            call()
    release.set()


def test_an_async_client_outlives_the_loop_that_it_was_used_in(serve: Serve) -> None:
    client = matchpoint.AsyncClient(serve(found).address)

    async def search() -> str | None:
        return (await client.search(b"a")).label

    assert [asyncio.run(search()) for _ in range(3)] == ["a"] * 3


def test_a_loop_over_many_can_be_left_without_a_word(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(found)

    async def leave() -> None:
        async with matchpoint.AsyncClient(server.address) as client:
            async for _ in client.search_many(b"a" for _ in range(1000)):
                break

    asyncio.run(leave())
    assert not caplog.records, "asyncio tells of exceptions that nobody took"
    assert server.calls < 100


def test_one_query_is_not_taken_for_many(connect: Any) -> None:
    for one in ("x.jpg", b"x", pathlib.Path("x.jpg")):
        with pytest.raises(TypeError, match="use search, or a list"):
            connect("127.0.0.1:1").search_many(one)


def test_a_run_that_is_left_early_begins_no_more(connect: Any, serve: Serve) -> None:
    server = serve(found)
    client = connect(server.address)
    outcomes = client.search_many((b"a" for _ in range(10_000)), in_flight=2)
    next(outcomes)
    outcomes.close()
    assert server.calls < 20
    assert client.search(b"b").label == "b"
