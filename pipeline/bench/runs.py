"""The benchmark's whole runs: `pipeline.detect` as a process, and photos per second over a folder."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.images import read_image
from common.paths import SUFFIXES, find_images
from pipeline.bench.competitors import NAIVE, PIPELINE, Naive
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.bench.timing import Spread
from pipeline.detect.command import DetectArgs, detect_images
from pipeline.evaluate.report import Table
from pipeline.inference.predictor import Predictor
from pipeline.video.writer import video_writer

ROOT = Path(__file__).resolve().parents[2]


VIDEO_SIZE, VIDEO_RATE = (320, 240), 25  # pixels; frames a second


@dataclass(frozen=True)
class ProcessRun:
    """What one process took. seconds: wall time. megabytes: most memory held at a time (resident set)."""

    seconds: float
    megabytes: float


def run_detect(arguments: Sequence[str | Path | int]) -> ProcessRun:
    """Runs `python -m pipeline.detect` with the arguments and --out a folder that is thrown away.

    Raises UserError with what it said when it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, out = Path(folder) / "measured.json", Path(folder) / "out"
        detect = [sys.executable, "-m", "pipeline.detect", *map(str, arguments), "--out", str(out)]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.bench.measure_process", str(report), *detect],
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise UserError(f"pipeline.detect failed: {lines[-1] if lines else f'code {done.returncode}'}")
        return ProcessRun(**json.loads(report.read_text(encoding="utf-8")))


def time_command(photo: str | Path, options: Sequence[str], rounds: int) -> dict[str, Any]:
    """Runs the command on one photo, after once for the file cache: spread of its seconds and megabytes."""
    run_detect([photo, *options])
    runs = [run_detect([photo, *options]) for _ in range(rounds)]
    return {
        "photo": Path(photo).name,
        "seconds": asdict(Spread.of(np.array([run.seconds for run in runs]))),
        "megabytes": asdict(Spread.of(np.array([run.megabytes for run in runs]))),
    }


def time_folder(
    predictor: Predictor, naive: Naive, photos: Sequence[str], rounds: int, workers: int, min_face: float | None
) -> dict[str, Any]:
    """Photos per second from file to result, ours with one worker and several, the naive pipeline; they take turns.

    Ours is what `pipeline.detect --no-pictures` does, its JSON included; the naive one is read_image and then its
    detect, with PyTorch's threads on all of `workers` cores.
    """
    import torch

    images, _ = find_images(photos)

    def ours(count: int) -> int:
        with tempfile.TemporaryDirectory() as out:
            args = DetectArgs((), out=Path(out), pictures=False, workers=count, min_face=min_face)
            return detect_images(args, images, [], predictor).faces.total()

    def theirs() -> int:
        before = torch.get_num_threads()
        torch.set_num_threads(workers)
        try:
            return sum(naive.detect([read_image(image.path)])[0] for image in images)
        finally:
            torch.set_num_threads(before)

    ways: dict[str, Callable[[], int]] = {f"{PIPELINE}, 1 worker": lambda: ours(1)}
    if workers > 1:
        ways[f"{PIPELINE}, {workers} workers"] = lambda: ours(workers)
    ways[NAIVE] = theirs
    took: dict[str, list[float]] = {name: [] for name in ways}
    faces: dict[str, int] = {}
    for _ in range(rounds):
        for name, go in ways.items():
            begin = time.perf_counter()
            faces[name] = go()
            took[name].append(time.perf_counter() - begin)
    best = list(ways)[-2]
    rows = [
        {
            "name": name,
            "photos_per_second": asdict(Spread.of(len(images) / np.array(took[name]))),
            "faces_per_photo": faces[name] / len(images),
        }
        for name in ways
    ]
    others = [NAIVE] if workers == 1 else [NAIVE, f"{PIPELINE}, 1 worker"]
    ratios = {f"{best} / {other}": asdict(Spread.of(np.array(took[other]) / np.array(took[best]))) for other in others}
    return {"photos": len(images), "ways": rows, "ratios": ratios}


def measure_memory(photos: Sequence[str], count: int, options: Sequence[str]) -> dict[str, Any]:
    """Most memory of `pipeline.detect --no-pictures` over the photos once, and over `count`, the same ones again."""
    numbers = [len(photos), count]
    with tempfile.TemporaryDirectory() as folder:
        runs: list[ProcessRun] = []
        for number in numbers:
            place = Path(folder) / str(len(runs))
            place.mkdir()
            for k in range(number):
                photo = Path(photos[k % len(photos)])
                suffix = photo.suffix if photo.suffix.lower() in SUFFIXES else ".jpg"  # files are told by content
                (place / f"{k}{suffix}").symlink_to(photo.resolve())
            runs.append(run_detect([place, "--no-pictures", *options]))
    return {
        "photos": numbers,
        "megabytes": [run.megabytes for run in runs],
        "seconds": [run.seconds for run in runs],
    }


def measure_video(seconds: float, options: Sequence[str]) -> dict[str, Any]:
    """Most memory of `pipeline.detect` over ten seconds of a made video and over `seconds`, annotated ones written.

    Two faces move to and fro at 25 frames a second, of which one is looked at.
    """
    scene = synthetic_photo(2 * VIDEO_SIZE[0], VIDEO_SIZE[1], 2)
    lengths = [min(10.0, seconds), seconds]
    runs: list[ProcessRun] = []
    with tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            file = Path(folder) / "made.mp4"
            with video_writer(file, Fraction(VIDEO_RATE)) as video:
                for i in range(round(length * VIDEO_RATE)):
                    left = round(VIDEO_SIZE[0] * (0.5 - 0.5 * math.cos(i / VIDEO_RATE)))
                    video.add(scene[:, left : left + VIDEO_SIZE[0]], i / VIDEO_RATE)
            runs.append(run_detect([file, "--frame-stride", VIDEO_RATE, *options]))
    return {
        "video_seconds": lengths,
        "megabytes": [run.megabytes for run in runs],
        "seconds": [run.seconds for run in runs],
    }


def video_table(record: dict[str, Any]) -> Table:
    """Memory over a short and a long video."""
    rows = tuple(
        (f"{length:.0f}", f"{megabytes:.0f}", f"{seconds:.1f}")
        for length, megabytes, seconds in zip(
            record["video_seconds"], record["megabytes"], record["seconds"], strict=True
        )
    )
    return Table("Memory over a video, one frame a second looked at", ("its seconds", "MB at the peak", "s"), rows)


def command_table(record: dict[str, Any]) -> Table:
    """The whole command."""
    seconds, memory = Spread(**record["seconds"]), Spread(**record["megabytes"])
    row = (record["photo"], f"{seconds.median:.2f}", f"{seconds.q1:.2f}-{seconds.q3:.2f}", f"{memory.median:.0f}")
    title = "The whole command on one photo, from start to written results"
    return Table(title, ("photo", "s", "quartiles", "MB at the peak"), (row,))


def folder_table(record: dict[str, Any]) -> Table:
    """Photos per second of each way, and the ratios."""
    rows = []
    for way in record["ways"]:
        spread = Spread(**way["photos_per_second"])
        rows.append(
            (way["name"], f"{spread.median:.1f}", f"{spread.q1:.1f}-{spread.q3:.1f}", f"{way['faces_per_photo']:.2f}")
        )
    for name, ratio in record["ratios"].items():
        rows.append((name, f"{ratio['median']:.2f}", f"{ratio['q1']:.2f}-{ratio['q3']:.2f}", ""))
    header = ("", "photos/s", "quartiles", "faces a photo")
    return Table(f"Over a folder of {record['photos']} photos, from file to result", header, tuple(rows))


def memory_table(record: dict[str, Any]) -> Table:
    """Memory over few and many photos."""
    rows = tuple(
        (str(photos), f"{megabytes:.0f}", f"{seconds:.1f}")
        for photos, megabytes, seconds in zip(record["photos"], record["megabytes"], record["seconds"], strict=True)
    )
    return Table("Memory over many photos", ("photos", "MB at the peak", "s"), rows)
