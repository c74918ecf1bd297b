"""The benchmark's photos and sizes parts: each detector in turn on the same photos, real and synthetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.cli import progress
from common.errors import MediaError, UserError
from common.images import Pixels, read_image
from common.paths import find_images
from pipeline.bench.competitors import CASCADE, FACENET, NAIVE, PIPELINE, NaivePipeline, OneStageDetector, OwnPipeline
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.bench.timing import Quartiles, TimedDetector, time_interleaved, time_ratio, timing_stats
from pipeline.detect.demo.command import portrait
from pipeline.evaluate.report import Table
from pipeline.inference.image_writer import write_image

BATCH = 16
PORTRAIT_WIDTHS = (256, 320, 400, 512, 640, 800)  # px
SIZES = ((400, 300), (1280, 720), (4000, 3000))  # px, of synthetic photos
FACES = (0, 1, 10, 100)  # number in each of them
MTCNN_BASED = (NAIVE, FACENET)


@dataclass(frozen=True)
class BenchPhoto:
    """A photo by name; `read` returns its pixels or raises MediaError."""

    name: str
    read: Callable[[], Pixels]


@dataclass(frozen=True)
class BenchSetup:
    """The detectors to time, the rounds per photo, and the seconds of rest before each call."""

    ours: OwnPipeline
    naive: NaivePipeline
    one_stage: OneStageDetector | None
    rounds: int
    rest: float

    def timed_detectors(self, batch: int) -> list[TimedDetector]:
        """Return all detectors; ours also with `batch` photos per call."""
        others = [TimedDetector(NAIVE, self.naive.detect), TimedDetector(FACENET, self.naive.run_mtcnn)]
        if self.one_stage is not None:
            others.append(TimedDetector(self.one_stage.name, self.one_stage.detect))
        return [*self.ours.timed_detectors(batch), *others]

    def compared_pairs(self, batch: int) -> list[tuple[str, str]]:
        """Return (slow, quick) names of the detectors whose ratio is reported."""
        whole = [PIPELINE, f"{PIPELINE}, by {batch}"] if batch > 1 else [PIPELINE]
        slow = [NAIVE] if self.one_stage is None else [NAIVE, self.one_stage.name]
        return [(FACENET, CASCADE), *((name, ours) for name in slow for ours in whole)]


def find_photos(data: Path, count: int) -> tuple[list[BenchPhoto], list[str]]:
    """Return at most `count` photos, evenly spaced, and a note on each path that cannot be searched.

    Raises MediaError when there are no photos.
    """
    found, errors = find_images([data])
    if not found:
        raise errors[0]
    chosen = evenly_spaced([BenchPhoto(image.path, partial(read_image, image.path)) for image in found], count)
    return chosen, [str(error) for error in errors]


def write_portraits(folder: Path) -> None:
    """Write the portrait in several sizes, to time when no photos are named.

    Raises UserError when the portrait is not installed.
    """
    face = portrait()
    for width in PORTRAIT_WIDTHS:
        size = (width, round(face.shape[0] * width / face.shape[1]))
        small = cv2.resize(face, size, interpolation=cv2.INTER_AREA)
        write_image(folder / f"portrait-{size[0]}x{size[1]}.jpg", np.asarray(small, np.uint8))


def evenly_spaced(photos: Sequence[BenchPhoto], count: int) -> list[BenchPhoto]:
    """Return `count` of the photos, evenly spaced from the first; all when there are no more."""
    count = min(count, len(photos))
    return [photos[k * len(photos) // count] for k in range(count)]


def warm_up(
    photo: BenchPhoto, detectors: Sequence[TimedDetector], min_face_for: Callable[[Pixels], float]
) -> str | None:
    """Run each detector on the photo once; return why the photo cannot be timed, None when it can."""
    try:
        pixels = photo.read()
    except MediaError as error:
        return str(error)
    if min(pixels.shape[:2]) < min_face_for(pixels):
        return f"{photo.name}: is smaller than the smallest face, {min_face_for(pixels):g} px"
    for detector in detectors:
        try:
            detector.count_faces([pixels])
        except Exception as error:
            # MTCNN fails in several ways where no window is left. Ours must not fail.
            if detector.name not in MTCNN_BASED:
                raise
            return f"{photo.name}: {detector.name} fails ({' '.join(str(error).split())})"
    return None


def usable_photos(setup: BenchSetup, photos: Sequence[BenchPhoto]) -> tuple[list[BenchPhoto], list[str]]:
    """Return the photos on which all detectors work, and why the others are left out; this warms all up.

    Raises UserError when no photo is left.
    """
    notes, usable = [], []
    with progress() as bar:
        for photo in bar.track(photos, description="warming up"):
            reason = warm_up(photo, setup.timed_detectors(1), setup.ours.min_face_for)
            if reason is None:
                usable.append(photo)
            else:
                notes.append(f"left out: {reason}")
    if not usable:
        raise UserError(f"not one photo can be timed; {notes[-1]}")
    return usable, notes


def time_photos(setup: BenchSetup, photos: Sequence[BenchPhoto]) -> dict[str, Any]:
    """Return the record of all detectors' times on the photos."""
    batch = min(BATCH, len(photos))
    detectors = setup.timed_detectors(batch)
    reads = [photo.read for photo in photos]
    with progress() as bar:
        task = bar.add_task("timing photos", total=len(photos))
        timings = time_interleaved(detectors, reads, setup.rounds, setup.rest, lambda count: bar.advance(task, count))
    by_name = {row.name: timing for row, timing in zip(detectors, timings, strict=True)}
    rows = [{"name": row.name, "batch": row.batch, **asdict(timing_stats(by_name[row.name]))} for row in detectors]
    pairs = setup.compared_pairs(batch)
    ratios = [{"slow": a, "quick": b, **asdict(time_ratio(by_name[a], by_name[b]))} for a, b in pairs]
    return {"photos": len(photos), "detectors": rows, "ratios": ratios}


def photos_tables(record: dict[str, Any]) -> list[Table]:
    """Return the table of milliseconds per photo and the table of ratios."""
    rows = tuple(
        (row["name"], *quartile_cells(row["ms"], 1), f"{row['mean_ms']:.1f}", f"{row['faces_per_photo']:.2f}")
        for row in record["detectors"]
    )
    header = ("", "median", "quartiles", "mean", "faces")
    note = (
        "Over photos; a batch counts once for each of its photos: compare it by the mean. faces: found; for stage 2\n"
        "alone, its crops; a one-stage detector's outputs are not decoded."
    )
    pairs = tuple((f"{pair['slow']} / {pair['quick']}", *quartile_cells(pair, 2)) for pair in record["ratios"])
    ratios = Table("Times as long, on the same photo", ("", "median", "quartiles"), pairs)
    return [Table("ms per photo", header, rows, note), ratios]


def quartile_cells(record: Mapping[str, float], digits: int) -> tuple[str, str]:
    """Return the median, and the first and third quartile, of a record of `Quartiles` as text."""
    return f"{record['median']:.{digits}f}", f"{record['q1']:.{digits}f}-{record['q3']:.{digits}f}"


def time_sizes(setup: BenchSetup) -> list[dict[str, Any]]:
    """Return a record of all detectors' times for each size and number of faces of a synthetic photo."""
    records = []
    with progress() as bar:
        task = bar.add_task("timing sizes", total=len(SIZES) * len(FACES))
        for (width, height), faces in product(SIZES, FACES):
            records.append(_time_size(setup, width, height, faces))
            bar.advance(task)
    return records


def _time_size(setup: BenchSetup, width: int, height: int, faces: int) -> dict[str, Any]:
    photo = BenchPhoto(f"{width}x{height}", partial(synthetic_photo, width, height, faces))
    detectors = setup.timed_detectors(1)
    failing = warm_up(photo, detectors, setup.ours.min_face_for)
    # Where MTCNN itself fails, the others are timed.
    detectors = [row for row in detectors if failing is None or row.name not in MTCNN_BASED]
    timings = time_interleaved(detectors, [photo.read], setup.rounds, setup.rest)
    found = {  # quartiles over rounds, since there is one photo
        row.name: {"ms": asdict(Quartiles.of(timing.seconds[0] * 1000)), "faces": int(timing.faces[0])}
        for row, timing in zip(detectors, timings, strict=True)
    }
    return {"width": width, "height": height, "faces": faces, "ms": found, "failing": failing}


def sizes_tables(records: Sequence[dict[str, Any]]) -> list[Table]:
    """Return a table with one row per synthetic photo: each detector's median milliseconds and faces found."""
    names = list(dict.fromkeys(name for record in records for name in record["ms"]))
    rows = []
    for record in records:
        found = [record["ms"].get(name) for name in names]
        cells = ["-" if one is None else f"{one['ms']['median']:.1f} ({one['faces']})" for one in found]
        rows.append((f"{record['width']}x{record['height']}", str(record["faces"]), *cells))
    note = "ms, median over rounds (faces found). All look for the same smallest face, which grows with large photos."
    return [Table("By size and number of faces", ("photo", "faces", *names), tuple(rows), note)]
