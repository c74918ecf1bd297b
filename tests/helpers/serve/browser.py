"""For tests of the web page: a real server, a real Chromium, and input for its camera and file dialogs."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[3]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
COLOURS = {"with_mask": (0, 158, 115), "without_mask": (213, 94, 0), "mask_weared_incorrect": (240, 228, 66)}
COUNTED = "#counts li[data-class={}] b"


@contextmanager
def serving(*options: str, **variables: str) -> Iterator[str]:
    """Run a server with the default bundle in its own process; yield its address without a final slash."""
    command = [sys.executable, "-m", "pipeline.serve", "--port", "0", *options]
    environment = {**os.environ, **variables}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving at http://127.0.0.1:"), line
            yield line.split()[2]
        finally:
            process.terminate()


def ask(server: str, file: Path, min_score: float = 0.05) -> Any:
    """Return the server's answer for a picture file, with the file's name as "file"."""
    url = f"{server}/v1/detect?min_score={min_score}"
    request = urllib.request.Request(url, file.read_bytes(), {"Content-Type": "application/octet-stream"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return {**json.load(answer), "file": file.name}


def write_camera(path: Path, picture: np.ndarray, width: int = 1280, height: int = 720) -> None:
    """Write a video for Chromium's fake camera: the RGB picture, as wide as the video, moves down from frame to frame.

    A frame has 1/90 of the height more than the one before.
    """
    scaled = cv2.resize(
        picture, (width, round(width * picture.shape[0] / picture.shape[1])), interpolation=cv2.INTER_AREA
    )
    with path.open("wb") as file:
        for i in range(20):
            frame = np.full((height, width, 3), 60, np.uint8)
            top = round(height * (12.5 + i) / 90)
            frame[top : top + len(scaled)] = scaled
            file.write(cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes())


def turned(path: Path, picture: np.ndarray, orientation: int) -> Path:
    """Write an RGB picture rotated for this EXIF orientation, with the tag."""
    transposes = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).transpose(transposes[orientation]).save(path, exif=exif)
    return path


def choose(page: Page, *files: Path) -> None:
    """Choose files with the button, and wait until each has a result or an error."""
    before = page.locator("#strip button").count()
    with page.expect_file_chooser() as chooser:
        page.click("#choose")
    chooser.value.set_files(files)
    wait_for_photos(page, before + len(files))


def wait_for_photos(page: Page, count: int) -> None:
    """Wait until `count` photos have a result or an error."""
    ended = "#strip button:is([data-state=done], [data-state=failed])"
    page.wait_for_function("([ended, n]) => document.querySelectorAll(ended).length === n", arg=[ended, count])


def give(page: Page, event: str, *files: Path) -> None:
    """Drop ("drop") or paste ("paste") files, as a browser does."""
    page.evaluate(
        """([event, files]) => {
            const data = new DataTransfer();
            for (const [name, type, text] of files) {
                data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name, { type }));
            }
            const options = { bubbles: true, cancelable: true };
            document.querySelector("main").dispatchEvent(
                event === "drop" ? new DragEvent("drop", { ...options, dataTransfer: data })
                                 : new ClipboardEvent("paste", { ...options, clipboardData: data }));
        }""",
        [event, [(f.name, f"image/{f.suffix[1:]}", base64.b64encode(f.read_bytes()).decode()) for f in files]],
    )


def pixels(page: Page, *canvases: str) -> list[np.ndarray]:
    """Return the pixels of canvases at one moment, uint8 (H, W, 4) each."""
    urls = page.evaluate("ids => ids.map((id) => document.getElementById(id).toDataURL())", canvases)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA")) for url in urls]


def is_drawn(overlay: np.ndarray, face: dict[str, Any], size: tuple[int, int], slack: int = 3) -> bool:
    """Return whether the sides of a face's box, in a picture of `size` (w, h), are drawn in the class's colour."""
    height, width = overlay.shape[:2]
    x1, y1, x2, y2 = np.array(face["box"]) * np.tile([width / size[0], height / size[1]], 2)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return all(_near(overlay, at, COLOURS[face["label"]], slack) for at in ((x1, y), (x2, y), (x, y1), (x, y2)))


def _near(image: np.ndarray, at: tuple[float, float], colour: tuple[int, int, int], slack: int) -> bool:
    x, y = round(at[0]), round(at[1])
    part = image[max(y - slack, 0) : y + slack + 1, max(x - slack, 0) : x + slack + 1].astype(int)
    return bool((np.abs(part[..., :3] - colour).max(axis=-1) < 40).any())


# The WCAG contrast of each visible text with its background: rows of [ratio, minimum ratio, text].
CONTRASTS = """() => {
    const canvas = new OffscreenCanvas(1, 1), pen = canvas.getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
    };
    const luminance = (c) => {
        const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgba(getComputedStyle(at).backgroundColor);
            if (colour[3] === 1) return colour;
            if (colour[3] !== 0) throw new Error(`half transparent: ${at.className}`);
        }
        return [255, 255, 255, 1];
    };
    const rows = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
        if (!text || !element.checkVisibility() || element.closest("noscript, .unseen, .skip")) continue;
        const style = getComputedStyle(element), size = parseFloat(style.fontSize);
        const [a, b] = [luminance(rgba(style.color)), luminance(ground(element))];
        const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        rows.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), large ? 3 : 4.5, text]);
    }
    return rows;
}"""
