"""Many clients post a photo to a server again and again: times, errors and memory."""

from __future__ import annotations

import http.client
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.load.server_process import RAW_TYPE, Target

WARM_SECONDS = 5.0  # memory should be constant after this time
FLAT_RATIO = 1.1  # memory at the end / memory when warm that counts as constant
MIN_SECONDS = 20.0  # a shorter run cannot show whether memory is constant


@dataclass
class LoadResult:
    """What the clients measured."""

    clients: int
    """Clients at the same time."""
    seconds: float = 0.0
    """Time of the whole run."""
    milliseconds: list[float] = field(default_factory=list)
    """Time of each good answer."""
    errors: Counter[str] = field(default_factory=Counter)
    """Number of errors by kind."""
    memory: dict[str, float] = field(default_factory=dict)
    """The server's memory in MB: at the start, when warm, at the end, and the peak."""

    @property
    def flat(self) -> bool | None:
        """Whether memory was constant once warm; None when it is unknown (a short run, a system without /proc)."""
        if self.seconds < MIN_SECONDS or math.isnan(self.memory["end"]):
            return None
        return self.memory["end"] <= FLAT_RATIO * self.memory["warm"]

    @property
    def good(self) -> bool:
        """Whether there was no error, and memory did not grow."""
        return bool(self.milliseconds) and not self.errors and self.flat is not False

    def record(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        p50, p99 = np.percentile(self.milliseconds or [np.nan], (50, 99))
        return {
            "clients": self.clients,
            "seconds": round(self.seconds, 1),
            "requests": len(self.milliseconds),
            "per_second": round(len(self.milliseconds) / max(self.seconds, 1e-9), 1),
            "p50_ms": round(float(p50), 1) if self.milliseconds else None,
            "p99_ms": round(float(p99), 1) if self.milliseconds else None,
            "max_ms": round(max(self.milliseconds), 1) if self.milliseconds else None,
            "errors": dict(self.errors),
            "memory_mb": {name: None if math.isnan(mb) else round(mb, 1) for name, mb in self.memory.items()},
            "flat": self.flat,
        }


def run_clients(target: Target, photo: bytes, clients: int, seconds: float) -> LoadResult:
    """Post a photo from several clients at once; each client waits for its answer before it posts again.

    An answer that differs from the first one is an error, too.

    Args:
        target: the server.
        photo: a JPEG.
        clients: clients at the same time.
        seconds: length of the run.

    Raises:
        UserError: the server refuses the photo.
    """
    result, lock = LoadResult(clients), threading.Lock()
    result.memory["start"] = target.megabytes()
    expected = (200, target.detect(photo))
    begin = time.monotonic()
    end = begin + seconds

    def client() -> None:
        connection = target.connect()
        while time.monotonic() < end:
            sent = time.perf_counter()
            try:
                connection.request("POST", "/v1/detect", photo, target.headers({"Content-Type": RAW_TYPE}))
                response = connection.getresponse()
                answer = (response.status, response.read())
            except (OSError, http.client.HTTPException) as error:
                answer = (0, type(error).__name__.encode())
                connection.close()
            took = 1000 * (time.perf_counter() - sent)
            with lock:
                if answer == expected:
                    result.milliseconds.append(took)
                else:
                    result.errors[_error_kind(*answer)] += 1
        connection.close()

    threads = [threading.Thread(target=client, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    warm = min(WARM_SECONDS, seconds / 2)
    samples = []
    while (now := time.monotonic()) < end:
        samples.append(target.megabytes())
        if "warm" not in result.memory and now - begin >= warm:
            result.memory["warm"] = samples[-1]
        time.sleep(max(min(1.0, seconds / 4, end - now), 0.01))
    for thread in threads:
        thread.join()
    result.seconds = time.monotonic() - begin
    result.memory["end"] = target.megabytes()
    result.memory.setdefault("warm", samples[-1])
    result.memory["peak"] = max(*samples, *result.memory.values())
    return result


def _error_kind(status: int, body: bytes) -> str:
    if status == 200:
        return "another answer"
    return f"status {status}" if status else body.decode()
