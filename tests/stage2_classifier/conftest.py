"""Crop sets that a network learns in seconds."""

from __future__ import annotations

import pytest

from stage2_classifier.data.crop_manifest import CropSet
from tests.helpers.training.crop_sets import cut_from_photos, make_crop_set


@pytest.fixture(scope="session")
def tiny_crops(tmp_path_factory: pytest.TempPathFactory) -> CropSet:
    """Return a read-only crop set of 69 crops in three classes."""
    return make_crop_set(tmp_path_factory.mktemp("crops"))


@pytest.fixture(scope="session")
def wide_crops(tmp_path_factory: pytest.TempPathFactory) -> CropSet:
    """Return a read-only crop set with a wide margin: 30 faces and 15 hard negatives per split."""
    return cut_from_photos(tmp_path_factory.mktemp("wide"))
