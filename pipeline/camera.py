"""Live frames of a camera or network stream: always the newest, and again after the connection was lost."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from datetime import datetime
from fractions import Fraction
from typing import Any
from urllib.parse import urlsplit

from pipeline.video import USUAL_RATE, Frame, Sampling, open_container, reason, upright, video_stream
from stage1_faces.images import MediaError, Pixels

TIMEOUT = 10.0  # seconds without a frame after which a connection counts as lost
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between two tries to connect again; each wait doubles the one before
# Over UDP, RTSP's usual way, a lost packet is a torn frame; other protocols pass these options over.
OPTIONS = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay"}


class Live:
    """Frames as they come from a camera or stream; who is slow gets the newest, older ones are dropped.

    camera: its number on this machine, or None; address: the stream's, where it is one. name: what messages, files
    and results call it, without the password.
    Raises MediaError when the first connection fails; a later loss is said on standard error and mended.
    """

    def __init__(self, camera: int | None = None, address: str = "", timeout: float = TIMEOUT) -> None:
        self.name = f"camera-{camera}" if camera is not None else redacted(address)
        self.rate: Fraction = USUAL_RATE
        self.lost = 0  # how often the connection was
        self._timeout = timeout
        self._open: Callable[[], Iterator[Pixels]] = (
            (lambda: _camera(camera, self.name))
            if camera is not None
            else (lambda: _stream(address, self.name, timeout))
        )
        self._first = self._open()
        self._newest: tuple[Pixels, float, datetime] | None = None
        self._came = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None

    def frames(self, sampling: Sampling | None = None, seconds: float | None = None) -> Generator[Frame]:
        """The frames that `sampling` takes, until `seconds` are over or the caller stops; index counts those seen."""
        sampling = sampling or Sampling()
        reader = threading.Thread(target=self._read, name=self.name, daemon=True)
        reader.start()
        begin, index = time.monotonic(), -1
        try:
            while True:
                left = None if seconds is None else seconds - (time.monotonic() - begin)
                with self._came:
                    # In steps, so that Ctrl-C is heard on every system.
                    while self._newest is None and self._error is None and (left is None or left > 0):
                        self._came.wait(0.2 if left is None else min(left, 0.2))
                        left = None if seconds is None else seconds - (time.monotonic() - begin)
                    newest, self._newest = self._newest, None
                if self._error is not None:
                    raise self._error
                if newest is None:
                    return
                pixels, came, clock = newest
                at = came - begin
                index += 1
                if seconds is not None and at >= seconds:
                    return
                if sampling.takes(at):
                    yield Frame(index, max(at, 0.0), pixels, clock)
        finally:
            self._ended = True
            reader.join(timeout=1.0)  # a read that hangs ends with the process

    def _read(self) -> None:
        """Hands over frame after frame, and connects anew where that ends."""
        frames, wait = self._first, FIRST_WAIT
        try:
            while not self._ended:
                why = "it ended"
                try:
                    for pixels in frames:
                        if self._ended:
                            return
                        if wait > FIRST_WAIT:
                            _say(f"{self.name}: is back")
                        wait = FIRST_WAIT
                        with self._came:
                            self._newest = (pixels, time.monotonic(), datetime.now().astimezone())
                            self._came.notify()
                except MediaError as error:
                    why = error.what
                finally:
                    _close(frames)
                self.lost += wait == FIRST_WAIT
                frames, wait = self._again(why, wait)
        except BaseException as error:  # a mistake of ours must not end in a silent wait
            with self._came:
                self._error = error
                self._came.notify()

    def _again(self, why: str, wait: float) -> tuple[Iterator[Pixels], float]:
        """Waits, then connects; the new frames, and how long to wait before the next try."""
        while True:
            _say(f"{self.name}: lost ({why}); trying again in {wait:g} s")
            until = time.monotonic() + wait
            while time.monotonic() < until and not self._ended:
                time.sleep(0.05)
            wait = min(2 * wait, LONGEST_WAIT)
            if self._ended:
                return iter(()), wait
            try:
                return self._open(), wait
            except MediaError as error:
                why = error.what


def redacted(address: str) -> str:
    """An address without user name, password and query, for messages and files."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _camera(number: int, name: str) -> Iterator[Pixels]:
    """Frames of a camera by OpenCV, which knows each system's (Video4Linux, AVFoundation, Media Foundation)."""
    import cv2

    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        capture.release()
        raise MediaError(name, "cannot be opened; check that it is plugged in, not in use, and try another number")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, where the system knows this setting
    return _captured(capture)


def _captured(capture: Any) -> Iterator[Pixels]:
    import cv2

    try:
        while True:
            good, pixels = capture.read()
            if not good:
                return
            yield cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def _stream(address: str, name: str, timeout: float) -> Iterator[Pixels]:
    """Frames of a network stream by PyAV."""
    container = open_container(address, name, OPTIONS, timeout)
    return _decoded(container, video_stream(container, name), name)


def _decoded(container: Any, stream: Any, name: str) -> Iterator[Pixels]:
    import av

    with container:
        try:
            for packet in container.demux(stream):
                # A packet that was torn on its way is no lost connection.
                with suppress(av.error.InvalidDataError):
                    for frame in stream.codec_context.decode(packet):
                        if not frame.is_corrupt:
                            yield upright(frame, name)
        except av.error.FFmpegError as error:
            raise MediaError(name, reason(error)) from error


def _close(frames: Iterator[Pixels]) -> None:
    close = getattr(frames, "close", None)
    if close is not None:
        close()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
