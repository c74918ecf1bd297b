"""Animated pictures as videos: every frame once, at its own time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import MediaError
from pipeline.video.camera import open_source
from pipeline.video.formats.animation import AnimationFile, is_animation
from pipeline.video.reader import FrameSampler, VideoFile
from tests.helpers.video.damaged_videos import blob_boxes
from tests.helpers.video.made_videos import blob_frame, blob_video, walk

DURATIONS = [40, 80, 40, 200, 60, 60]  # milliseconds
TIMES = [0, 0.04, 0.12, 0.16, 0.36, 0.42]


def animate(path: Path, durations: list[int] | None = None) -> Path:
    durations = durations or DURATIONS
    first, *rest = (Image.fromarray(blob_frame(walk(5 * i))) for i in range(len(durations)))
    options = {"lossless": True} if path.suffix == ".webp" else {}
    form = "PNG" if path.suffix == ".apng" else None
    first.save(path, form, save_all=True, append_images=rest, duration=durations, loop=0, **options)
    return path


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "apng"])
def test_frames_and_their_times(tmp_path: Path, suffix: str) -> None:
    path = animate(tmp_path / f"a.{suffix}")
    assert is_animation(str(path))
    source = open_source(str(path))
    assert isinstance(source, AnimationFile) and source.rate == 25
    frames = list(source.frames())
    assert [frame.time for frame in frames] == pytest.approx(TIMES)
    assert [blob_boxes(frame) for frame in frames] == [[list(map(float, walk(5 * i)[0]))] for i in range(6)]
    assert source.damage is None and frames[0].pixels.dtype == np.uint8


def test_some_of_the_frames(tmp_path: Path) -> None:
    path = str(animate(tmp_path / "a.gif"))
    assert [f.index for f in AnimationFile(path).frames(FrameSampler(stride=2))] == [0, 2, 4]
    source = AnimationFile(path)
    assert [f.index for f in source.frames(seconds=0.15)] == [0, 1, 2] and source.damage is None


def test_no_duration_is_a_tenth_of_a_second(tmp_path: Path) -> None:
    source = AnimationFile(str(animate(tmp_path / "a.gif", [0, 0, 0])))
    assert [f.time for f in source.frames()] == pytest.approx([0, 0.1, 0.2]) and source.rate == 10


def test_a_first_frame_of_an_hour_has_a_frame_rate(tmp_path: Path) -> None:
    assert AnimationFile(str(animate(tmp_path / "a.webp", [3_600_000, 100]))).rate > 0


def test_photos_and_videos_are_no_animations(tmp_path: Path) -> None:
    for name in ("a.gif", "a.png", "a.webp", "a.jpg"):
        Image.fromarray(blob_frame(walk(0))).save(tmp_path / name)
        assert not is_animation(str(tmp_path / name))
    (tmp_path / "bad.gif").write_bytes(b"GIF89a")
    for name in ("bad.gif", "gone.gif"):
        assert not is_animation(str(tmp_path / name))
    assert isinstance(open_source(str(blob_video(tmp_path / "a.mp4", frames=2))), VideoFile)


@pytest.mark.parametrize("suffix", ["gif", "png"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_a_cut_animation_gives_the_frames_before_and_says_so(tmp_path: Path, suffix: str, share: float) -> None:
    data = animate(tmp_path / f"a.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    source = AnimationFile(str(path))
    frames = list(source.frames())
    assert 0 < len(frames) <= 6 and source.damage is not None
    assert f"read {len(frames)} frames" in source.damage.reason


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="not found"):
        AnimationFile(str(tmp_path / "gone.gif"))


@pytest.mark.parametrize("padding", [b"\0", b"\n", b"\0" * 16])
def test_a_gif_that_a_program_padded_is_whole(tmp_path: Path, padding: bytes) -> None:
    path = animate(tmp_path / "a.gif")
    path.write_bytes(path.read_bytes() + padding)
    source = AnimationFile(str(path))
    assert len(list(source.frames())) == 6 and source.damage is None


def test_the_picture_for_programs_that_know_no_animations_is_not_played(tmp_path: Path) -> None:
    first, *rest = (Image.fromarray(blob_frame(walk(5 * i))) for i in range(3))
    first.save(tmp_path / "a.png", save_all=True, append_images=rest, duration=[40, 60], default_image=True)
    source = AnimationFile(str(tmp_path / "a.png"))
    frames = list(source.frames())
    assert [frame.time for frame in frames] == [0, 0.04] and source.damage is None
    assert [blob_boxes(frame) for frame in frames] == [[list(map(float, walk(5 * i)[0]))] for i in (1, 2)]
