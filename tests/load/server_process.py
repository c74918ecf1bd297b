"""A real server in a process of its own, and how to ask it."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from common.errors import UserError

HERE = "127.0.0.1"
END_SECONDS = 5.0
RAW_TYPE = "application/octet-stream"
_READY = re.compile(r"serving at (http://\S+) ")


@dataclass(frozen=True)
class Target:
    """A server on this machine. token: the bearer token it asks for, if any."""

    host: str
    port: int
    token: str | None = None

    @classmethod
    def of(cls, url: str, token: str | None = None) -> Target:
        """The server at http://ADDRESS:PORT. Raises UserError when that is no address of this machine's own."""
        parts = urlsplit(url)
        try:
            own = ip_address((parts.hostname or "").replace("localhost", HERE)).is_loopback
            port = parts.port
        except ValueError:
            own, port = False, None
        if not own or parts.scheme != "http" or port is None:
            raise UserError(f"--url {url}: is no server on this machine; give one as http://127.0.0.1:8000")
        return cls((parts.hostname or "").replace("localhost", HERE), port, token)

    def headers(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The headers of a request that is let in."""
        return {**({"Authorization": f"Bearer {self.token}"} if self.token else {}), **(more or {})}

    def connect(self, seconds: float = 60.0) -> http.client.HTTPConnection:
        """A connection, opened by its first request, whose every step may take so long."""
        return http.client.HTTPConnection(self.host, self.port, timeout=seconds)

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str | None = None) -> tuple[int, bytes]:
        """One request on a connection of its own: status and body. kind: the body's Content-Type."""
        connection = self.connect()
        try:
            connection.request(method, path, body, self.headers({} if kind is None else {"Content-Type": kind}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """What /metrics says, by name; of those with labels the sum. Raises UserError when it is refused."""
        status, text = self.ask("GET", "/metrics")
        if status != 200:
            raise UserError(f"/metrics is refused with {status}; set MASK_TOKEN to the server's token")
        found: dict[str, float] = {}
        for line in text.decode().splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def megabytes(self) -> float:
        """The server's resident memory, in 10**6 bytes; nan where the system does not tell it."""
        return self.metrics().get("process_resident_memory_bytes", float("nan")) / 1e6

    def detect(self, photo: bytes) -> bytes:
        """What the server answers to a photo, JSON. Raises UserError when it refuses it."""
        status, body = self.ask("POST", "/v1/detect", photo, RAW_TYPE)
        if status != 200:
            raise UserError(f"the photo is refused with {status}: {body[:300].decode(errors='replace')}")
        return body


@contextmanager
def running_server(
    *args: str, token: str | None = None, command: Sequence[str] = ("-m", "pipeline.serve")
) -> Iterator[Target]:
    """`python -m pipeline.serve ARGS` on a free port of this machine, ended with the block.

    command: what Python runs instead. Raises UserError when it does not start, or has ended of itself.
    """
    environment = {key: value for key, value in os.environ.items() if key != "MASK_TOKEN"}
    if token is not None:
        environment["MASK_TOKEN"] = token
    server = subprocess.Popen(
        [sys.executable, *command, "--host", HERE, "--port", "0", *args],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert server.stdout is not None
        said = _READY.match(server.stdout.readline())
        if said is None:
            raise UserError("the server did not start; see above")
        yield Target.of(said[1], token)
        if server.poll() is not None:
            raise UserError(f"the server ended with code {server.returncode}; see above")
    finally:
        server.terminate()
        try:
            server.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        assert server.stdout is not None
        server.stdout.close()


def is_idle_within(target: Target, seconds: float = 10.0) -> bool:
    """Whether no request is under way any more, within so many seconds."""
    end = time.monotonic() + seconds
    while target.metrics()["mask_requests_under_way"]:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
