"""What people give, made plain: matrices, scores, labels. What cannot be used is an InputError that says where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._native import InputError

Floats = NDArray[np.float32]
# Of Python or numpy.
Number = float | np.floating[Any] | np.integer[Any]


@dataclass(frozen=True)
class Rows:
    """Vectors in one block, as the compiled module takes them."""

    values: bytes
    dimension: int
    labels: list[str]
    ids: list[str]
    conditions: Mapping[str, list[str]]


@dataclass(frozen=True)
class Labelled:
    """Vectors in one matrix of single precision, and what is known of each."""

    values: Floats
    labels: list[str]
    ids: list[str]
    conditions: Mapping[str, list[str]]

    def as_rows(self) -> Rows:
        return Rows(self.values.tobytes(), self.values.shape[1], self.labels, self.ids, self.conditions)


@dataclass(frozen=True)
class BestMatches:
    """The best match of each search, as the compiled module takes them."""

    scores: bytes
    labels: list[str]
    ids: list[str]
    items: list[str]
    item_labels: list[str]
    conditions: Mapping[str, list[str]]


def numbers(given: object, what: str) -> Floats:
    """Anything that numpy makes numbers of, in single precision."""
    if masks(given):
        raise InputError(f"{what} has masked entries; leave their rows out, or fill them")
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{what} is no array of numbers: {error}; of a tensor, give `.detach().float().cpu()`"
        ) from error
    if array.dtype.kind not in "fiu":
        raise InputError(
            f"{what} holds {array.dtype}, and not numbers; rows of different lengths make no matrix either"
        )
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype="<f4")


def masks(given: object) -> bool:
    """Whether anything is masked. Numpy drops the masks of arrays in a list, and what lies below them would count."""
    if isinstance(given, np.ma.MaskedArray):
        return bool(np.ma.is_masked(given))
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        return any(masks(one) for one in given)
    return False


def matrix(given: object, what: str) -> Floats:
    """Vectors: finite, and none of them zero."""
    array = numbers(given, what)
    if array.ndim != 2:
        raise InputError(f"{what} has the shape {array.shape}; give one row for each picture: (pictures, components)")
    if 0 in array.shape:
        raise InputError(f"{what} is empty: its shape is {array.shape}")
    refuse_rows(~np.isfinite(array).all(axis=1), what, "holds NaN or an infinity; leave it out, or embed it again")
    refuse_rows(~array.any(axis=1), what, "is zero, and so has no direction; leave it out, or embed it again")
    return array


def decided(given: object, what: str) -> Floats:
    """Scores as the service compares them: from -1 to 1, to which rounding beyond is brought back; else NaN."""
    with np.errstate(over="ignore"):
        plain = np.asarray(filled(given), dtype=np.float32)
    refuse_scale(plain.reshape(-1, 1), what)
    return np.asarray(plain.clip(-1, 1))


def filled(given: object) -> object:
    """The same with NaN for what is masked, within lists too."""
    if isinstance(given, np.ma.MaskedArray):
        return np.ma.filled(given.astype(np.float32), np.nan)
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        return [filled(one) for one in given]
    return given


def similarities(given: object, what: str) -> Floats:
    """Scores: numbers from -1 to 1."""
    array = numbers(given, what)
    if array.ndim not in (1, 2):
        raise InputError(
            f"{what} has the shape {array.shape}; give (queries, items), or the best score of each query with `found`"
        )
    if 0 in array.shape:
        raise InputError(f"{what} is empty: its shape is {array.shape}")
    by_query = array.reshape(len(array), -1)
    refuse_rows(np.isnan(by_query).any(axis=1), what, "holds NaN; leave that query out")
    refuse_scale(by_query, what)
    return array


def refuse_scale(by_query: Floats, what: str) -> None:
    """Refuses what is no cosine, but for as much as rounding does to one."""
    refuse_rows(
        (np.abs(by_query) > 1.001).any(axis=1),
        what,
        "is outside of -1 to 1; give cosine similarities, or bring your scores there by something that rises with "
        "them, such as 1 / (1 + distance)",
    )


def refuse_rows(wrong: ArrayLike, what: str, why: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        others = f" ({len(rows)} rows are like it)" if len(rows) > 1 else ""
        raise InputError(f"row {rows[0]} of {what} {why}{others}")


def texts(given: object, what: str, rows: int | None, of: str) -> list[str]:
    """Labels, ids or conditions: one for each row, texts or whole numbers."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InputError(f"{what} is {type(given).__name__}; give a list or array with one for each row of {of}")
    found = [text(one, what, row) for row, one in enumerate(given)]
    if rows is not None and len(found) != rows:
        raise InputError(f"{what} has {len(found)} entries, and {of} has {rows} rows; give one for each row")
    return found


def text(one: object, what: str, row: int) -> str:
    if isinstance(one, Integral) and not isinstance(one, (bool, np.bool_)):
        return str(int(one))
    if not isinstance(one, str):
        raise InputError(f"entry {row} of {what} is {one!r} ({type(one).__name__}); give a text or a whole number")
    if not one.strip():
        raise InputError(f"entry {row} of {what} is empty; say what the picture shows, or leave its row out")
    if not one.isprintable() and any(ord(letter) < 32 or ord(letter) == 127 for letter in one):
        raise InputError(f"entry {row} of {what} holds a control character: {one!r}")
    return one


def names(given: object | None, what: str, rows: int, of: str) -> list[str]:
    """Ids: those given, each once; else `row 0` and so on."""
    if given is None:
        return [f"row {row}" for row in range(rows)]
    found = texts(given, what, rows, of)
    seen: dict[str, int] = {}
    for row, one in enumerate(found):
        if one in seen:
            raise InputError(f"{what} has {one!r} twice, at {seen[one]} and {row}; give each picture an id of its own")
        seen[one] = row
    return found


def columns(given: Mapping[str, object] | None, what: str, rows: int, of: str) -> dict[str, list[str]]:
    """What else is known of each row: by column, one value for each."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"{what} is {type(given).__name__}; give a dict of columns, such as {{'camera': [...]}}")
    return {str(column): texts(values, f"{what}[{column!r}]", rows, of) for column, values in given.items()}


def number(given: object, what: str, such_as: str) -> float:
    """A finite number of Python or numpy."""
    if isinstance(given, Real) and not isinstance(given, bool) and np.isfinite(float(given)):
        return float(given)
    raise InputError(f"{what} is {given!r}; give {such_as}")


def count(given: object, what: str) -> int:
    """A whole number of Python or numpy, of 64 bits."""
    if isinstance(given, Integral) and not isinstance(given, bool) and 0 <= int(given) < 2**64:
        return int(given)
    raise InputError(f"{what} is {given!r}; give a whole number from 0 to 2**64 - 1")


def flag(given: object, what: str) -> bool:
    """A truth value of Python or numpy, and nothing that only counts as one."""
    if isinstance(given, (bool, np.bool_)):
        return bool(given)
    raise InputError(f"{what} is {given!r}; give True or False")


def word(given: object, what: str) -> str:
    if isinstance(given, str):
        return given
    raise InputError(f"{what} is {given!r}; give a text")
