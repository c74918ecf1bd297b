"""A worker process. When it dies, it is restarted and the chunk is sent again, at last photo by photo."""

from __future__ import annotations

import io
import os
import queue
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from PIL import Image

from common.errors import ProgrammingError, UserError
from pipeline.batch.child_process import ChildProcess, ParentPipe, ProcessDiedError
from pipeline.batch.chunk import Chunk, PhotoContent, PhotoRef
from pipeline.batch.photo_source import ParquetColumns, write_plain_table
from pipeline.batch.work import BatchJob, ChunkResult, process_chunk

MAX_ATTEMPTS = 2  # to process a chunk as a whole, and to start the process


class WorkerStoppedError(Exception):
    """`Worker.stop` was called."""


class Worker:
    """One process with one predictor. For one thread at a time, but another thread may call `stop`.

    After that `process` raises WorkerStoppedError.
    """

    def __init__(self, job: BatchJob) -> None:
        self._job = job
        self._process: ChildProcess | None = None
        self._stopped = False

    def process(self, chunk: Chunk) -> ChunkResult:
        """Return the chunk's result, even if the process dies.

        Raises UserError when no process can be started, or when the process dies on every photo. Raises
        ProgrammingError for an error in the process that is no fault of a photo.
        """
        for _ in range(MAX_ATTEMPTS):
            with suppress(ProcessDiedError):
                return self._request(chunk)
        results: list[ChunkResult] = []
        for single in chunk.split():
            try:
                results.append(self._request(single))
            except ProcessDiedError as error:
                if not results:
                    self._try_plain_photo(chunk)
                what = f"kills the worker ({error}); make it smaller, convert it, or leave it out"
                now = time.time()
                errors = ((single.names[0], what),)
                results.append(ChunkResult(single.key, errors=errors, start_time=now, end_time=now))
        return ChunkResult.merge(chunk.key, results, self._job.recipe.metadata())

    def _try_plain_photo(self, chunk: Chunk) -> None:
        """Process a grey picture from the same kind of source; raise UserError when it kills the process, too."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                self._request(plain_chunk(chunk, self._job.columns, Path(folder)))
            except ProcessDiedError as error:
                what = f"a worker dies on every photo, also on a plain grey one ({error}), so no photo is at fault"
                raise UserError(f"{what}; free memory, use fewer --workers, or install the packages again") from error

    def stop(self) -> None:
        """End the process at once, and start no other."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    def _request(self, chunk: Chunk) -> ChunkResult:
        """Return the process's result. Raises ProcessDiedError when the chunk kills the process."""
        if self._process is None:
            self._start()
        return cast(ChunkResult, self._exchange(chunk))

    def _start(self) -> None:
        """Start the process and wait until it loaded its predictor. Raises UserError when it cannot."""
        how = ""
        for _ in range(MAX_ATTEMPTS):
            try:
                self._exchange(self._job)
                return
            except ProcessDiedError as error:
                how = str(error)
        fix = "install the packages again" if how.startswith("exit code") else "try again with fewer workers"
        raise UserError(f"a worker ends as it starts ({how}); {fix}")

    def _exchange(self, message: Any) -> Any:
        """Return the process's answer to a message; the first message starts the process."""
        self._check()
        if self._process is None:
            self._process = ChildProcess("pipeline.batch.worker")
        try:
            self._check()  # `stop` may have been called before there was a process
            self._process.send(message)
            return self._process.receive()
        except (ProcessDiedError, UserError, ProgrammingError):  # the process has ended
            self._process = None
            self._check()
            raise

    def _check(self) -> None:
        if self._stopped:
            if self._process is not None:
                self._process.kill()
            raise WorkerStoppedError


def plain_chunk(like: Chunk, columns: ParquetColumns, folder: Path) -> Chunk:
    """Return a chunk of one small grey picture, stored as the photos of another chunk are.

    Args:
        like: the other chunk.
        columns: of a Parquet source.
        folder: where a file is written.
    """
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(picture, "PNG")
    data = picture.getvalue()
    if like.contents is not None or not like.storage.is_local:
        return Chunk(like.storage, (PhotoRef("plain.png", 0),), (PhotoContent(data),))
    if like.photos[0].row is None:
        (folder / "plain.png").write_bytes(data)
        return Chunk(like.storage, (PhotoRef(str(folder / "plain.png")),))
    write_plain_table(folder / "plain.parquet", data, columns)
    return Chunk(like.storage, (PhotoRef(str(folder / "plain.parquet"), 0),))


def main(pipe: ParentPipe) -> None:
    """Run the worker process: receive a Job, then chunks, and send their results.

    It ends at once when the parent does, also in the middle of a chunk.
    """
    import cv2

    from common.memory import limit_malloc_arenas

    limit_malloc_arenas()
    cv2.setNumThreads(1)  # the other workers use the other cores
    job: BatchJob = pipe.receive()
    chunks: queue.SimpleQueue[Chunk | Exception] = queue.SimpleQueue()

    def receive_chunks() -> None:
        try:
            while True:
                chunks.put(pipe.receive())
        except EOFError:
            os._exit(0)
        except Exception as error:  # such as a class that this process does not have
            chunks.put(error)

    threading.Thread(target=receive_chunks, daemon=True).start()
    predictor = job.make_predictor()
    pipe.send(None)
    while True:
        chunk = chunks.get()
        if isinstance(chunk, Exception):
            raise chunk
        pipe.send(process_chunk(chunk, job, predictor))
