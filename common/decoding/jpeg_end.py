"""JPEG files that lack their end marker: whether every pixel is there all the same."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator

from PIL import Image

SOI, EOI = b"\xff\xd8", b"\xff\xd9"  # the markers at the start and end of an image (ITU T.81, B.1)
# Bits that could follow the file's last byte, in place of what is missing: all beginnings of three bits.
_CONTINUATIONS = tuple(bytes([value]) * 32 for value in (0x00, 0x24, 0x49, 0x6D, 0x92, 0xB6, 0xDB, 0xFE))
_RESTARTS = tuple(bytes([0xFF, 0xD0 + number]) for number in range(8))
_RESTART_INTERVAL = b"\xff\xdd"
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)  # not a stuffed byte, not a restart marker
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN_HEADER = 0xDA
_APPLICATION = range(0xE1, 0xF0)  # segments that may hold a small picture
_MAX_EQUAL_END = 16  # bytes; a longer end of one value is the rest of a file that was never written


def complete_jpeg(data: bytes) -> bytes | None:
    """Return the file with an end marker; None where pixels are missing, too.

    libjpeg decodes any part of a file when an end marker follows, and fills up the rest. So the file is complete only
    where its scans hold every coefficient, and where no bits after its last byte change a pixel.

    Args:
        data: a JPEG file without an end marker.
    """
    data = data.rstrip(b"\xff")
    end = data[-_MAX_EQUAL_END:]
    if len(data) <= _MAX_EQUAL_END or len(set(end)) == 1 or not _has_all_scans(data):
        return None
    try:
        pixels = _pixel_hash(data + EOI)
        same = all(_pixel_hash(data + more + EOI) == pixels for more in _continuations(data))
    except Exception:  # a broken file makes the decoder raise almost anything
        return None
    return data + EOI if same else None


def _continuations(data: bytes) -> Iterator[bytes]:
    """Yield what could follow the last byte: bits, or a restart marker and bits."""
    yield from _CONTINUATIONS
    if _RESTART_INTERVAL in data:
        yield from (restart + bits for restart, bits in zip(_RESTARTS, _CONTINUATIONS, strict=True))


def _pixel_hash(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return hashlib.blake2b(image.tobytes()).digest()


def has_end(data: bytes) -> bool:
    """Return whether a JPEG has its end marker, not counting that of a small picture in its header."""
    return any(marker == EOI[1] for marker, _ in _segments(data))


def has_torn_header(data: bytes) -> bool:
    """Return whether another JPEG begins inside a segment of a JPEG's header, that holds no small picture."""
    for marker, segment in _segments(data):
        if marker == SOI[1] or (marker not in _APPLICATION and SOI + b"\xff" in segment):
            return True
        if marker == _SCAN_HEADER:
            return False
    return False


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the code of each marker of a JPEG and what its segment holds, up to the end marker or the cut."""
    position = 2
    while (found := _MARKER.search(data, position)) is not None:
        marker, begin = found[1][0], found.end()
        length = 2 if marker == EOI[1] else int.from_bytes(data[begin : begin + 2])
        segment = data[begin + 2 : begin + length]
        if length < 2 or len(segment) < length - 2:
            return
        yield marker, segment
        if marker == EOI[1]:
            return
        position = begin + length


def _has_all_scans(data: bytes) -> bool:
    """Return whether the scans hold each coefficient of each component to its last bit (ITU T.81, B.2 and G.1.2)."""
    missing: dict[int, set[int]] = {}  # component -> coefficients that are not complete yet
    for marker, segment in _segments(data):
        if marker in _FRAME_HEADERS:
            missing = {component: set(range(64)) for component in segment[6::3]}
        elif marker == _SCAN_HEADER:
            count = segment[0] if segment else 0
            if len(segment) < 4 + 2 * count:
                return False
            first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
            if bits & 0x0F == 0:  # no lower bits follow in another scan
                for component in segment[1 : 1 + 2 * count : 2]:
                    missing.get(component, set()).difference_update(range(first, last + 1))
    return bool(missing) and not any(missing.values())
