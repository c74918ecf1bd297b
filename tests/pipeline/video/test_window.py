"""The window for --show, on a real X server without a screen (Xvfb)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import ImageGrab, features

from common.errors import UserError
from pipeline.video.window import Window
from tests.helpers.video.made_videos import blob_frame

SCREEN = (400, 300)


@pytest.fixture(scope="module")
def x_server() -> Iterator[str]:
    """Run an X server and yield the name of its display."""
    pytest.importorskip("tkinter", reason="Python's Tk is not installed")
    program = shutil.which("Xvfb")
    if program is None:
        pytest.skip("Xvfb is not installed")
    read, write = os.pipe()
    size = f"{SCREEN[0]}x{SCREEN[1]}x24"
    command = [program, "-displayfd", str(write), "-screen", "0", size, "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as numbers:
            number = numbers.readline().strip()
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def display(x_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DISPLAY", x_server)
    return x_server


def screenshot(display: str) -> np.ndarray:
    """Return the pixels of the screen, uint8 (H, W, 3)."""
    if not features.check("xcb"):
        pytest.skip("this Pillow cannot take screenshots of X")
    return np.asarray(ImageGrab.grab(xdisplay=display).convert("RGB"))


def red_size(pixels: np.ndarray) -> tuple[int, int]:
    """Return width and height of the red area."""
    rows, columns = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60))
    return (int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1) if len(rows) else (0, 0)


def test_it_shows_frame_after_frame(display: str) -> None:
    with Window("camera-0") as window:
        assert window.open
        window.show(blob_frame([(10, 10, 50, 40)], (200, 100)))
        assert red_size(screenshot(display)) == (40, 30)
        window.show(blob_frame([(10, 10, 90, 30)], (200, 100)))
        assert red_size(screenshot(display)) == (80, 20) and window.open
    assert red_size(screenshot(display)) == (0, 0)


def test_a_large_frame_is_made_smaller_than_the_screen(display: str) -> None:
    with Window("video.mp4") as window:
        window.show(blob_frame([(0, 0, 1600, 900)], (1600, 900)))
        width, height = red_size(screenshot(display))
        assert 0.8 * SCREEN[0] < width < SCREEN[0] and height < SCREEN[1]
        assert width / height == pytest.approx(16 / 9, rel=0.02)


@pytest.mark.parametrize("key", ["q", "Escape"])
def test_a_key_closes_it(display: str, key: str) -> None:
    with Window("camera-0") as window:
        window.show(blob_frame([]))
        window._root.focus_force()
        window._root.update()
        window._root.event_generate("<KeyPress-x>")
        window.show(blob_frame([]))
        assert window.open
        window._root.event_generate(f"<KeyPress-{key}>")
        window.show(blob_frame([]))
        assert not window.open
        window.show(blob_frame([]))  # shows nothing more


def test_its_button_closes_it(display: str) -> None:
    with Window("camera-0") as window:
        window.show(blob_frame([]))
        window._root.tk.eval(window._root.protocol("WM_DELETE_WINDOW"))  # a window manager calls this
        assert not window.open


def test_several_windows(display: str) -> None:
    for _ in range(3):
        with Window("camera-0") as window:
            window.show(blob_frame([]))


def test_an_error_inside_closes_it(display: str) -> None:
    with pytest.raises(RuntimeError, match="inside"), Window("camera-0") as window:
        window.show(blob_frame([(0, 0, 96, 64)]))
        raise RuntimeError("inside")
    assert red_size(screenshot(display)) == (0, 0)


def test_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tkinter", reason="Python's Tk is not installed")
    if sys.platform in ("win32", "darwin"):
        pytest.skip("this system always has a display")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(UserError, match=r"^--show: .*no display.*; remove --show"):
        Window("camera-0")


def test_without_tk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(UserError, match=r"^--show needs .*python3-tk.*; remove --show"):
        Window("camera-0")
