"""Inference calls nobody: every connection and every look-up of a name by a command and its workers is noted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from made_videos import blob_video
from PIL import Image

from pipeline.made_photos import made_photo

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


@pytest.mark.parametrize("command", ["detect", "video", "batch"])
def test_detection_calls_nobody(command: str, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(2):
        Image.fromarray(made_photo(160, 120, 1, seed=k)).save(photos / f"{k}.png")
    commands = {
        "detect": ["pipeline.detect", "photos"],
        "video": ["pipeline.detect", str(blob_video(tmp_path / "a.mp4", frames=3))],
        "batch": ["pipeline.batch", "photos", "faces.parquet", "--workers", "2"],
    }
    assert calls(["-m", *commands[command]], tmp_path) == []
