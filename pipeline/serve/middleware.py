"""What every HTTP request passes, one duty per middleware: foreign sites, headers, errors as JSON, counts."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The page shows pictures that it makes itself (blob:, data:); everything else is a file of this server.
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
DRAIN_SECONDS = 3.0
MAX_HEAD_BYTES = 16 * 1024  # of a request's head


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error as this API answers it."""
    return JSONResponse({"error": message}, status, headers)


def middlewares(hosts: Collection[str] | None, count_request: Callable[[str, int], None]) -> list[Middleware]:
    """Return the middlewares in the order in which a request passes them.

    Args:
        hosts: names under which the server may be addressed; any when None.
        count_request: receives the path and the status of each answer.
    """
    return [
        Middleware(CountRequests, count_request=count_request),
        Middleware(DrainBody),
        Middleware(SetDefaultHeaders, headers_for=cache_headers),
        Middleware(SetDefaultHeaders, headers_for=lambda _: SECURITY_HEADERS),
        Middleware(HeadAsGet),
        Middleware(CatchErrors),
        Middleware(RefuseForeignSites, hosts=hosts),
        Middleware(RefuseLongHeads),
    ]


class HttpMiddleware:
    """Base class: a middleware for HTTP requests alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handle = self.handle if scope["type"] == "http" else self.app
        await handle(scope, receive, send)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        raise NotImplementedError


class CountRequests(HttpMiddleware):
    """Counts answers by path and status."""

    def __init__(self, app: ASGIApp, count_request: Callable[[str, int], None]) -> None:
        super().__init__(app)
        self._count_request = count_request

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self.app(scope, receive, send_noting_status)
        self._count_request(scope["path"], status)


class DrainBody(HttpMiddleware):
    """Receives the rest of a body before it is answered: a client refused during its upload gets the answer.

    Without this, the client would find the connection reset. A client that was too slow (408) or that cannot be
    served (503) is answered at once.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        more_to_come = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        awaits_continue = "expect" in headers  # the client sends its body only when asked to

        async def receive_noting_end() -> Message:
            nonlocal more_to_come, awaits_continue
            message = await receive()
            awaits_continue = False
            more_to_come = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def drain() -> None:
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    while more_to_come and not awaits_continue:
                        await receive_noting_end()
            except TimeoutError:
                pass

        async def send_after_drain(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] not in (408, 503):
                await drain()
            await send(message)

        await self.app(scope, receive_noting_end, send_after_drain)


class SetDefaultHeaders(HttpMiddleware):
    """Sets headers that an answer does not have; `headers_for` returns them for the request's path."""

    def __init__(self, app: ASGIApp, headers_for: Callable[[str], dict[str, str]]) -> None:
        super().__init__(app)
        self._headers_for = headers_for

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        defaults = self._headers_for(scope["path"])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in defaults.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def cache_headers(path: str) -> dict[str, str]:
    """Return headers that forbid storing results; a page may be stored, but is checked before it is used again."""
    return {"cache-control": "no-store" if path.startswith(("/v1/", "/metrics")) else "no-cache"}


class HeadAsGet(HttpMiddleware):
    """Answers HEAD as GET, without the body."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_body(message: Message) -> None:
            await send(message if message["type"] == "http.response.start" else {**message, "body": b""})

        if scope["method"] == "HEAD":
            await self.app({**scope, "method": "GET"}, receive, send_without_body)
        else:
            await self.app(scope, receive, send)


class CatchErrors(HttpMiddleware):
    """Answers an unexpected error with 500, and logs where it was raised."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_noting_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noting_start)
        except Exception as error:
            _log(error)
            if not started:
                await error_response(500, "unexpected error in the server; see its log")(scope, receive, send)


class RefuseForeignSites(HttpMiddleware):
    """Refuses requests that a page of another site makes a browser send, with 403.

    Such a page may use its own name that points at this machine (DNS rebinding): the Host header shows it. It may also
    use this server's name: Origin and Sec-Fetch-Site show it.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        super().__init__(app)
        self._hosts = hosts

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = self._reason(scope["method"], Headers(scope=scope))
        app = self.app if reason is None else error_response(403, reason)
        await app(scope, receive, send)

    def _reason(self, method: str, headers: Headers) -> str | None:
        """Return why a request is refused, or None."""
        host = headers.get("host", "")
        if self._hosts is not None and _host_name(host) not in self._hosts:
            return f"this server has no such name; address it as {' or '.join(sorted(self._hosts))}"
        if method in ("GET", "OPTIONS"):
            return None
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is None:  # not a browser, or an old one
            foreign = origin is not None and _netloc(origin) != host.lower()
        else:
            foreign = site not in ("same-origin", "none")
        return "pages of other sites may not send photos here" if foreign else None


class RefuseLongHeads(HttpMiddleware):
    """Refuses long heads with 400: the HTTP parser's own limit does not apply to a head that arrives in one piece."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        lines = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        size = lines + len(scope.get("raw_path") or b"") + len(scope["query_string"])
        app = self.app
        if size > MAX_HEAD_BYTES:
            app = error_response(400, f"the request's head is longer than {MAX_HEAD_BYTES} bytes")
        await app(scope, receive, send)


def _host_name(host: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return (urlsplit("//" + host).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _log(error: Exception) -> None:
    """Print where an error was raised, but not its message, which may name a file."""
    places = traceback.format_list(traceback.extract_tb(error.__traceback__))
    print(f"error: unexpected {type(error).__name__}\n{''.join(places)}", end="", file=sys.stderr, flush=True)
