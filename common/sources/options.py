"""The options of commands that learn from several datasets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.annotations.options import ReadingArgs
from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SourcesArgs(ReadingArgs):
    """Options of reading several datasets; commands inherit them."""

    data: tuple[Path, ...]
    """Annotated photos: a folder in one of the formats of docs/datasets.md. Further folders are only learned from."""
    sources: Path | None = None
    """YAML file that says what may be learned from each folder (docs/sources.md); without it, everything."""

    def __post_init__(self) -> None:
        if not self.data:
            raise UserError("--data: name at least one folder")

    @property
    def main_data(self) -> Path:
        """Return the main dataset's folder: it alone is split, validated and tested."""
        return self.data[0]

    def source_flags(self) -> list[str]:
        """Return how the datasets are read, as arguments of a command that takes several."""
        flags = self.reading_flags()
        return flags if self.sources is None else [*flags, "--sources", str(self.sources)]
