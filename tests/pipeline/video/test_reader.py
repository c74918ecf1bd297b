"""Videos frame by frame: times, turning, sampling; damage is said and gone past; what is no video is one clear line."""

from __future__ import annotations

import gc
import itertools
import os
import re
import shutil
import socket
import sys
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from common.errors import MediaError, UserError
from pipeline.video import reader as video
from pipeline.video.reader import Frame, FrameSampler, VideoFile
from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.made_videos import SIZE, blob_frame, blob_video, walk

FAST = {"movflags": "faststart"}  # the index at the front


def frames(path: Path, sampling: FrameSampler | None = None, seconds: float | None = None) -> list[Frame]:
    return list(VideoFile(str(path)).frames(sampling, seconds))


def damaged(path: Path) -> tuple[list[Frame], str | None]:
    """The frames, and what is wrong with the file, its folder left out."""
    file = VideoFile(str(path), path.name)
    found = list(file.frames())
    return found, str(file.damage) if file.damage else None


def refused(path: Path | str) -> str:
    with pytest.raises(MediaError) as caught:
        VideoFile(str(path), Path(path).name)
    return str(caught.value)


def boxes(frame: Frame) -> list[list[float]]:
    return FakePredictor().detect(frame.pixels).boxes.tolist()


def numbers(found: Sequence[Frame], rate: int = 25) -> list[int]:
    """Each frame's number by its time; its blob must be where that frame's was."""
    result = [round(frame.time * rate) for frame in found]
    for number, frame in zip(result, found, strict=True):
        (box,) = boxes(frame)
        assert np.abs(np.subtract(box, walk(number)[0])).max() <= 2, number
    return result


def packet(path: Path, number: int) -> tuple[int, int]:
    """Where the packet of frame `number` lies in a file, and its size in bytes."""
    with av.open(str(path)) as container:
        each = next(p for p in container.demux(video=0) if round(float(p.pts * p.time_base) * 25) == number)
        return path.read_bytes().index(bytes(each)), each.size


def cut(path: Path, number: int) -> Path:
    """A file that ends in the middle of frame `number`."""
    start, size = packet(path, number)
    return write(path.with_name(f"cut{path.suffix}"), path.read_bytes()[: start + size // 2])


def spoil(path: Path, number: int) -> Path:
    """A file in which the bytes of frame `number` are others."""
    start, size = packet(path, number)
    data = bytearray(path.read_bytes())
    data[start : start + size] = np.random.default_rng(0).bytes(size)
    return write(path.with_name(f"bad{path.suffix}"), data)


def write(path: Path, data: bytes | bytearray) -> Path:
    path.write_bytes(data)
    return path


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
    found, damage = damaged(blob_video(tmp_path / name, codec=codec))
    assert numbers(found) == list(range(50)) and [frame.index for frame in found] == list(range(50))
    assert [frame.time for frame in found] == pytest.approx([i / 25 for i in range(50)], abs=0.002)
    assert {frame.pixels.shape for frame in found} == {(64, 96, 3)} and found[0].clock is None
    assert found[0].pixels.dtype == np.uint8 and found[0].pixels.flags.c_contiguous
    assert damage is None


def test_rate_and_length(tmp_path: Path) -> None:
    file = VideoFile(str(blob_video(tmp_path / "a.mp4", rate=10, frames=30, audio=5)))
    assert (file.name, file.rate) == (str(tmp_path / "a.mp4"), 10) and file.seconds == pytest.approx(3.0)
    file.close()
    raw = VideoFile(str(blob_video(tmp_path / "a.h264")))
    assert raw.seconds is None
    raw.close()


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv"])
def test_an_uneven_rate(tmp_path: Path, name: str) -> None:
    times = [0, 0.01, 0.5, 0.9, 2.5, 2.6]
    found, damage = damaged(blob_video(tmp_path / name, frames=6, times=times))
    assert [frame.time for frame in found] == pytest.approx(times) and damage is None
    assert [boxes(frame) for frame in found] == [[list(map(float, walk(i)[0]))] for i in range(6)]


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
def test_time_starts_with_the_first_frame(tmp_path: Path, name: str) -> None:
    found, damage = damaged(blob_video(tmp_path / name, frames=10, times=[7 + i / 25 for i in range(10)]))
    assert numbers(found) == list(range(10)) and damage is None


def test_joined_recordings_go_on_in_time(tmp_path: Path) -> None:
    once = blob_video(tmp_path / "a.ts").read_bytes()
    (tmp_path / "twice.ts").write_bytes(once + once)
    times = np.array([frame.time for frame in frames(tmp_path / "twice.ts")])
    assert len(times) >= 90 and (np.diff(times) > 0.03).all() and times[-1] < 4


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_phones_video_comes_upright(tmp_path: Path, rotation: int) -> None:
    path = blob_video(tmp_path / "a.mp4", frames=3, rotation=rotation)
    with av.open(str(path)) as container:
        stored = container.streams.video[0].width
    assert stored == (SIZE[1] if rotation % 180 else SIZE[0])
    found = frames(path)
    assert {frame.pixels.shape for frame in found} == {(64, 96, 3)} and numbers(found) == [0, 1, 2]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_mirrored_videos(tmp_path: Path, turns: int, flip: bool) -> None:
    upright = blob_frame([(8, 6, 30, 20)], (64, 64))
    stored = np.rot90(upright[:, ::-1] if flip else upright, -turns)  # a player turns, then mirrors
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=64, height=64, pix_fmt="yuv420p")
        stream.set_display_rotation(90 * turns, hflip=flip)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")))
        container.mux(stream.encode(None))
    assert boxes(frames(tmp_path / "a.mp4")[0]) == [[8, 6, 30, 20]]


@pytest.mark.parametrize(("space", "yuv"), [(1, (63, 102, 240)), (5, (81, 90, 240))])
@pytest.mark.parametrize("told", [True, False])
def test_colours(tmp_path: Path, space: int, yuv: tuple[int, int, int], told: bool) -> None:
    """Pure red as BT.709 (1) and BT.601 (5) have it; where a file does not tell, large pictures are the former."""
    size = (96, 64) if told or space == 5 else (1280, 720)
    frame = av.VideoFrame(*size, "yuv420p")
    for plane, value in zip(frame.planes, yuv, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=size[0], height=size[1], pix_fmt="yuv420p")
        if told:
            stream.codec_context.colorspace = space
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (found,) = frames(tmp_path / "a.mp4")
    assert np.abs(found.pixels[5, 5].astype(int) - (255, 0, 0)).max() <= 3


def test_every_nth_frame(tmp_path: Path) -> None:
    found = frames(blob_video(tmp_path / "a.mp4"), FrameSampler(stride=20))
    assert [frame.index for frame in found] == numbers(found) == [0, 20, 40]


@pytest.mark.parametrize(
    ("rate", "most", "taken"), [(30, 20, 40), (25, 10, 20), (25, 25, 50), (25, 100, 50), (30, 1, 2)]
)
def test_no_more_frames_a_second_than_asked_for(rate: int, most: float, taken: int) -> None:
    sampling = FrameSampler(max_fps=most)
    times = np.array([i / rate for i in range(2 * rate) if sampling.takes(round(i / rate, 3))])
    assert len(times) == taken and times[0] == 0
    assert np.diff(times).max() <= 1 / most + 1 / rate  # spread evenly, not in bursts


def test_sampling_of_an_uneven_rate() -> None:
    sampling = FrameSampler(max_fps=2)
    times = [0, 0.1, 0.4, 0.5, 0.9, 3.0, 3.1, 3.49, 3.5, 3.6, 9.0]
    assert [t for t in times if sampling.takes(t)] == [0, 0.5, 3.0, 3.5, 9.0]
    both = FrameSampler(stride=3, max_fps=5)
    assert [i for i in range(30) if both.takes(i / 25)] == [0, 6, 12, 15, 21, 27]


def test_the_first_seconds(tmp_path: Path) -> None:
    file = VideoFile(str(blob_video(tmp_path / "a.mp4")))
    assert numbers(list(file.frames(seconds=0.4))) == list(range(10)) and file.damage is None


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.flv", "a.avi"])
def test_a_truncated_video_gives_what_is_left(tmp_path: Path, name: str) -> None:
    codec = "mjpeg" if name == "a.avi" else "libx264"
    short = cut(blob_video(tmp_path / name, codec=codec, options=FAST if name == "a.mp4" else None), 25)
    found, damage = damaged(short)
    assert numbers(found) == list(range(25)) and damage is not None
    # An AVI's index is at its end.
    length = "" if name == "a.avi" else r" of 2\.0"
    said = rf": read 25 frames, the last at 1\.0{length} s; copy or download it again"
    assert re.fullmatch(rf"{short.name}: is truncated or broken( \(Invalid data [\w ]+\))?{said}", damage)


def test_a_truncated_transport_stream(tmp_path: Path) -> None:
    """It tells no length, so that nothing is missing of it."""
    data = blob_video(tmp_path / "a.ts").read_bytes()
    found, damage = damaged(write(tmp_path / "cut.ts", data[: len(data) * 7 // 10]))
    assert numbers(found) == list(range(len(found))) and 20 <= len(found) <= 45 and damage is None


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mjpeg")])
def test_frames_come_up_to_the_damage_and_from_the_next_whole_picture_on(tmp_path: Path, name: str, codec: str) -> None:
    found, damage = damaged(spoil(blob_video(tmp_path / name, codec=codec), 24))
    whole = 25 if codec == "mjpeg" else 30
    assert numbers(found) == [*range(24), *range(whole, 50)] and damage is not None
    said = rf": read {len(found)} frames, the last at 2\.0 s; copy or download it again"
    assert re.fullmatch(rf"bad\.\w+: is truncated or broken( \(Invalid data [\w ]+\))?{said}", damage)


def test_a_packet_missing_in_a_transport_stream(tmp_path: Path) -> None:
    data = blob_video(tmp_path / "a.ts").read_bytes()
    start = len(data) // 188 // 2 * 188
    found, damage = damaged(write(tmp_path / "bad.ts", data[:start] + data[start + 188 :]))
    missing = sorted(set(range(50)) - set(numbers(found)))
    assert 1 <= len(missing) <= 10 and missing[-1] % 10 == 9  # up to the next whole picture
    assert damage is not None


def test_damage_is_said_of_the_part_that_was_looked_at(tmp_path: Path) -> None:
    bad = spoil(blob_video(tmp_path / "a.mp4"), 24)
    for seconds, count, said in ((0.92, 23, False), (1.24, 25, True)):
        file = VideoFile(str(bad))
        assert len(list(file.frames(seconds=seconds))) == count and (file.damage is not None) == said


def test_reordered_frames_before_the_damage_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=96, height=64, pix_fmt="yuv420p")
        stream.codec_context.gop_size = 20
        stream.options = {"x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0", "crf": "18"}
        for i in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(blob_frame(walk(i)), format="rgb24")))
        container.mux(stream.encode(None))
        assert stream.codec_context.has_b_frames
    found, damage = damaged(spoil(path, 8))  # 5 to 7 are decoded after it and build on it; 3 and 4 come out after it
    assert numbers(found) == [*range(5), *range(20, 40)] and damage is not None


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_longer_sound_is_no_damage(tmp_path: Path, name: str) -> None:
    path = blob_video(tmp_path / name, audio=9, options=FAST if name == "a.mp4" else None)
    found, damage = damaged(path)
    assert len(found) == 50 and damage is None
    if name != "a.mov":  # its index is at the end
        short, damage = damaged(cut(path, 25))
        assert len(short) == 25 and damage is not None


def test_a_picture_shown_for_long_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, width=96, height=64, pix_fmt="yuv420p")
        stream.codec_context.time_base = Fraction(1, 25)
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(blob_frame(walk(i)), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            for packet in stream.encode(frame):
                packet.duration = 250 if i == 2 else 1
                container.mux(packet)
    file = VideoFile(str(path))
    assert file.seconds == pytest.approx(10.08, abs=0.1) and len(list(file.frames())) == 3 and file.damage is None


@pytest.mark.parametrize("name", ["a.webm", "a.ts", "a.mp4"])
def test_one_written_as_a_stream(tmp_path: Path, name: str) -> None:
    """No duration in the header, as a browser's recorder or a camera writes it."""

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
    found, damage = damaged(path)
    assert numbers(found) == list(range(50)) and damage is None


def test_an_animation_is_a_video(tmp_path: Path) -> None:
    first, *rest = (Image.fromarray(blob_frame(walk(i))) for i in range(10))
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=40)
    found, damage = damaged(tmp_path / "a.gif")
    assert numbers(found) == list(range(10)) and damage is None


NAMES = ["2024-11-26T14:43:00.mp4", "100%d.mp4", "concat:a.mp4", "-i.mp4", "two\nlines.mp4", "\ud55c \u00e9.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="names that Windows has not")
@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"\xff.mp4")])
def test_file_names_are_no_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(blob_video(Path("plain.mp4"), frames=3), name)
    assert len(frames(Path(name))) == 3


def test_what_is_no_video(tmp_path: Path) -> None:
    whole = blob_video(tmp_path / "whole.mp4").read_bytes()
    again = "copy or download it again"
    assert refused(tmp_path / "none.mp4") == "none.mp4: not found; check the name"
    assert refused(tmp_path) == f"{tmp_path.name}: is a folder, not a video; name a video file"
    assert refused(write(tmp_path / "a.mp4", b"")) == f"a.mp4: is empty (0 bytes); {again}"
    text = write(tmp_path / "text.mp4", b"Dear diary,\n" * 99)
    assert refused(text) == "text.mp4: is not a video that can be read; convert it to MP4"
    half = write(tmp_path / "b.mp4", whole[: len(whole) // 2])
    assert refused(half) == f"b.mp4: is truncated: its index is missing; {again}"
    start = write(tmp_path / "c.mp4", blob_video(tmp_path / "fast.mp4", options=FAST).read_bytes()[:100])
    assert refused(start) == f"c.mp4: is truncated or broken: nothing in it can be read; {again}"
    assert refused(write(tmp_path / "d.mp4", whole[:4])) == "d.mp4: is not a video that can be read; convert it to MP4"
    other = write(tmp_path / "e.mp4", whole.replace(b"avc1", b"zzzz"))
    assert refused(other) == "e.mp4: cannot be decoded (no decoder is installed); convert it to H.264"
    assert (
        refused("a\0b.mp4")
        == "a\N{REPLACEMENT CHARACTER}b.mp4: cannot be read (embedded null byte); check its name and permissions"
    )


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_picture_named_as_a_video(tmp_path: Path, kind: str) -> None:
    Image.fromarray(blob_frame(walk(0))).save(tmp_path / "a.mp4", kind)
    assert refused(tmp_path / "a.mp4").startswith("a.mp4: is a picture, not a video")


def test_a_playlist_does_not_reach_for_the_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        lists = [f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n"]
        lists.append(f"ffconcat version 1.0\nfile {address}\n")
        for name, text in itertools.product(("list.mp4", "list.m3u8"), lists):
            (tmp_path / name).write_text(text)
            assert "127.0.0.1" not in refused(tmp_path / name)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("cover", [False, True])
def test_sound_alone(tmp_path: Path, cover: bool) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        if cover:
            picture = container.add_stream("png", rate=25, width=96, height=64, pix_fmt="rgb24")
            picture.disposition = av.stream.Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame.from_ndarray(blob_frame(walk(0)), format="rgb24")))
        for start in range(0, 8000, 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 8000, start
            container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    assert refused(tmp_path / "a.mp4") == "a.mp4: holds no video; name a file with pictures in it"


def test_no_frame_can_be_read(tmp_path: Path) -> None:
    data = bytearray(blob_video(tmp_path / "a.mp4", options=FAST).read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    found, damage = damaged(write(tmp_path / "b.mp4", data))
    assert not found and damage == "b.mp4: holds no frame that can be read; copy or download it again"


def test_a_huge_frame_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    data = bytearray(blob_video(tmp_path / "a.avi", codec="rawvideo", frames=2).read_bytes())
    sides = data.index(b"strf") + 12  # of the stream's header: width and height, 4 bytes each
    data[sides : sides + 8] = (12000).to_bytes(4, "little") * 2
    assert refused(write(tmp_path / "b.avi", data)).startswith("b.avi: has more than 89.4785 million pixels")


def test_a_frame_that_turns_huge_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (
        blob_video(tmp_path / "a.h264", frames=10),
        blob_video(tmp_path / "b.h264", frames=10, size=(192, 128)),
    )
    joined = write(tmp_path / "c.h264", small.read_bytes() + large.read_bytes() + small.read_bytes())
    assert [frame.pixels.shape[1] for frame in frames(joined)] == [96] * 10 + [192] * 10 + [96] * 10
    monkeypatch.setattr(video, "MAX_PIXELS", 96 * 64)
    found, damage = damaged(joined)
    assert [frame.pixels.shape[1] for frame in found] == [96] * 20 and damage is not None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    said = "a.mp4: is a pipe or device, not a file; save it as a video file first"
    assert refused(tmp_path / "a.mp4") == said


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path) -> None:
    blob_video(tmp_path / "a.mp4").chmod(0)
    assert refused(tmp_path / "a.mp4") == "a.mp4: cannot be read (Permission denied); check its name and permissions"


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = blob_video(tmp_path / "a.mp4", frames=1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"this needs the package 'av'; install it with `pip install -e '\.\[video\]'`"):
        VideoFile(str(path))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks open files up in /proc")
def test_files_are_closed(tmp_path: Path) -> None:
    good = blob_video(tmp_path / "a.mp4", options=FAST)
    bad = [
        cut(good, 25),
        write(tmp_path / "text.mp4", b"text" * 99),
        write(tmp_path / "u.mp4", good.read_bytes().replace(b"avc1", b"zzzz")),
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
    unused = VideoFile(str(good))
    unused.close()
    assert open_files() == before


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    file = VideoFile(str(blob_video(tmp_path / "a.mp4", frames=100, size=(320, 240))))
    tracemalloc.start()
    try:
        count = sum(1 for _ in file.frames())
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 100 and most < 5 * 320 * 240 * 3


def test_decoded_frames_are_let_go_of_at_once(tmp_path: Path) -> None:
    """FFmpeg's memory, which Python does not count: a frame that is in a cycle waits for the garbage collector."""
    file = VideoFile(str(blob_video(tmp_path / "a.mp4", frames=100, rotation=90)))
    gc.collect()
    gc.disable()
    try:
        count = sum(1 for _ in file.frames())
        held = sum(isinstance(each, av.VideoFrame) for each in gc.get_objects())
    finally:
        gc.enable()
    assert count == 100 and held < 5
