"""Builds HTTP requests, well-formed and malformed, from a random generator."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from tests.load.server_process import Target

Option = TypeVar("Option")


class SendStep(Enum):
    """What a client does apart from sending and waiting."""

    HALF_CLOSE = "half-close"
    """Say that no more data comes."""
    RESET = "reset"
    """Break the connection off."""


Steps = list[bytes | float | SendStep]  # bytes are sent; a number is a pause in seconds


@dataclass(frozen=True)
class RequestFuzzer:
    """Builds requests for a server."""

    target: Target
    """The server."""
    photo: bytes
    """A good JPEG, which malformed requests damage."""
    max_bytes: int
    """The server's limit of an upload, in bytes."""
    slow_seconds: float
    """Seconds after which the server must have refused a slow client."""
    rng: random.Random
    """Source of all random choices."""

    def head(self, *lines: str, method: str = "POST", path: str = "/v1/detect", host: bool = True) -> bytes:
        """Return a request's head with these header lines."""
        host_line = [f"Host: {self.target.host}:{self.target.port}"] if host else []
        auth_lines = [f"{name}: {value}" for name, value in self.target.headers().items()]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *host_line, *auth_lines, *lines, "", ""]).encode("latin-1")

    def post(self, body: bytes, kind: str | None = "image/jpeg", *lines: str, path: str = "/v1/detect") -> bytes:
        """Return a whole request that posts a body; `kind` is its Content-Type."""
        type_line = [] if kind is None else [f"Content-Type: {kind}"]
        return self.head(f"Content-Length: {len(body)}", *type_line, *lines, path=path) + body

    def form(self, data: bytes, disposition: str = 'form-data; name="image"; filename="a.jpg"') -> tuple[bytes, str]:
        """Return a multipart form with one part, and its Content-Type."""
        boundary = f"mark{self.rng.randrange(10**9)}"
        part = f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
        return part + data + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"

    def random_bytes(self, min_size: int, max_size: int) -> bytes:
        """Return random bytes of a random size."""
        return self.rng.randbytes(self.rng.randint(min_size, max_size))

    def choose(self, options: Sequence[Option]) -> Option:
        """Return one of the options."""
        return self.rng.choice(options)

    def truncated(self, data: bytes) -> bytes:
        """Return the beginning of some data, at most three quarters of it."""
        return data[: self.rng.randint(1, len(data) * 3 // 4)]

    def chunks(self, *chunks: bytes) -> bytes:
        """Return a POST whose body is given as chunks."""
        return self.head("Transfer-Encoding: chunked", "Content-Type: image/jpeg") + b"".join(chunks)


MakeSteps = Callable[[RequestFuzzer], Steps]


def register(kinds: dict[str, MakeSteps], name: str) -> Callable[[MakeSteps], MakeSteps]:
    """Return a decorator that adds a function to `kinds` under a name."""

    def add(make: MakeSteps) -> MakeSteps:
        kinds[name] = make
        return make

    return add


def chunk(data: bytes) -> bytes:
    """Return a well-formed chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """Return a grey PNG that claims a size, with these further chunks (type, data)."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = block(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(block(*each) for each in more) + block(b"IEND", b"")
