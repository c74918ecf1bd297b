"""Jobs for worker processes that need no nets: a predictor of red blobs, and some that kill their process."""

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

DEADLY = (1, 2, 3)  # the RGB of a photo's first pixel that kills
PARENT = (3, 2, 1)  # and of one that kills the process that started this one


class NamedBundle(FakeBundle):
    def describe(self) -> dict[str, Any]:
        return {"name": "fake", "class_names": list(CLASSES), "thresholds": {"score": 0.5}}


class BatchPredictor(FakePredictor):
    """kills: asked for each deadly photo whether it kills the process."""

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
    """Fails on every photo that is 50 px wide."""
    predictor = BatchPredictor()
    right = predictor.detect

    def detect(image: Any, *options: Any) -> Any:
        if image.size[0] == 50:
            raise ZeroDivisionError("division by zero\nand more")
        return right(image, *options)

    predictor.detect = detect  # type: ignore[method-assign]
    return predictor


def load_refused(bundle: Path | None) -> Any:
    raise UserError("bundle: is broken; pack it anew")


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
    """Deadly photos kill only until the file `flag` is there."""
    return partial(_load_once, flag)


def fake_job(load: Callable[[Path | None], Any] = load_fake, columns: Columns = Columns(), **options: Any) -> Job:  # noqa: B008
    recipe = BatchRecipe(
        NamedBundle().describe(), {"min_score": None, "min_face": None, "id_column": columns.id, **options}
    )
    return Job(recipe, columns=columns, load=load)


def run_here(job: Job, chunks: Iterable[Chunk], workers: int) -> Iterator[ChunkResult]:
    """In place of the process pool: in this process."""
    predictor = job.load(None)
    return (process_chunk(chunk, job, predictor) for chunk in chunks)


def _load_orphan(flag: Path, bundle: Path | None) -> Any:
    predictor = BatchPredictor()
    right = predictor.detect

    def detect(image: Any, *options: Any) -> Any:
        if tuple(image.pixels[0, 0]) == PARENT and _once(flag):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)  # longer than this process has to live
        return right(image, *options)

    predictor.detect = detect  # type: ignore[method-assign]
    return predictor


def load_orphan(flag: Path) -> Callable[[Path | None], Any]:
    """Deadly photos kill their process, PARENT ones its parent, that until the file `flag` is there."""
    return partial(_load_orphan, flag)


def deadly(path: Path, first: tuple[int, int, int] = DEADLY) -> Path:
    """Writes a photo that kills."""
    image = np.full((32, 48, 3), 128, np.uint8)
    image[0, 0] = first
    cv2.imwrite(str(path), image[..., ::-1])
    return path


def files(*paths: Path) -> Chunk:
    return Chunk(LOCAL, tuple(Item(str(path)) for path in paths))


def table(out: str | Path) -> list[dict[str, Any]]:
    """All rows of results, sorted."""
    rows = pyarrow.dataset.dataset(out).to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["file"], row["face"] or 0))
