"""The VOC reader: box edges, image files, image sizes, classes, and the counts of the real dataset."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.annotations import MASK_CLASSES, AnnotatedImage, read_dataset
from common.annotations.voc import read_voc
from common.errors import UserError

REAL = Path(__file__).resolve().parents[3].parent / "shared/data/face-mask-detection"


def save_photo(path: Path, size: tuple[int, int] = (100, 80), orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (90, 120, 150)).save(path, exif=exif)
    return path


def save_xml(
    path: Path, *objects: tuple[object, ...], size: tuple[int, int] = (100, 80), name: str | None = None
) -> Path:
    """Write a VOC file; each object is (class, xmin, ymin, xmax, ymax)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
        "</bndbox></object>"
        for label, a, b, c, d in objects
    )
    path.write_text(
        f"<annotation><filename>{name or path.stem + '.png'}</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height></size>{body}</annotation>"
    )
    return path


def write_kaggle_set(root: Path, *objects: tuple[object, ...], **options: object) -> Path:
    save_photo(root / "images/a.png")
    save_xml(root / "annotations/a.xml", *objects, **options)  # type: ignore[arg-type]
    return root


def test_voc_boxes_become_zero_based_and_exclusive(tmp_path: Path) -> None:
    read = read_dataset(write_kaggle_set(tmp_path, ("with_mask", 1, 1, 100, 80), ("without_mask", 11, 21, 30, 50)))
    (image,) = read.images
    assert image.image_id == "a" and image.size == (100, 80) and image.split is None
    np.testing.assert_array_equal(image.boxes, [[0, 0, 100, 80], [10, 20, 30, 50]])
    assert image.boxes.dtype == np.float32
    assert image.labels == ("with_mask", "without_mask")
    assert read.class_names == MASK_CLASSES and not read.problems and read.clipped_boxes == 0


def write_edges(root: Path, *left: float) -> Path:
    """Write a photo with a box for each left edge."""
    objects = [("with_mask", edge, 5 + i % 70, edge + 20, 6 + i % 70) for i, edge in enumerate(left)]
    return write_kaggle_set(root, *objects)


def test_one_zero_edge_makes_a_small_dataset_zero_based_with_a_note(tmp_path: Path) -> None:
    write_kaggle_set(tmp_path, ("with_mask", 11, 21, 30, 50))
    save_photo(tmp_path / "images/b.png")
    save_xml(tmp_path / "annotations/b.xml", ("with_mask", 40, 0, 60, 20))
    read = read_voc(tmp_path)
    assert [image.boxes[0].tolist() for image in read.images] == [[11, 21, 30, 50], [40, 0, 60, 20]]
    found = "1 of 2 boxes start in pixel 0, such as in b.xml, and 0 in pixel 1"
    assert read.notes == (f"pixels are counted from 0, because {found}",)


def test_edges_at_zero_are_compared_with_edges_at_one(tmp_path: Path) -> None:
    read = read_voc(write_edges(tmp_path / "from 1", 0, 1, 1, 30))
    assert sorted(box[0] for box in read.images[0].boxes.tolist()) == [0, 0, 0, 29] and read.clipped_boxes == 1
    (note,) = read.notes
    what = "but 1 of 4 boxes start in pixel 0, such as in a.xml, and 2 in pixel 1; correct the boxes at 0"
    assert note == f"pixels are counted from 1, as in Pascal VOC, {what}"
    read = read_voc(write_edges(tmp_path / "from 0", 0, 0.5, 1, 30))
    assert sorted(box[0] for box in read.images[0].boxes.tolist()) == [0, 0.5, 1, 30]
    assert read.notes[0].startswith("pixels are counted from 0, because 2 of 4 boxes")
    read = read_voc(write_edges(tmp_path / "tie", 0, 1, 30))
    assert sorted(box[0] for box in read.images[0].boxes.tolist()) == [0, 1, 30]
    read = read_voc(write_edges(tmp_path / "usual", 1, 30))
    assert not read.notes and sorted(box[0] for box in read.images[0].boxes.tolist()) == [0, 29]


def test_one_edge_among_thousands_does_not_move_all_boxes(tmp_path: Path) -> None:
    for i in range(20):
        save_photo(tmp_path / f"images/{i}.png")
        objects = [("with_mask", 10 + k % 60, 2 + k, 40 + k % 60, 4 + k) for k in range(70)]
        save_xml(tmp_path / f"annotations/{i}.xml", *objects, *([("with_mask", 0, 5, 9, 9)] if i == 7 else []))
    read = read_voc(tmp_path)
    assert read.images[0].boxes[0].tolist() == [9, 1, 40, 4]
    assert "1 of 1401 boxes start in pixel 0, such as in 7.xml" in read.notes[0]


def test_boxes_beyond_the_image_are_clipped_and_counted(tmp_path: Path) -> None:
    read = read_dataset(write_kaggle_set(tmp_path, ("with_mask", 90, 1, 101, 20), ("with_mask", 1, 1, 100, 80)))
    assert read.clipped_boxes == 1 and not read.problems
    assert read.images[0].boxes[0].tolist() == [89, 0, 100, 20]


def test_one_pixel_box_and_duplicates(tmp_path: Path) -> None:
    twice = ("with_mask", 11, 21, 30, 50)
    read = read_dataset(
        write_kaggle_set(tmp_path, twice, ("with_mask", 5, 5, 5, 5), twice, ("without_mask", 11, 21, 30, 50))
    )
    assert read.images[0].boxes.tolist() == [[10, 20, 30, 50], [4, 4, 5, 5]]
    same, other = read.problems
    assert "object 3" in same.reason and "annotated as" not in same.reason
    assert "object 4" in other.reason and "annotated as with_mask" in other.reason


def test_images_are_found_by_stem_or_reported(tmp_path: Path) -> None:
    box = ("with_mask", 11, 21, 30, 50)
    save_photo(tmp_path / "images/a.JPG")
    save_xml(tmp_path / "annotations/a.xml", box)
    save_photo(tmp_path / "images/new.png")
    save_xml(tmp_path / "annotations/old.xml", box, name="new.png")
    save_xml(tmp_path / "annotations/gone.xml", box)
    save_photo(tmp_path / "images/unannotated.png")
    read = read_dataset(tmp_path)
    assert [image.path.name for image in read.images] == ["a.JPG", "new.png"]
    assert {p.file.name: p.reason.split(";")[0].split(" in ")[0] for p in read.problems} == {
        "gone.xml": "no image gone.*",
        "unannotated.png": "no annotation",
    }


def test_the_filename_decides_between_two_extensions(tmp_path: Path) -> None:
    write_kaggle_set(tmp_path, ("with_mask", 11, 21, 30, 50))
    save_photo(tmp_path / "images/a.jpg")
    read = read_dataset(tmp_path)
    assert [image.path.name for image in read.images] == ["a.png"]
    assert [p.file.name for p in read.problems] == ["a.jpg"]


def test_xml_next_to_images_in_split_folders(tmp_path: Path) -> None:
    for folder in ("train", "valid", "test"):
        save_photo(tmp_path / folder / "a.jpg")
        save_xml(tmp_path / folder / "a.xml", ("with_mask", 11, 21, 30, 50))
    read = read_dataset(tmp_path)
    assert [(i.image_id, i.split) for i in read.images] == [
        ("test/a", "test"),
        ("train/a", "train"),
        ("valid/a", "val"),
    ]


def test_an_unreadable_image_is_reported(tmp_path: Path) -> None:
    write_kaggle_set(tmp_path, ("with_mask", 11, 21, 30, 50))
    (tmp_path / "images/b.png").write_bytes(b"no picture")
    save_xml(tmp_path / "annotations/b.xml", ("with_mask", 11, 21, 30, 50))
    read = read_dataset(tmp_path)
    assert [image.image_id for image in read.images] == ["a"]
    assert read.problems[0].file.name == "b.png"


def test_resized_image_scales_its_boxes(tmp_path: Path) -> None:
    read = read_dataset(write_kaggle_set(tmp_path, ("with_mask", 21, 41, 60, 100), size=(200, 160)))
    np.testing.assert_array_equal(read.images[0].boxes, [[10, 20, 30, 50]])
    assert "200x160" in read.problems[0].reason and "scaled" in read.problems[0].reason


def test_wrong_image_size(tmp_path: Path) -> None:
    write_kaggle_set(tmp_path, ("with_mask", 11, 21, 30, 50), size=(300, 90))
    save_photo(tmp_path / "images/b.png")
    save_xml(tmp_path / "annotations/b.xml", ("with_mask", 201, 21, 230, 50), size=(300, 90))
    read = read_dataset(tmp_path)
    (image,) = read.images
    assert image.size == (100, 80) and image.boxes.tolist() == [[10, 20, 30, 50]]
    assert ["not changed" in p.reason for p in read.problems] == [True, False]
    assert "do not fit" in read.problems[1].reason


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_the_size_is_that_of_the_upright_photo(tmp_path: Path, suffix: str) -> None:
    save_photo(tmp_path / f"images/a.{suffix}", (100, 80), orientation=6)
    save_xml(tmp_path / "annotations/a.xml", ("with_mask", 11, 21, 30, 100), size=(80, 100))
    read = read_dataset(tmp_path)
    assert read.images[0].size == (80, 100) and not read.problems


def test_annotation_of_the_unturned_photo_is_refused(tmp_path: Path) -> None:
    save_photo(tmp_path / "images/a.jpg", (100, 80), orientation=6)
    save_xml(tmp_path / "annotations/a.xml", ("with_mask", 11, 21, 30, 50), size=(100, 80))
    with pytest.raises(UserError, match=r"a\.xml.*EXIF"):
        read_dataset(tmp_path)


def test_other_classes_have_a_fixed_order(tmp_path: Path) -> None:
    read = read_dataset(
        write_kaggle_set(tmp_path, ("zebra", 11, 21, 30, 50), ("ape", 1, 1, 9, 9), ("with_mask", 2, 2, 8, 8))
    )
    assert read.class_names == ("with_mask", "ape", "zebra")


def test_annotated_image_checks_its_values() -> None:
    good = AnnotatedImage(Path("a.png"), "a", (10, 10), np.zeros((0, 4), np.float32), ())
    assert good.boxes.shape == (0, 4)
    for boxes, labels in (([[0, 0, 11, 5]], ("x",)), ([[3, 3, 3, 5]], ("x",)), ([[0, 0, 5, 5]], ())):
        with pytest.raises(ValueError, match=r"a\.png"):
            AnnotatedImage(Path("a.png"), "a", (10, 10), np.array(boxes, np.float32), labels)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the photos are not at {REAL}")
def test_real_set() -> None:
    read = read_dataset(REAL)
    assert len(read.images) == 674 and not read.problems and read.clipped_boxes == 11
    assert Counter(label for image in read.images for label in image.labels) == {
        "with_mask": 2546,
        "without_mask": 591,
        "mask_weared_incorrect": 98,
    }
    assert list(read.images) == sorted(read.images, key=lambda image: image.image_id)
