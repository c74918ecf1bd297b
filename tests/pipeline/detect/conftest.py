"""Fixtures of the tests of pipeline.detect."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.video.run_detect import use_fake_predictor


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    return use_fake_predictor(tmp_path, monkeypatch)
