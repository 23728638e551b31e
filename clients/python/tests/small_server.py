"""A gRPC server that answers as it is told: for what the real one does seldom, or will do some day."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from matchpoint.v1 import gallery_pb2, retrieval_pb2

#: What a call is answered with: a message, or a refusal.
Reply = Any


class Refusal:
    """An error as the server sends it."""

    def __init__(
        self, code: grpc.StatusCode, reason: str = "", message: str = "no", *, retry_after: float | None = None
    ) -> None:
        status = status_pb2.Status(code=code.value[0], message=message)
        self.code, self.message = code, message
        self.trailers: list[tuple[str, str | bytes]] = []
        details: list[Any] = []
        if reason:
            details.append(error_details_pb2.ErrorInfo(reason=reason, domain="matchpoint.dev", metadata={"n": "1"}))
        if retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(retry_after * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
            self.trailers.append(("grpc-retry-pushback-ms", str(int(retry_after * 1000))))
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        if details:
            self.trailers.append(("grpc-status-details-bin", status.SerializeToString()))


class SmallServer:
    """Answers Search, UpsertItem and DeleteItem by a function; counts calls, and how many are under way at once."""

    def __init__(
        self, answer: Callable[[Any], Reply], port: int = 0, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self.calls = 0
        self.under_way = 0
        self.under_way_max = 0
        self.metadata: list[dict[str, str | bytes]] = []
        unlimited = ("grpc.max_receive_message_length", -1)
        self._server = grpc.server(ThreadPoolExecutor(64), options=[unlimited, ("grpc.so_reuseport", 0)])
        services: dict[str, dict[str, tuple[Any, Any]]] = {
            "RetrievalService": {"Search": (retrieval_pb2.SearchRequest, retrieval_pb2.SearchResponse)},
            "GalleryService": {
                "UpsertItem": (gallery_pb2.UpsertItemRequest, gallery_pb2.UpsertItemResponse),
                "DeleteItem": (gallery_pb2.DeleteItemRequest, gallery_pb2.DeleteItemResponse),
            },
        }
        for service, methods in services.items():
            handlers = {
                name: grpc.unary_unary_rpc_method_handler(
                    self._handle,
                    request_deserializer=request.FromString,
                    response_serializer=response.SerializeToString,
                )
                for name, (request, response) in methods.items()
            }
            generic = grpc.method_handlers_generic_handler(f"matchpoint.v1.{service}", handlers)
            self._server.add_generic_rpc_handlers((generic,))
        place = f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(place)
        else:
            self.port = self._server.add_secure_port(place, credentials)
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def _handle(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            self.calls += 1
            self.under_way += 1
            self.under_way_max = max(self.under_way_max, self.under_way)
            self.metadata.append(dict(context.invocation_metadata()))
        try:
            reply = self._answer(request)
            if isinstance(reply, Refusal):
                context.set_trailing_metadata(tuple(reply.trailers))
                context.abort(reply.code, reply.message)
            return reply
        finally:
            with self._lock:
                self.under_way -= 1

    def stop(self) -> None:
        self._server.stop(None).wait()
