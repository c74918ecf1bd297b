"""Outputs of videos that would replace other outputs of the same run, or cannot have their names."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import av
import cv2
import pytest

from pipeline.video import outputs
from tests.helpers.fake_predictor import FakePredictor, write_picture
from tests.helpers.video.made_videos import blob_video
from tests.helpers.video.run_detect import read_lines, read_rows, run_detect, use_fake_predictor


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    return use_fake_predictor(tmp_path, monkeypatch)


def length(name: str) -> int:
    """Return the number of frames in the annotated video."""
    with av.open(name) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize(
    ("flag", "file"), [("--json", "door.jsonl"), ("--json", "Door.JSONL"), ("--csv", "door.events.csv")]
)
def test_outputs_of_photos_are_kept(flag: str, file: str) -> None:
    write_picture(Path("photo.png"))
    blob_video(Path("door.mp4"), frames=20)
    assert run_detect("photo.png", "door.mp4", flag, f"detections/{file}") == 0
    if flag == "--json":
        (image,) = json.loads(Path("detections", file).read_text(encoding="utf-8"))["images"]
        assert image["file"] == "photo.png"
    else:
        assert [row[0] for row in read_rows(f"detections/{file}")] == ["file", "photo.png"]
    assert len(read_lines("detections/door-2.jsonl")) == length("detections/door-2.mp4") == 20
    assert read_rows("detections/door-2.events.csv")[1:]


def test_a_link_in_the_output_folder_that_leads_to_the_video_is_left_alone() -> None:
    original = blob_video(Path("door.mp4"), frames=5).read_bytes()
    Path("detections").mkdir()
    Path("detections/door.mp4").symlink_to("../door.mp4")
    assert run_detect("door.mp4") == 0
    assert Path("door.mp4").read_bytes() == original and length("detections/door-2.mp4") == 5


def test_events_and_the_outputs_of_photos_are_different_files(capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(Path("photo.png"))
    blob_video(Path("door.mp4"), frames=5)
    for events in ("x.jsonl", "X.jsonl"):
        assert run_detect("photo.png", "door.mp4", "--json", "x.jsonl", "--events", events) == 1
        error = f"error: {events}: is the file of the photos' results; name another file with --events\n"
        assert capsys.readouterr().err == error and not Path(events).exists()


@pytest.mark.parametrize("taken", ["a.mp4", "a.jsonl", "a.events.csv"])
def test_a_folder_with_the_name_of_an_output(taken: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.mp4", "b.mp4"):
        blob_video(Path(name), frames=5)
    Path("detections", taken).mkdir(parents=True)
    assert run_detect("a.mp4", "b.mp4") == 1
    fix = "rename the video, or name another folder with --out"
    assert capsys.readouterr().err == (
        f"error: a.mp4: detections/{taken} cannot be written ({os.strerror(errno.EISDIR)}); {fix}\n"
    )
    assert len(read_lines("detections/b.jsonl")) == length("detections/b.mp4") == 5
    assert {path.name for path in Path("detections").iterdir()} == {taken, "b.mp4", "b.jsonl", "b.events.csv"}


def test_a_file_with_the_name_of_a_subfolder(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("in/a/v.mp4", "in/b/v.mp4"):
        blob_video(Path(name), frames=5)
    Path("detections").mkdir()
    Path("detections/a").touch()
    assert run_detect("in") == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: in/a/v.mp4: detections/a cannot be written (")
    assert length("detections/b/v.mp4") == 5


def test_an_error_that_concerns_all_outputs_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.mp4", "b.mp4"):
        blob_video(Path(name), frames=5)
    Path("file").touch()
    assert run_detect("a.mp4", "b.mp4", "--out", "file") == 1
    assert capsys.readouterr().err.splitlines() == ["error: file: File exists; name another place"]

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "detections/a.jsonl")

    monkeypatch.setattr(outputs, "atomic_text", full)
    assert run_detect("a.mp4", "b.mp4") == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [MemoryError(), cv2.error("(-4:Insufficient memory) Failed to allocate 9 bytes"), RuntimeError("std::bad_alloc")],
)
def test_a_video_that_needs_too_much_memory(
    fake: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    blob_video(Path("large.mp4"), frames=5, size=(192, 128))
    blob_video(Path("small.mp4"), frames=5)
    detect = fake.detect

    def detect_small(pixels: Any, *args: Any) -> Any:
        if pixels.shape[0] > 64:
            raise error
        return detect(pixels, *args)

    monkeypatch.setattr(fake, "detect", detect_small)
    assert run_detect("large.mp4", "small.mp4") == 1
    line = "needs more memory than there is; make it smaller, or leave it out"
    assert capsys.readouterr().err == f"error: large.mp4: {line}\n"
    assert {path.name for path in Path("detections").iterdir()} == {"small.mp4", "small.jsonl", "small.events.csv"}


def test_a_programming_error_is_not_an_error_of_the_video(fake: FakePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    blob_video(Path("a.mp4"), frames=5)
    monkeypatch.setattr(fake, "detect", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_detect("a.mp4")
