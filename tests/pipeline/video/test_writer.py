"""Written videos are read back, play in a real browser, and survive a kill."""

from __future__ import annotations

import base64
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from common.errors import MediaError, UserError
from pipeline.video import writer as video_out
from pipeline.video.reader import Frame, VideoFile
from pipeline.video.writer import growing_video, video_writer
from tests.helpers.video.damaged_videos import blob_boxes
from tests.helpers.video.made_videos import blob_frame, walk

ROOT = Path(__file__).resolve().parents[3]
RATE = Fraction(25)
both_writers = pytest.mark.parametrize("writing", [video_writer, growing_video])
OpenWriter = Any  # one of the two


def write_walk(path: Path, count: int, writing: OpenWriter = video_writer, size: tuple[int, int] = (96, 64)) -> Path:
    with writing(path, RATE) as out:
        for i in range(count):
            out.add(blob_frame(walk(i), size), i / 25)
    return path


def read_frames(path: Path) -> list[Frame]:
    file = VideoFile(str(path))
    frames = list(file.frames())
    assert file.damage is None
    return frames


def shows_walk(frames: list[Frame]) -> bool:
    """Return whether each frame shows `walk` at its index."""
    return all(np.abs(np.subtract(blob_boxes(frame), walk(i))).max() <= 2 for i, frame in enumerate(frames))


def atom_names(path: Path) -> list[str]:
    """Return the names of an MP4's atoms in order."""
    data, names, at = path.read_bytes(), [], 0
    while at < len(data):
        names.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4])
    return names


@both_writers
def test_written_frames_are_read_back(tmp_path: Path, writing: OpenWriter) -> None:
    path = write_walk(tmp_path / "new" / "a.mp4", 75, writing)
    frames = read_frames(path)
    assert len(frames) == 75 and shows_walk(frames)
    assert [frame.time for frame in frames] == pytest.approx([i / 25 for i in range(75)], abs=0.001)
    assert np.abs(frames[0].pixels[0, 0].astype(int) - 128).max() <= 2
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt, codec.width, codec.height) == ("h264", "yuv420p", 96, 64)
        assert float(container.duration) == pytest.approx(3e6, abs=1e5)
        assert codec.colorspace == codec.color_primaries == codec.color_trc == 1  # BT.709, which browsers need
    names = atom_names(path)
    assert names.index("moov") < names.index("mdat")  # plays during the download
    assert names.count("moof") == (0 if writing is video_writer else 2)  # fragments of 2 s


@both_writers
@pytest.mark.parametrize("count", [1, 2])
def test_very_short_videos(tmp_path: Path, writing: OpenWriter, count: int) -> None:
    path = write_walk(tmp_path / "a.mp4", count, writing)
    assert len(read_frames(path)) == count
    with av.open(str(path)) as container:
        assert float(container.duration) == pytest.approx(count * 4e4, abs=1e4)


@both_writers
def test_times_are_kept(tmp_path: Path, writing: OpenWriter) -> None:
    times = [0.3, 0.31, 0.9, 5.0, 12.345, 12.4]
    with writing(tmp_path / "a.mp4", RATE) as out:
        for i, time in enumerate(times):
            out.add(blob_frame(walk(i)), time)
    frames = read_frames(tmp_path / "a.mp4")
    assert [frame.time for frame in frames] == pytest.approx([time - 0.3 for time in times], abs=0.001)
    assert shows_walk(frames)


@both_writers
def test_times_that_repeat_or_fall(tmp_path: Path, writing: OpenWriter) -> None:
    with writing(tmp_path / "a.mp4", RATE) as out:
        for i, time in enumerate([0, 0, 0.04, 0.02, 0.08, 0.08, 0.12]):
            out.add(blob_frame(walk(i)), time)
    frames = read_frames(tmp_path / "a.mp4")
    times = np.array([frame.time for frame in frames])
    assert len(frames) == 7 and shows_walk(frames) and (np.diff(times) > 0).all()
    assert times == pytest.approx([0, 0, 0.04, 0.04, 0.08, 0.08, 0.12], abs=0.001)


@pytest.mark.parametrize("size", [(95, 64), (96, 63), (33, 47), (1, 1), (17, 300)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    box = (width // 2, height // 2, width, height)  # to the very corner
    with video_writer(tmp_path / "a.mp4", RATE) as out:
        for i in range(3):
            out.add(blob_frame([box], size), i / 25)
    frames = read_frames(tmp_path / "a.mp4")
    even = (height + height % 2, width + width % 2, 3)
    assert [frame.pixels.shape for frame in frames] == [even] * 3
    assert frames[0].pixels[-1, -1, 0] > 200 and frames[0].pixels[-1, -1, 1] < 60  # no dark seam


@both_writers
def test_frames_of_another_size_are_made_to_fit(tmp_path: Path, writing: OpenWriter) -> None:
    whole = (255, 0, 0)
    with writing(tmp_path / "a.mp4", RATE) as out:
        for i, (width, height) in enumerate([(96, 64), (192, 128), (40, 60), (300, 20), (97, 64), (5000, 1)]):
            out.add(np.full((height, width, 3), whole, np.uint8), i / 25)
    frames = read_frames(tmp_path / "a.mp4")
    assert {frame.pixels.shape for frame in frames} == {(64, 96, 3)} and len(frames) == 6
    # Letterboxed in black: 43 x 64, 96 x 6, whole, 96 x 1.
    columns = [(frame.pixels[32, :, 0] > 128).sum() for frame in frames]
    rows = [(frame.pixels[:, 48, 0] > 128).sum() for frame in frames]
    assert columns[:5] == pytest.approx([96, 96, 43, 96, 96], abs=3)
    assert rows == pytest.approx([64, 64, 64, 6, 64, 1], abs=2)


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"old")
    for count in (0, 1, 30):
        with pytest.raises(RuntimeError, match="midway"), video_writer(tmp_path / "a.mp4", RATE) as out:
            for i in range(count):
                out.add(blob_frame(walk(i)), i / 25)
            raise RuntimeError("midway")
        assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
        assert (tmp_path / "a.mp4").read_bytes() == b"old"


def test_no_frame_at_all(tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught, video_writer(tmp_path / "a.mp4", RATE):
        pass
    assert str(caught.value) == f"{tmp_path}/a.mp4: no frame was added, so no video is written"
    with growing_video(tmp_path / "a.mp4", RATE):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_growing_file_keeps_its_frames_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), growing_video(tmp_path / "a.mp4", RATE) as out:
        for i in range(30):
            out.add(blob_frame(walk(i)), i / 25)
        raise KeyboardInterrupt
    frames = read_frames(tmp_path / "a.mp4")
    assert len(frames) == 30 and shows_walk(frames)


@pytest.mark.parametrize("rate", [25, 2])
def test_a_growing_file_plays_while_it_is_open(tmp_path: Path, rate: int) -> None:
    """At any rate, at most the last 2 s are missing."""
    path = tmp_path / "a.mp4"
    with growing_video(path, RATE) as out:
        for i in range(5 * rate + 1):
            out.add(blob_frame(walk(i)), i / rate)
        frames = read_frames(path)
        assert len(frames) == 4 * rate and shows_walk(frames)
    assert len(read_frames(path)) == 5 * rate + 1


KILLED = """
import sys
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from tests.helpers.video.made_videos import blob_frame, walk
from pipeline.video.writer import growing_video, video_writer
name, kind = sys.argv[1:]
with (growing_video if kind == "growing" else video_writer)(Path(name), Fraction(25)) as out:
    for i in range(116):
        out.add(blob_frame(walk(i)), i / 25)
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["growing", "whole"])
def test_after_a_kill(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a.mp4"), kind]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    if kind == "growing":
        frames = read_frames(tmp_path / "a.mp4")
        assert len(frames) == 100 and shows_walk(frames)  # two fragments of 2 s; the third was not complete
    else:
        assert not (tmp_path / "a.mp4").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names the file, not the temporary one."""
    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        growing_video(Path("/dev/full"), RATE) as out,
    ):
        out.add(blob_frame([]), 0)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")
    monkeypatch.setattr(video_out, "atomic_replace", lambda path: nullcontext(Path("/dev/full")))
    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        video_writer(tmp_path / "a.mp4", RATE) as out,
    ):
        out.add(blob_frame([]), 0)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.mp4"))


@both_writers
def test_a_size_that_h264_does_not_allow(tmp_path: Path, writing: OpenWriter) -> None:
    with pytest.raises(MediaError) as caught, writing(tmp_path / "a.mp4", RATE) as out:
        out.add(np.zeros((16, 16400, 3), np.uint8), 0)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/a.mp4: cannot be written as H.264 (") and "16384 pixels" in message


@both_writers
def test_a_path_that_cannot_be_written(tmp_path: Path, writing: OpenWriter) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"), writing(tmp_path / "file" / "a.mp4", RATE) as out:
        out.add(blob_frame([]), 0)


@both_writers
def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writing: OpenWriter) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"this needs the package 'av'"), writing(tmp_path / "a.mp4", RATE):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """Yield a page of a real Chromium."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    from playwright.sync_api import sync_playwright

    from tests.helpers.serve.browser import CHROMIUM, FLAGS

    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page()
        browser.close()


# Plays a video muted; returns its size, duration, end time, and colours at (share of width, share of height).
PLAY = """async ([base64, points]) => {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const video = document.createElement("video");
    video.muted = true;
    video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
    const happens = (name) => new Promise((done, failed) => {
        video.addEventListener(name, done, { once: true });
        video.addEventListener("error", () => failed(new Error(video.error.message)), { once: true });
    });
    await happens("loadeddata");
    const { videoWidth: width, videoHeight: height, duration } = video;
    const ended = happens("ended");
    await video.play();
    await ended;
    const pen = new OffscreenCanvas(width, height).getContext("2d");
    pen.drawImage(video, 0, 0);
    const colours = points.map(([x, y]) => [...pen.getImageData(x * width, y * height, 1, 1).data.slice(0, 3)]);
    return { width, height, duration, time: video.currentTime, colours };
}"""


def play(page: Any, path: Path, *points: tuple[float, float]) -> dict[str, Any]:
    result = page.evaluate(PLAY, [base64.b64encode(path.read_bytes()).decode(), points])
    assert isinstance(result, dict)
    return result


@pytest.mark.slow
@both_writers
@pytest.mark.parametrize("size", [(96, 64), (1280, 720), (95, 63)])
def test_a_video_plays_in_a_browser(tmp_path: Path, page: Any, writing: OpenWriter, size: tuple[int, int]) -> None:
    width, height = size
    with writing(tmp_path / "a.mp4", RATE) as out:
        for i in range(10):
            out.add(blob_frame([(0, 0, width // 2, height)], size), i / 25)
    result = play(page, tmp_path / "a.mp4", (0.25, 0.5), (0.75, 0.5))
    assert (result["width"], result["height"]) == (width + width % 2, height + height % 2)
    assert result["duration"] == pytest.approx(0.4, abs=0.05) and result["time"] > 0.3
    assert np.abs(np.subtract(result["colours"], [(255, 0, 0), (128, 128, 128)])).max() <= 6


@pytest.mark.slow
def test_an_open_file_plays_in_a_browser(tmp_path: Path, page: Any) -> None:
    with growing_video(tmp_path / "a.mp4", RATE) as out:
        for i in range(60):
            out.add(blob_frame([(0, 0, 48, 64)]), i / 25)
        assert play(page, tmp_path / "a.mp4")["time"] == pytest.approx(2, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("turns", "flip"), [(1, False), (2, False), (3, False), (0, True), (1, True)])
def test_a_browser_rotates_videos_as_we_do(tmp_path: Path, page: Any, turns: int, flip: bool) -> None:
    """The browser reads the display matrix as we do: the red corner is in the same place."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=96, height=64, pix_fmt="yuv420p")
        stream.set_display_rotation(90 * turns, hflip=flip)
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(blob_frame([(0, 0, 48, 32)]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    ours = read_frames(tmp_path / "a.mp4")[0].pixels
    corners = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]
    theirs = play(page, tmp_path / "a.mp4", *corners)
    assert (theirs["height"], theirs["width"]) == ours.shape[:2]
    here = [ours[int(y * ours.shape[0]), int(x * ours.shape[1])] for x, y in corners]
    assert np.abs(np.subtract(here, theirs["colours"])).max() <= 12 and np.ptp(here) > 100
