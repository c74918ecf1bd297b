"""COCO exports of other libraries come back equal: supervision's, torchvision's convention, Datumaro's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.annotations import Annotations, read_dataset
from tests.helpers.coco_sets import save_photo, write_coco

CLASSES = ["with_mask", "without_mask", "other"]
Made = dict[str, tuple[np.ndarray, np.ndarray]]  # stem -> boxes (N, 4) xyxy, classes (N,)


def made_faces(photos: int = 6, seed: int = 0) -> Made:
    """Return random faces of 100x80 photos; every third photo has none."""
    rng = np.random.default_rng(seed)
    made = {}
    for i in range(photos):
        count = 0 if i % 3 == 2 else int(rng.integers(1, 5))
        lefts = rng.uniform(0, (70, 50), (count, 2))
        boxes = np.hstack([lefts, lefts + rng.uniform(3, 30, (count, 2))]).round(3)
        made[f"photo {i}"] = (boxes, rng.integers(0, len(CLASSES), count))
    return made


def check(read: Annotations, made: Made, split: str | None = None) -> None:
    """Check that the faces of a split are the made ones, with boxes to 0.01 pixel."""
    images = {image.path.stem: image for image in read.images if image.split == split}
    assert images.keys() == made.keys() and not read.problems
    for stem, (boxes, classes) in made.items():
        np.testing.assert_allclose(images[stem].boxes, boxes.reshape(-1, 4), atol=0.01)
        assert images[stem].labels == tuple(CLASSES[i] for i in classes) and images[stem].complete


@pytest.mark.parametrize("layout", ["images/x.json", "annotations.json", "annotations/instances_default.json"])
def test_supervision(tmp_path: Path, layout: str) -> None:
    supervision = pytest.importorskip("supervision")
    made = made_faces()
    names = {stem: str(tmp_path / f"raw/{stem}.png") for stem in made}
    for name in names.values():
        save_photo(Path(name))
    dataset = supervision.DetectionDataset(
        classes=CLASSES,
        images=list(names.values()),
        annotations={
            names[stem]: supervision.Detections(xyxy=boxes.reshape(-1, 4), class_id=classes)
            if len(boxes)
            else supervision.Detections.empty()
            for stem, (boxes, classes) in made.items()
        },
    )
    root = tmp_path / "set"
    dataset.as_coco(images_directory_path=str(root / "images"), annotations_path=str(root / layout))
    check(read_dataset(root), made)
    check(read_dataset(root / layout), made)


def coco_rows(made: Made, more: dict[str, object]) -> list[dict[str, object]]:
    return [
        {"image_id": i, "category_id": int(kind) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0} | more
        for i, (boxes, classes) in enumerate(made.values(), start=1)
        for (x1, y1, x2, y2), kind in zip(boxes.tolist(), classes, strict=True)
    ]


CATEGORIES = list(enumerate(CLASSES, start=1))


@pytest.mark.parametrize(
    ("images", "file"),
    [
        ("train2017", "annotations/instances.json"),
        ("photos", "ann/any.json"),
        ("images", "labels/x.json"),
        (".", "x.json"),
    ],
)
def test_torchvisions_root_and_ann_file(tmp_path: Path, images: str, file: str) -> None:
    made = made_faces()
    for stem in made:
        save_photo(tmp_path / images / f"{stem}.jpg")
    write_coco(tmp_path / file, [f"{stem}.jpg" for stem in made], coco_rows(made, {}), CATEGORIES)
    for path in (tmp_path, tmp_path / file):
        check(read_dataset(path), made)


@pytest.mark.parametrize("images", ["images/{}", "{}", "images"])
def test_datumaro(tmp_path: Path, images: str) -> None:
    """Datumaro and CVAT write one file per task and subset, with attributes, polygons and a person's keypoints."""
    made = {subset: made_faces(seed=seed) for seed, subset in enumerate(("train", "val"))}
    more = {"attributes": {"occluded": False, "rotation": 0.0}, "segmentation": [], "area": 1.0}
    for subset, faces in made.items():
        prefix = subset if images == "images" else ""
        names = [f"{prefix}{stem}.jpg" for stem in faces]
        for name in names:
            save_photo(tmp_path / images.format(subset) / name)
        folder = tmp_path / "annotations"
        write_coco(folder / f"instances_{subset}.json", names, coco_rows(faces, more), CATEGORIES)
        write_coco(folder / f"image_info_{subset}.json", names, [], [])
        write_coco(folder / f"labels_{subset}.json", names, [{"image_id": 1, "category_id": 1}], CATEGORIES)
        write_coco(folder / f"captions_{subset}.json", names, [{"image_id": 1, "caption": "x"}], [])
        panoptic = {
            "image_id": 1,
            "file_name": "x.png",
            "segments_info": [{"id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
        }
        write_coco(folder / f"panoptic_{subset}.json", names, [panoptic], CATEGORIES)
    read = read_dataset(tmp_path)
    for subset, faces in made.items():
        prefix = subset if images == "images" else ""
        check(read, {f"{prefix}{stem}": rows for stem, rows in faces.items()}, subset)


def test_via_writes_ids_as_text_and_no_sizes(tmp_path: Path) -> None:
    made = made_faces()
    for stem in made:
        save_photo(tmp_path / f"{stem}.jpg")
    rows = [
        row | {"image_id": str(row["image_id"]), "category_id": str(row["category_id"])} for row in coco_rows(made, {})
    ]
    file = write_coco(tmp_path / "via_export_coco.json", [f"{stem}.jpg" for stem in made], rows, CATEGORIES)
    content = json.loads(file.read_text())
    for row in content["images"]:
        row |= {"width": 0, "height": 0}
    file.write_text(json.dumps(content))
    check(read_dataset(tmp_path), made)
