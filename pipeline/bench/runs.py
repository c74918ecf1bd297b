"""The benchmark's whole runs: `pipeline.detect` as a process, over a folder, over many photos and over a video."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from common.images import read_image
from common.paths import IMAGE_SUFFIXES, FoundImage, find_images
from pipeline.bench.competitors import NAIVE, PIPELINE, NaivePipeline
from pipeline.bench.measure_process import measured
from pipeline.bench.photos import quartile_cells
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.bench.timing import Quartiles
from pipeline.detect.command import DetectArgs, detect_images
from pipeline.evaluate.report import Table
from pipeline.inference.predictor import Predictor
from pipeline.video.writer import video_writer

VIDEO_SIZE, VIDEO_RATE = (320, 240), 25  # pixels; frames per second


def run_detect(arguments: Sequence[str | Path | int]) -> dict[str, float]:
    """Run `python -m pipeline.detect` with the arguments in a temporary folder, for its outputs; see `measured`."""
    with tempfile.TemporaryDirectory() as folder:
        return measured("pipeline.detect", arguments, folder)


def time_command(photo: str | Path, options: Sequence[str], rounds: int) -> dict[str, Any]:
    """Run the command on one photo, first once for the file cache; return the quartiles of its time and memory."""
    arguments = [str(Path(photo).resolve()), *options]
    run_detect(arguments)
    runs = [run_detect(arguments) for _ in range(rounds)]
    figures = {key: asdict(Quartiles.of([run[key] for run in runs])) for key in ("seconds", "megabytes")}
    return {"photo": Path(photo).name, **figures}


def time_folder(
    predictor: Predictor, naive: NaivePipeline, photos: Sequence[str], rounds: int, workers: int, min_face: float | None
) -> dict[str, Any]:
    """Return photos per second from file to result: ours with one and several workers, and the naive pipeline.

    They take turns. Ours is `pipeline.detect --no-pictures` with its JSON; the naive one is read_image and its detect,
    with PyTorch's threads on all of `workers` cores.
    """
    images, _ = find_images(photos)
    ways = _folder_ways(predictor, naive, images, workers, min_face)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    faces: dict[str, int] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            faces[name] = way()
            seconds[name].append(time.perf_counter() - start)
    best = list(ways)[-2]
    rows = [
        {
            "name": name,
            "photos_per_second": asdict(Quartiles.of(len(images) / np.array(seconds[name]))),
            "faces_per_photo": faces[name] / len(images),
        }
        for name in ways
    ]
    others = [NAIVE] if workers == 1 else [NAIVE, f"{PIPELINE}, 1 worker"]
    times = {name: np.array(values) for name, values in seconds.items()}
    ratios = {f"{best} / {other}": asdict(Quartiles.of(times[other] / times[best])) for other in others}
    return {"photos": len(images), "ways": rows, "ratios": ratios}


def _folder_ways(
    predictor: Predictor, naive: NaivePipeline, images: list[FoundImage], workers: int, min_face: float | None
) -> dict[str, Callable[[], int]]:
    """Return what processes the folder, by name; each returns the number of faces."""
    import torch

    def ours(count: int) -> int:
        with tempfile.TemporaryDirectory() as out:
            args = DetectArgs((), out=Path(out), pictures=False, workers=count, min_face=min_face)
            return detect_images(args, images, [], predictor).faces.total()

    def naive_pipeline() -> int:
        before = torch.get_num_threads()
        torch.set_num_threads(workers)
        try:
            return sum(naive.detect([read_image(image.path)])[0] for image in images)
        finally:
            torch.set_num_threads(before)

    ways: dict[str, Callable[[], int]] = {f"{PIPELINE}, 1 worker": lambda: ours(1)}
    if workers > 1:
        ways[f"{PIPELINE}, {workers} workers"] = lambda: ours(workers)
    return {**ways, NAIVE: naive_pipeline}


def measure_memory(photos: Sequence[str], count: int, options: Sequence[str]) -> dict[str, Any]:
    """Return the peak memory of `pipeline.detect --no-pictures` over the photos, and over `count`, repeated."""
    numbers = [len(photos), count]
    with tempfile.TemporaryDirectory() as root:
        runs: list[dict[str, float]] = []
        for number in numbers:
            folder = Path(root) / str(len(runs))
            folder.mkdir()
            for k in range(number):
                photo = Path(photos[k % len(photos)])
                # The reader looks at the content, not at the suffix.
                suffix = photo.suffix if photo.suffix.lower() in IMAGE_SUFFIXES else ".jpg"
                (folder / f"{k}{suffix}").symlink_to(photo.resolve())
            runs.append(run_detect([folder, "--no-pictures", *options]))
    return {"photos": numbers, **_memory_record(runs)}


def measure_video(seconds: float, options: Sequence[str]) -> dict[str, Any]:
    """Return the peak memory of `pipeline.detect` over ten seconds of a synthetic video and over `seconds`.

    Two faces move to and fro at 25 frames per second, of which one is searched. An annotated video is written.
    """
    scene = synthetic_photo(2 * VIDEO_SIZE[0], VIDEO_SIZE[1], 2)
    lengths = [min(10.0, seconds), seconds]
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            file = Path(folder) / "made.mp4"
            with video_writer(file, Fraction(VIDEO_RATE)) as video:
                for i in range(round(length * VIDEO_RATE)):
                    left = round(VIDEO_SIZE[0] * (0.5 - 0.5 * math.cos(i / VIDEO_RATE)))
                    video.add(scene[:, left : left + VIDEO_SIZE[0]], i / VIDEO_RATE)
            runs.append(run_detect([file, "--frame-stride", VIDEO_RATE, *options]))
    return {"video_seconds": lengths, **_memory_record(runs)}


def _memory_record(runs: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    return {key: [run[key] for run in runs] for key in ("megabytes", "seconds")}


def command_tables(record: dict[str, Any]) -> list[Table]:
    """Return the table of the whole command."""
    row = (record["photo"], *quartile_cells(record["seconds"], 2), f"{record['megabytes']['median']:.0f}")
    title = "The whole command on one photo, from start to written results"
    return [Table(title, ("photo", "s", "quartiles", "MB at the peak"), (row,))]


def folder_tables(record: dict[str, Any]) -> list[Table]:
    """Return the table of photos per second, and the ratios."""
    rows = [
        (way["name"], *quartile_cells(way["photos_per_second"], 1), f"{way['faces_per_photo']:.2f}")
        for way in record["ways"]
    ]
    rows += [(name, *quartile_cells(ratio, 2), "") for name, ratio in record["ratios"].items()]
    header = ("", "photos/s", "quartiles", "faces per photo")
    return [Table(f"Over a folder of {record['photos']} photos, from file to result", header, tuple(rows))]


def memory_tables(record: dict[str, Any]) -> list[Table]:
    """Return the table of memory over few and many photos."""
    return _memory_tables("Memory over many photos", "photos", record["photos"], record)


def video_tables(record: dict[str, Any]) -> list[Table]:
    """Return the table of memory over a short and a long video."""
    title = "Memory over a video, one frame per second searched"
    return _memory_tables(title, "video, s", record["video_seconds"], record)


def _memory_tables(title: str, unit: str, amounts: Sequence[float], record: dict[str, Any]) -> list[Table]:
    runs = zip(amounts, record["megabytes"], record["seconds"], strict=True)
    rows = tuple((f"{amount:.0f}", f"{megabytes:.0f}", f"{seconds:.1f}") for amount, megabytes, seconds in runs)
    return [Table(title, (unit, "MB at the peak", "s"), rows)]
