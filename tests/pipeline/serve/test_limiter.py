"""The limiter: a request that arrives just before the server shuts down ends in time, too."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from starlette.exceptions import HTTPException

from pipeline.serve.limiter import GRACE_SECONDS, SHUTTING_DOWN, RequestLimiter
from pipeline.serve.limits import Limits


@pytest.mark.parametrize("begun", [True, False], ids=["before the end", "after the upload"])
def test_requests_in_flight_end_soon_after_the_shutdown(begun: bool) -> None:
    may_end = threading.Event()

    async def never() -> None:
        await asyncio.Event().wait()

    async def request() -> float:
        limiter = RequestLimiter(1, Limits())
        async with limiter.slot():
            if not begun:
                limiter.shut_down()
            work = asyncio.create_task(limiter.run(lambda: may_end.wait(20), never))
            await asyncio.sleep(0.05)
            if begun:
                limiter.shut_down()
            start = time.monotonic()
            with pytest.raises(HTTPException) as raised:
                await work
            assert (raised.value.status_code, raised.value.detail) == (503, SHUTTING_DOWN)
            return time.monotonic() - start

    try:
        assert asyncio.run(request()) < GRACE_SECONDS + 5
    finally:
        may_end.set()
