"""Fine-tuning on photos of which an annotation was refused: they teach their faces, and no background."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.annotations import load_dataset
from stage1_faces.detector import FaceDetector
from stage1_faces.training import batches as batches_module
from stage1_faces.training import finetune_run
from stage1_faces.training.batches import PatchBatches, WindowBatches
from stage1_faces.training.finetune import main
from stage1_faces.training.mining import MinedWindows
from stage1_faces.training.photos import load_photo
from stage1_faces.training.samples import TrainingPhoto, sample_patch
from tests.helpers.drawn_photos import draw, made_photo
from tests.helpers.incomplete_data import BOTH, LEFT, RIGHT, write_half_refused, write_incomplete
from tests.helpers.training.quick_finetune import RECIPE, run

FACES = [[20.0, 20, 50, 60]]
NOWHERE = [100.0, 70, 130, 110]


def photo(complete: bool) -> TrainingPhoto:
    return replace(made_photo(draw((160, 120), [*FACES, NOWHERE]), FACES), complete=complete)


@pytest.mark.parametrize("face", [0, None])
def test_no_cell_of_a_patch_is_background(face: int | None) -> None:
    for seed in range(20):
        whole, part = (sample_patch(photo(complete), face, np.random.default_rng(seed)) for complete in (True, False))
        assert (whole[1] == 0).any() and not (part[1] == 0).any()
        np.testing.assert_array_equal(whole[0], part[0])
        np.testing.assert_array_equal(whole[1] == 1, part[1] == 1)
        np.testing.assert_array_equal(whole[2], part[2])


def test_patches_from_anywhere_are_of_complete_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[bool, bool]] = set()
    real = batches_module.sample_patch

    def spy(photo: TrainingPhoto, face: int | None, rng: np.random.Generator):
        seen.add((photo.complete, face is None))
        return real(photo, face, rng)

    monkeypatch.setattr(batches_module, "sample_patch", spy)
    PatchBatches([photo(False), photo(True)], 200, 0).batch(0, 0)
    assert seen == {(True, True), (True, False), (False, False)}
    seen.clear()
    PatchBatches([photo(False)], 50, 0).batch(0, 0)
    assert seen == {(False, False)}


def mined(count: int) -> MinedWindows:
    """Return one window on the face and one far away in each of `count` photos."""
    return MinedWindows(
        np.repeat(np.arange(count), 2),
        np.float32([FACES[0], NOWHERE] * count),
        np.full(2 * count, 0.5, np.float32),
        np.zeros(2 * count, np.int64),
        np.float32([1, 0] * count),
    )


def test_windows_of_incomplete_photos_are_never_negatives() -> None:
    both = WindowBatches([photo(False), photo(True), photo(False)], mined(3), "rnet", 10, 0, (0.3, 0.45))
    assert both._negatives.tolist() == [3] and len(both.state) == 1
    assert sorted(both._mined_by_face) == [(0, 0), (1, 0), (2, 0)]
    both.start_epoch(0, 2)
    pixels, box_deltas, _ = both.batch(0, 0)
    assert np.isnan(box_deltas[both._positives :]).all() and len(pixels) == 10
    # Without a complete photo, all windows show a face.
    alone = WindowBatches([photo(False)], mined(1), "rnet", 6, 0, (0.3, 0.45))
    alone.start_epoch(0, 1)
    assert not np.isnan(alone.batch(0, 0)[1]).any()


def test_validation_counts_only_boxes_on_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        boxes = np.float32([NOWHERE, FACES[0]])

    monkeypatch.setattr(finetune_run, "propose", lambda *_: Found)
    detector = FaceDetector(*([lambda pixels: ()] * 3))
    best = [finetune_run._best_boxes(detector, photo(complete), "rnet").tolist() for complete in (True, False)]
    assert best == [[NOWHERE, FACES[0]], [FACES[0]]]


def test_a_photo_keeps_whether_it_is_complete(tmp_path: Path) -> None:
    images = load_dataset(write_half_refused(tmp_path / "data"), log=lambda _: None).images
    assert [load_photo(image).complete for image in images] == [True, False, True, False]


@pytest.mark.usefixtures("quick")
def test_a_run_counts_them_and_teaches_no_background_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_half_refused(tmp_path / "data", ("train", "train", "train", "val", "val"))
    backgrounds: set[bool] = set()
    real = batches_module.sample_window

    def spy(photo: TrainingPhoto, anchor: np.ndarray, face: int | None, *rest: object):
        if face is None:
            backgrounds.add(photo.complete)
        return real(photo, anchor, face, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(batches_module, "sample_window", spy)
    out = run(data, tmp_path / "run")
    printed = capsys.readouterr()
    assert "no background was learned from 1 training photo that may show a face without a box" in printed.out
    assert "data: 2 of 10 annotated faces refused" in printed.out
    assert printed.err.count("p1.xml") == 1
    assert backgrounds == {True}
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert {row["val_photos"] for row in rows if "recall" in row} == {2}


def failed(root: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Return the last line of the command, which fails, and writes nothing."""
    out = root.parent / "run"
    assert main(["--data", str(root), "--splits", str(root / "splits.csv"), "--out", str(out), *options]) == 1
    assert not out.exists()
    return capsys.readouterr().err.splitlines()[-1]


def test_data_that_cannot_teach_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = {"a": "train", "b": "val"}
    root = write_incomplete(tmp_path / "1" / "data", {"a": BOTH, "b": ()}, {}, sides)
    line = failed(root, capsys)
    assert line == f"error: {root / 'splits.csv'}: split 'val' has no face in its 1 photo; make the split again"
    root = write_incomplete(tmp_path / "2" / "data", {"a": (), "b": BOTH}, {}, sides)
    assert "split 'train' has no face in its 1 photo" in failed(root, capsys)
    root = write_incomplete(tmp_path / "3" / "data", {"a": BOTH[:1], "b": BOTH}, {"a": BOTH[1:]}, sides)
    line = failed(root, capsys)
    assert "each training photo may show a face without a box" in line and "correct the refused annotations" in line
    root = write_incomplete(tmp_path / "4" / "data", {"a": (), "b": ()}, {"a": BOTH}, sides)
    assert "no image has a face" in failed(root, capsys)


@pytest.mark.usefixtures("quick")
def test_a_run_with_other_names_of_classes_is_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = {"a": (("mask", LEFT), ("bare", RIGHT)), "b": (("mask", LEFT),)}
    data = write_incomplete(tmp_path / "data", faces, {}, {"a": "train", "b": "val"})
    run(data, tmp_path / "run")
    steps = [f"--{name.replace('_', '-')}={value}" for name, value in vars(RECIPE).items()]
    argv = ["--data", str(data), "--splits", str(data / "splits.csv"), "--out", str(tmp_path / "run"), *steps]
    assert main([*argv, "--rename", "mask=with_mask"]) == 1
    assert "run: holds a fine-tuning with another data" in capsys.readouterr().err
    assert main(argv) == 0
