"""Photos that cannot be used are reported and left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.annotations import AnnotatedImage, Annotations
from common.errors import UserError
from pipeline.data.checks import check_apart, check_class_names, check_dataset, class_name_fault, usable_name
from tests.helpers.yolo_sets import save_photo, save_text


def test_unusable_photos_are_reported(tmp_path: Path) -> None:
    def annotated(name: str, size: tuple[int, int]) -> AnnotatedImage:
        return AnnotatedImage(tmp_path / name, name, size, np.zeros((0, 4), np.float32), ())

    for name in ("good.png", "turned.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    images = (annotated("broken.png", (8, 6)), annotated("good.png", (8, 6)), annotated("turned.png", (6, 8)))
    lines: list[str] = []
    kept = check_dataset(tmp_path, Annotations(images, ()), lines.append)
    assert [image.image_id for image in kept] == ["good.png"]
    assert len(lines) == 2 and "broken.png" in lines[0] and lines[0].endswith("; left out")
    assert lines[1].endswith("turned.png: is 8x6 when decoded, 6x8 by its header; left out")
    with pytest.raises(UserError, match="none of its 1 photos can be used"):
        check_dataset(tmp_path, Annotations(images[:1], ()), lines.append)


@pytest.mark.parametrize(
    ("config", "out", "inside"),
    [
        ("train: .", "crops", True),
        ("train: .", "../crops", False),
        ("train: images/train", "crops", False),
        ("train: images/train", "images/train/crops", True),
        ("train: [images/train, images/val]", "images/val/crops", True),
        ("train: images/train", "images/val/crops", False),
        ("path: /elsewhere/set\ntrain: ../images/train", "images/train", True),
        ("train: list.txt", "crops", False),
        ("train: missing", "missing", False),
        ("nc: 1", "crops", False),
        ("nc: 1", "images/crops", True),
    ],
)
def test_results_stay_out_of_the_folders_of_a_data_yaml(tmp_path: Path, config: str, out: str, inside: bool) -> None:
    root = tmp_path / "set"
    for split in ("train", "val"):
        save_photo(root / f"images/{split}/a.jpg")
    save_text(root / "list.txt", "images/train/a.jpg\n")
    data = save_text(root / "data.yaml", f"{config}\nnames: [mask]\n")
    if not inside:
        check_apart(data, root / out, "--out")
        return
    with pytest.raises(UserError, match=r"crops|images/train: is in .*set.* read as data; give another --out"):
        check_apart(data, root / out, "--out")


def test_results_stay_out_of_a_folder(tmp_path: Path) -> None:
    data = save_text(tmp_path / "set/data.json", "[]")
    for file in (data, data.with_name("data.yaml")):  # the second one does not exist
        check_apart(file, tmp_path / "set/crops", "--out")
    for folder in (tmp_path, data):
        with pytest.raises(UserError, match="would be read as data; give another --out"):
            check_apart(folder, data, "--out")


@pytest.mark.parametrize(
    ("name", "better"),
    [("mask/no", "mask_no"), ("..", "_class"), (".hidden", "hidden"), ("not_a_face", "not_a_face_class")],
)
def test_class_names_that_cannot_be_folders_get_a_name_that_can(name: str, better: str) -> None:
    assert class_name_fault(name) and usable_name(name) == better and not class_name_fault(better)
    with pytest.raises(UserError) as raised:
        check_class_names(["with_mask", name])
    assert f"{name}={better}" in str(raised.value) and "--rename" in str(raised.value)


def test_a_new_name_is_no_other_class() -> None:
    assert usable_name("a/b", ["a/b", "a_b"]) == "a_b_2"
    with pytest.raises(UserError, match="--rename a/b=a_b_2, or rename"):
        check_class_names(["a/b", "a_b"])


def test_class_names_are_short_enough_for_a_folder() -> None:
    long = "\uac00" * 90
    assert class_name_fault(long) == "is too long for a folder's name"
    assert not class_name_fault(usable_name(long)) and not class_name_fault("\uac00" * 60)
    with pytest.raises(UserError, match="rename it in the annotations"):
        check_class_names(["a\0b"])
