"""The benchmark's calls side by side: photo after photo, each contender in turn, on real photos and on made ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.cli import progress
from common.errors import MediaError, UserError
from common.images import Pixels, read_image
from common.paths import find_images
from pipeline.bench.competitors import CASCADE, FACENET, NAIVE, PIPELINE, Naive, OneStage, Ours
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.bench.timing import Contender, Spread, Timings, TimingStats, ratio, take_turns, timing_stats
from pipeline.detect.demo import portrait
from pipeline.evaluate.report import Table
from pipeline.inference.image_writer import write_image

BATCH = 16
PORTRAIT_WIDTHS = (256, 320, 400, 512, 640, 800)  # px
SIZES = ((400, 300), (1280, 720), (4000, 3000))  # px, of made photos
FACES = (0, 1, 10, 100)  # on each of them
THEIRS = (NAIVE, FACENET)


@dataclass(frozen=True)
class BenchPhoto:
    """A photo by name; `read` gives its pixels or raises MediaError."""

    name: str
    read: Callable[[], Pixels]


@dataclass(frozen=True)
class Field:
    """Who is timed, and how: rounds for each photo, and seconds of rest before each call."""

    ours: Ours
    naive: Naive
    one_stage: OneStage | None
    rounds: int
    rest: float

    def contenders(self, batch: int) -> list[Contender]:
        """All of them; ours also with `batch` photos a call."""
        rows = [*self.ours.contenders(batch), Contender(NAIVE, self.naive.detect), Contender(FACENET, self.naive.find)]
        return rows if self.one_stage is None else [*rows, Contender(self.one_stage.name, self.one_stage.detect)]

    def pairs(self, batch: int) -> list[tuple[str, str]]:
        """Whose time is divided by whose."""
        whole = [PIPELINE, f"{PIPELINE}, by {batch}"] if batch > 1 else [PIPELINE]
        slow = [NAIVE] if self.one_stage is None else [NAIVE, self.one_stage.name]
        return [(FACENET, CASCADE), *((name, ours) for name in slow for ours in whole)]


def find_photos(data: Path, count: int) -> tuple[list[BenchPhoto], list[str]]:
    """At most `count` photos, evenly spaced, and remarks on what could not be searched.

    Raises MediaError when the place has none.
    """
    found, errors = find_images([data])
    if not found:
        raise errors[0]
    chosen = choose([BenchPhoto(image.path, partial(read_image, image.path)) for image in found], count)
    return chosen, [str(error) for error in errors]


def write_portraits(folder: Path) -> None:
    """Writes the portrait in several sizes: what is timed when no photos are named.

    Raises UserError when the portrait is not installed.
    """
    face = portrait()
    for width in PORTRAIT_WIDTHS:
        size = (width, round(face.shape[0] * width / face.shape[1]))
        small = cv2.resize(face, size, interpolation=cv2.INTER_AREA)
        write_image(folder / f"portrait-{size[0]}x{size[1]}.jpg", np.asarray(small, np.uint8))


def choose(photos: Sequence[BenchPhoto], count: int) -> list[BenchPhoto]:
    """`count` of the photos, evenly spaced from the first on; all when there are no more."""
    count = min(count, len(photos))
    return [photos[k * len(photos) // count] for k in range(count)]


def warm_up(photo: BenchPhoto, contenders: Sequence[Contender], smallest: Callable[[Pixels], float]) -> str | None:
    """Runs each contender on the photo once; in one line why it cannot be timed, None when it can."""
    try:
        pixels = photo.read()
    except MediaError as error:
        return str(error)
    if min(pixels.shape[:2]) < smallest(pixels):
        return f"{photo.name}: is smaller than the smallest face, {smallest(pixels):g} px"
    for contender in contenders:
        try:
            contender.find([pixels])
        except Exception as error:
            # MTCNN fails in several ways where no window is left to judge. Ours must not fail.
            if contender.name not in THEIRS:
                raise
            return f"{photo.name}: {contender.name} fails ({' '.join(str(error).split())})"
    return None


def usable_photos(field: Field, photos: Sequence[BenchPhoto]) -> tuple[list[BenchPhoto], list[str]]:
    """The photos on which everyone works, and why the others are left out; warms everyone up on the way.

    Raises UserError when there is none.
    """
    notes, usable = [], []
    with progress() as bar:
        for photo in bar.track(photos, description="warming up"):
            reason = warm_up(photo, field.contenders(1), field.ours.smallest)
            if reason is None:
                usable.append(photo)
            else:
                notes.append(f"left out: {reason}")
    if not usable:
        raise UserError(f"not one photo can be timed; {notes[-1]}")
    return usable, notes


def time_photos(field: Field, photos: Sequence[BenchPhoto]) -> dict[str, Any]:
    """Times everyone on the photos, side by side."""
    batch = min(BATCH, len(photos))
    rows = field.contenders(batch)
    reads = [photo.read for photo in photos]
    with progress() as bar:
        task = bar.add_task("timing photos", total=len(photos))
        timings = take_turns(rows, reads, field.rounds, field.rest, lambda count: bar.advance(task, count))
    by_name = {row.name: timing for row, timing in zip(rows, timings, strict=True)}
    detectors = [{"name": row.name, "batch": row.batch, **asdict(timing_stats(by_name[row.name]))} for row in rows]
    return {"photos": len(photos), "detectors": detectors, "ratios": _ratios(field.pairs(batch), by_name)}


def _ratios(pairs: Sequence[tuple[str, str]], timings: dict[str, Timings]) -> list[dict[str, Any]]:
    return [{"slow": a, "quick": b, **asdict(ratio(timings[a], timings[b]))} for a, b in pairs]


def photos_tables(record: dict[str, Any]) -> list[Table]:
    """Milliseconds a photo of each, and who takes how many times as long as whom."""
    rows = []
    for row in record["detectors"]:
        result = TimingStats(
            **{key: row[key] for key in ("photos", "mean_ms", "faces_per_photo")}, ms=Spread(**row["ms"])
        )
        times = (f"{result.ms.median:.1f}", quartiles(result.ms, 1), f"{result.mean_ms:.1f}")
        rows.append((row["name"], *times, f"{result.faces_per_photo:.2f}"))
    header = ("", "median", "quartiles", "mean", "faces")
    note = (
        "Over photos; a batch counts once for each of its photos: compare it by the mean. faces: found, of stage 2\n"
        "alone those it was shown; a one-stage detector's answers are not read."
    )
    pairs = []
    for pair in record["ratios"]:
        spread = Spread(pair["q1"], pair["median"], pair["q3"])
        pairs.append((f"{pair['slow']} / {pair['quick']}", f"{spread.median:.2f}", quartiles(spread, 2)))
    ratios = Table("Times as long, on the same photo", ("", "median", "quartiles"), tuple(pairs))
    return [Table("ms per photo", header, tuple(rows), note), ratios]


def quartiles(spread: Spread, digits: int) -> str:
    """The first and third quartile."""
    return f"{spread.q1:.{digits}f}-{spread.q3:.{digits}f}"


def time_sizes(field: Field, sizes: Sequence[tuple[int, int]], faces: Sequence[int]) -> list[dict[str, Any]]:
    """Times everyone, photo by photo, on made photos of each size with each number of faces."""
    records = []
    with progress() as bar:
        task = bar.add_task("timing sizes", total=len(sizes) * len(faces))
        for width, height in sizes:
            for count in faces:
                photo = BenchPhoto(f"{width}x{height}", partial(synthetic_photo, width, height, count))
                rows = field.contenders(1)
                failing = warm_up(photo, rows, field.ours.smallest)
                # Where MTCNN itself fails, the others are timed.
                rows = [row for row in rows if failing is None or row.name not in THEIRS]
                timings = take_turns(rows, [photo.read], field.rounds, field.rest)
                found = {
                    row.name: {
                        "ms": asdict(Spread.of(timing.seconds[0] * 1000)),  # over rounds: it is one photo
                        "faces": int(timing.faces[0]),
                    }
                    for row, timing in zip(rows, timings, strict=True)
                }
                records.append({"width": width, "height": height, "faces": count, "ms": found, "failing": failing})
                bar.advance(task)
    return records


def sizes_table(records: Sequence[dict[str, Any]]) -> Table:
    """A row for each made photo: median milliseconds, and faces found, of each contender."""
    names = list(dict.fromkeys(name for record in records for name in record["ms"]))
    rows = []
    for record in records:
        cells = []
        for name in names:
            one = record["ms"].get(name)
            cells.append("-" if one is None else f"{one['ms']['median']:.1f} ({one['faces']})")
        rows.append((f"{record['width']}x{record['height']}", str(record["faces"]), *cells))
    note = "ms, median over rounds (faces found). All look for the same smallest face, which grows with large photos."
    return Table("By size and number of faces", ("photo", "faces", *names), tuple(rows), note)
