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
from pipeline.video.reader import TIMEOUT, USUAL_RATE, Frame, Sampling, VideoFile

FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between two tries to connect again; each wait doubles the one before


class Live:
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
        timeout: float = TIMEOUT,
        first_wait: float = FIRST_WAIT,
    ) -> None:
        self.name = f"camera-{camera}" if camera is not None else redacted(address)
        self.rate: Fraction = USUAL_RATE
        self._first_wait = self._pause = first_wait
        self._lost = False
        self._open: Callable[[], Generator[Pixels]] = (
            (lambda: _camera(camera, self.name))
            if camera is not None
            else (lambda: VideoFile(address, self.name, timeout).live())
        )
        self._first = opened.live() if opened else self._open()
        self._newest: tuple[Pixels, float, datetime] | None = None
        self._came = threading.Condition()
        self._ended = threading.Event()
        self._error: BaseException | None = None

    def frames(self, sampling: Sampling | None = None, seconds: float | None = None) -> Generator[Frame]:
        """The frames that `sampling` takes, until `seconds` are over or the caller stops; index counts those seen.

        To be asked for once.
        """
        sampling = sampling or Sampling()
        begin, index = time.monotonic(), 0
        until = begin + seconds if seconds is not None else float("inf")
        reader = threading.Thread(target=self._read, name=self.name, daemon=True)
        reader.start()
        try:
            while (newest := self._wait(until)) is not None:
                pixels, came, clock = newest
                if sampling.takes(came - begin):
                    yield Frame(index, came - begin, pixels, clock)
                index += 1
        finally:
            self._ended.set()
            reader.join(timeout=1.0)  # a read that hangs ends with the process

    def _wait(self, until: float) -> tuple[Pixels, float, datetime] | None:
        """The newest frame, when there is one that came before `until`."""
        with self._came:
            while self._newest is None and self._error is None and (left := until - time.monotonic()) > 0:
                self._came.wait(min(left, 0.2))  # in steps, so that Ctrl-C is heard on every system
            if self._error is not None:
                raise self._error
            newest, self._newest = self._newest, None
        return newest if newest is not None and newest[1] < until else None

    def _read(self) -> None:
        """Hands over frame after frame, and connects anew where they end."""
        first: Generator[Pixels] | None = self._first
        try:
            while not self._ended.is_set():
                why = "it ended"
                try:
                    self._hand_over(first or self._open())
                except MediaError as error:
                    why = error.what.split(";")[0]
                first = None
                if not self._ended.is_set():
                    self._lost = True
                    _say(f"{self.name}: lost ({why}); trying again in {self._pause:g} s")
                    self._ended.wait(self._pause)
                    self._pause = min(2 * self._pause, LONGEST_WAIT)
        except BaseException as error:  # a mistake of ours must not end in a silent wait
            with self._came:
                self._error = error
                self._came.notify()

    def _hand_over(self, frames: Generator[Pixels]) -> None:
        """Each frame as it comes, until they end."""
        with closing(frames):
            for pixels in frames:
                if self._ended.is_set():
                    return
                if self._lost:
                    _say(f"{self.name}: is back")
                    self._lost, self._pause = False, self._first_wait
                with self._came:
                    self._newest = (pixels, time.monotonic(), datetime.now().astimezone())
                    self._came.notify()


def redacted(address: str) -> str:
    """An address without user name, password and query, for messages and files."""
    scheme, _, rest = address.partition("://")
    host = re.split("[/?#]", rest)[0]
    # Some passwords hold what should be written as %2F and the like: then all up to the last @ may be one.
    if "@" in host or not re.fullmatch(r"(\[.*\]|[^:]*)(:\d*)?", host):
        rest = rest.rpartition("@")[2]
    return f"{scheme}://{re.split('[?#]', rest)[0]}"


def _camera(number: int, name: str) -> Generator[Pixels]:
    """Frames of a camera by OpenCV, which knows each system's (Video4Linux, AVFoundation, Media Foundation)."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong is said once, by us
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        capture.release()
        raise MediaError(name, "cannot be opened; check that it is plugged in, not in use, and try another number")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, where the system knows this setting
    return _captured(capture)


def _captured(capture: Any) -> Generator[Pixels]:
    import cv2

    try:
        while True:
            good, pixels = capture.read()
            if not good:
                return
            yield cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
