"""A plan's commands, as their programs parse them, and what some crop sets do not allow."""

from __future__ import annotations

from pathlib import Path

import pytest
import tyro

from pipeline.data import build_crops
from pipeline.inference.bundle import GRAPHS
from pipeline.training.packing import command as pack_command
from pipeline.training.plan import CASCADE, EPOCHS_OF_SEVERAL, QUICK_NOTE, TrainingPlan, args_for_crops
from pipeline.training.steps import ExtraArgs, TrainingStep
from stage1_faces.training import finetune
from stage2_classifier.config import EXPERIMENTS
from stage2_classifier.data.crop_manifest import BACKGROUND, CropRecord, CropSet, write_crop_set
from stage2_classifier.training import command as train

KAGGLE = ("with_mask", "without_mask", "mask_weared_incorrect")
LANDMARKS = (10.0, 12.0, 20.0, 12.0, 15.0, 18.0, 11.0, 24.0, 19.0, 24.0)  # upright in a box from (5, 2) to (25, 30)


def plan(**changes: object) -> TrainingPlan:
    given = {"data": (Path("my data"),), "splits": Path("w/splits.csv"), "folder": Path("w/part")}
    return TrainingPlan(**{**given, **changes})  # type: ignore[arg-type]


def arguments(step: TrainingStep) -> list[str]:
    return list(step.command[1:])


def test_the_steps_and_what_each_reads() -> None:
    planned = plan(experiments=("final_trunk", "final_cnn"))
    learning = [*planned.detector_steps(), *planned.classifier_steps()]
    assert [(step.name, step.command[0], step.result) for step in learning] == [
        ("cascade", "stage1_faces.finetune", None),
        ("crops", "pipeline.build_crops", Path("w/part/crops/crops.csv")),
        ("final_trunk", "stage2_classifier.train", Path("w/part/runs/final_trunk/summary.json")),
        ("final_cnn", "stage2_classifier.train", Path("w/part/runs/final_cnn/summary.json")),
    ]
    tune = tyro.cli(finetune.FinetuneArgs, args=arguments(learning[0]))
    assert (tune.data, tune.splits, tune.out) == ((Path("my data"),), Path("w/splits.csv"), Path("w/part/cascade"))
    assert (tune.threads, tune.recipe) == (
        1,
        finetune.FinetuneConfig(**{flag.replace("-", "_"): value for flag, value in CASCADE.items()}),
    )
    cut = tyro.cli(build_crops.BuildCropsArgs, args=arguments(learning[1]))
    assert (cut.data, cut.splits, cut.out) == ((Path("my data"),), Path("w/splits.csv"), Path("w/part/crops"))
    assert (cut.cascade, cut.workers) == (Path("w/part/cascade"), 1)
    trunk, cnn = (train.parse_args(arguments(step)) for step in learning[2:])
    for args in (trunk, cnn):
        assert (args.crops, args.runs, args.threads) == (Path("w/part/crops"), Path("w/part/runs"), 1)
        assert args.resume and not args.overwrite
    # O-Net's layers start from the fine-tuned weights.
    assert (trunk.config.pretrained, trunk.config.weights) == (False, "w/part/cascade/onet.safetensors")
    assert cnn.config == EXPERIMENTS["final_cnn"]
    assert [step.name for step in planned.steps] == [*(step.name for step in learning), "bundle"]
    pack = tyro.cli(pack_command.PackArgs, args=arguments(planned.bundle_step()))
    assert planned.bundle_step().command[0] == "pipeline.pack"
    assert pack == pack_command.PackArgs(
        run=(Path("w/part/runs/final_trunk"), Path("w/part/runs/final_cnn")),
        out=Path("w/part/bundle"),
        cascade=Path("w/part/cascade"),
        data=(Path("my data"),),
        splits=Path("w/splits.csv"),
        second_look="compare",
        int8=GRAPHS,
    )
    assert plan().experiments == ("last_stage_lite0", "final_trunk")


def test_processes_make_batches_where_they_are_asked_for() -> None:
    planned = plan(experiments=("final_cnn",), workers=3)
    (tune, cut), (learn,) = planned.detector_steps(), planned.classifier_steps()
    assert tyro.cli(finetune.FinetuneArgs, args=arguments(tune)).workers == 3
    assert tyro.cli(build_crops.BuildCropsArgs, args=arguments(cut)).workers == 3
    assert train.parse_args(arguments(learn)).config.workers == 3
    assert all("--workers" not in step.command for step in (plan().detector_steps()[0], *plan().classifier_steps()))


def test_of_settings_from_another_bundle_photos_are_only_for_the_ranges_of_int8() -> None:
    def packed(**changes: object) -> pack_command.PackArgs:
        step = plan(settings_from=Path("w/other/bundle"), **changes).bundle_step()
        return tyro.cli(pack_command.PackArgs, args=arguments(step))

    pack = packed()
    assert (pack.settings_from, pack.second_look) == (Path("w/other/bundle"), "on")
    assert (pack.data, pack.splits, pack.int8) == ((Path("my data"),), Path("w/splits.csv"), GRAPHS)
    # A training resumed with --no-int8 finds no bundle in INT8 in the place of its own.
    assert plan().bundle != plan(int8=False).bundle == plan(int8=False).bundle_step().result.parent  # type: ignore[union-attr]
    for pack in (packed(int8=False), packed(quick=True)):
        assert (pack.settings_from, pack.data, pack.int8) == (Path("w/other/bundle"), (), ())


def test_several_datasets_are_learned_from_in_fewer_epochs() -> None:
    def epochs(*data: str, **changes: object) -> list[int]:
        steps = plan(data=tuple(map(Path, data)), **changes).classifier_steps()
        return [train.parse_args(arguments(step)).config.epochs for step in steps]

    lite0, trunk = (EXPERIMENTS[name].epochs for name in ("last_stage_lite0", "final_trunk"))
    assert epochs("a") == [lite0, trunk]
    assert epochs("a", "b") == [EPOCHS_OF_SEVERAL[name] for name in ("last_stage_lite0", "final_trunk")]
    assert all(few < many for few, many in zip(epochs("a", "b"), epochs("a"), strict=True))
    assert epochs("a", "b", experiments=("final_cnn",)) == [EXPERIMENTS["final_cnn"].epochs]
    assert epochs("a", "b", quick=True) == [2, 2]


@pytest.mark.parametrize("name", ["final_trunk", "final_cnn", "sched_plateau", "transfer_frozen_first"])
def test_quick_is_a_few_steps_of_each(name: str) -> None:
    quick = plan(experiments=(name,), quick=True)
    cascade, _, classifier, _ = quick.steps
    recipe = tyro.cli(finetune.FinetuneArgs, args=arguments(cascade)).recipe
    assert recipe.pnet_steps + recipe.rnet_steps + recipe.onet_steps < 200
    config = train.parse_args(arguments(classifier)).config
    assert config.epochs == 2
    assert tyro.cli(pack_command.PackArgs, args=arguments(quick.bundle_step())).note == QUICK_NOTE


def crops(root: Path, classes: tuple[str, ...], landmarks: tuple[float, ...] = (), hard_negatives: bool = True) -> Path:
    root.mkdir(parents=True)
    box = (5.0, 2.0, 25.0, 30.0)
    records = tuple(CropRecord(f"train/{c}/a.png", c, "train", "a", box, landmarks) for c in classes)
    negatives = (CropRecord("rejects/train/r.png", BACKGROUND, "train", "a", box),) if hard_negatives else ()
    write_crop_set(CropSet(root, records, classes, 0.6, negatives))
    return root


def test_crops_that_allow_everything(tmp_path: Path) -> None:
    assert args_for_crops("final_trunk", [crops(tmp_path / "c", KAGGLE, LANDMARKS)]) == ExtraArgs()


def test_no_mask_transfer_between_faces_of_other_classes(tmp_path: Path) -> None:
    other = crops(tmp_path / "c", ("head", "helmet"), LANDMARKS)
    reason = "trains without mask transfer (--mask-transfer-prob 0): the data has no class 'with_mask'"
    assert args_for_crops("final_trunk", [other]) == ExtraArgs(("--mask-transfer-prob", "0"), (reason,))
    assert args_for_crops("final_cnn", [other]) == ExtraArgs()  # has no mask transfer


def test_no_mask_transfer_without_landmarks(tmp_path: Path) -> None:
    found = args_for_crops("final_trunk", [crops(tmp_path / "c", KAGGLE)])
    assert found.options == ("--mask-transfer-prob", "0")
    assert "no masked or no bare training face is large enough" in found.reasons[0] and len(found.reasons) == 1


def test_without_hard_negatives_a_classifier_trains_on_faces_alone(tmp_path: Path) -> None:
    found = args_for_crops("final_cnn", [crops(tmp_path / "c", KAGGLE, LANDMARKS, hard_negatives=False)])
    assert "stage 1 has no false alarms" in found.reasons[0]
    config = train.parse_args(["--experiment", "final_cnn", *found.options]).config
    assert (config.hard_negatives, config.box_head) == (0, False)
    assert args_for_crops("baseline", [tmp_path / "c"]) == ExtraArgs()
    # A sibling run trains without them, too: both bundles must have the same outputs.
    crops(tmp_path / "whole" / "crops", KAGGLE, LANDMARKS)
    classifier = plan(
        folder=tmp_path / "whole", sibling_runs=(tmp_path / "part",), experiments=("final_cnn",)
    ).classifier_steps()[0]
    (tmp_path / "part").mkdir()
    (tmp_path / "c").rename(tmp_path / "part" / "crops")
    assert classifier.extra_args() == found
