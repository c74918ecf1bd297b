"""Read splits.csv: which image is for training, validation or test."""

from __future__ import annotations

import csv
from collections.abc import Container, Mapping
from pathlib import Path

from common.display import display_name, first_names, printable
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


def missing_line(path: Path, splits: Mapping[str, str], image_ids: Container[str]) -> str | None:
    """Return a warning on rows of a splits file whose photos are not in the data; None where all are.

    Args:
        path: the splits file.
        splits: {image_id: split}, as read from it.
        image_ids: the data's.
    """
    lost = [image_id for image_id in splits if image_id not in image_ids]
    if not lost:
        return None
    fact = f"{len(lost)} of its {len(splits)} photos are not in the data, or refused"
    return f"warning: {display_name(path)}: {fact}: {printable(first_names(lost))}"
