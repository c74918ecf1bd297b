"""Crops of a dataset with refused faces: nothing of their photos becomes a hard negative; parts without a face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.splits import read_splits
from pipeline.data import build_crops as module
from pipeline.data.build_crops import main
from pipeline.data.hard_negatives import mine_faces
from pipeline.data.split import SplitArgs
from pipeline.data.split import main as split
from pipeline.data.split import run as run_split
from stage1_faces.faces import Faces
from stage2_classifier.data.crop_manifest import read_crop_set
from tests.helpers.incomplete_data import BOTH, LEFT, RIGHT, write_half_refused, write_incomplete

CORNER = (140.0, 0.0, 160.0, 20.0)


class Everything:
    """Finds both faces of a photo and a false alarm in the corner."""

    def detect(self, image: np.ndarray, *, min_score: float) -> Faces:
        return Faces(np.float32([LEFT, RIGHT, CORNER]), np.float32([0.9, 0.8, 0.7]), np.zeros((3, 5, 2), np.float32))


@pytest.fixture
def cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_detector", lambda run: Everything())


def build(root: Path, *options: str) -> int:
    splits, out = root / "splits.csv", root.parent / "crops"
    return main(["--data", str(root), "--splits", str(splits), "--out", str(out), "--workers", "1", *options])


@pytest.mark.usefixtures("cascade")
def test_real_faces_without_a_box_are_no_hard_negatives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_half_refused(tmp_path / "data", ("train", "train", "train", "train", "val", "test"))
    assert build(root, "--cascade", "RUN") == 0
    crops = read_crop_set(tmp_path / "crops")
    # p1 and p3 show a face on the right without a box. Their annotated faces are cut, and have landmarks.
    assert {(r.image_id, r.box) for r in crops.hard_negatives} == {("p0", CORNER), ("p2", CORNER)}
    cut = {r.image_id: r.landmarks for r in crops.records if r.label == "with_mask"}
    assert set(cut) == {f"p{i}" for i in range(6)} and cut["p1"] and cut["p3"]
    assert len(crops.records) == 9
    printed = capsys.readouterr()
    assert "no hard negatives from 2 training photos that may show a face without a box" in printed.out
    assert "data: 3 of 12 annotated faces refused; 3 photos that may show a face without a box" in printed.out
    assert printed.err.count("p1.xml") == 1


@pytest.mark.usefixtures("cascade")
def test_hard_negatives_of_a_photo_end_when_a_face_of_it_is_refused(tmp_path: Path) -> None:
    faces = {"a": BOTH[:1], "b": BOTH}
    root = write_incomplete(tmp_path / "data", faces, {}, {"a": "train", "b": "val"})
    assert build(root, "--cascade", "RUN") == 0
    assert len(read_crop_set(tmp_path / "crops").hard_negatives) == 2
    xml = root / "annotations" / "a.xml"
    xml.write_text(xml.read_text().replace("</annotation>", "<object><name>with_mask</name></object></annotation>"))
    assert build(root, "--cascade", "RUN") == 0
    assert read_crop_set(tmp_path / "crops").hard_negatives == ()
    assert not list((tmp_path / "crops" / "rejects").rglob("*.png"))


def test_mining_leaves_landmarks(tmp_path: Path) -> None:
    from common.annotations import load_dataset

    images = load_dataset(write_half_refused(tmp_path / "data"), log=lambda _: None).images
    found = mine_faces(Everything(), images)  # type: ignore[arg-type]
    assert [len(found[i.image_id].hard_negatives) for i in images] == [1, 0, 1, 0]
    assert found["p1"].hard_negatives.shape == (0, 4) and len(found["p1"].landmarks[0]) == 10


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_part_without_a_face_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str) -> None:
    others = [name for name in ("train", "val", "test") if name != part]
    faces = {"a": BOTH, "b": BOTH, "c": (), "d": ()}
    root = write_incomplete(tmp_path / "data", faces, {}, dict(zip(faces, (*others, part, part), strict=True)))
    assert build(root) == 1
    error = f"error: {root / 'splits.csv'}: split {part!r} has no face in its 2 photos; make the split again\n"
    assert capsys.readouterr().err == error
    assert not (tmp_path / "crops").exists()


def test_a_part_without_photos_is_not_refused(tmp_path: Path) -> None:
    root = write_incomplete(tmp_path / "data", {"a": BOTH}, {}, {"a": "train"})
    assert build(root) == 0  # all photos for training


def test_a_dataset_without_a_face_is_refused_with_the_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_incomplete(tmp_path / "data", {"a": (), "b": ()}, {"a": BOTH}, {"a": "train", "b": "val"})
    for command in (lambda: build(root), lambda: split(["--data", str(root), "--out", str(tmp_path / "s.csv")])):
        assert command() == 1
        error = capsys.readouterr().err
        assert "no image has a face" in error.splitlines()[-1] and error.count("warning: ") == 2
    assert not (tmp_path / "crops").exists() and not (tmp_path / "s.csv").exists()


def test_a_new_split_reads_the_data_in_the_same_way_and_problems_are_shown_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_half_refused(tmp_path / "data", ("train",) * 6)
    (root / "splits.csv").unlink()
    for i, file in enumerate(sorted((root / "images").iterdir())):  # pictures that do not look the same
        blocks = np.random.default_rng(i).integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(np.kron(blocks, np.ones((20, 20, 1), np.uint8))).save(file)
    seen: list[SplitArgs] = []

    def spy(args: SplitArgs) -> int:
        seen.append(args)
        return run_split(args)

    monkeypatch.setattr(module, "make_splits", spy)
    assert build(root, "--rename", "with_mask=covered", "--unlabelled", "skip") == 0
    assert seen[0].reading_flags() == ["--rename", "with_mask=covered", "--unlabelled", "skip"]
    assert read_crop_set(tmp_path / "crops").class_names == ("without_mask", "covered")
    assert set(read_splits(root / "splits.csv").values()) == {"train", "val", "test"}
    printed = capsys.readouterr()
    assert printed.err.count("p1.xml") == 1 and "covered" in printed.out


def test_split_shows_what_was_refused_before_it_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_half_refused(tmp_path / "data", ("train", "train"))
    assert split(["--data", str(root), "--out", str(tmp_path / "s.csv"), "--folds", "3"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("warning: ") and "p1.xml" in lines[0] and lines[-1].startswith("error: ")
    assert sum("p1.xml" in line for line in lines) == 1
