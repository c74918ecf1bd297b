"""One heap for all threads, where the C library is glibc.

By default it gives each thread its own, and what photos of different sizes free in each is never whole enough for the
next: over 4000 photos, two workers' memory grew by half as much again; with one heap it stays (EXPERIMENTS.md).
"""

from __future__ import annotations

import ctypes

M_ARENA_MAX = -8  # glibc's malloc.h


def one_heap() -> bool:
    """Asks the C library for it, before the first thread starts; whether it was heard."""
    try:
        return bool(ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1))
    except (OSError, AttributeError, TypeError):  # TypeError: Windows wants a library's name
        return False  # no glibc here
