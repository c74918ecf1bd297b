"""One training of the whole pipeline on one split: fine-tune, crops, classifiers, bundle, each step in its own process.

Started again after a kill, a branch goes on: steps that are finished are not repeated, the others resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.errors import UserError
from pipeline.training.steps import ExtraArgs, TrainingStep
from stage2_classifier.config import FACE_TRUNK, experiment
from stage2_classifier.data.crop_manifest import CropSet, read_crop_set

# Two networks of different kinds err on different faces; their mean beats either (EXPERIMENTS.md).
EXPERIMENTS = ("final_trunk", "final_cnn")
# A few steps of each training, to see that everything fits; at rates that make up for their being in the warm-up.
QUICK_STEPS = {"pnet-steps": 60, "rnet-steps": 30, "onet-steps": 30, "epoch-steps": 20, "passes": 1}
QUICK_STEPS |= {"rnet-batch": 64, "onet-batch": 64}
QUICK_RATES = {"pnet-rate": 0.01, "rnet-rate": 0.01, "onet-rate": 0.01}
QUICK_EPOCHS = 2
CROPS = "crops"
QUICK_NOTE = "quick: a few steps of each training, to see that everything fits; a poor detector"


@dataclass(frozen=True)
class TrainingPlan:
    """data, splits: what is learned from. folder: of everything that the branch makes. experiments: of stage 2.

    like: a bundle whose settings and figures are taken, where `splits` leaves no photos to fit them on. beside: folders
    of branches whose classifiers are to be of the same make: what their crops do not allow is left out here, too.
    quick: a few steps of each training, to see that everything fits.
    """

    data: Path
    splits: Path
    folder: Path
    experiments: tuple[str, ...] = EXPERIMENTS
    settings_from: Path | None = None
    sibling_runs: tuple[Path, ...] = ()
    quick: bool = False

    @property
    def cascade(self) -> Path:
        """Run of the fine-tuned cascade."""
        return self.folder / "cascade"

    @property
    def crops(self) -> Path:
        """The crop set."""
        return self.folder / CROPS

    @property
    def runs(self) -> tuple[Path, ...]:
        """Training runs of stage 2."""
        return tuple(self.folder / "runs" / name for name in self.experiments)

    @property
    def bundle(self) -> Path:
        """What comes of it."""
        return self.folder / "bundle"

    @property
    def steps(self) -> list[TrainingStep]:
        """All of them, in their order."""
        return [*self.detector_steps(), *self.classifier_steps(), self.bundle_step()]

    def detector_steps(self) -> list[TrainingStep]:
        """The first steps: stage 1, and what it sees in the photos."""
        photos = ("--data", str(self.data), "--splits", str(self.splits))
        tune = ("--out", str(self.cascade), "--threads", "1", *self._quick({**QUICK_STEPS, **QUICK_RATES}))
        cut = ("--out", str(self.crops), "--cascade", str(self.cascade), "--workers", "1")
        return [
            TrainingStep("cascade", ("stage1_faces.finetune", *photos, *tune)),
            TrainingStep("crops", ("pipeline.build_crops", *photos, *cut), self.crops / "crops.csv"),
        ]

    def classifier_steps(self) -> list[TrainingStep]:
        """The next ones: stage 2's trainings. The crops of the branches beside must be there, too."""
        crops = (self.crops, *(folder / CROPS for folder in self.sibling_runs))
        steps = []
        for run in self.runs:
            config = experiment(run.name)
            options = ["--experiment", run.name, "--runs", str(run.parent), "--resume", "--threads", "1"]
            if config.model == FACE_TRUNK:
                # What O-Net has learned of masked faces by now is a better start than what it knew of bare ones.
                options += ["--no-pretrained", "--weights", str(self.cascade / "onet.safetensors")]
            options += self._quick({"epochs": QUICK_EPOCHS, "warmup-epochs": min(config.warmup_epochs, 1)})
            command = ("stage2_classifier.train", "--crops", str(self.crops), *options)
            steps.append(TrainingStep(run.name, command, run / "summary.json", partial(fit_to_crops, run.name, crops)))
        return steps

    def bundle_step(self) -> TrainingStep:
        """The last step."""
        command = ["pipeline.pack", "--run", *map(str, self.runs), "--cascade", str(self.cascade)]
        command += ["--out", str(self.bundle)]
        if self.settings_from is None:
            command += ["--data", str(self.data), "--splits", str(self.splits)]
        else:
            command += ["--settings-from", str(self.settings_from)]
        if self.quick:
            command += ["--note", QUICK_NOTE]
        return TrainingStep("bundle", tuple(command), self.bundle / "bundle.json")

    def _quick(self, options: Mapping[str, float]) -> list[str]:
        return [part for name, value in options.items() for part in (f"--{name}", str(value))] if self.quick else []


def check_experiments(names: Sequence[str]) -> None:
    """Raises UserError when there are none or one is named twice, UserError when one is not known."""
    if not names or len(set(names)) < len(names):
        raise UserError("--experiments: name at least one, and each once")
    for name in names:
        experiment(name)


def fit_to_crops(name: str, crops: Sequence[Path]) -> ExtraArgs:
    """What of the experiment `name` one of these crop sets does not allow, as options that leave it out.

    Other data than the experiments were made for may lack the classes by which masks are moved from face to face, and
    a small set may be learned so well that stage 1 has no false alarms in it.
    """
    config, sets = experiment(name), [read_crop_set(folder) for folder in crops]
    options: list[str] = []
    why: list[str] = []
    if config.hard_negatives and not all(any(r.split == "train" for r in one.hard_negatives) for one in sets):
        options += ["--hard-negatives", "0", "--no-box-head"]
        why.append(
            "learns from faces alone (--hard-negatives 0 --no-box-head): stage 1 has no false alarms in training photos"
        )
    if config.mask_transfer_prob and (reason := next(filter(None, map(_unspliced, sets)), "")):
        options += ["--mask-transfer-prob", "0"]
        why.append(f"moves no masks from face to face (--mask-transfer-prob 0): {reason}")
    return ExtraArgs(tuple(options), tuple(why))


def _unspliced(crops: CropSet) -> str:
    """Why no mask can be moved from face to face; empty when it can."""
    # With torch: imported where it is used.
    from stage2_classifier.data.crop_dataset import BARE, INCORRECT, MASKED, CropDataset

    if missing := [name for name in (MASKED, BARE, INCORRECT) if name not in crops.class_names]:
        return f"the data has no class {missing[0]!r}"
    try:
        CropDataset(crops, "train", lambda *_: None, mask_transfer_prob=1)  # type: ignore[arg-type]
    except UserError:
        return "no masked or no bare training face is large enough and has landmarks"
    return ""
