"""What every HTTP request passes, one duty per function: prefix, hosts, foreign sites, headers, errors, counts."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The page shows pictures that it makes itself (blob:, data:); everything else is a file of this server.
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# With WebAssembly, in a worker that is started from a blob and so has this policy, too.
WASM_POLICY = f"script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; {PAGE_POLICY}"
SECURITY_HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    # With these two, browsers give the page memory that threads share.
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
Handler = Callable[[ASGIApp, Scope, Receive, Send], Awaitable[None]]
DRAIN_SECONDS = 3.0
MAX_HEAD_BYTES = 16 * 1024  # of a request's head


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error as this API answers it."""
    return JSONResponse({"error": message}, status, headers)


def middlewares(
    hosts: Collection[str] | None,
    count_request: Callable[[str, int], None],
    origins: Collection[str] = (),
    root_path: str = "",
) -> list[Middleware]:
    """Return the middlewares in the order in which a request passes them.

    Args:
        hosts: names under which the server may be addressed; any when None.
        count_request: receives the path, without the prefix, and the status of each answer.
        origins: the origins whose pages may use the API ("*": all), as `access.checked_origins` returns them.
        root_path: the path prefix under which a proxy shows this server, without a slash at its end.
    """
    handlers: list[Handler] = [
        partial(_set_root_path, root_path),
        partial(_count_request, count_request),
        _drain_body,
        partial(_set_default_headers, _cache_headers),
        partial(_set_default_headers, lambda _: SECURITY_HEADERS),
        _head_as_get,
        partial(_refuse_other_hosts, hosts),
    ]
    inner: list[Handler] = [_catch_errors, partial(_refuse_foreign_sites, origins), _refuse_long_heads, _add_last_slash]
    cors = Middleware(
        JsonCorsMiddleware,
        allow_origins=sorted(origins),
        allow_methods=("GET", "POST"),
        allow_headers=("Authorization", "Content-Type"),
        expose_headers=("Retry-After",),
    )
    outside, inside = ([Middleware(HttpMiddleware, handler=each) for each in part] for part in (handlers, inner))
    return [*outside, *([cors] if origins else []), *inside]  # a page must be able to read the inner ones' errors


class JsonCorsMiddleware(CORSMiddleware):
    """Starlette's CORS, which refuses a preflight request as every error here is answered."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return error_response(response.status_code, f"{bytes(response.body).decode()}; see --allow-origin", headers)


class HttpMiddleware:
    """Answers HTTP requests by `handler`, whose first argument is the application behind it."""

    def __init__(self, app: ASGIApp, handler: Handler) -> None:
        self._app, self._handler = app, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._handler(self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def _set_root_path(root_path: str, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Set `root_path` and the whole path, as ASGI wants them, whether the proxy has removed the prefix or not."""
    if root_path:
        path: str = scope["path"]
        if path != root_path and not path.startswith(f"{root_path}/"):
            scope = {**scope, "path": root_path + path, "raw_path": root_path.encode() + (scope.get("raw_path") or b"")}
        scope = {**scope, "root_path": root_path}
    await app(scope, receive, send)


def _path_without_prefix(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


async def _add_last_slash(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a browser from the prefix alone to the page, which has the slash."""
    if scope.get("root_path") and scope["path"] == scope["root_path"]:
        query = scope["query_string"].decode("latin-1")
        app = RedirectResponse(f"{scope['path']}/" + (f"?{query}" if query else ""))
    await app(scope, receive, send)


async def _count_request(
    count_request: Callable[[str, int], None], app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Count an answer by path and status."""
    path, status = _path_without_prefix(scope), 0

    async def send_noting_status(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        await send(message)

    await app(scope, receive, send_noting_status)
    count_request(path, status)


async def _drain_body(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Receive the rest of a body before it is answered: a client refused during its upload gets the answer.

    Without this, the client would find the connection reset. A client that was too slow (408) or that cannot be
    served (503) is answered at once.
    """
    headers = Headers(scope=scope)
    more_to_come = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    awaits_continue = "expect" in headers  # the client sends its body only when asked to

    async def receive_noting_end() -> Message:
        nonlocal more_to_come, awaits_continue
        message = await receive()
        awaits_continue = False
        more_to_come = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send_after_drain(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] not in (408, 503):
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    while more_to_come and not awaits_continue:
                        await receive_noting_end()
        await send(message)

    await app(scope, receive_noting_end, send_after_drain)


async def _set_default_headers(
    headers_for: Callable[[str], dict[str, str]], app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Set headers that an answer does not have; `headers_for` returns them for the request's path."""
    defaults = headers_for(_path_without_prefix(scope))

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in defaults.items():
                headers.setdefault(name, value)
        await send(message)

    await app(scope, receive, send_with_headers)


def _cache_headers(path: str) -> dict[str, str]:
    """Return headers that forbid storing results; a page may be stored, but is checked before it is used again."""
    return {"cache-control": "no-store" if path.startswith(("/v1/", "/metrics")) else "no-cache"}


async def _head_as_get(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer HEAD as GET, without the body."""

    async def send_without_body(message: Message) -> None:
        await send(message if message["type"] == "http.response.start" else {**message, "body": b""})

    if scope["method"] == "HEAD":
        await app({**scope, "method": "GET"}, receive, send_without_body)
    else:
        await app(scope, receive, send)


async def _catch_errors(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer an unexpected error with 500, and log where it was raised, but not its message, which may name a file."""
    started = False

    async def send_noting_start(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    try:
        await app(scope, receive, send_noting_start)
    except Exception as error:
        places = "".join(traceback.format_tb(error.__traceback__))
        print(f"error: unexpected {type(error).__name__}\n{places}", end="", file=sys.stderr, flush=True)
        if not started:
            await error_response(500, "unexpected error in the server; see its log")(scope, receive, send)


async def _refuse_other_hosts(
    hosts: Collection[str] | None, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Refuse requests to another name, with 403: a page of another site may use a name that points at this machine.

    The attack is called DNS rebinding; the Host header shows it.
    """
    if hosts is not None and (_split("//" + _host(scope)).hostname or "").rstrip(".") not in hosts:
        names = " or ".join(sorted(hosts))
        app = error_response(403, f"this server has no such name; address it as {names}, or use --allow-host")
    await app(scope, receive, send)


async def _refuse_foreign_sites(
    origins: Collection[str], app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Refuse requests that a page of another site makes a browser send, with 403; Origin and Sec-Fetch-Site show it."""
    headers = Headers(scope=scope)
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    allowed = origin is not None and ("*" in origins or origin.lower() in origins)
    if scope["method"] not in ("GET", "OPTIONS") and not allowed:
        if site is None:  # not a browser, or an old one
            foreign = origin is not None and _split(origin).netloc.lower() != _host(scope).lower()
        else:
            foreign = site not in ("same-origin", "none")
        if foreign:
            app = error_response(403, "pages of other sites may not send photos here")
    await app(scope, receive, send)


def _host(scope: Scope) -> str:
    return Headers(scope=scope).get("host", "")


async def _refuse_long_heads(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse long heads with 400: the HTTP parser's own limit does not apply to a head that arrives in one piece."""
    lines = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if lines + len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_HEAD_BYTES:
        app = error_response(400, f"the request's head is longer than {MAX_HEAD_BYTES} bytes")
    await app(scope, receive, send)


def _split(address: str) -> SplitResult:
    """Return the parts of an address; they are empty when it is invalid."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")
