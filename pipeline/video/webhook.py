"""Posts events to an address, apart from the video: it never waits for the network."""

from __future__ import annotations

import json
import queue
import sys
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import asdict
from http.client import HTTPException
from urllib.parse import unquote, urlsplit

from common.errors import UserError
from pipeline.video.camera import redact_address
from pipeline.video.events import Event

ANSWER_TIMEOUT = 10.0  # seconds for one answer
MAX_ATTEMPTS = 6  # of one event, with waits of 1, 2, 4, 8 and 16 seconds between them
INITIAL_BACKOFF = 1.0
MAX_QUEUED = 1000  # events; further ones are dropped, and counted
CLOSE_TIMEOUT = 10.0  # seconds that the end of a video waits for events still under way
RETRIED_CODES = (408, 425, 429)  # refusals that may pass, as all of 500 and above may


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its event: better said than lost."""

    def redirect_request(self, *args: object, **more: object) -> None:
        return None


class Webhook:
    """Sends each event as JSON by POST, in order, tried again with growing waits where that fails.

    address: http or https; user and password in it are sent as basic authentication. As a context manager it waits,
    at the end, a while for what is under way. sent: events that arrived; lost: known at the end.
    Raises UserError when the address is none.
    """

    def __init__(self, address: str, timeout: float = ANSWER_TIMEOUT, initial_backoff: float = INITIAL_BACKOFF) -> None:
        check_address(address)
        self.sent = self.lost = 0
        self._address, self._headers = _split_credentials(address)
        self._name, self._timeout, self._initial_backoff = redact_address(address), timeout, initial_backoff
        self._added, self._warned = 0, False
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def add(self, event: Event) -> None:
        """Hands over an event; returns at once."""
        self._added += 1
        if self._queue.qsize() < MAX_QUEUED:
            self._queue.put(event)
        else:
            self._warn_once("too many wait to be sent")

    def __enter__(self) -> Webhook:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Waits up to `wait` seconds for events under way; says how many were not sent."""
        self._queue.put(None)
        self._thread.join(timeout)
        self._stopped.set()
        self._thread.join(0.5)
        self._warned = True
        self.lost = self._added - self.sent
        if self.lost:
            print(f"{self._name}: {self.lost} of {self._added} events could not be sent", file=sys.stderr)

    def _run(self) -> None:
        while not self._stopped.is_set() and (event := self._queue.get()) is not None:
            self._send(json.dumps(asdict(event), ensure_ascii=False).encode())

    def _send(self, body: bytes) -> None:
        wait = self._initial_backoff
        for left in reversed(range(MAX_ATTEMPTS)):
            try:
                request = urllib.request.Request(self._address, body, self._headers, method="POST")
                with self._opener.open(request, timeout=self._timeout):
                    self.sent += 1
                    return
            except urllib.error.HTTPError as error:
                error.close()
                why = f"it answered {error.code}"
                if error.code < 500 and error.code not in RETRIED_CODES:
                    break
            except (OSError, HTTPException, ValueError) as error:  # ValueError: a host name that is none
                cause = getattr(error, "reason", error)  # urllib puts it into an error of its own
                why = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            if not left or self._stopped.wait(wait):
                break
            wait *= 2
        self._warn_once(why)

    def _warn_once(self, why: str) -> None:
        """Says it once; how many were lost is told at the end."""
        if not self._warned:
            self._warned = True
            print(f"{self._name}: an event could not be sent ({why}); check the --webhook address", file=sys.stderr)


def check_address(address: str) -> None:
    """Raises UserError when `address` is not one that events can be posted to."""
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        good = False
    if not good or not address.isascii() or not address.isprintable() or " " in address:
        raise UserError("--webhook is no web address; give one such as http://127.0.0.1:8123/api/webhook/mask")


def _split_credentials(address: str) -> tuple[str, dict[str, str]]:
    """An address without its user and password, and the headers that carry them instead."""
    parts = urlsplit(address)
    headers = {"Content-Type": "application/json", "User-Agent": "face-mask-detection"}
    user, at, host = parts.netloc.rpartition("@")
    if at:
        name, _, password = user.partition(":")
        headers["Authorization"] = "Basic " + b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    return parts._replace(netloc=host, fragment="").geturl(), headers
