"""A real HTTP server in this process, and a predictor that can be paused."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.serve.app import create_app
from pipeline.serve.http_server import listen, make_server
from pipeline.serve.limits import Limits
from tests.helpers.fake_predictor import FakeDetections, FakePredictor
from tests.load.server_process import HERE, Target


class SlowPredictor(FakePredictor):
    """Each detection waits until `go` is set; `begun` is the number of detections that have begun."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.begun = 0

    def detect(self, *args: Any) -> FakeDetections:
        self.begun += 1
        assert self.go.wait(20)
        return super().detect(*args)


@contextmanager
def served(
    predictor: FakePredictor, limits: Limits | None = None, workers: int = 1, **options: Any
) -> Iterator[Target]:
    """Run a server in a thread, until the block ends; `options` are those of create_app."""
    limits = limits or Limits()
    server = make_server(create_app(predictor, limits, workers=workers, **options), limits)  # type: ignore[arg-type]
    with listen(HERE, 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            until(lambda: server.started)
            yield Target(HERE, port)
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def until(condition: Any, seconds: float = 10) -> None:
    """Wait until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def received(connection: socket.socket, seconds: float = 5) -> bytes:
    """Return all bytes until the other side closes the connection."""
    connection.settimeout(seconds)
    pieces = []
    try:
        while piece := connection.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)
