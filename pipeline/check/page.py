"""Writes the check of a dataset as one HTML page: no other file, no address, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from common.annotations import AnnotatedImage
from common.display import display_name, printable
from pipeline.check.box_findings import BOX_FINDINGS
from pipeline.check.console_report import (
    clipped_text,
    duplicates_text,
    group_text,
    group_title,
    headline,
    incomplete_text,
    leaks_text,
    problem_file,
    unlabelled_text,
)
from pipeline.check.dataset_check import DatasetCheck, Group, is_leak
from pipeline.check.photo_reading import Thumbnail
from pipeline.check.photo_selection import MAX_FINDING_CROPS, MAX_GROUP_PHOTOS, Face, Selection
from pipeline.check.statistics import FACE_SIZES, NO_SPLIT
from pipeline.check.suspects.finding import SuspectReport
from pipeline.inference.draw import class_colour

# Dashes tell classes apart without colours, and beyond the colours' number.
DASHES = ("", "7 4", "2 3")

MAX_LISTED = 2000  # photos or boxes in a list; of problems, all are listed
MAX_BOXES = 500  # on one picture
OPEN_GROUPS = 8  # of near-duplicates; the others are shown on demand


@dataclass(frozen=True)
class ClassStyle:
    """How the boxes of a class are drawn, as values of SVG attributes."""

    colour: str
    dash: str


@dataclass(frozen=True)
class PageBox:
    """A box on a picture, in pixels of the photo."""

    x: float
    y: float
    width: float
    height: float
    label: str
    style: ClassStyle


@dataclass(frozen=True)
class PageThumbnail:
    """A picture of the page with its boxes."""

    picture: Thumbnail
    boxes: tuple[PageBox, ...]
    caption: str

    @property
    def view_box(self) -> str:
        """Return the part of the photo that is shown, as SVG has it."""
        x1, y1, x2, y2 = self.picture.window
        return f"{x1} {y1} {x2 - x1} {y2 - y1}"


def render(check: DatasetCheck, selection: Selection, suspects: SuspectReport | None = None) -> str:
    """Return the page.

    Args:
        check: the numbers.
        selection: what is shown, with its pictures.
        suspects: the doubtful labels; None where they were not looked for.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.check"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["max_listed"] = MAX_LISTED  # for the macros
    return environment.get_template("check.html.j2").render({**_context(check, selection), "suspects": suspects})


def _context(check: DatasetCheck, selection: Selection) -> dict[str, Any]:
    read, found = check.annotations, check.statistics
    styles = class_styles(read.class_names)
    groups = check.near_duplicates
    return {
        "check": check,
        "name": display_name(check.data.resolve().name) or display_name(check.data),
        "headline": headline(check),
        "read": read,
        "found": found,
        "face_sizes": tuple(FACE_SIZES),
        "size_sums": [sum(each.by_size[name] for each in found.classes) for name in FACE_SIZES],
        "has_splits": set(found.by_split) != {NO_SPLIT},
        "sizes": [f"{width}x{height}" for width, height in found.size_range],
        "groups": [
            (group_title(group), [(problem_file(check, problem), problem.reason) for problem in group.problems])
            for group in check.problem_groups
        ],
        "incomplete_text": incomplete_text(check),
        "unlabelled_text": unlabelled_text(check),
        "clipped_text": clipped_text(check),
        "findings": [
            (meaning, check.findings_of(kind), _finding_pictures(check, kind, selection, styles))
            for kind, meaning in BOX_FINDINGS.items()
            if check.findings_of(kind)
        ],
        "duplicates_text": "" if groups is None else duplicates_text(check),
        "leaks_text": leaks_text(check) if check.leaks else "",
        "open_groups": OPEN_GROUPS,
        "duplicates": [
            (group_text(group), is_leak(group), _group_pictures(group, selection, styles)) for group in groups or ()
        ],
        "styles": styles,
        "sheet": _photos(selection.sheet, selection, styles),
        "class_sheets": {name: _faces(faces, selection, styles) for name, faces in selection.class_faces.items()},
    }


def class_styles(class_names: Sequence[str]) -> dict[str, ClassStyle]:
    """Return the style of each class; the colours are those of `detect`."""
    return {
        name: ClassStyle("rgb({}, {}, {})".format(*class_colour(i)), DASHES[i % len(DASHES)])
        for i, name in enumerate(class_names)
    }


def _photos(
    images: Sequence[AnnotatedImage], selection: Selection, styles: Mapping[str, ClassStyle]
) -> list[PageThumbnail]:
    """Return whole photos; one without a picture could not be read, or there are too many."""
    shown = [image for image in images if image.image_id in selection.whole_pictures]
    return [
        PageThumbnail(picture, _boxes(image, picture, styles), _photo_caption(image))
        for image in shown
        for picture in (selection.whole_pictures[image.image_id],)
    ]


def _photo_caption(image: AnnotatedImage) -> str:
    faces = f"{len(image.labels)} face{'s' if len(image.labels) != 1 else ''}"
    doubt = "" if image.complete else ", perhaps more"
    return f"{image.image_id}: {faces}{doubt}" + (f", {image.split}" if image.split else "")


def _faces(faces: Sequence[Face], selection: Selection, styles: Mapping[str, ClassStyle]) -> list[PageThumbnail]:
    """Return crops of faces."""
    found = []
    for image, face in faces:
        if picture := selection.face_pictures.get((image.image_id, face)):
            found.append(PageThumbnail(picture, _boxes(image, picture, styles), image.image_id))
    return found


def _finding_pictures(
    check: DatasetCheck, kind: str, selection: Selection, styles: Mapping[str, ClassStyle]
) -> list[PageThumbnail]:
    """Return the crops of a kind of finding, each with its detail."""
    found = []
    for each in check.findings_of(kind)[:MAX_FINDING_CROPS]:
        if picture := selection.face_pictures.get((each.image.image_id, each.face)):
            caption = f"{each.image.image_id}: {each.detail}"
            found.append(PageThumbnail(picture, _boxes(each.image, picture, styles), caption))
    return found


def _group_pictures(group: Group, selection: Selection, styles: Mapping[str, ClassStyle]) -> list[PageThumbnail]:
    return _photos(group[:MAX_GROUP_PHOTOS], selection, styles)


def _boxes(image: AnnotatedImage, picture: Thumbnail, styles: Mapping[str, ClassStyle]) -> tuple[PageBox, ...]:
    """Return the first boxes that the picture shows at least in part."""
    left, top, right, bottom = picture.window
    boxes: list[PageBox] = []
    for (x1, y1, x2, y2), label in zip(image.boxes.round(2).tolist(), image.labels, strict=True):
        if len(boxes) < MAX_BOXES and x1 < right and x2 > left and y1 < bottom and y2 > top:
            boxes.append(PageBox(x1, y1, round(x2 - x1, 2), round(y2 - y1, 2), label, styles[label]))
    return tuple(boxes)
