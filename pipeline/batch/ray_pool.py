"""The Ray engine: chunks on a cluster, or on this machine as one, by an actor pool of Ray Data."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from common.cli import requires_extra
from common.errors import ProgrammingError, UserError, first_line
from pipeline.batch.chunk import Chunk
from pipeline.batch.work import BatchJob, ChunkResult, process_peak_megabytes
from pipeline.batch.worker import Worker

# Chunks per actor pool: Ray Data takes a list, not a stream.
_WINDOW = 1000
# CPU cores reserved per actor, which only waits for its worker process. Ray needs the rest for tasks that start actors.
_CORES = 0.5
_CONNECT_TIMEOUT = 10  # s


class WorkerActor:
    """A Ray actor with a worker process. A photo that kills the process is reported as in the process pool.

    When the actor itself is killed, its process ends with it; Ray starts another actor and gives it the chunk again.
    """

    def __init__(self, job: BatchJob) -> None:
        self._worker = Worker(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the pickled result of the pickled `row["chunk"]`, or why there is none."""
        try:
            result = self._worker.process(pickle.loads(row["chunk"]))
        except UserError as error:
            return {"result": b"", "refused": str(error)}
        except ProgrammingError as error:
            return {"result": pickle.dumps(error), "refused": error.what}
        result = replace(result, peak_megabytes=result.peak_megabytes + process_peak_megabytes())
        return {"result": pickle.dumps(result), "refused": ""}


def run_ray(
    job: BatchJob, chunks: Iterable[Chunk], workers: int | None, address: str | None
) -> Generator[ChunkResult, None, None]:
    """Yield each chunk's result as soon as it is there. workers: actors; None for one per core of the cluster.

    Raises UserError when the cluster cannot be reached or fails, or the worker processes do not start. Raises
    ProgrammingError as `Worker.process` does.
    """
    source = iter(chunks)
    with _connected(address) as ray:
        actors = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        while window := [{"chunk": pickle.dumps(chunk)} for chunk in islice(source, max(_WINDOW, 20 * actors))]:
            pool = ray.data.ActorPoolStrategy(size=min(actors, len(window)))
            results = ray.data.from_items(window, override_num_blocks=len(window)).map(
                WorkerActor, fn_constructor_args=(job,), compute=pool, num_cpus=_CORES
            )
            for row in _rows(ray, results):
                if row["refused"]:
                    raise pickle.loads(row["result"]) if row["result"] else UserError(row["refused"])
                yield pickle.loads(row["result"])


def _rows(ray: Any, results: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Ray dataset. Raises UserError when the cluster fails, but not for an error of our code."""
    try:
        yield from results.iter_rows()
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise UserError(f"Ray: {first_line(error)}; check the cluster, and run the same command again") from error


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster; without an address, to one on this machine for the block.

    Nothing is sent to anybody: usage statistics and the dashboard are off.
    """
    if address is not None and address != "auto":
        _check_address(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with requires_extra("batch"):
        import ray
        import ray.data
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, ...
        what = f"--address {address}" if address else "Ray"
        raise UserError(f"{what}: {first_line(error)}; check that the cluster runs") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise UserError when nothing answers at HOST:PORT; Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--address {address}: use auto, or HOST:PORT as `ray start --head` prints it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: no cluster answers there ({error}); check that it runs") from error
