"""Reads a video file frame by frame: upright RGB with time stamps, up to where it is damaged and past it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.extras import needs
from stage1_faces.images import MAX_PIXELS, MediaError, Pixels

if TYPE_CHECKING:
    from av import VideoFrame

USUAL_RATE = Fraction(25)  # frames a second, where a file does not say


@dataclass(frozen=True)
class Frame:
    """One picture of a video. index: its number from 0, those left out counted. time: seconds from the start.

    pixels: uint8 (H, W, 3) RGB, upright. clock: when it was taken, for live ones.
    """

    index: int
    time: float
    pixels: Pixels
    clock: datetime | None = None


class Sampling:
    """Which frames are looked at: every Nth, and no more than so many a second.

    every: 1 or more. max_fps: frames a second of video time, None for all.
    """

    def __init__(self, every: int = 1, max_fps: float | None = None) -> None:
        self._every, self._step = every, 1 / max_fps if max_fps else 0.0
        self._count, self._due = 0, -np.inf

    def takes(self, time: float) -> bool:
        """Whether the next frame, at `time` seconds, is looked at."""
        turn = self._count % self._every == 0
        self._count += 1
        # A thousandth of a step early is in time: time stamps are rounded.
        if not turn or time < self._due - self._step / 1000:
            return False
        # From the due time on, not from this frame's, else 30 frames a second asked for 20 would give 15.
        self._due = self._due + self._step if time - self._due < self._step else time + self._step
        return True


class VideoFile:
    """A video file, or an address with a whole video behind it.

    name: what errors and results call it. rate: frames a second. damage: after `frames` has ended, what was wrong
    with the file in one line, or None.
    Raises MediaError when it cannot be opened or holds no video, PipelineError without the video extra.
    """

    def __init__(self, path: str, name: str | None = None) -> None:
        self._container = open_container(path, name or path)
        self.name = name or path
        self._stream = video_stream(self._container, self.name)
        self.rate = self._stream.average_rate or self._stream.guessed_rate or USUAL_RATE
        self.damage: MediaError | None = None

    @property
    def seconds(self) -> float | None:
        """How long it says it is; None where it does not (a stream without an end)."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        return self._container.duration / 1e6 if self._container.duration is not None else None

    def close(self) -> None:
        """For one whose frames are not asked for."""
        self._container.close()

    def frames(self, sampling: Sampling | None = None, seconds: float | None = None) -> Generator[Frame]:
        """The frames that `sampling` takes, of the first `seconds`; others are not turned into pixels.

        Where the file is damaged, frames up to the damage come, and those from the next whole picture on.
        """
        import av

        sampling = sampling or Sampling()
        last, start, whole, broken = 0.0, None, True, 0
        why = ""
        with self._container:
            packets = self._container.demux(self._stream)
            index = 0
            while True:
                try:
                    packet = next(packets)
                except StopIteration:
                    break
                except av.error.FFmpegError as error:  # the container itself ends here
                    broken, why = broken + 1, why or reason(error)
                    packet = None
                try:
                    frames = self._stream.codec_context.decode(packet)
                except av.error.EOFError:
                    break
                except av.error.FFmpegError as error:
                    broken, why, whole = broken + 1, why or reason(error), False
                    frames = []
                for frame in frames:
                    if frame.is_corrupt or not (whole or frame.key_frame):
                        broken += 1
                        continue
                    whole = True
                    at = frame.time if frame.time is not None else index / float(self.rate)
                    start = at if start is None else start
                    last = max(at - start, last)
                    if seconds is not None and last >= seconds:
                        return
                    if sampling.takes(last):
                        yield Frame(index, last, upright(frame, self.name))
                    index += 1
                if packet is None:
                    break
        self.damage = self._damage(broken, why, index, last)

    def _damage(self, broken: int, why: str, read: int, last: float) -> MediaError | None:
        """What is wrong with a file of which `read` frames came, the last at `last` seconds."""
        if read == 0:
            return MediaError(self.name, "holds no frame that can be read; copy or download it again")
        # Half a second: containers round, and sound may be longer than the picture.
        told = self.seconds
        missing = told is not None and last + 1 / float(self.rate) < told - 0.5
        if not broken and not missing:
            return None
        length = f" of {told:.1f}" if told is not None and told > last else ""
        detail = f" ({why})" if why else ""
        what = f"is truncated or broken{detail}: {read} frames came, the last at {last:.1f}{length} s"
        return MediaError(self.name, f"{what}; copy or download it again")


def open_container(path: str, name: str, options: dict[str, str] | None = None, timeout: float | None = None) -> Any:
    """PyAV's container of a file or address. timeout: seconds to wait for an address's next bytes.

    Raises MediaError when it cannot be opened, PipelineError without the video extra.
    """
    with needs("video"):
        import av

    av.logging.set_level(av.logging.PANIC)  # what is wrong is said once, by us
    try:
        return av.open(path, options=options or {}, timeout=timeout)
    except av.error.FFmpegError as error:
        raise MediaError(name, _refused(error)) from error
    except OSError as error:
        raise MediaError(name, f"cannot be read ({error.strerror or error}); check its name") from error


def _refused(error: Exception) -> str:
    """Why FFmpeg could not open something, and the mend."""
    import av

    if isinstance(error, av.error.FileNotFoundError):
        return "not found; check the name"
    if isinstance(error, av.error.InvalidDataError):
        return "is not a video that can be read; convert it to MP4"
    return f"cannot be opened ({reason(error)}); check the name or address"


def reason(error: Exception) -> str:
    """What FFmpeg says of an error, without its number and the address, which may hold a password."""
    return getattr(error, "strerror", None) or type(error).__name__


def video_stream(container: Any, name: str) -> Any:
    """The container's video stream. Raises MediaError when it has none that can be decoded."""
    if not container.streams.video:
        container.close()
        raise MediaError(name, "holds no video; name a file with pictures in it")
    stream = container.streams.video[0]
    try:
        stream.codec_context.open(strict=False)
    except Exception as error:  # a codec that this FFmpeg lacks, or a header that makes no sense
        container.close()
        raise MediaError(name, f"cannot be decoded ({reason(error)}); convert it to H.264") from error
    return stream


def upright(frame: VideoFrame, name: str) -> Pixels:
    """The pixels of PyAV's frame as uint8 (H, W, 3) RGB, turned as its display matrix says (phones' videos).

    Raises MediaError for a frame of too many pixels.
    """
    if frame.width * frame.height > MAX_PIXELS:
        raise MediaError(name, f"has more than {MAX_PIXELS / 1e6:g} million pixels a frame; make it smaller first")
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    turns = round(frame.rotation / 90) % 4  # quarter turns, counterclockwise as np.rot90 has them
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
