"""Calibration: which detections are right, worked by hand, and a known miscalibration found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_predictor import picture

from pipeline.calibration import FEWEST, FLOOR, calibrated, hits
from pipeline.errors import PipelineError
from stage1_faces.annotations import AnnotatedImage
from stage1_faces.detector import CascadeConfig, log_odds
from stage1_faces.faces import Faces

SIZE = (640, 480)


def right(boxes: list[list[float]], truths: list[list[float]], *threshold: float) -> list[bool]:
    return hits(np.float32(boxes).reshape(-1, 4), np.float32(truths).reshape(-1, 4), *threshold).tolist()


BOX = [0.0, 0, 10, 10]


def test_hits_by_hand() -> None:
    truths = [BOX, [20, 0, 30, 10]]
    assert right([BOX, [20, 0, 30, 10]], truths) == [True, True]
    assert right([[50, 50, 60, 60], [20, 0, 30, 10]], truths) == [False, True]
    # The second on the same face is a false alarm, however well it fits.
    assert right([[0, 0, 10, 8], BOX], [BOX]) == [True, False]
    # IoU of exactly a half meets it, a hair less does not.
    assert right([[0, 0, 10, 20]], [BOX]) == [True]
    assert right([[0, 0, 10, 20.1]], [BOX]) == [False]
    assert right([[0, 0, 10, 20.1]], [BOX], 0.49) == [True]


def test_a_second_box_may_meet_another_face() -> None:
    # Two faces side by side that overlap: the second box fits the first face best, but that one is taken.
    truths = [BOX, [3, 0, 13, 10]]
    assert right([BOX, [1, 0, 11, 10]], truths) == [True, True]
    assert right([BOX, [1, 0, 11, 10], [2, 0, 12, 10]], truths) == [True, True, False]


def test_hits_without_boxes_or_faces() -> None:
    assert right([], [BOX]) == [] and right([BOX], []) == [False] and right([], []) == []


class Told:
    """Finds what it is told, photo after photo."""

    def __init__(self, *found: Faces) -> None:
        self.left = list(found)
        self.asked: list[float | None] = []

    def detect(self, image: np.ndarray, *, min_score: float | None = None) -> Faces:
        assert image.shape == (SIZE[1], SIZE[0], 3)
        self.asked.append(min_score)
        return self.left.pop(0)


def photo(folder: Path, name: str, boxes: np.ndarray) -> AnnotatedImage:
    return AnnotatedImage(picture(folder / f"{name}.png", (), SIZE), name, SIZE, boxes, ("face",) * len(boxes))


def simulated(folder: Path, photos: int, slope: float, intercept: float) -> tuple[Told, list[AnnotatedImage]]:
    """Detections of uniform log odds x that are right with the odds of slope * x + intercept."""
    rng = np.random.default_rng(0)
    low = np.stack(np.meshgrid(np.arange(0, 640, 32), np.arange(0, 480, 32)), axis=2).reshape(-1, 2)
    grid = np.concatenate([low, low + 20], axis=1).astype(np.float32)
    images, found = [], []
    for i in range(photos):
        odds = np.sort(rng.uniform(-4, 4, len(grid)))[::-1]
        true = rng.random(len(grid)) < 1 / (1 + np.exp(-(slope * odds + intercept)))
        images.append(photo(folder, f"p{i}", grid[true]))
        scores = (1 / (1 + np.exp(-odds))).astype(np.float32)
        found.append(Faces(grid, scores, np.zeros((len(grid), 5, 2), np.float32)))
    return Told(*found), images


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, -1.0), (2.0, 0.75)])
def test_a_known_slope_and_intercept_are_found(tmp_path: Path, slope: float, intercept: float) -> None:
    detector, images = simulated(tmp_path, 20, slope, intercept)
    search = CascadeConfig(min_face=9)
    fitted = calibrated(detector, search, iter(images))  # type: ignore[arg-type]
    assert fitted.slope == pytest.approx(slope, rel=0.08)
    assert fitted.intercept == pytest.approx(intercept, abs=0.1)
    assert replace(fitted, slope=search.slope, intercept=search.intercept) == search
    assert detector.asked == [FLOOR] * 20


def test_the_searchs_own_slope_and_intercept_are_taken_into_account(tmp_path: Path) -> None:
    plain = calibrated(*_by(CascadeConfig(), tmp_path))
    again = calibrated(*_by(CascadeConfig(slope=3.0, intercept=0.5), tmp_path))
    # Scores of a verdict v are 3 v + 0.5; of those, `plain` makes the probability.
    assert again.slope == pytest.approx(3 * plain.slope, abs=2e-3)
    assert again.intercept == pytest.approx(0.5 * plain.slope + plain.intercept, abs=2e-3)


def _by(search: CascadeConfig, folder: Path):
    detector, images = simulated(folder, 8, 0.5, -1.0)
    return detector, search, images


def test_calibrated_scores_are_the_share_that_is_right(tmp_path: Path) -> None:
    detector, images = simulated(tmp_path, 20, 0.6, -0.8)
    found = list(detector.left)
    fitted = calibrated(detector, CascadeConfig(), images)  # type: ignore[arg-type]
    odds = np.concatenate([log_odds(faces.scores) for faces in found])
    chance = 1 / (1 + np.exp(-(fitted.slope * odds + fitted.intercept)))
    is_right = np.concatenate([hits(f.boxes, i.boxes) for f, i in zip(found, images, strict=True)])
    for low in (0.1, 0.3, 0.5, 0.7):
        some = (chance >= low) & (chance < low + 0.1)
        assert is_right[some].mean() == pytest.approx(chance[some].mean(), abs=0.06)


def few(folder: Path, hit: int, missed: int) -> tuple[Told, list[AnnotatedImage]]:
    n = hit + missed
    boxes = np.float32([[20 * i, 0, 20 * i + 10, 10] for i in range(n)]).reshape(-1, 4)
    scores = np.linspace(0.9, 0.1, n).astype(np.float32)
    detector = Told(Faces(boxes, scores, np.zeros((n, 5, 2), np.float32)))
    return detector, [photo(folder, "one", boxes[:hit])]


@pytest.mark.parametrize(("hit", "missed"), [(FEWEST - 1, FEWEST), (FEWEST, FEWEST - 1), (0, 0)])
def test_too_few_to_tell_apart(tmp_path: Path, hit: int, missed: int, capsys: pytest.CaptureFixture[str]) -> None:
    detector, images = few(tmp_path, hit, missed)
    assert calibrated(detector, CascadeConfig(), images) == CascadeConfig()  # type: ignore[arg-type]
    assert f"only {hit} right and {missed} wrong detections" in capsys.readouterr().err


def test_no_photos(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrated(Told(), CascadeConfig(), []) == CascadeConfig()  # type: ignore[arg-type]
    assert "only 0 right and 0 wrong" in capsys.readouterr().err


def test_scores_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    detector, images = few(tmp_path, FEWEST, FEWEST)
    (faces,) = detector.left
    upside_down = Told(Faces(faces.boxes, faces.scores[::-1].copy(), faces.landmarks))
    with pytest.raises(PipelineError, match="wrong detections score higher than right ones"):
        calibrated(upside_down, CascadeConfig(), images)  # type: ignore[arg-type]


def test_perfectly_told_apart(tmp_path: Path) -> None:
    # No slope is steep enough then: it must come out as a number all the same.
    detector, images = few(tmp_path, FEWEST, FEWEST)
    fitted = calibrated(detector, CascadeConfig(), images)  # type: ignore[arg-type]
    assert np.isfinite([fitted.slope, fitted.intercept]).all() and fitted.slope > 0
