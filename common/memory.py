"""Constant memory over any number of photos: one malloc arena for all threads, one ONNX Runtime arena for all nets.

By default glibc gives each thread an arena, which photos of different sizes fragment: over 4000 photos, the memory of
two workers grew by 50 %. One malloc arena keeps it constant; one ONNX Runtime arena keeps its peak constant
(EXPERIMENTS.md).
"""

from __future__ import annotations

import ctypes
import re
import threading
from contextlib import suppress
from functools import lru_cache

OUT_OF_MEMORY = "needs more memory than there is; make it smaller, or leave it out"  # of a photo or video
_OUT_OF_MEMORY = re.compile("insufficient memory|failed to allocate|bad_alloc|bad allocation", re.IGNORECASE)
_registering = threading.Lock()
# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
EXTEND_BY_DOUBLING = 0  # ONNX Runtime's arena_extend_strategy; 1, as requested, takes as much (EXPERIMENTS.md)


def limit_malloc_arenas() -> bool:
    """Limit glibc's malloc to one arena, before the first thread starts; return whether it could be limited."""
    try:
        return bool(ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1))
    except (OSError, AttributeError, TypeError):  # TypeError: on Windows, CDLL needs a name
        return False  # not glibc


def keep_freed_memory() -> None:
    """Make glibc keep freed memory: each step of a training asks for the same sizes, and is up to a third faster."""
    with suppress(OSError, AttributeError, TypeError):  # not glibc, as in `limit_malloc_arenas`
        for option in M_MMAP_THRESHOLD, M_TRIM_THRESHOLD:
            ctypes.CDLL(None).mallopt(option, 1 << 30)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an input needs too much memory: Python's, OpenCV's or ONNX Runtime's error."""
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def register_shared_allocator() -> None:
    """Register, once per process, the arena that sessions with "session.use_env_allocators" share."""
    with _registering:  # sessions may be made in several threads
        _register_allocator()


@lru_cache(maxsize=1)
def _register_allocator() -> None:
    import onnxruntime as ort  # here, because commands import this module before they need a graph

    # The arena keeps its memory between photos, so that malloc cannot fragment it.
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": EXTEND_BY_DOUBLING}))
