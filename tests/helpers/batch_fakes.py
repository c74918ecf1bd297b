"""Batch jobs without nets: a predictor that finds red blobs, and predictors that fail or kill a process."""

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
from pipeline.batch.chunk import Chunk, Item
from pipeline.batch.parquet_source import Columns
from pipeline.batch.storage import LOCAL
from pipeline.batch.table import BatchRecipe
from pipeline.batch.work import ChunkResult, Job, process_chunk
from tests.helpers.fake_predictor import CLASSES, FakeBundle, FakeDetections, FakePredictor

DEADLY = (1, 2, 3)  # the RGB of the first pixel of a photo that kills its worker process
PARENT = (3, 2, 1)  # the same for a photo that kills the worker's parent process


class NamedBundle(FakeBundle):
    def describe(self) -> dict[str, Any]:
        return {"name": "fake", "class_names": list(CLASSES), "thresholds": {"score": 0.5}}


class BatchPredictor(FakePredictor):
    """Kills its process at a deadly photo if `kills()` is true."""

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


def load_clumsy(bundle: Path | None) -> Any:
    """Return a predictor that fails on every photo with a width of 50 px."""
    predictor = BatchPredictor()
    detect_faces = predictor.detect

    def detect(image: Any, *options: Any) -> Any:
        if image.size[0] == 50:
            raise ZeroDivisionError("division by zero\nand more")
        return detect_faces(image, *options)

    predictor.detect = detect  # type: ignore[method-assign]
    return predictor


def load_refused(bundle: Path | None) -> Any:
    raise UserError("bundle: is broken; pack it again")


def load_dying(bundle: Path | None) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _once(flag: Path) -> bool:
    """Return True the first time, when the file `flag` does not exist."""
    if flag.exists():
        return False
    flag.touch()
    return True


def _load_once(flag: Path, bundle: Path | None) -> Any:
    return BatchPredictor(partial(_once, flag))


def load_once(flag: Path) -> Callable[[Path | None], Any]:
    """Return a loader whose predictor is killed only once, by the file `flag`."""
    return partial(_load_once, flag)


def fake_job(load: Callable[[Path | None], Any] = load_fake, columns: Columns = Columns(), **options: Any) -> Job:  # noqa: B008
    recipe = BatchRecipe(
        NamedBundle().describe(), {"min_score": None, "min_face": None, "id_column": columns.id, **options}
    )
    return Job(recipe, columns=columns, load=load)


def run_here(job: Job, chunks: Iterable[Chunk], workers: int) -> Iterator[ChunkResult]:
    """Replace the process pool: process the chunks in this process."""
    predictor = job.load(None)
    return (process_chunk(chunk, job, predictor) for chunk in chunks)


def _load_orphan(flag: Path, bundle: Path | None) -> Any:
    predictor = BatchPredictor()
    detect_faces = predictor.detect

    def detect(image: Any, *options: Any) -> Any:
        if tuple(image.pixels[0, 0]) == PARENT and _once(flag):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)  # until this process is ended, too
        return detect_faces(image, *options)

    predictor.detect = detect  # type: ignore[method-assign]
    return predictor


def load_orphan(flag: Path) -> Callable[[Path | None], Any]:
    """Return a loader: DEADLY photos kill the worker, and the first PARENT photo kills its parent (by `flag`)."""
    return partial(_load_orphan, flag)


def deadly(path: Path, first: tuple[int, int, int] = DEADLY) -> Path:
    """Write a photo that kills a process."""
    image = np.full((32, 48, 3), 128, np.uint8)
    image[0, 0] = first
    cv2.imwrite(str(path), image[..., ::-1])
    return path


def files(*paths: Path) -> Chunk:
    return Chunk(LOCAL, tuple(Item(str(path)) for path in paths))


def table(out: str | Path) -> list[dict[str, Any]]:
    """Return all rows of the results, sorted."""
    rows = pyarrow.dataset.dataset(out).to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["file"], row["face"] or 0))
