"""Detection over millions of photos, on this machine or a Ray cluster, into a Parquet table; a killed run resumes.

Example: python -m pipeline.batch photos/ 's3://bucket/2026-*/' faces.parquet

OUT.parquet is a folder of parts, which pandas, pyarrow and Spark read as one table. The table has one row per face, and
one row with nulls for a photo without faces. OUT.errors.parquet lists photos that cannot be read. The same command
again processes what is missing: new photos, photos with errors, and what a killed run left. A photo is known by its
absolute path or address: one whose content changed is not processed again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Optional

import tyro

from common.arguments import parse_args
from common.cli import console, progress, requires_extra, run_cli
from common.display import display_name
from common.errors import UserError
from common.parallel import usable_cores
from common.paths import is_address
from pipeline.inference.bundle import Bundle, bundle_folder

if TYPE_CHECKING:
    from pipeline.batch.chunk import Chunk
    from pipeline.batch.run import BatchStats
    from pipeline.batch.work import BatchJob, ChunkResult

MAX_CHUNK = 100_000  # photos; a worker holds the rows of a chunk in memory


# Optional and not `X | None`: tyro imports typeguard for those, which takes 0.1 s.
# ruff: noqa: UP045
@dataclass(frozen=True)
class BatchArgs:
    """Detect faces in millions of photos and write a Parquet table with one row per face."""

    paths: tyro.conf.Positional[tuple[str, ...]] = ()
    """Sources: folders (searched with all subfolders), glob patterns, photos, Parquet files with image bytes.
    Last: the folder of results, ending in .parquet. Each may be an address, too (s3://, gs://, file://, ...)."""
    bundle: Optional[Path] = None
    """Bundle directory, or the name of a bundle of the project; if not given, the default bundle."""
    min_score: Optional[float] = None
    """Smallest score reported, 0 to 1; if not given, the bundle's."""
    min_face: Optional[float] = None
    """Smallest face to find, in pixels; if not given, the bundle's."""
    column: Optional[str] = None
    """Column of Parquet sources with the pictures' bytes, or a struct with `bytes`; needed where several fit."""
    id_column: Optional[str] = None
    """Column of Parquet sources to write to the results as `id`; dots lead into structs, as in image.path."""
    engine: Literal["auto", "pool", "ray"] = "auto"
    """pool: processes on this machine; ray: Ray Data, here or on a cluster; auto: pool unless --address is given."""
    address: Optional[str] = None
    """Ray cluster to use: auto for the one that this machine belongs to, or HOST:PORT.
    Its machines must have the photos and the bundle under the same names."""
    workers: Optional[int] = None
    """Number of worker processes, each with one photo at a time and some 200 MB; if not given, one per core."""
    chunk: int = 256
    """Most photos handed to a worker together. Each chunk gives a part; a kill loses at most a chunk per worker."""

    @property
    def out(self) -> str:
        """The folder of results."""
        return self.paths[-1]


def make_job(args: BatchArgs) -> BatchJob:
    """Return the workers' job. Raises BundleError when the bundle cannot be used."""
    from pipeline.batch.photo_source import ParquetColumns
    from pipeline.batch.table import BatchRecipe
    from pipeline.batch.work import BatchJob

    options = {"min_score": args.min_score, "min_face": args.min_face, "id_column": args.id_column}
    if args.column is not None:  # the results of earlier versions do not name it
        options["column"] = args.column
    recipe = BatchRecipe(Bundle.load(args.bundle).describe(), options)
    bundle = None if args.bundle is None else bundle_folder(args.bundle).resolve()
    return BatchJob(recipe, bundle, args.min_score, args.min_face, ParquetColumns(args.column, args.id_column))


def detect_all(args: BatchArgs, job: BatchJob) -> BatchStats:
    """Process all photos that are not in the results, with a progress bar on a terminal; return the statistics.

    Raises UserError when the results or the cluster cannot be used, or the workers do not start.
    """
    from pipeline.batch.pool import run_pool
    from pipeline.batch.ray_driver import run_ray_subprocess
    from pipeline.batch.results import BatchResults
    from pipeline.batch.run import run_batch
    from pipeline.batch.scan import ScanConfig

    results = BatchResults(args.out, job.recipe)
    workers = args.workers or usable_cores()
    config = ScanConfig(args.paths[:-1], args.chunk, workers, job.columns, results.location)

    def engine(chunks: Iterable[Chunk]) -> Iterator[ChunkResult]:
        if args.engine == "ray" or args.address is not None:
            return run_ray_subprocess(job, chunks, args.workers, args.address)
        return run_pool(job, chunks, workers)

    with progress() as bar:
        task = bar.add_task("detecting", total=None)  # photos are processed while the scan still runs
        return run_batch(config, results, engine, lambda s: bar.update(task, completed=s.photos + s.error_count))


def run(args: BatchArgs) -> int:
    """Run the command; return its exit code."""
    _check(args)
    with requires_extra("batch"):
        if any(map(is_address, args.paths)):
            import fsspec  # type: ignore[import-untyped]  # noqa: F401  # report a missing package now
        job = make_job(args)
    stats = detect_all(args, job)
    for file, what in stats.first_errors:
        print(f"error: {display_name(file)}: {what}", file=sys.stderr)
    if stats.error_count > len(stats.first_errors):
        print(f"error: and {stats.error_count - len(stats.first_errors)} more", file=sys.stderr)
    _show(args, stats, job)
    return 1 if stats.error_count else 0


def _show(args: BatchArgs, stats: BatchStats, job: BatchJob) -> None:
    """Print the run's statistics."""
    from pipeline.batch.results import errors_path
    from pipeline.batch.storage import without_secrets

    out = without_secrets(args.out, strict=False)
    faces = ", ".join(f"{name} {stats.faces[name]}" for name in job.recipe.bundle["class_names"])
    lines = {
        "photos": f"{stats.photos}" + (f" ({stats.processed_before} before)" if stats.processed_before else ""),
        "faces": f"{stats.faces.total()}: {faces}",
    }
    if stats.error_count:
        lines["errors"] = f"{stats.error_count}, tried again by the same command: {display_name(errors_path(out))}"
    if stats.notes:
        lines["notes"] = f"{stats.notes}, in the column note of the results"
    if stats.skipped_videos:
        lines["videos"] = f"{stats.skipped_videos} skipped; process them with `python -m pipeline.detect`"
    if stats.photos:
        lines["speed"] = f"{stats.rate:.1f} photos a second, a worker held up to {stats.peak_megabytes:.0f} MB"
    lines["results"] = display_name(out) if stats.photos + stats.processed_before else "none"
    screen = console()
    for name, text in lines.items():
        screen.print(f"{name + ':':<12}{text}", markup=False, highlight=False)


def _check(args: BatchArgs) -> None:
    """Raise UserError on options out of range."""
    if len(args.paths) < 2:
        raise UserError("name the photos and the folder of results, as in `batch photos/ faces.parquet`")
    if args.min_score is not None and not 0 <= args.min_score <= 1:
        raise UserError(f"--min-score is {args.min_score:g}; use a number from 0 to 1")
    if args.min_face is not None and not 1 <= args.min_face < float("inf"):
        raise UserError(f"--min-face is {args.min_face:g}; use 1 pixel or more")
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers is {args.workers}; use 1 or more")
    if not 1 <= args.chunk <= MAX_CHUNK:
        raise UserError(f"--chunk is {args.chunk}; use 1 to {MAX_CHUNK}")
    if args.engine == "pool" and args.address is not None:
        raise UserError("--address names a Ray cluster, but --engine pool uses none; remove one of the two")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_cli(lambda: run(parse_args(BatchArgs, argv, "pipeline.batch")))
