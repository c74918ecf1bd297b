"""The steps of the tour: the project's own commands and short Python snippets, in the order of a course."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from common.annotations import ReadingArgs
from common.annotations.options import DEFAULT_READING
from docs.tour.portrait import FOLDER, PHOTO
from docs.tour.runner import StepRunner, TourStep

BASELINE, SECOND_SEED = "baseline", "seed_1"
# Each alternative changes one thing of the baseline. The second seed shows how large chance is.
ALTERNATIVES = ("aug_none", "arch_face_trunk")
SPLITS_FILE, CROPS, RUNS, BUNDLE = "splits.csv", "crops", "runs", "my-bundle"
VAL_REPORT, TEST_REPORT, EVALUATION = "reports", "reports-test", "evaluation"
PREVIEW, PORTRAIT_CROPS = "augmentation.png", "portrait-crops"
DETECTIONS, DEFAULT_DETECTIONS = "detections", "detections-default"
# Names in the work folder, which the data's folder cannot have.
RESERVED = frozenset((SPLITS_FILE, CROPS, RUNS, BUNDLE, VAL_REPORT, TEST_REPORT, EVALUATION, PREVIEW, PORTRAIT_CROPS))
RESERVED |= {DETECTIONS, DEFAULT_DETECTIONS, FOLDER, PHOTO, "steps", "tour.json"}

LOOK = """
from collections import Counter
from common.annotations import {names}

data = read_dataset({data}{options})
faces = Counter(label for image in data.images for label in image.labels)
print(f"{{len(data.images)}} photos with {{faces.total()}} faces; {{len(data.problems)}} problems in the annotations")
for name in data.class_names:
    print(f"{{name:24}}{{faces[name]:6}}{{faces[name] / faces.total():8.1%}}")
"""

DATASET = """
from stage2_classifier.data.crop_dataset import CropDataset
from stage2_classifier.data.crop_manifest import read_crop_set
from stage2_classifier.data.loaders import BalancedSampler, build_loader
from stage2_classifier.augment.transforms import train_transform

crops = read_crop_set("crops")
to_tensor = train_transform("opencv", 64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
train = CropDataset(crops, "train", to_tensor, margin=0.2)
loader = build_loader(train, batch_size=64, sampler=BalancedSampler(train.labels, power=0.5))
pixels, labels, *_ = next(iter(loader))

print(f"{len(train)} training crops, {len(loader)} batches an epoch")
print(f"pixels {tuple(pixels.shape)}, from {pixels.min():.2f} to {pixels.max():.2f}; labels {tuple(labels.shape)}")
for index, name in enumerate(train.class_names):
    print(f"{name:24}{int((labels == index).sum()):4} of the first {len(labels)}")
"""

MODEL = """
import torch
from stage2_classifier.models import build_model

model = build_model("small_cnn", num_classes={classes}).eval()
x = torch.zeros(1, 3, 64, 64)
print("input ", tuple(x.shape))
for name, part in [("stem", model.stem), *model.blocks.named_children(), ("head", model.head)]:
    x = part(x.mean(dim=(2, 3)) if name == "head" else x)
    print(f"{{name:6}} {{tuple(x.shape)!s:16}} {{sum(p.numel() for p in part.parameters()):9,}} weights")
print(f"in all {{sum(p.numel() for p in model.parameters()):26,}} weights")
"""

LOSS = """
import torch
from stage2_classifier.config import experiment
from stage2_classifier.training.losses import build_loss

loss = build_loss(experiment("baseline"), class_counts=[1] * {classes})
truth, no_box = torch.tensor([0]), torch.zeros(1, 4)
for case, logits in [("sure and right", [5.0, 0.0]), ("no idea", [0.0, 0.0]), ("sure and wrong", [0.0, 5.0])]:
    outputs = torch.tensor([logits + [0.0] * ({classes} - 2)])
    p = outputs.softmax(dim=1)[0, 0]
    print(f"{{case:16}}probability of the true class {{p:.2f}}   loss {{loss(outputs, truth, no_box):.2f}}")
"""


@dataclass(frozen=True)
class TourPlan:
    """The steps of one tour."""

    data: str
    """The dataset's name in the work folder."""
    classes: int
    """Number of classes."""
    epochs: int
    """Epochs of each training."""
    reading: ReadingArgs = DEFAULT_READING
    """How to read the dataset."""

    @property
    def _data_flags(self) -> tuple[str, ...]:
        """Return the flags that name the dataset, and say how to read it."""
        return ("--data", self.data, *self.reading.reading_flags())

    def run_until_choice(self, runner: StepRunner) -> None:
        """Run all steps up to the comparison on validation crops, without the test split."""
        for step in (*self._data_steps(), *self._explaining_steps(), *self._training_steps()):
            runner.run(step)

    def run_from_choice(self, runner: StepRunner, chosen: str) -> None:
        """Pack the chosen run, score it on the test split, and detect."""
        run, photos = f"{RUNS}/{chosen}", (*self._data_flags, "--splits", SPLITS_FILE)
        pack = ("pipeline.pack", "--run", run, "--out", BUNDLE, *photos)
        evaluate = ("pipeline.evaluate", *photos, "--split", "test", "--bundle", BUNDLE, "--no-pictures")
        detect = ("pipeline.detect", PHOTO)
        for step in (
            TourStep("pack", pack, outputs=(BUNDLE,)),
            _report("test", (run,), TEST_REPORT),
            TourStep("evaluate", (*evaluate, "--out", EVALUATION), outputs=(EVALUATION,)),
            TourStep("detect", (*detect, "--bundle", BUNDLE, "--out", DETECTIONS), outputs=(DETECTIONS,)),
            TourStep("detect_default", (*detect, "--out", DEFAULT_DETECTIONS), outputs=(DEFAULT_DETECTIONS,)),
        ):
            runner.run(step)

    def _data_steps(self) -> tuple[TourStep, ...]:
        """Return the steps that split and cut the data."""
        crops = ("pipeline.build_crops", *self._data_flags, "--splits", SPLITS_FILE, "--out", CROPS)
        faces = ("pipeline.build_crops", "--data", FOLDER, "--splits", f"{FOLDER}/splits.csv", "--out", PORTRAIT_CROPS)
        preview = ("stage2_classifier.transforms", "--crops", PORTRAIT_CROPS, "--preview", PREVIEW, "--per-class", "1")
        return (
            TourStep("look", snippet=self._look()),
            TourStep("split", ("pipeline.split", *self._data_flags, "--out", SPLITS_FILE), outputs=(SPLITS_FILE,)),
            TourStep("crops", crops, outputs=(CROPS,)),
            TourStep("portrait_crops", faces, outputs=(PORTRAIT_CROPS,)),
            TourStep("preview", preview, outputs=(PREVIEW,)),
        )

    def _look(self) -> str:
        """Return the snippet that reads the dataset."""
        default = self.reading == DEFAULT_READING
        names = "read_dataset" if default else "ReadingArgs, read_dataset"
        return LOOK.format(data=json.dumps(self.data), names=names, options="" if default else f", {self.reading}")

    def _explaining_steps(self) -> tuple[TourStep, ...]:
        """Return the steps that show dataset, model, loss and experiments."""
        return (
            TourStep("dataset", snippet=DATASET),
            TourStep("model", snippet=MODEL.format(classes=self.classes)),
            TourStep("loss", snippet=LOSS.format(classes=self.classes)),
            TourStep("list", ("stage2_classifier.train", "--list")),
        )

    def _training_steps(self) -> tuple[TourStep, ...]:
        """Return the trainings and their comparison."""
        names = (BASELINE, *ALTERNATIVES, SECOND_SEED)
        return (*(self._train(name) for name in names), _report("val", [f"{RUNS}/{n}" for n in names], VAL_REPORT))

    def _train(self, name: str) -> TourStep:
        """Return the training of one experiment."""
        which = () if name == BASELINE else ("--experiment", name)
        command = ("stage2_classifier.train", "--crops", CROPS, *which, "--epochs", str(self.epochs))
        return TourStep(f"train_{name}", command, outputs=(f"{RUNS}/{name}",))


def _report(split: str, runs: list[str] | tuple[str, ...], out: str) -> TourStep:
    """Return the report of runs on one split."""
    command = ("stage2_classifier.report", *runs, "--crops", CROPS, "--split", split, "--no-faces", "--out", out)
    return TourStep(f"report_{split}", command, outputs=(out,))


def best_f1(work: Path, name: str) -> float:
    """Return a run's best validation macro-F1."""
    summary = json.loads((work / RUNS / name / "summary.json").read_text(encoding="utf-8"))
    return float(summary["best"]["val_macro_f1"])


def choose_run(work: Path) -> str:
    """Return the run to pack: the best alternative if its validation gain exceeds chance, else the baseline."""
    base = best_f1(work, BASELINE)
    best = max(ALTERNATIVES, key=lambda name: best_f1(work, name))
    return best if best_f1(work, best) - base > abs(best_f1(work, SECOND_SEED) - base) else BASELINE
