"""Trainings of the whole pipeline: reading flags go to every step; parts that cannot teach; incomplete photos."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tyro

from common.annotations import AnnotatedImage, load_dataset
from common.errors import UserError
from pipeline.data import build_crops, split
from pipeline.evaluate.scoring.args import EvaluateArgs
from pipeline.training import crossval, train_all
from pipeline.training.fold_scoring import face_samples, false_alarms
from pipeline.training.packing import command as pack_command
from pipeline.training.packing.calibration import calibrate_cascade, collect_outputs, counted_faces
from pipeline.training.plan import TrainingPlan, check_parts
from pipeline.training.steps import TrainingStep
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.faces import Faces
from stage1_faces.training import finetune
from tests.helpers.commands import write_distinct_photos
from tests.helpers.incomplete_data import BOTH, LEFT, RIGHT, write_half_refused, write_incomplete

READING = ("--rename", "Mask=with_mask", "bare=without_mask", "--unlabelled", "skip")


def test_every_step_that_reads_photos_gets_the_reading_flags() -> None:
    plan = TrainingPlan((Path("d"),), Path("s.csv"), Path("w"), ("final_cnn",), reading=READING)
    cascade, crops, _, bundle = plan.steps
    for step, args in (
        (cascade, finetune.FinetuneArgs),
        (crops, build_crops.BuildCropsArgs),
        (bundle, pack_command.PackArgs),
    ):
        parsed = tyro.cli(args, args=list(step.command[1:]))
        assert parsed.rename == ("Mask=with_mask", "bare=without_mask") and parsed.unlabelled == "skip"
        folders = parsed.data if isinstance(parsed.data, tuple) else (parsed.data,)  # some commands take several
        assert (folders, parsed.splits) == ((Path("d"),), Path("s.csv"))
    own = replace(plan, settings_from=Path("b"), int8=False).bundle_step()
    assert "--rename" not in own.command  # reads no photos


def started_by(monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> list[TrainingStep]:
    """Return the steps that train_all starts; nothing is trained, so that the command fails at its end."""
    steps: list[TrainingStep] = []

    def parallel(works: Iterable[tuple[Path, Sequence[TrainingStep]]], jobs: int, log: object) -> None:
        steps.extend(step for _, some in works for step in some)

    monkeypatch.setattr(train_all, "run_parallel", parallel)
    monkeypatch.setattr(train_all, "run_steps", lambda folder, some, log: steps.extend(some))
    assert train_all.main(argv) == 1
    return steps


def test_train_all_passes_the_flags_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = (("Mask", LEFT), ("bare", RIGHT))
    root = write_incomplete(
        tmp_path / "data",
        {f"p{i}": faces for i in range(3)},
        {},
        {"p0": "train", "p1": "val", "p2": "test"},
    )
    argv = ["--data", str(root), "--splits", str(root / "splits.csv"), "--out", str(tmp_path / "b")]
    argv += ["--work-dir", str(tmp_path / "w"), *READING]
    steps = started_by(monkeypatch, argv)
    reading = [step for step in steps if "--data" in step.command]
    assert [step.name for step in reading] == ["cascade", "crops", "cascade", "crops", "bundle", "bundle", "report"]
    for step in reading:
        assert step.command[(at := step.command.index("--rename")) : at + len(READING)] == READING
    report = tyro.cli(EvaluateArgs, args=list(reading[-1].command[1:]))
    assert report.rename == READING[1:3] and report.unlabelled == "skip" and report.bundle is not None


def train_all_fails(root: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    """Return the lines on standard error of a training that is refused before the work."""
    argv = ["--data", str(root), "--splits", str(root / "splits.csv"), "--out", str(root.parent / "b")]
    capsys.readouterr()
    assert train_all.main([*argv, "--work-dir", str(root.parent / "w"), *options]) == 1
    return capsys.readouterr().err.splitlines()


def test_train_all_refuses_what_cannot_be_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = {"a": "train", "b": "val", "c": "test"}
    root = write_incomplete(tmp_path / "1" / "data", {"a": BOTH, "b": (), "c": BOTH}, {"b": BOTH}, sides)
    lines = train_all_fails(root, capsys)
    assert lines[-1] == f"error: {root / 'splits.csv'}: split 'val' has no face in its 1 photo; use other --splits"
    assert lines[0].startswith("warning: ") and "b.xml" in lines[0]  # shown although a later error ends the command
    one = (("with_mask", LEFT),)
    root = write_incomplete(tmp_path / "2" / "data", dict.fromkeys(sides, one), {}, sides)
    line = train_all_fails(root, capsys)[-1]
    assert "split 'train' has only the class 'with_mask'" in line and "stage1_faces.finetune" in line
    root = write_incomplete(tmp_path / "3" / "data", dict.fromkeys(sides, ()), {"a": BOTH}, sides)
    assert "no image has a face" in train_all_fails(root, capsys)[-1]


def test_train_all_with_other_names_is_another_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = {"a": "train", "b": "val", "c": "test"}
    root = write_incomplete(tmp_path / "data", dict.fromkeys(sides, BOTH), {}, sides)
    argv = ["--data", str(root), "--splits", str(root / "splits.csv"), "--out", str(tmp_path / "b")]
    argv += ["--work-dir", str(tmp_path / "w")]
    started_by(monkeypatch, argv)
    assert "another data" in train_all_fails(root, capsys, "--rename", "with_mask=covered")[-1]


def test_a_part_by_hand() -> None:
    def image(name: str, *labels: str) -> AnnotatedImage:
        boxes = np.float32([[0, 0, 4, 4]] * len(labels)).reshape(-1, 4) + np.arange(len(labels))[:, None] * 4
        return AnnotatedImage(Path(name), name, (40, 40), boxes.astype(np.float32), labels)

    both = [image("a", "x"), image("b", "y")]
    check_parts("s.csv", {"train": both, "val": both[:1]}, "fix")
    with pytest.raises(UserError, match="split 'val' has no face in its 1 photo; fix"):
        check_parts("s.csv", {"train": both, "val": [image("c")]}, "fix")
    with pytest.raises(UserError, match="split 'train' has only the class 'x'"):
        check_parts("s.csv", {"train": both[:1], "val": both}, "fix")


def test_folds_are_read_alike_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_distinct_photos(tmp_path / "data", 6)
    asked: list[split.SplitArgs] = []
    real = split.run
    monkeypatch.setattr(split, "run", lambda args, log: asked.append(args) or real(args, log))
    argv = ["--data", str(root), "--out", str(tmp_path / "cv"), "--folds", "3", "--rename", "with_mask=covered"]

    class StopError(Exception):
        """Ends the command before any training."""

    def parallel(works: Sequence[tuple[Path, Sequence[TrainingStep]]], *_: object) -> None:
        for _, steps in works:
            assert steps[0].command[5:7] == ("--rename", "with_mask=covered")
        raise StopError

    monkeypatch.setattr(crossval, "run_parallel", parallel)
    with pytest.raises(StopError):
        crossval.main(argv)
    assert asked[0].rename == ("with_mask=covered",)
    # Only one photo has faces: too few for three folds.
    file = root / "_annotations.coco.json"
    coco = json.loads(file.read_text())
    coco["annotations"] = [row for row in coco["annotations"] if row["image_id"] == 0]
    file.write_text(json.dumps(coco))
    capsys.readouterr()
    assert crossval.main(["--data", str(root), "--out", str(tmp_path / "other"), "--folds", "3"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "1 with faces, too few for 3 parts; use more photos with faces" in error


def test_pack_needs_data_for_reading_flags_and_faces_to_fit_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "b")]
    assert pack_command.main([*argv, "--rename", "a=b"]) == 1
    assert capsys.readouterr().err == "error: --rename: needs --data, whose annotations it is about; give both\n"
    root = write_incomplete(tmp_path / "data", {"a": BOTH, "b": ()}, {"b": BOTH}, {"a": "train", "b": "val"})
    assert pack_command.main([*argv, "--data", str(root), "--splits", str(root / "splits.csv")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "b.xml" in lines[0] and f"splits.csv: split 'val' of {root} has no face in its 1 photo" in lines[-1]


class BothFaces:
    """Finds both faces, whatever the photo shows."""

    def detect(self, image: np.ndarray, *, min_face: float | None = None, min_score: float | None = None) -> Faces:
        return Faces(np.float32([LEFT, RIGHT]), np.float32([0.9, 0.6]), np.ones((2, 5, 2), np.float32))


@pytest.fixture
def images(tmp_path: Path) -> tuple[AnnotatedImage, ...]:
    """Return four photos, of which p1 and p3 may show a face without a box: the right one."""
    return load_dataset(write_half_refused(tmp_path / "data"), log=lambda _: None).images


def test_calibration_sees_no_false_alarm_there(
    images: tuple[AnnotatedImage, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    found = BothFaces().detect(np.zeros((120, 160, 3), np.uint8))
    assert counted_faces(found, images[0]) is found
    kept = counted_faces(found, images[1])
    assert kept.boxes.tolist() == [list(LEFT)] and kept.landmarks.shape == (1, 5, 2)
    config = CascadeConfig()
    assert calibrate_cascade(BothFaces(), config, images) == config  # type: ignore[arg-type]
    assert "only 6 right and 0 wrong detections" in capsys.readouterr().err
    names = ("with_mask", "without_mask", "mask_weared_incorrect")
    predictor = SimpleNamespace(
        bundle=SimpleNamespace(meta=SimpleNamespace(class_names=names)),
        run_classifier=lambda pixels, boxes: [(np.zeros((len(boxes[0]), 3), np.float32), None, None)],
    )
    outputs = collect_outputs(predictor, BothFaces(), images)  # type: ignore[arg-type]
    assert [len(o.boxes) for o in outputs] == [len(o.probs) for o in outputs] == [2, 1, 2, 1]


def test_folds_count_no_false_alarm_there(images: tuple[AnnotatedImage, ...]) -> None:
    detector = BothFaces()
    assert [len(s.boxes) for s in face_samples(detector, images, 0.0)] == [2, 1, 2, 1]  # type: ignore[arg-type]
    assert false_alarms(detector, images[1::2], 0.0) is None  # type: ignore[arg-type]
