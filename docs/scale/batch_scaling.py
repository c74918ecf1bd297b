"""Time `pipeline.batch`: one worker against several, pool against Ray; the figures of docs/scale.md. Tables and JSON.

Examples: python -m docs.scale DIR --photos 240
          python -m docs.scale --made 4000 3000 --photos 12 --engines pool

The last line is JSON. Every run starts without results. Photos per second count from the first photo's start to the
last photo's end; `whole` includes the time around: the scan, and the start and end of the processes and of Ray.
`elsewhere` is the number of cores busy with anything else, such as Ray and other programs; with many, ratios mislead.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

import numpy as np
import tyro

from common.arguments import parse_args
from common.cli import console, requires_extra, run_cli
from common.errors import UserError
from common.memory import limit_malloc_arenas
from common.paths import find_images
from pipeline.batch.command import BatchArgs, detect_all, make_job
from pipeline.bench.environment import machine_info
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.bench.timing import Quartiles
from pipeline.evaluate.report import Table
from pipeline.inference.image_writer import write_image

if TYPE_CHECKING:
    from pipeline.batch.results import BatchResults
    from pipeline.batch.work import BatchJob

FACES = 4  # in a synthetic photo
FILES_PER_FOLDER = 1000  # where the scan is timed
PHOTOS_PER_PART = 256  # where reading results back is timed
Engine = Literal["pool", "ray"]
RENAMED_FLAGS = {"--many": "--names"}  # the present flag by its name in earlier versions


# Optional and not `X | None`: tyro imports typeguard for those, which takes 0.1 s.
# ruff: noqa: UP045
@dataclass(frozen=True)
class BatchBenchArgs:
    """Time detection over many photos."""

    data: tyro.conf.Positional[Optional[Path]] = None
    """Photos: a folder, searched with all subfolders."""
    made: Optional[tuple[int, int]] = None
    """Make synthetic photos of this width and height, with four faces each, instead of using a folder."""
    photos: int = 240
    """Number of photos, evenly spaced in the folder."""
    engines: tuple[Engine, ...] = ("pool", "ray")
    """Engines to time."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of workers; the others are compared with the first."""
    rounds: int = 1
    """How often each is run; they take turns, and the median counts."""
    chunk: int = 16
    """Photos in a chunk."""
    names: int = 100_000
    """Number of names to scan, and of processed photos to read back."""


def run(args: BatchBenchArgs) -> int:
    """Measure; print the tables and the line of JSON; return the exit code."""
    _check(args)
    with requires_extra("batch"):
        import pyarrow  # noqa: F401
    limit_malloc_arenas()
    with ExitStack() as stack:
        folder = args.data
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_synthetic_photos(folder, args)
        photos = choose_photos(folder, args.photos)
        record: dict[str, Any] = {"machine": machine_info(), "photos": len(photos), "rounds": args.rounds}
        record["runs"] = time_runs(args, photos)
        record["photo"] = time_reading(photos)
    record["names"] = time_names(args.names)
    out = console()
    for table in (_runs_table(record), _costs_table(record)):
        out.print(table.rich())
    print(json.dumps(record))
    return 0


def _check(args: BatchBenchArgs) -> None:
    """Raise UserError on options out of range."""
    for flag, value in (("--photos", args.photos), ("--rounds", args.rounds), ("--names", args.names)):
        if value < 1:
            raise UserError(f"{flag} is {value}; use 1 or more")
    if (args.data is None) == (args.made is None):
        raise UserError("name a folder of photos or use --made WIDTH HEIGHT, one of the two")
    if not args.workers or min(args.workers) < 1:
        raise UserError("--workers: use numbers of 1 or more")


def choose_photos(folder: Path, count: int) -> list[str]:
    """Return `count` of a folder's photos, evenly spaced. Raises UserError when the folder has none."""
    found, errors = find_images([folder])
    if not found:
        raise errors[0]
    indices = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[i].path for i in np.unique(indices)]


def write_synthetic_photos(folder: Path, args: BatchBenchArgs) -> None:
    """Write the photos of --made as JPEG files. Raises UserError when the size is too small."""
    width, height = args.made or (0, 0)
    for i in range(args.photos):
        try:
            photo = synthetic_photo(width, height, FACES, seed=i)
        except ValueError as error:
            raise UserError(f"--made {width} {height}: {error}; use 32 or more for each") from error
        write_image(folder / f"{i:06}.jpg", photo)


def time_runs(args: BatchBenchArgs, photos: Sequence[str]) -> list[dict[str, Any]]:
    """Return the figures of each engine with each number of workers, and ratios to the first number of workers."""
    settings = [(engine, workers) for engine in args.engines for workers in args.workers]
    rounds: dict[tuple[str, int], list[dict[str, float]]] = {setting: [] for setting in settings}
    for _ in range(args.rounds):
        for engine, workers in settings:
            rounds[engine, workers].append(_time_run(args, photos, engine, workers))
    runs = []
    for engine, workers in settings:
        own, first = rounds[engine, workers], rounds[engine, args.workers[0]]
        values = {key: [each[key] for each in own] for key in own[0]}
        values["ratio"] = [a["photos_per_second"] / b["photos_per_second"] for a, b in zip(own, first, strict=True)]
        figures = {key: asdict(Quartiles.of(each)) for key, each in values.items()}
        runs.append({"engine": engine, "workers": workers, **figures})
    return runs


def _time_run(args: BatchBenchArgs, photos: Sequence[str], engine: Engine, workers: int) -> dict[str, float]:
    """Run one batch; return photos per second, CPU time, memory and bytes of the results."""
    with tempfile.TemporaryDirectory() as folder:
        paths = (*photos, str(Path(folder) / "faces.parquet"))
        batch = BatchArgs(paths, engine=engine, workers=workers, chunk=args.chunk)
        start, busy = time.perf_counter(), busy_seconds()
        job = make_job(batch)
        stats = detect_all(batch, job)
        whole, busy = time.perf_counter() - start, busy_seconds() - busy
        size = results_size(batch.out, job)
    if not stats.photos:
        raise UserError(f"none of the {len(photos)} photos could be read; name others")
    return {
        "photos_per_second": stats.rate,
        "whole_photos_per_second": stats.photos / whole,
        "seconds_around": whole - stats.seconds,
        "cores_elsewhere": max(busy - stats.cpu_seconds, 0.0) / whole,
        "cpu_ms_per_photo": 1000 * stats.cpu_seconds / stats.photos,
        "faces_per_photo": stats.faces.total() / stats.photos,
        "bytes_per_photo": size / stats.photos,
        "megabytes_per_worker": stats.peak_megabytes,
    }


def busy_seconds() -> float:
    """Return the sum of seconds that this machine's cores have worked since its start; 0 where it is unknown."""
    file = Path("/proc/stat")
    if not file.is_file():
        return 0.0
    user, nice, system = map(int, file.read_text(encoding="ascii").split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def results_size(out: str, job: BatchJob) -> int:
    """Return the bytes of all results as one part."""
    from pyarrow.dataset import dataset

    from pipeline.batch.table import to_parquet

    return len(to_parquet(dataset(out).to_table(), job.recipe.metadata()))


def time_reading(photos: Sequence[str]) -> dict[str, float]:
    """Return the mean bytes of a photo's file, and the CPU time to read and decode it in one thread."""
    from pipeline.inference.predictor import Predictor

    predictor = Predictor.default()
    start = time.process_time()
    for path in photos:
        predictor.read(path)
    seconds = time.process_time() - start
    size = np.mean([Path(path).stat().st_size for path in photos])
    return {"bytes": float(size), "decode_ms": 1000 * seconds / len(photos)}


def time_names(count: int) -> dict[str, float]:
    """Return names per second: scanned in folders of this machine, and read back from parts when a run resumes."""
    from pipeline.batch.scan import ScanConfig, find_chunks

    with tempfile.TemporaryDirectory() as folder:
        _write_empty_files(Path(folder), count)
        start = time.perf_counter()
        scanned = sum(len(chunk) for chunk in find_chunks(ScanConfig([folder], PHOTOS_PER_PART, 1), (), print))
        scan_seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        results = _write_results(Path(folder), count)
        start = time.perf_counter()
        with results.open() as (processed, _):
            read_seconds = time.perf_counter() - start
            read = len(processed)
    return {"names": count, "listed_per_second": scanned / scan_seconds, "read_back_per_second": read / read_seconds}


def _write_empty_files(root: Path, count: int) -> None:
    for start in range(0, count, FILES_PER_FOLDER):
        folder = root / f"{start // FILES_PER_FOLDER:06}"
        folder.mkdir()
        for i in range(start, min(start + FILES_PER_FOLDER, count)):
            (folder / f"{i:09}.jpg").touch()


def _write_results(folder: Path, count: int) -> BatchResults:
    """Write results with `count` photos, each with four faces."""
    import pyarrow as pa

    from pipeline.batch.results import BatchResults
    from pipeline.batch.table import BatchRecipe, table_schema, to_parquet

    recipe = BatchRecipe({"class_names": ["with_mask"], "name": "made"}, {})
    schema = table_schema(["with_mask"], with_id=False)
    results = BatchResults(str(folder / "faces.parquet"), recipe)
    with results.open():
        for start in range(0, count, PHOTOS_PER_PART):
            rows = [
                {"file": f"/photos/{start // FILES_PER_FOLDER:06}/{i:09}.jpg", "width": 1, "height": 1, "face": k}
                for i in range(start, min(start + PHOTOS_PER_PART, count))
                for k in range(FACES)
            ]
            part = to_parquet(pa.Table.from_pylist(rows, schema), recipe.metadata())
            results.add(f"{start:016x}", part)
    return results


# The table's columns: header, key in a run, digits.
_RUN_COLUMNS = (
    ("photos/s", "photos_per_second", 1),
    ("ratio", "ratio", 2),
    ("whole", "whole_photos_per_second", 1),
    ("s around", "seconds_around", 1),
    ("elsewhere", "cores_elsewhere", 2),
    ("CPU ms per photo", "cpu_ms_per_photo", 1),
    ("MB per worker", "megabytes_per_worker", 0),
)


def _runs_table(record: dict[str, Any]) -> Table:
    rows = tuple(
        (run["engine"], str(run["workers"]), *(f"{run[key]['median']:.{digits}f}" for _, key, digits in _RUN_COLUMNS))
        for run in record["runs"]
    )
    load = record["machine"]["load"]
    note = f"{record['machine']['cpu']}, {record['machine']['cores']} cores, load before {load or 0:.1f}"
    header = ("engine", "workers", *(name for name, _, _ in _RUN_COLUMNS))
    return Table(f"{record['photos']} photos, median of {record['rounds']}", header, rows, note)


def _costs_table(record: dict[str, Any]) -> Table:
    run, photo, names = record["runs"][0], record["photo"], record["names"]
    rows = (
        ("a photo's file, kB", f"{photo['bytes'] / 1000:.1f}"),
        ("reading and decoding it, CPU ms", f"{photo['decode_ms']:.2f}"),
        ("faces per photo", f"{run['faces_per_photo']['median']:.2f}"),
        (f"its rows in a part of all {record['photos']}, bytes", f"{run['bytes_per_photo']['median']:.0f}"),
        ("names listed per second", f"{names['listed_per_second']:.0f}"),
        ("processed photos read back per second", f"{names['read_back_per_second']:.0f}"),
    )
    return Table("What a photo costs", ("", "measured"), rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `python -m docs.scale`; return the exit code."""

    def command() -> int:
        return run(parse_args(BatchBenchArgs, argv, "docs.scale", RENAMED_FLAGS, description=__doc__))

    return run_cli(command)
