"""Read splits.csv: which image is for training, validation or test."""

from __future__ import annotations

import csv
from pathlib import Path

from common.errors import UserError

SPLITS = ("train", "val", "test")


def read_splits(path: Path | str) -> dict[str, str]:
    """Return {image_id: split}; raise UserError when the file is missing or malformed."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: not found; make it with `python -m pipeline.split --data DIR --out {path}`")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            reader = csv.DictReader(file)
            if reader.fieldnames is None or {"image_id", "split"} - set(reader.fieldnames):
                raise UserError(f"{path}: needs the columns image_id and split; make it again with pipeline.split")
            splits: dict[str, str] = {}
            for row in reader:
                line, image_id, split = reader.line_num, row["image_id"], row["split"]
                if not image_id:
                    raise UserError(f"{path}, line {line}: has no image_id; correct it")
                if split not in SPLITS:
                    raise UserError(f"{path}, line {line}: split {split!r} is not in {', '.join(SPLITS)}; correct it")
                if image_id in splits:
                    raise UserError(f"{path}, line {line}: image {image_id!r} is listed twice; remove one line")
                splits[image_id] = split
            return splits
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: is not CSV text ({error}); make it again with pipeline.split") from error
