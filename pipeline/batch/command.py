"""Detection over millions of photos, on this machine or a Ray cluster: a Parquet table that can be gone on with.

Example: python -m pipeline.batch photos/ 's3://bucket/2026-*/' faces.parquet

A row is a face (a photo without one has a row with nulls), and OUT.parquet a folder of parts, which pandas, pyarrow and
Spark read as one table. Photos that cannot be read are in OUT.errors.parquet. The same command again does what is not
done yet: photos that are new, that were errors, or that a killed run did not come to. A photo is known by its absolute
path or address: one that changed under its name is not done again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Optional

import tyro

from common.cli import console, program_name, progress, requires_extra, run_cli
from common.display import shown
from common.errors import UserError
from common.parallel import usable_cores
from common.paths import is_address
from pipeline.inference.bundle import Bundle

if TYPE_CHECKING:
    from pipeline.batch.chunk import Chunk
    from pipeline.batch.run import BatchStats
    from pipeline.batch.work import ChunkResult, Job

MOST_PHOTOS = 100_000  # a chunk; its rows are held by a worker


# Written as in detect.py, for the same reason.
# ruff: noqa: UP045
@dataclass(frozen=True)
class BatchArgs:
    """Finds the faces in millions of photos and writes a Parquet table, a row a face."""

    paths: tyro.conf.Positional[tuple[str, ...]] = ()
    """Sources: folders (searched to the bottom), glob patterns, photos, Parquet files with image bytes; last the folder
    of results, ending in .parquet. All may be addresses, too (s3://, gs://, file://, ...)."""
    bundle: Optional[Path] = None
    """The bundle directory to use; the one that comes with the project when none is named."""
    min_score: Optional[float] = None
    """Smallest score reported, 0 to 1 (the bundle's when not given)."""
    min_face: Optional[float] = None
    """Smallest face looked for, in pixels (the bundle's when not given)."""
    column: Optional[str] = None
    """Column of Parquet sources with the pictures' bytes (or a struct with `bytes`); the only such one if not given."""
    id_column: Optional[str] = None
    """Column of Parquet sources that goes into the results as `id`; dots lead into structs, as in image.path."""
    engine: Literal["auto", "pool", "ray"] = "auto"
    """pool: processes on this machine; ray: Ray Data, here or on a cluster; auto: pool unless --address is given."""
    address: Optional[str] = None
    """The Ray cluster to use: auto for the one that this machine belongs to, or HOST:PORT. Photos and bundle must be
    seen by its machines under the same names."""
    workers: Optional[int] = None
    """Photos under way at a time, each in a process; if not given, one a core."""
    chunk: int = 256
    """Photos that are handed out together, at most; each chunk gives a part, and a kill loses no more a worker."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Where photos are."""
        return self.paths[:-1]

    @property
    def out(self) -> str:
        """The folder of results."""
        return self.paths[-1]

    @property
    def uses_ray(self) -> bool:
        """Whether Ray runs the workers."""
        return self.engine == "ray" or self.address is not None


def make_job(args: BatchArgs) -> Job:
    """What the workers do. Raises BundleError when the bundle cannot be used."""
    from pipeline.batch.parquet_source import Columns
    from pipeline.batch.table import BatchRecipe
    from pipeline.batch.work import Job

    options = {"min_score": args.min_score, "min_face": args.min_face, "id_column": args.id_column}
    recipe = BatchRecipe(Bundle.load(args.bundle).describe(), options)
    bundle = None if args.bundle is None else args.bundle.resolve()
    return Job(recipe, bundle, args.min_score, args.min_face, Columns(args.column, args.id_column))


def detect_all(args: BatchArgs, job: Job) -> BatchStats:
    """Does what is left to do, with a progress bar on a terminal. Raises UserError."""
    from pipeline.batch.pool import run_pool
    from pipeline.batch.ray_driver import run_ray_subprocess
    from pipeline.batch.results import BatchResults
    from pipeline.batch.run import run_batch
    from pipeline.batch.scan import ScanConfig

    results = BatchResults(args.out, job.recipe)
    workers = args.workers or usable_cores()
    wanted = ScanConfig(args.sources, args.chunk, workers, job.columns, results.name)

    def engine(chunks: Iterable[Chunk]) -> Iterator[ChunkResult]:
        if args.uses_ray:
            return run_ray_subprocess(job, chunks, args.workers, args.address)
        return run_pool(job, chunks, workers)

    with progress() as bar:
        task = bar.add_task("detecting", total=None)  # listing goes on while photos are done
        return run_batch(wanted, results, engine, lambda tally: bar.update(task, completed=tally.photos + tally.errors))


def run(args: BatchArgs) -> int:
    """The whole command; returns its exit code."""
    _check(args)
    with requires_extra("batch"):
        if any(map(is_address, args.paths)):
            import fsspec  # type: ignore[import-untyped]  # noqa: F401  # missing, it is said now
        job = make_job(args)
    tally = detect_all(args, job)
    for file, what in tally.first:
        print(f"error: {shown(file)}: {what}", file=sys.stderr)
    if tally.errors > len(tally.first):
        print(f"error: and {tally.errors - len(tally.first)} more", file=sys.stderr)
    _show(args, tally, job)
    return 1 if tally.errors else 0


def _show(args: BatchArgs, tally: BatchStats, job: Job) -> None:
    """Prints what the run came to."""
    from pipeline.batch.results import errors_of

    names = job.recipe.bundle["class_names"]
    faces = ", ".join(f"{name} {tally.faces[name]}" for name in names)
    lines = {
        "photos": f"{tally.photos}" + (f" ({tally.before} before)" if tally.before else ""),
        "faces": f"{tally.faces.total()}: {faces}",
    }
    if tally.errors:
        lines["errors"] = f"{tally.errors}, tried again by the same command: {shown(errors_of(args.out))}"
    if tally.photos:
        lines["speed"] = f"{tally.rate:.1f} photos a second, a worker held up to {tally.megabytes:.0f} MB"
    lines["results"] = shown(args.out) if tally.photos + tally.before else "none"
    screen = console()
    for name, text in lines.items():
        screen.print(f"{name + ':':<12}{text}", markup=False, highlight=False)


def _check(args: BatchArgs) -> None:
    if len(args.paths) < 2:
        raise UserError("give the photos and where results go, as in `batch photos/ faces.parquet`")
    if args.min_score is not None and not 0 <= args.min_score <= 1:
        raise UserError(f"--min-score is {args.min_score:g}; give a number from 0 to 1")
    if args.min_face is not None and not 1 <= args.min_face < float("inf"):
        raise UserError(f"--min-face is {args.min_face:g}; give 1 pixel or more")
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers is {args.workers}; give 1 or more")
    if not 1 <= args.chunk <= MOST_PHOTOS:
        raise UserError(f"--chunk is {args.chunk}; give 1 to {MOST_PHOTOS}")
    if args.engine == "pool" and args.address is not None:
        raise UserError("--address names a Ray cluster, --engine pool uses none; leave one of them out")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    return run_cli(lambda: run(tyro.cli(BatchArgs, args=argv, prog=program_name("pipeline.batch"))))
