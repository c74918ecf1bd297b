"""Many clients that post a photo to a server over and over: how quick, how sure, how much memory."""

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

WARM_SECONDS = 5.0  # after which memory should stay as it is
FLAT_RATIO = 1.1  # times as much is still flat
MIN_SECONDS = 20.0  # a shorter run does not tell


@dataclass
class LoadResult:
    """What the clients saw. milliseconds: of each good answer. errors: how many of which kind.

    memory: the server's, in MB: at the start, when warm, at the end, and the most seen.
    """

    clients: int
    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def flat(self) -> bool | None:
        """Whether memory stayed, once warm; None where that cannot be told (a short run, a system without /proc)."""
        if self.seconds < MIN_SECONDS or math.isnan(self.memory["end"]):
            return None
        return self.memory["end"] <= FLAT_RATIO * self.memory["warm"]

    @property
    def good(self) -> bool:
        """No error, and memory did not grow."""
        return bool(self.milliseconds) and not self.errors and self.flat is not False

    def record(self) -> dict[str, Any]:
        """All of it as JSON values."""
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
    """Posts the photo with so many clients at once for so long; each sends its next one when it has its answer.

    An answer other than the first one's is an error, too. Raises UserError when the first photo is refused.
    """
    load, lock = LoadResult(clients), threading.Lock()
    load.memory["start"] = target.megabytes()
    expected = (200, target.detect(photo))
    begin = time.monotonic()
    end = begin + seconds

    def client() -> None:
        connection = target.connect()
        while time.monotonic() < end:
            sent = time.perf_counter()
            try:
                connection.request("POST", "/v1/detect", photo, target.headers({"Content-Type": RAW_TYPE}))
                answer = connection.getresponse()
                got = (answer.status, answer.read())
            except (OSError, http.client.HTTPException) as error:
                got = (0, type(error).__name__.encode())
                connection.close()
            took = 1000 * (time.perf_counter() - sent)
            with lock:
                if got == expected:
                    load.milliseconds.append(took)
                else:
                    load.errors[_error_kind(*got)] += 1
        connection.close()

    threads = [threading.Thread(target=client, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    warm = min(WARM_SECONDS, seconds / 2)
    seen = []
    while (now := time.monotonic()) < end:
        seen.append(target.megabytes())
        if "warm" not in load.memory and now - begin >= warm:
            load.memory["warm"] = seen[-1]
        time.sleep(max(min(1.0, seconds / 4, end - now), 0.01))
    for thread in threads:
        thread.join()
    load.seconds = time.monotonic() - begin
    load.memory["end"] = target.megabytes()
    load.memory.setdefault("warm", seen[-1])
    load.memory["peak"] = max(*seen, *load.memory.values())
    return load


def _error_kind(status: int, body: bytes) -> str:
    if status == 200:
        return "another answer"
    return f"status {status}" if status else body.decode()
