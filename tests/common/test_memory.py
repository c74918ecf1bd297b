"""One malloc arena for all threads, by glibc's count; one ONNX Runtime arena for all nets, by its memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from common import memory
from tests.helpers.float_bundle import float_bundle

ROOT = Path(__file__).resolve().parents[2]


def run_script(script: str, mode: str) -> int:
    """Run a script in a new process, and return the number that it prints."""
    command = [sys.executable, "-c", script, mode]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


# glibc makes further arenas when threads allocate at the same time; malloc_info lists the arenas.
SCRIPT = """
import ctypes, sys, tempfile, threading
from common.memory import limit_malloc_arenas
if sys.argv[1] == "one":
    assert limit_malloc_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.fopen.restype = ctypes.c_void_p
gate = threading.Barrier(4)
def allocate():
    gate.wait()
    for _ in range(1000):
        libc.malloc(ctypes.c_size_t(1000))
threads = [threading.Thread(target=allocate) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(open(file.name).read().count("<heap nr="))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has an arena per thread")
def test_a_system_without_glibc_keeps_its_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    def windows(_: object) -> None:
        raise TypeError("argument must be str")

    monkeypatch.setattr(memory.ctypes, "CDLL", windows)
    assert not memory.limit_malloc_arenas()
    memory.keep_freed_memory()


def test_threads_share_limit_malloc_arenas() -> None:
    counts = {}
    for mode in ("one", "each"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, mode], cwd=ROOT, capture_output=True, text=True, check=True
        )
        counts[mode] = int(done.stdout)
    assert counts["one"] == 1 < counts["each"]


# Photos of several sizes in two threads, with a bundle whose nets are in float32: print the kilobytes by which the peak
# memory grows.
PHOTOS = """
import sys, threading
import numpy as np
import onnxruntime
from pipeline.inference import bundle, graphs
from common.memory import limit_malloc_arenas
from pipeline.inference.predictor import Predictor
if sys.argv[1] == "malloc":
    class Options(onnxruntime.SessionOptions):
        def add_session_config_entry(self, *entry):
            self.enable_cpu_mem_arena = False
    onnxruntime.SessionOptions = Options
limit_malloc_arenas()
predictor = Predictor.load(sys.argv[2])
sizes = [(300, 400), (400, 300), (366, 512), (156, 400), (500, 400)]
photos = [np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]
def detect(photos):
    for photo in photos:
        predictor.detect(photo)
def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
before = peak()
threads = [threading.Thread(target=detect, args=(order * 2,)) for order in (photos, photos[::-1])]
[t.start() for t in threads]
[t.join() for t in threads]
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has the peak memory since exec")
def test_nets_need_less_memory_in_one_arena_than_in_malloc(tmp_path: Path) -> None:
    bundle, growth = str(float_bundle(tmp_path / "bundle")), {}
    for mode in ("arena", "malloc"):
        done = subprocess.run(
            [sys.executable, "-c", PHOTOS, mode, bundle], cwd=ROOT, capture_output=True, text=True, check=True
        )
        growth[mode] = int(done.stdout)
    assert growth["arena"] < 0.9 * growth["malloc"]
