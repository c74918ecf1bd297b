"""Inputs that people really have (`../shared/cases`): what a command makes of each, as one table."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers.cases import CASES, needs_cases
from tests.helpers.in_process import run_in_process

pytestmark = needs_cases


@dataclass(frozen=True)
class Read:
    """What `pipeline.check` must find in a dataset: faces by class, and the other numbers."""

    faces: dict[str, int]
    photos: int
    code: int = 0
    refused: int = 0
    unlabelled: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    said: str = ""  # a part of what the command prints


@dataclass(frozen=True)
class Refused:
    """A dataset that must be refused: parts of the one line."""

    parts: tuple[str, ...]


WITH = "with_mask"
DATASETS: dict[str, Read | Refused] = {
    "coco_all_iscrowd": Read({WITH: 4}, 4, said="all 4 annotations are crowd regions"),
    "coco_class_spaces": Read({"mask": 4, "Mask": 2}, 6, said="--rename 'Mask=mask'"),
    "coco_float_ids": Read({WITH: 4}, 4),
    "coco_many_tasks": Read({"mask": 3, "no-mask": 3}, 6, said="image_info_default.json, labels_default.json"),
    "coco_nfd": Read({WITH: 4}, 4),
    "coco_no_bbox": Read({WITH: 4}, 4, said="4 faces have no bbox"),
    "coco_normalised": Refused(("instances_default.json", "boxes look normalised")),
    "coco_official_layout": Read({"mask": 5, "no-mask": 4}, 9, splits={"train": 6, "val": 3}),
    "coco_same_names_b": Read({WITH: 3}, 3, splits={"train": 2, "val": 1}, said="val/frame_000000.jpg"),
    "cvat_ultralytics": Read({"mask": 6}, 6, splits={"train": 3, "val": 3}),
    "cvat_yolo11": Read({"mask": 2}, 2, splits={"train": 2}),
    "fixed_camera": Read({WITH: 12, "without_mask": 12}, 24),
    "jfif_many": Read({WITH: 14}, 14),
    "jfif_yolo": Read({"mask": 2}, 2),
    "kaggle_double_nested": Read({WITH: 2}, 2),
    "labelstudio_coco": Read({"mask": 1, "no-mask": 1}, 2),
    "leak_flips": Read({WITH: 16, "without_mask": 12}, 28),
    "refused_face_becomes_reject": Read({WITH: 3, "without_mask": 6}, 9),
    "voc_Images_capital": Read({WITH: 2}, 2),
    "voc_encodings": Read({WITH: 6}, 6, code=1, said="looks like GB18030 (Chinese); convert it: iconv"),
    "voc_exif": Read({WITH: 5}, 5, code=1, refused=1, said="3 photos are turned by EXIF"),
    "voc_in_labels": Read({"good": 2}, 2),
    "voc_train_nested": Read({WITH: 4}, 4, splits={"train": 2, "test": 2}),
    "yaml_prefix": Read({"mask": 2}, 2, splits={"train": 1, "val": 1}),
    "yaml_windows": Read({"mask": 2}, 2, splits={"train": 1, "val": 1}),
    "yaml_yes_no": Read({"yes": 1, "no": 1}, 2, splits={"train": 2}),
    "yolo_conf_id": Read({"mask": 2}, 2, said="confidence"),
    "yolo_face15_no_kpt_shape": Read({"mask": 6, "no-mask": 6}, 12, splits={"train": 12}),
    "yolo_landmarks15": Read({"mask": 4, "no-mask": 4}, 4, splits={"train": 4}),
    "yolo_landmarks20": Read({"mask": 4}, 4, splits={"train": 4}),
    "yolo_list_windows": Read({"mask": 4}, 4, splits={"train": 4}),
    "yolo_names_string": Read({"mask": 3}, 3, splits={"train": 3}),
    "yolo_partial": Read({"mask": 3}, 10, unlabelled=7, said="7 photos"),
    "yolo_train_images_label_missing_split": Refused(("no class names",)),
    "yolo_utf16": Read({"mask": 3}, 3),
    "yolo_yaml_cp949": Refused(("data.yaml", "CP949 (Korean)", "iconv -f CP949 -t UTF-8")),
    "yolo_yaml_other_name": Read({"mask": 6}, 6, splits={"train": 3, "val": 3}),
}
# Pictures, videos and tables: in the tests of detect, video/formats, batch and decoding.
OTHERS = {"mixed_folder", "mjpeg_concat", "parquet_hf", "photos"}


def test_every_case_is_in_a_table() -> None:
    assert {p.name for p in CASES.iterdir() if p.is_dir()} <= {*DATASETS, *OTHERS}


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_is_read_right_or_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected, result = DATASETS[name], tmp_path / "check.json"
    arguments = ["--data", str(CASES / name), "--no-page", "--skip-duplicates", "--json", str(result)]
    code = run_in_process("pipeline.check", arguments)
    out, err = capsys.readouterr()
    if isinstance(expected, Refused):
        (line,) = (line for line in err.splitlines() if line.startswith("error: "))
        assert code == 1 and all(part in line for part in expected.parts), err
        assert not result.exists()
        return
    found = json.loads(result.read_text(encoding="utf-8"))
    assert {each["name"]: each["faces"] for each in found["classes"] if each["faces"]} == expected.faces
    assert (code, found["photos"], found["refused_faces"]) == (expected.code, expected.photos, expected.refused)
    assert len(found["unlabelled"]) == expected.unlabelled
    assert {split: count for split, count in found["photos_by_split"].items() if split in "train val test"} == (
        expected.splits
    )
    assert expected.said in out + err
