"""The collector: every annotated face is read or counted as refused, and photos know whether they are complete."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from PIL import Image

from common.annotations import collect
from common.annotations.collect import Collector, DatasetError, RawFace, image_ids
from common.annotations.loading import MAX_SHOWN, load_dataset, require_faces, summary_lines
from common.annotations.types import MASK_CLASSES, AnnotatedImage, Problem, fingerprint
from common.errors import UserError

GOOD = (10.0, 20.0, 30.0, 50.0)
NAN = float("nan")


def photo(folder: Path, name: str = "a.png") -> Path:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (100, 80)).save(folder / name)
    return folder / name


def face(label: str = "with_mask", box: tuple[float, ...] = GOOD, location: str = "object 1") -> RawFace:
    return RawFace(location, label, box)


def test_a_reason_is_one_line_that_can_be_shown() -> None:
    assert str(Problem(Path("a.json"), "has\n the id \ud800\x1b[31m")) == "a.json: has the id \ufffd\ufffd[31m"


def test_a_refused_face_makes_its_photo_incomplete_and_is_counted(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    collector.add(
        photo(tmp_path), tmp_path / "a.xml", [face(), face(box=(NAN, 0, 9, 9), location="object 2")], None, None
    )
    collector.add(photo(tmp_path, "b.png"), tmp_path / "b.xml", [face()], None, None)
    read = collector.finish("Pascal VOC")
    assert read.incomplete == ("a",) and (read.face_count, read.refused_count) == (2, 1)
    assert read.format_name == "Pascal VOC"
    assert [line.split(";")[0] for line in summary_lines(read)] == [
        "1 of 3 annotated faces were refused",
        "1 photo may show a face without a box",
    ]


def test_a_repeated_box_is_counted_but_its_face_has_a_box(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    collector.add(photo(tmp_path), tmp_path / "a.xml", [face(), face(location="object 2")], None, None)
    read = collector.finish()
    assert (read.face_count, read.refused_count, read.incomplete) == (1, 1, ())


@pytest.mark.parametrize(
    ("annotated", "objects"), [((50, 80), 2), ((200, 160), 0), ((101, 81), 0)], ids=["other", "scaled", "near"]
)
def test_objects_of_a_photo_of_another_size(tmp_path: Path, annotated: tuple[int, int], objects: int) -> None:
    far = face(box=(60, 20, 120, 90), location="object 2")
    collector = Collector(tmp_path)
    collector.add(photo(tmp_path), tmp_path / "a.xml", [face(), far], annotated, None)
    collector.add(photo(tmp_path, "b.png"), tmp_path / "b.xml", [face()], None, None)
    read = collector.finish()
    assert read.refused_count == objects and read.face_count + objects == 3
    assert {p.kind for p in read.problems} == {"refused" if objects else "changed"}


@pytest.mark.parametrize(("file", "named"), [("a.xml", False), ("a.png.xml", False), ("all.json", True)])
def test_a_file_of_many_photos_names_the_photo_of_another_size(tmp_path: Path, file: str, named: bool) -> None:
    collector = Collector(tmp_path)
    collector.add(photo(tmp_path), tmp_path / file, [face()], (200, 160), None)
    (problem,) = collector.finish().problems
    subject = "image 'a.png': its annotation " if named else ""
    assert problem.reason == f"{subject}is for a 200x160 image, but the image is 100x80; boxes were scaled"


def test_each_photo_has_its_annotation_file_but_unlabelled_ones(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    collector.add(photo(tmp_path), tmp_path / "a.txt", [face()], None, None)
    collector.add_unlabelled(photo(tmp_path, "b.png"), None)
    assert collector.finish().annotation_files == {tmp_path / "a.png": tmp_path / "a.txt"}


def test_a_second_annotation_of_a_photo_is_refused_with_its_faces(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    a = photo(tmp_path)
    collector.add(a, tmp_path / "a.xml", [face()], None, None)
    collector.add(a, tmp_path / "b.xml", [face(box=(1, 1, 9, 9)), face(box=(2, 2, 9, 9))], None, None)
    read = collector.finish()
    assert (read.face_count, read.refused_count, read.incomplete) == (1, 2, ("a",))


def test_a_photo_that_cannot_be_read_loses_its_faces_by_name(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"no picture")
    collector = Collector(tmp_path)
    collector.add(photo(tmp_path), tmp_path / "a.xml", [face()], None, None)
    collector.add(tmp_path / "b.png", tmp_path / "b.xml", [face(), face(box=(1, 1, 9, 9))], None, None)
    read = collector.finish()
    assert [(p.file.name, p.objects) for p in read.problems] == [("b.png", 2)]


def test_a_dataset_without_a_face_is_an_error_with_its_reasons(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    collector.add(photo(tmp_path), tmp_path / "a.xml", [face(box=(NAN, 0, 9, 9))], None, None)
    collector.add_problem(tmp_path / "x.txt", "no image of this name; not used", "unmatched")
    with pytest.raises(DatasetError, match=r"no image has a face; 2 problems, the first: .*a\.xml: object 1") as raised:
        collector.finish()
    assert len(raised.value.problems) == 2
    with pytest.raises(DatasetError, match="lists no image"):
        Collector(tmp_path).finish()


def test_class_names_are_stripped_renamed_and_hinted_at(tmp_path: Path) -> None:
    collector = Collector(tmp_path, ["Mask=with_mask", "no mask=without_mask"])
    faces = [face(" Mask "), face("no  mask", (1, 1, 9, 9)), face("Zebra", (2, 2, 9, 9)), face("zebra", (3, 3, 9, 9))]
    collector.add(photo(tmp_path), tmp_path / "a.xml", faces, None, None)
    read = collector.finish()
    assert read.images[0].labels == ("with_mask", "without_mask", "Zebra", "zebra")
    assert read.class_names == ("with_mask", "without_mask", "Zebra", "zebra")
    assert len(read.notes) == 1 and "'Zebra' and 'zebra'" in read.notes[0]
    collector = Collector(tmp_path, ["cat=dog"])
    collector.add(tmp_path / "a.png", tmp_path / "a.xml", [face(), face("cat", (5, 5, 5, 9))], None, None)
    with pytest.raises(DatasetError, match="no such class; the data has with_mask") as caught:
        collector.finish()
    assert [problem.objects for problem in caught.value.problems] == [1]  # why the class is not there


def test_photos_without_a_label_file_are_counted(tmp_path: Path) -> None:
    collector = Collector(tmp_path)
    collector.add(photo(tmp_path), tmp_path / "a.txt", [face()], None, "train")
    collector.add_unlabelled(photo(tmp_path, "b.png"), "train")
    collector.add_unlabelled(photo(tmp_path, "c.png"), "train", complete=False)
    read = collector.finish()
    assert read.unlabelled == ("b", "c") and read.incomplete == ("c",)
    assert summary_lines(read)[-1].startswith("1 photo has no label file: taken as face-free")


def test_completeness_is_part_of_the_fingerprint_only_where_it_lacks() -> None:
    whole = AnnotatedImage(Path("a.png"), "a", (100, 80), np.float32([GOOD]), ("with_mask",))
    known = "989899eb"  # the first digits of the fingerprint before `complete` existed
    part = AnnotatedImage(Path("a.png"), "a", (100, 80), np.float32([GOOD]), ("with_mask",), complete=False)
    assert fingerprint([whole]).startswith(known) and fingerprint([whole]) != fingerprint([part])


def test_ids_are_in_one_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    assert image_ids([tmp_path / f"{decomposed}.png"]) == [composed]
    both = image_ids([tmp_path / f"{decomposed}.png", tmp_path / f"{composed}.png"])
    assert len(set(both)) == 2


def test_ids_of_photos_on_two_drives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(paths: object) -> str:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr(os.path, "commonpath", refuse)
    assert image_ids([tmp_path / "train/a.png", tmp_path / "val/b.png"]) == ["a", "b"]
    same = image_ids([tmp_path / "train/a.png", tmp_path / "val/a.png"])
    assert same == [f"{tmp_path}/train/a", f"{tmp_path}/val/a"]
    # Such an id becomes the name of a crop's file, which has no colon.
    assert collect._named(PureWindowsPath(r"C:\data\a.png"), None) == r"C\data\a.png"


def write_voc(root: Path, count: int, good: int) -> None:
    """Write `count` photos with one face each; only the first `good` ones have a valid box."""
    (root / "annotations").mkdir(parents=True)
    for i in range(count):
        photo(root / "images", f"p{i}.png")
        edges = "<xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>50</ymax>" if i < good else ""
        page = f"<annotation><object><name>with_mask</name><bndbox>{edges}</bndbox></object></annotation>"
        (root / f"annotations/p{i}.xml").write_text(page)


def test_load_reports_problems_also_before_an_error(tmp_path: Path) -> None:
    write_voc(tmp_path / "some", MAX_SHOWN + 3, 1)
    lines: list[str] = []
    read = load_dataset(tmp_path / "some", log=lines.append)
    assert read.class_names == MASK_CLASSES
    assert sum(line.startswith("warning: ") for line in lines) == MAX_SHOWN + 1
    assert "and 2 more problems" in lines[MAX_SHOWN]
    assert any("7 of 8 annotated faces were refused" in line for line in lines)
    write_voc(tmp_path / "none", 2, 0)
    lines.clear()
    with pytest.raises(UserError, match="no image has a face"):
        load_dataset(tmp_path / "none", log=lines.append)
    assert len(lines) == 2 and "p0.xml" in lines[0] and "p1.xml" in lines[1]


def test_a_part_without_faces_is_refused() -> None:
    empty = AnnotatedImage(Path("a.png"), "a", (100, 80), np.zeros((0, 4), np.float32), ())
    with pytest.raises(UserError, match=r"splits.csv: the test part has no face in its 1 photo; split again"):
        require_faces([empty], "splits.csv: the test part", "split again")
