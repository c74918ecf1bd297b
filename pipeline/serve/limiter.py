"""Limits how many requests are in flight and how long each takes; their work runs in threads."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from starlette.exceptions import HTTPException

from pipeline.serve.limits import Limits

Result = TypeVar("Result")
RETRY_SECONDS = 2
GRACE_SECONDS = 1.0  # requests in flight have this long when the server shuts down
SHUTTING_DOWN = "the server is shutting down; try again later"


class ClientDisconnectedError(Exception):
    """The client has disconnected; nobody waits for the answer."""


class RequestLimiter:
    """Admits requests and runs their work in threads. All but the work itself happens in one event loop."""

    def __init__(self, workers: int, limits: Limits) -> None:
        """Make a limiter.

        Args:
            workers: requests whose work runs at the same time, a thread each.
            limits: how many further requests may wait, and how long the work of one may take.
        """
        self._detect_seconds = limits.detect_seconds
        self._max_in_flight = workers + limits.waiting
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="detect")
        self._deadlines: set[asyncio.Timeout] = set()
        self._work: set[Future[Any]] = set()
        self.in_flight = 0  # requests admitted and not yet done
        self.shutting_down = False
        self._last = math.inf  # when, in the loop's time, requests in flight end at the latest

    @property
    def is_busy(self) -> bool:
        """Whether a thread is at work."""
        return any(not work.done() for work in list(self._work))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a request's slot, from before its body is read until its work is done.

        Raises:
            HTTPException: 429 when too many requests are in flight, 503 when the server shuts down.
        """
        if self.shutting_down:
            raise HTTPException(503, SHUTTING_DOWN)
        if self.in_flight >= self._max_in_flight:
            message = f"{self.in_flight} photos are in progress, the most allowed; try again in {RETRY_SECONDS} seconds"
            raise HTTPException(429, message, {"Retry-After": str(RETRY_SECONDS)})
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    @asynccontextmanager
    async def deadline(self, seconds: float, status: int, message: str) -> AsyncIterator[None]:
        """Limit the time of a block.

        Raises:
            HTTPException: `status` and `message` when the block takes longer; 503 when the server shuts down.
        """
        try:
            now = asyncio.get_running_loop().time()
            async with asyncio.timeout_at(min(now + seconds, self._last)) as timeout:
                self._deadlines.add(timeout)
                try:
                    yield
                finally:
                    self._deadlines.discard(timeout)
        except TimeoutError:
            status, message = (503, SHUTTING_DOWN) if self.shutting_down else (status, message)
            raise HTTPException(status, message) from None

    async def run(
        self, function: Callable[[], Result], disconnected: Callable[[], Coroutine[Any, Any, None]]
    ) -> Result:
        """Call a function in a thread and return its result.

        Work that has not begun is dropped when nobody waits for it any more. Work that has begun cannot be stopped,
        and counts as in flight until it ends.

        Args:
            function: the work.
            disconnected: a coroutine function that returns when the client has disconnected.

        Raises:
            HTTPException: 503 when the work takes too long or the server shuts down.
            ClientDisconnectedError: the client has disconnected.
        """
        seconds = self._detect_seconds
        message = f"there was no answer within {seconds:g} seconds; try a smaller photo, or later"
        async with self.deadline(seconds, 503, message):
            work = self._pool.submit(function)
            self._work.add(work)
            try:
                return await _result_while_connected(work, disconnected)
            finally:
                self._release(work)

    def _release(self, work: Future[Any]) -> None:
        """Drop work that is done or has not begun; count other work as in flight until it ends."""
        if work.done() or work.cancel():
            self._work.discard(work)
            return
        loop = asyncio.get_running_loop()
        self.in_flight += 1  # in addition to its request, which ends now

        def discard() -> None:
            self.in_flight -= 1
            self._work.discard(work)

        def discard_in_loop(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # the loop has ended, and the count with it
                loop.call_soon_threadsafe(discard)

        work.add_done_callback(discard_in_loop)

    def shut_down(self) -> None:
        """Admit no more requests; refuse those still in flight after GRACE_SECONDS."""
        self.shutting_down = True
        self._last = asyncio.get_running_loop().time() + GRACE_SECONDS
        for timeout in self._deadlines:
            when = timeout.when()
            if not timeout.expired() and (when is None or when > self._last):
                timeout.reschedule(self._last)


async def _result_while_connected(
    work: Future[Result], disconnected: Callable[[], Coroutine[Any, Any, None]]
) -> Result:
    """Return the result of work in a thread; raise ClientDisconnectedError when the client disconnects before."""
    answer, watch = asyncio.wrap_future(work), asyncio.create_task(disconnected())
    try:
        await asyncio.wait((answer, watch), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise ClientDisconnectedError
    finally:
        watch.cancel()
        if not answer.cancel() and not answer.cancelled():
            answer.exception()  # retrieved, so that asyncio does not report it
