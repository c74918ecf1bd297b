"""Random YOLO datasets: each face is read right, or refused by name."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.annotations import read_dataset
from common.annotations.collect import DatasetError
from tests.helpers.yolo_sets import write_random_set


def check_random_set(seed: int) -> str:
    """Write a dataset, read it, and compare; return "read" or why it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "made")
        made = write_random_set(root, np.random.default_rng(seed))
        try:
            read = read_dataset(root)
        except DatasetError as error:
            few = sum(len(faces) for faces in made.faces.values()) <= 3
            assert "kpt_shape" in str(error) or "no label file for any" in str(error) or few, error
            return str(error)
        assert read.face_count + read.refused_count == made.rows
        images = {unicodedata.normalize("NFC", image.path.stem): image for image in read.images}
        assert {stem: image.split for stem, image in images.items()} == made.splits
        for stem, image in images.items():
            expected = made.faces[stem]
            assert image.labels == tuple(name for name, _ in expected)
            if expected:
                np.testing.assert_allclose(image.boxes, [box for _, box in expected], atol=0.01)
            if stem in made.bad:
                assert not image.complete
            if stem in made.unlabelled and made.orphan_splits & {image.split, {"val": "valid"}.get(image.split or "")}:
                assert not image.complete
            if image.labels and stem not in made.bad:
                assert image.complete
        return "read"


@pytest.mark.slow
@settings(derandomize=True, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_each_face_of_a_random_set_is_read_or_refused_by_name(seed: int) -> None:
    check_random_set(seed)


@pytest.mark.slow
def test_most_random_sets_are_read() -> None:
    results = [check_random_set(seed) for seed in range(400)]
    assert results.count("read") > 0.8 * len(results)
