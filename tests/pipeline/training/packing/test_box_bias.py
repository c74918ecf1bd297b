"""The move from the cascade's boxes to the annotated ones, by hand, with a detector of given boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.annotations import AnnotatedImage
from common.errors import UserError
from pipeline.training.packing.box_bias import MIN_FACES, MIN_SCORE, measure_box_bias
from stage1_faces.faces import Faces
from tests.helpers.fake_predictor import write_picture

SIZE = (400, 300)


class ScriptedDetector:
    """Finds the given boxes, image after image, and records the requested scores."""

    def __init__(self, *boxes: np.ndarray) -> None:
        self.left = list(boxes)
        self.asked: list[float | None] = []

    def detect(self, image: np.ndarray, *, min_score: float | None = None) -> Faces:
        assert image.shape == (SIZE[1], SIZE[0], 3)
        self.asked.append(min_score)
        boxes = self.left.pop(0)
        n = len(boxes)
        return Faces(boxes, np.full(n, 0.9, np.float32), np.zeros((n, 5, 2), np.float32))


def grid(count: int) -> np.ndarray:
    """Return boxes 10 wide and 20 high, 40 px apart."""
    low = np.array([(20 + 40 * (i % 8), 20 + 40 * (i // 8)) for i in range(count)], np.float32).reshape(-1, 2)
    return np.concatenate([low, low + np.float32([10, 20])], axis=1)


def annotated(folder: Path, name: str, boxes: np.ndarray) -> AnnotatedImage:
    return AnnotatedImage(
        write_picture(folder / f"{name}.png", (), SIZE), name, SIZE, boxes, ("with_mask",) * len(boxes)
    )


def test_the_median_move_as_fractions_of_the_found_box(tmp_path: Path) -> None:
    found = grid(24)
    # Left edge out by 1 of 10, top down by 4 of 20, right out by 1 of 10, bottom as it was.
    truth = found + np.float32([-1, 4, 1, 0])
    truth[5] = found[5] + np.float32([3, 0, 0, 0])  # one annotator's mistake changes no median
    stray = np.float32([[380, 280, 395, 295]])  # a false alarm matches no face
    images = [
        annotated(tmp_path, "crowd", truth),
        annotated(tmp_path, "nobody", np.zeros((0, 4), np.float32)),
        annotated(tmp_path, "unseen", grid(1)),
    ]
    detector = ScriptedDetector(np.concatenate([found, stray]), stray, np.zeros((0, 4), np.float32))
    bias = measure_box_bias(detector, images)  # type: ignore[arg-type]
    assert bias.edges == pytest.approx((-0.1, 0.2, 0.1, 0.0), abs=1e-4)
    assert bias.faces == 24
    # Found 10x20, annotated 12x16, shared 10x16: 160 / 232. The mistake shares 7x20 of 200, then 7x16 of 220.
    assert bias.iou[0] == pytest.approx((23 * 160 / 232 + 140 / 200) / 24, abs=1e-4)
    assert bias.iou[1] == pytest.approx((23 + 112 / (140 + 192 - 112)) / 24, abs=1e-4)
    assert detector.asked == [MIN_SCORE] * 3


def test_too_few_faces_are_refused(tmp_path: Path) -> None:
    boxes = grid(MIN_FACES - 1)
    with pytest.raises(UserError, match=f"only {MIN_FACES - 1} annotated faces"):
        measure_box_bias(ScriptedDetector(boxes), [annotated(tmp_path, "few", boxes)])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="only 0 annotated faces"):
        measure_box_bias(ScriptedDetector(), [])  # type: ignore[arg-type]
