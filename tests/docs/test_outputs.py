"""docs/outputs.md names the fields of every output, and no others."""

from __future__ import annotations

import io
import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np

from common.paths import FoundImage
from pipeline.batch.table import table_schema
from pipeline.detect.writers import CsvWriter
from pipeline.inference.detections import Detections
from pipeline.inference.results import ImageResult, image_result
from pipeline.video.events import Event, EventKind
from pipeline.video.outputs import FrameResult, VideoOutputs
from pipeline.video.reader import Frame, FrameAction

PAGE = (Path(__file__).resolve().parents[2] / "docs/outputs.md").read_text(encoding="utf-8")
IMAGE = FoundImage("a.png", "a.png")


def tables(heading: str) -> list[list[str]]:
    """Return the names in the first column of each table of a section."""
    (section,) = (part for part in PAGE.split("\n## ") if part.startswith(heading))
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
        cells = [row.split("|")[1] for row in table.splitlines()[2:]]
        found.append([name for cell in cells for name in re.findall("`([^`]+)`", cell)])
    return found


def one_face() -> ImageResult:
    box, points = np.array([[1, 2, 3, 4]], np.float32), np.zeros((1, 5, 2), np.float32)
    found = Detections(box, np.ones(1, np.float32), np.array([[1, 0]], np.float32), points, ("a", "b"), 0.5)
    return image_result(IMAGE, (8, 6), found, "a note")


def test_photos() -> None:
    result = one_face()
    assert tables("detections.json") == [list(result.record()), list(result.faces[0])]


def test_tables_of_photos() -> None:
    (section,) = (part for part in PAGE.split("\n## ") if part.startswith("Tables of photos"))
    text = io.StringIO()
    CsvWriter(text, ("CLASS",))
    sentence = section[section.index("Its columns are") : section.index("(true or false)")]
    assert ",".join(re.findall("`([^`]+)`", sentence)) == text.getvalue().strip()


def test_frames_of_a_video() -> None:
    frame = Frame(0, 0.0, np.zeros((6, 8, 3), np.uint8), datetime.now(UTC), "hold")
    outputs = VideoOutputs.__new__(VideoOutputs)
    outputs._name = "a.mp4"
    found = Detections.empty(("a",))
    line = outputs._line(FrameResult(frame, found, (), found, np.zeros((0, 4), np.float32), ()))
    assert tables("JSON lines") == [list(line)]
    assert all(f"`{action}`:" in PAGE for action in get_args(FrameAction) if action != "detect")


def test_events_of_a_video() -> None:
    assert tables("Events") == [[field.name for field in fields(Event)]]
    assert all(f"`{kind}`" in PAGE for kind in get_args(EventKind))


def test_the_table_of_batch() -> None:
    columns = [name.replace("p_a", "p_CLASS") for name in table_schema(("a",), with_id=True).names]
    assert tables("The table of `batch`") == [columns]
