"""Times `pipeline.batch`: one worker against several, pool against Ray; what docs/scale.md reckons with. Tables, JSON.

Examples: python -m pipeline.bench.batch DIR --photos 240
          python -m pipeline.bench.batch --made 4000 3000 --photos 12 --engines pool

The last line is JSON. Every run starts with nothing answered. Photos a second count from the first photo's beginning to
the last one's end; `whole` has what is around it, too: listing, the start and the end of the processes and of Ray.
`elsewhere` are the cores that were busy with anything else, Ray and other programs: with many, ratios mislead.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

import numpy as np
import tyro

from common.cli import console, program_name, requires_extra, run_cli
from common.errors import UserError
from common.memory import limit_malloc_arenas
from common.paths import find_images
from pipeline.batch.command import BatchArgs, detect_all, make_job
from pipeline.bench.command import machine
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.bench.timing import Spread
from pipeline.evaluate.report import Table
from pipeline.inference.image_writer import write_image

if TYPE_CHECKING:
    from pipeline.batch.work import Job

FACES = 4  # in a made photo
IN_A_FOLDER = 1000  # files, where listing is timed
IN_A_PART = 256  # photos, where reading back is


# Written as in detect.py, for the same reason.
# ruff: noqa: UP045
@dataclass(frozen=True)
class BatchBenchArgs:
    """Time detection over many photos."""

    data: tyro.conf.Positional[Optional[Path]] = None
    """Photos: a folder, searched to the bottom."""
    made: Optional[tuple[int, int]] = None
    """Makes photos of this width and height, with four faces each, in place of the folder's."""
    photos: int = 240
    """How many, evenly spaced in the folder."""
    engines: tuple[Literal["pool", "ray"], ...] = ("pool", "ray")
    """What to run them on."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of workers; the first is what the others are compared with."""
    rounds: int = 1
    """How often each is run; they take turns, and the median counts."""
    chunk: int = 16
    """Photos in a chunk."""
    many: int = 100_000
    """Names that are listed, and answered photos that are read back."""


def run(args: BatchBenchArgs) -> int:
    """Measures, prints the tables and the line of JSON."""
    for flag, least in (("--photos", args.photos), ("--rounds", args.rounds), ("--many", args.many)):
        if least < 1:
            raise UserError(f"{flag} is {least}; give 1 or more")
    if (args.data is None) == (args.made is None):
        raise UserError("give a folder of photos or --made WIDTH HEIGHT, one of the two")
    if not args.workers or min(args.workers) < 1:
        raise UserError("--workers: give numbers of 1 or more")
    with requires_extra("batch"):
        import pyarrow  # noqa: F401
    limit_malloc_arenas()
    with ExitStack() as stack:
        folder = args.data
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            make_photos(folder, args)
        photos = choose(folder, args.photos)
        record: dict[str, Any] = {"machine": machine(), "photos": len(photos), "rounds": args.rounds}
        record["runs"] = time_runs(args, photos)
        record["photo"] = time_reading(photos)
    record["names"] = time_names(args.many)
    out = console()
    for table in (_runs_table(record), _parts_table(record)):
        out.print(table.rich())
    print(json.dumps(record))
    return 0


def choose(folder: Path, count: int) -> list[str]:
    """So many of a folder's photos, evenly spaced. Raises UserError when it has none."""
    found, errors = find_images([folder])
    if not found:
        raise errors[0]
    every = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[i].path for i in np.unique(every)]


def make_photos(folder: Path, args: BatchBenchArgs) -> None:
    """Writes what --made asks for, as JPEG files. Raises UserError when a size cannot be made."""
    width, height = args.made or (0, 0)
    for i in range(args.photos):
        try:
            photo = synthetic_photo(width, height, FACES, seed=i)
        except ValueError as error:
            raise UserError(f"--made {width} {height}: {error}; give 32 or more of each") from error
        write_image(folder / f"{i:06}.jpg", photo)


def time_runs(args: BatchBenchArgs, photos: Sequence[str]) -> list[dict[str, Any]]:
    """Each engine with each number of workers: photos a second, CPU time, memory; ratios to the first number's."""
    ways = [(engine, workers) for engine in args.engines for workers in args.workers]
    took: dict[tuple[str, int], list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for engine, workers in ways:
            with tempfile.TemporaryDirectory() as folder:
                paths = (*photos, str(Path(folder) / "faces.parquet"))
                batch = BatchArgs(paths, engine=engine, workers=workers, chunk=args.chunk)
                begin, busy = time.perf_counter(), busy_seconds()
                job = make_job(batch)
                tally = detect_all(batch, job)
                whole, busy = time.perf_counter() - begin, busy_seconds() - busy
                size = part_size(batch.out, job)
            if not tally.photos:
                raise UserError(f"none of the {len(photos)} photos could be read; name others")
            took[engine, workers].append(
                {
                    "photos_per_second": tally.rate,
                    "whole_photos_per_second": tally.photos / whole,
                    "seconds_around": whole - tally.seconds,
                    "cores_elsewhere": max(busy - tally.cpu_seconds, 0.0) / whole,
                    "cpu_ms_per_photo": 1000 * tally.cpu_seconds / tally.photos,
                    "faces_per_photo": tally.faces.total() / tally.photos,
                    "bytes_per_photo": size / tally.photos,
                    "megabytes_per_worker": tally.megabytes,
                }
            )
    runs = []
    for engine, workers in ways:
        rounds = took[engine, workers]
        first = took[engine, args.workers[0]]
        name = "photos_per_second"
        runs.append(
            {
                "engine": engine,
                "workers": workers,
                **{key: asdict(Spread.of(np.array([each[key] for each in rounds]))) for key in rounds[0]},
                "ratio": asdict(Spread.of(np.array([a[name] / b[name] for a, b in zip(rounds, first, strict=True)]))),
            }
        )
    return runs


def busy_seconds() -> float:
    """Seconds that this machine's cores have worked since it started, summed; 0 where the system does not tell."""
    file = Path("/proc/stat")
    if not file.is_file():
        return 0.0
    user, nice, system = map(int, file.read_text(encoding="ascii").split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def part_size(out: str, job: Job) -> int:
    """Bytes of all results as one part."""
    from pyarrow.dataset import dataset

    from pipeline.batch.table import to_parquet

    return len(to_parquet(dataset(out).to_table(), job.recipe.metadata()))


def time_reading(photos: Sequence[str]) -> dict[str, float]:
    """What a photo's file costs, one thread: bytes, and CPU time to read and decode it."""
    from pipeline.inference.predictor import Predictor

    predictor = Predictor.default()
    begin = time.process_time()
    for path in photos:
        predictor.read(path)
    seconds = time.process_time() - begin
    return {
        "bytes": float(np.mean([Path(path).stat().st_size for path in photos])),
        "decode_ms": 1000 * seconds / len(photos),
    }


def time_names(many: int) -> dict[str, float]:
    """Names a second: listed from folders of this machine, and read back from parts when a run is gone on with."""
    from pipeline.batch.scan import ScanConfig, find_chunks

    with tempfile.TemporaryDirectory() as folder:
        _many_files(Path(folder), many)
        begin = time.perf_counter()
        listed = sum(len(chunk) for chunk in find_chunks(ScanConfig([folder], IN_A_PART, 1), (), print))
        listing = time.perf_counter() - begin
    with _many_parts(many) as results:
        begin = time.perf_counter()
        with results.opened() as (answered, _):
            reading = time.perf_counter() - begin
            read = len(answered)
    return {"names": many, "listed_per_second": listed / listing, "read_back_per_second": read / reading}


def _many_files(folder: Path, many: int) -> None:
    for start in range(0, many, IN_A_FOLDER):
        below = folder / f"{start // IN_A_FOLDER:06}"
        below.mkdir()
        for i in range(start, min(start + IN_A_FOLDER, many)):
            (below / f"{i:09}.jpg").touch()


@contextmanager
def _many_parts(many: int) -> Iterator[Any]:
    """Results with so many photos answered, each with four faces."""
    import pyarrow as pa

    from pipeline.batch.results import BatchResults
    from pipeline.batch.table import BatchRecipe, schema, to_parquet

    recipe = BatchRecipe({"class_names": ["with_mask"], "name": "made"}, {})
    columns = schema(["with_mask"], with_id=False)
    with tempfile.TemporaryDirectory() as folder:
        results = BatchResults(str(Path(folder) / "faces.parquet"), recipe)
        with results.opened():
            for start in range(0, many, IN_A_PART):
                rows = [
                    {"file": f"/photos/{start // IN_A_FOLDER:06}/{i:09}.jpg", "width": 1, "height": 1, "face": k}
                    for i in range(start, min(start + IN_A_PART, many))
                    for k in range(4)
                ]
                part = to_parquet(pa.Table.from_pylist(rows, columns), recipe.metadata())
                results.add(f"{start:016x}", part)
        yield results


def _runs_table(record: dict[str, Any]) -> Table:
    rows = []
    for each in record["runs"]:
        numbers = {key: value["median"] for key, value in each.items() if isinstance(value, dict)}
        rows.append(
            (
                each["engine"],
                str(each["workers"]),
                f"{numbers['photos_per_second']:.1f}",
                f"{numbers['ratio']:.2f}",
                f"{numbers['whole_photos_per_second']:.1f}",
                f"{numbers['seconds_around']:.1f}",
                f"{numbers['cores_elsewhere']:.2f}",
                f"{numbers['cpu_ms_per_photo']:.1f}",
                f"{numbers['megabytes_per_worker']:.0f}",
            )
        )
    load = record["machine"]["load"]
    note = f"{record['machine']['cpu']}, {record['machine']['cores']} cores, load before {load or 0:.1f}"
    header = (
        "engine",
        "workers",
        "photos/s",
        "ratio",
        "whole",
        "s around",
        "elsewhere",
        "CPU ms a photo",
        "MB a worker",
    )
    return Table(f"{record['photos']} photos, median of {record['rounds']}", header, tuple(rows), note)


def _parts_table(record: dict[str, Any]) -> Table:
    run, photo, names = record["runs"][0], record["photo"], record["names"]
    rows = (
        ("a photo's file, kB", f"{photo['bytes'] / 1000:.1f}"),
        ("reading and decoding it, CPU ms", f"{photo['decode_ms']:.2f}"),
        ("faces a photo", f"{run['faces_per_photo']['median']:.2f}"),
        (f"its rows in a part of all {record['photos']}, bytes", f"{run['bytes_per_photo']['median']:.0f}"),
        ("names listed a second", f"{names['listed_per_second']:.0f}"),
        ("answered photos read back a second", f"{names['read_back_per_second']:.0f}"),
    )
    return Table("What a photo costs", ("", "measured"), rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `python -m pipeline.bench.batch`."""
    args = tyro.cli(BatchBenchArgs, args=argv, description=__doc__, prog=program_name("pipeline.bench.batch"))
    return run_cli(lambda: run(args))
