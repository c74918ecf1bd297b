"""Read COCO detection JSON, as COCO, Roboflow, CVAT, Datumaro, Label Studio and others write it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.annotations.coco_files import CocoFile, PhotoMatcher, Tables, coco_files, load_tables, outline_hull
from common.annotations.collect import (
    MAX_NORMALISED,
    Collector,
    RawFace,
    Size,
    looks_normalised,
    parse_number,
    parse_size,
)
from common.annotations.options import DEFAULT_READING, ReadingArgs
from common.annotations.photos import AmbiguousNameError, header_size
from common.annotations.shapes import Box, rotated_box_hull
from common.annotations.types import Annotations, ProblemKind
from common.errors import MediaError, UserError

# Boxes that are xyxy, read as xywh, leave the image in bulk; boxes drawn past the edge do so seldom, and not by much.
MAX_OUTSIDE = 0.05  # of the image's side
MIN_LEAVING, MIN_LEAVING_SHARE, MIN_FITTING_SHARE = 3, 0.25, 0.98


@dataclass
class ListedImage:
    """One image as a COCO file lists it, with its faces."""

    file: CocoFile
    name: str
    size: Size | None
    faces: list[RawFace] = field(default_factory=list)
    complete: bool = True
    refusal: str = ""  # why the image cannot be used
    missing: bool = False  # no photo has this name
    photo: Path | None = None

    def pixel_size(self) -> Size | None:
        """Return the (width, height) that the boxes are for, or None for a photo that is not there."""
        if self.size is not None or self.photo is None:
            return self.size
        try:
            return header_size(self.photo)[1]
        except MediaError:
            return None  # reported when the photo is added


def read_coco(path: Path | str, options: ReadingArgs = DEFAULT_READING) -> Annotations:
    """Read a COCO JSON file, or a folder with COCO files.

    Boxes are xywh in 0-based pixels. A face without a box has the hull of its polygons or mask; a rotated box (CVAT's
    attribute `rotation`) has its upright hull. Crowd regions (`iscrowd`) are left out and counted, unless there are
    only those. Files of tasks without boxes are ignored, and the faces of all others are merged. Only categories that
    faces use become classes: Roboflow lists an unused one first. An image without annotations has no faces. An unlisted
    image in a folder of listed images is reported and not used.

    Args:
        path: a JSON file, whose images are near it, or a dataset's folder.
        options: how to read it.

    Raises:
        UserError: there is no COCO file, no usable image, or no face; or the boxes are not in pixels.
    """
    root = Path(path)
    files = coco_files(root) if root.exists() else []
    if not files:
        raise UserError(f"{root}: no COCO dataset (a .json file with images, annotations and categories)")
    collector = Collector(root, options.rename)
    tables = load_tables(files, collector)
    rows = [row for table in tables.values() for row in table["annotations"]]
    only_crowds = all(_is_crowd(row) for row in rows)
    counts: Counter[str] = Counter()
    listed = [
        image
        for file, table in tables.items()
        for image in _FileReader(file, table, collector, counts, use_crowds=only_crowds).read()
    ]
    _add_notes(counts, collector)
    matcher = PhotoMatcher(root, files)
    doubtful = _match(listed, matcher)
    by_photo: dict[Path, list[ListedImage]] = defaultdict(list)
    for image in listed:
        if image.photo is not None:
            by_photo[image.photo].append(image)
    for file in tables:
        _check_units(file, [image for image in listed if image.file is file], collector)
    _add_unused(root, listed, set(by_photo) | doubtful, matcher, collector)
    for photo, images in by_photo.items():
        _add_photo(photo, images, photo not in doubtful, root.is_dir(), collector)
    return collector.finish("COCO")


def _key(value: Any) -> str:
    """Return an id as text: 1, 1.0, "1" and "0001" are equal, because pandas changes one into the other."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        whole, _, rest = value.strip().partition(".")
        return (whole.lstrip("0") or "0") if whole.isdecimal() and not rest.strip("0") else value.strip()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:  # larger ones are not exact
        return str(int(value))
    return str(value)


def _is_crowd(row: dict[str, Any]) -> bool:
    """Return whether an annotation is a crowd region; the flag is 0 or 1, or any other spelling of them."""
    flag = row.get("iscrowd")
    number = float(flag) if isinstance(flag, bool) else parse_number(flag)
    return str(flag).strip().lower() == "true" or not (math.isnan(number) or number == 0)


class _FileReader:
    """Reads the tables of one COCO file."""

    def __init__(
        self, file: CocoFile, tables: Tables, collector: Collector, counts: Counter[str], use_crowds: bool
    ) -> None:
        self._file = file
        self._tables = tables
        self._collector = collector
        self._counts = counts
        self._use_crowds = use_crowds

    def read(self) -> list[ListedImage]:
        """Return the images with their faces; faces that belong to none of them become problems."""
        names = self._category_names()
        self._refuse_shifted_categories(names)
        by_id, images = self._images()
        crowds = strays = 0
        for number, row in enumerate(self._tables["annotations"], start=1):
            image = by_id.get(_key(row.get("image_id")))
            location = _location(row, number, image)
            fault = None
            strays += image is None
            if _is_crowd(row) and not self._use_crowds:
                crowds += 1
            elif image is None:
                fault = f"is of image {row.get('image_id')}, which is not listed"
            elif len(found := names.get(_key(row.get("category_id")), [])) != 1:
                fault = f"has the unknown category {row.get('category_id')}"
                if found:
                    fault = f"has the category {row.get('category_id')}, which has the names {' and '.join(found)}"
            else:
                image.faces.append(RawFace(location, found[0], self._box(row, image.size)))
                continue
            if image is not None:
                image.complete = False
            if fault:
                self._collector.add_problem(self._file.path, f"{location} {fault}; left out", objects=1)
        for image in images:
            if strays and not image.faces:  # its faces may have a wrong image_id
                image.complete = False
        if crowds:
            self._counts["crowds"] += crowds
            what = f"{crowds} crowd regions (iscrowd 1) are not boxes of one face; left out"
            self._collector.add_problem(self._file.path, what, objects=crowds)
        elif self._use_crowds:
            self._counts["used crowds"] += len(self._tables["annotations"])
        return images

    def _category_names(self) -> dict[str, list[str]]:
        """Return the names of each category id: one, if the file is right."""
        names: dict[str, list[str]] = defaultdict(list)
        for row in self._tables["categories"]:
            name = _text(row.get("name"))
            if name not in names[_key(row.get("id"))]:
                names[_key(row.get("id"))].append(name)
        return names

    def _refuse_shifted_categories(self, names: Iterable[str]) -> None:
        """Raise DatasetError where annotations count categories from 0 and the file's list from 1, or the reverse."""
        rows = [row for row in self._tables["annotations"] if self._use_crowds or not _is_crowd(row)]
        keys = set(names), {_key(row.get("category_id")) for row in rows}
        listed, used = (sorted(int(key) for key in each if key.isdecimal()) for each in keys)
        if len(listed) < 2 or not used:
            return
        shift = used[0] - listed[0]
        if abs(shift) != 1 or used[-1] - listed[-1] != shift or listed[-1] - listed[0] != len(listed) - 1:
            return
        what = f"annotations have the categories {used[0]} to {used[-1]}, but it lists {listed[0]} to {listed[-1]}"
        fix = "add 1 to" if shift < 0 else "subtract 1 from"
        fix = f"{fix} each `category_id`; if they are right, list category {used[0] if shift < 0 else used[-1]}"
        raise self._collector.error(f"{self._file.path}: its {what}, so classes would be wrong; {fix}")

    def _images(self) -> tuple[dict[str, ListedImage], list[ListedImage]]:
        """Return the images by their id, and all images."""
        by_id: dict[str, ListedImage] = {}
        images = []
        for row in self._tables["images"]:
            name, key = _text(row.get("file_name")), _key(row.get("id"))
            image = ListedImage(self._file, name, parse_size(row.get("width"), row.get("height")))
            first = by_id.get(key)
            if row.get("id") is None:
                image.refusal = f"image {name!r} has no id; not used"
            elif first is None:
                by_id[key] = image
            elif first.name == name:
                what = f"image id {row['id']} is listed twice for {name!r}; used once"
                self._collector.add_problem(self._file.path, what, "changed")
                continue
            else:  # the faces of this id may be of either image
                both = f"image id {row['id']} is given to {first.name!r} and to {name!r}"
                image.refusal = first.refusal = f"{both}; not used, give each image its own id"
            images.append(image)
        return by_id, images

    def _box(self, row: dict[str, Any], size: Size | None) -> Box:
        """Return an annotation's box, else the hull of its outline; NaN without either."""
        bbox = row.get("bbox")
        x, y, width, height = map(parse_number, bbox if isinstance(bbox, list) and len(bbox) == 4 else [None] * 4)
        attributes = row.get("attributes")
        turned = parse_number(attributes.get("rotation")) if isinstance(attributes, dict) else math.nan
        if not (width > 0 and height > 0):
            hull = outline_hull(row.get("segmentation"), size)
            if hull is not None:
                self._counts["hulls"] += 1
                return hull
        elif math.isfinite(turned) and turned % 180:
            self._counts["rotated"] += 1
            return rotated_box_hull(x + width / 2, y + height / 2, width, height, math.radians(turned))
        return x, y, x + width, y + height


def _location(row: dict[str, Any], number: int, image: ListedImage | None) -> str:
    """Return where an annotation is in its file, such as "image 'a.jpg': annotation 3"."""
    place = f"annotation {row['id']}" if row.get("id") is not None else f"annotation number {number}"
    return place if image is None else f"image {image.name!r}: {place}"


def _text(value: Any) -> str:
    """Return a name as text; JSON's true and false as written, and "" for what is not a name."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else ""


def _add_notes(counts: Counter[str], collector: Collector) -> None:
    """Add what was read otherwise than as boxes."""
    if crowds := counts["crowds"]:
        collector.add_note(f"{crowds} crowd regions (iscrowd 1) were left out: they are not boxes of one face")
    if crowds := counts["used crowds"]:
        collector.add_note(f"all {crowds} annotations are crowd regions (iscrowd 1): their boxes are used as faces")
    if hulls := counts["hulls"]:
        collector.add_note(f"{hulls} faces have no bbox: the box around their polygons or mask is used")
    if rotated := counts["rotated"]:
        collector.add_note(f"{rotated} rotated boxes were read as the upright boxes around them")


def _match(listed: list[ListedImage], matcher: PhotoMatcher) -> set[Path]:
    """Set the photo, or the reason why there is none, of each listed image; return photos that may lack faces."""
    doubtful: set[Path] = set()
    claims: dict[Path, list[ListedImage]] = defaultdict(list)
    for image in listed:
        try:
            photo = matcher.find(image.name, image.file)
        except AmbiguousNameError as error:
            image.refusal = image.refusal or f"image {error}; not used"
            doubtful.update(error.candidates)
            continue
        if photo is None:
            image.missing = not image.refusal
            image.refusal = image.refusal or matcher.missing(image.name)
        elif image.refusal:
            doubtful.add(photo)
        else:
            image.photo = photo
            claims[photo].append(image)
    for photo, images in claims.items():
        if len({image.name for image in images}) > 1 and not _settle(photo, images, matcher):
            doubtful.add(photo)
    return doubtful


def _settle(photo: Path, images: list[ListedImage], matcher: PhotoMatcher) -> bool:
    """Keep the listed images whose name fits a photo best, and refuse the others; return whether any is kept.

    "a.jpg" and "a.png" are two images, also where only a.jpg is there; "a.jpg" and "images/a.jpg" are one.
    """
    fits = {id(image): matcher.fit(image.name, photo) for image in images}
    best = max(images, key=lambda image: fits[id(image)])
    rivals = [image for image in images if not matcher.are_one(image.name, best.name, photo, image.file is best.file)]
    tied = any(fits[id(image)] == fits[id(best)] for image in rivals)
    for image in images if tied else rivals:
        image.photo, image.missing = None, not tied
        image.refusal = f"image {image.name!r} is missing ({photo.name} is listed as another image); not used"
        if tied:
            names = " and ".join(sorted({repr(other.name) for other in images})[:2])
            image.refusal = f"{names} are two images, but only {photo.name} is there; not used, add the other one"
    return not tied


def _check_units(file: CocoFile, listed: list[ListedImage], collector: Collector) -> None:
    """Raise DatasetError when a file's boxes are not xywh in pixels; refuse single boxes that look normalised."""
    faces = [
        (image, face)
        for image in listed
        for face in image.faces
        if face.box[2] > face.box[0] and face.box[3] > face.box[1]
    ]
    tiny = [(image, face) for image, face in faces if looks_normalised(face.box, image.pixel_size())]
    fix = "export it again as COCO, or convert the boxes to x, y, width, height in pixels"
    if tiny and len(tiny) == len(faces):
        raise collector.error(f"{file.path}: its boxes look normalised (all numbers are below {MAX_NORMALISED}); {fix}")
    if _look_like_corners(faces):
        raise collector.error(f"{file.path}: its boxes look like corners (x1, y1, x2, y2); {fix}")
    for image, face in tiny:
        image.faces.remove(face)
        image.complete = False
        values = ", ".join(f"{value:g}" for value in face.box)
        collector.add_problem(
            file.path, f"{face.location} has a box that looks normalised ({values}); left out", objects=1
        )


def _look_like_corners(faces: list[tuple[ListedImage, RawFace]]) -> bool:
    """Return whether boxes, read as xywh, leave their images in bulk, and fit as xyxy."""
    corners = [(image, face, face.box[2] - face.box[0], face.box[3] - face.box[1]) for image, face in faces]
    corners = [row for row in corners if row[2] > row[1].box[0] and row[3] > row[1].box[1]]
    if len(corners) < max(MIN_LEAVING, MIN_FITTING_SHARE * len(faces)):
        return False
    fitting = leaving = 0
    for image, face, right, bottom in corners:
        if size := image.pixel_size():
            fitting += right <= size[0] + 1 and bottom <= size[1] + 1
            leaving += any(face.box[2 + side] > size[side] * (1 + MAX_OUTSIDE) for side in (0, 1))
    return fitting >= MIN_FITTING_SHARE * len(faces) and leaving >= max(MIN_LEAVING, MIN_LEAVING_SHARE * len(faces))


def _add_photo(photo: Path, images: list[ListedImage], certain: bool, keep_split: bool, collector: Collector) -> None:
    """Add a photo with the faces of all files that list it."""
    by_split: dict[str, set[tuple[str, tuple[float, ...]]]] = defaultdict(set)
    for image in images:
        if image.file.split:
            by_split[image.file.split].update((face.label, tuple(face.box)) for face in image.faces)
    if any(faces != by_split[split] for faces in by_split.values() for split in by_split):
        for image in images:
            what = f"{image.name!r} is listed for {' and '.join(by_split)} with different faces, as two images would be"
            collector.add_problem(
                image.file.path, f"{what}; not used, give the folders in file_name", objects=len(image.faces)
            )
        return
    first = images[0]
    faces, split = list(first.faces), first.file.split
    complete = certain and all(image.complete for image in images)
    for image in images[1:]:
        file = image.file.path
        own, size = image.pixel_size(), first.pixel_size()
        if own and size and own != size:
            differ = f"{own[0]}x{own[1]}, but with {size[0]}x{size[1]} in {first.file.path.name}"
            what = f"{image.name!r} is listed with the size {differ}; its faces here are not used"
            collector.add_problem(file, what, objects=len(image.faces))
            complete = complete and not image.faces
            continue
        if image.file is first.file:
            collector.add_problem(file, f"{image.name!r} is listed twice; the faces of both were taken", "changed")
            faces += image.faces
        else:
            faces += [replace(face, location=f"{face.location} of {file.name}") for face in image.faces]
        if split and image.file.split and image.file.split != split:
            what = f"{image.name!r} is listed for {image.file.split}, and for {split} in {first.file.path.name}"
            collector.add_problem(file, f"{what}; taken for {split}", "changed")
        split = split or image.file.split
    collector.add(photo, first.file.path, faces, first.size, split if keep_split else None, complete)


def _add_unused(
    root: Path, listed: list[ListedImage], used: set[Path], matcher: PhotoMatcher, collector: Collector
) -> None:
    """Add the listed images without a photo, and the photos that no file lists, as problems."""
    refused = [image for image in listed if image.photo is None]
    missing = [image for image in refused if image.missing]
    folders = {image.photo.parent for image in listed if image.photo is not None}
    others = [photo for photo in matcher.photos if photo not in used]
    if missing and len(missing) == len(listed):
        there = f"it has {len(others)} photos, such as {others[0].name}" if others else "it has no photos"
        what = f"none of the {len(missing)} listed images is there, such as {missing[0].name!r}; {there}"
        collector.add_problem(root, f"{what}; give the folder that has both the JSON and the images")
    for image in refused:
        kind: ProblemKind = "unmatched" if image.missing else "refused"
        collector.add_problem(image.file.path, image.refusal, kind, len(image.faces))
    near = [photo for photo in others if photo.parent in folders]
    for photo in near:
        collector.add_problem(photo, "not listed in a COCO file; not used", "unmatched")
    if near and missing:
        names = f"{missing[0].name!r} is missing, {near[0].name} is not listed"
        what = f"{len(missing)} listed images are missing, and {len(near)} photos are not listed"
        collector.add_note(f"{what}: check their names ({names})")
    if root.is_dir() and folders and len(others) > len(near):
        away = next(photo for photo in others if photo.parent not in folders)
        collector.add_note(f"{len(others) - len(near)} photos in other folders are not used, such as {away}")
