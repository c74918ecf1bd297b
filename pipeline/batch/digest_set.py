"""Names seen before, in 16 bytes each: enough to tell billions apart, few enough to hold millions."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def digest(name: str) -> bytes:
    """16 bytes; that two of a billion names share them has a chance of 1 in 10**20."""
    return blake2b(name.encode(), digest_size=16).digest()


class DigestSet:
    """A fixed set of names, each given once."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        digests = bytearray()
        for name in names:
            digests += digest(name)
        halves = np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)
        order = np.lexsort((halves[:, 1], halves[:, 0]))
        self._first: NDArray[np.uint64] = halves[order, 0]
        self._second: NDArray[np.uint64] = halves[order, 1]

    def __len__(self) -> int:
        return len(self._first)

    def __contains__(self, name: object) -> bool:
        if not len(self) or not isinstance(name, str):
            return False
        mark = digest(name)
        first, second = (np.uint64(int.from_bytes(half, "big")) for half in (mark[:8], mark[8:]))
        start, end = np.searchsorted(self._first, first), np.searchsorted(self._first, first, side="right")
        return bool((self._second[start:end] == second).any())
