"""The command: it scores and chooses, keeps only detections, and refuses bad options with one line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import pytest

from pipeline.evaluate.videos import command
from tests.helpers.fake_predictor import FakeDetections, FakePredictor, fake_detections
from tests.helpers.planted_data import write_part

FACES = {"a.png": (60, 60, 40, 50), "b.png": (150, 90, 50, 60), "c.png": (100, 30, 60, 60), "d.png": (200, 100, 60, 70)}


@dataclass(frozen=True)
class RealEnoughFusion:
    unsure_margin: float = 0.3


@dataclass(frozen=True)
class RealEnoughMeta:
    class_names: tuple[str, ...] = ("with_mask", "without_mask", "mask_weared_incorrect")
    score_threshold: float = 0.5
    fusion: RealEnoughFusion = field(default_factory=RealEnoughFusion)
    provenance: dict[str, Any] = field(default_factory=dict)


class RedFinder(FakePredictor):
    """Finds the largest reddish spot, also in noise and after H.264."""

    def __init__(self) -> None:
        super().__init__()
        self.bundle.meta = RealEnoughMeta()  # type: ignore[misc,assignment]

    def detect(self, image: Any, min_score: float | None = None, min_face: float | None = None) -> FakeDetections:
        self.calls.append((min_score, min_face))
        smooth = cv2.GaussianBlur(image, (0, 0), 2).astype(int)
        red = (smooth[..., 0] - smooth[..., 1:].max(axis=2)) > 60
        _, _, stats, _ = cv2.connectedComponentsWithStats(red.astype("uint8"))
        boxes = [(x, y, x + w, y + h) for x, y, w, h, area in stats[1:].tolist() if area > 100]
        return fake_detections(sorted(boxes)[:1])


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A dataset of four photos of grey and red, all in the validation split, and the arguments that name it."""
    data = write_part(
        tmp_path / "data", {name: (i, [("with_mask", face)]) for i, (name, face) in enumerate(FACES.items())}
    )
    for name, (x, y, w, h) in FACES.items():
        pixels = cv2.cvtColor(cv2.cvtColor(cv2.imread(str(data / name)), cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        pixels[y : y + h, x : x + w] = (20, 20, 230)
        cv2.imwrite(str(data / name), pixels)
    (tmp_path / "splits.csv").write_text("image_id,split\n" + "".join(f"{name[0]},val\n" for name in FACES))
    monkeypatch.setattr(command.Predictor, "load", lambda *_, **__: RedFinder())
    out = str(tmp_path / "out")
    return ["--data", str(data), "--splits", str(tmp_path / "splits.csv"), "--out", out, "--seconds", "2"]


@pytest.mark.slow
def test_a_second_run_detects_nothing_and_says_the_same(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*arguments, "--clips", "4"]) == 0
    first = (tmp_path / "out" / "videos.md").read_text()
    assert "half 1, chosen" in first and "half 2, present" in first and "0.3 (the bundle's)" in first
    assert "Fewer detector runs" in first and "stride 5" in first and ": --motion" in first
    record = json.loads((tmp_path / "out" / "videos.json").read_text())
    assert len(record["videos"]) == 4 and record["chosen"]["tried"]
    kept = sorted(path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert kept == [".json", ".md", *[".npz"] * 4]  # no photo, no video
    assert sum(video["faces"] for video in record["videos"]) >= 2
    assert sum(video["once"] for video in record["videos"]) >= 1

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it detected again")

    monkeypatch.setattr(RedFinder, "detect", refuse)
    assert command.main([*arguments, "--clips", "4"]) == 0
    assert (tmp_path / "out" / "videos.md").read_text() == first
    capsys.readouterr()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--clips", "1"], "--clips is 1; use 2 or more"),
        (["--seconds", "0"], "--seconds is 0; use 1 to 600"),
        (["--threads", "0"], "--threads is 0; use 1 or more"),
        (["--seed", "-1"], "--seed is -1; use 0 or more"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*arguments, *more]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.slow
def test_a_bundle_that_may_know_the_photos_is_named(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*arguments, "--no-choose"]) == 0
    assert "may have learned from these photos" in (tmp_path / "out" / "videos.md").read_text()
    digest = hashlib.sha256((tmp_path / "splits.csv").read_bytes()).hexdigest()
    finder = RedFinder()
    finder.bundle.meta.provenance["data"] = {"splits_sha256": digest}  # type: ignore[attr-defined]
    monkeypatch.setattr(command.Predictor, "load", lambda *_, **__: finder)
    assert command.main([*arguments, "--no-choose"]) == 0
    text = (tmp_path / "out" / "videos.md").read_text()
    assert "may have learned" not in text and "chosen" not in text
    capsys.readouterr()


def test_one_photo_is_too_few(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "splits.csv").write_text("image_id,split\na,val\nb,train\nc,train\nd,train\n")
    assert command.main(arguments) == 1
    assert "1 photos of split 'val' can be used; make a split with 2 or more" in capsys.readouterr().err
