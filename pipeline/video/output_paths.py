"""Names the output files of each video, never over an input or another output of the run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common.paths import compared_names, is_address
from pipeline.video.camera import LiveStream, Source
from pipeline.video.options import VideoConfig


@dataclass(frozen=True)
class OutputPaths:
    """Output files of one video."""

    video: Path | None  # the annotated video; None where no video is written
    lines: Path  # one JSON object per frame and line
    events: Path  # CSV or JSON lines

    def names(self) -> set[str]:
        """Return the names by which the files are compared: of links and their targets; many systems ignore case."""
        return {name for file in self._files() for name in compared_names(file)}

    def are_distinct(self) -> bool:
        """Return whether no two of the files are the same; --events may name what would be the lines' file."""
        return len({os.path.realpath(file).casefold() for file in self._files()}) == len(self._files())

    def _files(self) -> list[Path]:
        return [file for file in (self.video, self.lines, self.events) if file is not None]


class OutputNamer:
    """Names the outputs of each video after the video; a name in use gets a number."""

    def __init__(self, config: VideoConfig) -> None:
        self._config = config
        files = [*(path for path in config.paths if not is_address(path)), *config.other_outputs]
        self._used = {name for path in files for name in compared_names(path)}

    def paths_for(self, source: Source, path: str) -> OutputPaths:
        """Return the output files of `source`, which was opened from `path`."""
        is_file = not is_address(path) and not isinstance(source, LiveStream)
        stem = self._config.stems.get(path, Path(path).stem) if is_file else _stem(source)
        if isinstance(source, LiveStream):  # a camera that is started again keeps the earlier results
            stem += datetime.now().strftime("-%Y%m%d-%H%M%S")
        base, number = stem, 2
        while self._used & (paths := self._paths(base)).names() or not paths.are_distinct():
            base, number = f"{stem}-{number}", number + 1
        self._used |= paths.names()
        return paths

    def _paths(self, base: str) -> OutputPaths:
        config, out, events = self._config, self._config.out, self._config.options.events
        video = out / f"{base}.mp4" if config.pictures else None
        return OutputPaths(video, config.json or out / f"{base}.jsonl", events or out / f"{base}.events.csv")


def _stem(source: Source) -> str:
    """Return a file name for a camera or address: letters, digits and dots, without a video's suffix."""
    name = source.name.split("://")[-1]
    name = name if isinstance(source, LiveStream) else name.removesuffix(Path(name).suffix)
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in name).strip("-.")[:80] or "stream"
