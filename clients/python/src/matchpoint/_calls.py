"""Each call of the protocol as data: what is sent, what becomes of the answer, and whether it may be sent twice.

The client that waits and the one that does not send the same calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypedDict, TypeVar

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from . import _failures, errors
from ._queries import LabelledQuery, Payload
from ._reading import enum_value, read
from .results import (
    Activation,
    AnnotationOutcome,
    Calibration,
    CalibrationDoubts,
    Embedding,
    Enrolled,
    Item,
    OperatingPoint,
    OperatingPoints,
    RecordedDecision,
    Relabelled,
    SearchResult,
    ServerInfo,
    Stranger,
    Truth,
    Unusable,
    VerifyResult,
)
from .v1 import (
    calibration_pb2,
    gallery_pb2,
    monitoring_pb2,
    operating_point_pb2,
    retrieval_pb2,
    server_pb2,
    snapshot_pb2,
)

# What `method` looks services up in: those that are imported.
_SERVICES = (calibration_pb2, snapshot_pb2)

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the protocol."""

    path: str
    response: type[Message]


@dataclass(frozen=True, slots=True)
class Call(Generic[A]):
    """One call to be made."""

    method: Method
    request: Message
    read: Callable[[Any], A]
    #: What it is about, in an error.
    subject: str
    #: Whether it may be sent again when it is not known whether it was done.
    repeatable: bool = True
    metadata: tuple[tuple[str, str], ...] = ()


#: Of a call that is one of many: less urgent than others (RFC 9218), so a server that is behind lets it wait.
ONE_OF_MANY = (("priority", "u=5"),)


class SearchOptions(TypedDict, total=False):
    """What `search` and `search_many` take beside the query."""

    limit: int
    """How many matches to return, at most: 1 to 1000; 10 if left out. Does not influence the decision, under a filter
    neither."""
    exact: bool
    """Find the matches by comparing with every item. Scores are exact either way; the decision does not change."""
    filter: str
    """The items that the search is restricted to, such as `metadata.camera = front`: docs/filters.md."""
    one_per_label: bool
    """Return the best item of each label."""
    min_score: float
    """Return no match with a lower score. Does not influence the decision."""
    ef_search: int
    """Length of the candidate list of an approximate search, 1 to 4096; the index's own if left out."""
    expect_state: str
    """The `state` that is to decide; a NotPossibleError (STATE_MISMATCH) if another one would."""
    conditions: Mapping[str, str]
    """What is known of the query beside what it shows, such as `camera` = `gate`."""


class CalibrationOptions(TypedDict, total=False):
    """What a calibration is to achieve, and how: one of `target_far`, `target_frr` and `equal_error` is required."""

    target_far: float
    """The false accept rate per search that must not be exceeded."""
    target_frr: float
    """The false reject rate per search that must not be exceeded."""
    equal_error: bool
    """Where both rates are equal; promises nothing."""
    confidence: float
    """Confidence of the promise, 0.5 to below 1; 0.95 if left out."""
    estimated: bool
    """With `target_far`: take the threshold whose estimated upper bound meets the target, which is not certified."""
    review_frr: float
    """With `target_far`: adds a review band, docs/calibration.md."""
    grow_to_items: int
    """With `target_far`: the number of items that the gallery will grow to."""
    worst_group_of: str
    """With `target_far`: a key of the metadata; the target is certified for each of its values."""
    labels_as_they_are: bool
    """Labels that differ by spelling alone are different things."""
    strangers_are_distinct: bool
    """Every picture of a stranger without a name shows another one."""
    seed: int
    """Seed of the choice of one query for each label."""
    without_cache: bool
    """Embed every query again, and keep none of their embeddings on the server."""


def method(name: str, *, stream: bool = False) -> Method:
    """A method by its name, such as `MonitoringService.GetDrift`, or with the package before it."""
    service, _, called = name.rpartition(".")
    try:
        found = descriptor_pool.Default().FindServiceByName(service if "." in service else f"matchpoint.v1.{service}")
        described = found.methods_by_name[called]
    except KeyError:
        raise ValueError(f"the protocol has no `{name}`; write it as in `RetrievalService.Search`") from None
    if (described.client_streaming or described.server_streaming) and not stream:
        raise ValueError(f"{name} is a stream; call it by its stub, with `channel` and `call_metadata`")
    return Method(f"/{found.full_name}/{called}", message_factory.GetMessageClass(described.output_type))


_SEARCH = method("RetrievalService.Search")
_VERIFY = method("RetrievalService.Verify")
_EMBED = method("RetrievalService.Embed")
_UPSERT = method("GalleryService.UpsertItem")
_RELABEL = method("GalleryService.RelabelItem")
_DELETE = method("GalleryService.DeleteItem")
_GET_ITEM = method("GalleryService.GetItem")
_LIST_ITEMS = method("GalleryService.ListItems")
_LIST_POINTS = method("OperatingPointService.ListOperatingPoints")
_GET_POINT = method("OperatingPointService.GetOperatingPoint")
_ACTIVATE = method("OperatingPointService.ActivateOperatingPoint")
_ROLL_BACK = method("OperatingPointService.RollBackOperatingPoint")
_QUEUE = method("MonitoringService.ListAuditQueue")
_DECISION = method("MonitoringService.GetDecision")
_ANNOTATE = method("MonitoringService.AnnotateDecisions")
_INFO = method("ServerService.GetServerInfo")
CALIBRATE = method("CalibrationService.Calibrate", stream=True)


def _as_is(message: Any) -> Any:
    return message


def _put(request: Any, given: Payload) -> None:
    """Puts a picture or vector where a message takes either."""
    if given.image is not None:
        request.image = given.image
    elif given.vector is not None:
        request.embedding.values.extend(given.vector)


def _set_options(request: Any, options: Mapping[str, Any], known: type[Any], what: str) -> None:
    """Sets fields by their names, and names what there is not, or what does not fit."""
    names = known.__annotations__
    unknown = ", ".join(sorted(options.keys() - names.keys()))
    if unknown:
        raise TypeError(f"{what} has no option {unknown}; it has {', '.join(names)}, and timeout")
    for name, value in options.items():
        try:
            if isinstance(value, Mapping):
                getattr(request, name).update(value)
            elif value is not None:
                setattr(request, name, value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"the option {name} is {value!r}: {error}") from None


def _check_text(given: Mapping[str, Any]) -> None:
    """Names what is no text, which protobuf does not."""
    for name, value in given.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} is {value!r}, and must be text; write str(...)")


def search(
    deployment: str, given: Payload, options: SearchOptions, metadata: tuple[tuple[str, str], ...] = ()
) -> Call[SearchResult]:
    request = retrieval_pb2.SearchRequest(deployment=deployment)
    _set_options(request, options, SearchOptions, "a search")
    _put(request, given)
    subject = f"search for {given.name}"
    return Call(_SEARCH, request, lambda message: read(SearchResult, message), subject, metadata=metadata)


def verify(deployment: str, given: Payload, other: Payload | None, item_id: str | None) -> Call[VerifyResult]:
    if (other is None) == (item_id is None):
        raise TypeError("verify takes either another picture or vector, or item_id=")
    request = retrieval_pb2.VerifyRequest(deployment=deployment)
    _put(request, given)
    if other is not None:
        _put(request.reference, other)
    else:
        request.reference.item_id = item_id or ""
    subject = f"verify {given.name} with {other.name if other is not None else f'item `{item_id}`'}"
    return Call(_VERIFY, request, lambda message: read(VerifyResult, message), subject)


def embed(deployment: str, given: Payload) -> Call[Embedding]:
    if given.image is None:
        raise errors.ImageError(f"{given.name} is no picture; embed takes pictures")
    request = retrieval_pb2.EmbedRequest(deployment=deployment, image=given.image)
    return Call(_EMBED, request, lambda message: read(Embedding, message), f"embed {given.name}")


def enrol(
    deployment: str, id: str, label: str, given: Payload, metadata: Mapping[str, str] | None
) -> Call[Enrolled]:
    metadata = metadata or {}
    _check_text({"id": id, "label": label, **{f"metadata {key!r}": value for key, value in metadata.items()}})
    request = gallery_pb2.UpsertItemRequest(deployment=deployment, id=id, label=label, metadata=metadata)
    _put(request, given)
    return Call(_UPSERT, request, lambda message: read(Enrolled, message), f"enrol item `{id}` from {given.name}")


def relabel(deployment: str, id: str, label: str, etag: str) -> Call[Relabelled]:
    _check_text({"id": id, "label": label, "etag": etag})
    request = gallery_pb2.RelabelItemRequest(deployment=deployment, id=id, label=label, etag=etag)
    subject = f"relabel item `{id}`"
    # A second one, where the answer to the first was lost, would find another etag.
    return Call(_RELABEL, request, lambda message: read(Relabelled, message), subject, repeatable=not etag)


def delete(deployment: str, id: str) -> Call[int]:
    _check_text({"id": id})
    request = gallery_pb2.DeleteItemRequest(deployment=deployment, id=id)
    # A second one, where the answer to the first was lost, would be told that there is no such item.
    return Call(_DELETE, request, lambda message: int(message.generation), f"delete item `{id}`", repeatable=False)


def item(deployment: str, id: str, with_embedding: bool, with_image: bool) -> Call[Item]:
    _check_text({"id": id})
    request = gallery_pb2.GetItemRequest(
        deployment=deployment, id=id, include_embedding=with_embedding, include_image=with_image
    )

    def answered(message: Any) -> Item:
        return replace(read(Item, message.item), image=message.image or None)

    return Call(_GET_ITEM, request, answered, f"item `{id}`")


#: A page, and the token of the next one.
Page = tuple[tuple[A, ...], str]


def items(deployment: str, token: str, with_embeddings: bool, page_size: int) -> Call[Page[Item]]:
    request = gallery_pb2.ListItemsRequest(
        deployment=deployment, page_size=page_size, page_token=token, include_embedding=with_embeddings
    )

    def answered(message: Any) -> Page[Item]:
        return tuple(read(Item, one) for one in message.items), message.next_page_token

    return Call(_LIST_ITEMS, request, answered, "list items")


def operating_points(deployment: str) -> Call[OperatingPoints]:
    request = operating_point_pb2.ListOperatingPointsRequest(deployment=deployment)
    return Call(_LIST_POINTS, request, lambda message: read(OperatingPoints, message), "list operating points")


def operating_point(deployment: str, id: str) -> Call[OperatingPoint]:
    request = operating_point_pb2.GetOperatingPointRequest(deployment=deployment, id=id)
    named = f"operating point {id}" if id else "the active operating point"
    return Call(_GET_POINT, request, lambda message: read(OperatingPoint, message.operating_point), named)


def activate(deployment: str, id: str, etag: str) -> Call[Activation]:
    request = operating_point_pb2.ActivateOperatingPointRequest(deployment=deployment, id=id, etag=etag)
    subject = f"activate operating point {id}"
    return Call(_ACTIVATE, request, lambda message: read(Activation, message), subject, repeatable=False)


def roll_back(deployment: str, etag: str) -> Call[Activation]:
    request = operating_point_pb2.RollBackOperatingPointRequest(deployment=deployment, etag=etag)
    subject = "roll back the operating point"
    return Call(_ROLL_BACK, request, lambda message: read(Activation, message), subject, repeatable=False)


def audit_queue(deployment: str, token: str) -> Call[Page[RecordedDecision]]:
    request = monitoring_pb2.ListAuditQueueRequest(deployment=deployment, page_token=token)

    def answered(message: Any) -> Page[RecordedDecision]:
        page = (replace(read(RecordedDecision, one), from_audit_queue=True) for one in message.decisions)
        return tuple(page), message.next_page_token

    return Call(_QUEUE, request, answered, "list the audit queue")


def decision(deployment: str, id: str, with_image: bool) -> Call[RecordedDecision]:
    request = monitoring_pb2.GetDecisionRequest(deployment=deployment, decision_id=id, include_image=with_image)

    def answered(message: Any) -> RecordedDecision:
        return replace(read(RecordedDecision, message.decision), image=message.image or None)

    return Call(_DECISION, request, answered, f"decision {id}")


def label(deployment: str, decided: Any, truth: Truth, annotator: str) -> Call[AnnotationOutcome]:
    """From the audit queue it counts; of any other decision it is feedback, since it was not sampled to be labelled."""
    id = decided if isinstance(decided, str) else decided.decision_id
    annotation = monitoring_pb2.Annotation(decision_id=id, annotator=annotator)
    from_queue = isinstance(decided, RecordedDecision) and decided.from_audit_queue
    audit, feedback = monitoring_pb2.ANNOTATION_KIND_AUDIT, monitoring_pb2.ANNOTATION_KIND_FEEDBACK
    annotation.kind = audit if from_queue else feedback
    match truth:
        case str():
            annotation.ground_truth.label = truth
        case Stranger(name):
            annotation.ground_truth.not_enrolled = True
            annotation.ground_truth.stranger_name = name
        case Unusable():
            annotation.ground_truth.unusable = True
        case _:
            raise TypeError(f"a {type(truth).__name__} is no truth; pass a label, Stranger(name) or Unusable()")
    request = monitoring_pb2.AnnotateDecisionsRequest(deployment=deployment, annotations=[annotation])
    subject = f"label decision {id}"

    def answered(message: Any) -> AnnotationOutcome:
        (result,) = message.results
        if result.HasField("error"):
            raise _failures.from_status(subject, result.error)
        described = monitoring_pb2.AnnotationOutcome.DESCRIPTOR
        return enum_value(AnnotationOutcome, described, result.outcome)

    return Call(_ANNOTATE, request, answered, subject)


def calibration_settings(
    deployment: str, activate: bool, options: CalibrationOptions
) -> calibration_pb2.CalibrateRequest:
    """The first message of a calibration."""
    settings = calibration_pb2.CalibrationSettings(deployment=deployment, validate_only=not activate)
    _set_options(settings, options, CalibrationOptions, "a calibration")
    return calibration_pb2.CalibrateRequest(settings=settings)


def labelled(given: LabelledQuery, query: Payload) -> calibration_pb2.CalibrateRequest:
    """Each further message."""
    _check_text({"id": given.id, "label": given.label})
    sent = calibration_pb2.LabelledQuery(id=given.id, label=given.label, metadata=given.metadata)
    _put(sent, query)
    return calibration_pb2.CalibrateRequest(query=sent)


def calibrated(operation: Any) -> Calibration:
    """What the operation, which has ended, came to."""
    response, metadata = calibration_pb2.CalibrateResponse(), calibration_pb2.CalibrateMetadata()
    if not operation.response.Unpack(response):
        raise _failures.from_status("calibrate", operation.error)
    operation.metadata.Unpack(metadata)
    point = read(OperatingPoint, response.operating_point)
    return Calibration(point, response.active, response.etag or None, read(CalibrationDoubts, metadata))


def server_info() -> Call[ServerInfo]:
    request = server_pb2.GetServerInfoRequest()
    return Call(_INFO, request, lambda message: read(ServerInfo, message), "server info")


def any_call(name: str, request: Message) -> Call[Any]:
    return Call(method(name), request, _as_is, name, repeatable=False)



HEALTH_CHECK = "/grpc.health.v1.Health/Check"


def unhealthy(failure: errors.MatchpointError) -> bool:
    """Whether a health check that failed says that nobody answers; raises what is the caller's fault."""
    if isinstance(failure, (errors.UnreachableError, errors.DeadlineError)):
        return False
    raise failure


def not_ready(server: str, timeout: float) -> errors.MatchpointError:
    return errors.refusal(f"waiting for {server}", "DEADLINE_EXCEEDED", f"it was not ready within {timeout:g} s")
