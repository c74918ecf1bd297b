"""The HTTP server: a socket to listen at, and uvicorn set up so that it logs no photo and ends soon when told to."""

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
from pipeline.serve.connections import connection_class
from pipeline.serve.limiter import RequestLimiter
from pipeline.serve.limits import Limits
from pipeline.serve.middleware import MAX_HEAD_BYTES

KEEP_ALIVE_SECONDS = 5  # an unused connection stays open so long
SHUTDOWN_SECONDS = 1.5  # the last connections are cut then; a little longer than what is under way is given


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address. Raises UserError when that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: is no known name; give an address of this machine") from error
    bound = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # a server that has just ended does not hold its port; elsewhere it means another thing
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()
    except OSError as error:
        bound.close()
        mend = {
            errno.EADDRINUSE: f"port {port} is taken; give another with --port",
            errno.EACCES: f"port {port} needs more rights; give one from 1024 on with --port",
            errno.EADDRNOTAVAIL: f"--host {host}: is no address of this machine; give one that is",
        }.get(error.errno or 0, f"cannot listen at {host}, port {port}: {error.strerror}; give others")
        raise UserError(mend) from error
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine reaches the socket."""
    return ipaddress.ip_address(str(bound.getsockname()[0]).partition("%")[0]).is_loopback


def address_of(bound: socket.socket) -> str:
    """The socket's address for a browser."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class GracefulServer(uvicorn.Server):
    """uvicorn's, but it says where it is, tells the application when it ends, and a signal that ends it is no error."""

    def __init__(self, config: uvicorn.Config, turns: RequestLimiter) -> None:
        super().__init__(config)
        self._turns = turns

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():
            print(f"serving at {address_of(each)} (Ctrl-C ends it)", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._turns.shut_down()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # others hear no signals
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def make_server(app: FastAPI, limits: Limits) -> GracefulServer:
    """A server for the application, to be run with a bound socket.

    It ends on Ctrl-C or SIGTERM within 2 seconds: what is under way is finished or refused.
    """
    config = uvicorn.Config(
        app,
        http=connection_class(limits),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,  # no photo's name, no address of a client
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,  # type: ignore[arg-type]  # it is asyncio.wait_for's
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    return GracefulServer(config, app.state.turns)
