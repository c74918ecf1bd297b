"""A real server in a separate process, and requests to it."""

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
    """A server on this machine."""

    host: str
    """Its address."""
    port: int
    """Its port."""
    token: str | None = None
    """The bearer token that it requires; None when it requires none."""

    @classmethod
    def of(cls, url: str, token: str | None = None) -> Target:
        """Return the server at http://ADDRESS:PORT; raise UserError when this is not an address of this machine."""
        parts = urlsplit(url)
        try:
            is_local = ip_address((parts.hostname or "").replace("localhost", HERE)).is_loopback
            port = parts.port
        except ValueError:
            is_local, port = False, None
        if not is_local or parts.scheme != "http" or port is None:
            raise UserError(
                f"--url {url}: is not a server on this machine; give an address such as http://127.0.0.1:8000"
            )
        return cls((parts.hostname or "").replace("localhost", HERE), port, token)

    def headers(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the headers of a request, with the token."""
        return {**({"Authorization": f"Bearer {self.token}"} if self.token else {}), **(more or {})}

    def connect(self, seconds: float = 60.0) -> http.client.HTTPConnection:
        """Return a connection, opened by its first request; each of its steps may take `seconds`."""
        return http.client.HTTPConnection(self.host, self.port, timeout=seconds)

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str | None = None) -> tuple[int, bytes]:
        """Send one request on a new connection; return status and body. `kind` is the body's Content-Type."""
        connection = self.connect()
        try:
            connection.request(method, path, body, self.headers({} if kind is None else {"Content-Type": kind}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Return the values of /metrics by name, summed over labels; raise UserError when the server refuses."""
        status, text = self.ask("GET", "/metrics")
        if status != 200:
            raise UserError(f"/metrics is refused with {status}; set MASK_TOKEN to the server's token")
        values: dict[str, float] = {}
        for line in text.decode().splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = name.partition("{")[0]
                values[name] = values.get(name, 0.0) + float(value)
        return values

    def megabytes(self) -> float:
        """Return the server's resident memory, in 10**6 bytes; nan when the system does not report it."""
        return self.metrics().get("process_resident_memory_bytes", float("nan")) / 1e6

    def detect(self, photo: bytes) -> bytes:
        """Return the server's JSON answer to a photo; raise UserError when the server refuses the photo."""
        status, body = self.ask("POST", "/v1/detect", photo, RAW_TYPE)
        if status != 200:
            raise UserError(f"the photo is refused with {status}: {body[:300].decode(errors='replace')}")
        return body


@contextmanager
def running_server(
    *args: str, token: str | None = None, command: Sequence[str] = ("-m", "pipeline.serve")
) -> Iterator[Target]:
    """Run `python -m pipeline.serve ARGS` on a free port of this machine until the block ends.

    Args:
        *args: further options of the server.
        token: the server's token.
        command: what Python runs instead of the server.

    Raises:
        UserError: the server does not start, or has ended before the block.
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
        ready = _READY.match(server.stdout.readline())
        if ready is None:
            raise UserError("the server did not start; see above")
        yield Target.of(ready[1], token)
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
    """Return whether the server has no request in flight any more within `seconds`."""
    end = time.monotonic() + seconds
    while target.metrics()["mask_requests_in_flight"]:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
