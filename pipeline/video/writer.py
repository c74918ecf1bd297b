"""Writes frames as an H.264 video that plays in browsers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.cli import requires_extra
from common.errors import MediaError
from common.files import growing_bytes, replacing
from common.images import Pixels

TIME_BASE = Fraction(1, 90000)  # seconds; MPEG's own unit
CRF = "23"  # x264's constant rate factor, its default
# The index at the front, so that a browser plays it before all of it has come.
FILE_OPTIONS = {"movflags": "+faststart"}
# What has no end of its own is made of pieces, each written out when it is done: they play even after a kill.
FRAGMENT_OPTIONS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
FRAGMENT_SECONDS = 2.0  # seconds between whole pictures, and so the most that a kill loses
BT709, LIMITED_RANGE = 1, 1  # FFmpeg's numbers: how browsers make RGB of YUV, in a range of 16 to 235


class VideoWriter:
    """Frames with their time stamps into an MP4 file; made by `video_writer` or `growing_video`."""

    def __init__(self, path: Path, rate: Fraction, growing: bool) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()  # each frame's own would start threads for it
        self._av, self._path, self._rate, self._growing = av, path, rate, growing
        self._files = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._size = (0, 0)
        self._last_pts = -1
        self._failed = False
        self._next_key_frame = 0.0  # when the next whole picture is due

    def add(self, pixels: Pixels, time: float) -> None:
        """Appends uint8 (H, W, 3) RGB to be shown at `time` seconds; one of another size is made to fit the first's."""
        if not self.started:
            self._start(pixels.shape[1], pixels.shape[0], time)
        frame = self._av.VideoFrame.from_ndarray(_fit(pixels, self._size), format="rgb24")
        frame = self._reformatter.reformat(
            frame, format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED_RANGE, threads=1
        )
        frame.pts = max(round(time / TIME_BASE), self._last_pts + 1)  # players want times that rise
        frame.time_base, self._last_pts = TIME_BASE, frame.pts
        frame.duration = round(1 / self._rate / TIME_BASE)  # only the last frame's counts
        if time >= self._next_key_frame:  # by time: a slow machine writes few frames a second
            frame.pict_type = self._av.video.frame.PictureType.I
            self._next_key_frame = time + FRAGMENT_SECONDS
        self._mux(frame)

    @property
    def started(self) -> bool:
        """Whether a frame was added."""
        return self._container is not None

    def close(self) -> None:
        """Writes what is still under way, and ends the file; there is none when no frame was added."""
        with self._files:
            if self.started:
                with self._container:
                    if not self._failed:
                        self._mux(None)

    def _mux(self, frame: Any) -> None:
        """Encodes a frame, or with None what is still under way, and writes what comes of it."""
        try:
            self._container.mux(self._stream.encode(frame))
        except Exception:
            self._failed = True  # after a head that could not be written, FFmpeg ends the process at the next try
            raise

    def _start(self, width: int, height: int, time: float) -> None:
        options = FRAGMENT_OPTIONS if self._growing else FILE_OPTIONS
        # A growing one into a file of Python's: FFmpeg keeps to itself that its last piece did not fit on the disk.
        place = self._files.enter_context(growing_bytes(self._path)) if self._growing else str(self._path)
        self._container = self._av.open(place, "w", format="mp4", options=options)
        self._stream = stream = self._container.add_stream("libx264", rate=self._rate)
        # Browsers play 4:2:0 only, which wants even sides.
        self._size = stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        # No pictures held back in a file that grows: they would be lost, too.
        stream.options = {"crf": CRF, "preset": "veryfast"} | ({"tune": "zerolatency"} if self._growing else {})
        codec = stream.codec_context
        codec.time_base = TIME_BASE
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED_RANGE
        self._next_key_frame = time


@contextmanager
def video_writer(path: Path, rate: Fraction) -> Iterator[VideoWriter]:
    """A VideoWriter whose file takes the place of `path` when the block ends well.

    rate: frames a second, about. Raises UserError without the video extra, MediaError when no frame was added or
    its size is none for H.264, OSError when the file cannot be written.
    """
    with (
        _named_errors(path),
        replacing(path) as temporary,
        closing(VideoWriter(temporary, rate, growing=False)) as writer,
    ):
        yield writer
        if not writer.started:
            raise MediaError(path, "no frame was added, so no video is written")


@contextmanager
def growing_video(path: Path, rate: Fraction) -> Iterator[VideoWriter]:
    """A VideoWriter whose file is playable at any time, for what has no end of its own. Raises as `video_writer`."""
    with _named_errors(path), closing(VideoWriter(path, rate, growing=True)) as writer:
        yield writer


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Says of `path` what FFmpeg says of a temporary file or of itself."""
    with requires_extra("video"):
        import av
    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        mend = "make its pictures smaller, 16384 pixels a side at most"
        raise MediaError(path, f"cannot be written as H.264 ({error.strerror}); {mend}") from error


def _fit(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """The picture at (width, height): its last row and column doubled, or scaled with its sides in ratio."""
    height, width = pixels.shape[:2]
    right, bottom = size[0] - width, size[1] - height
    if (right, bottom) == (0, 0):
        return np.ascontiguousarray(pixels)
    if not (right in (0, 1) and bottom in (0, 1)):
        scale = min(size[0] / width, size[1] / height)
        width, height = (max(1, round(side * scale)) for side in (width, height))
        width, height = min(width, size[0]), min(height, size[1])
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        canvas = np.zeros((size[1], size[0], 3), np.uint8)
        top, left = (size[1] - height) // 2, (size[0] - width) // 2
        canvas[top : top + height, left : left + width] = small
        return canvas
    return np.pad(pixels, ((0, bottom), (0, right), (0, 0)), mode="edge")
