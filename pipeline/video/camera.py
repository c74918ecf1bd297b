"""Opens videos, cameras and streams; a live source gives its newest frame and reconnects after a loss."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from datetime import datetime
from fractions import Fraction
from typing import Any

import cv2

from common.errors import MediaError
from common.images import Pixels
from common.paths import is_address
from pipeline.video.formats.animation import AnimationFile, is_animation
from pipeline.video.network.address import parse_address, redact_address
from pipeline.video.network.snapshot import DEFAULT_FETCHES_PER_SECOND, SnapshotCamera
from pipeline.video.options import RtspTransport
from pipeline.video.reader import DEFAULT_RATE, READ_TIMEOUT, Frame, FrameSampler, NoVideoError, VideoFile

INITIAL_BACKOFF, MAX_BACKOFF = 1.0, 30.0  # seconds between two tries to reconnect; each wait is twice the last


class LiveStream:
    """Frames of a camera or stream as they arrive; a slow caller gets the newest one, older frames are dropped.

    `opened` is a connection that is open already, or a camera whose picture is fetched again and again. A first
    connection that fails raises MediaError. A later loss is reported on standard error, and the stream
    reconnects. A connection without data for `timeout` seconds is lost. `name` is safe to print: it has no password.
    """

    def __init__(
        self,
        camera: int | None = None,
        address: str = "",
        opened: VideoFile | SnapshotCamera | None = None,
        timeout: float = READ_TIMEOUT,
        initial_backoff: float = INITIAL_BACKOFF,
        rtsp_transport: RtspTransport = "tcp",
    ) -> None:
        self.name = f"camera-{camera}" if camera is not None else redact_address(address)
        self.rate: Fraction = DEFAULT_RATE
        self._initial_backoff = self._backoff = initial_backoff
        self._connection_lost = False
        self._stopped = threading.Event()
        self.fetched = isinstance(opened, SnapshotCamera)  # whether pictures are fetched one by one
        self._connect: Callable[[], Generator[Pixels]]
        if camera is not None:
            self._connect = lambda: _open_camera(camera, self.name)
        elif isinstance(opened, SnapshotCamera):
            self.rate = opened.rate
            self._connect = lambda: opened.live_frames(self._stopped.wait)
        else:
            target = parse_address(address).url
            self._connect = lambda: VideoFile(target, self.name, timeout, rtsp_transport).live_frames()
        self._first_connection = opened.live_frames() if isinstance(opened, VideoFile) else self._connect()
        self._newest: tuple[Pixels, float, datetime] | None = None
        self._condition = threading.Condition()
        self._error: BaseException | None = None

    def frames(self, sampler: FrameSampler | None = None, seconds: float | None = None) -> Generator[Frame]:
        """Yield the frames that `sampler` takes, until `seconds` are over or the caller stops; call it once.

        The index of a frame does not count dropped frames.
        """
        sampler = sampler or FrameSampler()
        begin, index = time.monotonic(), 0
        until = begin + seconds if seconds is not None else float("inf")
        reader = threading.Thread(target=self._read_forever, name=self.name, daemon=True)
        reader.start()
        try:
            while (newest := self._wait_for_newest(until)) is not None:
                pixels, arrival, clock = newest
                if sampler.takes(arrival - begin):
                    yield Frame(index, arrival - begin, pixels, clock)
                index += 1
        finally:
            self._stopped.set()
            reader.join(timeout=1.0)  # a read that hangs ends with the process

    def _wait_for_newest(self, until: float) -> tuple[Pixels, float, datetime] | None:
        """Return (pixels, arrival time, clock) of the newest frame; None when no frame arrived before `until`."""
        with self._condition:
            while self._newest is None and self._error is None and (left := until - time.monotonic()) > 0:
                self._condition.wait(min(left, 0.2))  # in steps, so that Ctrl-C works on every system
            if self._error is not None:
                raise self._error
            newest, self._newest = self._newest, None
        return newest if newest is not None and newest[1] < until else None

    def _read_forever(self) -> None:
        """Publish frame after frame, and reconnect where they end."""
        first: Generator[Pixels] | None = self._first_connection
        try:
            while not self._stopped.is_set():
                reason = "it ended"
                try:
                    self._publish(first or self._connect())
                except MediaError as error:
                    reason = error.reason.split(";")[0]
                first = None
                if not self._stopped.is_set():
                    self._connection_lost = True
                    _log(f"{self.name}: lost ({reason}); trying again in {self._backoff:g} s")
                    self._stopped.wait(self._backoff)
                    self._backoff = min(2 * self._backoff, MAX_BACKOFF)
        except BaseException as error:  # a programming error must not end in a silent wait
            with self._condition:
                self._error = error
                self._condition.notify()

    def _publish(self, frames: Generator[Pixels]) -> None:
        """Publish each frame as the newest one, until the frames end."""
        with closing(frames):
            for pixels in frames:
                if self._stopped.is_set():
                    return
                if self._connection_lost:
                    _log(f"{self.name}: is back")
                    self._connection_lost, self._backoff = False, self._initial_backoff
                with self._condition:
                    self._newest = (pixels, time.monotonic(), datetime.now().astimezone())
                    self._condition.notify()


def _open_camera(number: int, name: str) -> Generator[Pixels]:
    """Open a camera by OpenCV, which knows Video4Linux, AVFoundation and Media Foundation."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # we report the error ourselves, once
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        capture.release()
        raise MediaError(name, "cannot be opened; check that it is plugged in, not in use, and try another number")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # no old frames, where the system knows this setting
    return _read_camera(capture)


def _read_camera(capture: Any) -> Generator[Pixels]:
    try:
        while True:
            good, pixels = capture.read()
            if not good:
                return
            yield cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


Source = VideoFile | AnimationFile | LiveStream


def open_source(
    path: str, camera: int | None = None, max_fps: float | None = None, rtsp_transport: RtspTransport = "tcp"
) -> Source:
    """Open a camera, a video file, or an address: of a whole video, of a stream without an end, or of a picture.

    Args:
        path: a file name or an address.
        camera: number of a camera of this machine, which is opened instead.
        max_fps: how often per second a picture at an address is fetched; DEFAULT_FETCHES_PER_SECOND when None.
        rtsp_transport: how an RTSP camera sends its packets.

    Raises:
        MediaError: it cannot be opened.
    """
    if camera is not None:
        return LiveStream(camera)
    if not is_address(path):
        return AnimationFile(path) if is_animation(path) else VideoFile(path)
    if path.lower().startswith(("http://", "https://")):
        return _open_http(path, max_fps or DEFAULT_FETCHES_PER_SECOND)
    return LiveStream(address=path, rtsp_transport=rtsp_transport)


def _open_http(address: str, fetches_per_second: float) -> Source:
    """Open an HTTP address; what is there decides, not the end of its name."""
    parts, name = parse_address(address), redact_address(address)
    try:
        video = VideoFile(parts.url, name, READ_TIMEOUT)
    except NoVideoError:
        snapshots = SnapshotCamera(parts, name, READ_TIMEOUT, fetches_per_second)
        if not snapshots.shows_pictures():
            raise
        _log(f"{name}: shows a picture; fetching it {fetches_per_second:g} times a second (--max-fps) until Ctrl-C")
        return LiveStream(address=address, opened=snapshots)
    # A stream has no length. It uses the connection that is open: many cameras admit only one.
    return LiveStream(address=address, opened=video) if video.is_stream else video


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
