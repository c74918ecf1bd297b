"""COCO datasets of `../shared/cases`, made after public reports: what is read of each, and what is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.annotations import load_dataset
from common.errors import UserError
from pipeline.data.split import main as split
from tests.helpers.cases import CASES, needs_cases

pytestmark = needs_cases

BOX = [10.0, 10.0, 40.0, 50.0]
MASK = ("with_mask",)
# Case: the box, class and split of each image, a part of what is said, and the number of problems.
READ = {
    "coco_all_iscrowd": ([BOX] * 4, MASK * 4, [None] * 4, "all 4 annotations are crowd regions", 0),
    "coco_class_spaces": (
        [BOX] * 6,
        ("mask", "mask", "Mask") * 2,
        [None] * 6,
        "the classes 'Mask' and 'mask' differ",
        0,
    ),
    "coco_float_ids": ([BOX] * 4, MASK * 4, [None] * 4, "", 0),
    "coco_many_tasks": (
        [[30.0, 40.0, 80.0, 100.0]] * 6,
        ("mask", "no-mask") * 3,
        [None] * 6,
        "ignored, because it has no boxes: image_info_default.json, labels_default.json",
        0,
    ),
    "coco_nfd": ([BOX] * 4, MASK * 4, [None] * 4, "", 0),
    "coco_no_bbox": ([BOX] * 4, MASK * 4, [None] * 4, "4 faces have no bbox", 0),
    "coco_official_layout": (
        [[30.0, 40.0, 80.0, 100.0]] * 9,
        (*("mask", "no-mask") * 3, "mask", "no-mask", "mask"),
        ["train"] * 6 + ["val"] * 3,
        "",
        0,
    ),
    "coco_same_names_b": (
        [BOX, BOX, [90.0, 10.0, 120.0, 50.0]],
        MASK * 3,
        ["train", "train", "val"],
        "val/frame_000000.jpg: not listed",
        3,
    ),
    "labelstudio_coco": ([[10.5, 10.25, 40.5, 50.25]] * 2, ("mask", "no-mask"), [None] * 2, "", 0),
}


@pytest.mark.parametrize("case", READ)
def test_cases_that_are_read(case: str) -> None:
    boxes, labels, splits, said, problems = READ[case]
    lines: list[str] = []
    read = load_dataset(CASES / case, log=lines.append)
    assert [image.boxes.tolist() for image in read.images] == [[box] for box in boxes]
    assert [image.labels for image in read.images] == [(label,) for label in labels]
    assert [image.split for image in read.images] == splits
    assert len(read.problems) == problems and said in "\n".join(lines)
    assert read.refused_count == 0 and not read.incomplete
    for image in read.images:
        assert image.split is None or image.path.parent.name.startswith(image.split)


def test_normalised_boxes_are_refused() -> None:
    with pytest.raises(UserError, match="boxes look normalised"):
        load_dataset(CASES / "coco_normalised")


def test_split_keeps_the_folders_of_the_official_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shutil.copytree(CASES / "coco_official_layout", tmp_path / "data")
    out = tmp_path / "x.csv"
    code = split(["--data", str(data), "--out", str(out), "--keep-folders"])
    assert code == 0, capsys.readouterr().err
    rows = [line.split(",") for line in out.read_text().split()[1:]]
    assert [row[1] for row in rows if row[0].endswith("000000000100")] == ["val"]
    assert split(["--data", str(CASES / "coco_normalised"), "--out", str(tmp_path / "y.csv")]) == 1
    assert "boxes look normalised" in capsys.readouterr().err and not (tmp_path / "y.csv").exists()
