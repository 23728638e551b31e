"""From what gRPC reports to an error of ours, and when to try again."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from typing import Any

from google.rpc import code_pb2, error_details_pb2, status_pb2

from .errors import CancelledCallError, MatchpointError, OverloadedError, UnreachableError, refusal

# The protocol's names of what errors carry.
_DETAILS = "grpc-status-details-bin"

# Pauses where the server suggests none, in seconds.
_PAUSE_FIRST = 0.1
_PAUSE_MAX = 2.0


def from_status(where: str, status: status_pb2.Status) -> MatchpointError:
    """The error for the status of one of many."""
    return _refusal(where, code_pb2.Code.Name(status.code), status.message, status)


def from_call(where: str, server: str, error: Any) -> MatchpointError:
    """The error for a call that gRPC ended."""
    status = status_pb2.Status()
    trailers: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()
    for key, value in trailers:
        if key == _DETAILS and isinstance(value, bytes):
            status.ParseFromString(value)
    return _refusal(f"{where} at {server}", error.code().name, error.details() or "", status, server)


def closed(server: str) -> MatchpointError:
    """The error for a call of a client that is closed."""
    where = f"the client of {server}"
    return refusal(where, "CANCELLED", "it is closed", remedy="make another one, or call within its `with`")


def _refusal(
    where: str, code: str, details: str, status: status_pb2.Status, server: str = ""
) -> MatchpointError:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(retry)
    answered = bool(info.reason)
    has_delay = retry.HasField("retry_delay")
    return refusal(
        where,
        code,
        details,
        reason=info.reason,
        metadata=info.metadata,
        retry_after=retry.retry_delay.ToTimedelta().total_seconds() if has_delay else None,
        remedy="" if answered else _remedy(code, details, server),
    )


def _remedy(code: str, details: str, server: str) -> str:
    """What to do where gRPC's library speaks, and not the server."""
    if code == "UNAVAILABLE":
        if not server.startswith("https://"):
            return (
                "start a server with `matchpoint serve`, or name its address by server= or MATCHPOINT_SERVER "
                "(https://HOST:PORT if it has a certificate)"
            )
        if "WRONG_VERSION_NUMBER" in details:
            return "the server has no certificate; write http:// in place of https://"
        # Where a name has several addresses, gRPC tells of the last one that failed, for whatever reason.
        return (
            "start a server with `matchpoint serve`; name the authority of its certificate by server_ca= or "
            "MATCHPOINT_SERVER_CA, and the host as the certificate does; if it asks for yours, pass client_certificate="
        )
    if code == "DEADLINE_EXCEEDED":
        return "the server may be full, or slow: allow more by timeout=, or ask for less at a time"
    if code == "OUT_OF_RANGE":
        return "it is larger than the server's message_bytes_max; send a smaller picture"
    if code == "UNIMPLEMENTED":
        return "the server is older than this client, or it is none of Matchpoint"
    return ""


class Patience:
    """How long to go on with one call: until its deadline, as the server suggests."""

    def __init__(self, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._pause = _PAUSE_FIRST

    def left(self) -> float:
        """Seconds until the deadline."""
        return max(self._deadline - time.monotonic(), 0.0)

    def pause(self, failure: MatchpointError, *, repeatable: bool, was_there: bool) -> float | None:
        """Seconds to wait before the call is sent again; None if it failed for good.

        With a `retry_after` the server says that nothing was done. Without one, a call that found no server is
        repeated only where there has been one, which is taken to be restarting: an address may also be wrong.
        """
        asked = failure.retry_after is not None and isinstance(failure, (OverloadedError, UnreachableError))
        # A server that is stopped may cancel what it has; so does a client that is closed, in these words.
        cancelled = isinstance(failure, CancelledCallError) and "Channel closed" not in failure.details
        gone = (isinstance(failure, UnreachableError) or cancelled) and repeatable and was_there
        if not asked and not gone:
            return None
        # A little later than suggested, and not all callers at one moment.
        least = failure.retry_after if failure.retry_after is not None else self._pause
        self._pause = min(self._pause * 2, _PAUSE_MAX)
        pause = least * random.uniform(1.0, 1.3)
        return pause if pause < self.left() else None
