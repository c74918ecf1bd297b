"""Find and load the COCO files of a dataset, decode their outlines, and find the images that they list."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from common.annotations.collect import Collector, Size, parse_number, parse_size
from common.annotations.layouts import parse_or_report
from common.annotations.photos import (
    AmbiguousNameError,
    PhotoIndex,
    entries_in,
    equal_end,
    files_in,
    name_parts,
    photos_in,
    split_of_folders,
    split_of_name,
)
from common.annotations.shapes import Box, hull
from common.annotations.text import decode_text, read_text
from common.paths import IMAGE_SUFFIXES

Tables = dict[str, list[dict[str, Any]]]  # the images, annotations and categories of a COCO file
Kind = Literal["coco", "broken", "unreadable", "other"]

# The tasks of COCO, which Datumaro and CVAT write as TASK_SUBSET.json; the second ones have no boxes.
_BOX_TASKS = re.compile(r"(instances|person_keypoints|stuff)_", re.IGNORECASE)
_OTHER_TASKS = re.compile(r"(image_info|captions|labels|panoptic)_", re.IGNORECASE)
_ANNOTATION_FOLDER = re.compile(r"(coco_)?(annotations?|anns?|jsons?|labels?)(_coco)?", re.IGNORECASE)
_IMAGE_FOLDER = re.compile(r"images?|imgs?", re.IGNORECASE)
TABLE_NAMES = ("images", "annotations", "categories")
MIN_TABLES = 2  # of a COCO file; a missing one is reported
MAX_FOLDERS_DEEP = 3
HEAD_BYTES = 4096


@dataclass(frozen=True)
class CocoFile:
    """A COCO file, and what its path says about the images that it lists."""

    path: Path
    split: str | None
    subset: str | None  # the end of TASK_SUBSET.json: exporters name the image folder so


def coco_files(root: Path) -> list[CocoFile]:
    """Return the COCO files of a dataset; empty for other datasets.

    Searched are the dataset's folder, its split folders, folders such as annotations/ or images/, and folders of JSON
    files without images. A file with a name that only COCO uses counts, whatever it contains; others count by their
    content. A broken file is returned with the others, so that it is reported.
    """
    if root.is_file():
        return [_describe(root, root.parent.parent)]
    kinds: dict[Path, Kind] = {}
    for folder in _folders(root):
        for file in files_in(folder):
            if file.suffix.lower() == ".json":
                status = file.stat()
                kinds[file] = "coco" if _is_named_coco(file) else _kind(file, status.st_mtime_ns, status.st_size)
    found = {file for file, kind in kinds.items() if kind == "coco"}
    for file, kind in kinds.items():
        in_its_place = file.parent != root and bool(_ANNOTATION_FOLDER.fullmatch(file.parent.name))
        if kind == "broken" or (kind == "unreadable" and found and in_its_place):
            found.add(file)
    return [_describe(file, root) for file in sorted(found)]


def _folders(root: Path, depth: int = MAX_FOLDERS_DEEP) -> Iterator[Path]:
    """Yield the folders where COCO files are searched."""
    yield root
    if depth == 0:
        return
    # Path.is_dir: unlike os.scandir's, it is false for a link that leads to itself.
    for folder in sorted(inner for inner in entries_in(root) if inner.name[0] not in "._" and inner.is_dir()):
        if any(pattern.fullmatch(folder.name) for pattern in (_ANNOTATION_FOLDER, _IMAGE_FOLDER)) or split_of_folders(
            (folder.name,)
        ):
            yield from _folders(folder, depth - 1)
        elif depth == MAX_FOLDERS_DEEP and any(folder.glob("*.json")) and not _holds_photos(folder):
            yield folder  # of any name: only the annotations are in it


def _holds_photos(folder: Path) -> bool:
    return bool(photos_in(folder, recursive=True, skip_unsearchable=True))


def _describe(file: Path, root: Path) -> CocoFile:
    """Return the file with the split of its folder, else that of its name."""
    split = split_of_folders(file.relative_to(root).parts[:-1]) or split_of_name(file.stem)
    task = _BOX_TASKS.match(file.stem)
    return CocoFile(file, split, file.stem[task.end() :] if task else None)


def _is_named_coco(file: Path) -> bool:
    """Return whether a file has a name that only COCO uses, such as Roboflow's _annotations.coco.json."""
    return bool(_BOX_TASKS.match(file.stem)) or file.stem.lower().endswith((".coco", "_coco"))


@lru_cache(maxsize=4096)
def _kind(file: Path, _modified: int, _size: int) -> Kind:
    """Return what a JSON file is by its content.

    A broken file looks like COCO, but is not valid. An unreadable file is empty, or cannot be opened.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD_BYTES)
            shown = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")  # also of UTF-16
            if not shown:
                return "unreadable"
            if shown[:1] != b"{" or (b'"shapes"' in shown and b'"images"' not in shown):  # a list, or LabelMe's file
                return "other"
            data = head + opened.read()
    except OSError:
        return "unreadable"
    keys = data.replace(b"\0", b"") if b"\0" in head else data
    if b'"images"' not in keys and b'"annotations"' not in keys:
        return "other"
    try:
        content = json.loads(decode_text(data))
    except (ValueError, RecursionError):
        return "broken"
    return "coco" if sum(isinstance(content.get(key), list) for key in TABLE_NAMES) >= MIN_TABLES else "other"


def load_tables(files: list[CocoFile], collector: Collector) -> dict[CocoFile, Tables]:
    """Return the tables of each file with boxes; the other files become problems or a note."""
    loaded = {file: content for file in files if (content := _load_json(file.path, collector)) is not None}
    with_boxes = {file: content for file, content in loaded.items() if _has_boxes(file.path, content)}
    if with_boxes:
        ignored = [file.path.name for file in loaded if file not in with_boxes]
        if ignored:
            collector.add_note(f"ignored, because it has no boxes: {', '.join(ignored)}")
    tables = {}
    for file, content in (with_boxes or loaded).items():
        if (checked := _check_tables(file.path, content, collector)) is not None:
            tables[file] = checked
    return tables


def _load_json(file: Path, collector: Collector) -> Any:
    """Return the content of a JSON file, or None after a problem."""
    return parse_or_report(file, collector, lambda file: json.loads(read_text(file)) or {})


def _has_boxes(file: Path, content: Any) -> bool:
    """Return whether a file is of a task with boxes; a file without annotations is judged by its name."""
    rows = content.get("annotations") if isinstance(content, dict) else None
    dicts = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if any("bbox" in row or "segmentation" in row for row in dicts):
        return True
    if rows == [] and "categories" not in content:  # such as captions.json of a task without captions
        return False
    other_task = any("caption" in row or "segments_info" in row for row in dicts)
    return not other_task and not _OTHER_TASKS.match(file.stem)


def _check_tables(file: Path, content: Any, collector: Collector) -> Tables | None:
    """Return the three tables of a COCO file, or None after a problem."""
    tables = {}
    for key in TABLE_NAMES:
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            faces = content.get("annotations") if isinstance(content, dict) else None
            what = f"is not a COCO detection file (its {key!r} is not a list of objects); not used, export it again"
            collector.add_problem(file, what, objects=len(faces) if isinstance(faces, list) else 0)
            return None
        tables[key] = rows
    return tables


def outline_hull(outline: Any, size: Size | None = None) -> Box | None:
    """Return the box around COCO's `segmentation`, or None when it is empty or malformed.

    Args:
        outline: polygons [[x, y, x, y, ...], ...], or a run-length encoded mask with `counts` and `size`.
        size: (width, height) of the image; a mask of another size is not read.
    """
    if isinstance(outline, dict):
        return _mask_hull(outline, size)
    polygons = [[parse_number(value) for value in polygon] for polygon in _number_lists(outline)]
    if any(len(polygon) % 2 for polygon in polygons):
        return None
    box = hull(point for polygon in polygons for point in zip(polygon[::2], polygon[1::2], strict=True))
    return box if box[0] < box[2] and box[1] < box[3] else None


def _number_lists(nested: Any) -> Iterator[list[Any]]:
    """Yield the innermost lists of nested lists."""
    if isinstance(nested, list) and nested:
        if any(isinstance(inner, list) for inner in nested):
            for inner in nested:
                yield from _number_lists(inner)
        else:
            yield nested


def _mask_hull(mask: dict[str, Any], size: Size | None) -> Box | None:
    """Return the box around a run-length encoded mask: columns from the left, runs of 0 and 1 in turns."""
    counts, shape = mask.get("counts"), mask.get("size")
    runs = _decode_runs(counts) if isinstance(counts, str) else counts
    if not (isinstance(shape, list) and len(shape) == 2 and isinstance(runs, list)):
        return None
    whole = parse_size(shape[1], shape[0])
    if whole is None or (size is not None and size != whole):
        return None
    if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) > whole[0] * whole[1]:
        return None
    box, start = None, 0
    for number, run in enumerate(runs):
        end = start + run - 1
        if number % 2 and run:
            (left, top), (right, bottom) = divmod(start, whole[1]), divmod(end, whole[1])
            if right > left:  # the run goes through a bottom edge and a top edge
                top, bottom = 0, whole[1] - 1
            part = (left, top, right + 1, bottom + 1)
            box = part if box is None else (*map(min, box[:2], part[:2]), *map(max, box[2:], part[2:]))
        start += run
    return box


def _decode_runs(text: str) -> list[int] | None:
    """Return the runs of COCO's compressed text (rleFrString in cocodataset/cocoapi, common/maskApi.c), or None.

    A number is written in groups of 5 bits, the lowest first; from the fourth run on, it is the difference to the run
    before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 60:
            return None
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return None if shift else runs


class PhotoMatcher:
    """Finds the images that the COCO files of a dataset list."""

    def __init__(self, root: Path, files: list[CocoFile]) -> None:
        """Index the images of a dataset: a folder, or the file that was named."""
        self._base, self.photos = (root, photos_in(root, True)) if root.is_dir() else _photos_around(root)
        self._index = PhotoIndex(self.photos, self._base)
        self._by_path = {self._parts(photo): photo for photo in self.photos}
        folders = {part for parts in self._by_path for part in parts[:-1]}
        self._subsets = {file.subset for file in files if file.subset in folders}
        self._escaped = any("%" in part for parts in self._by_path for part in parts)

    def _parts(self, path: Path) -> tuple[str, ...]:
        path = Path(os.path.normpath(path.absolute())) if self._base.is_absolute() else path
        return name_parts(path.relative_to(self._base)) if path.is_relative_to(self._base) else name_parts(path)

    def find(self, name: str, file: CocoFile) -> Path | None:
        """Return the image of a name in a COCO file, or None; raise AmbiguousNameError when several fit equally.

        First searched is the path from the file's own folder, then the folder named after the file's subset or split.
        """
        beside = self._by_path.get((*self._parts(file.path.parent), *name_parts(name))) or self._outside(name, file)
        if beside is not None:
            return beside
        for spelling in self._spellings(name):
            if found := self._find_spelling(spelling, file):
                return found
        return None

    def _outside(self, name: str, file: CocoFile) -> Path | None:
        """Return the image at a path that is absolute or has "..", as it is on this machine, or None."""
        path = Path(os.path.normpath(file.path.parent / name.replace("\\", "/")))
        if path.suffix.lower() not in IMAGE_SUFFIXES or not (name.startswith("/") or ".." in name):
            return None
        try:
            return self._by_path.get(self._parts(path), path) if path.is_file() else None
        except OSError:  # such as a name that is too long
            return None

    def _find_spelling(self, name: str, file: CocoFile) -> Path | None:
        near = file.path.parent
        if _ANNOTATION_FOLDER.fullmatch(near.absolute().name):  # its images are next to it, and masks may be in it
            near = near.absolute().parent if self._base.is_absolute() else near.parent
        if file.subset in self._subsets and (found := self._index.find(f"{file.subset}/{name}", file.split, near)):
            return found
        try:
            found = self._index.find(name, file.split, near)
        except AmbiguousNameError as error:
            # A mask, or a copy in another folder, may have the name of the image.
            usual = [photo for photo in error.candidates if self._is_usual_place(photo, name)]
            if len(usual) != 1:
                raise
            found = usual[0]
        if found is None:
            return None
        folders = set(self._parts(found)[:-1]) - set(name_parts(name))
        return None if folders & (self._subsets - {file.subset}) else found  # another file's image of this name

    def _is_usual_place(self, photo: Path, name: str) -> bool:
        """Return whether the folders above a name are those of images or of a split."""
        parts = self._parts(photo)
        above = parts[: len(parts) - equal_end(parts, name_parts(name))]
        return all(_IMAGE_FOLDER.fullmatch(folder) or split_of_folders((folder,)) for folder in above)

    def _spellings(self, name: str) -> list[str]:
        """Return the name as Label Studio and web addresses write it, the likeliest first."""
        plain = re.split(r"[?&]d=", name)[-1]  # /data/local-files/?d=folder/a.jpg
        as_url = [unquote(plain), unquote(plain.partition("?")[0])]
        return list(dict.fromkeys([plain, *as_url] if self._escaped else [*as_url, plain]))

    def fit(self, name: str, photo: Path) -> tuple[bool, int]:
        """Return whether a name is the end of a photo's path, and how many parts are equal from the end on."""
        equal = equal_end(self._normal(name), self._parts(photo))
        return equal == len(self._normal(name)), equal

    def are_one(self, name: str, other: str, photo: Path, same_file: bool) -> bool:
        """Return whether two names that fit a photo mean one image: one name is the end of the other.

        Two names of one file must be ends of the photo's path, too.
        """
        a, b = self._normal(name), self._normal(other)
        whole = self.fit(name, photo)[0] and self.fit(other, photo)[0]
        return equal_end(a, b) == min(len(a), len(b)) and (a == b or whole or not same_file)

    def _normal(self, name: str) -> tuple[str, ...]:
        return name_parts(self._spellings(name)[0])

    def missing(self, name: str) -> str:
        """Return the reason of an image that was not found."""
        if not name_parts(name):
            return "an image has no file_name; not used"
        try:
            other = self._index.find(name)
        except AmbiguousNameError as error:
            other = error.candidates[0]
        what = f"image {name!r} is missing; not used"
        if other is None:
            return what
        place = "/".join(self._parts(other))
        return f"{what} ({place} is in the folder of another split; to use it, give its folder in file_name)"


def _photos_around(file: Path) -> tuple[Path, list[Path]]:
    """Return the base folder and the images of a COCO file that was named without its dataset."""
    if len(file.parts) < 3 or ".." in file.parts:  # the folders above it are not in its path
        file = Path(os.path.normpath(file.absolute()))
    folder, base = file.parent, file.parent.parent
    photos = photos_in(folder, True)
    for above in (folder, base) if not photos else ():
        if _ANNOTATION_FOLDER.fullmatch(above.name):
            return above.parent, photos_in(above.parent, True)
    return base, sorted({*photos, *photos_in(base / "images", True), *photos_in(base)})
