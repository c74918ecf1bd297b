"""YOLO text labels: data.yaml with train/val/test (Ultralytics, Roboflow), or images/ and labels/ folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from common.annotations.collect import Collector, RawFace, Size, number
from common.annotations.photos import PHOTO_SUFFIXES, SPLIT_FOLDERS, photos_in
from common.annotations.types import Annotations
from common.errors import UserError

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml")
NAME_LISTS = ("classes.txt", "labels/classes.txt", "obj.names")
SPLIT_KEYS = ("train", "val", "valid", "test")


def yolo_config(root: Path) -> Path | None:
    """The dataset's data.yaml, if there is one."""
    if root.is_file():
        return root
    return next((root / name for name in YAML_NAMES if (root / name).is_file()), None)


def read_yolo(root: Path | str) -> Annotations:
    """Reads a folder with data.yaml (or that file itself), or one with images/, labels/ and classes.txt.

    A label line is `class cx cy w h`, or `class x y x y x y ...` (a polygon, which becomes its bounding
    box), all but the class normalised by the upright image's width and height. An image's labels stand in
    the same place with `images` replaced by `labels`, or beside it. An image without label file has no
    faces: that is the format's convention. A label file without image is reported.

    Raises UserError when there are no class names, no images, or no label file at all.
    """
    root = Path(root)
    config = yolo_config(root) if root.exists() else None
    base = root.parent if root.is_file() else root
    if config is None and not ((base / "images").is_dir() and (base / "labels").is_dir()):
        raise UserError(f"{root}: no YOLO dataset (data.yaml, or images/ and labels/ folders)")
    collector = Collector(root)
    content = _load(config) if config is not None else {}
    names = _class_names(base, config, content)
    parts = _parts(base, config or base, content, collector)
    if not parts:
        raise UserError(f"{config or root}: none of its train, val and test folders holds an image; correct its paths")
    labels: set[Path] = set()
    for photo, split in parts:
        file = label_file(photo)
        if file is None:
            collector.add(photo, photo, [], split=split)
            continue
        labels.add(file)
        sizes = collector.size_of(photo)
        faces = _faces(file, sizes[1], names, collector) if sizes is not None else None
        if faces is not None:
            collector.add(photo, file, faces, split=split)
    if not labels:
        raise UserError(f"{root}: no label file belongs to any of its {len(parts)} images (labels/NAME.txt)")
    for folder in sorted({file.parent for file in labels}):
        for file in sorted(folder.glob("*.txt")):
            if file not in labels and file.name != "classes.txt":
                collector.refuse(file, "no image of this name; not used")
    return collector.finish()


def _load(config: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise UserError(f"{config}: reading it needs PyYAML; install it with `pip install -e '.[train]'`") from error
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{config}: malformed YAML ({' '.join(str(error).split())}); correct it") from error
    if not isinstance(content, dict):
        raise UserError(f"{config}: is no YOLO data.yaml (no `names:` in it); name another file")
    return content


def _class_names(base: Path, config: Path | None, content: dict[str, Any]) -> dict[int, str]:
    names = content.get("names")
    if names is None:
        listing = next((base / name for name in NAME_LISTS if (base / name).is_file()), None)
        if listing is None:
            raise UserError(f"{config or base}: no class names; give `names:` in data.yaml or a classes.txt")
        names = _lines(listing)
    try:
        pairs = names.items() if isinstance(names, dict) else enumerate(list(names))
        return {int(key): _scalar(name) for key, name in pairs}
    except (TypeError, ValueError, OverflowError) as error:
        what = "`names` is neither a list of names nor a table from number to name"
        raise UserError(f"{config}: {what}; correct it") from error


def _scalar(value: Any) -> str:
    """A YAML value as text. Raises TypeError for lists and tables: nested by aliases, their text is without bounds."""
    if isinstance(value, list | dict | set | tuple):
        raise TypeError(type(value))
    return str(value)


def _parts(base: Path, config: Path, content: dict[str, Any], collector: Collector) -> list[tuple[Path, str | None]]:
    """(image, split) of every image, in a fixed order; one named under two splits stays in the first."""
    keys = [key for key in SPLIT_KEYS if content.get(key)]
    found: dict[Path, str | None] = {}
    for key in keys:
        values = content[key] if isinstance(content[key], list) else [content[key]]
        for value in values:
            try:
                source = _resolve(base, _scalar(content.get("path") or ""), _scalar(value))
            except TypeError as error:
                raise UserError(f"{config}: `{key}` or `path` is no path; correct it") from error
            if source is None:
                collector.refuse(config, f"{key}: {value} does not exist; not used")
                continue
            photos = _listed(source, collector) if source.is_file() else photos_in(source, recursive=True)
            split = SPLIT_FOLDERS[key]
            for photo in photos:
                if found.setdefault(photo, split) != split:
                    collector.refuse(photo, f"is named under {found[photo]} and {split}; kept in {found[photo]}")
    if not keys:
        for photo in photos_in(base / "images", recursive=True):
            folders = photo.relative_to(base).parts[:-1]
            found[photo] = next((SPLIT_FOLDERS[f.lower()] for f in folders if f.lower() in SPLIT_FOLDERS), None)
    return list(found.items())


def _resolve(base: Path, prefix: str, value: str) -> Path | None:
    """The folder or list meant by a path in data.yaml; Roboflow writes ../train/images for train/images."""
    inner = value
    while inner.startswith("../"):
        inner = inner.removeprefix("../")
    folders = (base / prefix, base)  # the prefix is often that of another machine
    candidates = [folder / path for path in (inner, value) for folder in folders]
    # Not pathlib's exists, which raises on a name that is too long or holds what no name can.
    return next((candidate for candidate in candidates if os.path.exists(candidate)), None)  # noqa: PTH110


def _listed(listing: Path, collector: Collector) -> list[Path]:
    """The images that a text file names, one a line, relative to its folder."""
    photos = []
    for line in _lines(listing):
        photo = listing.parent / line
        if photo.suffix.lower() in PHOTO_SUFFIXES and os.path.isfile(photo):  # noqa: PTH113
            photos.append(photo)
        else:
            collector.refuse(listing, f"image {line!r} is missing; not used")
    return sorted(photos)


def _lines(file: Path) -> list[str]:
    """The non-empty lines of a text file."""
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except ValueError as error:
        raise UserError(f"{file}: is not UTF-8 text; save it as such") from error


def label_file(photo: Path) -> Path | None:
    """The label file of a photo, if there is one."""
    parts = list(photo.parts)
    candidates = [photo.with_suffix(".txt")]
    folders = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
        candidates.insert(0, Path(*parts).with_suffix(".txt"))
    return next((file for file in candidates if file.is_file()), None)


def _faces(file: Path, size: Size, names: dict[int, str], collector: Collector) -> list[RawFace] | None:
    """The faces of a label file in pixels, or None after a problem with the whole file was kept."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        collector.refuse(file, f"cannot be read ({error.strerror}); not used, check its permissions")
        return None
    except ValueError:
        collector.refuse(file, "is not UTF-8 text; not used, save it as such")
        return None
    faces = []
    for n, line in enumerate(lines, start=1):
        values = [number(word) for word in line.split()]
        if not values:
            continue
        # 1 + 4 numbers are a box; 1 + an even count of at least 6 are a polygon's corners.
        if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
            collector.refuse(file, f"line {n} has {len(values)} values, neither a box nor a polygon; left out")
            continue
        label = names.get(int(values[0])) if values[0].is_integer() else None
        if label is None:
            collector.refuse(file, f"line {n} has the unknown class {line.split()[0]}; left out")
            continue
        faces.append(RawFace(f"line {n}", label, _box(values[1:], size)))
    return faces


def _box(values: list[float], size: Size) -> list[float]:
    """xyxy in pixels from normalised cx cy w h, or from polygon corners x y x y x y ..."""
    if len(values) == 4:
        cx, cy, w, h = values
        low, high = np.array([cx - w / 2, cy - h / 2]), np.array([cx + w / 2, cy + h / 2])
    else:
        corners = np.array(values).reshape(-1, 2)
        low, high = corners.min(axis=0), corners.max(axis=0)
    return [*(low * size).tolist(), *(high * size).tolist()]
