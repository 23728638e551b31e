"""What callers give: pictures as bytes, files, Pillow's images or arrays; vectors as arrays or lists."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from . import errors

K = TypeVar("K")


class PillowImage(Protocol):
    """As `PIL.Image.Image`."""

    @property
    def mode(self) -> str: ...

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None: ...


class Array(Protocol):
    """As `numpy.ndarray`, or whatever numpy makes an array of."""

    def __array__(self) -> Any: ...


@runtime_checkable
class Readable(Protocol):
    """A file that is open for reading bytes."""

    def read(self) -> bytes: ...


#: A picture: bytes of a file, its path, an open file, Pillow's image, or an array of height x width x 3 bytes (RGB).
#: Or a vector of the deployment's model: an array of one dimension, or a list of numbers.
Query: TypeAlias = (
    bytes | bytearray | memoryview | str | os.PathLike[str] | Readable | PillowImage | Array | Sequence[float]
)


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to be enrolled."""

    id: str
    """Its id: 1 to 512 bytes. An item of the same id is replaced."""
    label: str
    """What "the same" refers to: 1 to 512 bytes."""
    query: Query
    """The picture or vector."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What is returned with a match: at most 64 entries and 16 KiB."""


@dataclass(frozen=True, slots=True)
class LabelledQuery:
    """A picture or vector whose truth is known, for a calibration."""

    id: str
    """Its id, unique in the calibration: 1 to 512 bytes."""
    label: str
    """What it shows. A label that is not enrolled makes it a stranger."""
    query: Query
    """The picture or vector."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What else is known, such as camera or country."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What is sent of a query, and what errors call it."""

    name: str
    image: bytes | None = None
    vector: Sequence[float] | None = None


def expect(kind: type[K], given: object) -> K:
    """What was given, if it is of a kind; where pictures have labels, a tuple does not say which is which."""
    if not isinstance(given, kind):
        raise TypeError(f"a {type(given).__name__} is no {kind.__name__}; write {kind.__name__}(id, label, query)")
    return given


def payload(query: Query) -> Payload:
    """Reads a query. It may read a file, or encode a picture."""
    match query:
        case Payload():
            return query
        case bytes() | bytearray() | memoryview():
            return Payload(f"a picture of {len(query)} bytes", image=bytes(query))
        case str() | os.PathLike():
            path = os.fspath(query)
            if isinstance(query, str) and "://" in query:
                raise errors.ImageError(f"{query} is a URL, which is not fetched; pass the bytes of the picture")
            with open(path, "rb") as file:
                return Payload(str(path), image=file.read())
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(query, pillow.Image):
        return Payload(f"a Pillow image of {query.width} x {query.height}", image=_encode(query))
    if hasattr(query, "__array__"):
        return _array(query)
    if isinstance(query, Readable):
        given = query.read()
        if not isinstance(given, bytes):
            raise TypeError("the file gives text; open it with mode 'rb'")
        return Payload(str(getattr(query, "name", "a file")), image=given)
    if isinstance(query, Sequence):
        numbers = [value for value in query if isinstance(value, (int, float))]
        if len(numbers) == len(query):
            return Payload(f"a vector of {len(numbers)} components", vector=numbers)
    raise TypeError(
        f"a {type(query).__name__} is no query; pass a picture (bytes, a path, an open file, a PIL.Image, an array of "
        "height x width x 3 bytes) or a vector (an array of one dimension, a list of numbers); search_many takes a "
        "list of queries"
    )


#: Modes of Pillow with transparency that PNG does not have, and those in which it is kept.
_TRANSPARENT = {"PA": "RGBA", "RGBa": "RGBA", "La": "LA"}


def _encode(image: Any) -> bytes:
    """A Pillow image as PNG, which loses nothing."""
    import io

    from PIL import ImageOps

    # PNG keeps no turned picture as turned, and the server turns what the file of a camera asks for.
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("F", "I"):
        raise errors.ImageError(
            f"a Pillow image of mode {upright.mode} has no level that is white; pass its file, or an image of mode L, "
            "I;16 or RGB"
        )
    if upright.mode in ("I;16B", "I;16L", "I;16N"):
        # At once, Pillow would cut 16 bits off at 255.
        upright = upright.convert("I").convert("I;16")
    elif upright.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        upright = upright.convert(_TRANSPARENT.get(upright.mode, "RGB"))
    file = io.BytesIO()
    upright.save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _array(given: Any) -> Payload:
    import numpy

    array = numpy.asarray(given)
    shape = " x ".join(map(str, array.shape)) or "a single number"
    if array.ndim == 1 and array.dtype.kind in "fiu":
        return Payload(f"a vector of {shape} components", vector=array.astype(numpy.float32).tolist())
    if array.ndim == 3 and array.shape[2] == 3 and array.dtype == numpy.uint8:
        return Payload(f"an RGB array of {shape}", image=png(array.shape[1], array.shape[0], array.tobytes()))
    raise errors.InvalidRequestError(
        f"an array of {shape}, {array.dtype}, is neither a picture (height x width x 3 of uint8, in the order RGB) "
        "nor a vector (one dimension); search_many takes a matrix of vectors, row by row"
    )


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A PNG of RGB pixels, row by row: needs no Pillow."""
    if not pixels:
        raise errors.ImageError("an array without pixels is no picture")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    # A zero before each row: not filtered.
    rows = b"".join(b"\0" + pixels[at : at + width * 3] for at in range(0, len(pixels), width * 3))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 1)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
