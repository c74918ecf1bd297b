"""Read YOLO text labels: data.yaml (Ultralytics, Roboflow), Darknet, or images/ and labels/ folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from common.annotations.class_names import clean_name
from common.annotations.collect import Collector, RawFace, Size, parse_number
from common.annotations.options import DEFAULT_READING, ReadingArgs
from common.annotations.photos import split_of_folders
from common.annotations.text import EncodingError, read_text
from common.annotations.types import Annotations
from common.annotations.yolo.config import yolo_config
from common.annotations.yolo.labels import Pairing, label_folders
from common.annotations.yolo.layout import YoloLayout, is_yolo_folder, read_layout
from common.annotations.yolo.rows import AmbiguousRowsError, LabelRow, RowForms
from common.display import counted
from common.errors import UserError


def read_yolo(root: Path | str, options: ReadingArgs = DEFAULT_READING) -> Annotations:
    """Read a folder with data.yaml or obj.data, one of these files, or a folder with images/, labels/ and classes.txt.

    What a label line means is in `RowForms`. All values except the class are divided by the upright image's width or
    height. An image without a label file has no faces, by the format's convention. It is not `complete` if its whole
    split has no label file. Nor is it where label files without an image are found near it. These are reported.

    Raises:
        UserError: there are no class names, no images, or no label files, or lines can be read in two ways.
    """
    root = Path(root)
    config = yolo_config(root) if root.exists() else None
    base = root.parent if root.is_file() else root
    if config is None and not (base.is_dir() and is_yolo_folder(base)):
        raise UserError(f"{root}: no YOLO dataset (data.yaml, or images/ and labels/ folders)")
    collector = Collector(root, options.rename)
    layout = read_layout(root, collector)
    pairing = Pairing(layout)
    pairing.match()
    reader = _LabelReader(layout, collector)
    rows = reader.read_all(pairing.labels.values())
    lost = {file: reader.count_rows(file) for file in pairing.lost}
    unlabelled = []
    for photo, split in layout.photos.items():
        if photo not in pairing.labels:
            if photo not in pairing.ambiguous:
                unlabelled.append((photo, split))
        elif (own := rows[pairing.labels[photo]]) is not None:
            reader.add(photo, pairing.labels[photo], own, split)
    if not pairing.labels:
        _add_lost(pairing, lost, collector)
        what = f"{root}: no label file for any of its {len(layout.photos)} images (labels/NAME.txt)"
        raise collector.unusable(what, "add them, or correct the paths")
    _add_unlabelled(unlabelled, layout, pairing, lost, options, collector)
    _add_lost(pairing, lost, collector)
    reader.report_unused()
    return collector.finish("YOLO")


@dataclass
class _LabelReader:
    """Reads label files: first all rows, which together tell what they mean, then the faces of each image."""

    layout: YoloLayout
    collector: Collector
    named_rows: int = 0  # rows with the name of a class instead of its number
    numbers: set[int] = field(default_factory=set)  # of classes in the rows
    forms: RowForms = field(init=False)

    def __post_init__(self) -> None:
        self.forms = RowForms(self.layout.kpt_shape)
        self._numbers = {clean_name(name): number for number, name in self.layout.names.items()}

    def read_all(self, files: Iterable[Path]) -> dict[Path, list[LabelRow] | None]:
        """Return the rows of each file, or None after a problem with the whole file.

        Raises UserError when rows can mean two things.
        """
        rows = {file: self._read(file, self.forms) for file in files}
        try:
            self.forms.settle()
        except AmbiguousRowsError as error:
            config = self.layout.config
            hint = " (write one, with `names:`)" if config is None and "data.yaml" in str(error) else ""
            raise self.collector.error(f"{error}{hint}") from error
        return rows

    def _read(self, file: Path, forms: RowForms) -> list[LabelRow] | None:
        try:
            return forms.parse(read_text(file), file)
        except OSError as error:
            what = f"cannot be read ({error.strerror}); not used, check its permissions"
            self.collector.add_problem(file, what)
        except EncodingError as error:
            self.collector.add_problem(file, f"{error}; not used")
        return None

    def count_rows(self, file: Path) -> int | None:
        """Return the number of rows of a file that is not used, or None where it cannot be read."""
        rows = self._read(file, RowForms())
        return None if rows is None else len(rows)

    def add(self, photo: Path, file: Path, rows: list[LabelRow], split: str | None) -> None:
        """Add an image and its faces; report the rows that are refused."""
        sizes = self.collector.photo_sizes(photo, len(rows))
        if sizes is None:
            return
        faces = [face for face in (self._face(file, row, sizes[1]) for row in rows) if face is not None]
        self.collector.add(photo, file, faces, None, split, complete=len(faces) == len(rows))

    def _face(self, file: Path, row: LabelRow, size: Size) -> RawFace | None:
        """Return the face of a row, its box in pixels, or None after a problem."""
        box = self.forms.box_of(row)
        label = self._class_name(row.class_text)
        if isinstance(box, str):
            fault = box
        elif label is None:
            fault = f"has the unknown class {row.class_text}"
        else:
            width, height = size
            return RawFace(row.location, label, [box[0] * width, box[1] * height, box[2] * width, box[3] * height])
        self.collector.add_problem(file, f"{row.location} {fault}; left out", objects=1)
        return None

    def _class_name(self, text: str) -> str | None:
        """Return the name of a class, which is written as its number or name; None where it is unknown."""
        number = parse_number(text)
        if number.is_integer():
            self.numbers.add(int(number))
            return self.layout.names.get(int(number))
        known = self._numbers.get(clean_name(text))
        self.named_rows += known is not None
        return None if known is None else self.layout.names[known]

    def report_unused(self) -> None:
        """Note the values that were not used."""
        for kind, count in self.forms.extras.items():
            self.collector.add_note(f"{count} rows have {kind} after the box, which are not used")
        if any("confidence" in kind for kind in self.forms.extras):
            self.collector.add_note("rows with a confidence are a model's predictions; check that they are right")
        names = self.layout.names
        if self.numbers and 0 in names and min(self.numbers) == 1 and max(self.numbers) == max(names) + 1:
            what = f"no row has class 0, and some have class {max(self.numbers)}, which has no name"
            self.collector.add_note(f"{what}: if the labels count from 1, correct the numbers of `names`")
        if self.named_rows:
            self.collector.add_note(f"{self.named_rows} rows have the name of a class instead of its number")


def _add_unlabelled(
    photos: list[tuple[Path, str | None]],
    layout: YoloLayout,
    pairing: Pairing,
    lost: dict[Path, int | None],
    options: ReadingArgs,
    collector: Collector,
) -> None:
    """Add the images without a label file, or leave them out; those that may be misnamed are not complete."""
    if not photos:
        return
    if options.unlabelled == "skip":
        collector.add_note(f"{counted(len(photos), 'photo')} without a label file: not used, as --unlabelled skip says")
        return
    empty = _report_empty_parts(photos, layout, pairing, collector)
    # An empty label file cannot be that of a face.
    orphans = {file for file, what in pairing.lost.items() if what.is_orphan and lost[file] != 0}
    folders = {file.parent for file in orphans}
    used = {place for photo in layout.photos for place in label_folders(photo.parent)} if folders else set()
    splits = {split_of_folders(_below(folder, layout.base)) for folder in folders}
    strange = {split_of_folders(_below(folder, layout.base)) for folder in folders if folder not in used}
    doubted = 0
    for photo, split in photos:
        doubt = bool(folders) and (
            not folders.isdisjoint(label_folders(photo.parent))
            or (split is not None and split in splits)
            or None in strange
            or (split is None and bool(strange))
        )
        doubted += doubt
        collector.add_unlabelled(photo, split, complete=not (doubt or split in empty))
    if doubted:
        what = f"{counted(len(folders), 'folder')} with label files of no image, such as {min(orphans)}"
        misnamed = f"{counted(doubted, 'photo')} without a label file may be misnamed, and may show faces"
        collector.add_note(f"{what}: {misnamed}")


def _below(folder: Path, base: Path) -> tuple[str, ...]:
    return folder.relative_to(base).parts if folder.is_relative_to(base) else folder.parts


def _report_empty_parts(
    photos: list[tuple[Path, str | None]], layout: YoloLayout, pairing: Pairing, collector: Collector
) -> set[str]:
    """Note the splits and folders without any label file, and return the splits: their labels may be missing."""
    labelled = {layout.photos[photo] for photo in pairing.labels}
    counts = Counter(split for _, split in photos)
    empty = {split for split in counts if split is not None and split not in labelled}
    for split in sorted(empty):
        first = next(photo for photo, own in photos if own == split)
        where = (
            f"{split}: none of its {counts[split]} photos has a label file, such as {label_folders(first.parent)[0]}"
        )
        collector.add_note(f"{where}/{first.stem}.txt; they are not taken as background")
    folders = Counter(photo.parent for photo, split in photos if split not in empty)
    folders_with_labels = {photo.parent for photo in pairing.labels}
    for folder, count in sorted(folders.items()):
        if folder not in folders_with_labels:
            collector.add_note(f"{folder}: none of its {count} photos has a label file; taken as face-free")
    return empty


def _add_lost(pairing: Pairing, lost: dict[Path, int | None], collector: Collector) -> None:
    """Report the label files that are not used."""
    for file, what in sorted(pairing.lost.items(), key=itemgetter(0)):
        collector.add_problem(file, what.reason, what.kind, lost[file] or 0)
    for folder, count in sorted(pairing.unnamed.items()):
        collector.add_note(f"{folder}: {count} label files are of photos that the dataset does not name; not used")
