"""The one call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _given as given
from . import _native
from ._errors import RefusedError
from ._native import InputError
from ._results import Calibration, OperatingPoint, Searched


@dataclass(frozen=True)
class Costs:
    """What errors cost, in one unit, and the share of searches whose label is enrolled."""

    false_accept: given.Number
    false_reject: given.Number
    prior_mated: given.Number


def calibrate(
    *,
    labels: object,
    embeddings: object | None = None,
    queries: object | None = None,
    scores: object | None = None,
    found: object | None = None,
    query_labels: object | None = None,
    ids: object | None = None,
    query_ids: object | None = None,
    conditions: Mapping[str, object] | None = None,
    query_conditions: Mapping[str, object] | None = None,
    target_far: given.Number | None = None,
    estimated: bool = False,
    target_frr: given.Number | None = None,
    equal_error: bool = False,
    costs: Costs | None = None,
    confidence: given.Number = 0.95,
    grow_to: int | None = None,
    worst_group_of: str | None = None,
    review_frr: given.Number | None = None,
    labels_as_they_are: bool = False,
    strangers_are_distinct: bool = False,
    seed: int = 0,
    pairs_max: int | None = None,
    name: str | None = None,
    created: datetime | None = None,
) -> Calibration:
    """Chooses the threshold that keeps what is asked for, or refuses.

    What was searched, and what was searched for, is one of:

    embeddings, labels      the gallery: vectors (pictures, components) and what each shows. Without `queries` each one
                            searches among the others; such strangers are not independent, so no FAR is certified
    queries, query_labels   vectors to search for. Those whose label is not among `labels` are the strangers
    scores, labels, query_labels
                            similarities of another system instead, (queries, items), from -1 to 1. Or the best one of
                            each query, with `found`: the labels of the best matches

    What the threshold is for is exactly one of `target_far` (with `estimated`, a bound that promises nothing and takes
    fewer labels), `target_frr`, `equal_error` and `costs`; `confidence` belongs to the first two. The other settings
    are those of `matchpoint calibrate --embeddings`, and so is what comes out, to the last bit: docs/calibration.md.

    ids, query_ids          what the pictures are called in the report; else `row 0` and so on
    conditions, query_conditions
                            what else is known of them, such as {"camera": [...]}: rates are shown for each value
    name, created           what stands in the record

    Raises InputError (a ValueError) if something given cannot be used, and RefusedError if the data cannot support
    the target. Ctrl-C ends it, at the latest after the step at hand: docs/calibration-python.md.
    """
    asked = {
        "target_far": target_far,
        "estimated": estimated,
        "target_frr": target_frr,
        "equal_error": equal_error,
        "costs": costs,
        "confidence": confidence,
        "seed": seed,
        "grow_to": grow_to,
        "labels_as_they_are": labels_as_they_are,
        "strangers_are_distinct": strangers_are_distinct,
        "worst_group_of": worst_group_of,
        "review_frr": review_frr,
    }
    _make_plain(asked)
    _check_target(asked)
    described = {
        "name": given.word(name or ("scores" if embeddings is None else "embeddings"), "name"),
        "created": _written(datetime.now(timezone.utc) if created is None else created),
        "pairs_max": None if pairs_max is None else given.count(pairs_max, "pairs_max"),
        "settings": asked,
    }
    request = json.dumps(described, allow_nan=False)
    searched: Searched | None = None
    if (embeddings is None) == (scores is None):
        raise InputError("give one of embeddings and scores")
    if scores is None:
        if found is not None:
            raise InputError("found goes with scores")
        gallery, searching = _vectors(
            embeddings, labels, queries, query_labels, (ids, query_ids), (conditions, query_conditions)
        )
        searched = None if searching is None else Searched(asked, gallery, searching)
        outcome = _native.calibrate_vectors(
            request, gallery.as_rows(), None if searching is None else searching.as_rows()
        )
    else:
        for name_, value in (("queries", queries), ("ids", ids), ("conditions", conditions), ("pairs_max", pairs_max)):
            if value is not None:
                raise InputError(f"{name_} goes with embeddings, and scores were given")
        enrolled, matches = _matches(scores, labels, query_labels, found, query_ids, query_conditions)
        outcome = _native.calibrate_scores(request, enrolled, matches)
    findings: dict[str, Any] = json.loads(outcome.findings)
    if outcome.record is None or outcome.id is None or outcome.goal is None:
        raise RefusedError(findings, outcome.page)
    point = OperatingPoint(id=outcome.id, json=outcome.record, recording=outcome.recording)
    return Calibration._of(findings, outcome.goal, outcome.page, point, searched)


def similarities(queries: object, items: object) -> NDArray[np.float32]:
    """The cosine similarity of each query with each item, (queries, items), to the last bit as the service computes it.

    A threshold often lies between two scores that only the last bits tell apart, and numpy's products have others.
    Ctrl-C ends it. One call gives at most 2**30 of them: 4 GiB.
    """
    left, right = given.matrix(queries, "queries"), given.matrix(items, "items")
    if left.shape[1] != right.shape[1]:
        raise InputError(
            f"queries have {left.shape[1]} components and items {right.shape[1]}; embed both with one model"
        )
    scores = _native.similarities(left.tobytes(), right.tobytes(), left.shape[1])
    return np.frombuffer(scores, dtype="<f4").reshape(len(left), len(right)).astype(np.float32)


def _written(created: object) -> str:
    """RFC 3339 in UTC, whole seconds, as the command writes it."""
    if not isinstance(created, datetime):
        raise InputError(f"created is {created!r}; give a datetime with a time zone")
    if created.tzinfo is None:
        raise InputError("created has no time zone; give datetime.now(timezone.utc), for instance")
    return created.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _make_plain(asked: dict[str, Any]) -> None:
    """Numbers and truth values of Python, whatever they came as; else InputError."""
    for name in ("estimated", "equal_error", "labels_as_they_are", "strangers_are_distinct"):
        asked[name] = given.flag(asked[name], name)
    asked["confidence"] = given.number(asked["confidence"], "confidence", "a fraction, such as 0.95")
    for name in ("target_far", "target_frr", "review_frr"):
        if asked[name] is not None:
            asked[name] = given.number(asked[name], name, "a fraction, such as 0.01")
    asked["seed"] = given.count(asked["seed"], "seed")
    if asked["grow_to"] is not None:
        asked["grow_to"] = given.count(asked["grow_to"], "grow_to")
    if asked["worst_group_of"] is not None:
        asked["worst_group_of"] = given.word(asked["worst_group_of"], "worst_group_of")
    costs = asked["costs"]
    if costs is not None:
        if not isinstance(costs, Costs):
            raise InputError(f"costs is {costs!r}; give Costs(false_accept=, false_reject=, prior_mated=)")
        named = [(field.name, getattr(costs, field.name)) for field in fields(costs)]
        asked["costs"] = {name: given.number(value, f"costs.{name}", "a number") for name, value in named}


def _check_target(asked: Mapping[str, Any]) -> None:
    def is_given(name: str) -> bool:
        # A rate of 0 is given, and refused for what it is.
        return asked[name] is not None and asked[name] is not False

    kinds = ("target_far", "target_frr", "equal_error", "costs")
    count = sum(map(is_given, kinds))
    if count != 1:
        raise InputError(f"give exactly one of {', '.join(kinds)}; there are {count}: what is the threshold for?")
    if not is_given("target_far"):
        for belongs in ("estimated", "grow_to", "worst_group_of", "review_frr"):
            if is_given(belongs):
                raise InputError(f"{belongs} goes with target_far")


def _vectors(
    embeddings: object,
    labels: object,
    queries: object | None,
    query_labels: object | None,
    ids: tuple[object | None, object | None],
    conditions: tuple[Mapping[str, object] | None, Mapping[str, object] | None],
) -> tuple[given.Labelled, given.Labelled | None]:
    items = given.matrix(embeddings, "embeddings")
    item_labels = given.texts(labels, "labels", len(items), "embeddings")
    known = given.columns(conditions[0], "conditions", len(items), "embeddings")
    gallery = given.Labelled(items, item_labels, given.names(ids[0], "ids", len(items), "embeddings"), known)
    if queries is None:
        for name, value in (("query_labels", query_labels), ("query_ids", ids[1]), ("query_conditions", conditions[1])):
            if value is not None:
                raise InputError(f"{name} goes with queries or scores, and there are none")
        _refuse_one_label(item_labels)
        return gallery, None
    searched = given.matrix(queries, "queries")
    if searched.shape[1] != items.shape[1]:
        raise InputError(
            f"queries have {searched.shape[1]} components and embeddings {items.shape[1]}; embed both with one model"
        )
    if query_labels is None:
        raise InputError("query_labels is missing: say what each query shows")
    their_labels = given.texts(query_labels, "query_labels", len(searched), "queries")
    _refuse_one_label([*item_labels, *their_labels])
    their_ids = given.names(ids[1], "query_ids", len(searched), "queries")
    known = given.columns(conditions[1], "query_conditions", len(searched), "queries")
    return gallery, given.Labelled(searched, their_labels, their_ids, known)


def _matches(
    scores: object,
    labels: object,
    query_labels: object | None,
    found: object | None,
    query_ids: object | None,
    conditions: Mapping[str, object] | None,
) -> tuple[list[str], given.BestMatches]:
    if query_labels is None:
        raise InputError("query_labels is missing: say what each query shows")
    all_scores = given.similarities(scores, "scores")
    count = len(all_scores)
    if all_scores.ndim == 2:
        if found is not None:
            raise InputError("found goes with the best score of each query, and scores has those of all items")
        enrolled = given.texts(labels, "labels", all_scores.shape[1], "the transposed scores")
        best = all_scores.argmax(axis=1)
        top = np.ascontiguousarray(all_scores[np.arange(count), best])
        items = [f"column {column}" for column in best]
        item_labels = [enrolled[column] for column in best]
    else:
        if found is None:
            raise InputError("found is missing: with the best score of each query, give the label of the best match")
        enrolled = given.texts(labels, "labels", None, "the gallery")
        top = all_scores
        item_labels = given.texts(found, "found", count, "scores")
        missing = sorted(set(item_labels) - set(enrolled))
        if missing:
            raise InputError(f"found has {missing[0]!r}, which is not among labels: those of the gallery's items")
        items = [f"an item of {label}" for label in item_labels]
    their_labels = given.texts(query_labels, "query_labels", count, "scores")
    if not enrolled:
        raise InputError("labels is empty: give the label of each item of the gallery")
    _refuse_one_label([*enrolled, *their_labels])
    matches = given.BestMatches(
        top.tobytes(),
        their_labels,
        given.names(query_ids, "query_ids", count, "scores"),
        items,
        item_labels,
        given.columns(conditions, "query_conditions", count, "scores"),
    )
    return enrolled, matches


def _refuse_one_label(labels: list[str]) -> None:
    if len(set(labels)) == 1:
        raise InputError(
            f"all rows show {labels[0]!r}: a threshold tells things apart; give pictures of two labels at the least"
        )
