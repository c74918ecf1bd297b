"""A whole batch: listing, workers and results joined, and what it came to."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from common.errors import MediaError
from pipeline.batch.chunk import Chunk
from pipeline.batch.results import BatchResults
from pipeline.batch.scan import ScanConfig, find_chunks
from pipeline.batch.work import ChunkResult

_FEW = 5  # errors kept to be named
Engine = Callable[[Iterable[Chunk]], Iterator[ChunkResult]]


@dataclass
class BatchStats:
    """Counts of a run. before: photos answered in runs before. photos: those answered now, faces: theirs, by label.

    errors: how many, first: (file, what) of the first few. began, ended: of the first and last photo, Unix time by the
    workers' clocks. cpu_seconds: of the workers. megabytes: the most that a worker held.
    """

    before: int = 0
    photos: int = 0
    faces: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    first: list[tuple[str, str]] = field(default_factory=list)
    began: float = math.inf
    ended: float = -math.inf
    cpu_seconds: float = 0.0
    megabytes: float = 0.0

    @property
    def seconds(self) -> float:
        """From the first photo's beginning to the last one's end; starting is not counted."""
        return max(self.ended - self.began, 0.0)

    @property
    def rate(self) -> float:
        """Photos a second, failed ones not counted."""
        return self.photos / self.seconds if self.seconds else 0.0


def run_batch(
    wanted: ScanConfig, results: BatchResults, engine: Engine, tell: Callable[[BatchStats], None] = lambda tally: None
) -> BatchStats:
    """Does every photo wanted that has no answer yet. tell: is called after each chunk.

    Each photo's answer is in one part, whatever is killed and however often it is begun again. Raises what `Results`
    and the engine raise.
    """
    tally = BatchStats()
    problems: deque[MediaError] = deque()  # the engine may list in a thread of its own
    with results.opened() as (answered, errors):
        tally.before = len(answered)

        def fail(file: str, what: str) -> None:
            errors.add(file, what)
            tally.errors += 1
            if len(tally.first) < _FEW:
                tally.first.append((file, what))

        for outcome in engine(find_chunks(wanted, answered, problems.append)):
            if outcome.part:
                results.add(outcome.key, outcome.part)
            for file, what in outcome.errors:
                fail(file, what)
            tally.photos += outcome.photos
            tally.faces += outcome.faces
            tally.began, tally.ended = min(tally.began, outcome.began), max(tally.ended, outcome.ended)
            tally.cpu_seconds += outcome.cpu_seconds
            tally.megabytes = max(tally.megabytes, outcome.megabytes)
            tell(tally)
        for problem in problems:
            fail(problem.file, problem.what)
    return tally
