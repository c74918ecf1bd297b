"""Drawn detections: outline, landmarks, texts and legend."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.inference.draw import PALETTE, class_colour, draw
from tests.helpers.fake_predictor import CLASSES, fake_detections

GREY = 128


def blank(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def probs(*labels: int) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[list(labels)]


def is_colour(pixels: np.ndarray, index: int) -> np.ndarray:
    return (pixels == class_colour(index)).all(axis=-1)


def test_no_face_leaves_the_picture_and_draws_on_a_copy() -> None:
    image = blank(60, 40)
    out = draw(image, fake_detections([]))
    assert (out == image).all() and out is not image
    drawn = draw(image, fake_detections([(10, 10, 30, 30)]))
    assert (image == GREY).all() and (drawn != GREY).any()
    assert drawn.shape == image.shape and drawn.dtype == np.uint8


def test_the_outline_is_on_the_boxs_first_and_last_pixels() -> None:
    out = draw(blank(400, 300), fake_detections([(100, 50, 120, 80)]))
    outline = is_colour(out, 0)
    assert outline[50, 100:120].all() and outline[79, 100:120].all()
    assert outline[50:80, 100].all() and outline[50:80, 119].all()
    assert not outline[80, 120:].any() and not outline[55:75, 120].any() and not outline[55:75, 99].any()


def test_each_class_has_its_colour_and_its_landmarks() -> None:
    boxes = [(20, 60, 120, 160), (200, 60, 300, 160), (380, 60, 480, 160)]
    faces = fake_detections(boxes, probs(0, 1, 2))
    out = draw(blank(600, 300), faces)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        assert is_colour(out[y1:y2, x1:x2], i)[0].all()
        for x, y in faces.landmarks[i].round().astype(int):
            assert is_colour(out, i)[y, x]
    assert len(set(PALETTE)) == len(PALETTE) == 7 and class_colour(7) == class_colour(0)


def test_a_large_face_gets_a_thicker_line_and_larger_text() -> None:
    def line_and_text(face: int) -> tuple[int, int]:
        out = is_colour(draw(blank(2000, 1500), fake_detections([(500, 400, 500 + face, 400 + face)])), 0)
        line = int(out[400 + face // 2, 500 : 500 + face // 8].sum())
        text = int(out[:400].any(axis=1).sum())  # rows above the box
        return line, text

    (small_line, small_text), (large_line, large_text) = line_and_text(20), line_and_text(900)
    assert small_line == 1 and large_line >= 5
    assert small_text >= 10 and large_text > 1.5 * small_text


@pytest.mark.parametrize("box", [(0, 0, 30, 30), (370, 0, 400, 30), (0, 270, 30, 300), (370, 270, 400, 300)])
def test_the_text_stays_inside_the_picture(box: tuple[int, int, int, int]) -> None:
    out = is_colour(draw(blank(400, 300), fake_detections([box])), 0)
    x1, y1, x2, y2 = box
    out[y1:y2, x1:x2] = False
    rows, columns = np.nonzero(out)
    assert columns.max() - columns.min() >= 60 and rows.max() - rows.min() >= 8  # the whole text "with_mask 0.63"


def test_an_unsure_label_has_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    pen = "PIL.ImageDraw.ImageDraw.text"
    monkeypatch.setattr(pen, lambda self, at, text, *args, **options: written.append(text))
    boxes = [(100, 100, 200, 200), (300, 100, 400, 200)]
    faces = fake_detections(boxes, [(0.5, 0.3, 0.2), (0.1, 0.8, 0.1)], unsure_margin=0.4)  # 0.2 and 0.7 apart
    draw(blank(600, 300), faces)
    assert written == ["with_mask? 0.45", "without_mask 0.72"]
    written.clear()
    draw(blank(200, 200), fake_detections([(0, 40, 30, 70), (62, 0, 200, 200)], unsure_margin=0.6))
    assert written[0] == "0.63?"  # no room for the name


def test_faces_of_a_video_have_track_numbers_and_optional_landmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    faces = fake_detections([(100, 100, 200, 200), (300, 100, 400, 200)], probs(0, 1))
    without = draw(blank(600, 300), faces, landmarks=False)
    for i, (x, y) in enumerate(faces.landmarks[:, 2].astype(int)):
        assert is_colour(draw(blank(600, 300), faces), i)[y, x]
        assert not is_colour(without, i)[y, x]
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda self, at, text, *a, **o: written.append(text))
    draw(blank(600, 300), faces, [7, 12])
    assert written == ["7 with_mask 0.90", "12 without_mask 0.90"]


def test_text_hides_no_other_face() -> None:
    boxes = [(x, y, x + 14, y + 14) for y in range(20, 280, 30) for x in range(10, 380, 40)]  # 90 faces, a crowd
    image = blank(400, 300)
    faces = fake_detections(boxes)
    out = draw(image, faces)
    for x1, y1, x2, y2 in boxes:
        assert (out[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] == GREY).all()
    assert is_colour(out, 0).sum() > 90 * 52  # more than the outlines: texts, too


def test_a_legend_is_drawn_where_names_do_not_fit() -> None:
    # The second face touches all four sides of the first but leaves 30 px: "0.98" fits there, its name does not.
    boxes = [(0, 40, 30, 70), (62, 0, 200, 200)]
    wide = draw(blank(200, 200), fake_detections(boxes[:1]))
    narrow = draw(blank(200, 200), fake_detections(boxes, probs(0, 1)))
    assert is_colour(wide[:40], 0).any(axis=0).sum() > 62
    text = is_colour(narrow[:40, :62], 0).any(axis=0)
    assert 15 < text.sum() < 62


def test_boxes_outside_and_pictures_of_one_pixel_are_no_error() -> None:
    for size in ((1, 1), (3, 200), (200, 3)):
        out = draw(blank(*size), fake_detections([(-5, -5, 500, 500), (300, 300, 310, 310), (0, 0, 1, 1)]))
        assert out.shape == (size[1], size[0], 3)


def test_thousands_of_candidates_are_drawn_quickly() -> None:
    corner = np.random.default_rng(0).uniform(0, 380, (3000, 2))
    out = draw(blank(400, 400), fake_detections(np.hstack([corner, corner + 12])))
    assert (out != GREY).any(axis=-1).mean() > 0.5


def test_class_names_of_the_fake_match_the_palettes_order() -> None:
    assert CLASSES[0] == "with_mask" and class_colour(0) == (0, 158, 115)
