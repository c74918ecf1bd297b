"""The options of looking for doubtful labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.annotations import ReadingArgs
from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SuspectArgs(ReadingArgs):
    """Options of looking for doubtful labels; the command inherits them."""

    suspects: bool = False
    """List faces whose label the models of --bundle or --crossval contradict (docs/label_noise.md)."""
    bundle: tuple[Path, ...] = ()
    """Bundles for --suspects; they must not have learned from this dataset."""
    crossval: Path | None = None
    """Folder of pipeline.crossval on this dataset: each photo is scored by the fold that did not learn from it."""
    suspect_labels: tuple[str, ...] = ()
    """Labelled classes to doubt; all when not given. Leave out a class whose contact sheets show right labels."""
    suspects_out: Path = Path("suspects")
    """Folder for suspects.csv and the contact sheets of --suspects."""
    suspect_boxes: bool = False
    """Also find boxes of a part of a face with the first bundle's detector, which takes most of the time."""

    def check_suspects(self) -> None:
        """Raise UserError when the options do not fit together."""
        models = bool(self.bundle) + (self.crossval is not None)
        if self.suspects and models != 1:
            fix = "--bundle with a bundle that did not learn from this dataset, or --crossval with its folds"
            raise UserError(f"--suspects: needs {fix}" if models == 0 else f"--suspects: give one, {fix}")
        if not self.suspects and (models or self.suspect_boxes or self.suspect_labels):
            raise UserError("--bundle, --crossval, --suspect-boxes and --suspect-labels need --suspects; add it")
