"""`pipeline.detect` on videos: outputs, messages, bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from pipeline.detect.demo.command import portrait, tiled_photo
from pipeline.inference.predictor import Predictor
from pipeline.video.outputs import clock
from pipeline.video.writer import video_writer
from tests.helpers.fake_predictor import FakePredictor, write_picture
from tests.helpers.video.made_videos import blob_frame, blob_video
from tests.helpers.video.run_detect import read_events, read_lines, run_detect, use_fake_predictor

ROOT = Path(__file__).resolve().parents[3]


def passing_blob(i: int) -> list[tuple[int, int, int, int]]:
    """Return a blob that moves right, in frames 10 to 29 only."""
    return [(2 * i, 20, 2 * i + 16, 40)] if 10 <= i < 30 else []


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    return use_fake_predictor(tmp_path, monkeypatch)


def read_pictures(path: str | Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_video(fake: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    blob_video(Path("clips/door.mp4"), passing_blob, frames=80)
    assert run_detect("clips/door.mp4") == 0
    read = read_lines("detections/door.jsonl")
    assert [line["frame"] for line in read] == list(range(80))
    assert [line["time"] for line in read] == [pytest.approx(i / 25, abs=1e-3) for i in range(80)]
    assert {line["file"] for line in read} == {"clips/door.mp4"}
    assert [len(line["faces"]) for line in read] == [0] * 10 + [1] * 20 + [0] * 50
    (face,) = read[12]["faces"]
    assert face["track"] == 1
    assert face["label"] == "with_mask"
    np.testing.assert_allclose(face["box"], passing_blob(12)[0], atol=1)
    assert set(face) == {"track", "box", "label", "score", "face_score", "probs", "unsure", "landmarks"}
    event_rows = read_events("detections/door.events.csv")
    assert [(event["event"], event["label"], event["frame"]) for event in event_rows] == [
        ("entered", "with_mask", "14"),
        ("left", "with_mask", "29"),
    ]
    shown = read_pictures("detections/door.mp4")
    assert len(shown) == 80
    assert shown[0].shape == (64, 96, 3)
    plain = read_pictures("clips/door.mp4")
    drawn = [np.abs(a.astype(int) - b).max() > 60 for a, b in zip(shown, plain, strict=True)]
    assert drawn == [10 <= i < 30 for i in range(80)]
    output = capsys.readouterr().out
    assert "0:00:00.6  face 1 entered with mask (0.63)" in output
    assert "1 face entered: 1 with_mask" in output
    assert not list(Path("detections").glob(".*"))


def test_the_same_with_one_worker_and_several(fake: FakePredictor) -> None:
    blob_video(Path("a.mp4"), passing_blob, frames=40)
    for workers in ("1", "3"):
        assert run_detect("a.mp4", "--workers", workers, "--out", workers) == 0
    for name in ("a.jsonl", "a.events.csv", "a.mp4"):
        assert Path("1", name).read_bytes() == Path("3", name).read_bytes()


def test_frame_stride_max_fps_and_seconds(fake: FakePredictor) -> None:
    blob_video(Path("a.mp4"), passing_blob, frames=50)
    assert run_detect("a.mp4", "--frame-stride", "3", "--out", "every") == 0
    assert [line["frame"] for line in read_lines("every/a.jsonl")] == list(range(0, 50, 3))
    assert len(read_pictures("every/a.mp4")) == 17
    assert run_detect("a.mp4", "--max-fps", "5", "--out", "fps") == 0
    assert [line["frame"] for line in read_lines("fps/a.jsonl")] == list(range(0, 50, 5))
    assert run_detect("a.mp4", "--seconds", "0.5", "--out", "seconds") == 0
    assert len(read_lines("seconds/a.jsonl")) == 13
    with av.open("every/a.mp4") as container:
        assert float(container.duration) / 1e6 == pytest.approx(2, abs=0.15)  # the duration stays


def test_min_score_and_min_face_reach_the_predictor(fake: FakePredictor) -> None:
    blob_video(Path("a.mp4"), passing_blob, frames=12)
    assert run_detect("a.mp4", "--min-score", "0.8", "--min-face", "30") == 0
    assert fake.calls[0] == (pytest.approx(0.2), 30)  # lower scores may continue a track
    assert all(line["faces"] == [] for line in read_lines("detections/a.jsonl"))


def test_outputs_by_name_and_no_pictures(fake: FakePredictor) -> None:
    blob_video(Path("a.mp4"), passing_blob, frames=40)
    assert run_detect("a.mp4", "--no-pictures", "--json", "deep/x.jsonl", "--events", "deep/e.jsonl") == 0
    assert len(read_lines("deep/x.jsonl")) == 40
    assert [line["event"] for line in read_lines("deep/e.jsonl")] == ["entered", "stayed"]
    assert not Path("detections").exists()


def test_several_videos_and_an_input_in_the_out_folder(fake: FakePredictor) -> None:
    first = blob_video(Path("detections/a.mp4"), passing_blob, frames=20)
    before = first.read_bytes()
    blob_video(Path("b/a.mp4"), passing_blob, frames=25)
    assert run_detect("detections/a.mp4", "b/a.mp4") == 0
    assert first.read_bytes() == before
    assert {path.name for path in Path("detections").iterdir()} == {
        *("a.mp4", "a-2.mp4", "a-2.jsonl", "a-2.events.csv"),
        *("a-3.mp4", "a-3.jsonl", "a-3.events.csv"),
    }
    assert len(read_lines("detections/a-2.jsonl")) == 20
    assert len(read_lines("detections/a-3.jsonl")) == 25


def test_a_link_to_a_video_and_its_target_are_not_overwritten(fake: FakePredictor) -> None:
    target = blob_video(Path("detections/clip.mp4"), passing_blob, frames=20)
    before = target.read_bytes()
    Path("clip.mp4").symlink_to(target)
    assert run_detect("clip.mp4") == 0
    assert target.read_bytes() == before
    assert len(read_pictures("detections/clip-2.mp4")) == 20
    assert run_detect("clip.mp4", "--json", "detections/clip.mp4") == 1
    assert target.read_bytes() == before


def test_a_truncated_video_gives_frames_and_an_error(fake: FakePredictor, capsys: pytest.CaptureFixture[str]) -> None:
    whole = blob_video(Path("whole.mp4"), passing_blob, frames=60, options={"movflags": "faststart"}).read_bytes()
    Path("cut.mp4").write_bytes(whole[: len(whole) * 9 // 10])
    blob_video(Path("good.mp4"), passing_blob, frames=20)
    assert run_detect("cut.mp4", "good.mp4") == 1
    *read, last = read_lines("detections/cut.jsonl")
    assert 20 < len(read) < 60
    assert len(read_pictures("detections/cut.mp4")) == len(read)
    output = capsys.readouterr().err
    assert output.startswith("error: cut.mp4: is truncated or broken")
    assert output.endswith("; copy or download it again\n")
    assert f"read {len(read)} frames" in output
    assert len(output.splitlines()) == 1
    assert last == {"file": "cut.mp4", "error": output.removeprefix("error: cut.mp4: ").strip()}
    assert len(read_lines("detections/good.jsonl")) == 20


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nothing.mp4"], ("nothing.mp4: ", "not found")),
        (["empty.mp4"], ("empty.mp4: ", "is empty (0 bytes)")),
        (["a.mp4", "--camera", "0"], ("--camera and file names",)),
        (["--camera", "-1"], ("--camera is -1; ", "0 for the first")),
        (["a.mp4", "--csv", "x.csv"], ("--csv is for pictures; ", "--json and --events")),
        (["a.mp4", "--submission", "x.csv"], ("--submission is for pictures; ", "--json and --events")),
        (["a.mp4", "--frame-stride", "0"], ("--frame-stride is 0; ", "1 or more")),
        (["a.mp4", "--every", "2"], ("--every: ", "--frame-stride")),
        (["a.mp4", "--max-fps", "0"], ("--max-fps is 0; ", "above 0")),
        (["a.mp4", "--seconds", "-2"], ("--seconds is -2; ", "above 0")),
        (["a.mp4", "--events", "x.txt"], ("x.txt: ", ".csv or .jsonl")),
        (["a.mp4", "--json", "a.mp4"], ("a.mp4: is the video; ", "--json")),
        (["a.mp4", "--events", "folder.csv"], ("folder.csv: ", "folder or device", "--events")),
        (["a.mp4", "b.mp4", "--json", "x"], ("x: ", "--json", "several videos")),
        (["a.mp4", "--json", "x.csv", "--events", "x.csv"], ("x.csv: ", "both --json and --events")),
        (["a.mp4", "--json", "x.csv", "--events", "X.csv"], ("x.csv: ", "both --json and --events")),
        (["a.mp4", "--webhook", "ftp://x"], ("--webhook is not a web address; ", "http://")),
    ],
)
def test_bad_input_is_one_line(
    fake: FakePredictor, capsys: pytest.CaptureFixture[str], args: list[str], words: tuple[str, ...]
) -> None:
    blob_video(Path("a.mp4"), passing_blob, frames=5)
    write_picture(Path("photo.png"))
    Path("empty.mp4").touch()
    Path("folder.csv").mkdir()
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert run_detect(*args) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {words[0]}") and all(word in err for word in words) and err.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_events_may_have_the_name_of_the_lines(fake: FakePredictor) -> None:
    blob_video(Path("a.mp4"), passing_blob, frames=40)
    assert run_detect("a.mp4", "--events", "detections/a.jsonl", "--no-pictures") == 0
    assert len(read_lines("detections/a-2.jsonl")) == 40
    assert [event["event"] for event in read_lines("detections/a.jsonl")] == ["entered", "stayed"]


def test_a_missing_camera_is_one_line(
    fake: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: FakeCamera([]))
    assert run_detect("--camera", "3") == 1
    expected = "camera-3: cannot be opened; check that it is plugged in, not in use, and try another number"
    assert capsys.readouterr().err == f"error: {expected}\n"
    assert not Path("detections").exists()


class FakeCamera:
    """Stands for cv2.VideoCapture: gives these frames, then fails."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        self._frames = iter(frames)
        self._any = bool(frames)

    def isOpened(self) -> bool:  # noqa: N802
        return self._any

    def set(self, *_: object) -> None: ...
    def release(self) -> None: ...

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.02)
        frame = next(self._frames, None)
        return frame is not None, frame


def test_a_camera_for_some_seconds(fake: FakePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    shots = [blob_frame([(20, 20, 40, 44)])[..., ::-1] for _ in range(500)]
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: FakeCamera(shots))
    assert run_detect("--camera", "0", "--seconds", "1.5") == 0
    (video,) = Path("detections").glob("camera-0-*.mp4")
    read = read_lines(str(video.with_suffix(".jsonl")))
    assert len(read) > 5
    assert all("clock" in line and len(line["faces"]) == 1 for line in read)
    assert len(read_pictures(video)) == len(read)
    event_rows = read_events(str(video.with_suffix(".events.csv")))
    assert [event["event"] for event in event_rows] == ["entered", "stayed"]
    assert event_rows[0]["clock"]


@pytest.mark.slow
def test_a_live_source_stopped_by_a_signal_keeps_its_results(tmp_path: Path) -> None:
    script = (
        "import sys; import cv2; from pipeline.detect import command;"
        "from tests.pipeline.video import test_process as t;"
        "shots = [t.blob_frame([(20, 20, 40, 44)])[..., ::-1] for _ in range(5000)];"
        "cv2.VideoCapture = lambda number: t.FakeCamera(shots);"
        "command.load_predictor = lambda *_: t.FakePredictor();"
        f"sys.exit(t.run_detect('--camera', '0', '--out', {str(tmp_path)!r}))"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 30
        while not any(path.stat().st_size for path in tmp_path.glob("*.jsonl")) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.8)
        begin = time.monotonic()
        process.send_signal(number)
        _, output = process.communicate(timeout=30)
        assert process.returncode == 0, output
        assert time.monotonic() - begin < 5  # much more than needed, for a busy machine
        assert output == ""
        (video,) = tmp_path.glob("*.mp4")
        read = read_lines(str(video.with_suffix(".jsonl")))
        assert len(read_pictures(video)) == len(read) > 3
        assert [event["event"] for event in read_events(str(video.with_suffix(".events.csv")))][-1] == "stayed"
        for path in tmp_path.iterdir():
            path.unlink()


def test_ctrl_c_in_a_file_leaves_nothing_half_written(fake: FakePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    blob_video(Path("a.mp4"), passing_blob, frames=60)
    detect_face = fake.detect

    def interrupted(*args: Any) -> Any:
        if len(fake.calls) > 20:
            raise KeyboardInterrupt
        return detect_face(*args)

    monkeypatch.setattr(fake, "detect", interrupted)
    assert run_detect("a.mp4", "--workers", "1") == 130
    assert list(Path("detections").iterdir()) == []


def test_events_reach_a_webhook(fake: FakePredictor) -> None:
    got: list[dict[str, Any]] = []

    class EventHandler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), EventHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        blob_video(Path("a.mp4"), passing_blob, frames=80)
        assert run_detect("a.mp4", "--webhook", f"http://127.0.0.1:{server.server_port}/mask") == 0
    finally:
        server.shutdown()
        server.server_close()
    assert [(event["event"], event["text"]) for event in got] == [
        ("entered", "entered with mask"),
        ("left", "left with mask"),
    ]


def test_a_missing_webhook_is_reported_and_the_video_is_complete(
    fake: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.video.webhook.MAX_ATTEMPTS", 1)
    blob_video(Path("a.mp4"), passing_blob, frames=80)
    assert run_detect("a.mp4", "--webhook", "http://127.0.0.1:9/x") == 1
    assert len(read_lines("detections/a.jsonl")) == 80
    assert "events could not be sent" in capsys.readouterr().err


def test_show_without_a_display_is_one_line(
    fake: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    blob_video(Path("a.mp4"), passing_blob, frames=5)
    assert run_detect("a.mp4", "--show") == 1
    output = capsys.readouterr().err
    assert output.startswith("error: --show")
    assert len(output.splitlines()) == 1
    assert not list(Path("detections").glob("*"))


def test_without_the_video_extra_it_is_one_line(
    fake: FakePredictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blob_video(Path("a.mp4"), passing_blob, frames=5)
    monkeypatch.setitem(sys.modules, "av", None)
    assert run_detect("a.mp4") == 1
    how = "run `make install-serve`, or `pip install '.[video]'` in an environment of your own"
    assert capsys.readouterr().err == f"error: this needs the package 'av'; in the project's folder, {how}\n"


@pytest.mark.parametrize(("seconds", "words"), [(0, "0:00:00.0"), (59.96, "0:01:00.0"), (3725.25, "1:02:05.2")])
def test_clock(seconds: float, words: str) -> None:
    assert clock(seconds) == words


@pytest.mark.slow
def test_a_real_face_walks_by_and_is_blurred(tmp_path: Path) -> None:
    predictor = Predictor.default()
    faces = cv2.resize(tiled_photo(predictor, portrait()), None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    wide = np.full((faces.shape[0], faces.shape[1] + 720, 3), (90, 110, 130), np.uint8)
    wide[:, 360:-360] = faces
    with video_writer(tmp_path / "walk.mp4", 10) as video:
        for i in range(100):
            left = i * (wide.shape[1] - 360) // 100
            video.add(wide[:, left : left + 360], i / 10)
    out = tmp_path / "out"
    assert run_detect(tmp_path / "walk.mp4", "--out", out, "--blur", "--no-boxes") == 0
    event_rows = read_events(str(out / "walk.events.csv"))
    entered = [event["label"] for event in event_rows if event["event"] == "entered"]
    assert entered == ["without_mask", "with_mask", "mask_weared_incorrect"]
    # No detail is left where a frame of the original shows a face.
    before, after = read_pictures(tmp_path / "walk.mp4"), read_pictures(out / "walk.mp4")
    checked = 0
    for plain, blurred in zip(before, after, strict=True):
        for x1, y1, x2, y2 in predictor.detect(plain).boxes.clip(0).astype(int):
            detail = [cv2.Laplacian(frame[y1:y2, x1:x2], cv2.CV_32F).std() for frame in (plain, blurred)]
            assert detail[1] < 0.35 * detail[0]
            checked += 1
    assert checked > 100
