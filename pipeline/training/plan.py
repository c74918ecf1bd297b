"""The steps that train the whole pipeline on one split: cascade, crops, classifiers, bundle.

Each step is a process. After a kill, finished steps are not repeated, and the others resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.annotations import AnnotatedImage, require_faces
from common.errors import UserError
from pipeline.inference.bundle import GRAPHS
from pipeline.training.steps import ExtraArgs, TrainingStep
from stage2_classifier.config import FACE_TRUNK, RANGES, experiment
from stage2_classifier.data.crop_manifest import CropSet, read_crop_set

# Two kinds of networks, whose errors differ (EXPERIMENTS.md, 2026-11-28).
RECIPE_EXPERIMENTS = ("last_stage_lite0", "final_trunk")
# More photos need fewer passes: several datasets give some six times as many crops as the Kaggle photos.
EPOCHS_OF_SEVERAL = {"last_stage_lite0": 10, "final_trunk": 30}
# Longer than by finetune's defaults, for more sources; the teacher finds the faces without a box.
CASCADE = {"teacher": "retinaface", "pnet-steps": 10_000, "rnet-steps": 1500, "onet-steps": 3000}
# A few steps of each training, as a check that everything fits. The rates are higher: all steps are in the warm-up.
QUICK_STEPS = {"teacher": "stock", "pnet-steps": 60, "rnet-steps": 30, "onet-steps": 30, "epoch-steps": 20, "passes": 1}
QUICK_STEPS |= {"rnet-batch": 64, "onet-batch": 64}
QUICK_RATES = {"pnet-rate": 0.01, "rnet-rate": 0.01, "onet-rate": 0.01}
QUICK_EPOCHS = 2
CROPS = "crops"
QUICK_NOTE = "quick: a few steps of each training, as a check that everything fits; a poor detector"


@dataclass(frozen=True)
class TrainingPlan:
    """One training of the whole pipeline on one split."""

    data: tuple[Path, ...]  # annotated photos: the main dataset, and others that are only learned from
    splits: Path  # splits.csv to follow
    folder: Path  # folder of all results
    experiments: tuple[str, ...] = RECIPE_EXPERIMENTS  # stage 2's experiments, whose networks are averaged
    settings_from: Path | None = None  # bundle whose settings and metrics are taken, if `splits` has no photos for them
    sibling_runs: tuple[
        Path, ...
    ] = ()  # plans with the same classifiers: what their crops forbid is left out here, too
    quick: bool = False  # whether to run only a few steps of each training, as a check that everything fits
    reading: tuple[str, ...] = ()  # flags that say how to read `data`, of ReadingArgs.reading_flags
    sources: Path | None = None  # file that says what may be learned from each dataset
    int8: bool = True  # whether the bundle's nets compute in INT8
    workers: int = 0  # processes that make batches for the nets in training; 0: none

    @property
    def cascade(self) -> Path:
        """Return the run of the fine-tuned cascade."""
        return self.folder / "cascade"

    @property
    def crops(self) -> Path:
        """Return the folder of the crops."""
        return self.folder / CROPS

    @property
    def runs(self) -> tuple[Path, ...]:
        """Return the training runs of stage 2."""
        return tuple(self.folder / "runs" / name for name in self.experiments)

    @property
    def bundle(self) -> Path:
        """Return the folder of the bundle; one in float32 has its own, so that a resumed training may ask for it."""
        return self.folder / ("bundle" if self.int8 else "bundle_float32")

    @property
    def steps(self) -> list[TrainingStep]:
        """Return all steps in order."""
        return [*self.detector_steps(), *self.classifier_steps(), self.bundle_step()]

    def detector_steps(self) -> list[TrainingStep]:
        """Return the steps that train stage 1 and cut the crops."""
        photos = self._photos()
        recipe = {**QUICK_STEPS, **QUICK_RATES} if self.quick else CASCADE
        tune = ("--out", str(self.cascade), "--threads", "1", *_flags(recipe))
        tune += self._workers()
        cut = ("--out", str(self.crops), "--cascade", str(self.cascade), "--workers", str(max(self.workers, 1)))
        return [
            TrainingStep("cascade", ("stage1_faces.finetune", *photos, *tune)),
            TrainingStep("crops", ("pipeline.build_crops", *photos, *cut), self.crops / "crops.csv"),
        ]

    def classifier_steps(self) -> list[TrainingStep]:
        """Return the steps that train stage 2; when they run, the sibling runs' crops must exist."""
        crops = (self.crops, *(folder / CROPS for folder in self.sibling_runs))
        steps = []
        for run in self.runs:
            config = experiment(run.name)
            options = ["--experiment", run.name, "--runs", str(run.parent), "--resume", "--threads", "1"]
            if config.model == FACE_TRUNK:
                # The fine-tuned O-Net knows masked faces: a better start than the stock one.
                options += ["--no-pretrained", "--weights", str(self.cascade / "onet.safetensors")]
            if len(self.data) > 1 and run.name in EPOCHS_OF_SEVERAL and not self.quick:
                options += _flags({"epochs": EPOCHS_OF_SEVERAL[run.name]})
            options += self._workers()
            options += self._quick({"epochs": QUICK_EPOCHS, "warmup-epochs": min(config.warmup_epochs, 1)})
            if config.freeze_epochs:
                options += self._quick({"freeze-epochs": 1})
            command = ("stage2_classifier.train", "--crops", str(self.crops), *options)
            extra_args = partial(args_for_crops, run.name, crops)
            steps.append(TrainingStep(run.name, command, run / "summary.json", extra_args))
        return steps

    def bundle_step(self) -> TrainingStep:
        """Return the step that packs the bundle."""
        parts = ("--run", *map(str, self.runs), "--cascade", str(self.cascade), "--out", str(self.bundle))
        # A poor detector of a quick training may find no face to measure the ranges on.
        int8 = ("--int8", *GRAPHS) if self.int8 and not self.quick else ()
        if self.settings_from is None:
            settings = (*self._photos(), *(() if self.quick else ("--second-look", "compare")))
        else:
            settings = ("--settings-from", str(self.settings_from), *(self._photos() if int8 else ()))
        note = ("--note", QUICK_NOTE) if self.quick else ()
        return TrainingStep("bundle", ("pipeline.pack", *parts, *settings, *int8, *note), self.bundle / "bundle.json")

    def _photos(self) -> tuple[str, ...]:
        """Return the flags that say which photos are read, and how."""
        photos = ("--data", *map(str, self.data), "--splits", str(self.splits), *self.reading)
        return photos if self.sources is None else (*photos, "--sources", str(self.sources))

    def _workers(self) -> tuple[str, ...]:
        """Return the flag of the processes that make batches, if there are any."""
        return ("--workers", str(self.workers)) if self.workers else ()

    def _quick(self, options: Mapping[str, object]) -> list[str]:
        """Return options as flags if this is a quick training."""
        return _flags(options) if self.quick else []


def _flags(options: Mapping[str, object]) -> list[str]:
    """Return options as flags."""
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def check_workers(workers: int) -> None:
    """Raise UserError for a number of processes that make batches that the steps would refuse."""
    lowest, highest = RANGES["workers"]
    if not lowest <= workers <= (highest or workers):
        raise UserError(f"--workers {workers}: use a number from {lowest:g} to {highest:g}")


def check_experiments(names: Sequence[str]) -> None:
    """Raise UserError when there is no experiment, one is named twice, or one is not known."""
    if not names or len(set(names)) < len(names):
        raise UserError("--experiments: name at least one, and each once")
    for name in names:
        experiment(name)


def check_parts(name: Path | str, parts: Mapping[str, Sequence[AnnotatedImage]], fix: str) -> None:
    """Raise UserError, before hours of training, when a part has no face, or the training part has only one class.

    Args:
        name: the splits file, or the data, for messages.
        parts: {split: its images}, with a "train".
        fix: what to do about a part without a face.
    """
    for split, images in parts.items():
        require_faces(images, f"{name}: split {split!r}", fix)
    classes = {label for image in parts["train"] for label in image.labels}
    if len(classes) == 1:
        alone = "train only stage 1, with `python -m stage1_faces.finetune`"
        reason = f"split 'train' has only the class {classes.pop()!r}: a classifier has nothing to tell apart"
        raise UserError(f"{name}: {reason}; use data with two or more classes, or {alone}")


def args_for_crops(name: str, crops: Sequence[Path]) -> ExtraArgs:
    """Return the options of experiment `name` that turn off what some of the crop sets (folders) do not allow.

    Data of other classes may not allow mask transfer. On a small dataset, stage 1 may have no false alarms.
    """
    config, crop_sets = experiment(name), [read_crop_set(folder) for folder in crops]
    options, reasons = [], []
    if config.hard_negatives and not all(any(r.split == "train" for r in one.hard_negatives) for one in crop_sets):
        options += ["--hard-negatives", "0", "--no-box-head"]
        reasons.append(f"trains on faces alone ({' '.join(options)}): stage 1 has no false alarms in training photos")
    if config.mask_transfer_prob and (reason := next(filter(None, map(_why_no_mask_transfer, crop_sets)), "")):
        options += ["--mask-transfer-prob", "0", *(("--mask-hanging-share", "0") if config.mask_hanging_share else ())]
        reasons.append(f"trains without mask transfer (--mask-transfer-prob 0): {reason}")
    for field, what in (("occluder_prob", "things before mouths"), ("mask_recolor_prob", "masks of other colours")):
        why = (_why_no_edit(field, crops) for crops in crop_sets)
        if getattr(config, field) and (reason := next(filter(None, why), "")):
            flag = f"--{field.replace('_', '-')}"
            options += [flag, "0"]
            reasons.append(f"trains without {what} ({flag} 0): {reason}")
    return ExtraArgs(tuple(options), tuple(reasons))


def _why_no_mask_transfer(crops: CropSet) -> str:
    """Return why these crops do not allow mask transfer; empty when they do."""
    # The module needs torch, which a command that only makes a plan does not.
    from stage2_classifier.data.crop_dataset import BARE, INCORRECT, MASKED, CropDataset

    if missing := [name for name in (MASKED, BARE, INCORRECT) if name not in crops.class_names]:
        return f"the data has no class {missing[0]!r}"
    try:
        CropDataset(crops, "train", lambda *_: None, mask_transfer_prob=1)  # type: ignore[arg-type]
    except UserError:
        return "no masked or no bare training face is large enough and has landmarks"
    return ""


def _why_no_edit(field: str, crops: CropSet) -> str:
    """Return why these crops do not allow the change to faces that a config's field asks for; empty when they do."""
    from stage2_classifier.data.crop_dataset import CropDataset

    try:
        CropDataset(crops, "train", lambda *_: None, **{field: 1.0})  # type: ignore[arg-type]
    except UserError as error:  # "field: what; fix"
        return str(error).removeprefix(f"{field}: ").split("; ", maxsplit=1)[0]
    return ""
