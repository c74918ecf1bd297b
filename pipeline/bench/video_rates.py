"""The benchmark's frames per second of `pipeline.detect` on made videos, by the options with fewer detector runs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from common.images import Pixels
from pipeline.bench.photos import quartile_cells
from pipeline.bench.runs import run_detect
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.bench.timing import Quartiles
from pipeline.evaluate.report import Table
from pipeline.video.writer import video_writer

SIZE, RATE, SECONDS = (640, 480), 25, 12  # px; frames per second
MOVING, STILL = "moving camera", "still camera"
WAYS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("every frame", ()),
    ("--frame-stride 2", ("--frame-stride", "2")),
    ("--frame-stride 2 --follow", ("--frame-stride", "2", "--follow")),
    ("--frame-stride 5", ("--frame-stride", "5")),
    ("--frame-stride 5 --follow", ("--frame-stride", "5", "--follow")),
    ("--motion", ("--motion",)),
)


def frames(camera: str, count: int) -> Iterator[Pixels]:
    """Yield frames with three faces; a still camera's differ by its noise alone, and by a face after half the time."""
    scene = synthetic_photo(2 * SIZE[0], SIZE[1], 6)
    rng = np.random.default_rng(0)
    for i in range(count):
        left = round(SIZE[0] * (0.5 - 0.5 * math.cos(0.4 * i / RATE))) if camera == MOVING else 0
        frame = scene[:, left : left + SIZE[0]].astype(np.float32)
        if camera == STILL and i >= count // 2:
            frame[: SIZE[1] // 2, : SIZE[0] // 3] = 128  # somebody leaves
        noise = rng.standard_normal((SIZE[1], SIZE[0], 1), dtype=np.float32)
        yield (frame + 2 * noise).clip(0, 255).astype(np.uint8)


def time_videos(rounds: int, options: Sequence[str], seconds: float = SECONDS) -> dict[str, Any]:
    """Return the frames of video per second of `pipeline.detect --no-pictures`, by camera and options, in turn.

    The time of the same command on one frame, which is its start, is taken off.
    """
    count = max(round(seconds * RATE), 2)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        start = _made(Path(folder) / "start.mp4", MOVING, 1)
        for camera in (MOVING, STILL):
            file = _made(Path(folder) / f"{camera}.mp4", camera, count)
            rates: dict[str, list[float]] = {name: [] for name, _ in WAYS}
            for _ in range(rounds):
                begin = run_detect([start, "--no-pictures", *options])["seconds"]
                for name, flags in WAYS:
                    whole = run_detect([file, "--no-pictures", *flags, *options])["seconds"]
                    rates[name].append(count / max(whole - begin, 1e-3))
            first = np.array(rates[WAYS[0][0]])
            rows += [
                {
                    "camera": camera,
                    "options": name,
                    "frames_per_second": asdict(Quartiles.of(values)),
                    "ratio": asdict(Quartiles.of(np.array(values) / first)),
                }
                for name, values in rates.items()
            ]
    return {"frames": count, "size": list(SIZE), "rows": rows}


def _made(file: Path, camera: str, count: int) -> Path:
    with video_writer(file, Fraction(RATE)) as video:
        for i, frame in enumerate(frames(camera, count)):
            video.add(frame, i / RATE)
    return file


def rates_tables(record: dict[str, Any]) -> list[Table]:
    """Return the table of frames per second."""
    rows = [
        (
            row["camera"],
            row["options"],
            *quartile_cells(row["frames_per_second"], 1),
            quartile_cells(row["ratio"], 2)[0],
        )
        for row in record["rows"]
    ]
    width, height = record["size"]
    title = f"Frames of video per second, {width}x{height} px, three faces, {record['frames']} frames"
    return [Table(title, ("", "options", "frames/s", "quartiles", "of every frame's"), tuple(rows))]
