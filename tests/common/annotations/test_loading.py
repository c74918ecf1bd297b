"""What commands report of a dataset: problems at once, counts, parts without a face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.annotations import AnnotatedImage, ReadingArgs, count_line, load_dataset, require_faces
from common.annotations.class_names import suggest_renames
from common.annotations.collect import DatasetError
from common.annotations.types import fingerprint
from common.boxes import max_iou
from common.errors import UserError
from tests.helpers.incomplete_data import BOTH, write_half_refused, write_incomplete
from tests.helpers.yolo_sets import save_photo, save_text


def test_refused_faces_are_reported_at_once_and_counted(tmp_path: Path) -> None:
    lines: list[str] = []
    data = load_dataset(write_half_refused(tmp_path / "data"), log=lines.append)
    assert [image.complete for image in data.images] == [True, False, True, False]
    assert sum("left out" in line and line.startswith("warning: ") for line in lines) == 2
    assert "note: 2 of 8 annotated faces were refused" in lines
    assert any(line.startswith("note: 2 photos may show a face without a box") for line in lines)
    line = "data: 2 of 8 annotated faces refused; 2 photos that may show a face without a box"
    assert count_line(data) == line


def test_without_anything_to_count_there_is_no_line(tmp_path: Path) -> None:
    assert count_line(load_dataset(write_incomplete(tmp_path / "data", {"a": BOTH}, {}, {}))) == ""


def test_notes_are_lines_that_can_be_shown(tmp_path: Path) -> None:
    lines: list[str] = []
    root = tmp_path / "data\x1b[2J"
    save_photo(root / "images/a.jpg")
    save_text(root / "labels/a.txt", "0 0.5 0.5 0.2 0.3")
    save_text(root / "data.yaml", "train: images\nnc: 2\nnames: [mask]\n")
    load_dataset(root, log=lines.append)
    assert all(line.isprintable() for line in lines)
    assert f"note: {tmp_path}/data\ufffd[2J/data.yaml: nc is 2, but it names 1 classes; the names are used" in lines


def test_the_problems_of_a_dataset_without_a_face_are_reported(tmp_path: Path) -> None:
    lines: list[str] = []
    root = write_incomplete(tmp_path / "data", {"a": ()}, {"a": BOTH}, {})
    with pytest.raises(DatasetError, match="no image has a face"):
        load_dataset(root, log=lines.append)
    assert len(lines) == 2 and all("a.xml" in line for line in lines)


def test_completeness_and_new_names_are_in_the_fingerprint(tmp_path: Path) -> None:
    root = write_half_refused(tmp_path / "data")
    refused = load_dataset(root, log=lambda _: None).images
    renamed = load_dataset(root, ReadingArgs(rename=("with_mask=covered",)), lambda _: None).images
    assert fingerprint(refused) != fingerprint(renamed)
    complete = write_incomplete(tmp_path / "other", {f"p{i}": BOTH[: 2 - i % 2] for i in range(4)}, {}, {})
    assert fingerprint(refused) != fingerprint(load_dataset(complete).images)


def test_a_part_needs_faces() -> None:
    face = AnnotatedImage(Path("a.png"), "a", (8, 8), np.float32([[0, 0, 4, 4]]), ("face",))
    empty = AnnotatedImage(Path("b.png"), "b", (8, 8), np.zeros((0, 4), np.float32), ())
    require_faces([empty, face], "s.csv: split 'val'", "make it again")
    with pytest.raises(UserError, match=r"^s\.csv: split 'val' has no face in its 2 photos; make it again$"):
        require_faces([empty, empty], "s.csv: split 'val'", "make it again")
    with pytest.raises(UserError, match=r"^s\.csv: split 'val' has no photo; make it again$"):
        require_faces([], "s.csv: split 'val'", "make it again")


def test_likely_names_of_unknown_classes() -> None:
    known = ("with_mask", "without_mask", "mask_weared_incorrect")
    found = suggest_renames(("no-mask", "Mask", "with_mask", "Without Mask", "helmet"), known)
    assert found == {"Mask": "with_mask", "Without Mask": "without_mask", "no-mask": "without_mask"}
    assert suggest_renames(("mask", "Hard-Hat"), ("hard hat", "head")) == {"Hard-Hat": "hard hat"}


def test_largest_overlaps_by_hand() -> None:
    boxes = np.float32([[0, 0, 10, 10], [5, 0, 15, 10], [50, 50, 60, 60]])
    others = np.float32([[0, 0, 10, 10], [5, 0, 15, 20]])
    assert max_iou(boxes, others).tolist() == pytest.approx([1, 0.5, 0])
    assert max_iou(boxes, others[:0]).tolist() == [0, 0, 0] and max_iou(boxes[:0], others).shape == (0,)
