"""A whole batch: the scan, the workers and the results joined, and the run's statistics."""

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

_MAX_FIRST_ERRORS = 5
Engine = Callable[[Iterable[Chunk]], Iterator[ChunkResult]]


@dataclass
class BatchStats:
    """Statistics of a run."""

    processed_before: int = 0  # photos processed in earlier runs
    photos: int = 0  # processed in this run; failed ones are not counted
    faces: Counter[str] = field(default_factory=Counter)  # number in these photos, by label
    error_count: int = 0
    notes: int = 0  # photos with a note
    skipped_videos: int = 0  # of folders and patterns
    first_errors: list[tuple[str, str]] = field(default_factory=list)  # (file, what)
    start_time: float = math.inf  # of the first photo, Unix time by the workers' clocks
    end_time: float = -math.inf  # of the last photo, likewise
    cpu_seconds: float = 0.0  # of all workers
    peak_megabytes: float = 0.0  # the most memory that any worker held

    @property
    def seconds(self) -> float:
        """Time from the first photo's start to the last photo's end, without the start of the processes."""
        return max(self.end_time - self.start_time, 0.0)

    @property
    def rate(self) -> float:
        """Photos per second, without failed ones."""
        return self.photos / self.seconds if self.seconds else 0.0

    def add_chunk(self, result: ChunkResult) -> None:
        """Add a chunk's result, all but the errors."""
        self.photos += result.photos
        self.faces += result.faces
        self.notes += result.notes
        self.start_time = min(self.start_time, result.start_time)
        self.end_time = max(self.end_time, result.end_time)
        self.cpu_seconds += result.cpu_seconds
        self.peak_megabytes = max(self.peak_megabytes, result.peak_megabytes)

    def add_error(self, file: str, what: str) -> None:
        """Count an error, and keep the first few."""
        self.error_count += 1
        if len(self.first_errors) < _MAX_FIRST_ERRORS:
            self.first_errors.append((file, what))


def run_batch(
    config: ScanConfig, results: BatchResults, engine: Engine, on_progress: Callable[[BatchStats], None]
) -> BatchStats:
    """Process every photo of the sources that was not processed before.

    Each photo's rows are in one part only, whatever is killed and however often the run is resumed. `on_progress` is
    called after each chunk. Raises what `BatchResults` and the engine raise.
    """
    stats = BatchStats()
    problems: deque[MediaError] = deque()  # the engine may scan in another thread
    videos: set[str] = set()
    with results.open() as (processed, error_file):
        stats.processed_before = len(processed)
        for result in engine(find_chunks(config, processed, problems.append, videos.add)):
            if result.part:
                results.add(result.key, result.part)
            for file, what in result.errors:
                error_file.add(file, what)
                stats.add_error(file, what)
            stats.add_chunk(result)
            on_progress(stats)
        for problem in problems:
            error_file.add(problem.file, problem.reason)
            stats.add_error(problem.file, problem.reason)
    stats.skipped_videos = len(videos)
    return stats
