"""Makes small odd picture files from a seed, and asks Pillow what their pixels are.

Needs Pillow 13 from PyPI. From the root of the repository:

  python scripts/make_odd_pictures.py FOLDER --seed 1 --count 3000
  python scripts/make_odd_pictures.py FOLDER --compare DIGESTS

The first makes files of every format that is decoded, legal and broken, and `pillow.csv`: for each the
size and the SHA-256 of its upright RGB pixels over a background, or `refused`. The second compares that
with DIGESTS, which `cargo bench --bench pixels -- --digests FOLDER` prints, and says where they differ.
`make compare-pillow` does both. The files in crates/embed/tests/fixtures/oracle/odd are of the first kind.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import random
import struct
import sys
import warnings
import zlib
from collections import Counter
from pathlib import Path

from PIL import Image, ImageOps

BACKGROUND = (255, 0, 127)
FORMATS = ("gif", "png", "webp", "bmp", "jpg")


# --- What Pillow says ------------------------------------------------------------------------


def answer(data: bytes) -> tuple[str, str]:
    """Size and digest of the pixels, as `make_golden.py` opens a picture; `refused` where it cannot."""
    try:
        with Image.open(io.BytesIO(data)) as file:
            image = ImageOps.exif_transpose(file)
        if image.mode == "I;16":
            # The one difference: Pillow clips these to 255, which leaves a white picture.
            levels = struct.unpack(f"<{image.width * image.height}H", image.tobytes())
            image = Image.frombytes("L", image.size, bytes((level + 128) // 257 for level in levels))
        if image.has_transparency_data:
            opaque = Image.new("RGBA", image.size, (*BACKGROUND, 255))
            image = Image.alpha_composite(opaque, image.convert("RGBA"))
        image = image.convert("RGB")
    except Exception:  # whatever a broken file makes Pillow do is a refusal
        return "refused", ""
    return f"{image.width}x{image.height}", hashlib.sha256(image.tobytes()).hexdigest()


# --- Parts -----------------------------------------------------------------------------------


def picture(draw: random.Random, mode: str = "RGB", most: int = 24) -> Image.Image:
    """No symmetry, and soft enough for a lossy format."""
    size = (draw.randint(1, most), draw.randint(1, most))
    small = Image.new("RGB", (4, 3))
    small.putdata([tuple(draw.randrange(256) for _ in range(3)) for _ in range(12)])
    image = small.resize(size, Image.Resampling.BICUBIC)
    if mode in ("RGBA", "LA"):
        alpha = Image.new("L", (3, 3))
        alpha.putdata([draw.choice((0, 100, 255)) for _ in range(9)])
        image.putalpha(alpha.resize(size))
    return image.convert(mode)


def exif(draw: random.Random) -> bytes:
    """EXIF data with an orientation, in any type and byte order, whole or not."""
    order = draw.choice("<>")
    kind = draw.choice((3, 3, 3, 4, 4, 1, 2, 5, 6, 7, 8, 9, 11, 12, 13, 14, 16))
    value = draw.choice((1, 2, 3, 4, 5, 6, 7, 8, 6, 8, 0, 9, 300))
    forms = {
        1: "B",
        2: "B",
        3: "H",
        4: "L",
        6: "b",
        7: "B",
        8: "h",
        9: "l",
        11: "f",
        12: "d",
        13: "L",
        16: "Q",
    }
    count = draw.choice((1, 1, 1, 1, 0, 2, 3))
    if kind in (5, 10):
        data = struct.pack(order + "LL", value * 2, draw.choice((2, 2, 1, 0))) * count
    elif kind == 2:
        data = (b"%d\0" % value)[:count]
    else:
        form = forms.get(kind, "L")
        limit = {"B": 255, "b": 127}.get(form, 1 << 15)
        data = struct.pack(order + form, min(value, limit)) * count
    entries = [(0x0112, kind, count, data)]
    if draw.random() < 0.4:
        entries.insert(0, (0x010F, 2, 6, b"Phone\0"))
    if draw.random() < 0.2:
        entries.append((0x0112, 3, 1, struct.pack(order + "H", draw.randint(1, 8))))
    if draw.random() < 0.1:
        entries.insert(0, (0x0100, draw.choice((3, 99)), draw.choice((1, 9999)), b"ab"))
    at = 8 + 2 + 12 * len(entries) + 4
    body, later = struct.pack(order + "H", len(entries)), b""
    for tag, type_, number, data in entries:
        body += struct.pack(order + "HHL", tag, type_, number)
        if len(data) <= 4:
            body += data.ljust(4, b"\0")
        else:
            body += struct.pack(order + "L", at + len(later))
            later += data
    thumbnail = struct.pack(order + "L", draw.choice((0, 0, at)))
    start = {"<": b"II*\0", ">": b"MM\0*"}[order]
    if draw.random() < 0.05:
        start = draw.choice((b"II\0*", b"MM*\0", b"II+\0", b"XX*\0"))
    whole = start + struct.pack(order + "L", 8) + body + thumbnail + later
    return whole[: draw.randrange(len(whole))] if draw.random() < 0.05 else whole


def xmp(draw: random.Random) -> bytes:
    value = draw.randint(0, 9)
    form = draw.choice(
        (b'tiff:Orientation="%d"', b"<tiff:Orientation>%d</tiff:Orientation>", b"tiff:Orientation='%d'")
    )
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"> ' + form % value + b" </x:xmpmeta>"


# --- GIF -------------------------------------------------------------------------------------


def lzw(draw: random.Random, indices: list[int], bits: int) -> bytes:
    """Codes in blocks; now and then cut short, or without an end code."""
    clear, end = 1 << bits, (1 << bits) + 1
    codes, table, width = [(clear, bits + 1)], {(i,): i for i in range(clear)}, bits + 1
    following, current = end + 1, ()
    for index in indices:
        if (*current, index) in table:
            current = (*current, index)
            continue
        codes.append((table[current], width))
        if following < 4096:
            table[(*current, index)] = following
            if following == 1 << width and width < 12:
                width += 1
            following += 1
        elif draw.random() < 0.5:
            codes.append((clear, width))
            table, width, following = {(i,): i for i in range(clear)}, bits + 1, end + 1
        current = (index,)
    if current:
        codes.append((table[current], width))
    if draw.random() < 0.95:
        codes.append((end, width))
    number = shift = 0
    for code, width in codes:
        number |= code << shift
        shift += width
    data = number.to_bytes((shift + 7) // 8, "little")
    if draw.random() < 0.02:
        data = data[: draw.randrange(len(data) + 1)]
    step = draw.choice((255, 255, 100, 7))
    blocks = [data[at : at + step] for at in range(0, len(data), step)]
    return b"".join(bytes((len(block),)) + block for block in blocks) + b"\0"


def palette(draw: random.Random, bits: int) -> bytes:
    if draw.random() < 0.1:
        return bytes(level for index in range(1 << bits) for level in (index,) * 3)
    return draw.randbytes(3 << bits)


def extension(draw: random.Random, transparent: bool = True) -> bytes:
    return draw.choice(
        (
            b"!\xfe\x05hello\0",
            b"!\xfe\0",
            b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0",
            b"!\xff\x0bXMP DataXMP" + b"\x05abcde\0",
            b"!\x01\x0c" + bytes(12) + b"\x02hi\0",
            b"!\xf9\x04"
            + bytes((draw.choice((0, 1, 5, 9, 13)) if transparent else 0, 5, 0, draw.randrange(8)))
            + b"\0",
        )
    )


def frame(draw: random.Random, screen: tuple[int, int]) -> bytes:
    width, height = draw.randint(1, 20), draw.randint(1, 20)
    if draw.random() < 0.4:
        width, height = (max(side, 1) for side in screen)
    if draw.random() < 0.02:
        width = 0
    left, top = draw.choice(((0, 0), (0, 0), (draw.randint(0, 9), draw.randint(0, 9))))
    bits = draw.randint(1, 8)
    flags = draw.choice((0, 0, 0x40))
    local = b""
    if draw.random() < 0.4:
        size = bits if draw.random() < 0.8 else draw.randint(1, 8)
        flags |= 0x80 | (size - 1)
        local = palette(draw, size)
    indices = [draw.randrange(1 << bits) for _ in range(width * height)]
    if draw.random() < 0.5:
        indices = [indices[at // 5] for at in range(len(indices))]
    extra = draw.choice((0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3, -1))
    indices = indices[:extra] if extra < 0 else indices + indices[:extra]
    code_bits = max(bits, 2)
    return (
        b","
        + struct.pack("<HHHHB", left, top, width, height, flags)
        + local
        + bytes((code_bits,))
        + lzw(draw, indices, code_bits)
    )


def gif(draw: random.Random) -> bytes:
    screen = draw.choice(((0, 0), (draw.randint(0, 20), draw.randint(0, 20)), (9, 9), (16, 12)))
    bits = draw.randint(1, 8)
    has_global = draw.random() < 0.85
    flags = (0x80 if has_global else 0) | (bits - 1) | 0x70
    data = draw.choice((b"GIF89a", b"GIF87a")) + struct.pack("<HHBBB", *screen, flags, draw.randrange(4), 0)
    if has_global:
        data += palette(draw, bits)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        for _ in range(draw.choice((0, 0, 1, 1, 2))):
            data += extension(draw)
        if draw.random() < 0.03:
            data += b"\0"
        data += frame(draw, screen)
    data += b";"
    if draw.random() < 0.04:
        data = data[: draw.randrange(len(data))]
    return data


# --- PNG -------------------------------------------------------------------------------------

PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def scanlines(
    draw: random.Random, size: tuple[int, int], bits: int, colour: int, interlaced: bool, most: int
) -> bytes:
    width, height = size
    rows = []
    for left, top, across, down in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, lines = -(-(width - left) // across), -(-(height - top) // down)
        for _ in range(max(lines, 0) if columns > 0 else 0):
            samples = [draw.randrange(most) for _ in range(columns * CHANNELS[colour])]
            text = "".join(f"{sample:0{bits}b}" for sample in samples)
            text += "0" * (-len(text) % 8)
            rows.append(b"\0" + int(text, 2).to_bytes(len(text) // 8, "big"))
    return b"".join(rows)


def notes(draw: random.Random) -> bytes:
    def text(kind: bytes, key: bytes, value: bytes) -> bytes:
        if kind == b"tEXt":
            return chunk(kind, key + b"\0" + value)
        if kind == b"zTXt":
            return chunk(kind, key + b"\0\0" + zlib.compress(value))
        packed = draw.random() < 0.5
        return chunk(
            kind, key + b"\0" + bytes((packed, 0)) + b"en\0\0" + (zlib.compress(value) if packed else value)
        )

    raw = b"Exif\0\0" + exif(draw)
    profile = b"\nexif\n%8d\n" % len(raw) + b"\n".join(
        raw.hex().encode()[at : at + 72] for at in range(0, 2 * len(raw), 72)
    )
    kind = draw.choice((b"tEXt", b"zTXt", b"iTXt"))
    return draw.choice(
        (
            chunk(b"eXIf", exif(draw)),
            chunk(b"eXIf", b"Exif\0\0" + exif(draw)),
            text(kind, b"XML:com.adobe.xmp", xmp(draw)),
            text(draw.choice((b"tEXt", b"zTXt")), b"Raw profile type exif", profile),
            text(kind, b"Comment", b'tiff:Orientation="3"'),
            text(b"tEXt", b"exif", exif(draw)),
            chunk(b"gAMA", struct.pack(">I", 30000)),
            chunk(b"sBIT", b"\x05\x05\x05"),
            chunk(b"bKGD", b"\0\1\0\2\0\3"),
            chunk(b"pHYs", struct.pack(">IIB", 1, 2, 0)),
            chunk(b"prVt", b"anything"),
        )
    )


def png(draw: random.Random) -> bytes:
    colour = draw.choice((0, 2, 3, 4, 6))
    bits = draw.choice({0: (1, 2, 4, 8, 16), 3: (1, 2, 4, 8)}.get(colour, (8, 8, 16)))
    size = (draw.randint(1, 20), draw.randint(1, 20))
    interlaced = draw.random() < 0.25
    data = b"\x89PNG\r\n\x1a\n"
    data += chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlaced))
    most = 1 << bits
    for _ in range(draw.choice((0, 0, 1, 2))):
        data += notes(draw)
    if colour == 3:
        entries = draw.randint(1, most)
        data += chunk(b"PLTE", draw.randbytes(3 * entries))
        if draw.random() < 0.9:
            most = entries
        if draw.random() < 0.5:
            alphas = bytes(draw.choice((0, 90, 255)) for _ in range(draw.randint(1, entries)))
            data += chunk(b"tRNS", draw.choice((alphas, b"\xff" * (entries - 1) + b"\0")))
    elif colour in (0, 2) and draw.random() < 0.3:
        data += chunk(
            b"tRNS", b"".join(struct.pack(">H", draw.randrange(most)) for _ in range(CHANNELS[colour]))
        )
    if draw.random() < 0.5:
        most = min(most, draw.choice((2, 4, most)))
    pixels = zlib.compress(scanlines(draw, size, bits, colour, interlaced, most))
    if draw.random() < 0.2:
        whole = (
            (*size, 0, 0)
            if draw.random() < 0.6
            else (draw.randint(1, size[0]), draw.randint(1, size[1]), 0, 0)
        )
        data += chunk(b"acTL", struct.pack(">II", draw.choice((0, 1, 2)), 0))
        if draw.random() < 0.7:
            data += chunk(
                b"fcTL", struct.pack(">IIIIIHHBB", 0, *whole, 1, 10, draw.randrange(3), draw.randrange(2))
            )
    half = draw.randrange(len(pixels) + 1)
    data += chunk(b"IDAT", pixels[:half]) + chunk(b"IDAT", pixels[half:])
    for _ in range(draw.choice((0, 0, 1, 2))):
        data += notes(draw)
    data += chunk(b"IEND", b"")
    if draw.random() < 0.03:
        data = data[: draw.randrange(len(data))]
    return data


# --- WebP ------------------------------------------------------------------------------------


def riff(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def three(number: int) -> bytes:
    return struct.pack("<I", number)[:3]


def bitstream(draw: random.Random, mode: str) -> tuple[list[tuple[bytes, bytes]], tuple[int, int]]:
    """The chunks of a still picture, and its size."""
    image = picture(draw, mode)
    out = io.BytesIO()
    image.save(out, "WEBP", lossless=draw.random() < 0.5, quality=draw.choice((20, 80)))
    data, chunks, at = out.getvalue(), [], 12
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        name = data[at : at + 4]
        if name in (b"ALPH", b"VP8 ", b"VP8L"):
            chunks.append((name, data[at + 8 : at + 8 + length]))
        at += 8 + length + (length & 1)
    return chunks, image.size


def webp(draw: random.Random) -> bytes:
    mode = draw.choice(("RGB", "RGBA"))
    chunks, size = bitstream(draw, mode)
    alpha = 0x10 if mode == "RGBA" and draw.random() < 0.9 else 0
    if draw.random() < 0.3 and chunks[0][0] != b"ALPH":
        return riff(chunks + ([(b"EXIF", exif(draw))] if draw.random() < 0.3 else []))
    flags = alpha | (0x08 if draw.random() < 0.6 else 0) | (0x04 if draw.random() < 0.5 else 0)
    extra = [
        draw.choice(
            (
                (b"EXIF", exif(draw)),
                (b"EXIF", b"Exif\0\0" + exif(draw)),
                (b"XMP ", xmp(draw)),
                (b"abcd", b"x"),
            )
        )
        for _ in range(draw.choice((0, 1, 1, 2)))
    ]
    before = draw.random() < 0.15
    if draw.random() < 0.5:
        canvas = size if draw.random() < 0.9 else (size[0] + draw.choice((-1, 0, 1)) or 1, size[1] + 1)
        body = chunks
    else:
        flags |= 0x02
        frames = [(chunks, size)] + [bitstream(draw, mode) for _ in range(draw.choice((0, 1)))]
        offset = draw.choice(((0, 0), (2 * draw.randrange(5), 2 * draw.randrange(5))))
        canvas = (max(s[0] for _, s in frames) + offset[0], max(s[1] for _, s in frames) + offset[1])
        if draw.random() < 0.3:
            canvas = (canvas[0] + 3, canvas[1] + 5)
        if draw.random() < 0.04:
            canvas = (1, 1)
        body = [(b"ANIM", draw.randbytes(4) + bytes(2))]
        for parts, (width, height) in frames:
            head = three(offset[0] // 2) + three(offset[1] // 2) + three(width - 1) + three(height - 1)
            head += three(100) + bytes((draw.randrange(4),))
            inner = b"".join(n + struct.pack("<I", len(d)) + d + b"\0" * (len(d) & 1) for n, d in parts)
            body.append((b"ANMF", head + inner))
    header = struct.pack("<I", flags) + three(canvas[0] - 1) + three(canvas[1] - 1)
    data = riff([(b"VP8X", header), *(extra + body if before else body + extra)])
    if draw.random() < 0.02:
        data = data[: draw.randrange(len(data))]
    return data


# --- BMP -------------------------------------------------------------------------------------


def bmp(draw: random.Random) -> bytes:
    width, height = draw.randint(1, 20), draw.randint(1, 20)
    bits = draw.choice((1, 4, 8, 16, 24, 32))
    kind = draw.choice((12, 40, 40, 40, 56, 108, 124))
    compression = 0
    masks = ()
    if kind != 12 and bits in (16, 32) and draw.random() < 0.6:
        compression = 3
        masks = draw.choice(
            {
                16: ((0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0), (0xF00, 0xF0, 0xF, 0xF000)),
                32: (
                    (0xFF0000, 0xFF00, 0xFF, 0),
                    (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
                    (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
                    (0xFF000000, 0xFF0000, 0xFF00, 0),
                    (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
                    (0x3FF00000, 0xFFC00, 0x3FF, 0),
                ),
            }[bits]
        )
    if kind != 12 and bits in (4, 8) and draw.random() < 0.3:
        compression = 1 if bits == 8 else 2
    colours = draw.choice((0, 0, draw.randint(1, 1 << min(bits, 8)))) if bits <= 8 and kind != 12 else 0
    entries = (colours or 1 << bits) if bits <= 8 else 0
    table = b"".join(
        draw.choice((draw.randbytes(3), bytes((index & 255,)) * 3)) + (b"" if kind == 12 else b"\0")
        for index in range(entries)
    )
    top_down = kind != 12 and compression == 0 and draw.random() < 0.2
    if compression in (1, 2):
        most = max(min(entries, 256), 1)
        data = b""
        for _ in range(height):
            left = width
            while left:
                run = draw.randint(1, left)
                data += bytes(
                    (run, draw.randrange(most) if bits == 8 else draw.randrange(min(most, 16)) * 17)
                )
                left -= run
            data += b"\0\0"
        data += b"\0\1"
    else:
        stride = (width * bits + 31) // 32 * 4
        data = draw.randbytes(stride * height)
        if bits <= 8 and draw.random() < 0.9:
            samples = 8 // bits
            data = bytes(
                sum(draw.randrange(min(entries, 1 << bits)) << (bits * place) for place in range(samples))
                for _ in range(stride * height)
            )
    if kind == 12:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        signed = -height if top_down else height
        header = struct.pack(
            "<IiiHHIIiiII", kind, width, signed, 1, bits, compression, len(data), 2835, 2835, colours, 0
        )
        if kind == 40 and compression == 3:
            table = struct.pack("<III", *masks[:3]) + table
        elif kind > 40:
            header += struct.pack("<IIII", *(masks or (0, 0, 0, 0)))
            header = header.ljust(kind, b"\0")
    gap = bytes(draw.choice((0, 0, 0, 4)))
    at = 14 + len(header) + len(table) + len(gap)
    whole = b"BM" + struct.pack("<IHHI", at + len(data), 0, 0, at) + header + table + gap + data
    if draw.random() < 0.03:
        whole = whole[: draw.randrange(len(whole))]
    return whole


# --- JPEG ------------------------------------------------------------------------------------


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg_notes(draw: random.Random) -> bytes:
    icc = b"ICC_PROFILE\0" + bytes((draw.randrange(4), draw.randrange(4))) + draw.randbytes(20)
    return draw.choice(
        (
            segment(0xE1, b"Exif\0\0" + exif(draw)),
            segment(0xE1, b"Exif\0\0" + exif(draw)),
            segment(0xE1, b"Exif\0\0Exif\0\0" + exif(draw)),
            segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(draw)),
            segment(0xE2, icc),
            segment(0xE2, b"MPF\0" + b"II*\0\x08\0\0\0\0\0"),
            segment(0xFE, b'tiff:Orientation="3"'),
            segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0"),
            segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes((draw.choice((0, 1, 2, 3, 9)),))),
            segment(0xE0, b"JFIF\0" + bytes((draw.choice((1, 2, 3)), 1, 0, 0, 1, 0, 1, 0, 0))),
            segment(0xE0, b"JFXX\0\x13" + draw.randbytes(9)),
        )
    )


def jpg(draw: random.Random) -> bytes:
    mode = draw.choice(("RGB", "RGB", "RGB", "L", "CMYK"))
    image = picture(draw, mode, 40)
    options = {
        "quality": draw.choice((30, 75, 92)),
        "progressive": draw.random() < 0.3,
        "optimize": draw.random() < 0.3,
        "restart_marker_blocks": draw.choice((0, 0, 3)),
    }
    if mode == "RGB":
        options |= draw.choice(({"subsampling": draw.choice((0, 1, 2))}, {"keep_rgb": draw.random() < 0.3}))
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    data = out.getvalue()
    at, head, parts = 2, data[:2], []
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(data[at:end])
        at = end
    rest = bytearray(data[at:])
    if draw.random() < 0.2:
        parts = [part for part in parts if part[1] not in (0xE0, 0xEE)]
    parts = (
        [part for part in parts if part[1] in (0xE0, 0xEE)]
        + [jpeg_notes(draw) for _ in range(draw.choice((0, 0, 1, 1, 2, 3)))]
        + [part for part in parts if part[1] not in (0xE0, 0xEE)]
    )
    if draw.random() < 0.15:
        parts.insert(draw.randrange(len(parts) + 1), draw.choice((b"\0\0", b"\xff\xff", b"abc", b"\x00\xff")))
    if draw.random() < 0.1:
        number = rest[4]
        rest[5 + 2 * number + 1] = draw.choice((0, 63, 5))
    if draw.random() < 0.15:
        end = len(rest) - 2
        rest[end:end] = draw.choice((bytes(1), bytes(2), bytes(300), draw.randbytes(2), b"\xff", b"\xff\xd3"))
    if draw.random() < 0.1:
        rest += draw.choice((b"more", data, b"\0" * 50))
    whole = head + b"".join(parts) + bytes(rest)
    if draw.random() < 0.03:
        whole = whole[: draw.randrange(len(whole))]
    if draw.random() < 0.15:
        # Behind a scan of several, whose tables come next.
        tables = [
            at for at in range(whole.find(b"\xff\xda") + 1, len(whole)) if whole[at : at + 2] == b"\xff\xc4"
        ]
        for at in reversed(tables[: draw.choice((1, 2, 20))]):
            whole = whole[:at] + draw.choice((bytes(1), bytes(300), draw.randbytes(2))) + whole[at:]
    return whole


# --- All of them -----------------------------------------------------------------------------


def make(folder: Path, seed: int, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"gif": gif, "png": png, "webp": webp, "bmp": bmp, "jpg": jpg}
    rows = []
    for number in range(count):
        extension_ = FORMATS[number % len(FORMATS)]
        # A generator for each, so that one kind can change without the others.
        data = makers[extension_](random.Random(f"{seed} {number}"))
        name = f"{seed}-{number:05}.{extension_}"
        (folder / name).write_bytes(data)
        rows.append((name, *answer(data)))
    with open(folder / "pillow.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", "size", "sha256"))
        writer.writerows(rows)


def compare(folder: Path, digests: Path) -> int:
    with open(folder / "pillow.csv", newline="", encoding="utf-8") as file:
        theirs = {row["name"]: (row["size"], row["sha256"]) for row in csv.DictReader(file)}
    counts: Counter[tuple[str, str]] = Counter()
    wrong = 0
    for line in digests.read_text(encoding="utf-8").splitlines():
        name, size, rest = line.split("\t")[:3]
        if name not in theirs:
            continue
        kind = name.rpartition(".")[2]
        if size == "refused":
            both = theirs[name][0] == "refused"
            counts[kind, "refused by both" if both else "refused here alone"] += 1
            if not both:
                print(f"refused here alone: {name}: {rest}")
        elif theirs[name][0] == "refused":
            counts[kind, "refused by Pillow alone"] += 1
            print(f"refused by Pillow alone: {name}")
        elif (size, rest) == theirs[name]:
            counts[kind, "same pixels"] += 1
        else:
            counts[kind, "OTHER PIXELS"] += 1
            print(f"OTHER PIXELS: {name}: {size}, Pillow {theirs[name][0]}")
            wrong += 1
    for (kind, what), number in sorted(counts.items()):
        print(f"{kind:5} {what:25} {number}")
    if sum(counts.values()) != len(theirs):
        print(f"{len(theirs)} files, but {sum(counts.values())} answers")
        return 1
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--compare", type=Path, metavar="DIGESTS")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.compare:
        return compare(arguments.folder, arguments.compare)
    make(arguments.folder, arguments.seed, arguments.count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
