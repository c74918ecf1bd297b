"""HTTP connections with deadlines and a maximum number, which uvicorn has not; invalid HTTP gets a JSON error."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.serve.limits import Limits
from pipeline.serve.middleware import MAX_HEAD_BYTES

FLUSH_SECONDS = 5.0  # time for the client of a closed connection to receive the rest


class BoundedConnection(H11Protocol):
    """uvicorn's HTTP/1.1 connection, closed when its client is slow to send a head or to receive an answer."""

    limits: ClassVar[Limits] = Limits()  # a subclass may have others
    _refused = False
    _head_timer: asyncio.TimerHandle | None = None  # runs while a head is awaited
    _write_timer: asyncio.TimerHandle | None = None  # runs while the client receives nothing

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refused = True
            self._respond(503, "too many connections are open; try again later")
            return
        self._update_head_timer()

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        try:
            super().data_received(data)
        except h11.ProtocolError:  # in a state that allows no answer
            self.transport.abort()
        self._update_head_timer()

    def on_response_complete(self) -> None:
        unread = self.conn.their_state is h11.SEND_BODY
        super().on_response_complete()
        if unread:  # the rest of an unwanted body cannot be distinguished from the next request
            self.transport.close()
        self._update_head_timer()
        self._limit_flush()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._limit_flush()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None and not self.transport.is_closing():
            self._write_timer.cancel()
            self._write_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except h11.ProtocolError:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        self._respond(400, f"this is not a valid HTTP/1.1 request, or its head is longer than {MAX_HEAD_BYTES} bytes")

    def _respond(self, status: int, message: str) -> None:
        """Answer instead of the application, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:  # show the application a disconnected client
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = json.dumps({"error": message}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        with suppress(h11.ProtocolError):  # an answer has begun already
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._limit_flush()

    def _update_head_timer(self) -> None:
        """Start the timer when a request's head is awaited or has begun; stop it when the head is complete."""
        idle = self.timeout_keep_alive_task is not None  # between requests, uvicorn's keep-alive timer runs
        if self.conn.their_state is h11.IDLE and not idle and not self.transport.is_closing():
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(self.limits.head_seconds, self._head_timed_out)
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        if not self.transport.is_closing():
            self._respond(408, f"the request's head did not arrive within {self.limits.head_seconds:g} seconds")

    def _limit_flush(self) -> None:
        """Abort a closed connection after FLUSH_SECONDS: a client that receives nothing would keep it for ever."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            if self._write_timer is not None:
                self._write_timer.cancel()
            self._write_timer = self.loop.call_later(FLUSH_SECONDS, self.transport.abort)
