"""Drawn photos, and a finished fine-tuning of seconds on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.drawn_photos import write_dataset
from tests.helpers.training.quick_finetune import make_quick, run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Replace exports and the stock cascade, so that a fine-tuning takes seconds."""
    make_quick(monkeypatch.setattr)
    return monkeypatch


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return four drawn photos with splits.csv."""
    return write_dataset(tmp_path_factory.mktemp("data"), ("train", "train", "val", "test"))


@pytest.fixture(scope="session")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run, for reading only."""
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch.setattr)
        return run(data, tmp_path_factory.mktemp("runs") / "unbroken")
