"""Photos and label files of YOLO datasets: pairs, photos without labels, labels without photos, ambiguous names."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.annotations import Annotations, read_dataset
from common.annotations.collect import DatasetError
from common.annotations.loading import count_line, load_dataset
from common.annotations.options import ReadingArgs
from common.annotations.yolo import label_file, reader
from tests.helpers.yolo_sets import save_photo, save_text

ROW = "0 0.5 0.5 0.2 0.3"


def write_set(root: Path, photos: list[str], labels: dict[str, str], config: str = "") -> Path:
    """Write photos and label files by their paths; classes.txt, or data.yaml with the keys of `config`."""
    for photo in photos:
        save_photo(root / photo)
    for label, rows in labels.items():
        save_text(root / label, rows)
    if config:
        save_text(root / "data.yaml", f"{config}\nnames: [mask, no mask]\n")
    else:
        save_text(root / "classes.txt", "mask\nno mask\n")
    return root


def complete(read: Annotations) -> dict[str, bool]:
    return {image.image_id: image.complete for image in read.images}


def reasons(read: Annotations) -> list[str]:
    return [f"{problem.file.name} {problem.kind} {problem.objects}: {problem.reason}" for problem in read.problems]


@pytest.mark.parametrize(
    ("photo", "label"),
    [
        ("images/a.jpg", "labels/a.txt"),
        ("images/a.JPG", "labels/a.TXT"),
        ("images/x/y/a.jpg", "labels/x/y/a.txt"),
        ("x/images/y/a.jpg", "x/labels/y/a.txt"),
        ("JPEGImages/a.jpg", "labels/a.txt"),
        ("x/a.jpg", "x/a.txt"),
        ("x/a.jpg", "x/labels/a.txt"),
        ("x/a.b.jpg", "x/a.b.txt"),
        ("images/a.jpg", "labels/a.jpg.txt"),
    ],
)
def test_the_usual_places_of_a_label_file(tmp_path: Path, photo: str, label: str) -> None:
    write_set(tmp_path, [photo], {label: ROW}, f"train: {Path(photo).parts[0]}")
    assert label_file(tmp_path / photo) == tmp_path / label
    read = read_dataset(tmp_path)
    assert read.face_count == 1 and not read.problems


@pytest.mark.parametrize(
    ("photo", "label"),
    [
        ("images/train/a.jpg", "labels/a.txt"),
        ("images/a.jpg", "labels/train/a.txt"),
        ("train/a.jpg", "labels/train/a.txt"),
        ("pics/a.jpg", "labels/a.txt"),
        ("pics/a.jpg", "annotations/a.txt"),
    ],
)
def test_labels_in_an_unusual_folder_are_matched_by_name(tmp_path: Path, photo: str, label: str) -> None:
    write_set(tmp_path, [photo], {label: ROW}, f"train: {Path(photo).parts[0]}")
    read = read_dataset(tmp_path)
    assert read.face_count == 1 and not read.problems


def test_photos_without_a_label_file_are_counted(tmp_path: Path) -> None:
    write_set(tmp_path, ["images/a.jpg", "images/b.jpg", "images/c.jpg"], {"labels/a.txt": ROW, "labels/c.txt": ""})
    lines: list[str] = []
    read = load_dataset(tmp_path, log=lines.append)
    assert read.unlabelled == ("b",) and complete(read) == {"a": True, "b": True, "c": True}
    assert any("1 photo has no label file: taken as face-free" in line for line in lines)
    skipped = read_dataset(tmp_path, ReadingArgs(unlabelled="skip"))
    assert complete(skipped) == {"a": True, "c": True}
    assert "1 photo without a label file: not used, as --unlabelled skip says" in skipped.notes


def test_label_files_without_a_photo_are_counted_and_photos_without_labels_not_trusted(tmp_path: Path) -> None:
    photos = [f"{split}/images/{name}.jpg" for split in ("train", "valid") for name in (split, f"{split}2")]
    labels = {f"{split}/labels/{split}.txt": ROW for split in ("train", "valid")}
    write_set(tmp_path, photos, {**labels, "train/labels/other.txt": f"{ROW}\n\n{ROW}\n"})
    read = read_dataset(tmp_path)
    assert reasons(read) == ["other.txt unmatched 2: no image of this name; not used"]
    assert complete(read) == {"train": True, "train2": False, "valid": True, "valid2": True}
    assert any("1 photo without a label file may be misnamed" in note for note in read.notes)
    assert len(read.unlabelled) == 2 and "1 photo without a label file, taken as face-free" in count_line(read)
    save_text(tmp_path / "train/labels/other.txt", "\n")  # without a face, it tells nothing
    assert all(complete(read_dataset(tmp_path)).values())


def test_orphans_in_a_folder_of_no_photos_concern_all_photos(tmp_path: Path) -> None:
    write_set(tmp_path, ["images/x/a.jpg", "images/y/b.jpg"], {"labels/x/a.txt": ROW, "labels/z/c.txt": ROW})
    assert complete(read_dataset(tmp_path)) == {"a": True, "b": False}


def test_a_label_is_not_given_to_a_photo_of_another_folder(tmp_path: Path) -> None:
    photos = ["a/images/a.jpg", "b/images/gone.jpg", "b/images/b.jpg"]
    labels = {"a/labels/a.txt": ROW, "a/labels/gone.txt": ROW, "b/labels/b.txt": ROW}
    write_set(tmp_path, photos, labels, "train: [a/images, b/images]")
    read = read_dataset(tmp_path)
    assert reasons(read) == ["gone.txt unmatched 1: no image of this name; not used"]
    assert read.face_count == 2


def test_a_label_that_fits_two_photos_is_refused_with_them(tmp_path: Path) -> None:
    write_set(tmp_path, ["images/a.jpg", "images/a.png", "images/b.jpg"], {"labels/a.txt": ROW, "labels/b.txt": ROW})
    read = read_dataset(tmp_path)
    assert reasons(read) == ["a.txt refused 1: fits 2 images (a.jpg, a.png); not used, keep one of them"]
    assert complete(read) == {"b": True}
    write_set(tmp_path / "flat", ["images/x/a.jpg", "images/y/a.jpg", "images/b.jpg"], {"labels/a.txt": ROW})
    save_text(tmp_path / "flat/labels/b.txt", ROW)
    read = read_dataset(tmp_path / "flat")
    assert "fits 2 images (x/a.jpg, y/a.jpg)" in reasons(read)[0] and complete(read) == {"b": True}


def test_two_label_files_of_one_photo(tmp_path: Path) -> None:
    labels = {"labels/x/a.txt": ROW, "labels/y/a.txt": ROW, "labels/b.txt": ROW}
    write_set(tmp_path, ["images/a.jpg", "images/b.jpg"], labels)
    read = read_dataset(tmp_path)
    assert complete(read) == {"b": True} and read.refused_count == 2
    assert all("is one of 2 label files of a.jpg" in reason for reason in reasons(read))
    (tmp_path / "labels/y/a.txt").unlink()
    save_text(tmp_path / "labels/a.txt", ROW)
    read = read_dataset(tmp_path)
    assert complete(read) == {"a": True, "b": True}
    assert reasons(read) == ["a.txt unmatched 1: a.jpg has another label file; not used"]


def test_a_whole_split_without_label_files_is_told_and_not_background(tmp_path: Path) -> None:
    photos = [f"images/{split}/{split}{i}.jpg" for split in ("train", "val") for i in range(2)]
    write_set(tmp_path, photos, {"labels/train/train0.txt": ROW})
    read = read_dataset(tmp_path)
    assert complete(read) == {"train0": True, "train1": True, "val0": False, "val1": False}
    note = f"val: none of its 2 photos has a label file, such as {tmp_path}/labels/val/val0.txt"
    assert any(line.startswith(note) for line in read.notes) and not read.problems


def test_a_folder_of_background_photos_is_told(tmp_path: Path) -> None:
    write_set(tmp_path, ["images/a.jpg", "images/empty/b.jpg"], {"labels/a.txt": ROW})
    read = read_dataset(tmp_path)
    assert complete(read) == {"a": True, "b": True}
    assert f"{tmp_path}/images/empty: none of its 1 photos has a label file; taken as face-free" in read.notes


def test_labels_of_photos_that_the_lists_leave_out(tmp_path: Path) -> None:
    names = [f"{folder}/{name}" for folder in ("train", "test") for name in ("a", "b")]
    photos, labels = [f"images/{name}.jpg" for name in names], {f"labels/{name}.txt": ROW for name in names}
    save_text(tmp_path / "train.txt", "images/train/a.jpg\nimages/train/c.jpg")
    write_set(tmp_path, [*photos, "images/train/c.jpg"], labels, "train: train.txt")
    read = read_dataset(tmp_path)
    assert reasons(read) == ["b.txt unmatched 1: its image is not in the dataset's lists or folders; not used"]
    assert complete(read) == {"a": True, "c": True}  # photo c is not one of the misnamed
    unnamed = "labels/test: 2 label files are of photos that the dataset does not name; not used"
    assert f"{tmp_path}/{unnamed}" in read.notes


def test_a_label_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, ["images/a.jpg", "images/b.jpg"], {"labels/a.txt": ROW, "labels/b.txt": ROW})
    read_text = reader.read_text

    def refuse(file: Path) -> str:
        if file.name == "b.txt":
            raise PermissionError(13, "Permission denied", str(file))
        return read_text(file)

    monkeypatch.setattr(reader, "read_text", refuse)
    read = read_dataset(tmp_path)
    assert complete(read) == {"a": True}
    assert reasons(read) == ["b.txt refused 0: cannot be read (Permission denied); not used, check its permissions"]


def test_a_photo_that_cannot_be_read_counts_its_faces(tmp_path: Path) -> None:
    write_set(tmp_path, ["images/a.jpg"], {"labels/a.txt": ROW, "labels/b.txt": f"{ROW}\n{ROW}"})
    save_text(tmp_path / "images/b.jpg", "no picture")
    read = read_dataset(tmp_path)
    assert complete(read) == {"a": True} and read.refused_count == 2


def test_only_misnamed_labels_refuse_the_dataset_with_the_files(tmp_path: Path) -> None:
    write_set(tmp_path, ["images/a.jpg"], {"labels/x.txt": ROW})
    with pytest.raises(DatasetError) as raised:
        read_dataset(tmp_path)
    expected = f"{tmp_path}: no label file for any of its 1 images (labels/NAME.txt); first problem: "
    assert str(raised.value) == f"{expected}{tmp_path}/labels/x.txt: no image of this name; not used"
    assert [problem.objects for problem in raised.value.problems] == [1]


def test_other_text_files_are_no_labels(tmp_path: Path) -> None:
    write_set(tmp_path, ["pics/a.jpg", "pics/b.jpg"], {"pics/a.txt": ROW, "pics/about.txt": "3 photos of 2 people"})
    read = read_dataset(tmp_path)
    assert not read.problems and complete(read) == {"a": True, "b": True}
    others = {"x/y/labels/classes.txt": "mask", "x/y/labels/README.txt": "5 3 4 5 6"}
    write_set(tmp_path / "deep", ["x/y/images/a.jpg"], {"x/y/labels/a.txt": ROW, **others}, "train: x/y/images")
    assert not read_dataset(tmp_path / "deep").problems
