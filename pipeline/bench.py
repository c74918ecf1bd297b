"""Times our cascade and facenet-pytorch's MTCNN side by side: tables, and one line of JSON as the last line.

Example: python -m pipeline.bench --data DIR --photos 50

Both read the same photos, look for the same smallest face and use the same number of threads; each keeps its own
thresholds. They take turns on each photo: with one thread, a busy machine slows both alike and only the milliseconds
suffer; with more threads than idle cores, the ratio misleads too. Reading the photos is not timed. Our cascade reports
a face from the bundle's score on, as in pipeline.detect. Photos that facenet-pytorch cannot search are left out for
both.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from pipeline.bundle import Bundle
from pipeline.demo import portrait
from pipeline.errors import USER_ERRORS, PipelineError
from pipeline.evaluate_report import Table
from pipeline.extras import needs
from pipeline.find import find_images
from pipeline.timing import Contender, Figures, Spread, figures, take_turns
from stage1_faces.images import MediaError, Pixels, read_image
from stage2_classifier.console import console, guarded, progress

OURS, BASELINE = "cascade", "facenet-pytorch"
BATCH = 16
PORTRAIT_WIDTHS = (256, 320, 400, 512, 640, 800)  # px: what is timed when no photos are named
# ONNX Runtime's threads go on spinning for 40 ms after a call and would take the next one's cores.
REST = 0.1  # s


@dataclass(frozen=True)
class Args:
    """Time our cascade and facenet-pytorch's MTCNN side by side."""

    data: Path | None = None
    """Photos: a folder (annotated or not), searched to the bottom, or one photo; default: a portrait in six sizes."""
    photos: int = 50
    """How many of them, evenly spaced."""
    rounds: int = 3
    """How often each detector gets each photo; its median counts."""
    bundle: Path | None = None
    """Bundle directory; the default bundle when none is named."""
    min_face: float | None = None
    """Smallest face that both look for, pixels; default: the bundle's."""
    threads: int = 1
    """Threads for each net."""


@dataclass(frozen=True)
class Photo:
    """A photo by name; `read` gives its pixels or raises MediaError."""

    name: str
    read: Callable[[], Pixels]


def run(args: Args) -> int:
    """Times the detectors, prints the table and the line of JSON."""
    _check(args)
    bundle = Bundle.load(args.bundle)
    min_face = bundle.meta.search.min_face if args.min_face is None else args.min_face
    cascade, facenet = contenders(bundle, min_face, args.threads)
    photos, notes = find_photos(args.data, args.photos)
    here = machine()
    with same_threads(args.threads), progress() as bar:
        task = bar.add_task("warming up", total=len(photos))
        usable = []
        for photo in photos:
            reason = warm_up(photo, (cascade, facenet), min_face)
            if reason is None:
                usable.append(photo)
            else:
                notes.append(f"left out: {reason}")
            bar.advance(task)
        if not usable:
            raise PipelineError(f"not one photo can be timed; {notes[-1]}")
        bar.reset(task, description="timing", total=len(usable))
        # The rows of the table: add a contender, get a row. The batched one is warm by the cascade's own calls.
        batch = min(BATCH, len(usable))
        rows = [cascade, facenet, Contender(f"{OURS}, by {batch}", cascade.find, batch)]
        timings = take_turns(
            rows,
            [photo.read for photo in usable],
            args.rounds,
            REST if args.threads > 1 else 0.0,
            lambda count: bar.advance(task, count),
        )
    baseline = timings[rows.index(facenet)]
    results = [
        (row, figures(timing, None if row is facenet else baseline)) for row, timing in zip(rows, timings, strict=True)
    ]
    record = {
        "machine": here,
        "versions": versions(),
        "threads": args.threads,
        "bundle": {"name": bundle.path.resolve().name, "cascade": bundle.meta.cascade},
        "min_face": min_face,
        "min_score": bundle.meta.score_threshold,
        "data": None if args.data is None else str(args.data),
        "photos": len(usable),
        "rounds": args.rounds,
        "notes": notes,
        "baseline": BASELINE,
        "detectors": [{"name": row.name, "batch": row.batch, **asdict(result)} for row, result in results],
    }
    out = console()
    out.print(table(results).rich())
    for fact in (*_facts(record), *notes):
        out.print(f"- {fact}", markup=False, highlight=False)
    print(json.dumps(record))
    return 0


def _check(args: Args) -> None:
    """Raises PipelineError on options out of range."""
    for name, value in (("--photos", args.photos), ("--rounds", args.rounds), ("--threads", args.threads)):
        if value < 1:
            raise PipelineError(f"{name} is {value}, must be 1 or more")
    if args.min_face is not None and not 1 <= args.min_face < np.inf:
        raise PipelineError(f"--min-face is {args.min_face}, must be 1 pixel or more")


def contenders(bundle: Bundle, min_face: float, threads: int) -> tuple[Contender, Contender]:
    """Our cascade and facenet-pytorch's, both on the CPU. Raises PipelineError when the latter is not installed."""
    with needs("train"):
        import torch
        from facenet_pytorch import MTCNN

    ours = bundle.detector(threads)
    theirs = MTCNN(keep_all=True, min_face_size=min_face, device=torch.device("cpu"))

    def find_ours(photos: Sequence[Pixels]) -> list[int]:
        # The least face score with which the pipeline reports a face.
        found = ours.detect_batch(photos, min_face=min_face, min_score=bundle.meta.score_threshold)
        return [len(faces) for faces in found]

    def find_theirs(photos: Sequence[Pixels]) -> list[int]:
        found = [theirs.detect(photo)[0] for photo in photos]
        return [0 if boxes is None else len(boxes) for boxes in found]

    return Contender(OURS, find_ours), Contender(BASELINE, find_theirs)


def find_photos(data: Path | None, count: int) -> tuple[list[Photo], list[str]]:
    """At most `count` photos, evenly spaced, and remarks; the portrait's sizes when no place is named.

    Raises MediaError when the place has none, PipelineError when none is named and the portrait is not installed.
    """
    if data is None:
        face = portrait()
        sizes = [(width, round(face.shape[0] * width / face.shape[1])) for width in PORTRAIT_WIDTHS]
        made = [Photo(f"portrait {w}x{h}", partial(_resized, face, (w, h))) for w, h in sizes]
        return choose(made, count), ["no --data: one portrait in several sizes was timed"]
    found, errors = find_images([data])
    if not found:
        raise errors[0]
    chosen = choose([Photo(image.path, partial(read_image, image.path)) for image in found], count)
    return chosen, [str(error) for error in errors]


def _resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def choose(photos: Sequence[Photo], count: int) -> list[Photo]:
    """`count` of the photos, evenly spaced from the first on; all when there are no more."""
    count = min(count, len(photos))
    return [photos[k * len(photos) // count] for k in range(count)]


def warm_up(photo: Photo, detectors: Sequence[Contender], min_face: float) -> str | None:
    """Runs each detector on the photo once; in one line why it cannot be timed, None when it can."""
    try:
        pixels = photo.read()
    except MediaError as error:
        return str(error)
    if min(pixels.shape[:2]) < min_face:
        return f"{photo.name}: is smaller than the smallest face, {min_face:g} px"
    for detector in detectors:
        try:
            detector.find([pixels])
        except Exception as error:
            # MTCNN fails in several ways where no window is left to judge. Ours must not fail.
            if detector.name != BASELINE:
                raise
            return f"{photo.name}: {detector.name} fails ({' '.join(str(error).split())})"
    return None


@contextmanager
def same_threads(threads: int) -> Iterator[None]:
    """PyTorch and OpenCV, which our cascade resizes with, use this many threads inside the block."""
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def machine() -> dict[str, Any]:
    """What the figures depend on: the processor, its cores that this process may use, their load of the last minute."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"cpu": _cpu(Path("/proc/cpuinfo")), "cores": cores, "load": load, "system": platform.platform()}


def _cpu(cpuinfo: Path) -> str:
    """The processor's model, as far as the system tells."""
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what the detectors run on."""
    import torch

    return {
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "opencv": cv2.__version__,
        "torch": torch.__version__,
        "facenet-pytorch": version("facenet-pytorch"),
    }


def table(results: Sequence[tuple[Contender, Figures]]) -> Table:
    """A row for each contender."""
    header = ("detector", "median", "quartiles", "mean", "faces", "ratio", "quartiles")  # 80 columns are enough
    rows = []
    for row, result in results:
        ratio = ("-", "-") if result.ratio is None else (f"{result.ratio.median:.2f}", _quartiles(result.ratio, 2))
        times = (f"{result.ms.median:.1f}", _quartiles(result.ms, 1), f"{result.mean_ms:.1f}")
        rows.append((row.name, *times, f"{result.faces_per_photo:.2f}", *ratio))
    note = (
        "Over photos; a batch counts once for each of its photos: compare it by the mean.\n"
        f"ratio: {BASELINE}'s time on the same photo (or batch) / the detector's."
    )
    return Table("Stage 1, finding faces: ms per photo", header, tuple(rows), note)


def _quartiles(spread: Spread, digits: int) -> str:
    return f"{spread.q1:.{digits}f}-{spread.q3:.{digits}f}"


def _facts(record: dict[str, Any]) -> list[str]:
    cpu = record["machine"]
    load = "" if cpu["load"] is None else f", load {cpu['load']:.1f} before"
    return [
        f"{record['photos']} photos, median of {record['rounds']} rounds; faces from {record['min_face']:g} px on",
        f"{cpu['cpu']}, {cpu['cores']} cores{load}; threads for each net: {record['threads']}",
        f"bundle {record['bundle']['name']}: {record['bundle']['cascade']} cascade",
        ", ".join(f"{name} {number}" for name, number in record["versions"].items()),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `python -m pipeline.bench`."""
    import tyro

    args = tyro.cli(Args, args=argv, description=__doc__, prog="python -m pipeline.bench")
    return guarded(lambda: run(args), *USER_ERRORS)


if __name__ == "__main__":
    sys.exit(main())
