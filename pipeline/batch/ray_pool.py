"""Chunks on a Ray cluster, or on this machine as one: an actor pool of Ray Data, a worker process in each actor."""

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
from common.errors import UserError, first_line
from pipeline.batch.chunk import Chunk
from pipeline.batch.work import ChunkResult, Job, peak_megabytes
from pipeline.batch.worker import Worker

# Ray Data takes a list, not a stream: so many chunks at a time, an actor pool for each time.
_WINDOW = 1000
# An actor waits for its process, which does the work; half a core each leaves some for Ray's own tasks, without which
# none would start.
_CORES = 0.5
_ANSWER = 10  # s that a cluster has to answer


class Actor:
    """A worker process of its own: what kills that does not kill the actor, and is told as in the pool.

    When the actor itself is killed, its process ends with it; Ray starts another and gives it the chunk again.
    """

    def __init__(self, job: Job) -> None:
        self._worker = Worker(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """row: a chunk, pickled. Gives its outcome, pickled, or why the worker did not start."""
        try:
            outcome = self._worker.do(pickle.loads(row["chunk"]))
        except UserError as error:
            return {"outcome": b"", "refused": str(error)}
        outcome = replace(outcome, megabytes=outcome.megabytes + peak_megabytes())
        return {"outcome": pickle.dumps(outcome), "refused": ""}


def run_ray(
    job: Job, chunks: Iterable[Chunk], workers: int | None, address: str | None
) -> Generator[ChunkResult, None, None]:
    """The outcome of each chunk, as they come. workers: actors; if not given, one a core of the cluster.

    Raises UserError when the cluster cannot be reached or the worker processes do not start.
    """
    source = iter(chunks)
    with _cluster(address) as ray:
        actors = workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
        while window := [{"chunk": pickle.dumps(chunk)} for chunk in islice(source, max(_WINDOW, 20 * actors))]:
            pool = ray.data.ActorPoolStrategy(size=min(actors, len(window)))
            done = ray.data.from_items(window, override_num_blocks=len(window)).map(
                Actor, fn_constructor_args=(job,), compute=pool, num_cpus=_CORES
            )
            for row in done.iter_rows():
                if row["refused"]:
                    raise UserError(row["refused"])
                yield pickle.loads(row["outcome"])


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray, on the cluster of an address or on one of this machine that lives as long as the block.

    Nothing is reported to anybody: usage statistics and the dashboard are off.
    """
    if address is not None and address != "auto":
        _knock(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with requires_extra("batch"):
        import ray
        import ray.data
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, ...
        named = f"--address {address}" if address else "Ray"
        raise UserError(f"{named}: {first_line(error)}; check that the cluster runs") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises UserError when nobody answers at HOST:PORT; Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--address {address}: give auto, or HOST:PORT as `ray start --head` prints it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: no cluster answers there ({error}); check that it runs") from error
