"""crops.csv: one row for each face crop, and its reader and writer (no torch)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stage2_classifier.errors import ClassifierError
from stage2_classifier.files import replacing, write_text

SPLITS = ("train", "val", "test")
COLUMNS = ("path", "label", "split", "image_id", "x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class CropRecord:
    """One face crop.

    path: of the crop image, relative to the folder of crops.csv, with forward slashes.
    box: the face in pixels of its photo, xyxy, 0-based, right and bottom edge exclusive.

    Raises ClassifierError on an unknown split, an empty label or an empty box.
    """

    path: str
    label: str
    split: str
    image_id: str
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ClassifierError(f"crop {self.path}: split {self.split!r} is none of {', '.join(SPLITS)}")
        if not self.label:
            raise ClassifierError(f"crop {self.path}: the label is empty")
        x1, y1, x2, y2 = self.box
        if not (x2 > x1 and y2 > y1):
            raise ClassifierError(f"crop {self.path}: box {self.box} is empty or not a number")


@dataclass(frozen=True)
class CropSet:
    """A folder of crops: its records, the classes in their fixed order, and the margin they were cut with."""

    root: Path
    records: tuple[CropRecord, ...]
    class_names: tuple[str, ...]
    margin: float

    def split(self, name: str) -> tuple[CropRecord, ...]:
        """The records of one split; raises ClassifierError when there are none."""
        records = tuple(record for record in self.records if record.split == name)
        if not records:
            raise ClassifierError(f"{self.root / 'crops.csv'}: no crops in split {name!r}; make the split anew")
        return records


def write_crop_set(crops: CropSet) -> None:
    """Writes crops.json (class order, margin) and crops.csv into the set's folder, each in one step.

    An older crops.csv goes first, so that a killed run never leaves it beside another set's margin.
    """
    (crops.root / "crops.csv").unlink(missing_ok=True)
    meta = {"class_names": list(crops.class_names), "margin": crops.margin}
    write_text(crops.root / "crops.json", json.dumps(meta, indent=2) + "\n")
    with replacing(crops.root / "crops.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(COLUMNS)
        for r in crops.records:
            writer.writerow((r.path, r.label, r.split, r.image_id, *(f"{v:.17g}" for v in r.box)))  # exact


def read_crop_set(root: Path | str) -> CropSet:
    """Reads the folder that `pipeline.build_crops` made.

    Raises ClassifierError, naming the file and what to run, when it is missing or malformed.
    """
    root = Path(root)
    table, meta_file = root / "crops.csv", root / "crops.json"
    for file in (table, meta_file):
        if not file.is_file():
            raise ClassifierError(f"{file}: not found; make it with `python -m pipeline.build_crops --out {root}`")
    try:
        meta = json.loads(meta_file.read_text(encoding="utf-8"))
        class_names = tuple(str(name) for name in meta["class_names"])
        margin = float(meta["margin"])
    except (ValueError, KeyError, TypeError) as error:
        raise ClassifierError(f"{meta_file}: malformed ({error}); build the crops anew") from error
    try:
        with table.open(newline="", encoding="utf-8") as f:
            reader = csv.DictReader(f)
            if reader.fieldnames is None or set(COLUMNS) - set(reader.fieldnames):
                raise ClassifierError(f"{table}: needs the columns {', '.join(COLUMNS)}; build the crops anew")
            records = tuple(_records(reader, table))
    except (ValueError, csv.Error) as error:
        raise ClassifierError(f"{table}: is no CSV text ({error}); build the crops anew") from error
    unknown = sorted({r.label for r in records} - set(class_names))
    if unknown:
        raise ClassifierError(f"{table}: labels {unknown} are not among the classes of {meta_file}")
    return CropSet(root, records, class_names, margin)


def _records(rows: Iterable[dict[str, str]], table: Path) -> Iterable[CropRecord]:
    for line, row in enumerate(rows, start=2):
        try:
            box = (float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"]))
        except (TypeError, ValueError) as error:
            raise ClassifierError(f"{table}, line {line}: a box edge is not a number") from error
        yield CropRecord(row["path"], row["label"], row["split"], row["image_id"], box)
