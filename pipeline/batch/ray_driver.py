"""Runs Ray in a child process: Ray ends slower, and prints more, than the command should."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from typing import IO, Any

from common.errors import UserError
from pipeline.batch.child_process import ChildProcess, ParentPipe, ProcessDiedError
from pipeline.batch.chunk import Chunk
from pipeline.batch.ray_pool import run_ray
from pipeline.batch.work import BatchJob, ChunkResult

_PARENT_CHECK = 0.5  # s between two checks that the parent is alive


def run_ray_subprocess(
    job: BatchJob, chunks: Iterable[Chunk], workers: int | None, address: str | None
) -> Iterator[ChunkResult]:
    """Run `run_ray` in a child process. When the caller stops, the child is asked to end, which takes Ray seconds.

    Raises what `run_ray` and `chunks` raise, and UserError when Ray ends unexpectedly.
    """
    with tempfile.TemporaryFile() as log:
        process = ChildProcess("pipeline.batch.ray_driver", stderr=log)
        failed: list[Exception] = []

        def send_chunks() -> None:
            try:
                process.send((job, workers, address))
                for chunk in chunks:
                    process.send(chunk)
                process.send(None)
            except ProcessDiedError:
                pass  # `receive` below reports it
            except Exception as error:
                failed.append(error)
                process.terminate()

        threading.Thread(target=send_chunks, daemon=True).start()
        try:
            while (message := process.receive()) is not None:
                yield message
            process.wait()
        except ProcessDiedError as error:
            if failed:
                raise failed[0] from None
            raise UserError(f"Ray ended unexpectedly ({error}){_last_line(log)}") from error
        finally:
            process.terminate()  # nothing, if it has ended


def _last_line(log: IO[bytes]) -> str:
    """Return the last line that Ray printed, as the end of a message."""
    log.seek(max(log.seek(0, os.SEEK_END) - 10_000, 0))
    last = log.read().decode(errors="replace").strip().split("\n")[-1].strip()
    return f": {last}" if last else ""


def main(pipe: ParentPipe) -> None:
    """Run the child: receive `run_ray`'s arguments, then chunks and None; send results and None."""
    parent = os.getppid()

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt Ray's shutdown
        raise KeyboardInterrupt

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK)
        os.kill(os.getpid(), signal.SIGTERM)

    def chunks() -> Iterator[Chunk]:
        while (chunk := pipe.receive()) is not None:
            yield chunk

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=watch_parent, daemon=True).start()
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        job, workers, address = pipe.receive()
        with closing(run_ray(job, chunks(), workers, address)) as results:
            for result in results:
                pipe.send(result)
        pipe.send(None)
