"""Writes frames as an H.264 video that plays in browsers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.extras import needs
from stage1_faces.images import Pixels
from stage2_classifier.files import replacing

CLOCK = Fraction(1, 90000)  # seconds; MPEG's own unit
QUALITY = "23"  # x264's constant rate factor, its default
# A file that grows while a camera runs is made of whole pieces: what is written plays even after a power cut.
GROWING = "frag_keyframe+empty_moov+default_base_moof"
PIECE = 2.0  # seconds between key frames, and so the most that a kill loses


class VideoWriter:
    """Frames with their time stamps into an MP4 file; made by `video_writer` or `growing_video`."""

    def __init__(self, path: Path, rate: Fraction, movflags: str) -> None:
        with needs("video"):
            import av

        self._av = av
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": movflags})
        self._rate = rate
        self._stream: Any = None
        self._size = (0, 0)
        self._last = -1

    def add(self, pixels: Pixels, time: float) -> None:
        """Appends uint8 (H, W, 3) RGB to be shown at `time` seconds; one of another size is made to fit the first's."""
        if self._stream is None:
            self._start(pixels.shape[1], pixels.shape[0])
        pts = max(round(time / CLOCK), self._last + 1)  # players want times that rise
        frame = self._av.VideoFrame.from_ndarray(_fitted(pixels, self._size), format="rgb24")
        frame.pts, frame.time_base, self._last = pts, CLOCK, pts
        self._write(frame)

    def close(self) -> None:
        """Writes what is still under way, and ends the file."""
        try:
            if self._stream is not None:
                self._write(None)
        finally:
            self._container.close()

    def _start(self, width: int, height: int) -> None:
        stream = self._container.add_stream("libx264", rate=self._rate)
        # Browsers play 4:2:0 only, which wants even sides.
        self._size = (width + width % 2, height + height % 2)
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": QUALITY, "preset": "veryfast"}
        stream.codec_context.gop_size = max(round(PIECE * self._rate), 1)
        stream.codec_context.time_base = CLOCK
        self._stream = stream

    def _write(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


@contextmanager
def video_writer(path: Path, rate: Fraction) -> Iterator[VideoWriter]:
    """A VideoWriter whose file takes the place of `path` when the block ends well.

    rate: frames a second, about. Raises PipelineError without the video extra.
    """
    # faststart: the index is at the front, so that a browser plays it before all of it has come.
    with replacing(path) as temporary, closing(VideoWriter(temporary, rate, "+faststart")) as writer:
        yield writer


@contextmanager
def growing_video(path: Path, rate: Fraction) -> Iterator[VideoWriter]:
    """A VideoWriter whose file is playable at any time, for what has no end of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(VideoWriter(path, rate, GROWING)) as writer:
        yield writer


def _fitted(pixels: Pixels, size: tuple[int, int]) -> Pixels:
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
