"""Recognise the annotation format of a dataset, and read it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from common.annotations.coco import coco_files, read_coco
from common.annotations.collect import MAX_NORMALISED, DatasetError, parse_number
from common.annotations.options import DEFAULT_READING, ReadingArgs
from common.annotations.photos import entries_in, files_in, is_searchable, photos_in
from common.annotations.text import EncodingError, read_text
from common.annotations.tools.cvat import is_cvat_folder, read_cvat
from common.annotations.tools.labelme import is_labelme_file, is_labelme_folder, read_labelme
from common.annotations.tools.unsupported import packed_photos, recognise, recognise_folder
from common.annotations.tools.via import is_via_file, is_via_folder, read_via
from common.annotations.types import Annotations, Problem
from common.annotations.voc import is_voc_folder, read_voc
from common.annotations.xml_text import xml_root_tag
from common.annotations.yolo import is_yolo_folder, label_file, read_yolo, yolo_config
from common.display import counted, display_name
from common.errors import UserError
from common.paths import IMAGE_SUFFIXES

Reader = Callable[[Path, ReadingArgs], Annotations]
# (whether a folder has this format, its reader). The first format found is read.
FOLDER_READERS: tuple[tuple[Callable[[Path], bool], Reader], ...] = (
    (lambda folder: yolo_config(folder) is not None, read_yolo),
    (is_cvat_folder, read_cvat),
    (is_voc_folder, read_voc),
    (is_labelme_folder, read_labelme),
    (is_via_folder, read_via),
    (lambda folder: bool(coco_files(folder)), read_coco),
    (is_yolo_folder, read_yolo),
)
FILE_READERS: dict[str, Reader] = {
    **{".json": lambda file, options: (read_via if is_via_file(file) else read_coco)(file, options)},
    **{".yaml": read_yolo, ".yml": read_yolo, ".data": read_yolo, ".xml": read_cvat, ".csv": read_via},
}
LAYOUTS = (
    "Pascal VOC (images/ with annotations/*.xml, or *.xml next to the images)",
    "COCO (a .json file, _annotations.coco.json, annotations/*.json with images/)",
    "YOLO (data.yaml, obj.data, or images/ with labels/)",
    "LabelMe (*.json next to the images, or in annotations/)",
    "CVAT for images (annotations.xml with images/)",
    "VIA (a project, or its annotations as .json or .csv, with the images)",
)
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
UNUSED_PHOTOS = "in other folders are not used"  # of the COCO reader's note
MAX_LISTED = 5  # folders and suffixes in a message
MAX_DEPTH = 3  # folders with nothing but one folder, as archives make them


def read_dataset(root: Path | str, options: ReadingArgs = DEFAULT_READING) -> Annotations:
    """Read a dataset of any known format.

    Args:
        root: a folder, a COCO .json file, or a YOLO data.yaml. A folder that holds only the dataset's folder will do.
        options: how to read it.

    Raises:
        UserError: the dataset has none of the formats, no usable image, or no face; or some of its images have faces
            in another format only.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(f"{root}: not found; give the folder of an annotated dataset")
    if root.is_file() and (hint := recognise(root)):
        raise UserError(f"{root}: {hint}")
    if root.is_file() and root.suffix.lower() in FILE_READERS:
        _refuse_file_of_one_image(root)
        return _read_or_hint(root, FILE_READERS[root.suffix.lower()], root, options)
    if root.is_dir() and (found := find_dataset(root)) is not None:
        folder, reader = found
        read = _with_other_formats(folder, reader, _read_or_hint(root, reader, folder, options))
        return _with_unused_photos(root, folder, read)
    if root.is_file() and root.suffix.lower() in ARCHIVES:
        raise UserError(f"{root}: is an archive; unpack it, and give the folder")
    if root.is_dir() and (hint := packed_photos(root, ARCHIVES) or recognise_folder(root)):
        raise UserError(f"{root}: {hint}")
    looked_for = f"{', '.join(LAYOUTS[:-1])} and {LAYOUTS[-1]}, also in train/, valid/ and test/"
    raise UserError(f"{root}: no annotated dataset; looked for {looked_for}; found {_contents(root)}")


def _read_or_hint(root: Path, reader: Reader, place: Path, options: ReadingArgs) -> Annotations:
    """Return a dataset, or raise the reader's error: with a hint where photos are packed, or labels are not YOLO's.

    Args:
        root: what the user named.
        reader: of the format that was found.
        place: the dataset's folder or file.
        options: how to read it.
    """
    try:
        return reader(place, options)
    except DatasetError as error:
        base = root if root.is_dir() else root.parent
        hint = packed_photos(base, ARCHIVES)
        if hint is None and reader is read_yolo:  # labels of other formats have the same layout
            base = place if place.is_dir() else place.parent
            hint = recognise_folder(base, (".txt",))
        if hint is None:
            raise
        raise DatasetError(f"{base}: {hint}", error.problems) from error


def _with_other_formats(folder: Path, reader: Reader, read: Annotations) -> Annotations:
    """Return a dataset with a note on each other format that is in its folder, too.

    A photo counts as annotated if one of the same stem is: conversions often come with copies of the photos.

    Raises:
        DatasetError: a photo has labels in another format, and no annotation, or a refused one, in the one read.
    """
    annotated: set[str] | None = None
    notes = []
    first = next(i for i, (_, each) in enumerate(FOLDER_READERS) if each is reader)
    for fits, other_reader in FOLDER_READERS[first + 1 :]:  # `find_dataset` has refused those before
        found = None if other_reader is reader else _read_other(folder, fits, other_reader, read.problems)
        if found is None:
            continue
        annotated = _annotated_stems(read) if annotated is None else annotated
        name, faces, files = found
        alone = [photo for photo in files if photo.stem not in annotated]
        own = read.format_name
        if alone:
            what = f"{folder}: has {own} and {name} annotations, and only {name} has those of"
            example = f"{counted(len(alone), 'photo')}, such as {alone[0].name} in {_below(files[alone[0]], folder)}"
            fix = f"convert them to one format, or move the files of {own} or {name} out of the folder"
            raise DatasetError(f"{what} {example}; {fix}", read.problems)
        if faces:
            example = f"{counted(faces, 'face')}, such as in {_below(next(iter(files.values())), folder)}"
            what = f"{own} ({counted(read.face_count, 'face')}) is read, and {name} of the same photos ({example})"
            notes.append(f"{what} is not; move the files of one format out of the folder")
    return replace(read, notes=(*read.notes, *notes))


def _annotated_stems(read: Annotations) -> set[str]:
    """Return the stems of the photos that have an annotation, or a refused one."""
    stems = {photo.stem for photo in read.annotation_files}
    for problem in read.problems:
        if problem.kind == "refused":  # a file of many photos quotes the photo's name
            stems |= {problem.file.stem, *(Path(name).stem for name in re.findall("'([^']+)'", problem.reason))}
    return stems


def _with_unused_photos(root: Path, folder: Path, read: Annotations) -> Annotations:
    """Return a dataset with a note on photos of `root` that are neither in it nor named by a problem.

    Args:
        root: the folder that the user named.
        folder: the folder in it that was read.
        read: the dataset.
    """
    if any(UNUSED_PHOTOS in note for note in read.notes):  # the format's reader has reported them
        return read
    known = _annotated_stems(read) | {image.path.stem for image in read.images}
    known |= {problem.file.stem for problem in read.problems}
    others = [photo for photo in photos_in(root, True, skip_unsearchable=True) if photo.stem not in known]
    if not others:
        return read
    note = f"not used: {counted(len(others), 'photo')} in other folders, such as {_below(others[0], root)}"
    if labelled := [photo for photo in others if _has_annotation(photo)]:
        have = "has an annotation" if len(labelled) == 1 else "have annotations"
        note += f"; {len(labelled)} {have}, such as {_below(labelled[0], root)}"
        note += " (name the folder with --data, or in data.yaml)"
    if folder != root:
        note += f"; {_below(folder, root)}/ is read"
    return replace(read, notes=(*read.notes, note))


def _has_annotation(photo: Path) -> bool:
    """Return whether a photo has an annotation file of a usual place and form."""
    label = label_file(photo)
    if label is not None and _has_normalised_rows(label):
        return True
    page, shapes = photo.with_suffix(".xml"), photo.with_suffix(".json")
    return (page.is_file() and xml_root_tag(page) == "annotation") or (shapes.is_file() and is_labelme_file(shapes))


def _read_other(
    folder: Path, fits: Callable[[Path], bool], reader: Reader, problems: Iterable[Problem]
) -> tuple[str, int, dict[Path, Path]] | None:
    """Return another format's name, number of faces, and {photo: annotation file} of photos with faces; or None.

    The number is 0 where the rows of YOLO labels cannot be read, because class names are missing.

    Args:
        folder: the dataset, which was read in one format.
        fits: whether a folder has the other format.
        reader: reads the other format.
        problems: of the format that was read.
    """
    try:
        other = reader(folder, DEFAULT_READING) if fits(folder) else None
    except UserError:  # no usable dataset of that format
        files = _unread_labels(problems) if reader is read_yolo else {}
        return ("YOLO", 0, files) if files else None
    if other is None:
        return None
    files = {image.path: other.annotation_files[image.path] for image in other.images if image.labels}
    return other.format_name, other.face_count, files


def _below(file: Path, folder: Path) -> Path:
    """Return a file's path in a folder, or its whole path."""
    return file.relative_to(folder) if file.is_relative_to(folder) else file


def _unread_labels(problems: Iterable[Problem]) -> dict[Path, Path]:
    """Return the YOLO label file of each photo that has no other annotation, as where classes.txt is missing."""
    unmatched = (problem.file for problem in problems if problem.kind == "unmatched")
    found = ((photo, label_file(photo)) for photo in unmatched if photo.suffix.lower() in IMAGE_SUFFIXES)
    return {photo: file for photo, file in found if file is not None and _has_normalised_rows(file)}


def _has_normalised_rows(file: Path) -> bool:
    """Return whether a line of a text file is a class and a normalised box; rows of landmarks in pixels are not."""
    try:
        rows = [line.split()[1:] for line in read_text(file).splitlines()]
    except (OSError, EncodingError):
        return False
    return any(len(row) >= 4 and all(0 <= parse_number(word) <= MAX_NORMALISED for word in row) for row in rows)


def _refuse_file_of_one_image(file: Path) -> None:
    """Raise UserError for the annotation file of one image: the dataset is its folder."""
    suffix = file.suffix.lower()
    is_voc = suffix == ".xml" and xml_root_tag(file) == "annotation"
    if is_voc or (suffix == ".json" and is_labelme_file(file)):
        name = "Pascal VOC" if is_voc else "LabelMe"
        raise UserError(f"{file}: holds one image's annotation ({name}); give the folder of the dataset")


def _contents(root: Path) -> str:
    """Return what a path holds, as far as a reader of the message can use it."""
    if not root.is_dir():
        return "a file of another kind"
    folders = _inner_folders(root)
    parts = [_count_by_suffix(root, recursive=False)]
    for folder in folders[:MAX_LISTED]:
        held = (_count_by_suffix(folder) or "no files") if is_searchable(folder) else "cannot be searched"
        parts.append(f"{display_name(folder.name)}/ ({held})")
    if len(folders) > MAX_LISTED:
        parts.append(f"and {len(folders) - MAX_LISTED} more folders")
    return ", ".join(part for part in parts if part) or "nothing"


def _count_by_suffix(folder: Path, recursive: bool = True) -> str:
    """Return the numbers of files in a folder, such as "12 .jpg, 12 .csv"."""
    files = files_in(folder, recursive, skip_unsearchable=True)
    counts = Counter(file.suffix.lower() or "without suffix" for file in files)
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{count} {suffix}" for suffix, count in ordered[:MAX_LISTED])


def find_dataset(root: Path, depth: int = MAX_DEPTH) -> tuple[Path, Reader] | None:
    """Return the folder of the dataset, which is `root` or a folder in it, and its reader; None without one.

    Folders in `root` that cannot be searched are skipped, such as lost+found of a disk.

    Raises:
        UserError: several folders in `root` are datasets, or a folder of the dataset cannot be searched.
    """
    if reader := next((read for fits, read in FOLDER_READERS if fits(root)), None):
        return root, reader
    if depth == 0:
        return None
    inner = filter(is_searchable, _inner_folders(root))
    datasets = [found for found in (find_dataset(p, depth - 1) for p in inner) if found is not None]
    # A link to a dataset is not another one. Of its names, the one with the fewest folders is taken.
    datasets.sort(key=lambda found: len(found[0].parts), reverse=True)
    different = list({os.path.realpath(folder): (folder, reader) for folder, reader in datasets}.values())
    if len(different) > 1:
        names = ", ".join(sorted(str(folder.relative_to(root)) for folder, _ in different)[:3])
        raise UserError(f"{root}: holds {len(different)} datasets ({names}); name one of them")
    return different[0] if different else None


def _inner_folders(root: Path) -> list[Path]:
    """Return the sorted folders in which a dataset may be."""
    return sorted(p for p in entries_in(root) if p.is_dir() and p.name[0] not in "._")
