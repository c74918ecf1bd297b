"""Reads a video frame by frame: upright RGB with time stamps, before and after damaged parts."""

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
from typing import TYPE_CHECKING, Literal

from common.cli import requires_extra
from common.errors import MediaError
from common.images import MAX_PIXELS, Pixels
from common.paths import is_address
from pipeline.video.autorotate import Autorotator, square_pixels
from pipeline.video.formats.joined_jpegs import FORMAT as JOINED_JPEGS
from pipeline.video.formats.joined_jpegs import follows_torn_header, is_torn, open_container
from pipeline.video.formats.transport_stream import ends_within_packet
from pipeline.video.network.address import ENCODING_HINT
from pipeline.video.options import RtspTransport

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

MIN_RATE = Fraction(1, 1000)  # frames per second of an annotated video; a lower rate would round to 0
DEFAULT_RATE = Fraction(25)  # frames per second, where a file does not say
READ_TIMEOUT = 10.0  # seconds without data after which an address counts as lost
# Containers whose header holds the duration; for others FFmpeg measures or guesses it.
FORMATS_WITH_DURATION = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv", "asf")
DURATION_TOLERANCE = 0.5  # seconds by which a header may exceed the packets: headers are rounded


class NoVideoError(MediaError):
    """An address that answers, but not with a video; it may show a picture."""


# What a frame's faces are: found in it by the detector; those of its last run, as nothing moved; or those of its last
# run with boxes that moved along with the picture.
FrameAction = Literal["detect", "hold", "follow"]


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    index: int  # number of the frame from 0; skipped frames count
    time: float  # seconds from the start
    pixels: Pixels  # uint8 (H, W, 3) RGB, upright, with square pixels
    clock: datetime | None = None  # date and time of a live frame; None for a file
    action: FrameAction = "detect"


class FrameSampler:
    """Takes every `stride`th frame, and at most `max_fps` frames per second of video (None: no limit)."""

    def __init__(self, stride: int = 1, max_fps: float | None = None) -> None:
        self._stride, self._step = stride, 1 / max_fps if max_fps else 0.0
        self._count, self._due = 0, -inf

    def takes(self, time: float) -> bool:
        """Return whether the next frame, at `time` seconds, is taken."""
        on_stride = self._count % self._stride == 0
        self._count += 1
        # Time stamps are rounded: a thousandth of a step early is accepted.
        if not on_stride or time < self._due - self._step / 1000:
            return False
        # Count from the due time, not from this frame's time: else 20 of 30 frames per second would become 15.
        self._due = self._due + self._step if time - self._due < self._step else time + self._step
        return True


class VideoFile:
    """A video file, or the video at an address. Call `frames` or `live_frames` once.

    Args:
        path: file name or address.
        name: name in errors and results; None is `path`.
        timeout: seconds to wait for the next bytes of an address.
        rtsp_transport: how an RTSP camera sends its packets: "tcp" or "udp".

    Raises:
        MediaError: it cannot be opened or holds no video; NoVideoError where an address answers without one.
        UserError: the video extra is not installed.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        timeout: float = READ_TIMEOUT,
        rtsp_transport: RtspTransport = "tcp",
    ) -> None:
        self.name, self._path = name or path, path
        self._container = _open(path, self.name, timeout, rtsp_transport)
        try:
            self._stream = _video_stream(self._container, self.name)
        except MediaError:
            self._container.close()
            raise
        # Frames per second.
        self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or DEFAULT_RATE
        total, duration, base = self._container.duration, self._stream.duration, self._stream.time_base
        self._container_seconds = total / 1e6 if total is not None else None
        # The duration in the header; None for a stream without an end.
        self.seconds = float(duration * base) if duration is not None and base is not None else self._container_seconds
        self.damage: MediaError | None = None  # the error of a damaged file, once `frames` has ended
        self._autorotate = Autorotator(self._stream.sample_aspect_ratio)
        self._count, self._last_time = 0, 0.0  # number of frames read, and the time of the last one
        self._damaged, self._damage_reason = False, ""
        self._reference_missing = False  # whether frames may build on a missing one,
        self._safe_pts: set[int | None] = set()  # except for those with these time stamps,
        self._sent_pts: deque[int | None] = deque(maxlen=32)  # which are the last ones in decoding order
        self._begin, self._end = 0.0, 0.0  # seconds of the first and last packet; 0 is always included
        self._packets_last = True  # whether the packets of the video say how long they last

    def frames(self, sampler: FrameSampler | None = None, seconds: float | None = None) -> Generator[Frame]:
        """Yield the frames of the first `seconds` that `sampler` takes; the other frames are not converted to RGB.

        Of a damaged file, the frames before the damage and from the next intact key frame on are yielded.
        """
        sampler = sampler or FrameSampler()
        stopped = False
        with self._container:
            for frame, time in self._timed_frames():
                stopped = seconds is not None and time >= seconds
                if stopped:
                    break
                self._count, self._last_time = self._count + 1, time
                if sampler.takes(time):
                    yield Frame(self._count - 1, time, self._autorotate(frame))
            self.damage = self._describe_damage(stopped)

    @property
    def is_stream(self) -> bool:
        """Whether an address has no end: neither the header nor the server says how long it is."""
        return self.seconds is None and self._container.size <= 0

    def live_frames(self) -> Generator[Pixels]:
        """Yield every frame of a stream without an end; raise MediaError where the stream breaks off."""
        import av

        with self._container:
            try:
                for packet in self._container.demux(self._stream):
                    # A frame that was damaged in transit does not end the connection.
                    with suppress(av.error.InvalidDataError):
                        for frame in filter(self._is_undamaged, self._stream.codec_context.decode(packet)):
                            yield self._autorotate(frame)
            except av.error.FFmpegError as error:
                raise MediaError(self.name, _reason(error)) from error

    def _timed_frames(self) -> Iterator[tuple[VideoFrame, float]]:
        """Yield each frame with its seconds from the first one, which never fall."""
        step, start = 1 / float(self.rate), None
        time = -step
        for frame in self._decoded_frames():
            previous, stamp = time, self._stamp(frame)
            time = previous + step if stamp is None or start is None else stamp - start
            if time < previous:  # joined recordings: the time stamps start again
                time, start = previous + step, None
            if start is None and stamp is not None:
                start = stamp - time
            yield frame, time

    def _stamp(self, frame: VideoFrame) -> float | None:
        """Return a frame's time stamp in seconds; None where it has none.

        AVI stores no presentation times. FFmpeg guesses them, wrongly for frames that are stored in another order. The
        decoder returns frames in the order of presentation, so the decoding times fit.
        """
        if self._container.format.name != "avi":
            return frame.time
        return None if frame.dts is None or frame.time_base is None else float(frame.dts * frame.time_base)

    def _decoded_frames(self) -> Iterator[VideoFrame]:
        """Yield every intact frame."""
        import av

        for packet in self._packets():
            try:
                frames = self._stream.codec_context.decode(packet)
            except av.error.FFmpegError as error:
                self._mark_missing(packet.pts if packet else None, _reason(error))
                continue
            yield from filter(self._is_intact, frames)

    def _packets(self) -> Iterator[Packet | None]:
        """Yield the packets of the video; the last is empty and makes the decoder return the frames that it holds."""
        import av

        is_transport_stream = self._container.format.name == "mpegts"
        try:
            for packet in self._container.demux():  # of all streams: the sound may be longer
                if packet.pts is not None:
                    begin = float(packet.pts * packet.time_base)
                    self._begin = min(self._begin, begin)
                    self._end = max(self._end, begin + float((packet.duration or 0) * packet.time_base))
                if packet.stream.index == self._stream.index:
                    self._packets_last &= packet.pts is None or bool(packet.duration)
                    self._sent_pts.append(packet.pts)
                    if packet.is_corrupt and is_transport_stream:
                        self._mark_missing(packet.pts)
                    if self._container.format.name == JOINED_JPEGS:
                        if is_torn(packet):
                            self._mark_missing(packet.pts)
                            continue
                        self._damaged |= follows_torn_header(packet)
                    self._damaged |= packet.is_corrupt  # in other containers: in the last bytes of a file
                    yield packet
            if is_transport_stream and not is_address(self._path) and ends_within_packet(Path(self._path)):
                self._damaged = True
        except av.error.FFmpegError as error:
            self._damaged, self._damage_reason = True, self._damage_reason or _reason(error)
            yield None

    def _is_intact(self, frame: VideoFrame) -> bool:
        """Return whether a frame is undamaged and builds on no missing frame."""
        if self._reference_missing and frame.pts in self._safe_pts:
            return self._is_undamaged(frame)
        if not self._is_undamaged(frame):
            self._mark_missing(frame.pts)
        elif frame.key_frame:
            self._reference_missing = False
        return not self._reference_missing

    def _is_undamaged(self, frame: VideoFrame) -> bool:
        """Return whether a frame is undamaged and fits memory."""
        return not frame.is_corrupt and frame.width * frame.height * max(self._autorotate.stretch) <= MAX_PIXELS

    def _mark_missing(self, pts: int | None, reason: str = "") -> None:
        """Record that the frame with this time stamp is missing; later frames in decoding order may build on it."""
        self._damaged, self._damage_reason = True, self._damage_reason or reason
        if not self._reference_missing:
            self._reference_missing = True
            self._safe_pts = set(takewhile(lambda sent: sent != pts, self._sent_pts))

    def _describe_damage(self, stopped: bool) -> MediaError | None:
        """Return the error of a damaged file; `stopped`: the file was not read to its end."""
        if self._count == 0:
            fix = "download it, and name the file" if is_address(self.name) else "copy or download it again"
            return MediaError(self.name, f"holds no frame that can be read; {fix}")
        in_header = self._container.format.name in FORMATS_WITH_DURATION and not stopped
        expected = self._container_seconds if in_header else None
        step = self._last_time / max(self._count - 1, 1)  # on average
        tolerance = DURATION_TOLERANCE + (0 if self._packets_last else step)
        missing = expected is not None and self._end - self._begin < expected - tolerance
        if not self._damaged and not missing:
            return None
        detail = f" ({self._damage_reason})" if self._damage_reason else ""
        length = f" of {self.seconds:.1f}" if missing and self.seconds else ""
        what = f"is truncated or broken{detail}: read {self._count} frames, the last at {self._last_time:.1f}{length} s"
        return MediaError(self.name, f"{what}; copy or download it again")


def _open(path: str, name: str, timeout: float, rtsp_transport: RtspTransport) -> InputContainer:
    """Open a file or address with PyAV."""
    with requires_extra("video"):
        import av

    av.logging.set_level(av.logging.PANIC)  # we report the error ourselves, once
    try:
        if is_address(path):
            return _open_address(path, name, timeout, rtsp_transport)
        _check_file(path, name)
        return open_container(f"file:{path}")  # else a name with a colon, such as a time, would be an address
    except av.error.InvalidDataError as error:
        if _is_mp4(path):  # many cameras write the index at the end
            raise MediaError(name, "is truncated: its index is missing; copy or download it again") from error
        raise MediaError(name, "is not a video that can be read; convert it to MP4") from error
    except (av.error.FFmpegError, OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise MediaError(name, f"cannot be read ({_reason(error)}); check its name and permissions") from error


def _open_address(address: str, name: str, timeout: float, rtsp_transport: RtspTransport) -> InputContainer:
    """Open an address with PyAV."""
    import av

    if address.lower().startswith("file:"):
        raise MediaError(name, "is a file; use its name without file://")
    is_rtsp = address.lower().startswith("rtsp")
    # Over UDP, RTSP's default in FFmpeg, a lost packet damages a frame.
    options: dict[str, str] = {"rtsp_transport": rtsp_transport} if is_rtsp else {}
    began = monotonic()
    try:
        return av.open(address, options=options, timeout=timeout)
    except (av.error.FFmpegError, ValueError) as error:
        reason, kind = _reason(error), MediaError
        if isinstance(error, av.error.InvalidDataError):  # RTSP raises it for both
            late = monotonic() - began >= timeout
            reason, kind = ("no data in time", MediaError) if late else ("no video is there", NoVideoError)
        elif isinstance(error, av.error.HTTPClientError):  # the camera may dislike FFmpeg's way of asking
            kind = NoVideoError
        fix = _address_fix(reason, rtsp_transport if is_rtsp else None)
        raise kind(name, f"cannot be read ({reason}); {fix}") from error


def _address_fix(reason: str, transport: RtspTransport | None) -> str:
    """Return what to do about an address that FFmpeg cannot open; `transport` is None except for RTSP."""
    other = "tcp" if transport == "udp" else "udp"
    if transport is not None and "Protocol not supported" in reason:
        return f"the camera refuses {transport.upper()}, use --rtsp-transport {other}"
    if transport == "udp" and reason == "no data in time":  # a firewall may drop the packets
        return "check its address, or use --rtsp-transport tcp"
    if "401" in reason:
        return f"check the user and password in its address; {ENCODING_HINT}"
    return "check its address"


def _check_file(path: str, name: str) -> None:
    """Raise MediaError for a missing or empty file or another kind of path, OSError for a path without access."""
    try:
        status = Path(path).stat()
    except FileNotFoundError as error:
        raise MediaError(name, "not found; check the name") from error
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(name, "is a folder, not a video; name a video file")
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
        raise MediaError(name, "is a pipe or device, not a file; save it as a video file first")
    if status.st_size == 0:
        raise MediaError(name, "is empty (0 bytes); copy or download it again")


def _is_mp4(path: str) -> bool:
    with Path(path).open("rb") as file:
        return file.read(8)[4:] == b"ftyp"


def _reason(error: Exception) -> str:
    """Return FFmpeg's text of an error without the number and the address, which may hold a password."""
    if type(error).__name__ == "ExitError":  # PyAV's error at a timeout
        return "no data in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    """Return the first video stream with an open decoder."""
    import av

    kind = container.format.name
    if kind == "image2" or kind.endswith("_pipe"):
        if is_address(name):  # FFmpeg takes all that ends in .jpg for a picture
            raise NoVideoError(name, "holds no video; check its address")
        raise MediaError(name, "is a picture, not a video; use a picture's file name, such as photo.png")
    if not len(container.streams):
        raise MediaError(name, "is truncated or broken: nothing in it can be read; copy or download it again")
    # The cover of an album is not a video.
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise MediaError(name, "holds no video; name a file with a video stream")
    stream = streams[0]
    try:
        if stream.codec_context is None:
            raise ValueError("no decoder is installed")
        if stream.codec_context.name == "h264":
            stream.codec_context.thread_count = 1  # with more threads, the decoder marks no damaged frame
        stream.codec_context.open(strict=False)
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(name, f"cannot be decoded ({_reason(error)}); convert it to H.264") from error
    stretch = max(square_pixels(stream.sample_aspect_ratio))
    if stream.codec_context.width * stream.codec_context.height * stretch > MAX_PIXELS:
        raise MediaError(name, f"has more than {MAX_PIXELS / 1e6:g} million pixels per frame; make it smaller first")
    return stream
