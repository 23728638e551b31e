"""The client that is awaited. The same methods as in `_client`, which a test holds it to."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from typing_extensions import Self, Unpack

from . import _calls, _failures
from ._calls import CalibrationOptions, Call, SearchOptions
from ._connection import Address, Pem, address
from ._many import check_many, each, in_tasks
from ._queries import LabelledQuery, NewItem, Payload, Query, expect, payload
from .results import (
    Activation,
    AnnotationOutcome,
    Answer,
    Calibration,
    Embedding,
    Enrolled,
    Item,
    OperatingPoint,
    OperatingPoints,
    Outcome,
    RecordedDecision,
    Relabelled,
    SearchResult,
    ServerInfo,
    Truth,
    VerifyResult,
)
from .v1 import calibration_pb2

A = TypeVar("A")
Q = TypeVar("Q", bound=Query)


class _AsyncConnection:
    """One channel, and how calls go over it."""

    def __init__(self, where: Address, timeout: float) -> None:
        self.where = where
        self.timeout = timeout
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._was_there = False

    @property
    def channel(self) -> grpc.aio.Channel:
        """Made by the first call in a loop, to which it belongs: after another `asyncio.run` it is another one."""
        if self._closed:
            raise _failures.closed(self.where.server)
        loop = asyncio.get_running_loop()
        if self._channel is None or self._loop is not loop:
            self._loop = loop
            where = self.where
            if where.credentials is None:
                self._channel = grpc.aio.insecure_channel(where.target, options=where.options)
            else:
                self._channel = grpc.aio.secure_channel(where.target, where.credentials, options=where.options)
        return self._channel

    async def close(self) -> None:
        self._closed = True
        if self._channel is not None and self._loop is asyncio.get_running_loop():
            await self._channel.close()

    async def run(self, call: Call[A], timeout: float | None) -> A:
        """Sends a call, again where that helps, until it is answered, refused, or out of time."""
        patience = _failures.Patience(self.timeout if timeout is None else timeout)
        while True:
            send = self.channel.unary_unary(
                call.method.path,
                request_serializer=type(call.request).SerializeToString,
                response_deserializer=call.method.response.FromString,
            )
            try:
                answer = await send(call.request, timeout=patience.left(), metadata=self.where.metadata + call.metadata)
            except asyncio.CancelledError:
                # What `close` cancels looks like a task that somebody cancelled.
                if self._closed:
                    raise _failures.closed(self.where.server) from None
                raise
            except grpc.RpcError as error:
                failure = _failures.from_call(call.subject, self.where.server, error)
                # The server itself said so, if there is a reason.
                self._was_there = self._was_there or bool(failure.reason)
                pause = patience.pause(failure, repeatable=call.repeatable, was_there=self._was_there)
                if pause is None:
                    raise failure from error
                await asyncio.sleep(pause)
            else:
                self._was_there = True
                return call.read(answer)

    async def send_all(
        self, first: Message, queries: Iterable[LabelledQuery] | AsyncIterable[LabelledQuery], timeout: float
    ) -> Message:
        """Sends a calibration as one stream, and reads its queries as they are sent."""
        failed: list[Exception] = []

        async def requests() -> AsyncGenerator[Message, None]:
            yield first
            try:
                async with aclosing(each(queries)) as all_given:
                    async for given in all_given:
                        query = expect(LabelledQuery, given)
                        yield _calls.labelled(query, await _payload(query.query))
            except Exception as error:
                failed.append(error)
                raise

        send = self.channel.stream_unary(
            _calls.CALIBRATE.path,
            request_serializer=calibration_pb2.CalibrateRequest.SerializeToString,
            response_deserializer=_calls.CALIBRATE.response.FromString,
        )
        sent = requests()
        try:
            return await send(sent, timeout=timeout, metadata=self.where.metadata)
        except (grpc.RpcError, asyncio.CancelledError) as error:
            if failed:
                # gRPC would say no more than that there was one.
                raise failed[0] from None
            if isinstance(error, asyncio.CancelledError):
                raise
            raise _failures.from_call("calibrate", self.where.server, error) from error
        finally:
            # gRPC leaves it where it was, and a loop that ends has no time for it. One that is read ends by itself,
            # and what the caller's own queries do at their end must not take the place of the outcome.
            with suppress(Exception):
                await sent.aclose()


async def _payload(query: Query) -> Payload:
    """Reads files and encodes pictures beside the loop."""
    if isinstance(query, (bytes, bytearray, memoryview)):
        return payload(query)
    return await asyncio.to_thread(payload, query)


class AsyncDeployment:
    """One deployment of a server: a gallery, a model, and an operating point. `AsyncClient.deployment` gives it.

    A `timeout` is in seconds and for the whole call, with all that is sent again; the client's, if left out.
    """

    def __init__(self, connection: _AsyncConnection, name: str) -> None:
        self._connection = connection
        self._name = name

    @property
    def name(self) -> str:
        """Its name; empty for the only one of the server."""
        return self._name

    def __repr__(self) -> str:
        named = f", deployment={self._name!r}" if self._name else ""
        return f"<{type(self).__module__}.{type(self).__name__} server={self._connection.where.server!r}{named}>"

    async def search(
        self, query: Query, *, timeout: float | None = None, **options: Unpack[SearchOptions]
    ) -> SearchResult:
        """Finds the items nearest to a picture or vector, and decides whether the best one is the same thing.

        Options: `limit` (10), `filter`, `one_per_label`, `min_score`, `exact`, `ef_search`, `conditions`,
        `expect_state`; see `SearchOptions`. None of them influences the decision but `filter`.
        """
        return await self._connection.run(_calls.search(self._name, await _payload(query), options), timeout)

    def search_many(
        self,
        queries: Iterable[Q] | AsyncIterable[Q],
        *,
        in_flight: int = 16,
        ordered: bool = True,
        timeout: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> AsyncIterator[Outcome[Q, SearchResult]]:
        """Searches for many, `in_flight` at once, in their order or as they are done.

        One that fails has its `error` in its place, and the others go on; what all would meet (no server, no
        permission, no such deployment) is raised. Queries are taken as they are needed, so there may be millions.
        """
        check_many(queries, in_flight)

        async def search(query: Q) -> SearchResult:
            call = _calls.search(self._name, await _payload(query), options, _calls.ONE_OF_MANY)
            return await self._connection.run(call, timeout)

        return in_tasks(search, queries, in_flight, ordered)

    async def decide(
        self,
        query: Query,
        *,
        filter: str = "",
        conditions: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Decides, and returns no more than the decision: `accepted`, and the label that was accepted."""
        only: SearchOptions = {"limit": 1, "filter": filter, "conditions": conditions or {}}
        return (await self.search(query, timeout=timeout, **only)).answer

    async def verify(
        self, query: Query, other: Query | None = None, *, item_id: str | None = None, timeout: float | None = None
    ) -> VerifyResult:
        """Compares a picture or vector with another one, or with an enrolled item: one score, one decision."""
        with_ = None if other is None else await _payload(other)
        return await self._connection.run(_calls.verify(self._name, await _payload(query), with_, item_id), timeout)

    async def embed(self, picture: Query, *, timeout: float | None = None) -> Embedding:
        """Embeds a picture with the deployment's model."""
        return await self._connection.run(_calls.embed(self._name, await _payload(picture)), timeout)

    async def enrol(
        self,
        id: str,
        label: str,
        query: Query,
        *,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Enrolled:
        """Enrols a picture or vector, or replaces the item of that id. On the server's disk when it returns."""
        return await self._connection.run(_calls.enrol(self._name, id, label, await _payload(query), metadata), timeout)

    def enrol_many(
        self,
        items: Iterable[NewItem] | AsyncIterable[NewItem],
        *,
        in_flight: int = 16,
        ordered: bool = True,
        timeout: float | None = None,
    ) -> AsyncIterator[Outcome[NewItem, Enrolled]]:
        """Enrols many, `in_flight` at once. One that fails has its `error` in its place, as in `search_many`; those
        whose outcome was taken are on the server's disk, and enrolling one again does no harm."""
        check_many(items, in_flight)

        async def enrol(given: NewItem) -> Enrolled:
            new = expect(NewItem, given)
            return await self.enrol(new.id, new.label, new.query, metadata=new.metadata, timeout=timeout)

        return in_tasks(enrol, items, in_flight, ordered)

    async def relabel(self, id: str, label: str, *, etag: str = "", timeout: float | None = None) -> Relabelled:
        """Gives an item another label, and leaves all else of it as it is. With the `etag` of `item(id)` only if it is
        still that one: ConflictError otherwise."""
        return await self._connection.run(_calls.relabel(self._name, id, label, etag), timeout)

    async def delete(self, id: str, *, timeout: float | None = None) -> int:
        """Removes an item; the number of the gallery's state that first lacks it."""
        return await self._connection.run(_calls.delete(self._name, id), timeout)

    async def item(
        self, id: str, *, with_embedding: bool = False, with_image: bool = False, timeout: float | None = None
    ) -> Item:
        """One enrolled item."""
        return await self._connection.run(_calls.item(self._name, id, with_embedding, with_image), timeout)

    async def items(
        self, *, with_embeddings: bool = False, page_size: int = 100, timeout: float | None = None
    ) -> AsyncIterator[Item]:
        """All enrolled items in the order of their ids, asked for by pages; `timeout` is for each page."""
        token = ""
        while True:
            call = _calls.items(self._name, token, with_embeddings, page_size)
            page, token = await self._connection.run(call, timeout)
            for one in page:
                yield one
            if not token:
                return

    async def calibrate(
        self,
        queries: Iterable[LabelledQuery] | AsyncIterable[LabelledQuery],
        *,
        activate: bool = False,
        timeout: float = 3600.0,
        **options: Unpack[CalibrationOptions],
    ) -> Calibration:
        """Calibrates the deployment while it serves: searches for queries whose labels are known, and chooses the
        threshold that keeps the promise.

        Options: `target_far`, `target_frr` or `equal_error`; `confidence` (0.95), and more in `CalibrationOptions`.
        Nothing is changed without `activate`. Data that support no such promise are a NotPossibleError, with
        `metadata["trials_needed"]` where its reason is CALIBRATION_UNDERPOWERED.
        """
        first = _calls.calibration_settings(self._name, activate, options)
        operation = await self._connection.send_all(first, queries, timeout)
        return _calls.calibrated(operation)

    async def operating_points(self, *, timeout: float | None = None) -> OperatingPoints:
        """All operating points, and which of them decides."""
        return await self._connection.run(_calls.operating_points(self._name), timeout)

    async def operating_point(self, id: str = "", *, timeout: float | None = None) -> OperatingPoint:
        """One operating point; the active one without an id."""
        return await self._connection.run(_calls.operating_point(self._name, id), timeout)

    async def activate(self, id: str, *, etag: str = "", timeout: float | None = None) -> Activation:
        """Makes an operating point the one that decides. With the `etag` of `operating_points()`, only if nobody else
        has chosen since: ConflictError otherwise."""
        return await self._connection.run(_calls.activate(self._name, id, etag), timeout)

    async def roll_back(self, *, etag: str = "", timeout: float | None = None) -> Activation:
        """Makes the operating point decide again that did before the present one."""
        return await self._connection.run(_calls.roll_back(self._name, etag), timeout)

    async def audit_queue(
        self, *, with_images: bool = False, timeout: float | None = None
    ) -> AsyncIterator[RecordedDecision]:
        """Sampled decisions that nobody has labelled yet, newest first. Labels for these make FAR and FRR known."""
        token = ""
        while True:
            page, token = await self._connection.run(_calls.audit_queue(self._name, token), timeout)
            for one in page:
                if with_images:
                    whole = await self.decision(one.decision_id, with_image=True, timeout=timeout)
                    one = replace(one, image=whole.image)
                yield one
            if not token:
                return

    async def decision(
        self, decision_id: str, *, with_image: bool = False, timeout: float | None = None
    ) -> RecordedDecision:
        """One recorded decision."""
        return await self._connection.run(_calls.decision(self._name, decision_id, with_image), timeout)

    async def label(
        self,
        decided: SearchResult | Answer | RecordedDecision | str,
        truth: Truth,
        *,
        annotator: str = "",
        timeout: float | None = None,
    ) -> AnnotationOutcome:
        """Reports what a query really showed: an enrolled label, `Stranger("name")` or `Unusable()`.

        For a decision from `audit_queue` it counts in FAR and FRR. For any other, or an id, it is feedback: nobody
        sampled it, so a rate that it entered would be wrong.
        """
        return await self._connection.run(_calls.label(self._name, decided, truth, annotator), timeout)


class AsyncClient(AsyncDeployment):
    """A connection to a server, and the deployment of that name, or the server's only one.

        async with matchpoint.AsyncClient() as client:
            print(await client.search("photo.jpg"))

    What is left out is taken from the variables of the commands: `MATCHPOINT_SERVER` (http://127.0.0.1:50051 without),
    `MATCHPOINT_API_KEY`, `MATCHPOINT_API_KEY_FILE`, `MATCHPOINT_SERVER_CA`, `MATCHPOINT_CLIENT_CERTIFICATE`,
    `MATCHPOINT_CLIENT_CERTIFICATE_KEY`. Certificates are files in PEM, or their bytes. It connects with the first call.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        deployment: str = "",
        api_key: str | None = None,
        api_key_file: str | os.PathLike[str] | None = None,
        server_ca: Pem | None = None,
        client_certificate: Pem | None = None,
        client_certificate_key: Pem | None = None,
        timeout: float = 30.0,
    ) -> None:
        where = address(server, api_key, api_key_file, server_ca, client_certificate, client_certificate_key)
        super().__init__(_AsyncConnection(where, timeout), deployment)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection, and calls that are under way."""
        await self._connection.close()

    def deployment(self, name: str) -> AsyncDeployment:
        """A deployment of the server, over the same connection."""
        return AsyncDeployment(self._connection, name)

    async def info(self, *, timeout: float | None = None) -> ServerInfo:
        """The server, and what it serves."""
        return await self._connection.run(_calls.server_info(), timeout)

    async def health(self, service: str = "", *, timeout: float | None = None) -> bool:
        """Whether the server answers requests now. False also where none is there; it never waits for one."""
        send = self._connection.channel.unary_unary(
            _calls.HEALTH_CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        left = self._connection.timeout if timeout is None else timeout
        try:
            answer = await send(health_pb2.HealthCheckRequest(service=service), timeout=left)
        except grpc.RpcError as error:
            return _calls.unhealthy(_failures.from_call("health", self._connection.where.server, error))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Waits until the server answers requests; DeadlineError if it does not in time."""
        ends = time.monotonic() + timeout
        while not await self.health(timeout=max(ends - time.monotonic(), 0.01)):
            if time.monotonic() >= ends:
                raise _calls.not_ready(self._connection.where.server, timeout)
            await asyncio.sleep(0.1)

    async def call(self, method: str, request: Message, *, timeout: float | None = None) -> Any:
        """Any call of the protocol that has no method here, such as `MonitoringService.GetDrift`, with the messages of
        `matchpoint.v1`; errors, deadline and keys are the same."""
        return await self._connection.run(_calls.any_call(method, request), timeout)

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel, for the stubs of `matchpoint.v1`: streams. Their calls take `metadata=client.call_metadata`."""
        return self._connection.channel

    @property
    def call_metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call sends along: the key. Secret."""
        return self._connection.where.metadata
