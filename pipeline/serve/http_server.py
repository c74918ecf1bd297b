"""The HTTP server: a listening socket, and uvicorn set up to log no photo and to shut down quickly."""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from common.errors import UserError
from pipeline.serve.connections import BoundedConnection
from pipeline.serve.limiter import RequestLimiter
from pipeline.serve.limits import Limits
from pipeline.serve.middleware import MAX_HEAD_BYTES

KEEP_ALIVE_SECONDS = 5  # an unused connection is closed after this time
SHUTDOWN_SECONDS = 1.5  # then the last connections are closed; a little longer than the limiter's GRACE_SECONDS


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: a name or address of this machine.
        port: the port; 0 takes a free one.

    Raises:
        UserError: the socket cannot listen at this address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: is an unknown name; give an address of this machine") from error
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # reuse the port of a server that has just ended; the option differs on other systems
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        messages = {
            errno.EADDRINUSE: f"port {port} is taken; give another with --port",
            errno.EACCES: f"port {port} needs more rights; give 1024 or more with --port",
            errno.EADDRNOTAVAIL: f"--host {host}: is not an address of this machine; give one of its addresses",
        }
        other = f"cannot listen at {host}, port {port}: {error.strerror}; give another --host or --port"
        raise UserError(messages.get(error.errno or 0, other)) from error
    return listener


def bound_address(listener: socket.socket) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address that the socket listens at, without the name of a network card."""
    return ipaddress.ip_address(str(listener.getsockname()[0]).partition("%")[0])


def address_of(listener: socket.socket) -> str:
    """Return the socket's address for a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class GracefulServer(uvicorn.Server):
    """uvicorn's server; it prints its address, shuts the limiter down, and ends on a signal without an error."""

    def __init__(self, config: uvicorn.Config, limiter: RequestLimiter) -> None:
        super().__init__(config)
        self._limiter = limiter

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():
            print(f"serving at {address_of(each)} (Ctrl-C ends it)", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._limiter.shut_down()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # other threads cannot handle signals
            yield
            return
        previous = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def make_server(app: FastAPI, limits: Limits) -> GracefulServer:
    """Return a server for an application of `create_app`, to be run with a listening socket.

    On Ctrl-C or SIGTERM it ends within 2 seconds: requests in flight are finished or refused.
    """
    config = uvicorn.Config(
        app,
        http=type("LimitedConnection", (BoundedConnection,), {"limits": limits}),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,  # no photo's name and no client's address
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,  # type: ignore[arg-type]  # asyncio.wait_for takes a float
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    return GracefulServer(config, app.state.limiter)
