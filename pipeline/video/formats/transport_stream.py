"""MPEG transport streams (.ts, .m2ts): finds a last packet that was cut off, which FFmpeg leaves out in silence."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

SYNC, DATA_BYTES = 0x47, 188  # first byte and length of a packet
# Bytes from one packet to the next, and those before the first byte: plain, with time stamps, with error correction.
LAYOUTS = ((188, 0), (192, 4), (204, 0))
WHOLE_PACKETS = 8  # that must come before the last one, so that other bytes are not taken for a packet


def ends_within_packet(path: Path) -> bool:
    """Return whether a file ends inside a packet; False where bytes of another kind follow the last packet."""
    tail = b""
    with suppress(OSError), path.open("rb") as file:  # it was readable when it was opened for decoding
        file.seek(max(file.seek(0, 2) - (WHOLE_PACKETS + 2) * LAYOUTS[-1][0], 0))
        tail = file.read()
    if any(_has_packets(tail, distance - lead, distance) for distance, lead in LAYOUTS):
        return False
    return any(_has_packets(tail, left, distance) for distance, _ in LAYOUTS for left in range(1, DATA_BYTES))


def _has_packets(tail: bytes, left: int, distance: int) -> bool:
    """Return whether a packet begins `left` bytes before the end, and others before it at this distance."""
    last = len(tail) - left
    first = last - WHOLE_PACKETS * distance
    return first >= 0 and all(byte == SYNC for byte in tail[first : last + 1 : distance])
