"""Further sources in a split of the main one: their photos are for training, unless a held-out photo shows the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.annotations import Annotations, Problem
from common.display import counted
from pipeline.data.duplicates import near_duplicate_groups
from pipeline.data.splitting import SplitRow


@dataclass(frozen=True)
class FurtherRows:
    """The rows of further sources in one split."""

    rows: tuple[SplitRow, ...]
    left_out: Mapping[str, int]  # {source: number of photos that show the same as a val or test photo}
    # {source without faces: number of photos that are not learned from, for the false alarms of a fold}
    held_out: Mapping[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return one line for the user per source."""
        used = Counter(row.image_id.partition("/")[0] for row in self.rows)
        lines = []
        for name in sorted({*used, *self.left_out, *self.held_out}):
            line = f"{name}: {counted(used[name], 'photo')} for training"
            if count := self.left_out.get(name, 0):
                line += f"; {counted(count, 'photo')} left out, because a val or test photo shows the same"
            if count := self.held_out.get(name, 0):
                line += f"; {counted(count, 'photo')} held out, to count false alarms"
            lines.append(line)
        return lines


@dataclass(frozen=True)
class FurtherSources:
    """The photos of further sources that can be read, and which photos of all sources show the same."""

    photos: Mapping[str, str]  # {image id: source}
    scenes: Mapping[str, int]  # {image id: a number that near-duplicates of all sources share}; of readable photos
    twins: Mapping[str, str]  # as Annotations.twins
    face_free: frozenset[str] = frozenset()  # names of the sources without faces
    unreadable: tuple[Problem, ...] = ()  # photos of further sources that cannot be read, and are in no split

    @classmethod
    def find(
        cls, annotations: Annotations, workers: int = 2, compared: Mapping[Path, int] | None = None
    ) -> FurtherSources:
        """Find which photos of all sources show the same.

        Args:
            annotations: of all sources.
            workers: number of processes that compare photos.
            compared: `scenes_of_files` of these sources and more, which were compared before.

        Raises:
            UserError: imagehash is not installed.
        """
        images = annotations.images
        main = annotations.sources[0].name if annotations.sources else ""
        if all(image.source == main for image in images):
            return cls({}, {}, {})
        problems: list[Problem] = []
        if compared is None:
            found = near_duplicate_groups([image.path for image in images], workers)
            unreadable = {i for i, _ in found.unreadable}
            problems = [
                Problem(images[i].path, f"{w}; not used") for i, w in found.unreadable if images[i].source != main
            ]
            compared = {im.path: found.groups[i] for i, im in enumerate(images) if i not in unreadable}
        scenes = {image.image_id: compared[image.path] for image in images if image.path in compared}
        further = {im.image_id: im.source for im in images if im.source != main and im.path in compared}
        face_free = frozenset(source.name for source in annotations.sources if source.face_free)
        return cls(further, scenes, annotations.twins, face_free, tuple(problems))

    def scenes_of_files(self, annotations: Annotations) -> dict[Path, int]:
        """Return the scene of each file, for a later `find` on some of the sources, where image ids may differ."""
        return {im.path: self.scenes[im.image_id] for im in annotations.images if im.image_id in self.scenes}

    def rows(self, main_rows: Sequence[SplitRow], fold: int = 0, folds: int | None = None) -> FurtherRows:
        """Return the rows of the further photos in a split of the main source.

        A photo is left out when its twin, or a photo of its scene, is for validation or test, or is left out itself. A
        twin has the group of its photo in the main source; other photos have groups of their own scenes.

        Args:
            main_rows: the split of the main source.
            fold: number of the split, from 0.
            folds: number of splits; each holds out its part of the photos of sources without faces. None: no fold.
        """
        empty = {self.scenes[image_id] for image_id, source in self.photos.items() if source in self.face_free}
        held_empty = set(sorted(empty)[fold::folds]) if folds else set()
        held = {row.image_id for row in main_rows if row.split != "train"}
        # At another size or crop, a twin's scene may differ from that of its photo in the main source.
        shown = held | {image_id for image_id, twin in self.twins.items() if twin in held}
        held_scenes = {self.scenes[image_id] for image_id in shown if image_id in self.scenes}
        groups = {row.image_id: row.group for row in main_rows}
        first = max(groups.values(), default=-1) + 1
        rows: list[SplitRow] = []
        left_out: Counter[str] = Counter()
        held_out: Counter[str] = Counter()
        for image_id, source in self.photos.items():
            twin = self.twins.get(image_id)
            if source in self.face_free and self.scenes[image_id] in held_empty:
                held_out[source] += 1
            elif twin in held or self.scenes[image_id] in held_scenes | held_empty:
                left_out[source] += 1
            else:
                group = groups[twin] if twin in groups else first + self.scenes[image_id]
                rows.append(SplitRow(image_id, "train", group))
        return FurtherRows(tuple(rows), left_out, held_out)
