"""What a worker does with a chunk: read, detect, and give the rows as a Parquet file; it writes nothing itself."""

from __future__ import annotations

import io
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from common.errors import MediaError, UserError, first_line
from common.images import Photo
from common.paths import FoundImage
from pipeline.batch.chunk import Chunk
from pipeline.batch.parquet_source import Columns
from pipeline.batch.read_ahead import contents
from pipeline.batch.table import BatchRecipe, from_parquet, rows, schema, to_parquet
from pipeline.inference.results import image_result

if TYPE_CHECKING:
    from pipeline.inference.predictor import Predictor


def load_predictor(bundle: Path | None) -> Predictor:
    """The predictor of a bundle, the default one when none is named, with one thread for its nets."""
    from pipeline.inference.predictor import Predictor

    return Predictor.load(bundle)


@dataclass(frozen=True)
class Job:
    """What all workers do with every chunk. load: makes a worker's predictor from `bundle`."""

    recipe: BatchRecipe
    bundle: Path | None = None
    min_score: float | None = None
    min_face: float | None = None
    columns: Columns = field(default_factory=Columns)
    load: Callable[[Path | None], Predictor] = load_predictor

    def predictor(self) -> Predictor:
        """A predictor of the very bundle that the command was started with. Raises UserError."""
        predictor = self.load(self.bundle)
        if BatchRecipe(predictor.bundle.describe(), self.recipe.options).hash != self.recipe.hash:
            name = self.bundle or "the default bundle"
            raise UserError(f"{name}: is another one where a worker runs; copy the same to all machines")
        return predictor


@dataclass(frozen=True)
class ChunkResult:
    """What became of a chunk. part: the Parquet file of its rows, empty where no photo was answered.

    photos: those answered. faces: by label. errors: (name, what) of the other photos. began, ended: seconds of the
    worker's clock (Unix time). cpu_seconds: worked between. megabytes: the most memory that the worker ever held.
    """

    key: str
    part: bytes = b""
    photos: int = 0
    faces: Counter[str] = field(default_factory=Counter)
    errors: tuple[tuple[str, str], ...] = ()
    began: float = 0.0
    ended: float = 0.0
    cpu_seconds: float = 0.0
    megabytes: float = 0.0

    @classmethod
    def joined(cls, key: str, parts: Sequence[ChunkResult], metadata: dict[bytes, bytes]) -> ChunkResult:
        """One of several, as if their photos had been done together."""
        tables = [each.part for each in parts if each.part]
        return cls(
            key,
            to_parquet(from_parquet(tables), metadata) if tables else b"",
            sum(each.photos for each in parts),
            sum((each.faces for each in parts), Counter()),
            tuple(error for each in parts for error in each.errors),
            min(each.began for each in parts),
            max(each.ended for each in parts),
            sum(each.cpu_seconds for each in parts),
            max((each.megabytes for each in parts), default=0.0),
        )


def process_chunk(chunk: Chunk, job: Job, predictor: Predictor) -> ChunkResult:
    """Goes through a chunk's photos; what is the matter with one is an error of its own."""
    began, cpu = time.time(), time.process_time()
    found: list[dict[str, Any]] = []
    errors: list[tuple[str, str]] = []
    faces: Counter[str] = Counter()
    photos = 0
    for name, photo_id, read in _photos(chunk, job, predictor):
        try:
            photo = read()
            detections = predictor.detect(photo, job.min_score, job.min_face)
            record = image_result(FoundImage(name, name), photo.size, detections).record()
        except MediaError as error:
            errors.append((name, error.what))
        except Exception as error:  # one strange photo of millions must not end them
            errors.append((name, f"cannot be worked on ({type(error).__name__}: {first_line(error)}); leave it out"))
        else:
            photos += 1
            faces.update(face["label"] for face in record["faces"])
            found += rows({**record, "file": name}, photo_id)
    columns = schema(predictor.bundle.meta.class_names, job.columns.id is not None)
    table = pa.Table.from_pylist(found, columns)
    part = to_parquet(table, job.recipe.metadata()) if photos else b""
    cpu_seconds = time.process_time() - cpu
    return ChunkResult(chunk.key, part, photos, faces, tuple(errors), began, time.time(), cpu_seconds, peak_megabytes())


def _photos(chunk: Chunk, job: Job, predictor: Predictor) -> Iterator[tuple[str, str | None, Callable[[], Photo]]]:
    """Each photo's name, id and what reads it."""
    if chunk.place.is_local and chunk.items[0].row is None:
        for name, item in zip(chunk.names, chunk.items, strict=True):
            yield name, None, lambda path=item.path: predictor.read(path, job.min_face)  # type: ignore[misc]
        return
    for name, content in zip(chunk.names, contents(chunk, job.columns), strict=True):

        def read(name: str = name, content: Any = content) -> Photo:
            if content.error:
                raise MediaError(name, content.error)
            return predictor.read_from(io.BytesIO(content.data), name, job.min_face)

        yield name, content.id, read


def peak_megabytes() -> float:
    """The most memory that this process ever held (resident set)."""
    status = Path("/proc/self/status")  # getrusage's figure begins with that of the process that started this one
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
