"""A camera whose address shows one picture: an HTTP server with scripted answers and, if wanted, a password."""

from __future__ import annotations

import base64
import hashlib
import itertools
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import parse_http_list, parse_keqv_list

import cv2

from tests.helpers.video.made_videos import blob_frame, walk


def jpeg(index: int = 0) -> bytes:
    return cv2.imencode(".jpg", blob_frame(walk(index))[..., ::-1])[1].tobytes()


@dataclass(frozen=True)
class Answer:
    """One answer of the camera."""

    body: bytes = b""
    kind: str = "image/jpeg"
    status: int = 200
    wait: float = 0.0  # seconds before the answer
    missing: int = 0  # bytes that the head promises and the body lacks
    location: str = ""  # where the camera redirects to


@dataclass
class SnapshotServer:
    """A running camera."""

    port: int = 0
    paths: list[str] = field(default_factory=list)  # of the requests, with queries
    times: list[float] = field(default_factory=list)  # of the requests, in seconds
    logins: int = 0  # requests with a user and password


def walking(start: int = 0) -> Iterator[Answer]:
    """Yield the pictures of a face that walks."""
    return (Answer(jpeg(index)) for index in itertools.count(start))


def basic_login(user: str, password: str) -> Callable[[str, str, str], str]:
    """Return a check of basic authentication; it returns the challenge, or "" for the right password."""
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    return lambda method, path, sent: "" if sent == expected else 'Basic realm="camera"'


def digest_login(user: str, password: str, algorithm: str = "MD5") -> Callable[[str, str, str], str]:
    """Return a check of digest authentication (RFC 7616), as `basic_login` does."""
    make = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}[algorithm]

    def digest(text: str) -> str:
        return make(text.encode()).hexdigest()

    def check(method: str, path: str, sent: str) -> str:
        if sent.startswith("Digest "):
            values = parse_keqv_list(parse_http_list(sent.removeprefix("Digest ")))
            secret, asked = digest(f"{user}:camera:{password}"), digest(f"{method}:{values['uri']}")
            counted = f"{values['nonce']}:{values.get('nc')}:{values.get('cnonce')}:{values.get('qop')}"
            right = digest(f"{secret}:{counted}:{asked}")
            if values["username"] == user and values["uri"] == path and values["response"] == right:
                return ""
        return f'Digest realm="camera", nonce="abc", qop="auth", algorithm={algorithm}'

    return check


@contextmanager
def snapshot_server(
    answers: Iterator[Answer] | None = None,
    login: Callable[[str, str, str], str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[SnapshotServer]:
    """Run a camera on 127.0.0.1; each request with the right password takes the next answer."""
    remaining, lock, server = answers or walking(), threading.Lock(), SnapshotServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.headers.get("Authorization", "")
            with lock:
                server.logins += bool(sent)
                server.paths.append(self.path)
                server.times.append(time.monotonic())
                challenge = login("GET", self.path, sent) if login else ""
                answer = Answer(status=401) if challenge else next(remaining)
            time.sleep(answer.wait)
            with suppress(OSError):
                self.send_response(answer.status)
                if challenge:
                    self.send_header("WWW-Authenticate", challenge)
                if answer.location:
                    self.send_header("Location", answer.location)
                if answer.kind:
                    self.send_header("Content-Type", answer.kind)
                self.send_header("Content-Length", str(len(answer.body) + answer.missing))
                self.end_headers()
                self.wfile.write(answer.body)

        def log_message(self, *args: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    if tls is not None:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    server.port = http.server_address[1]
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
