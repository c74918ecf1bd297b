"""Opens videos, cameras and streams; a live source gives its newest frame and reconnects after a loss."""

from __future__ import annotations

import re
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
from pipeline.video.reader import DEFAULT_RATE, READ_TIMEOUT, Frame, FrameSampler, VideoFile

INITIAL_BACKOFF, MAX_BACKOFF = 1.0, 30.0  # seconds between two tries to reconnect; each wait is twice the last


class LiveStream:
    """Frames of a camera or stream as they arrive; a slow caller gets the newest one, older frames are dropped.

    A first connection that fails raises MediaError. A later loss is reported on standard error, and the stream
    reconnects. A connection without data for `timeout` seconds is lost. `name` is safe to print: it has no password.
    """

    def __init__(
        self,
        camera: int | None = None,
        address: str = "",
        opened: VideoFile | None = None,
        timeout: float = READ_TIMEOUT,
        initial_backoff: float = INITIAL_BACKOFF,
    ) -> None:
        self.name = f"camera-{camera}" if camera is not None else redact_address(address)
        self.rate: Fraction = DEFAULT_RATE
        self._initial_backoff = self._backoff = initial_backoff
        self._connection_lost = False
        self._connect: Callable[[], Generator[Pixels]] = (
            (lambda: _open_camera(camera, self.name))
            if camera is not None
            else (lambda: VideoFile(address, self.name, timeout).live_frames())
        )
        self._first_connection = opened.live_frames() if opened else self._connect()
        self._newest: tuple[Pixels, float, datetime] | None = None
        self._condition = threading.Condition()
        self._stopped = threading.Event()
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


def redact_address(address: str) -> str:
    """Return an address that is safe to print: without user name, password and query."""
    scheme, _, rest = address.partition("://")
    host = re.split("[/?#]", rest)[0]
    # Some passwords hold characters that should be escaped, as %2F: then all text up to the last @ may be one.
    if "@" in host or not re.fullmatch(r"(\[.*\]|[^:]*)(:\d*)?", host):
        rest = rest.rpartition("@")[2]
    return f"{scheme}://{re.split('[?#]', rest)[0]}"


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


Source = VideoFile | LiveStream


def open_source(path: str, camera: int | None = None) -> Source:
    """Open a camera, a video file, or an address: of a whole video, or of a stream without an end.

    Raises:
        MediaError: it cannot be opened.
    """
    if camera is not None:
        return LiveStream(camera)
    if not is_address(path):
        return VideoFile(path)
    if path.lower().startswith(("http://", "https://")):
        video = VideoFile(path, redact_address(path), READ_TIMEOUT)
        # A stream has no length. It uses the connection that is open: many cameras admit only one.
        return LiveStream(address=path, opened=video) if video.seconds is None else video
    return LiveStream(address=path)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
