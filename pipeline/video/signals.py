"""Stops a live source between two frames at Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class StopSignals:
    """Raises KeyboardInterrupt for a signal, but never while a frame is written: all outputs hold the same frames."""

    def __init__(self) -> None:
        self._held = self._requested = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle Ctrl-C and SIGTERM inside the block, then restore the handlers from before."""
        previous: dict[signal.Signals, Any] = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                with suppress(ValueError):  # not the main thread
                    previous[number] = signal.signal(number, self._handle)
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay a signal until the block ends."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._requested:
            raise KeyboardInterrupt

    def _handle(self, *_: object) -> None:
        if not self._held:
            raise KeyboardInterrupt
        self._requested = True
