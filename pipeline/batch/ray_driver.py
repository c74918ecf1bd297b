"""Ray in a process of its own: the command ends when it should and says what it has to; Ray is slower and louder."""

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
from pipeline.batch.child_process import DiedError, ParentPipe, Process
from pipeline.batch.chunk import Chunk
from pipeline.batch.ray_pool import run_ray
from pipeline.batch.work import ChunkResult, Job

_WATCH = 0.5  # s between looks whether the starting process is there


def run_ray_subprocess(
    job: Job, chunks: Iterable[Chunk], workers: int | None, address: str | None
) -> Iterator[ChunkResult]:
    """`run_ray` in that process. When the caller stops, it is told to end; Ray is gone some seconds later.

    Raises UserError as `run_ray` does, and when Ray ends unexpectedly; and what `chunks` raises.
    """
    with tempfile.TemporaryFile() as said:
        process = Process("pipeline.batch.ray_driver", stderr=said)
        failed: list[Exception] = []

        def feed() -> None:
            try:
                process.send((job, workers, address))
                for chunk in chunks:
                    process.send(chunk)
                process.send(None)
            except DiedError:
                pass  # told where it is listened to
            except Exception as error:
                failed.append(error)
                process.terminate()

        threading.Thread(target=feed, daemon=True).start()
        ended = False
        try:
            while True:
                message = process.receive()
                if message is None:
                    break
                if isinstance(message, str):
                    raise UserError(message)
                yield message
            process.wait()
            ended = True
        except DiedError as error:
            ended = True
            if failed:
                raise failed[0] from None
            raise UserError(f"Ray ended unexpectedly ({error}){_last_line(said)}") from error
        finally:
            if not ended:
                process.terminate()


def _last_line(said: IO[bytes]) -> str:
    """The last thing that Ray said, to be put behind a message."""
    said.seek(max(said.seek(0, os.SEEK_END) - 10_000, 0))
    lines = said.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last}" if last else ""


def main() -> None:
    """The process: takes what `run_ray` wants, then chunks and None; gives outcomes and None, or why not."""
    line = ParentPipe()
    starter = os.getppid()

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough: Ray's own end must not be broken off
        raise KeyboardInterrupt

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(_WATCH)
        os.kill(os.getpid(), signal.SIGTERM)

    def chunks() -> Iterator[Chunk]:
        while (chunk := line.receive()) is not None:
            yield chunk

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=watch, daemon=True).start()
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        job, workers, address = line.receive()
        try:
            with closing(run_ray(job, chunks(), workers, address)) as outcomes:
                for outcome in outcomes:
                    line.send(outcome)
            line.send(None)
        except (UserError, OSError) as error:
            if not isinstance(error, BrokenPipeError):
                line.send(str(error))


if __name__ == "__main__":
    main()
