"""Requests take turns: few are under way at a time, each for so long, in threads beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from starlette.exceptions import HTTPException

from pipeline.serve.limits import Limits

Result = TypeVar("Result")
RETRY_SECONDS = 2
GRACE_SECONDS = 1.0  # what is under way may go on for so long when the server ends
SHUTTING_DOWN = "the server is shutting down; try again later"


class ClientDisconnectedError(Exception):
    """The client has gone; nobody waits for the answer."""


class RequestLimiter:
    """Admits requests and runs their work in threads; all but the work itself happens in one event loop.

    under_way: requests admitted and not yet done. ending: whether the server ends.
    """

    def __init__(self, workers: int, limits: Limits) -> None:
        """workers: how many pieces of work run at a time."""
        self._detect_seconds = limits.detect_seconds
        self._max_in_flight = workers + limits.waiting
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="detect")
        self._deadlines: set[asyncio.Timeout] = set()
        self._work: set[Future[Any]] = set()
        self.in_flight = 0
        self.shutting_down = False

    @property
    def is_busy(self) -> bool:
        """Whether a thread is at work."""
        return any(not work.done() for work in list(self._work))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A request's turn, from before its body is read until its work is done, also where nobody waits for that.

        Raises HTTPException 429 when too many are under way, 503 when the server ends.
        """
        if self.shutting_down:
            raise HTTPException(503, SHUTTING_DOWN)
        if self.in_flight >= self._max_in_flight:
            line = f"{self.in_flight} photos are under way, more are not taken; try again in {RETRY_SECONDS} seconds"
            raise HTTPException(429, line, {"Retry-After": str(RETRY_SECONDS)})
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    @asynccontextmanager
    async def deadline(self, seconds: float, status: int, line: str) -> AsyncIterator[None]:
        """Raises HTTPException with `status` and `line` when the block takes longer; 503 when the server ends."""
        try:
            async with asyncio.timeout(seconds) as timeout:
                self._deadlines.add(timeout)
                try:
                    yield
                finally:
                    self._deadlines.discard(timeout)
        except TimeoutError:
            status, line = (503, SHUTTING_DOWN) if self.shutting_down else (status, line)
            raise HTTPException(status, line) from None

    async def run(self, function: Callable[[], Result], gone: Callable[[], Coroutine[Any, Any, None]]) -> Result:
        """What `function` gives, called in a thread.

        gone: ends when the client has gone. Raises HTTPException 503 when it takes too long or the server ends,
        GoneError when the client goes. Work that has not begun is dropped then; what has cannot be stopped, and counts
        as under way until it ends.
        """
        seconds = self._detect_seconds
        line = f"there was no answer within {seconds:g} seconds; try a smaller photo, or later"
        async with self.deadline(seconds, 503, line):
            work = self._pool.submit(function)
            self._work.add(work)
            answer, left = asyncio.wrap_future(work), asyncio.create_task(gone())
            either: set[asyncio.Future[Any]] = {answer, left}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    return answer.result()
                raise ClientDisconnectedError
            finally:
                left.cancel()
                if not answer.cancel() and not answer.cancelled():
                    answer.exception()  # seen, so that asyncio does not complain of it
                self._forget(work)

    def _forget(self, work: Future[Any]) -> None:
        """Lets go of a piece of work, at once or when it has ended."""
        if work.done() or work.cancel():
            self._work.discard(work)
            return
        loop = asyncio.get_running_loop()
        self.in_flight += 1  # besides its request, which is over now

        def ended() -> None:
            self.in_flight -= 1
            self._work.discard(work)

        def tell(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # the loop has ended, and the count with it
                loop.call_soon_threadsafe(ended)

        work.add_done_callback(tell)

    def shut_down(self) -> None:
        """Admits nothing more; what is under way has GRACE_SECONDS left, then it is refused."""
        self.shutting_down = True
        last = asyncio.get_running_loop().time() + GRACE_SECONDS
        for timeout in self._deadlines:
            when = timeout.when()
            if not timeout.expired() and (when is None or when > last):
                timeout.reschedule(last)
