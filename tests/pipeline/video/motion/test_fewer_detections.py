"""`pipeline.detect --follow` and `--motion`: where the detector runs, what is written."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from common.boxes import iou
from pipeline.detect.demo.command import portrait
from pipeline.video.writer import video_writer
from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.video.made_videos import blob_video
from tests.helpers.video.run_detect import read_events, read_lines, run_detect, use_fake_predictor


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    return use_fake_predictor(tmp_path, monkeypatch)


def events(path: str) -> list[tuple[str, str]]:
    return [(row["event"], row["frame"]) for row in read_events(path)]


def walking(i: int) -> list[tuple[int, int, int, int]]:
    return [(10 + 2 * i, 60, 58 + 2 * i, 116)]


@pytest.mark.slow
def test_boxes_move_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A portrait moves to the right; the boxes of the frames between are where the detector finds them as well."""
    monkeypatch.chdir(tmp_path)
    face = cv2.resize(portrait(), (160, 160), interpolation=cv2.INTER_AREA)
    with video_writer(Path("a.mp4"), Fraction(25)) as video:
        for i in range(31):
            picture = np.full((200, 320, 3), 90, np.uint8)
            picture[20:180, 3 * i + 20 : 3 * i + 180] = face
            video.add(picture, i / 25)
    options = ("--frame-stride", "5")
    assert run_detect("a.mp4", "--out", "all") == 0
    assert run_detect("a.mp4", *options, "--out", "plain") == 0
    assert run_detect("a.mp4", *options, "--follow", "--out", "followed") == 0
    read, every = read_lines("followed/a.jsonl"), read_lines("all/a.jsonl")
    assert [line["frame"] for line in read] == list(range(31))
    assert [line.get("look") for line in read[:7]] == [None, *["follow"] * 4, None, "follow"]
    for line, found in list(zip(read, every, strict=True))[10:]:  # once the track is confirmed
        (face_there,), (face_found,) = line["faces"], found["faces"]
        assert face_there["track"] == 1 and face_there["label"] == face_found["label"]
        boxes = [np.asarray([one["box"]], np.float32) for one in (face_there, face_found)]
        assert iou(*boxes)[0, 0] > 0.85, line["frame"]
        nose, nose_found = face_there["landmarks"][2], face_found["landmarks"][2]
        np.testing.assert_allclose(nose, nose_found, atol=6)
    # The events, and the faces of the frames in which the detector ran, are those without --follow.
    assert events("followed/a.events.csv") == events("plain/a.events.csv")
    assert [line["faces"] for line in read if "look" not in line] == [
        line["faces"] for line in read_lines("plain/a.jsonl")
    ]
    with av.open("followed/a.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 31


def test_no_more_frames_are_looked_at(fake: FakePredictor) -> None:
    blob_video(Path("a.mp4"), walking, frames=20, size=(240, 160))
    assert run_detect("a.mp4", "--frame-stride", "5", "--follow") == 0
    assert len(fake.calls) == 4 and len(read_lines("detections/a.jsonl")) == 20


def test_faces_that_leave_the_picture_are_left_out(fake: FakePredictor) -> None:
    blob_video(Path("a.mp4"), lambda i: [(10 + 6 * i, 60, 58 + 6 * i, 116)], frames=50, size=(240, 160))
    assert run_detect("a.mp4", "--frame-stride", "10", "--follow") == 0
    for line in read_lines("detections/a.jsonl"):
        for face in line["faces"]:
            x1, y1, x2, y2 = face["box"]
            assert 0 <= x1 < x2 <= 240 and 0 <= y1 < y2 <= 160


def test_a_still_scene_is_looked_at_once_a_second_and_nothing_is_told_again(fake: FakePredictor) -> None:
    def sits(i: int) -> list[tuple[int, int, int, int]]:
        return [(100, 60, 148, 116)] if i >= 20 else []

    blob_video(Path("a.mp4"), sits, frames=150, size=(240, 160))
    assert run_detect("a.mp4", "--out", "all") == 0
    every = len(fake.calls)
    assert run_detect("a.mp4", "--motion", "--out", "motion") == 0
    assert every == 150 and len(fake.calls) - every <= 12
    assert events("motion/a.events.csv") == events("all/a.events.csv")
    read = read_lines("motion/a.jsonl")
    assert [len(line["faces"]) for line in read] == [len(line["faces"]) for line in read_lines("all/a.jsonl")]
    assert {line.get("look") for line in read} == {None, "hold"}


@pytest.mark.parametrize("options", [("--frame-stride", "2", "--follow"), ("--motion",)])
def test_blur_looks_at_each_frame(
    fake: FakePredictor, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    blob_video(Path("a.mp4"), walking, frames=3, size=(240, 160))
    assert run_detect("a.mp4", "--blur", *options) == 1
    assert f"--blur covers only faces that are looked for, and {options[-1]} skips" in capsys.readouterr().err
    assert not Path("detections").exists() and fake.calls == []


def test_follow_needs_frames_between(fake: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    blob_video(Path("a.mp4"), walking, frames=3, size=(240, 160))
    assert run_detect("a.mp4", "--follow") == 1
    assert "--follow is for the frames that --frame-stride leaves out" in capsys.readouterr().err
    assert not Path("detections").exists() and fake.calls == []
