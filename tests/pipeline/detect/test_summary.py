"""The tables that detect prints fit a terminal of 80 columns, with whole labels."""

from __future__ import annotations

import io

from rich.console import Console

from common.paths import FoundImage
from pipeline.detect.summary import DetectSummary, show_summary
from pipeline.inference.results import ImageResult

LABELS = ("with_mask", "without_mask", "mask_weared_incorrect")


def test_the_longest_label_is_shown_whole() -> None:
    box = [1190.4, 1148.0, 1383.2, 1356.5]
    faces = [
        {"label": label, "unsure": True, "score": 0.5, "face_score": 1.0, "box": box, "landmarks": []}
        for label in LABELS
    ]
    summary = DetectSummary()
    summary.add(ImageResult(FoundImage("a.jpg", "a.jpg"), 1536, 1420, faces))
    text = io.StringIO()
    show_summary(Console(file=text, width=80), summary, LABELS)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(any(f" {label}? " in line and " 1190 " in line for line in lines) for label in LABELS)
