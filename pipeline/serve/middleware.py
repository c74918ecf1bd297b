"""What every HTTP request passes: no foreign site gets in, each answer binds the browser, each error is JSON."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A page shows photos of its own making (blob:, data:); everything else comes from this server and stands in a file.
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
DRAIN_SECONDS = 3.0
MAX_HEAD_BYTES = 16 * 1024  # longest request head


def error_response(status: int, line: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as this API gives it."""
    return JSONResponse({"error": line}, status, headers)


class Guard:
    """ASGI middleware. hosts: names under which the server may be addressed; None admits any.

    counted: told of each request's path and status.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, counted: Callable[[str, int], None]) -> None:
        self._app, self._hosts, self._counted = app, hosts, counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = _Body(receive, headers)
        answer = _Answer(send, scope, body)
        app: ASGIApp = self._app
        if (foreign := self._foreign(scope["method"], headers)) is not None:
            app = error_response(403, foreign)
        elif _head_bytes(scope) > MAX_HEAD_BYTES:  # one that comes in one piece gets past the HTTP parser's own limit
            app = error_response(400, f"the request's head is longer than {MAX_HEAD_BYTES} bytes")
        if scope["method"] == "HEAD":  # as GET, without the body
            scope = {**scope, "method": "GET"}
        try:
            await app(scope, body, answer)
        except Exception as error:
            _report(error)
            if not answer.status:
                await error_response(500, "an error of the server's own; its log says where")(scope, body, answer)
        self._counted(scope["path"], answer.status)

    def _foreign(self, method: str, headers: Headers) -> str | None:
        """Why a request comes from a foreign site; None where it does not.

        A page elsewhere can make a browser send requests here: under a name of its own that it has pointed at this
        machine (DNS rebinding: the Host header tells), or plainly (Origin and Sec-Fetch-Site tell).
        """
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            return f"this server is addressed as {' or '.join(sorted(self._hosts))}, not by another name"
        if method in ("GET", "HEAD", "OPTIONS"):
            return None
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is None:  # no browser, or an old one
            foreign = origin is not None and _netloc(origin) != host.lower()
        else:
            foreign = site not in ("same-origin", "none")
        return "pages of other sites may not send photos here" if foreign else None


class _Body:
    """The request's body as it comes in; knows whether all of it has."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self._more = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self._asks = "expect" in headers  # the client sends it only when asked to

    async def __call__(self) -> Message:
        message = await self._receive()
        self._asks = False
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Takes in the rest: who is refused in the middle of an upload would find the connection reset, not why."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._more and not self._asks:
                    await self()
        except TimeoutError:
            pass


class _Answer:
    """Sends the answer with the headers that all have. status: its status, 0 before it has begun."""

    def __init__(self, send: Send, scope: Scope, body: _Body) -> None:
        self._send, self._body = send, body
        self._head = scope["method"] == "HEAD"
        self._cache = "no-store" if scope["path"].startswith(("/v1/", "/metrics")) else "no-cache"
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", self._cache)
            if self.status not in (408, 503):
                await self._body.drain()
        elif self._head:
            message = {**message, "body": b""}
        await self._send(message)


def _head_bytes(scope: Scope) -> int:
    lines = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return lines + len(scope.get("raw_path") or b"") + len(scope["query_string"])


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit("//" + host).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _report(error: Exception) -> None:
    """Where the error came up; not what it says, which may name a file."""
    places = traceback.format_list(traceback.extract_tb(error.__traceback__))
    print(f"error: unexpected {type(error).__name__}\n{''.join(places)}", end="", file=sys.stderr, flush=True)
