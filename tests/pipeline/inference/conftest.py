"""A bundle that tests may break."""

import shutil

import pytest

from pipeline.inference.bundle import DEFAULT


@pytest.fixture
def bundle_copy(tmp_path):
    """Return a copy of the default bundle that a test may break."""
    return shutil.copytree(DEFAULT, tmp_path / "bundle")
