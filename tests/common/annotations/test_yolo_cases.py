"""The YOLO datasets of ../shared/cases: each is read right, or refused with one line."""

from __future__ import annotations

import numpy as np
import pytest

from common.annotations import Annotations, read_dataset
from common.annotations.options import ReadingArgs
from common.errors import UserError
from tests.helpers.cases import CASES, needs_cases

pytestmark = needs_cases

CENTER = [64, 42, 96, 78]  # `0.5 0.5 0.2 0.3` of 160x120 px
DRAWN = [30, 40, 80, 100]  # the face of the first drawing
# Case: photos per split, faces per class, the first face.
READ: dict[str, tuple[dict[str | None, int], dict[str, int], list[float]]] = {
    "cvat_ultralytics": ({"train": 3, "val": 3}, {"mask": 6}, CENTER),
    "cvat_yolo11": ({"train": 2}, {"mask": 2}, CENTER),
    "jfif_yolo": ({None: 2}, {"mask": 2}, CENTER),
    "yaml_prefix": ({"train": 1, "val": 1}, {"mask": 2}, CENTER),
    "yaml_windows": ({"train": 1, "val": 1}, {"mask": 2}, CENTER),
    "yaml_yes_no": ({"train": 2}, {"no": 1, "yes": 1}, CENTER),
    "yolo_conf_id": ({None: 2}, {"mask": 2}, CENTER),
    "yolo_face15_no_kpt_shape": ({"train": 12}, {"mask": 6, "no-mask": 6}, DRAWN),
    "yolo_landmarks15": ({"train": 4}, {"mask": 4, "no-mask": 4}, CENTER),
    "yolo_landmarks20": ({"train": 4}, {"mask": 4}, CENTER),
    "yolo_list_windows": ({"train": 4}, {"mask": 4}, DRAWN),
    "yolo_names_string": ({"train": 3}, {"mask": 3}, CENTER),
    "yolo_partial": ({None: 10}, {"mask": 3}, DRAWN),
    "yolo_utf16": ({None: 3}, {"mask": 3}, DRAWN),
    "yolo_yaml_other_name": ({"train": 3, "val": 3}, {"mask": 6}, CENTER),
}
REFUSED = {
    "yolo_train_images_label_missing_split": ("no class names", "classes.txt"),
    "yolo_yaml_cp949": ("data.yaml: is not UTF-8 text; it looks like CP949 (Korean)", "iconv -f CP949 -t UTF-8"),
}


def faces_per_class(read: Annotations) -> dict[str, int]:
    labels = sorted(label for image in read.images for label in image.labels)
    return {label: labels.count(label) for label in dict.fromkeys(labels)}


@pytest.mark.parametrize("case", READ)
def test_a_case_that_is_read(case: str) -> None:
    splits, classes, first = READ[case]
    read = read_dataset(CASES / case)
    found = [image.split for image in read.images]
    assert {split: found.count(split) for split in dict.fromkeys(found)} == splits
    assert faces_per_class(read) == classes
    np.testing.assert_allclose(read.images[0].boxes[0], first, atol=0.01)
    assert not read.refused_count and not read.incomplete and {p.kind for p in read.problems} <= {"changed"}


def test_photos_without_a_label_file_are_counted_or_left_out() -> None:
    assert len(read_dataset(CASES / "yolo_partial").unlabelled) == 7
    assert len(read_dataset(CASES / "yolo_partial", ReadingArgs(unlabelled="skip")).images) == 3


@pytest.mark.parametrize("case", REFUSED)
def test_a_case_that_is_refused(case: str) -> None:
    with pytest.raises(UserError) as raised:
        read_dataset(CASES / case)
    message = str(raised.value)
    assert message.startswith(str(CASES / case)) and len(message.splitlines()) == 1
    assert all(part in message for part in REFUSED[case])


def test_every_yolo_case_is_in_the_table() -> None:
    found = {p.name for p in CASES.iterdir() if p.name.startswith(("yolo_", "yaml_", "cvat_yolo", "cvat_ultra"))}
    assert found | {"jfif_yolo"} == READ.keys() | REFUSED.keys()
