"""The crop manifest, read and written without torch: crops.csv lists faces, rejects.csv hard negatives."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.annotations.source import EdgeTrust
from common.errors import UserError
from common.files import atomic_text, write_text
from common.splits import SPLITS

BACKGROUND = "not_a_face"  # the label of hard negatives: stage 1's false alarms
LANDMARKS, SOURCE, CLASS_KNOWN = "landmarks", "source", "class_known"  # columns that older tables lack
COLUMNS = ("path", "label", "split", "image_id", "x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class CropRecord:
    """One crop: a row of the manifest.

    Raises:
        UserError: the split is unknown, the label or the box is empty, or the landmarks are not ten numbers.
    """

    path: str  # crop image, relative to the folder of crops.csv, with forward slashes
    label: str  # class, or BACKGROUND
    split: str  # one of SPLITS
    image_id: str  # the photo that the crop is from
    box: tuple[float, float, float, float]  # the face in pixels of the photo: xyxy, 0-based, exclusive ends
    landmarks: tuple[float, ...] = ()  # x, y of eyes, nose and mouth corners (5) in pixels of the photo, or empty
    source: str = ""  # the dataset that the photo is from (`CropSet.sources`); empty where there is only one
    class_known: bool = True  # False: a face whose class is not learned

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UserError(f"crop {self.path}: split {self.split!r} is unknown; use {', '.join(SPLITS)}")
        if not self.label:
            raise UserError(f"crop {self.path}: the label is empty")
        x1, y1, x2, y2 = self.box
        if not (x2 > x1 and y2 > y1):
            raise UserError(f"crop {self.path}: box {self.box} is empty or not a number")
        if len(self.landmarks) not in (0, 10) or not all(math.isfinite(v) for v in self.landmarks):
            raise UserError(f"crop {self.path}: landmarks must be ten numbers or empty")


@dataclass(frozen=True)
class CropSource:
    """One of the datasets that crops are from, and how they are learned (common.annotations.source.Source)."""

    name: str
    edges: EdgeTrust = "same"  # how box edges are learned
    share: float | None = None  # share of the draws; None: as many as its faces
    absent_classes: tuple[str, ...] = ()  # classes that its annotators did not use

    def facts(self) -> dict[str, object]:
        """Return the fields for records; without `absent_classes` where there are none."""
        return {name: value for name, value in asdict(self).items() if value != ()}


@dataclass(frozen=True)
class CropSet:
    """A folder of crops."""

    root: Path  # the folder of crops.csv
    records: tuple[CropRecord, ...]  # the faces
    class_names: tuple[str, ...]  # the classes in their fixed order
    margin: float  # context of the crops on each side, as a share of a box's longer side
    hard_negatives: tuple[CropRecord, ...] = ()  # false alarms of stage 1, labelled BACKGROUND, outside the classes
    sources: tuple[CropSource, ...] = ()  # the main dataset first; empty where there is only one

    @property
    def offset_sources(self) -> tuple[str, ...]:
        """Return the sources whose box edges are learned through an offset of their own; never the main one."""
        return tuple(source.name for source in self.sources[1:] if source.edges == "offset")

    def split(self, name: str) -> tuple[CropRecord, ...]:
        """Return the faces of one split; raise UserError when there are none."""
        records = tuple(record for record in self.records if record.split == name)
        if not records:
            raise UserError(f"{self.root / 'crops.csv'}: no crops in split {name!r}; make the split again")
        return records


def write_crop_set(crops: CropSet) -> None:
    """Write crops.json (class order, margin), rejects.csv (only with hard negatives) and crops.csv, each atomically.

    Older tables are removed first, so that a killed run never leaves them with another set's margin.
    """
    for table in ("crops.csv", "rejects.csv"):
        (crops.root / table).unlink(missing_ok=True)
    meta: dict[str, object] = {"class_names": list(crops.class_names), "margin": crops.margin}
    if crops.sources:
        meta["sources"] = [source.facts() for source in crops.sources]
    write_text(crops.root / "crops.json", json.dumps(meta, indent=2) + "\n")
    if crops.hard_negatives:
        _write_table(crops.root / "rejects.csv", crops.hard_negatives, bool(crops.sources))
    _write_table(crops.root / "crops.csv", crops.records, bool(crops.sources))


def _write_table(table: Path, records: Iterable[CropRecord], with_sources: bool) -> None:
    """Write one table of the manifest, with the columns about sources if there are several."""
    with atomic_text(table, newline="") as f:
        writer = csv.writer(f)
        writer.writerow((*COLUMNS, LANDMARKS, *((SOURCE, CLASS_KNOWN) if with_sources else ())))
        for r in records:
            box = (f"{v:.17g}" for v in r.box)  # exact
            points = " ".join(f"{v:.2f}" for v in r.landmarks)
            more = (r.source, int(r.class_known)) if with_sources else ()
            writer.writerow((r.path, r.label, r.split, r.image_id, *box, points, *more))


def read_crop_set(root: Path | str) -> CropSet:
    """Read a folder that `pipeline.build_crops` made.

    Raises:
        UserError: a file is missing or malformed; the message names it and the command to run.
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
        sources = tuple(_read_source(source) for source in meta.get("sources", ()))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{meta_file}: malformed ({error}); build the crops again") from error
    records = _read_table(table)
    if unknown := sorted({r.label for r in records} - set(class_names)):
        raise UserError(f"{table}: labels {unknown} are not among the classes of {meta_file}; build the crops again")
    negatives_table = root / "rejects.csv"
    hard_negatives = _read_table(negatives_table) if negatives_table.is_file() else ()
    if any(r.label != BACKGROUND for r in hard_negatives):
        raise UserError(f"{negatives_table}: holds another label than {BACKGROUND}; build the crops again")
    return CropSet(root, records, class_names, margin, hard_negatives, sources)


def _read_source(source: Mapping[str, Any]) -> CropSource:
    """Return a source of crops.json; raise TypeError when it has another field."""
    return CropSource(**{**source, "absent_classes": tuple(source.get("absent_classes", ()))})


def _read_table(table: Path) -> tuple[CropRecord, ...]:
    """Read one table of the manifest; raise UserError with the line when it is malformed."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as f:  # spreadsheets write a byte order mark
            reader = csv.DictReader(f)
            if reader.fieldnames is None or set(COLUMNS) - set(reader.fieldnames):
                raise UserError(f"{table}: needs the columns {', '.join(COLUMNS)}; build the crops again")
            return tuple(_records(reader, table))
    except (ValueError, csv.Error) as error:
        raise UserError(f"{table}: not CSV text ({error}); build the crops again") from error


def _records(rows: csv.DictReader[str], table: Path) -> Iterable[CropRecord]:
    for row in rows:
        try:
            box = (float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"]))
            landmarks = tuple(float(v) for v in (row.get(LANDMARKS) or "").split())
            place = (row["path"], row["label"], row["split"], row["image_id"])
            record = CropRecord(*place, box, landmarks, row.get(SOURCE) or "", row.get(CLASS_KNOWN) != "0")
        except (UserError, TypeError, ValueError) as error:
            what = error if isinstance(error, UserError) else "a box edge or landmark is not a number"
            raise UserError(f"{table}, line {rows.line_num}: {what}; build the crops again") from error
        yield record
