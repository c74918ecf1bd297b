"""Pascal VOC datasets made after public reports and tools' own exports: boxes, classes, splits and messages."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from common.annotations.loading import load_dataset
from tests.helpers.cases import CASES, needs_cases

pytestmark = needs_cases

BOX = [9.0, 9.0, 40.0, 50.0]  # (10, 10, 40, 50) in VOC's pixels
HULL = [39.28, 74.81, 160.72, 205.19]  # of the 110x120 box at (100, 140), turned by 0.1 radians


@dataclass(frozen=True)
class Case:
    """What reading a case must give."""

    boxes: dict[str, list[float]]  # the box by image id
    splits: tuple[str, ...] = ()
    label: str = "with_mask"
    refused: int = 0
    lines: tuple[str, ...] = ()  # parts of the lines that a command shows


EXPECTED = {
    "voc_Images_capital": Case({"a0": BOX, "a1": BOX}),
    "voc_in_labels": Case({"a0": BOX, "a1": BOX}, label="good"),
    "voc_train_nested": Case(
        {"test0": BOX, "test1": BOX, "train0": BOX, "train1": BOX}, ("test", "test", "train", "train")
    ),
    "kaggle_double_nested": Case({"a0": BOX, "a1": BOX}),
    "voc_encodings": Case(
        {f"a{i}": BOX for i in range(6)},
        lines=("a6.xml: is not UTF-8 text; it looks like GB18030 (Chinese)", "iconv -f GB18030 -t UTF-8"),
    ),
    "voc_exif": Case(
        {**{name: [10, 10, 40, 50] for name in ("o2", "o3", "o6sq", "o6up")}, "o8scaled": [20, 20, 80, 100]},
        refused=1,
        lines=(
            "o6raw.xml: is for a 160x120 image, but the image is 120x160 after its EXIF rotation; not used",
            "note: 3 photos are turned by EXIF, and sizes do not tell whether their boxes are, too",
        ),
    ),
    "refused_face_becomes_reject": Case(
        {
            **{f"h{i}": HULL for i in range(4)},
            **{f"h{i}": [102 + 8 * (i - 4), 100, 212 + 8 * (i - 4), 220] for i in range(4, 9)},
        },
        label="",
    ),
    "jfif_many": Case({f"a{i}": [30, 40, 80, 100] for i in range(14)}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_case_is_read_as_it_must(name: str) -> None:
    case, lines = EXPECTED[name], list[str]()
    read = load_dataset(CASES / name, log=lines.append)
    boxes = {image.image_id: [round(edge, 2) for edge in image.boxes[0].tolist()] for image in read.images}
    assert boxes == {image_id: [round(float(edge), 2) for edge in box] for image_id, box in case.boxes.items()}
    assert all(len(image.boxes) == 1 and image.complete for image in read.images)
    if case.label:
        assert {image.labels for image in read.images} == {(case.label,)}
    assert tuple(image.split or "" for image in read.images) == (case.splits or ("",) * len(read.images))
    assert read.refused_count == case.refused
    for part in case.lines:
        assert sum(part in line for line in lines) == 1, lines
    if not case.lines:
        assert not lines
