"""Predicts one split of crops with a trained classifier, and scores the predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support
from torch import nn

from common.errors import UserError
from stage2_classifier.augment.transforms import eval_transform
from stage2_classifier.data.crop_dataset import CropDataset, check_margin
from stage2_classifier.data.crop_manifest import CropSet
from stage2_classifier.data.loaders import build_loader
from stage2_classifier.training.checkpoint import ModelMeta
from stage2_classifier.training.engine import predict

DRAWS = 1000  # of a bootstrap


@dataclass(frozen=True)
class CropEvaluation:
    """Predictions on one split, in the order of dataset.records."""

    split: str
    dataset: CropDataset
    probs: NDArray[np.float32]  # (N, C)
    targets: NDArray[np.int64]  # (N,) class indices

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the classes in their fixed order."""
        return self.dataset.class_names

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Return the most probable class (N,) of each crop."""
        return self.probs.argmax(axis=1).astype(np.int64)

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Return counts (C, C); rows are the true classes, columns the predicted ones."""
        return confusion_matrix(self.targets, self.predicted, labels=range(len(self.class_names))).astype(np.int64)


def check_fits(meta: ModelMeta, crops: CropSet, run: str) -> None:
    """Raise UserError when a model was trained for other classes or with more context than the crops have."""
    if meta.class_names != crops.class_names:
        raise UserError(
            f"{crops.root}: classes {', '.join(crops.class_names)} differ from run {run}'s "
            f"{', '.join(meta.class_names)}; use the crops of its training"
        )
    check_margin(crops, meta.margin)


def evaluate(model: nn.Module, meta: ModelMeta, crops: CropSet, split: str) -> CropEvaluation:
    """Return the predictions for one split's crops, made as inference makes them.

    Args:
        model: the network in eval mode.
        meta: its classes, input and outputs.
        crops: the crops.
        split: "train", "val" or "test".

    Raises:
        UserError: the split is empty.
    """
    transform = eval_transform(meta.input_size, meta.mean, meta.std)
    dataset = CropDataset(crops, split, transform, margin=meta.margin)
    probs, targets = predict(model, build_loader(dataset, batch_size=128), meta.heads)
    return CropEvaluation(split, dataset, probs, targets)


def scores(evaluation: CropEvaluation) -> dict[str, Any]:
    """Return accuracy, macro-F1 with an interval, and scores per class, as classification_report.json holds them.

    Macro-F1 is over the classes that have crops in the split; an absent class has average precision None.
    """
    names = evaluation.class_names
    precision, recall, f1, support = precision_recall_fscore_support(
        evaluation.targets, evaluation.predicted, labels=range(len(names)), zero_division=0
    )

    def average_precision(c: int) -> float:
        return float(average_precision_score(evaluation.targets == c, evaluation.probs[:, c]))

    return {
        "split": evaluation.split,
        "crops": len(evaluation.targets),
        "accuracy": float((evaluation.predicted == evaluation.targets).mean()),
        "macro_f1": float(f1[support > 0].mean()),
        "macro_f1_interval_95": list(macro_f1_interval(evaluation)),
        "classes": {
            name: {
                "precision": float(precision[c]),
                "recall": float(recall[c]),
                "f1": float(f1[c]),
                "support": int(support[c]),
                "average_precision": average_precision(c) if support[c] else None,
            }
            for c, name in enumerate(names)
        },
    }


def macro_f1_interval(evaluation: CropEvaluation) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of macro-F1.

    Whole photos are drawn, not crops: the faces of one photo are alike (Field & Welsh 2007, cluster bootstrap).
    The mean of a draw is over the classes that have crops in the draw.
    """
    classes = len(evaluation.class_names)
    ids, photo = np.unique([r.image_id for r in evaluation.dataset.records], return_inverse=True)
    photos = len(ids)
    counts = np.zeros((photos, classes, classes))
    np.add.at(counts, (photo, evaluation.targets, evaluation.predicted), 1)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(photos, np.full(photos, 1 / photos), size=DRAWS)  # (DRAWS, photos)
    confusion = np.einsum("dp,pij->dij", weights, counts)
    hits = np.einsum("dii->di", confusion)
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    present = support > 0
    macro = np.where(present, f1, 0).sum(axis=1) / present.sum(axis=1)
    low, high = np.percentile(macro, [2.5, 97.5])
    return float(low), float(high)
