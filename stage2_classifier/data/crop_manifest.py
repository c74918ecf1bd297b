"""crops.csv: one row for each face crop; rejects.csv: for each false alarm of stage 1. Reader and writer (no torch)."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import replaced_text, write_text

SPLITS = ("train", "val", "test")
BACKGROUND = "not_a_face"  # the label of what stage 1 took for a face and is none
LANDMARKS = "landmarks"  # a column that older tables lack
COLUMNS = ("path", "label", "split", "image_id", "x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class CropRecord:
    """One face crop.

    path: of the crop image, relative to the folder of crops.csv, with forward slashes.
    box: the face in pixels of its photo, xyxy, 0-based, right and bottom edge exclusive. landmarks: x and y of five
    points (eyes, nose, mouth's corners) in pixels of its photo, one after the other; empty where they are not known.

    Raises UserError on an unknown split, an empty label or an empty box.
    """

    path: str
    label: str
    split: str
    image_id: str
    box: tuple[float, float, float, float]
    landmarks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UserError(f"crop {self.path}: split {self.split!r} is none of {', '.join(SPLITS)}")
        if not self.label:
            raise UserError(f"crop {self.path}: the label is empty")
        x1, y1, x2, y2 = self.box
        if not (x2 > x1 and y2 > y1):
            raise UserError(f"crop {self.path}: box {self.box} is empty or not a number")
        if len(self.landmarks) not in (0, 10) or not all(math.isfinite(v) for v in self.landmarks):
            raise UserError(f"crop {self.path}: landmarks must be ten numbers or none")


@dataclass(frozen=True)
class CropSet:
    """A folder of crops: its records, the classes in their fixed order, and the margin they were cut with.

    rejects: crops of what stage 1 took for faces and are none, all with the label REJECT; they belong to no class.
    """

    root: Path
    records: tuple[CropRecord, ...]
    class_names: tuple[str, ...]
    margin: float
    hard_negatives: tuple[CropRecord, ...] = ()

    def split(self, name: str) -> tuple[CropRecord, ...]:
        """The records of one split; raises UserError when there are none."""
        records = tuple(record for record in self.records if record.split == name)
        if not records:
            raise UserError(f"{self.root / 'crops.csv'}: no crops in split {name!r}; make the split anew")
        return records


def write_crop_set(crops: CropSet) -> None:
    """Writes crops.json (class order, margin), rejects.csv if there are any and crops.csv, each in one step.

    Older tables go first, so that a killed run never leaves them beside another set's margin.
    """
    for table in ("crops.csv", "rejects.csv"):
        (crops.root / table).unlink(missing_ok=True)
    meta = {"class_names": list(crops.class_names), "margin": crops.margin}
    write_text(crops.root / "crops.json", json.dumps(meta, indent=2) + "\n")
    if crops.hard_negatives:
        _write_table(crops.root / "rejects.csv", crops.hard_negatives)
    _write_table(crops.root / "crops.csv", crops.records)


def _write_table(table: Path, records: Iterable[CropRecord]) -> None:
    with replaced_text(table, newline="") as f:
        writer = csv.writer(f)
        writer.writerow((*COLUMNS, LANDMARKS))
        for r in records:
            box = (f"{v:.17g}" for v in r.box)  # exact
            writer.writerow((r.path, r.label, r.split, r.image_id, *box, " ".join(f"{v:.2f}" for v in r.landmarks)))


def read_crop_set(root: Path | str) -> CropSet:
    """Reads the folder that `pipeline.build_crops` made.

    Raises UserError, naming the file and what to run, when it is missing or malformed.
    """
    root = Path(root)
    table, meta_file = root / "crops.csv", root / "crops.json"
    for file in (table, meta_file):
        if not file.is_file():
            raise UserError(f"{file}: not found; make it with `python -m pipeline.build_crops --out {root}`")
    try:
        meta = json.loads(meta_file.read_text(encoding="utf-8"))
        class_names = tuple(str(name) for name in meta["class_names"])
        margin = float(meta["margin"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{meta_file}: malformed ({error}); build the crops anew") from error
    records = _read_table(table)
    unknown = sorted({r.label for r in records} - set(class_names))
    if unknown:
        what = f"labels {unknown} are not among the classes of {meta_file}"
        raise UserError(f"{table}: {what}; build the crops anew")
    beside = root / "rejects.csv"
    rejects = _read_table(beside) if beside.is_file() else ()
    if any(r.label != BACKGROUND for r in rejects):
        raise UserError(f"{beside}: holds another label than {BACKGROUND}; build the crops anew")
    return CropSet(root, records, class_names, margin, rejects)


def _read_table(table: Path) -> tuple[CropRecord, ...]:
    try:
        with table.open(newline="", encoding="utf-8") as f:
            reader = csv.DictReader(f)
            if reader.fieldnames is None or set(COLUMNS) - set(reader.fieldnames):
                raise UserError(f"{table}: needs the columns {', '.join(COLUMNS)}; build the crops anew")
            return tuple(_records(reader, table))
    except (ValueError, csv.Error) as error:
        raise UserError(f"{table}: is no CSV text ({error}); build the crops anew") from error


def _records(rows: csv.DictReader[str], table: Path) -> Iterable[CropRecord]:
    for row in rows:
        try:
            box = (float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"]))
            landmarks = tuple(float(v) for v in (row.get(LANDMARKS) or "").split())
        except (TypeError, ValueError) as error:
            what = "a box edge or landmark is not a number"
            raise UserError(f"{table}, line {rows.line_num}: {what}; build the crops anew") from error
        try:
            record = CropRecord(row["path"], row["label"], row["split"], row["image_id"], box, landmarks)
        except UserError as error:
            raise UserError(f"{table}, line {rows.line_num}: {error}; build the crops anew") from error
        yield record
