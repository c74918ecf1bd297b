"""Synthetic photos have the size and the number of faces asked for, and the pipeline finds these faces."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.inference.predictor import Predictor


@pytest.mark.parametrize(("width", "height", "faces"), [(400, 300, 0), (400, 300, 1), (700, 400, 10), (300, 900, 12)])
def test_the_pipeline_finds_the_faces(width: int, height: int, faces: int) -> None:
    photo = synthetic_photo(width, height, faces)
    assert photo.shape == (height, width, 3) and photo.dtype == np.uint8
    assert len(Predictor.default().detect(photo)) == faces


def test_the_same_seed_gives_the_same_photo() -> None:
    assert (synthetic_photo(100, 80, 3) == synthetic_photo(100, 80, 3)).all()
    assert (synthetic_photo(100, 80, 3) != synthetic_photo(100, 80, 3, seed=1)).any()


@pytest.mark.parametrize(("width", "height", "faces"), [(31, 100, 1), (100, 31, 1), (100, 100, -1)])
def test_sizes_and_numbers_that_are_too_small(width: int, height: int, faces: int) -> None:
    with pytest.raises(ValueError, match="cannot be made"):
        synthetic_photo(width, height, faces)
