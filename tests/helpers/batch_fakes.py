"""Jobs for worker processes without nets: predictors of red blobs; some kill their process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.dataset

from common.errors import UserError
from common.images import Photo
from pipeline.batch.chunk import Chunk, PhotoRef
from pipeline.batch.photo_source import ParquetColumns
from pipeline.batch.storage import LOCAL
from pipeline.batch.table import BatchRecipe
from pipeline.batch.work import BatchJob, ChunkResult, process_chunk
from tests.helpers.fake_predictor import CLASSES, FakeBundle, FakeDetections, FakePredictor

DEADLY = (1, 2, 3)  # RGB of the first pixel of a photo that kills its worker process
KILLS_PARENT = (3, 2, 1)  # of one that kills the parent of the worker process


class NamedBundle(FakeBundle):
    def describe(self) -> dict[str, Any]:
        return {"name": "fake", "class_names": list(CLASSES), "thresholds": {"score": 0.5}}


class BatchPredictor(FakePredictor):
    """Detects red blobs. kills: returns whether a deadly photo kills the process."""

    def __init__(self, kills: Callable[[], bool] = lambda: True) -> None:
        super().__init__()
        self.bundle = NamedBundle()
        self._kills = kills

    def detect(
        self, image: np.ndarray | Photo, min_score: float | None = None, min_face: float | None = None
    ) -> FakeDetections:
        assert isinstance(image, Photo)
        if tuple(image.pixels[0, 0]) == DEADLY and self._kills():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().detect(image, min_score, min_face)


def load_fake(bundle: Path | None) -> Any:
    return BatchPredictor()


def _load_failing(error: Exception, width: int | None, bundle: Path | None) -> Any:
    predictor = BatchPredictor()
    detect_blobs = predictor.detect

    def detect(image: Any, *options: Any) -> Any:
        if width in (None, image.size[0]):
            raise error
        return detect_blobs(image, *options)

    predictor.detect = detect  # type: ignore[method-assign]
    return predictor


def load_failing(error: Exception, width: int | None = 50) -> Callable[[Path | None], Any]:
    """Return a loader of a predictor that raises the error on photos of this width in px; None: on every photo."""
    return partial(_load_failing, error, width)


def load_out_of_memory(bundle: Path | None) -> Any:
    """Return a predictor that fails on photos 50 px wide, as OpenCV does."""
    return _load_failing(cv2.error("Insufficient memory (Failed to allocate 9 bytes)"), 50, bundle)


def load_broken(bundle: Path | None) -> Any:
    raise AttributeError("module 'pyarrow' has no attribute 'compute'")


def _kill(*_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def load_killing(method: str, bundle: Path | None) -> Any:
    """Return a predictor whose method kills the process, on every photo."""
    predictor = BatchPredictor()
    setattr(predictor, method, _kill)
    return predictor


def load_refused(bundle: Path | None) -> Any:
    raise UserError("bundle: is broken; pack it again")


def load_dying(bundle: Path | None) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _once(flag: Path) -> bool:
    if flag.exists():
        return False
    flag.touch()
    return True


def _load_once(flag: Path, bundle: Path | None) -> Any:
    return BatchPredictor(partial(_once, flag))


def load_once(flag: Path) -> Callable[[Path | None], Any]:
    """Return a loader whose deadly photos kill only until the file `flag` exists."""
    return partial(_load_once, flag)


def fake_job(
    load: Callable[[Path | None], Any] = load_fake,
    columns: ParquetColumns = ParquetColumns(),  # noqa: B008
    **options: Any,
) -> BatchJob:
    recipe = BatchRecipe(
        NamedBundle().describe(), {"min_score": None, "min_face": None, "id_column": columns.id, **options}
    )
    return BatchJob(recipe, columns=columns, load=load)


def run_here(job: BatchJob, chunks: Iterable[Chunk], workers: int) -> Iterator[ChunkResult]:
    """Process the chunks in this process; replaces the process pool."""
    predictor = job.load(None)
    return (process_chunk(chunk, job, predictor) for chunk in chunks)


def _load_parent_killer(flag: Path, bundle: Path | None) -> Any:
    predictor = BatchPredictor()
    detect_blobs = predictor.detect

    def detect(image: Any, *options: Any) -> Any:
        if tuple(image.pixels[0, 0]) == KILLS_PARENT and _once(flag):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)  # this process is killed before
        return detect_blobs(image, *options)

    predictor.detect = detect  # type: ignore[method-assign]
    return predictor


def load_parent_killer(flag: Path) -> Callable[[Path | None], Any]:
    """Return a loader whose deadly photos kill their process, and KILLS_PARENT ones its parent until `flag` exists."""
    return partial(_load_parent_killer, flag)


def deadly(path: Path, first: tuple[int, int, int] = DEADLY) -> Path:
    """Write a photo that kills the process."""
    image = np.full((32, 48, 3), 128, np.uint8)
    image[0, 0] = first
    cv2.imwrite(str(path), image[..., ::-1])
    return path


def files(*paths: Path) -> Chunk:
    return Chunk(LOCAL, tuple(PhotoRef(str(path)) for path in paths))


def table(out: str | Path) -> list[dict[str, Any]]:
    """Return all rows of results, sorted by file and face."""
    rows = pyarrow.dataset.dataset(out).to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["file"], row["face"] or 0))
