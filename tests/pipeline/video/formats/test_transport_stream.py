"""The end of an MPEG transport stream: cut packets, other packet sizes, other bytes before and after the packets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.video.formats.transport_stream import ends_within_packet
from tests.helpers.video.damaged_videos import read_with_damage, write_file
from tests.helpers.video.made_videos import blob_video


def with_layout(data: bytes, before: int, after: int) -> bytes:
    """Return the packets of 188 bytes with other bytes before and after each."""
    packets = (data[i : i + 188] for i in range(0, len(data), 188))
    return b"".join(bytes(range(1, before + 1)) + packet + bytes(after) for packet in packets)


@pytest.mark.parametrize(("before", "after"), [(0, 0), (4, 0), (0, 16)])
def test_each_place_of_the_cut(tmp_path: Path, before: int, after: int) -> None:
    data = with_layout(blob_video(tmp_path / "a.ts", frames=20).read_bytes(), before, after)
    distance = before + 188 + after
    found = [ends_within_packet(write_file(tmp_path / "b.ts", data[: len(data) - cut])) for cut in range(distance)]
    # A cut in the bytes between two packets loses nothing.
    assert found == [0 < distance - cut - before < 188 for cut in range(distance)]


def test_other_bytes_are_no_damage(tmp_path: Path) -> None:
    data = blob_video(tmp_path / "a.ts").read_bytes()
    padding = [bytes(300), b"\xff" * 100, b"end of recording", np.random.default_rng(0).bytes(4000)]
    for before, after in [(b"", b""), (b"\0" * 77, b""), (data[100:188], b""), *((b"", each) for each in padding)]:
        found, damage = read_with_damage(write_file(tmp_path / "b.ts", before + data + after))
        assert len(found) == 50 and damage is None


def test_files_without_packets(tmp_path: Path) -> None:
    for data in (b"", b"G" * 50, bytes(5000), b"\x47" + bytes(187)):
        assert not ends_within_packet(write_file(tmp_path / "b.ts", data))
    assert not ends_within_packet(tmp_path / "gone.ts")
