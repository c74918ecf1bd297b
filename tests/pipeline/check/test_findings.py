"""The parts of `pipeline.check`: counts, box findings against a slow oracle, groups of problems, near-duplicates."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.annotations import AnnotatedImage, Problem
from common.annotations.types import ProblemKind
from pipeline.check import box_findings
from pipeline.check.box_findings import BOX_FINDINGS, find_boxes
from pipeline.check.console_report import group_text
from pipeline.check.dataset_check import is_leak
from pipeline.check.problem_groups import group_problems, is_failure
from pipeline.check.statistics import FACE_SIZES, FACES_PER_PHOTO, PHOTO_SIZES, count, histogram

CLASSES = ("with_mask", "without_mask")


def image_of(
    boxes: list[tuple[float, ...]], labels: list[str], size: tuple[int, int], number: int = 0
) -> AnnotatedImage:
    return AnnotatedImage(Path(f"{number}.png"), str(number), size, np.array(boxes, np.float32), tuple(labels))


@st.composite
def images(draw: st.DrawFn) -> list[AnnotatedImage]:
    made = []
    for number in range(draw(st.integers(1, 4))):
        width, height = draw(st.integers(1, 300)), draw(st.integers(1, 300))
        boxes = []
        for _ in range(draw(st.integers(0, 6))):
            x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
            boxes.append((x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))))
        labels = draw(st.lists(st.sampled_from(CLASSES), min_size=len(boxes), max_size=len(boxes)))
        made.append(image_of(boxes, labels, (width, height), number))
    return made


@settings(max_examples=30, derandomize=True)
@given(images())
def test_every_photo_and_face_is_counted_once(made: list[AnnotatedImage]) -> None:
    found = count(made, CLASSES)
    faces = sum(len(image.labels) for image in made)
    assert found.photos == len(made) and found.faces == faces
    assert sum(found.by_split.values()) == sum(found.faces_per_photo.values()) == len(made)
    assert sum(found.photo_sizes.values()) == len(made)
    assert (
        sum(each.faces for each in found.classes) == sum(sum(each.by_size.values()) for each in found.classes) == faces
    )
    assert all(each.photos == sum(each.name in image.labels for image in made) for each in found.classes)
    areas = [width * height for width, height in found.size_range]
    assert areas == sorted(areas) and areas[0] == min(image.size[0] * image.size[1] for image in made)


@settings(max_examples=50, derandomize=True)
@given(images())
def test_box_findings_are_those_of_the_definitions(made: list[AnnotatedImage]) -> None:
    expected: list[tuple[str, str, int]] = []
    for image in made:
        for i, (x1, y1, x2, y2) in enumerate(image.boxes.tolist()):
            width, height = x2 - x1, y2 - y1
            kinds = {
                "tiny": min(width, height) < 8,
                "huge": width * height > 0.9 * image.size[0] * image.size[1],
                "long": max(width, height) > 3 * min(width, height),
            }
            expected += [(kind, image.image_id, i) for kind, holds in kinds.items() if holds]
            for j, (u1, v1, u2, v2) in enumerate(image.boxes.tolist()[i + 1 :], i + 1):
                shared = max(min(x2, u2) - max(x1, u1), 0) * max(min(y2, v2) - max(y1, v1), 0)
                if shared >= 0.5 * (width * height + (u2 - u1) * (v2 - v1) - shared):
                    kind = "twice" if image.labels[i] == image.labels[j] else "two_classes"
                    expected.append((kind, image.image_id, i))
    found = find_boxes(made)
    assert Counter((each.kind, each.image.image_id, each.face) for each in found) == Counter(expected)
    order = [list(BOX_FINDINGS).index(each.kind) for each in found]
    assert order == sorted(order)


def test_many_boxes_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = [(float(3 * i), 0.0, float(3 * i + 20), 20.0) for i in range(90)]
    image = image_of(boxes, ["x"] * 90, (400, 30))
    whole = [(each.kind, each.face, each.detail) for each in find_boxes([image])]
    monkeypatch.setattr(box_findings, "_ROWS", 7)
    assert [(each.kind, each.face, each.detail) for each in find_boxes([image])] == whole
    assert len(whole) == 89 + 88  # shifts by 3 px have an IoU of 0.74, by 6 px 0.54, by 9 px 0.38


@pytest.mark.parametrize(
    ("ranges", "value", "name"),
    [
        (FACE_SIZES, 11.99, "<12"),
        (FACE_SIZES, 12, "12-24"),
        (FACE_SIZES, 191.9, "96-192"),
        (FACE_SIZES, 192, "192+"),
        (FACES_PER_PHOTO, 0, "0"),
        (FACES_PER_PHOTO, 5, "3-5"),
        (FACES_PER_PHOTO, 6, "6-10"),
        (FACES_PER_PHOTO, 20, "11-20"),
        (FACES_PER_PHOTO, 21, "21+"),
        (PHOTO_SIZES, 319, "<320"),
        (PHOTO_SIZES, 2560, "2560+"),
    ],
)
def test_a_value_is_counted_in_its_range(ranges: dict[str, int], value: float, name: str) -> None:
    assert histogram([value], ranges) == {each: int(each == name) for each in ranges}


def test_problems_are_grouped_by_their_kind_of_reason() -> None:
    labels = Path("labels")
    problems = [
        Problem(labels / "a.txt", "line 3 has 20 values, which is not a box or a polygon; left out", objects=1),
        Problem(Path("a.xml"), "is for a 60x80 image, but the image is 120x160; boxes were scaled", "changed"),
        Problem(labels / "a.txt", "line 14 has 7 values, which is not a box or a polygon; left out", objects=2),
        Problem(labels / "b.txt", "is not UTF-8 text; not used, save it as UTF-8"),
        Problem(Path("b.xml"), "is for a 6x8 image, but the image is 12x16; boxes were scaled", "changed"),
        Problem(Path("x.png"), "no annotation; not used", "unmatched"),
        Problem(Path("c.xml"), "malformed XML (not well-formed (invalid token): line 1, column 2); not used"),
        Problem(Path("d.xml"), "malformed XML (no element found: line 7, column 0); not used"),
        Problem(Path("e.json"), "image 'my photo 1.png' is missing; not used", "unmatched"),
        Problem(Path("e.json"), "image 'x/y.png' is missing; not used", "unmatched"),
        Problem(Path("f.xml"), "no image f1.* in /data/images; not used", "unmatched"),
        Problem(Path("g.xml"), "no image g-g.* in /data/images; not used", "unmatched"),
    ]
    groups = group_problems(problems)
    assert [(group.kind, group.reason, len(group.problems), group.faces) for group in groups] == [
        ("refused", "line N has N values, which is not a box or a polygon; left out", 2, 3),
        ("refused", "malformed XML (…); not used", 2, 0),
        ("refused", "is not UTF-8 text; not used, save it as UTF-8", 1, 0),
        ("unmatched", "image … is missing; not used", 2, 0),
        ("unmatched", "no image … in …; not used", 2, 0),
        ("unmatched", "no annotation; not used", 1, 0),
        ("changed", "is for a N image, but the image is N; boxes were scaled", 2, 0),
    ]


@settings(max_examples=50, derandomize=True)
@given(st.lists(st.builds(Problem, st.just(Path("a")), st.text(), st.sampled_from(["refused", "changed"]))))
def test_each_problem_is_in_one_group(problems: list[Problem]) -> None:
    grouped = [problem for group in group_problems(problems) for problem in group.problems]
    assert sorted(map(id, grouped)) == sorted(map(id, problems))


@pytest.mark.parametrize(
    ("file", "kind", "objects", "failure"),
    [
        ("a.xml", "refused", 0, True),
        ("a.png", "refused", 0, True),
        ("a.xml", "unmatched", 0, True),  # an annotation without its photo
        ("a.txt", "unmatched", 3, True),
        ("a.JPG", "unmatched", 0, False),  # a photo without its annotation
        ("a.xml", "changed", 0, False),
    ],
)
def test_what_gives_exit_code_1(file: str, kind: ProblemKind, objects: int, failure: bool) -> None:
    assert is_failure(Problem(Path(file), "why", kind, objects)) is failure


def test_a_large_group_is_named_by_its_first_photos() -> None:
    group = [image_of([], [], (9, 9), number) for number in range(14)]
    assert group_text(tuple(group[:2])) == "0, 1"
    assert group_text(tuple(group)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more"


@pytest.mark.parametrize(
    ("splits", "leak"),
    [(["train", "val"], True), (["train", "train"], False), ([None, None], False), (["train", None], False)],
)
def test_a_leak_is_between_two_splits(splits: list[str | None], leak: bool) -> None:
    empty = np.zeros((0, 4), np.float32)
    group = tuple(AnnotatedImage(Path("a"), str(i), (9, 9), empty, (), split) for i, split in enumerate(splits))
    assert is_leak(group) is leak
