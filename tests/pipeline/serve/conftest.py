"""An application with a fake predictor, and a photo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pipeline.serve.app import create_app
from tests.helpers.fake_predictor import FakePredictor, write_picture
from tests.helpers.serve.app_client import LIMITS


@pytest.fixture
def fake() -> FakePredictor:
    return FakePredictor()


@pytest.fixture
def client(fake: FakePredictor) -> Iterator[TestClient]:
    with TestClient(create_app(fake, LIMITS)) as client:  # type: ignore[arg-type]
        yield client


@pytest.fixture
def photo(tmp_path: Path) -> bytes:
    return write_picture(tmp_path / "photo.png").read_bytes()
