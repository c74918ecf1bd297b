"""The baseline on photos of which an annotation was refused: not trained on, scored without false alarms there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.annotations import AnnotatedImage
from pipeline.baseline import command as module
from pipeline.baseline.command import main
from tests.helpers.incomplete_data import BOTH, write_half_refused, write_incomplete


def call(root: Path, *options: str) -> int:
    argv = ["--data", str(root), "--splits", str(root / "splits.csv"), "--out", str(root.parent / "run")]
    argv += ["--device", "cpu", "--size", "64", "--epochs", "1", "--batch-size", "2", "--threads", "1"]
    return main([*argv, "--bootstrap", "0", *options])


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the ids of the training photos; there is still a real training."""
    ids: list[str] = []
    real = module.fit

    def spy(config: object, train: list[AnnotatedImage], *rest: object) -> None:
        ids.extend(image.image_id for image in train)
        real(config, train, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "fit", spy)
    return ids


def test_incomplete_photos_are_left_out_of_training_and_counted(
    tmp_path: Path, trained_on: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_half_refused(tmp_path / "data", ("train", "train", "train", "val", "val", "test"))
    assert call(root) == 0
    assert trained_on == ["p0", "p2"]
    record = json.loads((tmp_path / "run" / "baseline.json").read_text())
    assert (record["photos"], record["incomplete_photos"]) == (1, 1)
    notes = " ".join(record["notes"])
    assert "1 training photo may show a face without a box: not trained on" in notes
    assert "1 scored photo may show a face without a box" in notes
    assert record["detector"]["errors"]["kinds"]["false_alarm"] == 0
    assert capsys.readouterr().err.count("p1.xml") == 1


def test_only_incomplete_photos_cannot_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = {"a": BOTH[:1], "b": BOTH[:1], "c": BOTH, "d": BOTH}
    sides = {"a": "train", "b": "train", "c": "val", "d": "test"}
    root = write_incomplete(tmp_path / "data", faces, {"a": BOTH[1:], "b": BOTH[1:]}, sides)
    assert call(root) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "split 'train' without 2 photos that may show a face without a box has no photo" in error
    assert not (tmp_path / "run").exists()


def test_a_scored_split_without_faces_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = {"a": BOTH, "b": BOTH, "c": BOTH, "d": ()}
    root = write_incomplete(tmp_path / "data", faces, {}, {"a": "train", "b": "train", "c": "val", "d": "test"})
    assert call(root) == 1
    assert "split 'test' has no face in its 1 photo" in capsys.readouterr().err
