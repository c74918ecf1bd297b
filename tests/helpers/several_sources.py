"""Drawn data of several sources: a main one, one with other edges, one that does not box every face, one without."""

from __future__ import annotations

from pathlib import Path

import cv2

from common.sources import SourcesArgs
from tests.helpers.drawn_photos import draw, write_dataset

TRUST = """\
main: {}
other: {edges: offset, classes: [without_mask], share: 0.4}
partial: {edges: none, background: false}
empty: {face_free: true}
"""


def write_sources(root: Path) -> tuple[SourcesArgs, Path]:
    """Write the data, sources.yaml and splits.csv; return the arguments that read them, and splits.csv."""
    write_dataset(root / "main", ("train", "train", "val", "test"))
    write_dataset(root / "other", ("train", "train"))
    write_dataset(root / "partial", ("train",))
    (root / "empty").mkdir(exist_ok=True)
    for k in range(2):
        cv2.imwrite(str(root / "empty" / f"e{k}.png"), draw((120, 90), [], seed=9 + k)[..., ::-1])
    (root / "sources.yaml").write_text(TRUST)
    rows = ["p0,train", "p1,train", "p2,val", "p3,test", "other/p0,train", "other/p1,train", "partial/p0,train"]
    rows += ["empty/e0,train", "empty/e1,train"]
    (root / "splits.csv").write_text("\n".join(["image_id,split", *rows, ""]))
    folders = tuple(root / name for name in ("main", "other", "partial", "empty"))
    return SourcesArgs(data=folders, sources=root / "sources.yaml"), root / "splits.csv"


def data_flags(args: SourcesArgs) -> list[str]:
    """Return the datasets and how they are read, as arguments of a command."""
    return ["--data", *map(str, args.data), *args.source_flags()]
