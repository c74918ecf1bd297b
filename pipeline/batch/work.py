"""What a worker does with a chunk: read, detect, and return the rows as a Parquet file; it writes no files."""

from __future__ import annotations

import io
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import MediaError, UserError
from common.images import Photo
from common.memory import OUT_OF_MEMORY, is_out_of_memory
from common.paths import FoundImage
from pipeline.batch.chunk import Chunk
from pipeline.batch.photo_source import ParquetColumns, read_contents
from pipeline.batch.table import BatchRecipe, photo_rows, table_schema, to_parquet
from pipeline.inference.results import image_result

if TYPE_CHECKING:
    from pipeline.inference.predictor import Predictor


def load_predictor(bundle: Path | None) -> Predictor:
    """Return the predictor of a bundle (None: the default bundle), with one thread for its nets."""
    from pipeline.inference.predictor import Predictor

    return Predictor.load(bundle)


@dataclass(frozen=True)
class BatchJob:
    """What all workers do with every chunk."""

    recipe: BatchRecipe
    bundle: Path | None = None  # directory; None for the default bundle
    min_score: float | None = None  # smallest score reported, 0 to 1; the bundle's when None
    min_face: float | None = None  # smallest face to find, pixels; the bundle's when None
    columns: ParquetColumns = field(default_factory=ParquetColumns)
    load: Callable[[Path | None], Predictor] = load_predictor  # makes a worker's predictor from `bundle`

    def make_predictor(self) -> Predictor:
        """Return a predictor. Raises UserError when its bundle is not the one that the command started with."""
        predictor = self.load(self.bundle)
        if BatchRecipe(predictor.bundle.describe(), self.recipe.options).hash != self.recipe.hash:
            name = self.bundle or "the default bundle"
            raise UserError(f"{name}: is another one where a worker runs; copy the same to all machines")
        return predictor


@dataclass(frozen=True)
class ChunkResult:
    """The result of a chunk."""

    key: str  # the chunk's
    part: bytes = b""  # the Parquet file of the rows; empty when no photo was processed
    photos: int = 0  # number processed
    faces: Counter[str] = field(default_factory=Counter)  # number in these photos, by label
    errors: tuple[tuple[str, str], ...] = ()  # (name, what) of the other photos
    start_time: float = 0.0  # Unix time by the worker's clock
    end_time: float = 0.0
    cpu_seconds: float = 0.0  # CPU time between the two
    peak_megabytes: float = 0.0  # the most memory that the worker has held since it started
    notes: int = 0  # number of the photos that have a note

    @classmethod
    def merge(cls, key: str, results: Sequence[ChunkResult], metadata: dict[bytes, bytes]) -> ChunkResult:
        """Return one result of several, as if their photos had been in one chunk."""
        tables = [pq.read_table(pa.BufferReader(each.part)) for each in results if each.part]
        return cls(
            key,
            to_parquet(pa.concat_tables(tables), metadata) if tables else b"",
            sum(each.photos for each in results),
            sum((each.faces for each in results), Counter()),
            tuple(error for each in results for error in each.errors),
            min(each.start_time for each in results),
            max(each.end_time for each in results),
            sum(each.cpu_seconds for each in results),
            max((each.peak_megabytes for each in results), default=0.0),
            sum(each.notes for each in results),
        )


def process_chunk(chunk: Chunk, job: BatchJob, predictor: Predictor) -> ChunkResult:
    """Detect the faces in a chunk's photos; a photo that cannot be read becomes an error, and the rest is processed.

    Every other exception is raised: it is an error of this project's code, not of the photo.
    """
    start, cpu_start = time.time(), time.process_time()
    rows: list[dict[str, Any]] = []
    errors: list[tuple[str, str]] = []
    faces: Counter[str] = Counter()
    photos = notes = 0
    for name, photo_id, read in _readers(chunk, job, predictor):
        try:
            photo = read()
            detections = predictor.detect(photo, job.min_score, job.min_face)
            record = image_result(FoundImage(name, name), photo.size, detections, photo.note).record()
        except MediaError as error:
            errors.append((name, error.reason))
        except Exception as error:
            if not is_out_of_memory(error):
                error.add_note(f"The photo was {name}")
                raise
            errors.append((name, OUT_OF_MEMORY))
        else:
            photos += 1
            faces.update(face["label"] for face in record["faces"])
            notes += "note" in record
            rows += photo_rows({**record, "file": name}, photo_id)
    schema = table_schema(predictor.bundle.meta.class_names, job.columns.id is not None)
    part = to_parquet(pa.Table.from_pylist(rows, schema), job.recipe.metadata()) if photos else b""
    cpu, peak = time.process_time() - cpu_start, process_peak_megabytes()
    return ChunkResult(chunk.key, part, photos, faces, tuple(errors), start, time.time(), cpu, peak, notes)


def _readers(
    chunk: Chunk, job: BatchJob, predictor: Predictor
) -> Iterator[tuple[str, str | None, Callable[[], Photo]]]:
    """Yield each photo's name, its id, and a function that reads it."""
    if chunk.storage.is_local and chunk.photos[0].row is None:
        for name, photo in zip(chunk.names, chunk.photos, strict=True):
            yield name, None, partial(predictor.read, photo.path, job.min_face)
        return
    for name, content in zip(chunk.names, read_contents(chunk, job.columns), strict=True):

        def read(name: str = name, content: Any = content) -> Photo:
            if content.error:
                raise MediaError(name, content.error)
            return predictor.read_from(io.BytesIO(content.data), name, job.min_face)

        yield name, content.id, read


def process_peak_megabytes() -> float:
    """Return the most memory (resident set) that this process has held since it started."""
    status = Path("/proc/self/status")  # getrusage's value includes the peak of the parent process
    if status.is_file() and (peak := re.search(rb"^VmHWM:\s*(\d+) kB", status.read_bytes(), re.MULTILINE)):
        return int(peak[1]) * 1024 / 1e6
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
