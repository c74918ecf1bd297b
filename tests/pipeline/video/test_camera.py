"""Cameras and streams give the newest frame and reconnect after a loss; real servers speak HTTP and RTSP."""

from __future__ import annotations

import itertools
import re
import socket
import threading
import time
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from common.errors import MediaError
from pipeline.video import camera
from pipeline.video import reader as video
from pipeline.video.camera import LiveStream
from pipeline.video.reader import Frame, FrameSampler, VideoFile
from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.video.fake_cameras import (
    Conversation,
    answer_503,
    camera_server,
    mjpeg_camera,
    never_answer,
    rtsp_camera,
    send_head,
)
from tests.helpers.video.made_videos import blob_frame, blob_video, walk


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def connect(port: int, user: str = "", **options: Any) -> LiveStream:
    return LiveStream(
        address=f"http://{user}127.0.0.1:{port}/video?token=hidden", **{"initial_backoff": 0.01, **options}
    )


def walk_index(frame: Frame) -> int:
    """Return the number of a frame among the first 40 of `walk`."""
    (box,) = FakePredictor().detect(frame.pixels).boxes
    return round(float(box[0]) / 2)


def is_reading(stream: LiveStream) -> bool:
    """Return whether the stream's thread runs."""
    return any(thread.name == stream.name for thread in threading.enumerate())


def test_an_ip_cameras_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    began = datetime.now().astimezone()
    with camera_server(mjpeg_camera(rate=50)) as port, closing((stream := connect(port)).frames()) as frames:
        found = list(itertools.islice(frames, 10))
    assert stream.name == f"http://127.0.0.1:{port}/video"
    assert [frame.index for frame in found] == list(range(10)) and found[0].pixels.shape == (64, 96, 3)
    assert [walk_index(frame) for frame in found] == sorted(walk_index(frame) for frame in found)
    times = np.array([frame.time for frame in found])
    assert times[0] >= 0 and (np.diff(times) > 0).all() and times[-1] < 5
    clocks = [frame.clock - began for frame in found if frame.clock]
    assert len(clocks) == 10 and timedelta(0) <= clocks[0] <= clocks[-1] < timedelta(seconds=10)
    assert capsys.readouterr() == ("", "")


def test_sampling_and_seconds() -> None:
    with camera_server(mjpeg_camera()) as port:
        began = time.monotonic()
        found = list(connect(port).frames(FrameSampler(stride=3), seconds=0.5))
        assert 0.4 < time.monotonic() - began < 2
        assert [frame.index for frame in found] == list(range(0, 3 * len(found), 3)) and found[-1].time < 0.5
        slow = [frame.time for frame in connect(port).frames(FrameSampler(max_fps=10), seconds=0.5)]
        assert 1 <= len(slow) <= 5 and (np.diff(slow) > 0.05).all()


@pytest.mark.slow
def test_a_slow_caller_gets_the_newest_frame() -> None:
    with (
        camera_server(mjpeg_camera(rate=50, frames=40, then=lambda: time.sleep(20))) as port,
        closing(connect(port).frames()) as frames,
    ):
        seen = [next(frames)]
        time.sleep(0.3)
        seen.append(next(frames))
        while walk_index(seen[-1]) < 39:
            time.sleep(0.3)
            seen.append(next(frames))
    # The frames between are dropped, the last one is not.
    assert [frame.index for frame in seen] == list(range(len(seen))) and len(seen) <= 20
    ages = [datetime.now().astimezone() - frame.clock for frame in seen if frame.clock]
    assert len(ages) == len(seen) and sorted(ages, reverse=True) == ages


def test_a_lost_connection_is_reported_and_reconnected(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        camera_server(mjpeg_camera(5), mjpeg_camera(5), mjpeg_camera()) as port,
        closing(connect(port, "me:secret@").frames(seconds=30)) as frames,
    ):
        name = f"http://127.0.0.1:{port}/video"
        messages = []
        while messages.count(f"{name}: is back") < 2:
            next(frames)
            messages += capsys.readouterr().err.splitlines()
        assert walk_index(next(frames)) >= 0
    lost = [line for line in messages if line != f"{name}: is back"]
    assert len(lost) == 2
    assert all(re.fullmatch(rf"{re.escape(name)}: lost \([\w /]+\); trying again in 0.01 s", line) for line in lost)


def test_waits_grow_until_the_reconnection(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(camera, "MAX_BACKOFF", 0.06)
    with camera_server(mjpeg_camera(3), *[answer_503] * 4, mjpeg_camera(3), answer_503, mjpeg_camera()) as port:
        messages = []
        with closing(connect(port).frames(seconds=30)) as frames:
            while sum("is back" in line for line in messages) < 2:
                next(frames)
                messages += capsys.readouterr().err.splitlines()
    waits = [line.rsplit(" ", 2)[1] if "lost" in line else "back" for line in messages]
    assert waits == ["0.01", "0.02", "0.04", "0.06", "0.06", "back", "0.01", "0.02", "back"]
    assert "lost (cannot be read (Server returned 5XX Server Error reply)); trying again" in messages[1]


def test_a_stream_that_hangs_is_lost_after_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    hanging = mjpeg_camera(20, then=lambda: time.sleep(20))
    with (
        camera_server(hanging, mjpeg_camera()) as port,
        closing(connect(port, timeout=0.3).frames(seconds=30)) as frames,
    ):
        messages = ""
        while "is back" not in messages:
            next(frames)
            messages += capsys.readouterr().err
    assert "lost (no data in time); trying again in 0.01 s" in messages


def test_a_stream_without_frames_ends_in_time() -> None:
    with camera_server(mjpeg_camera(3), never_answer) as port:
        stream = connect(port, timeout=5)
        time.sleep(0.2)
        began = time.monotonic()
        assert len(list(stream.frames(seconds=0.5))) <= 3
        assert 0.5 <= time.monotonic() - began < 3


def test_the_reader_thread_ends_with_the_frames() -> None:
    gone = threading.Event()

    def talk(connection: socket.socket) -> None:
        try:
            mjpeg_camera()(connection)
        finally:
            gone.set()

    with camera_server(talk) as port:
        frames = (stream := connect(port)).frames()
        next(frames)
        assert is_reading(stream) and not gone.is_set()
        frames.close()
        assert not is_reading(stream) and gone.wait(5)


def test_a_failed_first_connection(capsys: pytest.CaptureFixture[str]) -> None:
    with camera_server(never_answer) as gone:
        pass
    for scheme in ("rtsp", "http"):
        with pytest.raises(MediaError) as caught:
            LiveStream(address=f"{scheme}://user:secret@127.0.0.1:{gone}/live?token=hidden")
        messages = f"{scheme}://127.0.0.1:{gone}/live: cannot be read (Connection refused); check its address"
        assert str(caught.value) == messages
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_never_answers(scheme: str) -> None:
    with camera_server(never_answer) as port:
        began = time.monotonic()
        with pytest.raises(MediaError, match=r"cannot be read \(no data in time\); check its address"):
            LiveStream(address=f"{scheme}://127.0.0.1:{port}/live", timeout=0.3)
        assert 0.2 < time.monotonic() - began < 2


def test_an_address_without_a_stream() -> None:
    def page(connection: socket.socket) -> None:
        send_head(connection, "text/html", "Content-Length: 2600\r\n")
        connection.sendall(b"<html>no video here</html>" * 100)

    refused = pytest.raises(MediaError, match=r"/video: cannot be read \(no video is there\); check its address")
    with camera_server(page) as port, refused:
        connect(port)
    with pytest.raises(MediaError) as caught:
        LiveStream(address="nothing://me:secret@host/live")
    assert str(caught.value) == "nothing://host/live: cannot be read (Protocol not found); check its address"
    with pytest.raises(MediaError) as caught:
        LiveStream(address="file:///videos/a.mp4")  # would start again at its end, for ever
    assert str(caught.value).startswith("file:///videos/a.mp4: is a file; ")


def test_a_stream_that_is_open_already() -> None:
    """One connection is enough: many cameras refuse a second one."""
    with camera_server(mjpeg_camera(), answer_503) as port:
        address = f"http://127.0.0.1:{port}/video"
        opened = VideoFile(address)
        assert opened.seconds is None
        with closing(LiveStream(address=address, opened=opened).frames()) as frames:
            assert [frame.index for frame in itertools.islice(frames, 3)] == [0, 1, 2]


def test_a_transport_stream_without_an_end(tmp_path: Path) -> None:
    data = blob_video(tmp_path / "a.ts", frames=500).read_bytes()

    def talk(connection: socket.socket) -> None:
        send_head(connection, "video/mp2t")
        for start in range(0, len(data), 188 * 8):
            connection.sendall(data[start : start + 188 * 8])
            time.sleep(0.005)
        time.sleep(20)

    with camera_server(talk) as port:
        opened = VideoFile(f"http://127.0.0.1:{port}/a.ts", timeout=3)
        assert opened.seconds is None
        del opened  # ends the connection
        found = [walk_index(frame) for frame in connect(port, timeout=3).frames(seconds=1)]
    assert len(found) > 5 and len(set(found)) > 3


def test_a_programming_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video.Autorotator, "__call__", lambda self, frame: 1 / 0)
    with camera_server(mjpeg_camera()) as port, pytest.raises(ZeroDivisionError):
        list(connect(port).frames(seconds=5))


def test_an_rtsp_camera(capsys: pytest.CaptureFixture[str]) -> None:
    with camera_server(rtsp_camera(60), rtsp_camera(10**6, first=20)) as port:
        stream = LiveStream(address=f"rtsp://user:secret@127.0.0.1:{port}/live", timeout=5, initial_backoff=0.01)
        found: dict[bool, set[int]] = {False: set(), True: set()}  # frame numbers before and after the reconnection
        messages = ""
        with closing(stream.frames(seconds=20)) as frames:
            while len(found[True]) < 10:
                frame = next(frames)
                messages += capsys.readouterr().err
                found["is back" in messages].add(walk_index(frame))
    name = f"rtsp://127.0.0.1:{port}/live"
    assert messages == f"{name}: lost (it ended); trying again in 0.01 s\n{name}: is back\n"
    assert found[False]


@pytest.mark.parametrize(("scheme", "talk"), [("rtsp", rtsp_camera(10**6, drop=7)), ("http", mjpeg_camera(torn=4))])
def test_damaged_frames_do_not_end_the_connection(
    capsys: pytest.CaptureFixture[str], scheme: str, talk: Conversation
) -> None:
    with camera_server(talk) as port:
        stream = LiveStream(address=f"{scheme}://127.0.0.1:{port}/live", timeout=5)
        with closing(stream.frames(seconds=20)) as frames:
            assert len(list(itertools.islice(frames, 30))) == 30
    assert capsys.readouterr().err == ""


class FakeCapture:
    """Stands for cv2.VideoCapture: each opening takes the next list of frames of `plugged`; None cannot be opened."""

    plugged: ClassVar[list[list[np.ndarray] | None]]
    made: ClassVar[list[FakeCapture]]

    def __init__(self, number: int) -> None:
        self.number, self.released, self.settings = number, False, {}
        self._frames = FakeCapture.plugged.pop(0) if FakeCapture.plugged else None
        FakeCapture.made.append(self)

    def isOpened(self) -> bool:  # noqa: N802
        return self._frames is not None

    def set(self, key: int, value: float) -> bool:
        self.settings[key] = value
        return False  # a system that does not know the setting

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.01)
        return (True, self._frames.pop(0)) if self._frames else (False, None)

    def release(self) -> None:
        self.released = True


@pytest.fixture
def fake_capture(monkeypatch: pytest.MonkeyPatch) -> type[FakeCapture]:
    FakeCapture.plugged, FakeCapture.made = [], []
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    return FakeCapture


def bgr_frames(count: int) -> list[np.ndarray]:
    return [np.ascontiguousarray(blob_frame(walk(i))[..., ::-1]) for i in range(count)]


def test_a_camera(fake_capture: type[FakeCapture], capsys: pytest.CaptureFixture[str]) -> None:
    fake_capture.plugged = [bgr_frames(10), None, None, bgr_frames(10)]
    stream = LiveStream(camera=2, initial_backoff=0.01)
    assert stream.name == "camera-2" and float(stream.rate) == 25
    found = []
    with closing(stream.frames(seconds=30)) as frames:
        while len(fake_capture.made) < 4 or walk_index(found[-1]) < 9:
            found.append(next(frames))
    assert [frame.index for frame in found] == list(range(len(found))) and len(found) > 10
    assert [capture.number for capture in fake_capture.made] == [2] * len(fake_capture.made)
    assert fake_capture.made[0].settings == {cv2.CAP_PROP_BUFFERSIZE: 1}
    assert all(capture.released for capture in fake_capture.made)
    why = "cannot be opened"
    assert capsys.readouterr().err.splitlines()[:4] == [
        "camera-2: lost (it ended); trying again in 0.01 s",
        f"camera-2: lost ({why}); trying again in 0.02 s",
        f"camera-2: lost ({why}); trying again in 0.04 s",
        "camera-2: is back",
    ]


def test_a_camera_that_cannot_be_opened(fake_capture: type[FakeCapture]) -> None:
    with pytest.raises(MediaError) as caught:
        LiveStream(camera=7)
    assert str(caught.value).startswith("camera-7: cannot be opened; ") and fake_capture.made[0].released


def test_opencv_prints_nothing_for_a_missing_camera(capfd: pytest.CaptureFixture[str]) -> None:
    if Path("/dev/video99").exists():
        pytest.skip("a hundred cameras")
    with pytest.raises(MediaError, match="camera-99: cannot be opened"):
        LiveStream(camera=99)
    assert capfd.readouterr() == ("", "")
