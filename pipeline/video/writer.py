"""Writes frames as H.264 in MP4, which browsers play."""

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
from common.files import atomic_replace, streaming_bytes
from common.images import Pixels

TIME_BASE = Fraction(1, 90000)  # seconds; MPEG's unit of time
CRF = "23"  # x264's constant rate factor, its default
# The index goes to the front, so that a browser plays the file during the download.
FILE_OPTIONS = {"movflags": "+faststart"}
# A live video is written in fragments, each flushed when complete: they play even after a kill.
FRAGMENT_OPTIONS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
FRAGMENT_SECONDS = 2.0  # seconds between key frames, and the most that a kill loses
BT709, LIMITED_RANGE = 1, 1  # FFmpeg's numbers of the colour space and range (16 to 235) that browsers assume


class VideoWriter:
    """Writes frames with time stamps into an MP4 file; use `video_writer` or `growing_video`."""

    def __init__(self, path: Path, rate: Fraction, growing: bool) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()  # one per frame would start threads each time
        self._av, self._path, self._rate, self._growing = av, path, rate, growing
        self._files = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._size = (0, 0)
        self._last_pts = -1
        self._failed = False
        self._next_key_frame = 0.0  # seconds at which the next key frame is due

    def add(self, pixels: Pixels, time: float) -> None:
        """Append uint8 (H, W, 3) RGB shown at `time` seconds; a frame of another size is made to fit the first's."""
        if not self.started:
            self._start(pixels.shape[1], pixels.shape[0], time)
        frame = self._av.VideoFrame.from_ndarray(_fit(pixels, self._size), format="rgb24")
        frame = self._reformatter.reformat(
            frame, format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED_RANGE, threads=1
        )
        frame.pts = max(round(time / TIME_BASE), self._last_pts + 1)  # players need rising times
        frame.time_base, self._last_pts = TIME_BASE, frame.pts
        frame.duration = round(1 / self._rate / TIME_BASE)  # only the last frame's duration is used
        if time >= self._next_key_frame:  # by time: a slow machine writes few frames per second
            frame.pict_type = self._av.video.frame.PictureType.I
            self._next_key_frame = time + FRAGMENT_SECONDS
        self._mux(frame)

    @property
    def started(self) -> bool:
        """Whether a frame was added."""
        return self._container is not None

    def close(self) -> None:
        """Write the remaining frames and end the file; without a frame there is no file."""
        with self._files:
            if self.started:
                with self._container:
                    if not self._failed:
                        self._mux(None)

    def _mux(self, frame: Any) -> None:
        """Encode a frame and write the packets; None writes the remaining ones."""
        try:
            self._container.mux(self._stream.encode(frame))
        except Exception:
            self._failed = True  # after a failed header FFmpeg ends the process at the next try
            raise

    def _start(self, width: int, height: int, time: float) -> None:
        options = FRAGMENT_OPTIONS if self._growing else FILE_OPTIONS
        # A growing file is a Python file: FFmpeg does not report that the last fragment did not fit on the disk.
        target = self._files.enter_context(streaming_bytes(self._path)) if self._growing else str(self._path)
        self._container = self._av.open(target, "w", format="mp4", options=options)
        self._stream = stream = self._container.add_stream("libx264", rate=self._rate)
        # Browsers play 4:2:0 only, which needs even sides.
        self._size = stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        # No frames are held back in a growing file: a kill would lose them, too.
        stream.options = {"crf": CRF, "preset": "veryfast"} | ({"tune": "zerolatency"} if self._growing else {})
        codec = stream.codec_context
        codec.time_base = TIME_BASE
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED_RANGE
        self._next_key_frame = time


@contextmanager
def video_writer(path: Path, rate: Fraction) -> Iterator[VideoWriter]:
    """Open a VideoWriter; its file is put in place when the block ends without an error.

    Args:
        path: the MP4 file.
        rate: approximate frames per second.

    Raises:
        UserError: the video extra is not installed.
        MediaError: no frame was added, or H.264 does not allow its size.
        OSError: the file cannot be written.
    """
    with _named_errors(path), atomic_replace(path) as file, closing(VideoWriter(file, rate, growing=False)) as writer:
        yield writer
        if not writer.started:
            raise MediaError(path, "no frame was added, so no video is written")


@contextmanager
def growing_video(path: Path, rate: Fraction) -> Iterator[VideoWriter]:
    """Open a VideoWriter for a live source: the file plays at any time. Errors are those of `video_writer`."""
    with _named_errors(path), closing(VideoWriter(path, rate, growing=True)) as writer:
        yield writer


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Raise FFmpeg's errors with the name `path`, not that of a temporary file."""
    with requires_extra("video"):
        import av
    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        fix = "make its frames smaller, 16384 pixels per side at most"
        raise MediaError(path, f"cannot be written as H.264 ({error.strerror}); {fix}") from error


def _fit(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Return the frame at `size` (width, height): the last row and column repeated, or letterboxed."""
    height, width = pixels.shape[:2]
    right, bottom = size[0] - width, size[1] - height
    if (right, bottom) == (0, 0):
        return np.ascontiguousarray(pixels)
    if right in (0, 1) and bottom in (0, 1):
        return np.pad(pixels, ((0, bottom), (0, right), (0, 0)), mode="edge")
    scale = min(size[0] / width, size[1] / height)
    width, height = (min(max(1, round(side * scale)), most) for side, most in zip((width, height), size, strict=True))
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    canvas[top : top + height, left : left + width] = small
    return canvas
