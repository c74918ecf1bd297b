"""Mined windows: found in mirrored and resized photos, returned in pixels of the photo, written to a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import cv2
import numpy as np
import pytest

from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.proposals import Proposals
from stage1_faces.roi_crop import Mipmaps
from stage1_faces.training.mining import LOG2_SCALES, MIN_SIDE, MINING_CONFIG, MinedWindows, mine
from tests.helpers.drawn_photos import made_photo


class Blobs:
    """A cascade whose P-Net proposes the box around each white blob, best (largest) first; R-Net keeps the first."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def run_pnet(self, maps: Sequence[Mipmaps], config: CascadeConfig | None = None) -> list[Proposals]:
        assert config is MINING_CONFIG
        found = []
        for photo in maps:
            self.seen.append(photo.image)
            white = (photo.image[..., 0] > 140).astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(white)
            blobs = sorted(stats[1:].tolist(), key=lambda row: -row[4])
            boxes = np.float32([(x, y, x + w, y + h) for x, y, w, h, _ in blobs]).reshape(-1, 4)
            scores = np.linspace(0.9, 0.5, len(boxes)).astype(np.float32)
            found.append(Proposals(boxes, scores, scores))
        return found

    def run_rnet(
        self, maps: Sequence[Mipmaps], proposals: Sequence[Proposals], config: CascadeConfig | None = None
    ) -> list[Proposals]:
        assert config is MINING_CONFIG
        return [c[np.arange(min(len(c.boxes), 1))] for c in proposals]


LARGE, SMALL = [30, 40, 90, 120], [140, 20, 170, 50]


def photo_of(boxes: Sequence[Sequence[int]], annotated: Sequence[Sequence[float]]):
    image = np.zeros((160, 240, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 255
    return made_photo(image, annotated)


def test_every_pass_gives_boxes_in_pixels_of_the_photo() -> None:
    detector = Blobs()
    mined = mine(detector, [photo_of([LARGE, SMALL], [LARGE, SMALL])], "pnet", passes=8, seed=3)  # type: ignore[arg-type]
    assert len(mined.boxes) == 16 and mined.boxes.dtype == np.float32
    assert mined.photo.tolist() == [0] * 16
    # The first pass takes the photo unchanged; the others resize it, and every second one mirrors it.
    assert mined.boxes[:2].tolist() == [LARGE, SMALL]
    for k in range(8):
        assert mined.boxes[2 * k : 2 * k + 2] == pytest.approx(np.float32([LARGE, SMALL]), abs=3), k
    sides = [image.shape[1] for image in detector.seen]
    assert sides[0] == 240 and len(set(sides)) > 4
    assert min(sides) >= 240 * 2 ** LOG2_SCALES[0] - 1 and max(sides) <= 240 * 2 ** LOG2_SCALES[1] + 1
    mirrored = [
        bool(image[:, : image.shape[1] // 3].mean() < image[:, -image.shape[1] // 3 :].mean())
        for image in detector.seen
    ]
    assert mirrored == [False, True] * 4


def test_each_box_has_the_face_that_it_overlaps_most() -> None:
    # The large blob is annotated half as wide, and has another face far away.
    annotated = [[200.0, 100, 230, 150], [30, 40, 60, 120], [60, 40, 85, 120], SMALL]
    mined = mine(Blobs(), [photo_of([LARGE, SMALL], annotated)], "pnet", passes=1, seed=0)  # type: ignore[arg-type]
    assert mined.face.tolist() == [1, 3]
    assert mined.overlap == pytest.approx([0.5, 1])
    assert mined.scores == pytest.approx([0.9, 0.5])


def test_photos_without_faces_and_without_boxes() -> None:
    photos = [photo_of([SMALL], []), photo_of([], [LARGE]), photo_of([LARGE], [LARGE])]
    calls = []
    mined = mine(Blobs(), photos, "pnet", passes=2, seed=0, on_photo=lambda: calls.append(1))  # type: ignore[arg-type]
    assert mined.photo.tolist() == [0, 0, 2, 2]
    assert mined.face.tolist() == [-1, -1, 0, 0]
    assert mined.overlap[:2].tolist() == [0, 0] and (mined.overlap[2:] > 0.85).all()
    assert len(calls) == 3
    nothing = mine(Blobs(), photos[1:2], "pnet", passes=1, seed=0)  # type: ignore[arg-type]
    assert (nothing.boxes.shape, nothing.face.shape) == ((0, 4), (0,))


def test_after_rnet_its_boxes_are_mined() -> None:
    mined = mine(Blobs(), [photo_of([LARGE, SMALL], [SMALL])], "rnet", passes=2, seed=0)  # type: ignore[arg-type]
    assert len(mined.boxes) == 2
    assert mined.boxes[0].tolist() == LARGE


def test_tiny_photos_are_not_shrunk_away() -> None:
    detector = Blobs()
    photo = made_photo(np.zeros((9, 200, 3), np.uint8), [])
    mine(detector, [photo], "pnet", passes=6, seed=1)  # type: ignore[arg-type]
    assert detector.seen[0].shape == (9, 200, 3)
    assert all(image.shape[0] == MIN_SIDE and image.shape[1] >= MIN_SIDE for image in detector.seen[1:])


def test_a_pass_depends_on_seed_photo_and_pass_alone() -> None:
    photos = [photo_of([LARGE, SMALL], [LARGE]), photo_of([SMALL], [SMALL])]

    def boxes(some: slice, passes: int, seed: int) -> np.ndarray:
        return mine(Blobs(), photos[some], "pnet", passes, seed).boxes  # type: ignore[arg-type]

    whole = boxes(slice(None), 4, 5)
    np.testing.assert_array_equal(whole, boxes(slice(None), 4, 5))
    np.testing.assert_array_equal(whole[:4], boxes(slice(1), 2, 5))
    assert not np.array_equal(whole, boxes(slice(None), 4, 6))


def test_several_threads_find_the_same() -> None:
    photos = [photo_of([LARGE, SMALL], [LARGE]), photo_of([SMALL], []), photo_of([], [SMALL])] * 3
    calls: list[int] = []
    alone = mine(Blobs(), photos, "pnet", passes=2, seed=0)  # type: ignore[arg-type]
    threaded = mine(Blobs(), photos, "pnet", 2, 0, lambda: calls.append(1), workers=3)  # type: ignore[arg-type]
    assert alone.to_bytes() == threaded.to_bytes() and len(calls) == 9


@pytest.fixture
def mined() -> MinedWindows:
    photos = [photo_of([LARGE, SMALL], [LARGE]), photo_of([SMALL], [])]
    return mine(Blobs(), photos, "pnet", passes=3, seed=0)  # type: ignore[arg-type]


def test_bytes_read_back(mined: MinedWindows) -> None:
    back = MinedWindows.from_bytes(mined.to_bytes())
    for field in fields(MinedWindows):
        first, second = getattr(mined, field.name), getattr(back, field.name)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)


def test_damaged_bytes_are_refused(mined: MinedWindows) -> None:
    data = mined.to_bytes()
    rng = np.random.default_rng(0)
    flipped = []
    for place in rng.integers(0, len(data), 60):
        one = bytearray(data)
        one[place] ^= 0x5A
        flipped.append(bytes(one))
    cut = [data[:length] for length in (0, 1, 3, 10, len(data) // 2, len(data) - 1)]
    for bad in (*cut, b"hello", data[100:], *flipped):
        try:
            read = MinedWindows.from_bytes(bad)
        except (ValueError, KeyError):
            continue
        # The changed byte carries no information.
        np.testing.assert_array_equal(read.boxes, mined.boxes)
    for bad in (*cut, b"hello", data[100:]):
        with pytest.raises((ValueError, KeyError)):
            MinedWindows.from_bytes(bad)
