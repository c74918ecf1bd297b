"""Runs the command pipeline.detect in the test's process, and reads its outputs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.detect import command
from tests.helpers.fake_predictor import FakePredictor


def use_fake_predictor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    """Make `folder` the working directory, and let the command use a FakePredictor."""
    monkeypatch.chdir(folder)
    predictor = FakePredictor()
    monkeypatch.setattr(command, "load_predictor", lambda bundle, threads, device: predictor)
    return predictor


def run_detect(*args: str | Path) -> int:
    return command.main([str(arg) for arg in args])


def read_json(path: str = "detections/detections.json") -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def read_events(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_rows(path: str) -> list[list[str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))
