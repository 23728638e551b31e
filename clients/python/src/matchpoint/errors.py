"""What can go wrong. REJECT and UNDECIDED are answers, and never one of these.

Every error is a `MatchpointError`, and has the server's machine-readable `reason`. Its class says what a program can do
about it. A reason that is newer than this client has the class of its gRPC code, so that it is caught all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class MatchpointError(Exception):
    """Something was refused, or failed. The text says what, where, and how to fix it."""

    #: The server's machine-readable reason, such as `IMAGE_UNDECODABLE`; empty where nothing of Matchpoint answered.
    reason: str = ""
    #: The gRPC code, such as `INVALID_ARGUMENT`; empty if nothing was sent.
    code: str = ""
    #: What the server says, without where and how.
    details: str = ""
    #: More about the reason, for programs, such as `trials_needed`.
    metadata: Mapping[str, str] = {}
    #: When the server suggests to come back, in seconds; None if it does not.
    retry_after: float | None = None
    #: Whether it is about the caller or the server, so that any other call would end the same: a run of many ends.
    ends_run: ClassVar[bool] = False


class UnreachableError(MatchpointError, ConnectionError):
    """No server answers: it is not there, not yet, or not any more."""

    ends_run = True


class OverloadedError(MatchpointError):
    """The server has more to do than it can. It was asked again until the deadline was too near."""


class DeadlineError(MatchpointError, TimeoutError):
    """The answer did not come in time."""


class AuthenticationError(MatchpointError):
    """The server does not know who calls: a key or certificate is missing, or is not known (any more)."""

    ends_run = True


class PermissionDeniedError(MatchpointError):
    """The server knows who calls, and does not let them do this."""

    ends_run = True


class InvalidRequestError(MatchpointError, ValueError):
    """What was sent is wrong, and stays wrong."""


class ImageError(InvalidRequestError):
    """The picture cannot be used."""


class VectorError(InvalidRequestError):
    """The vector cannot be used: another length than the model's, not finite, or all zero."""


class ItemError(InvalidRequestError):
    """The id, label or metadata of an item is out of its limits."""


class NotFoundError(MatchpointError, LookupError):
    """What was named is not there."""


class DeploymentNotFoundError(NotFoundError):
    """The server serves no deployment of this name, or several and none was named."""

    ends_run = True


class ItemNotFoundError(NotFoundError):
    """No item of this id is enrolled."""


class OperatingPointNotFoundError(NotFoundError):
    """There is no operating point of this id, or none is active."""


class DecisionNotFoundError(NotFoundError):
    """The journal has no decision of this id."""


class ConflictError(MatchpointError):
    """Somebody else was there first: the name is taken, or the choice has changed. Look again, then decide."""


class NotPossibleError(MatchpointError):
    """What was asked for is not possible in the present state, which the text describes."""


class DamagedError(MatchpointError):
    """What the server stores is damaged. It answers nothing from it."""


class ServerError(MatchpointError):
    """A fault of the server. Its log has the cause."""


class CancelledCallError(MatchpointError):
    """The call was cancelled on the way, or the client is closed."""

    ends_run = True


_BY_CODE: Mapping[str, type[MatchpointError]] = {
    "ABORTED": ConflictError,
    "ALREADY_EXISTS": ConflictError,
    "CANCELLED": CancelledCallError,
    "DATA_LOSS": DamagedError,
    "DEADLINE_EXCEEDED": DeadlineError,
    "FAILED_PRECONDITION": NotPossibleError,
    "INTERNAL": ServerError,
    "INVALID_ARGUMENT": InvalidRequestError,
    "NOT_FOUND": NotFoundError,
    "OUT_OF_RANGE": InvalidRequestError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "RESOURCE_EXHAUSTED": OverloadedError,
    "UNAUTHENTICATED": AuthenticationError,
    "UNAVAILABLE": UnreachableError,
    "UNIMPLEMENTED": NotPossibleError,
    "UNKNOWN": ServerError,
}

# Where the reason says more than its code. docs/errors.md lists all reasons, and a test holds the two together.
_BY_REASON: Mapping[str, type[MatchpointError]] = {
    "ANNOTATION_INVALID": InvalidRequestError,
    "DECISION_NOT_FOUND": DecisionNotFoundError,
    "DEPLOYMENT_NOT_FOUND": DeploymentNotFoundError,
    "DISK_FULL": ServerError,
    "IMAGE_TOO_LARGE": ImageError,
    "IMAGE_UNDECODABLE": ImageError,
    "IMAGE_UNSUPPORTED_FORMAT": ImageError,
    "IMAGE_WITHOUT_CONTENT": ImageError,
    "IMAGE_WITHOUT_EMBEDDING": ImageError,
    "ITEM_INVALID": ItemError,
    "ITEM_NOT_FOUND": ItemNotFoundError,
    "OPERATING_POINT_NOT_FOUND": OperatingPointNotFoundError,
    "VECTOR_INVALID": VectorError,
    # The journal that has it is of another server; the text names it.
    "WRONG_REPLICA": DecisionNotFoundError,
}

# How to fix what the server cannot know: it does not see how it is called.
_REMEDIES: Mapping[str, str] = {
    "KEY_MISSING": "pass api_key= or api_key_file=, or set MATCHPOINT_API_KEY or MATCHPOINT_API_KEY_FILE",
    "TOKEN_REFUSED": "get another token of the issuer, and pass it as api_key=",
    "KEY_UNKNOWN": "have a new one made (`matchpoint keys new`), and pass it as api_key= or by MATCHPOINT_API_KEY",
    "KEY_EXPIRED": "have a new one made (`matchpoint keys new`), and pass it as api_key= or by MATCHPOINT_API_KEY",
    "CERTIFICATE_UNKNOWN": "pass api_key=, or have the certificate added (`matchpoint keys new --certificate`)",
    "SCOPE_MISSING": "have a key made that has it (`matchpoint keys new --scopes`)",
    "DEPLOYMENT_DENIED": "have a key made for it (`matchpoint keys new --deployments`)",
}


def error_class(code: str, reason: str) -> type[MatchpointError]:
    """The class of what the server says."""
    return _BY_REASON.get(reason) or _BY_CODE.get(code, ServerError)


def refusal(
    where: str,
    code: str,
    details: str,
    *,
    reason: str = "",
    metadata: Mapping[str, str] | None = None,
    retry_after: float | None = None,
    remedy: str = "",
) -> MatchpointError:
    """The error for what a server, or the library in its place, says."""
    name = f"{code} ({reason})" if reason else code
    remedy = remedy or _REMEDIES.get(reason, "")
    error = error_class(code, reason)(f"{where}: {name}: {details}{f'; {remedy}' if remedy else ''}")
    error.reason, error.code, error.details = reason, code, details
    error.metadata = dict(metadata or {})
    error.retry_after = retry_after
    return error
