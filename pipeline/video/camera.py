"""Live frames of a camera or network stream: always the newest, and again after the connection was lost."""

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

from common.errors import MediaError
from common.images import Pixels
from pipeline.video.reader import DEFAULT_RATE, READ_TIMEOUT, Frame, FrameSampler, VideoFile

INITIAL_BACKOFF, MAX_BACKOFF = 1.0, 30.0  # seconds between two tries to connect again; each wait doubles the one before


class LiveStream:
    """Frames as they come from a camera or stream; who is slow gets the newest, older ones are dropped.

    camera: its number on this machine, or None; address: the stream's, where it is one; opened: the stream, where it
    was opened already. timeout: seconds without data after which a connection counts as lost. name: what messages,
    files and results call it, without the password.
    Raises MediaError when the first connection fails; a later loss is said on standard error and mended.
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
        """The frames that `sampling` takes, until `seconds` are over or the caller stops; index counts those seen.

        To be asked for once.
        """
        sampler = sampler or FrameSampler()
        begin, index = time.monotonic(), 0
        until = begin + seconds if seconds is not None else float("inf")
        reader = threading.Thread(target=self._read_forever, name=self.name, daemon=True)
        reader.start()
        try:
            while (newest := self._wait_for_newest(until)) is not None:
                pixels, came, clock = newest
                if sampler.takes(came - begin):
                    yield Frame(index, came - begin, pixels, clock)
                index += 1
        finally:
            self._stopped.set()
            reader.join(timeout=1.0)  # a read that hangs ends with the process

    def _wait_for_newest(self, until: float) -> tuple[Pixels, float, datetime] | None:
        """The newest frame, when there is one that came before `until`."""
        with self._condition:
            while self._newest is None and self._error is None and (left := until - time.monotonic()) > 0:
                self._condition.wait(min(left, 0.2))  # in steps, so that Ctrl-C is heard on every system
            if self._error is not None:
                raise self._error
            newest, self._newest = self._newest, None
        return newest if newest is not None and newest[1] < until else None

    def _read_forever(self) -> None:
        """Hands over frame after frame, and connects anew where they end."""
        first: Generator[Pixels] | None = self._first_connection
        try:
            while not self._stopped.is_set():
                why = "it ended"
                try:
                    self._publish(first or self._connect())
                except MediaError as error:
                    why = error.what.split(";")[0]
                first = None
                if not self._stopped.is_set():
                    self._connection_lost = True
                    _log(f"{self.name}: lost ({why}); trying again in {self._backoff:g} s")
                    self._stopped.wait(self._backoff)
                    self._backoff = min(2 * self._backoff, MAX_BACKOFF)
        except BaseException as error:  # a mistake of ours must not end in a silent wait
            with self._condition:
                self._error = error
                self._condition.notify()

    def _publish(self, frames: Generator[Pixels]) -> None:
        """Each frame as it comes, until they end."""
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
    """An address without user name, password and query, for messages and files."""
    scheme, _, rest = address.partition("://")
    host = re.split("[/?#]", rest)[0]
    # Some passwords hold what should be written as %2F and the like: then all up to the last @ may be one.
    if "@" in host or not re.fullmatch(r"(\[.*\]|[^:]*)(:\d*)?", host):
        rest = rest.rpartition("@")[2]
    return f"{scheme}://{re.split('[?#]', rest)[0]}"


def _open_camera(number: int, name: str) -> Generator[Pixels]:
    """Frames of a camera by OpenCV, which knows each system's (Video4Linux, AVFoundation, Media Foundation)."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong is said once, by us
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        capture.release()
        raise MediaError(name, "cannot be opened; check that it is plugged in, not in use, and try another number")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, where the system knows this setting
    return _read_camera(capture)


def _read_camera(capture: Any) -> Generator[Pixels]:
    import cv2

    try:
        while True:
            good, pixels = capture.read()
            if not good:
                return
            yield cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
