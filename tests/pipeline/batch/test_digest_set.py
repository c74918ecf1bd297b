from __future__ import annotations

import numpy as np

from pipeline.batch.digest_set import DigestSet, digest


def test_names_are_remembered() -> None:
    some = [f"/photos/{i}.jpg" for i in range(0, 3000, 3)] + ["", "ü\ud7ff"]
    names = DigestSet(some)
    assert len(names) == len(some) and all(name in names for name in some)
    assert not any(f"/photos/{i}.jpg" in names for i in range(1, 3000, 3))
    assert "x" not in DigestSet() and 3 not in names


def test_half_a_digest_is_not_enough() -> None:
    names = DigestSet(["a", "b"])
    # All names share the first half of their digest: the second one decides.
    first = int.from_bytes(digest("a")[:8], "big")
    names._first = np.full(2, first, np.uint64)
    names._second = np.array([1, int.from_bytes(digest("a")[8:], "big")], np.uint64)
    assert "a" in names
    names._second[1] += 1
    assert "a" not in names
