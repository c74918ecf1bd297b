"""Fixtures of the evaluation's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.training.evaluation_data import write_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small Pascal VOC set, with splits.csv next to it."""
    return write_data(tmp_path)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write empty files for pictures, because rendering takes most of the time."""

    def save(_: object, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    monkeypatch.setattr("pipeline.evaluate.pictures.save_figure", save)
