"""Reads splits.csv: which image is for training, validation or test."""

from __future__ import annotations

import csv
from pathlib import Path

from common.errors import UserError

SPLITS = ("train", "val", "test")


def read_splits(path: Path | str) -> dict[str, str]:
    """{image_id: split}. Raises UserError, naming the file and the mend, when it is missing or malformed."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: not found; make it with `python -m pipeline.split --data DIR --out {path}`")
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:  # spreadsheets write the mark
            return _splits(csv.DictReader(f), path)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: is no CSV text ({error}); make it anew with pipeline.split") from error


def _splits(reader: csv.DictReader[str], path: Path) -> dict[str, str]:
    if reader.fieldnames is None or {"image_id", "split"} - set(reader.fieldnames):
        raise UserError(f"{path}: needs the columns image_id and split; make it anew with pipeline.split")
    splits: dict[str, str] = {}
    for line, row in enumerate(reader, start=2):
        image_id, split = row["image_id"], row["split"]
        if split not in SPLITS:
            raise UserError(f"{path}, line {line}: split {split!r} is none of {', '.join(SPLITS)}; correct it")
        if image_id in splits:
            raise UserError(f"{path}, line {line}: image {image_id!r} stands twice; remove one line")
        splits[image_id] = split
    return splits
