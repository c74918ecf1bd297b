"""Inference makes no network connection.

An audit hook records connections and name look-ups of Python in a command and its workers. The hook cannot see native
code (ONNX Runtime, FFmpeg). So each command also runs in a network namespace without devices, and must give its full
result. A native connection that fails there without an effect stays undetected.
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
from tests.helpers.video.made_videos import blob_video

ROOT = Path(__file__).resolve().parents[2]
# Python imports a module with the name sitecustomize at its start, also in worker processes.
AUDIT_HOOK = """
import os, sys
def record(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        handle = os.open(os.environ["CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{event} {args[1:] if event == 'socket.connect' else args}\\n".encode())
        os.close(handle)
sys.addaudithook(record)
"""


def network_calls(command: Sequence[str], folder: Path) -> list[str]:
    """Run a command, which must end with code 0, and return its network calls."""
    (folder / "hook").mkdir()
    (folder / "hook/sitecustomize.py").write_text(AUDIT_HOOK)
    log = folder / "calls.txt"
    path = os.pathsep.join((str(folder / "hook"), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "CALLS": str(log)}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return log.read_text().splitlines() if log.exists() else []


def test_a_connection_is_recorded(tmp_path: Path) -> None:
    code = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.create_connection(('127.0.0.1', 9))"
    looked_up, connected = network_calls(["-c", code], tmp_path)
    assert looked_up.startswith("socket.getaddrinfo ('127.0.0.1', 9,") and connected.startswith("socket.connect")


UNSHARE = ("unshare", "--net") if os.name == "posix" and os.geteuid() == 0 else ("unshare", "-Urn")
CONNECT = """import socket
try:
    socket.create_connection(("127.0.0.1", 9), timeout=5)
except OSError as error:
    print(error.strerror)
"""


@cache
def reason_against_isolation() -> str:
    """Return why no process can run without a network here, or an empty string."""
    if shutil.which("unshare") is None:
        return "needs the program unshare (Linux)"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"cannot run without a network ({tried.stderr.strip()})" if tried.returncode else ""


def run_without_network(command: Sequence[str], folder: Path) -> str:
    """Run a command, which must end with code 0, without any network or loopback; return its standard output."""
    if reason_against_isolation():
        pytest.skip(reason_against_isolation())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    isolated = [*UNSHARE, sys.executable, *command]
    done = subprocess.run(isolated, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def test_without_a_network_no_connection_is_possible(tmp_path: Path) -> None:
    assert run_without_network(["-c", CONNECT], tmp_path) == "Network is unreachable\n"


def detection_command(command: str, folder: Path) -> list[str]:
    """Return a command for photos or a video, which are written into the folder."""
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


@pytest.mark.slow
@pytest.mark.parametrize("command", ["detect", "video", "batch"])
def test_detection_makes_no_connection(command: str, tmp_path: Path) -> None:
    assert network_calls(detection_command(command, tmp_path), tmp_path) == []


@pytest.mark.parametrize("command", ["detect", "video", "batch"])
def test_detection_needs_no_network(command: str, tmp_path: Path) -> None:
    run_without_network(detection_command(command, tmp_path), tmp_path)
    assert [path for path in tmp_path.glob("out*/*") if path.stat().st_size]
