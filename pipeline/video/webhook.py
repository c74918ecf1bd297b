"""Posts events to a web address in a separate thread, so that the video never waits for the network."""

from __future__ import annotations

import json
import queue
import sys
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from contextlib import AbstractContextManager
from dataclasses import asdict
from http.client import HTTPException
from urllib.parse import unquote, urlsplit

from common.errors import UserError
from pipeline.video.events import Event
from pipeline.video.network.address import parse_address, redact_address

ANSWER_TIMEOUT = 10.0  # seconds for one answer
MAX_ATTEMPTS = 6  # to post one event, with waits of 1, 2, 4, 8 and 16 seconds between them
INITIAL_BACKOFF = 1.0  # seconds
MAX_QUEUED = 1000  # events; more are dropped and counted
CLOSE_TIMEOUT = 10.0  # seconds that the end of a video waits for unsent events
RETRIED_CODES = (408, 425, 429)  # refusals that may pass; so may 500 and above


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: a redirected POST arrives as a GET without the event."""

    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None


class Webhook(AbstractContextManager["Webhook"]):
    """Posts each event as JSON, in order, and retries with growing waits. A context manager, closed at its end.

    A user and password in the address are sent as basic authentication. A bad address raises UserError. `sent` counts
    the events that arrived; `lost` counts the other ones after `close`.
    """

    def __init__(self, address: str, timeout: float = ANSWER_TIMEOUT, initial_backoff: float = INITIAL_BACKOFF) -> None:
        check_webhook_address(address)
        self.sent = self.lost = 0
        self._address, self._headers = _split_credentials(address)
        parts = urlsplit(redact_address(address))  # the path of a webhook is often its secret
        self._name, self._timeout, self._initial_backoff = f"{parts.scheme}://{parts.netloc}", timeout, initial_backoff
        self._added, self._warned = 0, False
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def add(self, event: Event) -> None:
        """Queue an event; return at once."""
        self._added += 1
        if self._queue.qsize() < MAX_QUEUED:
            self._queue.put(event)
        else:
            self._warn_once("too many wait to be sent")

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Wait up to `timeout` seconds for unsent events, then report how many were lost."""
        self._queue.put(None)
        self._thread.join(timeout)
        self._stopped.set()
        self._thread.join(0.5)
        self._warned = True
        self.lost = self._added - self.sent
        if self.lost:
            lost = f"{self.lost} of {self._added} events could not be sent; check the --webhook address"
            print(f"error: {self._name}: {lost}", file=sys.stderr)

    def _run(self) -> None:
        while not self._stopped.is_set() and (event := self._queue.get()) is not None:
            self._send(json.dumps(asdict(event), ensure_ascii=False).encode())

    def _send(self, body: bytes) -> None:
        """Post one event; retry where a later try may work."""
        backoff = self._initial_backoff
        for retries_left in reversed(range(MAX_ATTEMPTS)):
            try:
                request = urllib.request.Request(self._address, body, self._headers, method="POST")
                with self._opener.open(request, timeout=self._timeout):
                    self.sent += 1
                    return
            except urllib.error.HTTPError as error:
                error.close()
                reason = f"it answered {error.code}"
                if error.code < 500 and error.code not in RETRIED_CODES:
                    break
            except (OSError, HTTPException, ValueError) as error:  # ValueError: a bad host name
                cause = getattr(error, "reason", error)  # urllib wraps it in a URLError
                reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            if not retries_left or self._stopped.wait(backoff):
                break
            backoff *= 2
        self._warn_once(reason)

    def _warn_once(self, reason: str) -> None:
        """Print the first failure only; `close` reports the number of lost events."""
        if not self._warned:
            self._warned = True
            print(f"warning: {self._name}: an event could not be sent ({reason})", file=sys.stderr)


def check_webhook_address(address: str) -> None:
    """Raise UserError when events cannot be posted to `address`."""
    address = parse_address(address).url  # raises where it is not clear where the password ends
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bad port or IPv6 address
        valid = False
    if not valid or not address.isascii() or not address.isprintable() or " " in address:
        raise UserError("--webhook is not a web address; use one such as http://127.0.0.1:8123/api/webhook/mask")


def _split_credentials(address: str) -> tuple[str, dict[str, str]]:
    """Return an address without user and password, and the headers that carry them instead."""
    parts = urlsplit(parse_address(address).url)
    headers = {"Content-Type": "application/json", "User-Agent": "face-mask-detection"}
    user, at, host = parts.netloc.rpartition("@")
    if at:
        name, _, password = user.partition(":")
        headers["Authorization"] = "Basic " + b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    return parts._replace(netloc=host, fragment="").geturl(), headers
