"""Damaged videos and files that are not videos: intact frames are read, each error is one line."""

from __future__ import annotations

import itertools
import os
import re
import socket
from fractions import Fraction
from pathlib import Path

import av
import pytest
from PIL import Image

from pipeline.video import reader as video
from pipeline.video.reader import VideoFile
from tests.helpers.video.damaged_videos import (
    INDEX_FIRST,
    corrupt_frame,
    find_packet,
    frame_numbers,
    open_error,
    read_frames,
    read_with_damage,
    truncate_at,
    write_file,
)
from tests.helpers.video.made_videos import add_silence, blob_frame, blob_video, walk


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.flv", "a.avi"])
def test_a_truncated_video_gives_its_intact_frames(tmp_path: Path, name: str) -> None:
    codec = "mjpeg" if name == "a.avi" else "libx264"
    short = truncate_at(blob_video(tmp_path / name, codec=codec, options=INDEX_FIRST if name == "a.mp4" else None), 25)
    found, damage = read_with_damage(short)
    assert frame_numbers(found) == list(range(25)) and damage is not None
    # An AVI's index is at the end.
    length = "" if name == "a.avi" else r" of 2\.0"
    ending = rf": read 25 frames, the last at 1\.0{length} s; copy or download it again"
    assert re.fullmatch(rf"{short.name}: is truncated or broken( \(Invalid data [\w ]+\))?{ending}", damage)


def test_a_truncated_transport_stream(tmp_path: Path) -> None:
    """The container holds no duration: only a packet that was cut shows that frames are missing."""
    data = blob_video(tmp_path / "a.ts").read_bytes()
    whole_packets = len(data) * 7 // 10 // 188 * 188
    for end in (whole_packets, whole_packets + 100):
        found, damage = read_with_damage(write_file(tmp_path / "cut.ts", data[:end]))
        assert frame_numbers(found) == list(range(len(found))) and 20 <= len(found) <= 45
        error = f"read {len(found)} frames, the last at {found[-1].time:.1f} s; copy or download it again"
        assert damage == (f"cut.ts: is truncated or broken: {error}" if end > whole_packets else None)


def test_the_first_seconds_of_a_truncated_transport_stream(tmp_path: Path) -> None:
    data = blob_video(tmp_path / "a.ts").read_bytes()
    file = VideoFile(str(write_file(tmp_path / "cut.ts", data[:-100])))
    assert len(list(file.frames(seconds=1))) == 25 and file.damage is None


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.flv"])
def test_damage_inside_an_h264_picture(tmp_path: Path, name: str) -> None:
    """The decoder fills the missing end of the key frame and returns the frame. Smaller frames do not show it."""
    path = blob_video(tmp_path / name, size=(192, 128))
    start, size = find_packet(path, 20)
    data = bytearray(path.read_bytes())
    data[start + size * 9 // 10 : start + size] = bytes(size - size * 9 // 10)
    found, damage = read_with_damage(write_file(tmp_path / f"bad{path.suffix}", data))
    assert frame_numbers(found) == [*range(20), *range(30, 50)]
    assert damage is not None and "is truncated or broken: read 40 frames, the last at 2.0 s; " in damage


def test_an_h264_file_that_ends_within_a_key_frame(tmp_path: Path) -> None:
    path = blob_video(tmp_path / "a.h264", size=(192, 128))
    with av.open(str(path)) as container:
        sizes = [packet.size for packet in container.demux()]
    found, damage = read_with_damage(write_file(path, path.read_bytes()[: sum(sizes[:20]) + sizes[20] * 9 // 10]))
    assert frame_numbers(found) == list(range(20)) and damage is not None


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mjpeg")])
def test_frames_before_the_damage_and_from_the_next_key_frame_on(tmp_path: Path, name: str, codec: str) -> None:
    found, damage = read_with_damage(corrupt_frame(blob_video(tmp_path / name, codec=codec), 24))
    whole = 25 if codec == "mjpeg" else 30
    assert frame_numbers(found) == [*range(24), *range(whole, 50)] and damage is not None
    ending = rf": read {len(found)} frames, the last at 2\.0 s; copy or download it again"
    assert re.fullmatch(rf"bad\.\w+: is truncated or broken( \(Invalid data [\w ]+\))?{ending}", damage)


def test_a_packet_missing_in_a_transport_stream(tmp_path: Path) -> None:
    data = blob_video(tmp_path / "a.ts").read_bytes()
    start = len(data) // 188 // 2 * 188
    found, damage = read_with_damage(write_file(tmp_path / "bad.ts", data[:start] + data[start + 188 :]))
    missing = sorted(set(range(50)) - set(frame_numbers(found)))
    assert 1 <= len(missing) <= 10 and missing[-1] % 10 == 9  # up to the next key frame
    assert damage is not None


def test_damage_is_reported_for_the_part_that_was_read(tmp_path: Path) -> None:
    bad = corrupt_frame(blob_video(tmp_path / "a.mp4"), 24)
    for seconds, count, reported in ((0.92, 23, False), (1.24, 25, True)):
        file = VideoFile(str(bad))
        assert len(list(file.frames(seconds=seconds))) == count and (file.damage is not None) == reported


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
    # Frames 5 to 7 are decoded after frame 8 and build on it; 3 and 4 only leave the decoder after it.
    found, damage = read_with_damage(corrupt_frame(path, 8))
    assert frame_numbers(found) == [*range(5), *range(20, 40)] and damage is not None


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_longer_sound_is_not_damage(tmp_path: Path, name: str) -> None:
    path = blob_video(tmp_path / name, audio=9, options=INDEX_FIRST if name == "a.mp4" else None)
    found, damage = read_with_damage(path)
    assert len(found) == 50 and damage is None
    if name != "a.mov":  # the index is at the end
        short, damage = read_with_damage(truncate_at(path, 25))
        assert len(short) == 25 and damage is not None


def test_a_frame_shown_for_long_is_not_damage(tmp_path: Path) -> None:
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


def test_files_that_are_not_videos(tmp_path: Path) -> None:
    whole = blob_video(tmp_path / "whole.mp4").read_bytes()
    again = "copy or download it again"
    assert open_error(tmp_path / "none.mp4").startswith("none.mp4: not found; ")
    assert open_error(tmp_path).startswith(f"{tmp_path.name}: is a folder, not a video; ")
    assert open_error(write_file(tmp_path / "a.mp4", b"")) == f"a.mp4: is empty (0 bytes); {again}"
    text = write_file(tmp_path / "text.mp4", b"Dear diary,\n" * 99)
    assert open_error(text).startswith("text.mp4: is not a video that can be read; ")
    half = write_file(tmp_path / "b.mp4", whole[: len(whole) // 2])
    assert open_error(half).startswith("b.mp4: is truncated: its index is missing; ")
    start = write_file(tmp_path / "c.mp4", blob_video(tmp_path / "fast.mp4", options=INDEX_FIRST).read_bytes()[:100])
    assert open_error(start).startswith("c.mp4: is truncated or broken: nothing in it can be read; ")
    head = write_file(tmp_path / "d.mp4", whole[:4])
    assert open_error(head).startswith("d.mp4: is not a video that can be read; ")
    other = write_file(tmp_path / "e.mp4", whole.replace(b"avc1", b"zzzz"))
    assert open_error(other).startswith("e.mp4: cannot be decoded (no decoder is installed); ")
    assert open_error("a\0b.mp4").startswith("a\N{REPLACEMENT CHARACTER}b.mp4: cannot be read (embedded null byte); ")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_picture_named_as_a_video(tmp_path: Path, kind: str) -> None:
    Image.fromarray(blob_frame(walk(0))).save(tmp_path / "a.mp4", kind)
    assert open_error(tmp_path / "a.mp4").startswith("a.mp4: is a picture, not a video")


def test_a_playlist_does_not_use_the_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        lists = [f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n"]
        lists.append(f"ffconcat version 1.0\nfile {address}\n")
        for name, text in itertools.product(("list.mp4", "list.m3u8"), lists):
            (tmp_path / name).write_text(text)
            assert "127.0.0.1" not in open_error(tmp_path / name)
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
        add_silence(container, sound, 1)
    assert open_error(tmp_path / "a.mp4").startswith("a.mp4: holds no video; ")


def test_no_frame_can_be_read(tmp_path: Path) -> None:
    data = bytearray(blob_video(tmp_path / "a.mp4", options=INDEX_FIRST).read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    found, damage = read_with_damage(write_file(tmp_path / "b.mp4", data))
    assert not found and damage == "b.mp4: holds no frame that can be read; copy or download it again"


def test_a_huge_frame_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    data = bytearray(blob_video(tmp_path / "a.avi", codec="rawvideo", frames=2).read_bytes())
    sides = data.index(b"strf") + 12  # of the stream's header: width and height, 4 bytes each
    data[sides : sides + 8] = (12000).to_bytes(4, "little") * 2
    assert open_error(write_file(tmp_path / "b.avi", data)).startswith("b.avi: has more than 89.4785 million pixels")


def test_a_huge_frame_within_a_video_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (
        blob_video(tmp_path / "a.h264", frames=10),
        blob_video(tmp_path / "b.h264", frames=10, size=(192, 128)),
    )
    joined = write_file(tmp_path / "c.h264", small.read_bytes() + large.read_bytes() + small.read_bytes())
    assert [frame.pixels.shape[1] for frame in read_frames(joined)] == [96] * 10 + [192] * 10 + [96] * 10
    monkeypatch.setattr(video, "MAX_PIXELS", 96 * 64)
    found, damage = read_with_damage(joined)
    assert [frame.pixels.shape[1] for frame in found] == [96] * 20 and damage is not None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    assert open_error(tmp_path / "a.mp4").startswith("a.mp4: is a pipe or device, not a file; ")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root can read every file")
def test_unreadable(tmp_path: Path) -> None:
    blob_video(tmp_path / "a.mp4").chmod(0)
    assert open_error(tmp_path / "a.mp4").startswith("a.mp4: cannot be read (Permission denied); ")
