"""Inference calls nobody.

What Python's own sockets do in a command and its workers, connections and look-ups of names, is noted. Code that is not
Python's (ONNX Runtime, ffmpeg) is not seen so: therefore each command also runs in a network namespace without devices,
where nobody can be reached, and does all the same. A call that fails there and is not missed stays unseen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from pipeline.bench.synthetic_photos import synthetic_photo
from tests.helpers.made_videos import blob_video

ROOT = Path(__file__).resolve().parents[2]
# Python imports a module of this name when it starts, in worker processes, too.
WATCH = """
import os, sys
def note(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        handle = os.open(os.environ["CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{event} {args[1:] if event == 'socket.connect' else args}\\n".encode())
        os.close(handle)
sys.addaudithook(note)
"""


def calls(command: Sequence[str], folder: Path) -> list[str]:
    """What a command that ends well calls."""
    (folder / "watch").mkdir()
    (folder / "watch/sitecustomize.py").write_text(WATCH)
    log = folder / "calls.txt"
    path = os.pathsep.join((str(folder / "watch"), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "CALLS": str(log)}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return log.read_text().splitlines() if log.exists() else []


def test_a_call_would_be_seen(tmp_path: Path) -> None:
    code = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.create_connection(('127.0.0.1', 9))"
    looked_up, connected = calls(["-c", code], tmp_path)
    assert looked_up.startswith("socket.getaddrinfo ('127.0.0.1', 9,") and connected.startswith("socket.connect")


UNSHARE = ("unshare", "--net") if os.name == "posix" and os.geteuid() == 0 else ("unshare", "-Urn")
CALL = """import socket
try:
    socket.create_connection(("127.0.0.1", 9), timeout=5)
except OSError as error:
    print(error.strerror)
"""


@cache
def why_not_apart() -> str:
    """Why no process can be without a network here; empty where one can."""
    if shutil.which("unshare") is None:
        return "needs the program unshare (Linux)"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"may not be without a network ({tried.stderr.strip()})" if tried.returncode else ""


def without_network(command: Sequence[str], folder: Path) -> str:
    """What a command prints that ends well where no network is, not even this machine's own addresses."""
    if why_not_apart():
        pytest.skip(why_not_apart())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    apart = [*UNSHARE, sys.executable, *command]
    done = subprocess.run(apart, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def test_without_a_network_nobody_can_be_reached(tmp_path: Path) -> None:
    assert without_network(["-c", CALL], tmp_path) == "Network is unreachable\n"


def detection(command: str, folder: Path) -> list[str]:
    """A command on photos or a video made in the folder."""
    photos = folder / "photos"
    photos.mkdir()
    for k in range(2):
        Image.fromarray(synthetic_photo(160, 120, 1, seed=k)).save(photos / f"{k}.png")
    commands = {
        "detect": ["pipeline.detect", "photos", "--out", "out"],
        "video": ["pipeline.detect", str(blob_video(folder / "a.mp4", frames=3)), "--out", "out"],
        "batch": ["pipeline.batch", "photos", "out.parquet", "--workers", "2"],
    }
    return ["-m", *commands[command]]


@pytest.mark.parametrize("command", ["detect", "video", "batch"])
def test_detection_calls_nobody(command: str, tmp_path: Path) -> None:
    assert calls(detection(command, tmp_path), tmp_path) == []


@pytest.mark.parametrize("command", ["detect", "video", "batch"])
def test_detection_misses_no_network(command: str, tmp_path: Path) -> None:
    without_network(detection(command, tmp_path), tmp_path)
    assert [path for path in tmp_path.glob("out*/*") if path.stat().st_size]
