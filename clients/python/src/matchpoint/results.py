"""What the server answers, as frozen dataclasses. What is absent is None: not known, and not zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from ._reading import read

Q = TypeVar("Q")
R = TypeVar("R")


class _Named(str, Enum):
    """Equal to its name as text, and written as that."""

    def __str__(self) -> str:
        return str(self.value)


class Decision(_Named):
    """Whether the best match is accepted as the same thing. It has no truth value: compare it, or ask `accepted`."""

    ACCEPT = "ACCEPT"
    """The score reaches the threshold of the operating point."""
    REJECT = "REJECT"
    """The score stays below the threshold, or nothing was found."""
    UNDECIDED = "UNDECIDED"
    """Nothing was decided, and nothing may be taken for the same: `basis.undecided_reason` says why."""

    @classmethod
    def _missing_(cls, value: object) -> Decision:
        # Of a newer server: whatever it means, it is no ACCEPT.
        return cls.UNDECIDED

    def __bool__(self) -> NoReturn:
        raise TypeError("a Decision is neither true nor false, REJECT is an answer too; write `is Decision.ACCEPT`")


class UndecidedReason(_Named):
    """Why a decision is UNDECIDED."""

    OPERATING_POINT_MISSING = "OPERATING_POINT_MISSING"
    """No operating point is active. Run `matchpoint calibrate`, or activate one."""
    OPERATING_POINT_MISMATCH = "OPERATING_POINT_MISMATCH"
    """The active operating point was calibrated with another model, gallery or index. Calibrate again."""
    OPERATING_POINT_UNREADABLE = "OPERATING_POINT_UNREADABLE"
    """The active operating point is missing from the server's disk, or damaged. Restore it, or calibrate again."""
    NO_OTHER_LABEL = "NO_OTHER_LABEL"
    """The operating point compares with the best item of another label, and there is none. Enrol more labels."""
    GALLERY_DAMAGED = "GALLERY_DAMAGED"
    """An item has changed on the server's disk while it was served. Restart the server, and look after its disk."""
    UNKNOWN = "UNKNOWN"
    """A reason that this client is too old for."""

    @classmethod
    def _missing_(cls, value: object) -> UndecidedReason:
        return cls.UNKNOWN


class AnnotationOutcome(_Named):
    """What a reported truth changed."""

    ADDED = "ADDED"
    """The first one of its decision."""
    CONFIRMED = "CONFIRMED"
    """Another annotator had said the same."""
    CORRECTED = "CORRECTED"
    """It replaces an earlier one that said something else."""
    REPEATED = "REPEATED"
    """The same annotator had said the same; nothing changed."""
    UNKNOWN = "UNKNOWN"
    """Something that this client is too old for."""

    @classmethod
    def _missing_(cls, value: object) -> AnnotationOutcome:
        return cls.UNKNOWN


class _Decided:
    """What has a decision. It must not be taken for a yes by being there."""

    __slots__ = ()
    decision: Decision

    @property
    def accepted(self) -> bool:
        """True for ACCEPT, and for nothing else."""
        return self.decision is Decision.ACCEPT

    def __bool__(self) -> NoReturn:
        kind = type(self).__name__
        raise TypeError(f"a {kind} is neither true nor false, it is there for REJECT too; write `if result.accepted:`")


@dataclass(frozen=True, slots=True)
class Match:
    """An enrolled item that is near the query."""

    id: str
    """The item's id."""
    label: str
    """The item's label: what "the same" refers to."""
    score: float
    """Cosine similarity to the query, in [-1, 1], exact to the last bit of an `f32`."""
    metadata: Mapping[str, str] = field(hash=False)
    """What was enrolled with the item."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What a decision rests on, and what is promised. The protocol says more of each (decision.proto)."""

    operating_point_id: str | None
    """The operating point that decided; None when UNDECIDED."""
    threshold: float | None
    """The threshold used; above 1 if the operating point accepts nothing."""
    target_far: float | None
    """The false accept rate per search that was asked for; promised if `certified`."""
    target_frr: float | None
    """The false reject rate per search that is promised."""
    confidence: float | None
    """Confidence of the promise, in (0, 1)."""
    certified: bool
    """Whether `target_far` is promised for today's gallery, rather than aimed at."""
    within_calibrated_size: bool
    """False once the gallery has outgrown the calibration: the decision stands, the promise does not cover it."""
    valid_to_items: int | None
    """Number of items up to which the calibration holds."""
    undecided_reason: UndecidedReason | None
    """Why it is UNDECIDED."""
    decision_score: float | None
    """The score that was compared with `threshold`; None if nothing was found."""
    adjustment: str | None
    """How `decision_score` was computed, in words; None if it is the similarity of the best match."""
    far_bound: float | None
    """The false accept rate that is not exceeded in today's gallery, at `confidence`; None unless that is certified."""
    frr_bound: float | None
    """The false reject rate that is not exceeded today, at `confidence`."""
    gallery_coverage: float | None
    """Share of today's gallery that the calibration has seen, in [0, 1]."""
    items_added: int | None
    """Number of items that were added or changed since the calibration."""
    review: bool
    """Whether it is a REJECT that a person is to look at."""
    review_threshold: float | None
    """The score from which on a REJECT is for a person; None without a review band."""
    unseen_frr: float | None
    """The share of mated searches promised to be rejected without a look or accepted with a wrong label, at most."""

    def __str__(self) -> str:
        if self.threshold is None:
            return f"no valid operating point decides: {self.undecided_reason or ''}"
        parts = [f"threshold {self.threshold:.4f}"]
        word = "" if self.certified else "aimed at: "
        sure = f" at {self.confidence:.4g} confidence" if self.confidence is not None else ""
        if self.target_far is not None:
            parts.append(f"{word}FAR <= {self.target_far:.4g}{sure}")
        if self.target_frr is not None:
            parts.append(f"FRR <= {self.target_frr:.4g}{sure}")
        if self.review:
            parts.append("for a person to look at")
        if not self.within_calibrated_size:
            parts.append("the gallery has outgrown the calibration")
        return ", ".join([*parts, self.operating_point_id or ""])


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a call went on the server, in seconds."""

    queue_seconds: float
    """Waiting for a free worker."""
    decode_seconds: float
    """Decoding and resizing the picture; 0 for a vector."""
    inference_seconds: float
    """Running the model; 0 for a vector."""
    search_seconds: float
    """Searching the gallery, or comparing."""
    total_seconds: float
    """All of it."""


@dataclass(frozen=True, slots=True)
class Answer(_Decided):
    """The decision alone, without the matches and what it rests on: one row of a table or a log."""

    decision: Decision
    """ACCEPT, REJECT or UNDECIDED."""
    label: str | None
    """The label that was accepted; None unless ACCEPT."""
    item_id: str | None
    """The item that was accepted; None unless ACCEPT."""
    score: float | None
    """Cosine similarity of the best match, accepted or not; None if nothing was found, or the options leave it out."""
    threshold: float | None
    """The threshold used; None when UNDECIDED."""
    operating_point_id: str | None
    """The operating point that decided; None when UNDECIDED."""
    undecided_reason: UndecidedReason | None
    """Why it is UNDECIDED."""
    review: bool
    """Whether it is a REJECT that a person is to look at."""
    decision_id: str
    """To refer to the decision later: `label` takes it."""


def _decided(message: Any) -> Match | None:
    """The match that was decided on, which need not be the first."""
    id = message.decided_item_id
    return next((read(Match, one) for one in message.matches if one.id == id), None)


@dataclass(frozen=True, slots=True)
class SearchResult(_Decided):
    """The decision on the best match, the matches, and what it rests on."""

    decision: Decision
    """Whether the best match is accepted."""
    matches: tuple[Match, ...]
    """The nearest items, best first. They are there whether accepted or not."""
    basis: Basis
    """What the decision rests on, and what is promised."""
    decision_id: str
    """To refer to this decision later: `label` takes it."""
    generation: int
    """Number of the gallery's state that was searched."""
    gallery_items: int
    """Number of items that it held."""
    model_fingerprint: str
    """Which model embedded the query."""
    state: str | None
    """What decided: items, model, index and operating point. Replicas of one state decide alike, but for what an
    approximate index misses."""
    timings: Timings
    """Where the time went."""
    decided_item_id: str | None
    """The item that the decision is about: the best of the search that it rests on; None if nothing was found."""
    decided_label: str | None
    """The label of that item, accepted or not: `label` is for what was accepted."""
    decided: Match | None
    """The match of that item; None if the options leave it out of `matches`."""

    _READERS: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"decided": _decided}

    @property
    def best(self) -> Match | None:
        """The first match, accepted or not; None if there is none."""
        return self.matches[0] if self.matches else None

    @property
    def label(self) -> str | None:
        """The label that was accepted; None unless ACCEPT."""
        return self.decided_label if self.accepted else None

    @property
    def answer(self) -> Answer:
        """The decision alone."""
        return Answer(
            decision=self.decision,
            label=self.label,
            item_id=self.decided_item_id if self.accepted else None,
            score=self.decided.score if self.decided is not None else None,
            threshold=self.basis.threshold,
            operating_point_id=self.basis.operating_point_id,
            undecided_reason=self.basis.undecided_reason,
            review=self.basis.review,
            decision_id=self.decision_id,
        )

    def __str__(self) -> str:
        at = f" at {self.decided.score:.4f}" if self.decided is not None else ""
        found = f"{self.decided_label} ({self.decided_item_id}){at}" if self.decided_item_id else "nothing was found"
        return f"{self.decision}: {found}; {self.basis}"


@dataclass(frozen=True, slots=True)
class VerifyResult(_Decided):
    """The outcome of one comparison. What is promised is for searches: an FRR is none here, and a FAR holds as an upper
    bound, if scores are not normalised."""

    decision: Decision
    """Whether the two are accepted as the same."""
    score: float
    """Their cosine similarity, in [-1, 1], exact."""
    basis: Basis
    """What the decision rests on."""
    decision_id: str
    """A new id for this decision."""
    generation: int
    """Number of the gallery's state that was used."""
    model_fingerprint: str
    """Which model embedded both."""
    state: str | None
    """What decided, as in `SearchResult`."""
    timings: Timings
    """Where the time went."""

    def __str__(self) -> str:
        return f"{self.decision}: {self.score:.4f}; {self.basis}"


@dataclass(frozen=True, slots=True)
class Embedding:
    """A picture as the model sees it. It can be searched for in place of the picture."""

    values: tuple[float, ...]
    """The components, of unit length together."""
    model_fingerprint: str
    """Which model made it. Vectors of two models cannot be compared."""
    timings: Timings
    """Where the time went."""

    _READERS: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "values": lambda message: tuple(message.embedding.values)
    }


@dataclass(frozen=True, slots=True)
class AcceptedItem:
    """An enrolled item of another label that a new one is accepted as."""

    id: str
    """Its id."""
    label: str
    """Its label."""
    decision_score: float
    """What passes the threshold."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An item is enrolled: on the server's disk, and visible at once."""

    replaced: bool
    """Whether an item of the same id was replaced."""
    generation: int
    """Number of the gallery's state that first shows it."""
    accepted_as: tuple[AcceptedItem, ...]
    """A warning: items of other labels that this one is accepted as, at most 5. One thing under two labels, a wrong
    label, or look-alikes. The item is enrolled all the same."""
    accepted_as_count: int | None
    """Their number, 20 at most; None if it was not looked for them."""


@dataclass(frozen=True, slots=True)
class Relabelled:
    """An item has its new label: on the server's disk, and visible at once."""

    generation: int
    """Number of the gallery's state that first shows it."""
    accepted_as: tuple[AcceptedItem, ...]
    """The warning of `Enrolled`, for the new label."""
    accepted_as_count: int | None
    """Their number, 20 at most; None if it was not looked for them."""


@dataclass(frozen=True, slots=True)
class Item:
    """An enrolled item."""

    id: str
    """Its id, unique in the gallery."""
    label: str
    """Its label."""
    metadata: Mapping[str, str] = field(hash=False)
    """What was enrolled with it."""
    embedding: tuple[float, ...] | None = field(default=None, repr=False)
    """The vector, of unit length, if it was asked for."""
    image: bytes | None = field(default=None, repr=False)
    """The picture, byte for byte, if it was asked for and is kept."""
    etag: str | None = field(default=None, repr=False, compare=False)
    """Another one as soon as anything of the item is; of `item(id)` alone. For `relabel`."""

    _READERS: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "etag": lambda item: item.etag or None,
        "embedding": lambda item: tuple(item.embedding.values) or None,
        "image": lambda item: None,
    }


@dataclass(frozen=True, slots=True)
class Rate:
    """A measured rate with its interval."""

    rate: float
    """Share of the trials, in [0, 1]."""
    lower: float
    """Lower end of the interval."""
    upper: float
    """Upper end of the interval."""
    confidence: float
    """Confidence of the interval, in (0, 1)."""
    trials: int
    """Number of trials."""
    labels: int
    """Number of labels that they come from. Trials of one label are not independent of each other."""

    def __str__(self) -> str:
        return f"{self.rate:.4g} ({self.lower:.4g} to {self.upper:.4g}, {self.trials} trials, {self.labels} labels)"


@dataclass(frozen=True, slots=True)
class ReviewBand:
    """The scores from a lower threshold to below that of an operating point: rejects for a person to look at."""

    threshold: float
    """The score from which on a REJECT is for a person."""
    unseen_frr: float
    """The share of mated searches promised to be rejected without a look, or accepted with a wrong label, at most."""
    unseen_frr_bound: float
    """Upper bound of that share, at `confidence`."""
    confidence: float
    """Confidence of this promise by itself, in (0, 1)."""
    independent_trials: int
    """Number of independent trials behind it, one for each enrolled label."""
    mated_reviewed: Rate | None
    """Share of the mated searches of the calibration that fall into the band."""
    strangers_reviewed: Rate | None
    """Share of its non-mated searches that do."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold, what it promises, and all that it is valid for."""

    id: str
    """Made from its content, such as `op-5f2c9a0b1d3e4f60`."""
    policy: str
    """What chose the threshold, such as `target-far-certified`."""
    threshold: float
    """Score from which a match is accepted; above 1 if nothing is."""
    target_far: float | None
    """The false accept rate per search that was asked for; promised if `certified`."""
    target_frr: float | None
    """The false reject rate per search that is promised."""
    confidence: float | None
    """Confidence of the promise, in (0, 1)."""
    certified: bool
    """Whether the target is promised, rather than aimed at."""
    independent_trials: int
    """Number of independent trials behind the promise, one for each label; 0 if nothing is promised."""
    far_upper_bound: float | None
    """Upper bound of the false accept rate, at `confidence`; an estimate if nothing is certified."""
    frr_upper_bound: float | None
    """Upper bound of the false reject rate, at `confidence`."""
    far: Rate | None
    """False accept rate over the searches of the calibration."""
    frr: Rate | None
    """False reject rate over the searches of the calibration."""
    held_out_far: Rate | None
    """False accept rate on labels that had no part in choosing."""
    held_out_frr: Rate | None
    """False reject rate on labels that had no part in choosing."""
    model_fingerprint: str
    """The model that it belongs to."""
    gallery_id: str
    """The gallery that it belongs to."""
    gallery_items: int
    """Number of items in it at the calibration."""
    valid_to_items: int
    """Number of items up to which the threshold was made to hold."""
    index: str
    """The index that it belongs to."""
    adjustment: str | None
    """How the score is computed, in words; None for the similarity of the best match."""
    review: ReviewBand | None
    """Scores below the threshold of which a person decides; None unless that was asked for."""
    created_unix_seconds: int
    """When it was made."""
    assumptions: tuple[str, ...]
    """What the promise assumes, in sentences."""

    @property
    def created(self) -> datetime:
        """When it was made."""
        return datetime.fromtimestamp(self.created_unix_seconds, timezone.utc)


@dataclass(frozen=True, slots=True)
class OperatingPoints:
    """All operating points of a deployment, and which of them decides."""

    operating_points: tuple[OperatingPoint, ...]
    """Oldest first."""
    active_id: str | None
    """Id of the one that decides; None if there is none, and every decision is UNDECIDED."""
    etag: str
    """Stands for the choice: `activate` takes it, so that nobody's later choice is overwritten."""

    @property
    def active(self) -> OperatingPoint | None:
        """The one that decides."""
        return next((point for point in self.operating_points if point.id == self.active_id), None)


@dataclass(frozen=True, slots=True)
class Activation:
    """The choice of operating point was changed."""

    operating_point: OperatingPoint
    """The one that decides now."""
    etag: str
    """Stands for the new choice."""
    previous_id: str | None
    """Id of the one that decided before; None if there was none."""


@dataclass(frozen=True, slots=True)
class FailedQuery:
    """A labelled query that could not be used."""

    id: str
    """Its id."""
    reason: str
    """Why."""


@dataclass(frozen=True, slots=True)
class CrowdedGroup:
    """Labels of strangers that may be one stranger."""

    labels_total: int
    """Their number."""
    labels: tuple[str, ...]
    """The labels: all of them, or the first."""


@dataclass(frozen=True, slots=True)
class CrowdedStrangers:
    """Labels of strangers that are nearer to each other than strangers come to the gallery: the same under several
    names, or look-alikes. A certified false accept rate holds either way."""

    labels: int
    """Number of such labels."""
    strangers: int
    """Strangers that they may be."""
    level: float
    """The similarity from which two are linked, directly or in a chain."""
    groups: tuple[CrowdedGroup, ...]
    """The groups, the largest first; the first hundred."""


@dataclass(frozen=True, slots=True)
class CalibrationDoubts:
    """What is doubtful about the queries of a calibration. Failed queries and duplicates did not count as trials."""

    failed: tuple[FailedQuery, ...]
    """Queries that could not be used, the first hundred."""
    failed_total: int
    """Their number."""
    gallery_duplicates_total: int
    """Number of queries that show an enrolled picture."""
    query_duplicates_total: int
    """Number of queries that show the same picture as another one."""
    stranger_near_duplicates_total: int
    """Number of queries of strangers that nearly show a picture of another stranger."""
    alike_labels_total: int
    """Number of pairs of labels that are suspiciously alike."""
    crowded_strangers: CrowdedStrangers | None
    """Labels of strangers that may be fewer strangers than they are; None if there are none."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration came to."""

    operating_point: OperatingPoint
    """The threshold, and what it promises."""
    active: bool
    """Whether it decides now; False unless that was asked for."""
    etag: str | None
    """Stands for the choice; None unless it is active."""
    doubts: CalibrationDoubts
    """What is doubtful about the queries."""


@dataclass(frozen=True, slots=True)
class DeploymentInfo:
    """One deployment: a gallery, a model, and an operating point."""

    name: str
    """The name to use in calls."""
    model_name: str
    """Name of the model."""
    model_fingerprint: str
    """Fingerprint of the model: 64 hexadecimal digits."""
    dimension: int
    """Number of components of its vectors."""
    precision: str
    """Which of the model's precisions: `f32` for its own file."""
    execution_provider: str
    """What runs it: `cpu`, `cuda` or `tensorrt`."""
    gallery_id: str
    """Id of the gallery."""
    gallery_items: int
    """Number of items in it."""
    gallery_labels: int
    """Number of labels in it."""
    generation: int
    """Number of its present state."""
    index: str
    """The index and its parameters."""
    operating_point_id: str | None
    """The operating point that decides; None if there is no valid one, and nothing is accepted."""
    certified: bool
    """Whether its target false accept rate is promised for today's gallery."""
    within_calibrated_size: bool
    """False once the gallery has outgrown the calibration."""
    far_bound: float | None
    """As in `Basis`."""
    frr_bound: float | None
    """As in `Basis`."""
    gallery_coverage: float | None
    """As in `Basis`."""
    items_added: int | None
    """As in `Basis`."""
    items_removed: int | None
    """Number of items of the calibration that were removed or changed since."""
    state: str | None
    """What decides, as in `SearchResult`."""
    traffic_alarm: str | None
    """The alarm that searches are not like those of the calibration, in words."""


@dataclass(frozen=True, slots=True)
class UnopenedDeployment:
    """A deployment that could not be opened when the server started, and is not served."""

    name: str
    """The name that it would be served under."""
    reason: str
    """Why, such as `GALLERY_DAMAGED`."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server, and what it serves."""

    version: str
    """Version of Matchpoint."""
    onnxruntime_version: str
    """Version of ONNX Runtime that it has loaded."""
    deployments: tuple[DeploymentInfo, ...]
    """What it serves, by name."""
    unopened: tuple[UnopenedDeployment, ...]
    """What it should serve, and could not open."""
    message_bytes_max: int
    """Largest message that it takes, in bytes."""
    image_decode_bytes_max: int
    """The most memory that decoding one picture may take, in bytes."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """A truth: the query showed something that is not enrolled."""

    name: str = ""
    """The same name for the same stranger, up to 512 bytes; empty if unknown, which certifies nothing."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A truth: nobody can tell what the query showed."""


#: What a query really showed: an enrolled label, a `Stranger`, or `Unusable`.
Truth = str | Stranger | Unusable


def _truth(message: Any) -> Truth | None:
    if not message.HasField("ground_truth"):
        return None
    said = message.ground_truth
    kind = said.WhichOneof("truth")
    if kind == "label":
        return str(said.label)
    if kind == "not_enrolled":
        return Stranger(said.stranger_name)
    return Unusable() if kind == "unusable" else None


@dataclass(frozen=True, slots=True)
class RecordedDecision(_Decided):
    """A decision as the server recorded it."""

    decision_id: str
    """Its id."""
    unix_milliseconds: int
    """When it was made."""
    decision: Decision
    """The decision."""
    operating_point_id: str | None
    """The operating point that decided; None when UNDECIDED."""
    matched_label: str | None
    """Label of the best match, accepted or not; None if nothing was found."""
    matched_item_id: str | None
    """Id of the best match; None if nothing was found."""
    score: float | None
    """Cosine similarity of the best match."""
    decision_score: float | None
    """The score that was compared with the threshold."""
    margin: float | None
    """The best match's similarity less that of the best match of another label."""
    generation: int
    """Number of the gallery's state that was searched."""
    gallery_items: int
    """Number of items in it."""
    filtered: bool
    """Whether the search had a filter. Such decisions enter no rate."""
    sampled: bool
    """Whether it was sampled for the audit."""
    inclusion_probability: float | None
    """The probability with which it was."""
    truth: Truth | None
    """What the query showed, by the latest annotation."""
    image: bytes | None = field(default=None, repr=False)
    """The picture, if it was asked for and is kept."""
    from_audit_queue: bool = False
    """Whether the audit queue gave it, so that a label for it counts in the rates."""

    _READERS: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "truth": _truth,
        "image": lambda message: None,
        "from_audit_queue": lambda message: False,
    }

    @property
    def time(self) -> datetime:
        """When it was made."""
        return datetime.fromtimestamp(self.unix_milliseconds / 1000, timezone.utc)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Q, R]):
    """What became of one of many: a result, or what went wrong with this one alone."""

    index: int
    """Its place among what was given, from 0."""
    given: Q
    """What was given."""
    error: Exception | None
    """What went wrong; None if nothing did."""
    _result: R | None = field(repr=False)

    @property
    def result(self) -> R:
        """The result. Raises `error` if there is one, so that a failure cannot be overlooked."""
        if self.error is not None:
            raise self.error
        result: R = self._result  # type: ignore[assignment] # it is there without an error, whatever its type
        return result

    def __bool__(self) -> NoReturn:
        raise TypeError("an Outcome is neither true nor false; ask `error is None`, or `result.accepted`")
