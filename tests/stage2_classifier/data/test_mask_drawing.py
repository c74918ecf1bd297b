"""Drawn masks: what they cover, what they leave alone, and what is refused."""

import numpy as np
import pytest

from stage2_classifier.data.mask_drawing import draw_mask

# A face 100 px wide: eyes on row 80, nose tip on row 106, mouth on row 125.
LANDMARKS = np.array([[75, 80], [125, 80], [100, 106], [80, 125], [120, 125]], np.float32)
NOSE, MOUTH, CHIN, BROW = (106, 100), (125, 100), (148, 100), (60, 100)


@pytest.fixture
def face():
    return np.random.default_rng(0).integers(100, 180, (220, 200, 3)).astype(np.uint8)


def covered(face, drawn, place):
    y, x = place
    return bool((drawn[y - 2 : y + 3, x - 2 : x + 3] != face[y - 2 : y + 3, x - 2 : x + 3]).mean() > 0.9)


@pytest.mark.parametrize(
    ("position", "nose", "mouth"), [("correct", True, True), ("nose_out", False, True), ("chin", False, False)]
)
def test_each_position_covers_what_its_name_says(face, position, nose, mouth):
    drawn = draw_mask(face, LANDMARKS, position)
    assert covered(face, drawn, NOSE) == nose
    assert covered(face, drawn, MOUTH) == mouth
    assert covered(face, drawn, CHIN)
    assert not covered(face, drawn, BROW)


def test_the_photo_is_not_edited_in_place(face):
    before = face.copy()
    draw_mask(face, LANDMARKS)
    assert (face == before).all()


def test_colour_shows(face):
    red, blue = draw_mask(face, LANDMARKS, colour=(220, 60, 60)), draw_mask(face, LANDMARKS, colour=(60, 60, 220))
    assert red[MOUTH][0] > red[MOUTH][2]
    assert blue[MOUTH][2] > blue[MOUTH][0]


def test_a_face_at_the_edge_or_outside(face):
    assert draw_mask(face, LANDMARKS - (90, 60)).shape == face.shape
    assert (draw_mask(face, LANDMARKS + 5000) == face).all()


def test_a_tilted_small_face_is_covered_too():
    image = np.full((40, 40, 3), 120, np.uint8)
    drawn = draw_mask(image, np.array([[14, 12], [26, 16], [18, 20], [12, 22], [22, 26]], np.float32))
    assert (drawn[20:26, 14:20] != image[20:26, 14:20]).all()


def test_landmarks_on_one_spot_are_refused(face):
    with pytest.raises(ValueError, match="do not span a face"):
        draw_mask(face, np.full((5, 2), 50, np.float32))
