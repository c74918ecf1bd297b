"""Posts events to an address, apart from the video: it never waits for the network."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from http.client import HTTPException
from urllib.parse import urlsplit

from pipeline.camera import redacted
from pipeline.errors import PipelineError
from pipeline.events import Event

TIMEOUT = 10.0  # seconds for one answer
TRIES = 6  # of one event, with waits of 1, 2, 4, 8 and 16 seconds between them
FIRST_WAIT = 1.0
MOST_WAITING = 1000  # events; further ones are dropped, and counted
LAST = 10.0  # seconds that the end of a video waits for events still under way
AGAIN = (408, 425, 429)  # refusals that may pass, as all of 500 and above may


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its event: better said than lost."""

    def redirect_request(self, *args: object, **more: object) -> None:
        return None


class Webhook:
    """Sends each event as JSON by POST, in order, tried again with growing waits where that fails.

    address: http or https. As a context manager it waits, at the end, a while for what is under way.
    Raises PipelineError when the address is none.
    """

    def __init__(self, address: str, first_wait: float = FIRST_WAIT) -> None:
        check_address(address)
        self.sent = self.lost = 0
        self._address, self._name, self._first_wait = address, redacted(address), first_wait
        self._queue: queue.Queue[Event | None] = queue.Queue(MOST_WAITING)
        self._stopped = threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def add(self, event: Event) -> None:
        """Hands over an event; returns at once."""
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._lose("too many events wait")

    def __enter__(self) -> Webhook:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self, wait: float = LAST) -> None:
        """Waits up to `wait` seconds for events under way; says how many were not sent."""
        until = time.monotonic() + wait
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=max(until - time.monotonic(), 0.01))
                break
            except queue.Full:
                if time.monotonic() >= until:
                    break
        self._thread.join(max(until - time.monotonic(), 0))
        self._stopped.set()
        self._thread.join(0.5)
        left = sum(event is not None for event in list(self._queue.queue)) + self._thread.is_alive()
        self.lost += left
        if self.lost:
            print(f"{self._name}: {self.lost} of {self.sent + self.lost} events could not be sent", file=sys.stderr)

    def _run(self) -> None:
        while (event := self._queue.get()) is not None and not self._stopped.is_set():
            self._send(json.dumps(asdict(event), ensure_ascii=False).encode())

    def _send(self, body: bytes) -> None:
        wait = self._first_wait
        for left in reversed(range(TRIES)):
            headers = {"Content-Type": "application/json", "User-Agent": "face-mask-detection"}
            request = urllib.request.Request(self._address, body, headers, method="POST")
            try:
                with self._opener.open(request, timeout=TIMEOUT) as answer:
                    answer.read(1)
                self.sent += 1
                return
            except urllib.error.HTTPError as error:
                error.close()
                why = f"it answered {error.code}"
                if error.code < 500 and error.code not in AGAIN:
                    break
            except (OSError, HTTPException, ValueError) as error:
                why = str(getattr(error, "reason", error)) or type(error).__name__
            if not left or self._stopped.wait(wait):
                break
            wait *= 2
        self._lose(why)

    def _lose(self, why: str) -> None:
        self.lost += 1
        if self.lost == 1:  # the rest is told at the end
            print(f"{self._name}: an event could not be sent ({why}); check the --webhook address", file=sys.stderr)


def check_address(address: str) -> None:
    """Raises PipelineError when `address` is not one that events can be posted to."""
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port or an IPv6 address that is none
        good = False
    if not good or not address.isprintable() or " " in address:
        raise PipelineError("--webhook is no web address; give one such as http://127.0.0.1:8123/api/webhook/mask")
