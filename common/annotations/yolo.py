"""Read YOLO text labels: data.yaml with train/val/test (Ultralytics, Roboflow), or images/ and labels/ folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from common.annotations.collect import Collector, RawFace, Size, parse_number
from common.annotations.options import DEFAULT_READING, ReadingArgs
from common.annotations.photos import SPLIT_FOLDERS, photos_in
from common.annotations.types import Annotations
from common.cli import requires_extra
from common.errors import UserError
from common.paths import IMAGE_SUFFIXES

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml")
CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names")
SPLIT_KEYS = ("train", "val", "valid", "test")


def yolo_config(root: Path) -> Path | None:
    """Return the data.yaml of a dataset, if there is one."""
    if root.is_file():
        return root
    return next((root / name for name in YAML_NAMES if (root / name).is_file()), None)


def is_yolo_folder(folder: Path) -> bool:
    """Return whether a folder has images/ and labels/."""
    return (folder / "images").is_dir() and (folder / "labels").is_dir()


def read_yolo(root: Path | str, options: ReadingArgs = DEFAULT_READING) -> Annotations:
    """Read a folder with data.yaml, that file, or a folder with images/, labels/ and classes.txt.

    A label line is `class cx cy w h`, or a polygon `class x y x y x y ...`, which becomes its bounding box. All values
    except the class are divided by the upright image's width or height. An image without a label file has no
    faces, by the format's convention. A label file without an image is reported. Raises UserError when there are no
    class names, no images, or no label files.
    """
    root = Path(root)
    config = yolo_config(root) if root.exists() else None
    base = root.parent if root.is_file() else root
    if config is None and not is_yolo_folder(base):
        raise UserError(f"{root}: no YOLO dataset (data.yaml, or images/ and labels/ folders)")
    collector = Collector(root, options.rename)
    content = _load_yaml(config) if config is not None else {}
    names = _class_names(base, config, content)
    photos = _photos(base, config or base, content, collector)
    if not photos:
        raise UserError(f"{config or root}: its train, val and test folders hold no image; correct the paths")
    labels: set[Path] = set()
    for photo, split in photos:
        file = label_file(photo)
        if file is None:
            if options.unlabelled == "face-free":
                collector.add_unlabelled(photo, split)
            continue
        labels.add(file)
        sizes = collector.photo_sizes(photo)
        faces = _parse_labels(file, sizes[1], names, collector) if sizes is not None else None
        if faces is not None:
            collector.add(photo, file, faces, None, split)
    if not labels:
        raise UserError(f"{root}: no label file for any of its {len(photos)} images (labels/NAME.txt)")
    for folder in sorted({file.parent for file in labels}):
        for file in sorted(folder.glob("*.txt")):
            if file not in labels and file.name != "classes.txt":
                collector.add_problem(file, "no image of this name; not used")
    return collector.finish("YOLO")


def _load_yaml(config: Path) -> dict[str, Any]:
    """Return the content of data.yaml."""
    with requires_extra("train"):
        import yaml
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{config}: malformed YAML ({' '.join(str(error).split())}); correct it") from error
    if not isinstance(content, dict):
        raise UserError(f"{config}: is not a YOLO data.yaml (it has no `names:`); use another file")
    return content


def _class_names(base: Path, config: Path | None, content: dict[str, Any]) -> dict[int, str]:
    """Return {class number: name} from data.yaml or a file of class names."""
    names = content.get("names")
    if names is None:
        listing = next((base / name for name in CLASS_FILES if (base / name).is_file()), None)
        if listing is None:
            raise UserError(f"{config or base}: no class names; add `names:` to data.yaml or a classes.txt")
        names = _non_empty_lines(listing)
    try:
        pairs = names.items() if isinstance(names, dict) else enumerate(list(names))
        return {int(key): _scalar_text(name) for key, name in pairs}
    except (TypeError, ValueError, OverflowError) as error:
        what = "`names` is not a list of names or a table from number to name"
        raise UserError(f"{config}: {what}; correct it") from error


def _scalar_text(value: Any) -> str:
    """Return a YAML value as text; raise TypeError for lists and tables, whose text aliases can make endless."""
    if isinstance(value, list | dict | set | tuple):
        raise TypeError(type(value))
    return str(value)


def _photos(base: Path, config: Path, content: dict[str, Any], collector: Collector) -> list[tuple[Path, str | None]]:
    """Return (image, split) of every image in a fixed order; an image in two splits stays in the first."""
    keys = [key for key in SPLIT_KEYS if content.get(key)]
    found: dict[Path, str | None] = {}
    for key in keys:
        for value in content[key] if isinstance(content[key], list) else [content[key]]:
            try:
                source = _resolve_path(base, _scalar_text(content.get("path") or ""), _scalar_text(value))
            except TypeError as error:
                raise UserError(f"{config}: `{key}` or `path` is not a path; correct it") from error
            if source is None:
                collector.add_problem(config, f"{key}: {value} does not exist; not used")
                continue
            photos = _photos_in_list(source, collector) if source.is_file() else photos_in(source, recursive=True)
            split = SPLIT_FOLDERS[key]
            for photo in photos:
                if found.setdefault(photo, split) != split:
                    collector.add_problem(photo, f"is in {found[photo]} and {split}; kept in {found[photo]}")
    if not keys:
        for photo in photos_in(base / "images", recursive=True):
            folders = photo.relative_to(base).parts[:-1]
            found[photo] = next((SPLIT_FOLDERS[f.lower()] for f in folders if f.lower() in SPLIT_FOLDERS), None)
    return list(found.items())


def _resolve_path(base: Path, prefix: str, value: str) -> Path | None:
    """Return the folder or list of a path in data.yaml; Roboflow writes ../train/images for train/images."""
    inner = value
    while inner.startswith("../"):
        inner = inner.removeprefix("../")
    folders = (base / prefix, base)  # the prefix often is a path of another machine
    candidates = [folder / path for path in (inner, value) for folder in folders]
    # Not Path.exists, which raises on a name that is too long or has invalid characters.
    return next((candidate for candidate in candidates if os.path.exists(candidate)), None)  # noqa: PTH110


def _photos_in_list(listing: Path, collector: Collector) -> list[Path]:
    """Return the images that a text file lists, one per line, relative to its folder."""
    photos = []
    for line in _non_empty_lines(listing):
        photo = listing.parent / line
        if photo.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(photo):  # noqa: PTH113
            photos.append(photo)
        else:
            collector.add_problem(listing, f"image {line!r} is missing; not used")
    return sorted(photos)


def _non_empty_lines(file: Path) -> list[str]:
    """Return the non-empty lines of a text file."""
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except ValueError as error:
        raise UserError(f"{file}: is not UTF-8 text; save it as UTF-8") from error


def label_file(photo: Path) -> Path | None:
    """Return the .txt file of a photo, if any: in labels/ instead of images/, or next to the photo."""
    parts = list(photo.parts)
    candidates = [photo.with_suffix(".txt")]
    folders = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
        candidates.insert(0, Path(*parts).with_suffix(".txt"))
    return next((file for file in candidates if file.is_file()), None)


def _parse_labels(file: Path, size: Size, names: dict[int, str], collector: Collector) -> list[RawFace] | None:
    """Return the faces of a label file in pixels, or None after a problem with the whole file."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        collector.add_problem(file, f"cannot be read ({error.strerror}); not used, check its permissions")
        return None
    except ValueError:
        collector.add_problem(file, "is not UTF-8 text; not used, save it as UTF-8")
        return None
    faces = []
    for n, line in enumerate(lines, start=1):
        values = [parse_number(word) for word in line.split()]
        if not values:
            continue
        # After the class, 4 values are a box; an even number from 6 is a polygon.
        if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
            collector.add_problem(file, f"line {n} has {len(values)} values, which is not a box or a polygon; left out")
            continue
        label = names.get(int(values[0])) if values[0].is_integer() else None
        if label is None:
            collector.add_problem(file, f"line {n} has the unknown class {line.split()[0]}; left out")
            continue
        faces.append(RawFace(f"line {n}", label, _to_xyxy_pixels(values[1:], size)))
    return faces


def _to_xyxy_pixels(values: list[float], size: Size) -> list[float]:
    """Return xyxy in pixels of a normalised box (cx cy w h) or polygon (x y x y x y ...)."""
    if len(values) == 4:
        cx, cy, w, h = values
        low, high = np.array([cx - w / 2, cy - h / 2]), np.array([cx + w / 2, cy + h / 2])
    else:
        corners = np.array(values).reshape(-1, 2)
        low, high = corners.min(axis=0), corners.max(axis=0)
    return [*(low * size).tolist(), *(high * size).tolist()]
