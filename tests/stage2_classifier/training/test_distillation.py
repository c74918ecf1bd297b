"""Learning from finished runs as teachers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from stage2_classifier.cropping import resize_crop
from stage2_classifier.data.crop_dataset import CropDataset
from stage2_classifier.data.crop_manifest import CropSet, write_crop_set
from stage2_classifier.data.loaders import build_loader
from stage2_classifier.reports.run_comparison import format_value
from stage2_classifier.reports.runs import read_run
from stage2_classifier.training.checkpoint import load_model
from stage2_classifier.training.command import parse_args
from stage2_classifier.training.distillation import load_teacher
from stage2_classifier.training.fit import fit
from stage2_classifier.training.setup import training_crops
from tests.helpers.training.quick_training import QUICK, break_after, rows

FIRST = replace(QUICK, name="first", epochs=10, checkpoint_epoch="last", jitter=0.5)
SECOND = replace(FIRST, name="second", margin=0.4, input_size=40, seed=1, hard_negatives=0.25)
STUDENT = replace(QUICK, name="student", epochs=3, margin=0.1, jitter=1.0, augment="opencv", hard_negatives=0.2)
STATS = ((0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def teachers(wide_crops: CropSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the folders of two finished runs with other inputs."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("teachers")
    for config in (FIRST, SECOND):
        fit(config, wide_crops.root, runs)
    return str(runs / "first"), str(runs / "second")


@pytest.fixture(scope="module")
def student(teachers: tuple[str, str], wide_crops: CropSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that learned from both."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("students")
    fit(replace(STUDENT, teacher=teachers), wide_crops.root, runs)
    return runs / "student"


def levels_of(image: torch.Tensor) -> np.ndarray:
    """Return the pixels, uint8 (S, S, 3), of an input with mean and std 0.5."""
    return ((image.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()


@pytest.mark.slow
def test_teachers_see_the_same_place_at_their_own_size(teachers: tuple[str, str], wide_crops: CropSet) -> None:
    teacher = load_teacher([*teachers, teachers[0]], wide_crops)
    assert teacher is not None and [(one.size, one.margin) for one in teacher.inputs] == [(32, 0.2), (40, 0.4)]
    plain = replace(STUDENT, augment="none")
    dataset = training_crops(replace(plain, teacher=teachers), wide_crops, STATS, teacher)
    for draw in range(8):
        view = dataset[draw, 1]
        assert [tuple(image.shape) for image in view.teacher_images] == [(3, 32, 32), (3, 40, 40)]
        for image, margin in zip(view.teacher_images, (0.2, 0.4), strict=True):
            # The middle of the wider view is the narrow view.
            pixels, own = (levels_of(tensor) for tensor in (image, view.image))
            side, whole = pixels.shape[0], 1 + 2 * margin
            rim = round(side * (margin - 0.1) / whole)
            middle, narrow = (
                resize_crop(part, 8).ravel() for part in (pixels[rim : side - rim, rim : side - rim], own)
            )
            assert np.corrcoef(middle, narrow)[0, 1] > 0.85


def test_outputs_of_teachers_are_averaged(teachers: tuple[str, str], wide_crops: CropSet) -> None:
    teacher = load_teacher([*teachers, teachers[0]], wide_crops)
    assert teacher is not None
    images = [torch.rand(5, 3, one.size, one.size) for one in teacher.inputs]
    found = teacher.targets(images, 2.0)
    (first, meta), (second, other) = (load_model(Path(run) / "best.safetensors") for run in teachers)
    with torch.no_grad():
        one, two = first(images[0]), second(images[1])
    assert not meta.has_objectness and other.has_objectness
    expected = (2 * (one[:, :3] / 2).softmax(1) + (two[:, :3] / 2).softmax(1)) / 3
    assert torch.allclose(found.class_probs, expected, atol=1e-5)
    assert found.face_probs is not None and torch.allclose(found.face_probs, two[:, 3].sigmoid(), atol=1e-5)
    assert not found.class_probs.requires_grad


def test_a_run_records_its_teachers(student: Path, teachers: tuple[str, str]) -> None:
    record = json.loads((student / "config.json").read_text())
    summary = json.loads((student / "summary.json").read_text())
    assert record["teacher"] == list(teachers) and record["teachers"] == summary["teachers"]
    first, second = summary["teachers"]
    assert (first["run"], first["model"], first["input_size"], first["margin"]) == ("first", FIRST.model, 32, 0.2)
    assert second["run"] == "second" and len({first["sha256"], second["sha256"]}) == 2
    config = read_run(student).train_config
    assert config.teacher == teachers and format_value("teacher", config.teacher) == "first, second"
    assert format_value("teacher", ()) == "(none)"


@pytest.mark.slow
def test_a_student_resumes_to_the_same_numbers(
    student: Path, teachers: tuple[str, str], wide_crops: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(STUDENT, teacher=teachers)
    with monkeypatch.context() as patch:
        break_after(1, patch, "write_epoch")
        with pytest.raises(KeyboardInterrupt):
            fit(config, wide_crops.root, tmp_path)
    moved = shutil.copytree(Path(teachers[0]).parent, tmp_path / "moved")
    config = replace(config, teacher=tuple(str(moved / Path(run).name) for run in teachers))
    fit(config, wide_crops.root, tmp_path, resume=True)
    assert rows(tmp_path / "student") == rows(student)
    weights = [(folder / "best.safetensors").read_bytes() for folder in (tmp_path / "student", student)]
    assert weights[0] == weights[1]
    for other in ((), teachers[:1], teachers[::-1]):
        with pytest.raises(UserError, match=r"holds a run with another teachers"):
            fit(replace(config, teacher=other), wide_crops.root, tmp_path, resume=True)


@pytest.mark.slow
def test_the_teachers_word_alone_teaches_the_classes(
    teachers: tuple[str, str], wide_crops: CropSet, tmp_path: Path
) -> None:
    """No training face but three has a known class, and the labels do not count."""
    root = shutil.copytree(wide_crops.root, tmp_path / "crops")
    train = [i for i, record in enumerate(wide_crops.records) if record.split == "train"]
    records = tuple(
        replace(record, class_known=i not in train[3:]) for i, record in enumerate(wide_crops.records)
    )  # fmt: skip
    crops = replace(wide_crops, root=root, records=records)
    write_crop_set(crops)
    config = replace(FIRST, name="taught", teacher=teachers, distill_share=1.0, epochs=16, seed=3)
    fit(config, root, tmp_path)
    assert rows(tmp_path / "taught")[-1]["val_macro_f1"] > 0.9
    model, meta = load_model(tmp_path / "taught" / "best.safetensors")
    val = CropDataset(crops, "val", training_crops(QUICK, crops, STATS).transform, margin=meta.margin)
    ((images, targets, *_),) = build_loader(val, len(val))
    with torch.no_grad():
        assert (model(images).argmax(dim=1) == targets).float().mean() > 0.9


def test_what_is_no_teacher_is_refused(
    teachers: tuple[str, str], wide_crops: CropSet, tiny_crops: CropSet, tmp_path: Path
) -> None:
    assert load_teacher((), wide_crops) is None
    with pytest.raises(UserError, match=r"^teacher: .*nowhere is not the folder of a run; train it"):
        load_teacher([str(tmp_path / "nowhere")], wide_crops)
    broken = shutil.copytree(teachers[0], tmp_path / "broken")
    (broken / "summary.json").unlink()
    with pytest.raises(UserError, match=r"^teacher: .*broken is not finished; train it to its end with --resume$"):
        load_teacher([str(broken)], wide_crops)
    with pytest.raises(UserError, match=r"^teacher: .*first knows the classes .*; use another run$"):
        load_teacher(teachers, replace(wide_crops, class_names=("with_mask", "without_mask")))
    with pytest.raises(UserError, match=r"^teacher: .*second sees a margin of 0\.4, and .* was cut with 0\.2; build"):
        load_teacher(teachers, tiny_crops)
    with pytest.raises(UserError, match=r"^teacher: does not see mixed crops; set mixup to 0$"):
        replace(STUDENT, teacher=teachers, mixup=0.2)


def test_the_flag_takes_several_runs() -> None:
    config = parse_args(["--teacher", "runs/a", "runs/b", "--distill-share", "0.7"]).config
    assert config.teacher == ("runs/a", "runs/b") and config.distill_share == 0.7
