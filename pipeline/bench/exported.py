"""The benchmark's export part: the exported ONNX file next to the project's own code, on the same photos."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.boxes import iou
from common.cli import progress, requires_extra
from common.images import Pixels
from pipeline.bench.measure_process import measured
from pipeline.bench.photos import BenchPhoto
from pipeline.bench.repeated_call import CALLS
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.evaluate.report import Table
from pipeline.inference.detections import Detections
from pipeline.inference.predictor import Predictor

SAME_PLACE = 0.95  # IoU from which two boxes are the same
SIZES = ((640, 480), (1920, 1080), (4000, 3000))  # px, of synthetic photos
FACES = 3  # in each of them


def agreeing(expected: Detections, found: Detections) -> int:
    """Return how many of the expected faces have a partner at IoU SAME_PLACE with the same label."""
    if not len(expected) or not len(found):
        return 0
    overlap = iou(expected.boxes, found.boxes)
    same = found.label_ids[overlap.argmax(axis=1)] == expected.label_ids
    return int(((overlap.max(axis=1) >= SAME_PLACE) & same).sum())


def compare_exported(
    predictor: Predictor, photos: Sequence[BenchPhoto], min_face: float | None, threads: int, rounds: int
) -> dict[str, Any]:
    """Compare the exported detector with the predictor on photos.

    Args:
        predictor: whose bundle is exported.
        photos: the photos; both search each in turn.
        min_face: smallest face to find, pixels; None for the bundle's.
        threads: of the exported graph, as the predictor has.
        rounds: how often each photo is searched; the quickest round counts.

    Returns:
        The file's megabytes, the seconds of loading it, the number of faces of each, of the predictor's those with a
        partner, and for each photo the milliseconds of CPU time of both. For synthetic photos of several sizes, the
        same time, and the peak megabytes of a process of its own for each.

    Raises:
        UserError: the bundle has the stock cascade.
    """
    with requires_extra("export"):
        from pipeline.export.exported_detector import ExportedDetector
        from pipeline.export.graph.detector_graph import detector_graph
    graph = detector_graph(predictor.bundle).SerializeToString()
    start = time.perf_counter()
    exported = ExportedDetector(graph, predictor.bundle, threads)
    record: dict[str, Any] = {"megabytes": len(graph) / 1e6, "load_seconds": time.perf_counter() - start}
    record |= {"faces": 0, "exported_faces": 0, "agreeing": 0, "ms": [], "exported_ms": []}
    with progress() as bar:
        for photo in bar.track(photos, description="comparing the exported file"):
            pixels = photo.read()
            found = exported.detect(pixels, min_face=min_face)  # warms up, as photos differ in size
            expected = predictor.detect(pixels, min_face=min_face)
            record["faces"] += len(expected)
            record["exported_faces"] += len(found)
            record["agreeing"] += agreeing(expected, found)
            detectors = [partial(each.detect, min_face=min_face) for each in (predictor, exported)]
            own, other = _quickest(detectors, pixels, rounds)
            record["ms"].append(own)
            record["exported_ms"].append(other)
    searches = [partial(each.detect, min_face=min_face) for each in (predictor, exported)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detector.onnx"
        file.write_bytes(graph)
        names = (predictor.bundle.path.resolve(), file)
        with progress() as bar:
            sizes = bar.track(SIZES, description="time and memory by size")
            record["sizes"] = [
                _at_size(width, height, searches, names, threads, rounds, min_face) for width, height in sizes
            ]
    return record


def _at_size(
    width: int,
    height: int,
    detectors: Sequence[Callable[[Pixels], Detections]],
    names: Sequence[Path],
    threads: int,
    rounds: int,
    min_face: float | None,
) -> dict[str, Any]:
    """Return CPU time and peak memory of both detectors, which are also named by bundle and file, at one size."""
    pixels = synthetic_photo(width, height, FACES)
    for detect in detectors:
        detect(pixels)
    picture = names[1].with_name("pixels.npy")
    np.save(picture, pixels)
    settings = [threads] if min_face is None else [threads, min_face]
    peaks = [measured("pipeline.bench.repeated_call", [picture, name, *settings])["megabytes"] for name in names]
    return {"width": width, "height": height, "ms": _quickest(detectors, pixels, rounds), "megabytes": peaks}


def _quickest(detectors: Sequence[Callable[[Pixels], Detections]], pixels: Pixels, rounds: int) -> list[float]:
    """Return the milliseconds of CPU time of each detector's quickest round; the detectors alternate."""
    best = [float("inf")] * len(detectors)
    for _ in range(rounds):
        for k, detect in enumerate(detectors):
            start = time.process_time()
            detect(pixels)
            best[k] = min(best[k], (time.process_time() - start) * 1000)
    return best


def exported_tables(record: dict[str, Any]) -> list[Table]:
    """Return the tables of the exported file."""
    photos, own, other = len(record["ms"]), sum(record["ms"]), sum(record["exported_ms"])
    rows = (
        ("file", f"{record['megabytes']:.2f} MB"),
        ("loading it", f"{record['load_seconds']:.2f} s"),
        ("photos", str(photos)),
        ("faces of the pipeline", str(record["faces"])),
        ("faces of the file", str(record["exported_faces"])),
        (f"the pipeline's faces with a partner at IoU {SAME_PLACE}, same label", str(record["agreeing"])),
        ("CPU time of the pipeline, mean", f"{own / photos:.1f} ms"),
        ("CPU time of the file, mean", f"{other / photos:.1f} ms"),
        ("file / pipeline", f"{other / own:.3f}"),
    )
    by_size = tuple(
        (
            f"{one['width']}x{one['height']}",
            *(f"{value:.0f}" for value in one["ms"]),
            f"{one['ms'][1] / one['ms'][0]:.2f}",
            *(f"{value:.0f}" for value in one["megabytes"]),
            f"{one['megabytes'][1] / one['megabytes'][0]:.2f}",
        )
        for one in record["sizes"]
    )
    header = ("size, px", "CPU ms, pipeline", "file", "ratio", "peak MB, pipeline", "file", "ratio")
    note = f"Synthetic photos of {FACES} faces; the peak of a process that searches one {CALLS} times."
    return [
        Table("The exported ONNX file", ("", "value"), rows, "CPU time: the quickest round of each photo counts."),
        Table("The exported ONNX file, by size", header, by_size, note),
    ]
