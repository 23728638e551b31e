"""From messages of the protocol to frozen dataclasses.

A dataclass declares what it takes over, under the names of the protocol, and its annotations say how: so each field is
written once, and a test holds the names against the protocol.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)

#: Takes one field out of a message.
Reader = Callable[[Any], Any]


def read(into: type[T], message: Message) -> T:
    """The dataclass for a message. Absent is None, never zero."""
    kind: Any = into
    readers = _readers(kind, message.DESCRIPTOR)
    return into(**{name: reader(message) for name, reader in readers})


@functools.cache
def _readers(into: Any, descriptor: Any) -> tuple[tuple[str, Reader], ...]:
    own: Mapping[str, Reader] = getattr(into, "_READERS", {})
    hints = get_type_hints(into)
    names = [field.name for field in dataclasses.fields(into) if field.init]
    return tuple((n, own.get(n) or _reader(hints[n], descriptor.fields_by_name[n])) for n in names)


def _reader(hint: Any, field: FieldDescriptor) -> Reader:
    """How a field becomes a value of the type."""
    name = field.name
    if get_origin(hint) in (Union, types.UnionType):
        (present,) = (one for one in get_args(hint) if one is not type(None))
        value = _reader(present, field)
        if field.has_presence:
            return lambda message: value(message) if message.HasField(name) else None
        # What protobuf sends for nothing: an empty text, or the enum's first value.
        return lambda message: value(message) if getattr(message, name) else None
    if get_origin(hint) is tuple:
        kind: Any = get_args(hint)[0]
        if _is_result(kind):
            return lambda message: tuple(read(kind, one) for one in getattr(message, name))
        return lambda message: tuple(getattr(message, name))
    if get_origin(hint) is Mapping:
        return lambda message: dict(getattr(message, name))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum_reader(hint, field)
    if _is_result(hint):
        return lambda message: read(hint, getattr(message, name))
    return lambda message: getattr(message, name)


def _is_result(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


def _enum_reader(kind: type[enum.Enum], field: FieldDescriptor) -> Reader:
    described, name = field.enum_type, field.name
    return lambda message: enum_value(kind, described, getattr(message, name))


def enum_value(kind: type[E], described: Any, number: int) -> E:
    """By the name without its prefix. `_missing_` of the enum says what one is that this client is too old for."""
    known = described.values_by_number.get(number)
    prefix: str = described.values[0].name.removesuffix("UNSPECIFIED")
    return kind(known.name.removeprefix(prefix) if known is not None else number)
