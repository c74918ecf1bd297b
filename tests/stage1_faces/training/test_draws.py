"""How often faces and photos are drawn: by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.annotations.source import Source
from common.errors import UserError
from stage1_faces.training.batches import PatchBatches
from stage1_faces.training.draws import (
    background_weights,
    face_sampling_weights,
    is_half_hidden,
    is_profile,
    with_face_factors,
    with_source_factors,
)
from stage1_faces.training.samples import TrainingPhoto
from tests.helpers.drawn_photos import RELATIVE_LANDMARKS, draw, made_photo

IMAGE = draw((160, 120), [])
BOXES = [[10.0, 10, 40, 45], [60, 50, 90, 85]]


def photo(source: str, labels: tuple[str, ...] = ("a", "b"), **fields: object) -> TrainingPhoto:
    return replace(made_photo(IMAGE, BOXES[: len(labels)], labels), source=source, **fields)  # type: ignore[arg-type]


def source(name: str, **fields: object) -> Source:
    return Source(name, Path(name), **fields)  # type: ignore[arg-type]


def test_sources_are_drawn_by_their_shares() -> None:
    photos = [photo("main"), photo("main"), photo("main", ("a",)), photo("far")]
    sources = [source("main"), source("far", share=0.25)]
    faces, weights = face_sampling_weights(with_source_factors(photos, sources))
    assert weights.sum() == pytest.approx(1)
    assert weights[faces[:, 0] == 3].sum() == pytest.approx(0.25)
    # Without shares, each source as often as it has faces.
    faces, weights = face_sampling_weights(with_source_factors(photos, [source("main"), source("far")]))
    assert weights[faces[:, 0] == 3].sum() == pytest.approx(2 / 7)
    # Inside the source: 4 faces of "a", 3 of "b" (of all sources).
    main = weights[faces[:, 0] == 0]
    assert main[1] / main[0] == pytest.approx((4 / 3) ** 0.5)
    with pytest.raises(UserError, match="lower them"):
        with_source_factors(photos, [source("main", share=0.6), source("far", share=0.6)])


def test_a_face_without_a_known_class_has_the_usual_weight() -> None:
    known = photo("s", ("a", "a", "b")[:2])
    mixed = replace(photo("s", ("b", "a")), class_known=np.array([True, False]))
    faces, weights = face_sampling_weights([known, mixed])
    # Known: twice "a" and once "b", two faces in each photo. The unknown one is as their mean.
    parts = np.array([2**-0.5, 2**-0.5, 1, (2 * 2**-0.5 + 1) / 3])
    assert weights == pytest.approx(parts / parts.sum())
    assert len(faces) == 4
    # A source without a known class takes the mean of all known faces.
    unknown = replace(photo("t", ("a", "b")), class_known=np.array([False, False]))
    faces, weights = face_sampling_weights([known, unknown])
    assert weights == pytest.approx(np.full(4, 0.25))


def test_draws_are_those_of_the_generator() -> None:
    photos = [photo("", ("a", "b")), photo("", ("a",)), photo("", ("a", "c"))]
    faces, weights = face_sampling_weights(photos)
    batches, one, two = PatchBatches(photos, 1, 0), np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(50):
        assert batches._draw_face(one) == tuple(faces[two.choice(len(faces), p=weights)])


def free(count: int, name: str = "free") -> list[TrainingPhoto]:
    return [replace(made_photo(IMAGE, []), source=name, face_free=True) for _ in range(count)]


def test_face_free_photos_take_part_in_the_background() -> None:
    photos = [photo("main"), photo("main"), *free(3)]
    weights = background_weights(with_source_factors(photos, [source("main"), source("free", face_free=True)]))
    assert weights == pytest.approx([0.375, 0.375, *[0.25 / 3] * 3])
    # A share of 0.06 of all patches is 0.4 of those from anywhere.
    sources = [source("main"), source("free", face_free=True, share=0.06)]
    weights = background_weights(with_source_factors(photos, sources))
    assert weights == pytest.approx([0.3, 0.3, *[0.4 / 3] * 3])
    sources = [source("main"), source("free", face_free=True, share=0.5)]
    assert background_weights(with_source_factors(photos, sources)) == pytest.approx([0, 0, *[1 / 3] * 3])
    two = [photo("main"), *free(1), *free(2, "other")]
    sources = [source("main"), source("free", face_free=True, share=0.06), source("other", face_free=True)]
    assert background_weights(with_source_factors(two, sources)) == pytest.approx([0.35, 0.4, 0.125, 0.125])
    # Without another complete photo, they are all.
    assert background_weights(with_source_factors(two, sources)[1:]).sum() == pytest.approx(1)


@pytest.mark.slow
def test_patches_from_anywhere_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = with_source_factors([photo("main"), *free(3)], [source("main"), source("free", face_free=True)])
    drawn: list[tuple[bool, bool]] = []
    from stage1_faces.training import batches as module

    real = module.sample_patch

    def spy(shown: TrainingPhoto, face: int | None, rng: np.random.Generator):
        drawn.append((shown.face_free, face is None))
        return real(shown, face, rng)

    monkeypatch.setattr(module, "sample_patch", spy)
    PatchBatches(photos, 1200, 0).batch(0, 0)
    anywhere = [free for free, nowhere in drawn if nowhere]
    assert 0.15 < np.mean(anywhere) < 0.35 and not any(free for free, nowhere in drawn if not nowhere)


def test_profiles_by_hand() -> None:
    frontal = RELATIVE_LANDMARKS * 100
    turned, tilted, side = frontal.copy(), frontal.copy(), frontal.copy()
    turned[2, 0] += 22  # of 40 px between the eyes
    tilted = tilted @ np.float32([[0.8, 0.6], [-0.6, 0.8]])
    side[2, 0] += 18
    unknown = np.full((5, 2), np.nan, np.float32)
    assert is_profile(np.stack([frontal, turned, tilted, side, unknown])).tolist() == [False, True, False, False, False]
    assert is_profile(np.zeros((0, 5, 2), np.float32)).shape == (0,)


def test_half_hidden_by_hand() -> None:
    boxes = [
        [50.0, 50, 80, 90],  # whole
        [0.5, 10, 30, 40],  # at the left edge
        [130, 10, 160, 40],  # at the right edge
        [100, 50, 110, 90],  # narrow
        [60, 70, 75, 90],  # small, and covered by the first, of which it covers a fifth only... and a quarter
    ]
    assert is_half_hidden(made_photo(IMAGE, boxes)).tolist() == [False, True, True, True, True]
    assert is_half_hidden(made_photo(IMAGE, [])).shape == (0,)


def test_factors_of_faces_count() -> None:
    boxes = [[50.0, 50, 80, 90], [0, 10, 30, 40]]
    marks = np.stack([RELATIVE_LANDMARKS * 30 + 50, RELATIVE_LANDMARKS * 30])
    marks[0, 2, 0] += 20
    plain = replace(made_photo(IMAGE, boxes), landmarks=marks)
    (drawn,) = with_face_factors([plain], {"profile": 2.0, "hidden": 3.0})
    assert drawn.face_factors is not None and drawn.face_factors.tolist() == [2, 3]
    assert face_sampling_weights([drawn])[1] == pytest.approx([0.4, 0.6])
    assert face_sampling_weights([plain])[1] == pytest.approx([0.5, 0.5])
