"""Videos frame by frame: times, rotation, sampling, colours, open files and memory."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tracemalloc
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from common.errors import MediaError, UserError
from pipeline.video import reader
from pipeline.video.autorotate import square_pixels
from pipeline.video.reader import FrameSampler, VideoFile
from tests.helpers.video.damaged_videos import (
    INDEX_FIRST,
    blob_boxes,
    frame_numbers,
    read_frames,
    read_with_damage,
    truncate_at,
    write_file,
)
from tests.helpers.video.made_videos import SIZE, blob_frame, blob_video, walk


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mov", "libx264"),
        ("a.mkv", "libx264"),
        ("a.ts", "libx264"),
        ("a.flv", "libx264"),
        ("a.avi", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.avi", "mjpeg"),
        ("a.mjpeg", "mjpeg"),
        ("a.h264", "libx264"),
    ],
)
def test_frames_and_their_times(tmp_path: Path, name: str, codec: str) -> None:
    found, damage = read_with_damage(blob_video(tmp_path / name, codec=codec))
    assert frame_numbers(found) == list(range(50)) and [frame.index for frame in found] == list(range(50))
    assert [frame.time for frame in found] == pytest.approx([i / 25 for i in range(50)], abs=0.002)
    assert {frame.pixels.shape for frame in found} == {(64, 96, 3)} and found[0].clock is None
    assert found[0].pixels.dtype == np.uint8 and found[0].pixels.flags.c_contiguous
    assert damage is None


def test_rate_and_length(tmp_path: Path) -> None:
    file = VideoFile(str(blob_video(tmp_path / "a.mp4", rate=10, frames=30, audio=5)))
    assert (file.name, file.rate) == (str(tmp_path / "a.mp4"), 10) and file.seconds == pytest.approx(3.0)
    raw = VideoFile(str(blob_video(tmp_path / "a.h264")))
    assert raw.seconds is None


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv"])
def test_an_uneven_rate(tmp_path: Path, name: str) -> None:
    times = [0, 0.01, 0.5, 0.9, 2.5, 2.6]
    found, damage = read_with_damage(blob_video(tmp_path / name, frames=6, times=times))
    assert [frame.time for frame in found] == pytest.approx(times) and damage is None
    assert [blob_boxes(frame) for frame in found] == [[list(map(float, walk(i)[0]))] for i in range(6)]


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
def test_time_starts_with_the_first_frame(tmp_path: Path, name: str) -> None:
    found, damage = read_with_damage(blob_video(tmp_path / name, frames=10, times=[7 + i / 25 for i in range(10)]))
    assert frame_numbers(found) == list(range(10)) and damage is None


def test_time_continues_over_joined_recordings(tmp_path: Path) -> None:
    once = blob_video(tmp_path / "a.ts").read_bytes()
    (tmp_path / "twice.ts").write_bytes(once + once)
    times = np.array([frame.time for frame in read_frames(tmp_path / "twice.ts")])
    assert len(times) >= 90 and (np.diff(times) > 0.03).all() and times[-1] < 4


def test_frames_stored_in_another_order_keep_their_times(tmp_path: Path) -> None:
    times = [frame.time for frame in read_frames(blob_video(tmp_path / "a.avi", frames=30, rate=10))]  # has B-frames
    assert times == pytest.approx([i / 10 for i in range(30)])


@pytest.mark.parametrize(("name", "codec"), [("a.flv", "flv1"), ("a.wmv", "wmv2")])
def test_a_slow_video_whose_packets_have_no_duration_is_whole(tmp_path: Path, name: str, codec: str) -> None:
    found, damage = read_with_damage(blob_video(tmp_path / name, frames=6, rate=1, codec=codec))
    assert len(found) == 6 and damage is None


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_phones_video_comes_upright(tmp_path: Path, rotation: int) -> None:
    path = blob_video(tmp_path / "a.mp4", frames=3, rotation=rotation)
    with av.open(str(path)) as container:
        stored = container.streams.video[0].width
    assert stored == (SIZE[1] if rotation % 180 else SIZE[0])
    found = read_frames(path)
    assert {frame.pixels.shape for frame in found} == {(64, 96, 3)} and frame_numbers(found) == [0, 1, 2]


def narrow_video(path: Path, ratio: Fraction, rotation: int = 0) -> Path:
    """Write a picture of 96x64 px with one blob; stored pixels have this width by their height."""
    upright = blob_frame([(24, 16, 48, 40)])
    stored = np.rot90(upright, -(rotation // 90))
    height, width = stored.shape[:2]
    size = (round(width / ratio), height) if ratio > 1 else (width, round(height * ratio))
    pixels = np.asarray(Image.fromarray(stored).resize(size, Image.Resampling.BOX))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=size[0], height=size[1], pix_fmt="yuv420p")
        stream.options = {"crf": "1"}
        stream.codec_context.sample_aspect_ratio = ratio
        if rotation:
            stream.set_display_rotation(rotation)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.h264"])
@pytest.mark.parametrize("ratio", [Fraction(2), Fraction(4, 3), Fraction(1, 2)])
def test_frames_have_square_pixels(tmp_path: Path, name: str, ratio: Fraction) -> None:
    (found,) = read_frames(narrow_video(tmp_path / name, ratio))
    assert found.pixels.shape == (64, 96, 3) and found.pixels.flags.c_contiguous
    (box,) = blob_boxes(found)
    assert np.abs(np.subtract(box, (24, 16, 48, 40))).max() <= 2


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_square_pixels_before_the_rotation(tmp_path: Path, rotation: int) -> None:
    (found,) = read_frames(narrow_video(tmp_path / "a.mp4", Fraction(2), rotation))
    assert found.pixels.shape == (64, 96, 3)
    (box,) = blob_boxes(found)
    assert np.abs(np.subtract(box, (24, 16, 48, 40))).max() <= 2


@pytest.mark.parametrize(
    ("ratio", "factors"),
    [
        *((None, (1, 1)), (0, (1, 1)), (-2, (1, 1)), (1, (1, 1)), ("1281/1280", (1, 1)), ("4095/4096", (1, 1))),
        *((4, (4, 1)), ("1/4", (1, 4)), (5, (1, 1)), ("1/5", (1, 1)), ("16/15", ("16/15", 1)), ("8/9", (1, "9/8"))),
    ],
)
def test_factors_of_square_pixels(ratio: str | int | None, factors: tuple[str | int, str | int]) -> None:
    assert square_pixels(None if ratio is None else Fraction(ratio)) == tuple(map(Fraction, factors))


def test_a_frame_that_square_pixels_make_huge_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = narrow_video(tmp_path / "a.mp4", Fraction(2))
    monkeypatch.setattr(reader, "MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(MediaError, match="million pixels per frame"):
        VideoFile(str(path))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_mirrored_videos(tmp_path: Path, turns: int, flip: bool) -> None:
    upright = blob_frame([(8, 6, 30, 20)], (64, 64))
    stored = np.rot90(upright[:, ::-1] if flip else upright, -turns)  # a player rotates, then mirrors
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=64, height=64, pix_fmt="yuv420p")
        stream.set_display_rotation(90 * turns, hflip=flip)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")))
        container.mux(stream.encode(None))
    assert blob_boxes(read_frames(tmp_path / "a.mp4")[0]) == [[8, 6, 30, 20]]


@pytest.mark.parametrize(("space", "yuv"), [(1, (63, 102, 240)), (5, (81, 90, 240))])
@pytest.mark.parametrize("tagged", [True, False])
def test_colours(tmp_path: Path, space: int, yuv: tuple[int, int, int], tagged: bool) -> None:
    """Pure red in BT.709 (1) and BT.601 (5); without a tag, large frames are BT.709."""
    size = (96, 64) if tagged or space == 5 else (1280, 720)
    frame = av.VideoFrame(*size, "yuv420p")
    for plane, value in zip(frame.planes, yuv, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=size[0], height=size[1], pix_fmt="yuv420p")
        if tagged:
            stream.codec_context.colorspace = space
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (found,) = read_frames(tmp_path / "a.mp4")
    assert np.abs(found.pixels[5, 5].astype(int) - (255, 0, 0)).max() <= 3


def test_every_nth_frame(tmp_path: Path) -> None:
    found = read_frames(blob_video(tmp_path / "a.mp4"), FrameSampler(stride=20))
    assert [frame.index for frame in found] == frame_numbers(found) == [0, 20, 40]


@pytest.mark.parametrize(
    ("rate", "max_fps", "taken"), [(30, 20, 40), (25, 10, 20), (25, 25, 50), (25, 100, 50), (30, 1, 2)]
)
def test_at_most_max_fps_frames_per_second(rate: int, max_fps: float, taken: int) -> None:
    sampler = FrameSampler(max_fps=max_fps)
    times = np.array([i / rate for i in range(2 * rate) if sampler.takes(round(i / rate, 3))])
    assert len(times) == taken and times[0] == 0
    assert np.diff(times).max() <= 1 / max_fps + 1 / rate  # spread evenly, not in bursts


def test_sampling_of_an_uneven_rate() -> None:
    sampling = FrameSampler(max_fps=2)
    times = [0, 0.1, 0.4, 0.5, 0.9, 3.0, 3.1, 3.49, 3.5, 3.6, 9.0]
    assert [t for t in times if sampling.takes(t)] == [0, 0.5, 3.0, 3.5, 9.0]
    both = FrameSampler(stride=3, max_fps=5)
    assert [i for i in range(30) if both.takes(i / 25)] == [0, 6, 12, 15, 21, 27]


def test_the_first_seconds(tmp_path: Path) -> None:
    file = VideoFile(str(blob_video(tmp_path / "a.mp4")))
    assert frame_numbers(list(file.frames(seconds=0.4))) == list(range(10)) and file.damage is None


@pytest.mark.parametrize("name", ["a.webm", "a.ts", "a.mp4"])
def test_a_video_written_as_a_stream(tmp_path: Path, name: str) -> None:
    """The header has no duration, as written by a browser's recorder or a camera."""

    class Pipe:
        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")

        def write(self, data: bytes) -> int:
            return self.file.write(data)

    path = tmp_path / name
    whole = blob_video(tmp_path / f"whole{path.suffix}", codec="libvpx-vp9" if path.suffix == ".webm" else "libx264")
    pipe = Pipe(path)
    options = {"movflags": "frag_keyframe+empty_moov"} if path.suffix == ".mp4" else {"live": "1"}
    form = {".webm": "webm", ".ts": "mpegts", ".mp4": "mp4"}[path.suffix]
    with av.open(str(whole)) as source, av.open(pipe, "w", format=form, options=options) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    pipe.file.close()
    found, damage = read_with_damage(path)
    assert frame_numbers(found) == list(range(50)) and damage is None


def test_an_animation_is_a_video(tmp_path: Path) -> None:
    first, *rest = (Image.fromarray(blob_frame(walk(i))) for i in range(10))
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=40)
    found, damage = read_with_damage(tmp_path / "a.gif")
    assert frame_numbers(found) == list(range(10)) and damage is None


NAMES = ["2024-11-26T14:43:00.mp4", "100%d.mp4", "concat:a.mp4", "-i.mp4", "two\nlines.mp4", "\ud55c \u00e9.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="Windows does not allow these names")
@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"\xff.mp4")])
def test_file_names_are_not_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(blob_video(Path("plain.mp4"), frames=3), name)
    assert len(read_frames(Path(name))) == 3


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = blob_video(tmp_path / "a.mp4", frames=1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"'av'; .* run `make install-serve`, or `pip install '\.\[video\]'` in an env"):
        VideoFile(str(path))


def open_files() -> int:
    gc.collect()  # files of earlier tests
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads open files from /proc")
def test_files_are_closed(tmp_path: Path) -> None:
    good = blob_video(tmp_path / "a.mp4", options=INDEX_FIRST)
    bad = [
        truncate_at(good, 25),
        write_file(tmp_path / "text.mp4", b"text" * 99),
        write_file(tmp_path / "u.mp4", good.read_bytes().replace(b"avc1", b"zzzz")),
    ]
    before = open_files()
    for path in (good, *bad):
        with suppress(MediaError):
            list(VideoFile(str(path)).frames())
    assert open_files() == before
    file = VideoFile(str(good))
    some = file.frames()
    next(some)
    assert open_files() == before + 1
    some.close()
    assert open_files() == before


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    file = VideoFile(str(blob_video(tmp_path / "a.mp4", frames=100, size=(320, 240))))
    tracemalloc.start()
    try:
        count = sum(1 for _ in file.frames())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 100 and peak < 5 * 320 * 240 * 3


def test_decoded_frames_are_freed_at_once(tmp_path: Path) -> None:
    """Python does not count FFmpeg's memory: a frame in a reference cycle would wait for the garbage collector."""
    file = VideoFile(str(blob_video(tmp_path / "a.mp4", frames=100, rotation=90)))
    gc.collect()
    gc.disable()
    try:
        count = sum(1 for _ in file.frames())
        held = sum(isinstance(each, av.VideoFrame) for each in gc.get_objects())
    finally:
        gc.enable()
    assert count == 100 and held < 5
