"""Teachers: finished runs whose outputs a network learns from, next to the labels.

Teacher and network see the same place, jittered and augmented alike, each at its own input size and margin (Beyer et
al. 2022, "Knowledge distillation: A good teacher is patient and consistent").
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.errors import UserError
from stage2_classifier.data.crop_manifest import CropSet
from stage2_classifier.training.checkpoint import ModelMeta, load_model
from stage2_classifier.training.joint_loss import TeacherTargets

WEIGHTS_FILE = "best.safetensors"


class TeacherInput(NamedTuple):
    """What a teacher's network sees of a face."""

    size: int  # side of the square input, px
    margin: float  # context on each side, as a share of the box's longer side
    mean: tuple[float, float, float]  # per channel, of pixels scaled to 0..1
    std: tuple[float, float, float]


@dataclass(frozen=True)
class TeacherRun:
    """One finished run, read as a teacher."""

    run: str  # the folder, as given
    model: nn.Module  # in eval mode, without gradients
    meta: ModelMeta
    sha256: str  # of its weights

    @property
    def input(self) -> TeacherInput:
        """Return what the network sees of a face."""
        return TeacherInput(self.meta.input_size, self.meta.margin, self.meta.mean, self.meta.std)

    def record(self) -> dict[str, Any]:
        """Return what the records of a run hold about its teacher."""
        meta = self.meta
        size = {"input_size": meta.input_size, "margin": meta.margin}
        return {"run": Path(self.run).name, "model": meta.model, **size, "sha256": self.sha256}


class Teacher:
    """One or more runs whose outputs are averaged.

    Args:
        runs: at least one.
    """

    def __init__(self, runs: Sequence[TeacherRun]) -> None:
        self.runs = tuple(runs)
        self.inputs = tuple(dict.fromkeys(run.input for run in runs))  # runs with the same input share a view

    def to(self, device: torch.device) -> Teacher:
        """Move the networks to a device, in the fast layout, and return this teacher."""
        for run in self.runs:
            run.model.to(device)
            run.model.to(memory_format=torch.channels_last)
        return self

    @torch.no_grad()
    def targets(self, images: Sequence[Tensor], temperature: float) -> TeacherTargets:
        """Return the averaged outputs for one batch.

        Args:
            images: for each of `inputs`, float32 (N, 3, S, S).
            temperature: divides the class logits.
        """
        class_probs, face_probs = [], []
        by_input = dict(zip(self.inputs, images, strict=True))
        for run in self.runs:
            heads = run.meta.heads
            outputs = run.model(by_input[run.input].contiguous(memory_format=torch.channels_last)).float()
            class_probs.append((heads.class_logits(outputs) / temperature).softmax(dim=1))
            if heads.has_objectness:
                face_probs.append(heads.face_logit(outputs).sigmoid())
        faces = torch.stack(face_probs).mean(dim=0) if face_probs else None
        return TeacherTargets(torch.stack(class_probs).mean(dim=0), faces)


def load_teacher(folders: Sequence[str], crop_set: CropSet) -> Teacher | None:
    """Return the teacher of these runs; None without runs.

    Raises:
        UserError: a run is not finished, its weights cannot be read, it has other classes, or it needs more context
            than the crops have.
    """
    if not folders:
        return None
    runs = []
    for folder in folders:
        path = Path(folder)
        if not path.is_dir():
            raise UserError(f"teacher: {path} is not the folder of a run; train it with `stage2_classifier.train`")
        if not (path / "summary.json").is_file():
            raise UserError(f"teacher: {path} is not finished; train it to its end with --resume")
        model, meta = load_model(path / WEIGHTS_FILE)
        if meta.class_names != crop_set.class_names:
            names, wanted = ", ".join(meta.class_names), ", ".join(crop_set.class_names)
            raise UserError(f"teacher: {path} knows the classes {names}, the crops have {wanted}; use another run")
        if meta.margin > crop_set.margin:
            what = f"{path} sees a margin of {meta.margin:g}, and {crop_set.root} was cut with {crop_set.margin:g}"
            raise UserError(f"teacher: {what}; build crops with `pipeline.build_crops --margin {meta.margin:g}`")
        digest = hashlib.sha256((path / WEIGHTS_FILE).read_bytes()).hexdigest()
        runs.append(TeacherRun(folder, model.requires_grad_(False), meta, digest))
    return Teacher(runs)


def teacher_record(teacher: Teacher | None) -> dict[str, Any]:
    """Return the entry of config.json and summary.json about the teacher; empty without one."""
    return {} if teacher is None else {"teachers": [run.record() for run in teacher.runs]}
