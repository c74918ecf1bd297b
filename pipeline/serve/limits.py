"""The limits of the HTTP server, for one request and for all of them together."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import UserError
from common.images import MAX_PIXELS

MAX_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Raises:
        UserError: a limit is out of range; the message names its flag.
    """

    max_bytes: int = 20_000_000
    """Largest upload, in bytes."""
    max_pixels: int = 40_000_000
    """Largest photo, in pixels; read from the file's header before anything is decoded."""
    detect_seconds: float = 30
    """Longest time from a whole upload to its answer, in seconds."""
    head_seconds: float = 10
    """Longest time to send a request's head, in seconds."""
    body_seconds: float = 30
    """Longest time to send an upload, or to receive a piece of an answer, in seconds."""
    waiting: int = 16
    """Most requests that wait while every worker is busy; further ones are refused."""
    connections: int = 256
    """Most open connections; further ones are refused."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("max_bytes", 1, 1_000_000_000),
            ("max_pixels", 1, MAX_PIXELS),
            ("detect_seconds", 0.1, MAX_SECONDS),
            ("head_seconds", 0.1, MAX_SECONDS),
            ("body_seconds", 0.1, MAX_SECONDS),
            ("waiting", 0, 10_000),
            ("connections", 1, 10_000),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise UserError(f"--{name.replace('_', '-')} is {value:g}; give {least:g} to {most:.12g}")
