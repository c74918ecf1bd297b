"""Recognise exports of annotation tools that are not read, and say what to export."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from common.annotations.collect import MAX_NORMALISED, parse_number
from common.annotations.photos import SPLIT_FOLDERS, files_in, photos_in
from common.display import display_name
from common.errors import UserError
from common.paths import IMAGE_SUFFIXES

HEAD_BYTES = 4096  # read of a file
MAX_FILES = 8  # of a suffix, which are opened
MAX_IN_FOLDER = 3  # of them in one folder: tables of classes may come before the boxes
MAX_NAMED = 3  # archives and class folders in a message
NO_TEXT = (".parquet", ".tfrecord", ".tfrecords")  # recognised by name only
SUFFIXES = (".json", ".csv", ".txt", ".xml", ".jsonl", ".ndjson", ".manifest", *NO_TEXT)
_VOC_OR_COCO = "export as Pascal VOC or COCO, with the images"
_ROBOFLOW = 'export as "Pascal VOC" or "COCO"'
_CONVERT = "convert it to Pascal VOC or COCO"
_CORNERS = ({"xmin", "ymin", "xmax", "ymax"}, {"x1", "y1", "x2", "y2"})  # columns of a CSV
_PHOTO = r"[^,\r\n]*\.(?:jpe?g|png|bmp|webp)"


class Head(NamedTuple):
    """The start of a file."""

    name: str  # in lower case
    suffix: str  # in lower case
    text: str
    rows: list[list[str]]  # the cells of a CSV, or the words of other lines; the last line may be cut off


class Signature(NamedTuple):
    """A format that is not read."""

    name: str
    fits: Callable[[Head], bool]  # whether a file has the format
    advice: str


def _json(*patterns: str) -> Callable[[Head], bool]:
    """Return the test for a .json file in which all patterns are found."""
    return lambda head: head.suffix == ".json" and all(re.search(pattern, head.text) for pattern in patterns)


def _named(pattern: str, text: str = "") -> Callable[[Head], bool]:
    """Return the test for a file of a name, in which a pattern is found."""
    return lambda head: re.fullmatch(pattern, head.name) is not None and re.search(text, head.text, re.M) is not None


def _columns(head: Head) -> set[str]:
    """Return the names in the first line of a CSV file, in lower case."""
    return {cell.strip().lower() for cell in head.rows[0]} if head.suffix == ".csv" and head.rows else set()


def _are_numbers(cells: Sequence[str]) -> bool:
    return all(parse_number(cell) == parse_number(cell) for cell in cells)


def _has_corner_columns(head: Head) -> bool:
    columns = _columns(head)
    return any(names <= columns for names in _CORNERS)


def _has_retinanet_rows(head: Head) -> bool:
    """Return whether a CSV has rows of a photo's name, x1, y1, x2, y2 and a class."""
    return head.suffix == ".csv" and any(
        len(row) == 6
        and re.fullmatch(_PHOTO, row[0].strip(), re.I) is not None
        and _are_numbers(row[1:5])
        and not _are_numbers(row[5:])
        for row in head.rows
    )


def _is_makesense(head: Head) -> bool:
    """Return whether a CSV has rows of a class, x, y, width, height, a photo's name, and the photo's size."""
    return {"label_name", "bbox_x"} <= _columns(head) or (
        head.suffix == ".csv"
        and any(
            len(row) == 8
            and re.fullmatch(_PHOTO, row[5].strip(), re.I) is not None
            and _are_numbers((*row[1:5], *row[6:]))
            for row in head.rows
        )
    )


def _is_dota(row: list[str]) -> bool:
    """Return whether a line is four corners, a class, and often a difficulty."""
    return len(row) in (9, 10) and _are_numbers(row[:8]) and not _are_numbers(row[8:9]) and _are_numbers(row[9:])


def _is_kitti(row: list[str]) -> bool:
    """Return whether a line is a class and the 14 or 15 values of KITTI, whose box is in pixels."""
    if len(row) not in (15, 16) or _are_numbers(row[:1]) or not _are_numbers(row[1:]):
        return False
    return max(map(parse_number, row[4:8])) > MAX_NORMALISED


def _is_pixel_row(row: list[str]) -> bool:
    """Return whether a line is a class, of one or two words, and a box in pixels."""
    if len(row) not in (5, 6) or any(_are_numbers([word]) for word in row[:-4]) or not _are_numbers(row[-4:]):
        return False
    return max(map(parse_number, row[-4:])) > MAX_NORMALISED


def _has_lines(fits: Callable[[list[str]], bool]) -> Callable[[Head], bool]:
    """Return the test for a .txt file of which all whole lines fit; a heading, such as of DOTA, may come before."""

    def test(head: Head) -> bool:
        rows = [row for row in head.rows if row and not re.match(r"(imagesource|gsd):", row[0])]
        return head.suffix == ".txt" and bool(rows) and all(fits(row) for row in rows)

    return test


# The first that fits is named. A file of a format that is read must fit none of them.
SIGNATURES = (
    Signature(
        "Label Studio's own JSON",
        _json(r'"(rectangle|polygon|ellipse|brush)labels"', '"original_width"'),
        'export as "Pascal VOC XML" or "COCO", with the images',
    ),
    Signature(
        "Label Studio's own CSV",
        lambda head: head.suffix == ".csv" and "rectanglelabels" in head.text and "original_width" in head.text,
        'export as "Pascal VOC XML" or "COCO", with the images',
    ),
    Signature(
        "Roboflow's CSV",
        lambda head: head.name == "_annotations.csv" and (_has_corner_columns(head) or _has_retinanet_rows(head)),
        _ROBOFLOW,
    ),
    Signature(
        "Roboflow's CSV of classes, without boxes",
        lambda head: head.name == "_classes.csv" and "filename" in _columns(head),
        "draw boxes around the faces; export them as Pascal VOC",
    ),
    Signature("a TFRecord file", _named(r".*\.tfrecords?"), _VOC_OR_COCO),
    Signature("PaliGemma's JSONL", _named(r"_annotations\.\w+\.jsonl"), _ROBOFLOW),
    Signature(
        "Keras YOLO text",
        lambda head: (
            head.suffix == ".txt" and re.match(rf"{_PHOTO}( \d+,\d+,\d+,\d+,\d+)+", head.text, re.I) is not None
        ),
        _VOC_OR_COCO,
    ),
    Signature("Open Images CSV", lambda head: {"imageid", "xmin"} <= _columns(head), _CONVERT),
    Signature("makesense.ai's CSV", _is_makesense, 'export as "VOC XML" or "COCO JSON", and add the images'),
    Signature("a CSV of boxes", lambda head: _has_corner_columns(head) or _has_retinanet_rows(head), _VOC_OR_COCO),
    Signature(
        "Vertex AI's CSV",
        lambda head: head.suffix == ".csv" and re.match("([A-Z]+,)?gs://", head.text) is not None,
        _VOC_OR_COCO,
    ),
    Signature(
        "CreateML JSON",
        _json(r"\A\s*\[", r'"image(filename)?"\s*:', r'"coordinates"\s*:\s*\{\s*"(x|y|width|height)"\s*:'),
        "export or save as Pascal VOC",
    ),
    Signature(
        "a VIA 3 project",
        _json(r'"__VIA_PROJECT_ID__"|"vid_list"\s*:\s*\['),
        "export as COCO, or annotate with VIA 2",
    ),
    Signature(
        "VIA 3's CSV",
        lambda head: head.suffix == ".csv" and re.search("^# CSV_HEADER = ", head.text, re.M) is not None,
        "export as COCO, or annotate with VIA 2",
    ),
    Signature(
        "Datumaro JSON",
        _json(r'"dm_format_version"\s*:|"categories"\s*:\s*\{\s*"label"\s*:'),
        'export as "COCO 1.0", with the images',
    ),
    Signature(
        "Supervisely's JSON",
        _json(r'"classTitle"\s*:', r'"geometryType"\s*:'),
        "convert it to COCO, Pascal VOC or YOLO with an app of Supervisely",
    ),
    Signature("V7 Darwin JSON", _json(r'"schema_ref"\s*:', r'"(bounding_box|slots)"\s*:'), _VOC_OR_COCO),
    Signature(
        "a VoTT export", _json(r'"assets"\s*:\s*\{', r'"(boundingBox|lastVisitedAssetId)"\s*:'), "export as Pascal VOC"
    ),
    Signature(
        "a FiftyOne dataset",
        _json(r'\A\s*\{\s*("samples"\s*:\s*\[.*"_cls"|"classes"\s*:\s*\[[^\]]*\],\s*"labels"\s*:\s*\{)'),
        "export as `fo.types.COCODetectionDataset` or `fo.types.VOCDetectionDataset`",
    ),
    Signature("ISAT JSON", _json(r'"description"\s*:\s*"ISAT"', r'"objects"\s*:'), "convert it to COCO with ISAT"),
    Signature("dlib XML", lambda head: head.suffix == ".xml" and _is_dlib(head.text), _CONVERT),
    Signature("a SageMaker manifest", _named(r".*\.(manifest|jsonl)", '"source-ref"'), _CONVERT),
    Signature("a Labelbox export", _named(r".*\.(ndjson|json)", r'\A\s*\[?\s*\{\s*"data_row"\s*:'), _CONVERT),
    Signature("a Hugging Face dataset", _named(r"metadata\.jsonl|.*\.parquet"), _CONVERT),
    Signature(
        "WIDER FACE text",
        _named(r".*\.txt", rf"\A{_PHOTO}\s*\r?\n\d+\s*\r?\n(\d+ ){{4}}"),
        f"{_CONVERT}, with a class for each face",
    ),
    Signature(
        "RetinaFace text",
        _named(r".*\.txt", rf"\A# {_PHOTO}\s*\r?\n(\d+ ){{4}}"),
        f"{_CONVERT}, with a class for each face",
    ),
    Signature(
        "text in the format of DOTA", _has_lines(_is_dota), 'export as "YOLOv8 Oriented Bounding Boxes" or Pascal VOC'
    ),
    Signature("text in the format of KITTI", _has_lines(_is_kitti), _VOC_OR_COCO),
    Signature("text with a class and a box in pixels per line", _has_lines(_is_pixel_row), _CONVERT),
)


def _is_dlib(text: str) -> bool:
    return all(re.search(pattern, text) for pattern in ("<dataset>", "<images>", r"<image file=", r"<box top="))


def recognise(path: Path) -> str | None:
    """Return what a file holds that is not read, and what to do; None for other files and those that fail to open."""
    signature = _signature_of(path)
    return None if signature is None else f"holds {signature.name}, which is not read; {signature.advice}"


def recognise_folder(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> str | None:
    """Return what a folder holds that is not read, and what to do; None for other folders.

    Args:
        folder: the dataset, or a folder above it.
        suffixes: of the files that are looked at; the first files of a few folders are opened.
    """
    opened: Counter[str] = Counter()
    opened_in: Counter[tuple[Path, str]] = Counter()
    for file in _files(folder):
        suffix = file.suffix.lower()
        if suffix not in suffixes or re.match(r"readme|classes\.txt|requirements", file.name.lower()):
            continue
        if opened[suffix] == MAX_FILES or opened_in[file.parent, suffix] == MAX_IN_FOLDER:
            continue
        opened[suffix] += 1
        opened_in[file.parent, suffix] += 1
        if (signature := _signature_of(file)) is not None:
            what = f"{signature.name} ({file.relative_to(folder)})"
            return f"holds {what}, which is not read; {signature.advice}"
    return _class_folders(folder) if suffixes is SUFFIXES else None


def packed_photos(folder: Path, suffixes: Sequence[str]) -> str | None:
    """Return which archives to unpack where a folder has no photo, but archives; None for other folders."""
    archives = [file.name for file in files_in(folder, skip_unsearchable=True) if file.suffix.lower() in suffixes]
    if not archives or any(file.suffix.lower() in IMAGE_SUFFIXES for file in _files(folder)):
        return None
    likely = [name for name in archives if re.search("image|img|photo|pic|jpe?g|frame", name.lower())] or archives
    return f"holds no photo; unpack {_listed(likely)}"


def _listed(names: Sequence[str]) -> str:
    """Return the first names of a list as text."""
    shown = ", ".join(display_name(name) for name in names[:MAX_NAMED])
    return f"{shown} and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else shown


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder, in any depth; none where that fails."""
    try:
        yield from files_in(folder, recursive=True, skip_unsearchable=True)
    except (OSError, UserError):
        return


def _signature_of(file: Path) -> Signature | None:
    head = _head_of(file)
    return None if head is None else next((each for each in SIGNATURES if each.fits(head)), None)


def _head_of(file: Path) -> Head | None:
    """Return the start of a file; None where it cannot be opened, or no signature is of its suffix."""
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        return None
    if suffix in NO_TEXT:
        return Head(file.name.lower(), suffix, "", [])
    try:
        with file.open("rb") as opened:
            data = opened.read(HEAD_BYTES)
    except OSError:
        return None
    text = data.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe").decode("utf-8", "replace")  # UTF-16, too
    lines = text.splitlines()
    whole = lines[:-1] if len(data) == HEAD_BYTES and len(lines) > 1 else lines
    if suffix != ".csv":
        return Head(file.name.lower(), suffix, text, [line.split() for line in whole if line.strip()])
    try:
        rows = [row for row in csv.reader(whole) if row]
    except csv.Error:
        rows = []
    return Head(file.name.lower(), suffix, text, rows)


def _class_folders(folder: Path) -> str | None:
    """Return the hint for photos in folders that are named as classes, such as with_mask/, without any other file."""
    if any(file.suffix.lower() not in (*IMAGE_SUFFIXES, ".md") for file in _files(folder)):
        return None
    inner = _folders_in(folder)
    inner += [deeper for each in inner if each.name.lower() in SPLIT_FOLDERS for deeper in _folders_in(each)]
    classes = sorted({each.name for each in inner if photos_in(each, skip_unsearchable=True)} - set(SPLIT_FOLDERS))
    if len(classes) < 2 or not any(re.search("mask", name.lower()) for name in classes):
        return None
    names = _listed([f"{name}/" for name in classes])
    return (
        f"holds photos in class folders ({names}), without boxes; draw boxes around the faces, and export as Pascal VOC"
    )


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if each.name[0] not in "._" and each.is_dir())
    except OSError:
        return []
