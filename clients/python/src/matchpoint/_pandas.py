"""Results as a table."""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import MatchpointError
from .results import Outcome, SearchResult

if TYPE_CHECKING:
    import pandas


def to_pandas(results: Iterable[Any], *, matches: bool = False) -> pandas.DataFrame:
    """A table of results, outcomes, items, operating points or recorded decisions: one row for each.

    Of a search it has the decision; with `matches`, one row for each match. Metadata and what is nested have columns
    with a dot, such as `metadata.camera`. What is absent is missing. Needs pandas.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("pandas is not installed: pip install pandas") from error
    return pandas.DataFrame([row for one in results for row in _rows(one, matches)])


def _rows(one: Any, matches: bool) -> Iterable[dict[str, Any]]:
    head: dict[str, Any] = {}
    if isinstance(one, Outcome):
        given = one.given
        head = {"index": one.index, "query": os.fspath(given) if isinstance(given, (str, os.PathLike)) else None}
        if one.error is not None:
            reason = one.error.reason if isinstance(one.error, MatchpointError) else type(one.error).__name__
            # False and not missing, which counts as true in an `if`.
            return [{**head, "accepted": False, "error": reason, "message": str(one.error)}]
        one = one.result
    if not isinstance(one, SearchResult):
        return [{**head, **_flat(one)}]
    if not matches:
        return [{**head, **_flat(one.answer)}]
    decided = {"decision_id": one.decision_id, "decision": one.decision.value}
    return [{**head, **decided, "rank": rank, **_flat(match)} for rank, match in enumerate(one.matches, 1)]


def _flat(one: Any, before: str = "") -> dict[str, Any]:
    if not dataclasses.is_dataclass(one):
        raise TypeError(f"a {type(one).__name__} is no result; pass what a client returned, as a list")
    row: dict[str, Any] = {}
    if not before and hasattr(one, "accepted"):
        row["accepted"] = one.accepted
    for described in dataclasses.fields(one):
        name, value = before + described.name, getattr(one, described.name)
        if isinstance(value, enum.Enum):
            row[name] = value.value
        elif isinstance(value, Mapping):
            row |= {f"{name}.{key}": text for key, text in value.items()}
        elif dataclasses.is_dataclass(value):
            row |= _flat(value, f"{name}.")
        else:
            row[name] = value
    return row
