"""Malformed HTTP requests of many kinds, made from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.load import malformed_bodies, malformed_heads
from tests.load.request_fuzzer import RequestFuzzer, Steps

KINDS = {**malformed_bodies.KINDS, **malformed_heads.KINDS}


@dataclass(frozen=True)
class MalformedRequest:
    """A malformed request."""

    kind: str
    """Its kind, one of KINDS."""
    steps: Steps
    """What the client does, in order."""


def malformed_requests(fuzzer: RequestFuzzer, count: int) -> Iterator[MalformedRequest]:
    """Yield `count` requests, all kinds equally often, in random order."""
    names = list(KINDS)
    order = [names[i % len(names)] for i in range(count)]
    fuzzer.rng.shuffle(order)
    for name in order:
        yield MalformedRequest(name, KINDS[name](fuzzer))
