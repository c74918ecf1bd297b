"""Reads a video file frame by frame: upright RGB with time stamps, up to where it is damaged and past it."""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from itertools import takewhile
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from common.cli import requires_extra
from common.errors import MediaError
from common.images import MAX_PIXELS, Pixels
from common.paths import is_address
from pipeline.video.autorotate import Autorotator

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

DEFAULT_RATE = Fraction(25)  # frames a second, where a file does not say
READ_TIMEOUT = 10.0  # seconds without data after which an address counts as lost
# Containers whose header tells how long they are; of others FFmpeg measures or guesses it.
FORMATS_WITH_DURATION = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv", "asf")
DURATION_TOLERANCE = 0.5  # seconds that may be missing of what a header tells: they round


@dataclass(frozen=True)
class Frame:
    """One picture of a video. index: its number from 0, those left out counted. time: seconds from the start.

    pixels: uint8 (H, W, 3) RGB, upright. clock: when it was taken, for live ones.
    """

    index: int
    time: float
    pixels: Pixels
    clock: datetime | None = None


class FrameSampler:
    """Which frames are looked at: every Nth, and no more than so many a second.

    every: 1 or more. max_fps: frames a second of video time, None for all.
    """

    def __init__(self, stride: int = 1, max_fps: float | None = None) -> None:
        self._every, self._step = stride, 1 / max_fps if max_fps else 0.0
        self._count, self._due = 0, -inf

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
    """A video file, or what is behind an address. Its pictures are asked for once, by `frames` or `live`.

    name: what errors and results call it. timeout: seconds to wait for an address's next bytes. rate: frames a second.
    seconds: how long it says it is, None where it does not (a stream without an end). damage: after `frames` has
    ended, what was wrong with it in one line, or None.
    Raises MediaError when it cannot be opened or holds no video, UserError without the video extra.
    """

    def __init__(self, path: str, name: str | None = None, timeout: float = READ_TIMEOUT) -> None:
        self.name = name or path
        self._container = _open(path, self.name, timeout)
        self._stream = _video_stream(self._container, self.name)
        self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or DEFAULT_RATE
        whole, own, base = self._container.duration, self._stream.duration, self._stream.time_base
        self._whole = whole / 1e6 if whole is not None else None
        self.seconds = float(own * base) if own is not None and base is not None else self._whole
        self.damage: MediaError | None = None
        self._upright = Autorotator()
        self._read, self._last = 0, 0.0  # frames that came, and the last one's time
        self._broken, self._why = False, ""
        self._lost = False  # whether pictures may build on one that is missing,
        self._safe: set[int | None] = set()  # but for those with these time stamps,
        self._sent: deque[int | None] = deque(maxlen=32)  # of the last ones, as they were decoded
        self._begin, self._reach = 0.0, 0.0  # seconds between which, and 0, the file's packets lie

    def close(self) -> None:
        """For one whose frames are not asked for."""
        self._container.close()

    def frames(self, sampler: FrameSampler | None = None, seconds: float | None = None) -> Generator[Frame]:
        """The frames that `sampling` takes, of the first `seconds`; others are not turned into pixels.

        Where the file is damaged, frames up to the damage come, and those from the next whole picture on.
        """
        sampler = sampler or FrameSampler()
        stopped = False
        with self._container:
            for frame, time in self._timed_frames():
                stopped = seconds is not None and time >= seconds
                if stopped:
                    break
                self._read, self._last = self._read + 1, time
                if sampler.takes(time):
                    yield Frame(self._read - 1, time, self._upright(frame))
            self.damage = self._describe_damage(stopped)

    def live_frames(self) -> Generator[Pixels]:
        """Every picture as it comes, for a stream without an end. Raises MediaError where it breaks off."""
        import av

        with self._container:
            try:
                for packet in self._container.demux(self._stream):
                    # A picture that was torn on its way is no lost connection.
                    with suppress(av.error.InvalidDataError):
                        for frame in filter(_is_undamaged, self._stream.codec_context.decode(packet)):
                            yield self._upright(frame)
            except av.error.FFmpegError as error:
                raise MediaError(self.name, _reason(error)) from error

    def _timed_frames(self) -> Iterator[tuple[VideoFrame, float]]:
        """Each picture with its seconds from the first one, which never fall."""
        step, start = 1 / float(self.rate), None
        time = -step
        for frame in self._decoded_frames():
            before, given = time, frame.time
            time = before + step if given is None or start is None else given - start
            if time < before:  # several recordings in one: the clock starts anew
                time, start = before + step, None
            if start is None and given is not None:
                start = given - time
            yield frame, time

    def _decoded_frames(self) -> Iterator[VideoFrame]:
        """Every picture that is whole."""
        import av

        for packet in self._packets():
            try:
                frames = self._stream.codec_context.decode(packet)
            except av.error.FFmpegError as error:
                self._mark_missing(packet.pts if packet else None, _reason(error))
                continue
            yield from filter(self._is_intact, frames)

    def _packets(self) -> Iterator[Packet | None]:
        """The stream's packets, the last one empty: it makes the decoder give what it still holds."""
        import av

        gaps = self._container.format.name == "mpegts"
        try:
            for packet in self._container.demux():  # of all streams: sound may go on for longer
                if packet.pts is not None:
                    begin = float(packet.pts * packet.time_base)
                    self._begin = min(self._begin, begin)
                    self._reach = max(self._reach, begin + float((packet.duration or 0) * packet.time_base))
                if packet.stream.index == self._stream.index:
                    self._sent.append(packet.pts)
                    if packet.is_corrupt and gaps:
                        self._mark_missing(packet.pts)
                    self._broken |= packet.is_corrupt  # elsewhere it lies in a file's last bytes
                    yield packet
        except av.error.FFmpegError as error:
            self._broken, self._why = True, self._why or _reason(error)
            yield None

    def _is_intact(self, frame: VideoFrame) -> bool:
        """Whether a picture is undamaged and builds on none that is missing."""
        if self._lost and frame.pts in self._safe:
            return _is_undamaged(frame)
        if not _is_undamaged(frame):
            self._mark_missing(frame.pts)
        elif frame.key_frame:
            self._lost = False
        return not self._lost

    def _mark_missing(self, pts: int | None, why: str = "") -> None:
        """Notes that the picture with this time stamp is missing: those decoded after it may build on it."""
        self._broken, self._why = True, self._why or why
        if not self._lost:
            self._lost, self._safe = True, set(takewhile(lambda sent: sent != pts, self._sent))

    def _describe_damage(self, stopped: bool) -> MediaError | None:
        """What is wrong with the file, read to its end or until `stopped`."""
        if self._read == 0:
            return MediaError(self.name, "holds no frame that can be read; copy or download it again")
        told = self._whole if self._container.format.name in FORMATS_WITH_DURATION and not stopped else None
        missing = told is not None and self._reach - self._begin < told - DURATION_TOLERANCE
        if not self._broken and not missing:
            return None
        detail = f" ({self._why})" if self._why else ""
        length = f" of {self.seconds:.1f}" if missing and self.seconds else ""
        what = f"is truncated or broken{detail}: {self._read} frames came, the last at {self._last:.1f}{length} s"
        return MediaError(self.name, f"{what}; copy or download it again")


def _open(path: str, name: str, timeout: float) -> InputContainer:
    """PyAV's container of a file or address."""
    with requires_extra("video"):
        import av

    av.logging.set_level(av.logging.PANIC)  # what is wrong is said once, by us
    try:
        if is_address(path):
            return _open_address(path, name, timeout)
        _check_file(path, name)
        return av.open(f"file:{path}")  # else a name with a colon, as times have it, would be an address
    except av.error.InvalidDataError as error:
        if _is_mp4(path):  # many cameras write its index at the end
            raise MediaError(name, "is truncated: its index is missing; copy or download it again") from error
        raise MediaError(name, "is not a video that can be read; convert it to MP4") from error
    except (av.error.FFmpegError, OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise MediaError(name, f"cannot be read ({_reason(error)}); check its name and permissions") from error


def _open_address(address: str, name: str, timeout: float) -> InputContainer:
    """PyAV's container of what is behind an address."""
    import av

    if address.lower().startswith("file:"):
        raise MediaError(name, "is a file; give its name without file://")
    # Over UDP, RTSP's usual way, a lost packet is a torn frame.
    options = {"rtsp_transport": "tcp"} if address.lower().startswith("rtsp") else {}
    began = monotonic()
    try:
        return av.open(address, options=options, timeout=timeout)
    except (av.error.FFmpegError, ValueError) as error:
        why = _reason(error)
        if isinstance(error, av.error.InvalidDataError):  # as RTSP calls both
            why = "no data in time" if monotonic() - began >= timeout else "no video is there"
        raise MediaError(name, f"cannot be read ({why}); check its address") from error


def _check_file(path: str, name: str) -> None:
    """Raises MediaError when a file is missing, none or empty, OSError when it cannot be looked at."""
    try:
        status = Path(path).stat()
    except FileNotFoundError as error:
        raise MediaError(name, "not found; check the name") from error
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(name, "is a folder, not a video; name a video file")
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise MediaError(name, "is a pipe or device, not a file; save it as a video file first")
    if status.st_size == 0:
        raise MediaError(name, "is empty (0 bytes); copy or download it again")


def _is_mp4(path: str) -> bool:
    with Path(path).open("rb") as file:
        return file.read(8)[4:] == b"ftyp"


def _reason(error: Exception) -> str:
    """What FFmpeg says of an error, without its number and the address, which may hold a password."""
    if type(error).__name__ == "ExitError":  # how a wait that was cut off ends
        return "no data in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    """The container's first video stream, ready to be decoded; the container is closed where there is none."""
    try:
        return _decodable(container, name)
    except MediaError:
        container.close()
        raise


def _decodable(container: InputContainer, name: str) -> VideoStream:
    import av

    kind = container.format.name
    if kind == "image2" or kind.endswith("_pipe"):
        raise MediaError(name, "is a picture, not a video; save it under the name of one, as in photo.png")
    if not len(container.streams):
        raise MediaError(name, "is truncated or broken: nothing in it can be read; copy or download it again")
    # An album's cover is no video.
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise MediaError(name, "holds no video; name a file with pictures in it")
    stream = streams[0]
    try:
        if stream.codec_context is None:
            raise ValueError("no decoder for it here")
        stream.codec_context.open(strict=False)
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(name, f"cannot be decoded ({_reason(error)}); convert it to H.264") from error
    if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
        raise MediaError(name, f"has more than {MAX_PIXELS / 1e6:g} million pixels a frame; make it smaller first")
    return stream


def _is_undamaged(frame: VideoFrame) -> bool:
    """Whether a picture is undamaged and of a size that fits memory."""
    return not frame.is_corrupt and frame.width * frame.height <= MAX_PIXELS
