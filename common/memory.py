"""Memory that stays flat over any number of photos: one heap for all threads, one arena for all nets.

By default glibc gives each thread a heap of its own, and what photos of different sizes free in each is never whole
enough for the next: over 4000 photos, two workers' memory grew by half as much again. With one heap it stays, and with
the nets' values in one arena its peak does, too (EXPERIMENTS.md).
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import onnxruntime as ort

M_ARENA_MAX = -8  # glibc's malloc.h
BY_DOUBLING = 0  # ONNX Runtime's ArenaExtendStrategy; 1, by just what is asked for, takes as much (EXPERIMENTS.md)


def limit_malloc_arenas() -> bool:
    """Asks the C library for it, before the first thread starts; whether it was heard."""
    try:
        return bool(ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1))
    except (OSError, AttributeError, TypeError):  # TypeError: Windows wants a library's name
        return False  # no glibc here


@lru_cache(maxsize=1)
def register_shared_allocator() -> None:
    """Registers the arena that sessions with "session.use_env_allocators" share, once a process.

    It keeps what it has: between photos nothing goes back to the heap to be taken in pieces.
    """
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": BY_DOUBLING}))
