"""Find the images, splits and class names of a YOLO dataset, with a configuration or by its folders."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from common.annotations.class_names import clean_name
from common.annotations.collect import Collector, parse_number
from common.annotations.layouts import IMAGE_FOLDERS
from common.annotations.photos import (
    AmbiguousNameError,
    PhotoIndex,
    entries_in,
    files_in,
    photos_in,
    split_of_folders,
    split_of_name,
)
from common.annotations.text import EncodingError, read_text
from common.annotations.yolo.config import (
    YoloSettings,
    find_path,
    lines_of,
    read_darknet,
    read_yaml,
    text_of_any,
    yolo_configs,
)
from common.display import counted
from common.paths import IMAGE_SUFFIXES

# Files with one class name per line, the nearest first: LabelImg, Darknet, Roboflow's Darknet export.
CLASS_FILES = (
    *("classes.txt", "labels/classes.txt", "obj.names", "*.names", "_darknet.labels", "labels/labels.txt"),
    *("images/classes.txt", "*/classes.txt", "labels/*/classes.txt", "*/labels/classes.txt"),
    *("*/_darknet.labels", "*/*.names"),
)
LABEL_FOLDERS = ("labels", "label", "annotations", "annotation", "txt")  # in lower case


@dataclass
class YoloLayout:
    """The parts of a YOLO dataset."""

    base: Path  # its folder
    config: Path | None  # data.yaml or obj.data
    names: dict[int, str]
    kpt_shape: tuple[int, int] | None = None  # number of key points and values of each; (0, 0) for none
    photos: dict[Path, str | None] = field(default_factory=dict)  # split of each image, in a fixed order
    other_files: set[Path] = field(default_factory=set)  # text files that are not labels


def is_yolo_folder(folder: Path) -> bool:
    """Return whether a folder has images/ and labels/, also in train/, or images and their labels elsewhere in it."""
    if _has_pair(folder) or any(_has_pair(inner) for inner in _split_folders(folder)):
        return True
    if any(_has_other_pair(place) for place in (folder, *_split_folders(folder))):
        return True
    if not any(True for _ in _class_files(folder)):
        return False
    files = files_in(folder, recursive=True, skip_unsearchable=True)
    return any(file.suffix.lower() in IMAGE_SUFFIXES and file.with_suffix(".txt").is_file() for file in files)


def _has_pair(folder: Path) -> bool:
    """Return whether a folder has images/ and labels/, in capitals or not."""
    names = {inner.name.lower() for inner in _folders_in(folder)}
    return {"images", "labels"} <= names


def _has_other_pair(folder: Path) -> bool:
    """Return whether a folder has images, or a folder of them, and rows of their names next to them or in label/."""
    inner = {p.name.lower(): p for p in _folders_in(folder)}
    pictures = next((photos_in(inner[name], True) for name in IMAGE_FOLDERS if name in inner), photos_in(folder))
    stems = {photo.stem for photo in pictures}
    places = [inner[name] for name in LABEL_FOLDERS if name in inner]
    texts = [*files_in(folder), *(file for place in places for file in files_in(place, recursive=True))]
    return any(file.suffix.lower() == ".txt" and file.stem in stems and has_rows(file) for file in texts)


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.name[0] != "." and p.is_dir())
    except OSError:  # such as a folder without permission
        return []


def _split_folders(folder: Path) -> list[Path]:
    return [inner for inner in _folders_in(folder) if split_of_folders((inner.name,)) is not None]


def _image_folders(base: Path) -> list[Path]:
    """Return images/ of a dataset and of its splits; raise UserError for a split that cannot be searched."""
    folders = [base, *_split_folders(base)]
    entries = [p for folder in folders for p in sorted(entries_in(folder))]
    return [p for p in entries if p.name.lower() == "images" and p.is_dir()]


def photo_folders(config: Path) -> list[Path]:
    """Return the folders whose images, in any depth, are those of a data.yaml; lists of images are left out.

    Raises UserError when the file is malformed.
    """
    settings = read_yaml(config, Collector(config))
    base = config.parent
    if not settings.sources:
        return _image_folders(base) or [base]
    found = (find_path(base, settings.prefix, value)[0] for _, value, _ in settings.sources)
    return [place for place in found if place is not None and place.is_dir()]


def read_layout(root: Path, collector: Collector) -> YoloLayout:
    """Return the layout of the dataset at `root`: a folder, data.yaml or obj.data; report paths that fail.

    Raises:
        UserError: several configurations, no class names, no image, or a malformed file.
    """
    configs = yolo_configs(root)
    base = root.parent if root.is_file() else root
    if len(configs) > 1:
        found = ", ".join(file.name for file in configs)
        raise collector.error(f"{root}: has {len(configs)} YOLO configurations ({found}); name one with --data")
    config = configs[0] if configs else None
    settings = YoloSettings()
    if config is not None:
        read = read_darknet if config.suffix.lower() == ".data" else read_yaml
        settings = read(config, collector)
    listed = list(_class_files(base))
    names = settings.names or _listed_names(base, config, listed, collector)
    layout = YoloLayout(base, config, names, settings.kpt_shape, other_files=set(listed))
    _report_equal_names(names, config or base, collector)
    _report_other_names(settings, listed, config, collector)
    finder = _PhotoSources(layout, settings.prefix, collector)
    if settings.sources:
        for key, value, split in settings.sources:
            finder.add_source(key, value, split)
    else:
        finder.add_folders()
    finder.report_repeated()
    if not layout.photos:
        if settings.sources:
            what = f"{config or root}: its train, val and test folders hold no image"
            raise collector.unusable(what, "correct the paths")
        texts = [file for file in files_in(base, recursive=True) if file.suffix.lower() == ".txt"]
        count = sum(file not in layout.other_files and has_rows(file) for file in texts)
        held = f"{counted(count, 'label file')} but no photo" if count else "no photo"
        raise collector.unusable(f"{config or root}: it holds {held}", f"put the photos into {base / 'images'}")
    return layout


def _class_files(base: Path) -> Iterator[Path]:
    """Yield the files with class names, the nearest first."""
    yield from dict.fromkeys(file for pattern in CLASS_FILES for file in sorted(base.glob(pattern)) if file.is_file())


def _listed_names(base: Path, config: Path | None, listed: list[Path], collector: Collector) -> dict[int, str]:
    """Return {class number: name} of the nearest file of class names, or of a YAML file with nothing else."""
    found = {file: lines_of(file) for file in listed}
    if found:
        first, names = next(iter(found.items()))
        for other, others in found.items():
            if others != names and other.parent.parent == first.parent.parent and other.name == first.name:
                fix = "number all labels after one list, and put it into data.yaml"
                raise collector.error(f"{first} and {other}: name different classes; {fix}")
        if wrong := _wrong_form(names):
            raise collector.error(f"{first}: {wrong}; write one class name per line")
        return dict(enumerate(names))
    for file in sorted((*base.glob("*.yaml"), *base.glob("*.yml"))):
        if file != config and re.search(r"^names\s*:", text_of_any(file), re.M):
            own = read_yaml(file, collector).names
            if own:
                return own
    fix = "add `names:` to data.yaml or a classes.txt"
    inner = [] if config else [file for folder in _folders_in(base) for file in yolo_configs(folder)]
    if inner:
        fix = f"name {inner[0]} with --data, or {fix}"
    raise collector.error(f"{config or base}: no class names; {fix}")


def _wrong_form(names: list[str]) -> str:
    """Return what is wrong with the form of a file of class names; "" where nothing is."""
    numbers = [re.match(r"(\d+)\s*[:=,\t ]\s*\S", name) for name in names]
    if len(names) > 1 and [int(found[1]) if found else -1 for found in numbers] in (
        list(range(len(names))),
        list(range(1, len(names) + 1)),
    ):
        return "each line begins with the class's number"
    if len(names) == 1 and len(names[0].split(",")) > 1:
        return "all class names are on one line"
    return ""


def _report_equal_names(names: dict[int, str], where: Path, collector: Collector) -> None:
    """Note class numbers with the same name: they become one class."""
    numbers: dict[str, list[int]] = {}
    for number, name in names.items():
        numbers.setdefault(clean_name(name), []).append(number)
    for name, own in numbers.items():
        if len(own) > 1:
            collector.add_note(f"{where}: the classes {', '.join(map(str, own))} are all named {name!r}")


def _report_other_names(settings: YoloSettings, listed: list[Path], config: Path | None, collector: Collector) -> None:
    """Note a classes.txt that says something else than the configuration, which counts."""
    if not settings.names or config is None or config.suffix.lower() == ".data":
        return
    for file in listed[:1]:
        if [*map(clean_name, lines_of(file))] != [clean_name(name) for _, name in sorted(settings.names.items())]:
            collector.add_note(f"{file} names other classes than {config.name}, whose names are used")


class _PhotoSources:
    """Adds the images of folders and lists to a layout; an image in two splits stays in the first."""

    def __init__(self, layout: YoloLayout, prefix: str, collector: Collector) -> None:
        self._layout = layout
        self._base = layout.base
        self._config = layout.config or layout.base
        self._prefix = prefix
        self._collector = collector
        self._by_real_path: dict[str, Path] = {}  # a link and its image are one image
        self._repeated: Counter[tuple[str | None, str | None]] = Counter()
        self._examples: dict[tuple[str | None, str | None], str] = {}

    @cached_property
    def _index(self) -> PhotoIndex:
        return PhotoIndex(photos_in(self._base, recursive=True), self._base)

    def add_source(self, key: str, value: str, split: str | None) -> None:
        """Add the images of a folder or list that the configuration names, or report that it fails."""
        source, tried = find_path(self._base, self._prefix, value)
        if source is None:
            what = f"{key}: {value} does not exist; not used, tried {tried}"
            self._collector.add_problem(self._config, what, "unmatched")
            return
        if source.is_dir():
            photos = photos_in(source, recursive=True)
        elif source.suffix.lower() in IMAGE_SUFFIXES:
            photos = [source]
        else:
            self._layout.other_files.add(source)
            photos = self._listed(source, split)
        if not photos:
            self._collector.add_problem(self._config, f"{key}: {value} holds no image; not used", "unmatched")
        for photo in photos:
            self._add(photo, split)

    def _add(self, photo: Path, split: str | None) -> None:
        """Add an image once."""
        known = self._by_real_path.setdefault(os.path.realpath(photo), photo)
        own = self._layout.photos.setdefault(known, split)
        if own != split:
            self._repeated[own, split] += 1
            self._examples.setdefault((own, split), photo.name)

    def add_folders(self) -> None:
        """Add the images of a dataset without a configuration; the names of folders give the splits."""
        photos = [photo for folder in _image_folders(self._base) for photo in photos_in(folder, recursive=True)]
        for photo in photos or photos_in(self._base, recursive=True):
            folders = photo.relative_to(self._base).parts[:-1]
            darknet = next((name for name in reversed(folders) if re.fullmatch(r"obj_\w+_data", name)), "")
            self._add(photo, split_of_folders(folders) or split_of_name(darknet))

    def report_repeated(self) -> None:
        """Report how many images are in two splits."""
        for (own, other), count in self._repeated.items():
            what = f"{count} images are in {own} and {other}, such as {self._examples[own, other]}; kept in {own}"
            self._collector.add_problem(self._config, what, "changed")

    def _listed(self, listing: Path, split: str | None) -> list[Path]:
        """Return the images that a text file lists, one per line: as named, else by the end of the path."""
        try:
            lines = [line.strip() for line in read_text(listing).splitlines()]
        except (EncodingError, OSError) as error:
            self._collector.add_problem(listing, f"{error}; not used")
            return []
        photos = set()
        for line in filter(None, lines):
            try:
                photo = self._direct(listing, line) or self._index.find(line, split=split, near=listing.parent)
            except AmbiguousNameError as error:
                self._collector.add_problem(listing, f"{error}; not used")
                continue
            if photo is None:
                self._collector.add_problem(listing, f"image {line!r} is missing; not used", "unmatched")
            else:
                photos.add(photo)
        return sorted(photos)

    def _direct(self, listing: Path, line: str) -> Path | None:
        """Return the image of a line that is a path as it should be."""
        path = line.replace("\\", "/")
        folders = (listing.parent, self._base / self._prefix.replace("\\", "/"), self._base)
        found = (folder / path for folder in folders if Path(path).suffix.lower() in IMAGE_SUFFIXES)
        return next((photo for photo in found if os.path.isfile(photo)), None)  # noqa: PTH113


def has_rows(file: Path) -> bool:
    """Return whether a text file looks like a label file: a line has a class and four numbers."""
    try:
        lines = read_text(file).splitlines()
    except (EncodingError, OSError):
        return False
    rows = (re.split(r"[\s,;]+", line.strip()) for line in lines[:100])
    return any(len(row) > 4 and not any(math.isnan(parse_number(word)) for word in row[-4:]) for row in rows)
