"""Scores the detectors of one fold of the cross-validation, and keeps the scores and detections as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from common.annotations import AnnotatedImage
from common.cli import progress
from common.errors import UserError
from common.files import write_text
from common.images import read_image
from common.splits import read_splits
from pipeline.evaluate.bootstrap import best_f1_threshold
from pipeline.evaluate.evaluation import detect_samples
from pipeline.evaluate.face_free import face_free_part
from pipeline.evaluate.figures.rows import FALSE_ALARMS
from pipeline.evaluate.metrics import SIZES, Sample, make_sample, score_every_class, score_samples
from pipeline.evaluate.reliability import Reliability, scores_and_correct
from pipeline.evaluate.selection import check_classes, merge_classes, merged_names
from pipeline.inference.predictor import Predictor
from pipeline.training.packing.calibration import MATCH_IOU, MIN_DETECTOR_SCORE
from pipeline.training.plan import TrainingPlan
from pipeline.training.validation import crop_scores
from stage1_faces.faces import Detector
from stage1_faces.stock.reference import stock_detector

CASCADES = ("stock", "fine-tuned")  # scored by the faces that they find
PIPELINE = "whole pipeline"
SAMPLE_ARRAYS = ("gt_boxes", "gt_labels", "boxes", "scores", "labels")
FoldMetrics = dict[str, float | None]


@dataclass(frozen=True)
class DetectorScore:
    """One detector's metrics on one fold's test photos."""

    detector: str  # one of CASCADES, or PIPELINE
    threshold: float  # score threshold, chosen on the fold's validation photos
    figures: FoldMetrics  # metrics by name, None where undefined
    # Of PIPELINE: the calibration error on the photos that it was fitted on, "before" and "after".
    calibration: FoldMetrics = field(default_factory=dict)


@dataclass(frozen=True)
class ExternalData:
    """Photos of another dataset, which each fold is scored on, too."""

    iou: float  # IoU from which a box matches a face
    images: Sequence[AnnotatedImage] = ()  # the photos, possibly none
    merge: dict[str, str] = field(default_factory=dict)  # {class: class that it counts as}


def score_fold(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    external: ExternalData,
    face_free: Mapping[str, Path] | None = None,
) -> tuple[list[DetectorScore], list[Sample]]:
    """Return the scores of both cascades and the whole pipeline on a fold's test photos, and the pipeline's detections.

    Args:
        plan: the fold's training, which is finished.
        images: all photos of the dataset.
        external: photos that the fine-tuned cascade and the whole pipeline are scored on, too.
        face_free: {id: file} of photos without any face. The whole pipeline's false alarms are counted on those that
            the fold did not learn from.
    """
    splits = read_splits(plan.splits)
    val, test = ([i for i in images if splits.get(i.image_id) == split] for split in ("val", "test"))
    predictor = Predictor.load(plan.bundle)
    tuned = predictor.bundle.detector()
    scores = _score_cascades(plan.folder.name, tuned, val, test)
    scores[1].figures.update(cross_dataset(tuned, external, MIN_DETECTOR_SCORE))
    names = predictor.bundle.meta.class_names
    samples, _ = detect_samples(predictor, test, names)
    accuracy, macro_f1 = crop_scores(predictor, test)
    figures = {
        **pipeline_metrics(samples, names),
        "crop accuracy": accuracy,
        "crop macro-F1": macro_f1,
        **pipeline_cross_dataset(predictor, external),
    }
    unseen = [file for image_id, file in (face_free or {}).items() if image_id not in splits]
    if unseen:
        figures[FALSE_ALARMS] = statistics.fmean(len(predictor.detect(read_image(file))) for file in unseen)
    meta = predictor.bundle.meta
    calibration = meta.metrics.get("val_calibration_error", {})
    return [*scores, DetectorScore(PIPELINE, meta.score_threshold, figures, calibration)], samples


def _score_cascades(
    title: str, tuned: Detector, val: Sequence[AnnotatedImage], test: Sequence[AnnotatedImage]
) -> list[DetectorScore]:
    """Score both cascades on the test photos, at the thresholds that are best on the validation photos."""
    scores = []
    detectors = zip(CASCADES, (stock_detector(), tuned), (0.0, MIN_DETECTOR_SCORE), strict=True)
    with progress() as bar:
        task = bar.add_task(title, total=len(CASCADES) * (len(val) + len(test)))
        for name, detector, min_score in detectors:
            found = [face_samples(detector, some, min_score, lambda: bar.advance(task)) for some in (val, test)]
            threshold = best_f1_threshold(found[0], 1, MATCH_IOU)
            figures = face_metrics(found[1])
            figures["false alarms per face-free part"] = false_alarms(detector, test, threshold)
            scores.append(DetectorScore(name, threshold, figures))
    return scores


def face_samples(
    detector: Detector,
    images: Iterable[AnnotatedImage],
    min_score: float,
    advance: Callable[[], None] = lambda: None,
    match_iou: float = MATCH_IOU,
) -> list[Sample]:
    """Return each image's faces and detections from `min_score` on, classes aside; `match_iou` as in `make_sample`."""
    samples = []
    for image in images:
        found = detector.detect(read_image(image.path), min_score=min_score)
        labels = np.zeros(len(found), np.intp)
        samples.append(make_sample(image, None, found.boxes, found.scores, labels, match_iou=match_iou))
        advance()
    return samples


def face_metrics(samples: Sequence[Sample]) -> FoldMetrics:
    """Return average precision, recall, and recall by face size."""
    faces = score_samples(samples, ["face"]).faces
    return {
        "face AP50": faces.overall.ap50,
        "face recall at IoU 0.5": faces.overall.recall50,
        "face AP, IoU 0.50-0.95": faces.overall.ap,
        "face AP75": faces.overall.ap75,
        **{f"faces {size} px found": faces.by_size[size].recall50 for size in SIZES},
    }


def false_alarms(detector: Detector, images: Iterable[AnnotatedImage], threshold: float) -> float | None:
    """Return detections from `threshold` on, per face-free part of the images; None when no image has such a part."""
    counts = []
    for image in images:
        part = face_free_part(read_image(image.path), image)
        if part is not None:
            counts.append(len(detector.detect(np.ascontiguousarray(part), min_score=threshold)))
    return statistics.fmean(counts) if counts else None


def cross_dataset(detector: Detector, external: ExternalData, min_score: float) -> FoldMetrics:
    """Return average precision and recall on external photos; empty without photos."""
    if not external.images:
        return {}
    with progress() as bar:
        task = bar.add_task("external photos", total=len(external.images))
        samples = face_samples(detector, external.images, min_score, lambda: bar.advance(task), external.iou)
    overall = score_samples(samples, ["face"], external.iou).faces.overall
    return {
        f"face AP at IoU {external.iou:g} on external photos": overall.ap_at_iou,
        f"face recall at IoU {external.iou:g} on external photos": overall.recall_at_iou,
    }


def pipeline_metrics(samples: Sequence[Sample], class_names: Sequence[str]) -> FoldMetrics:
    """Return mean average precision, with every class scored and with one label per face, and calibration error."""
    one = score_samples(samples, class_names)
    each = score_every_class(samples, class_names, one)
    probabilities, right = scores_and_correct(samples, len(class_names), MATCH_IOU)
    return {
        "mAP50": each.mean.overall.ap50,
        "mAP50-95": each.mean.overall.ap,
        **{f"AP50 {c.name}": c.overall.ap50 for c in each.classes},
        "mAP50, one label per face": one.mean.overall.ap50,
        "mAP50-95, one label per face": one.mean.overall.ap,
        "face AP50 with stage 2's face score": one.faces.overall.ap50,
        "face AP, IoU 0.50-0.95, with stage 2's face score": one.faces.overall.ap,
        "expected calibration error": Reliability.above(MIN_DETECTOR_SCORE, probabilities, right).ece,
    }


def pipeline_cross_dataset(predictor: Predictor, external: ExternalData) -> FoldMetrics:
    """Return mean average precision on external photos; empty without photos."""
    if not external.images:
        return {}
    names = merged_names(predictor.bundle.meta.class_names, external.merge)
    merged = merge_classes(external.images, external.merge)
    check_classes(merged, names, "--external-merge")
    with progress() as bar:
        task = bar.add_task("external photos", total=len(merged))
        samples, _ = detect_samples(
            predictor, merged, names, external.merge, advance=lambda: bar.advance(task), match_iou=external.iou
        )
    one = score_samples(samples, names, external.iou)
    each = score_every_class(samples, names, one)
    return {
        f"mAP at IoU {external.iou:g} on external photos": each.mean.overall.ap_at_iou,
        f"mAP at IoU {external.iou:g} on external photos, one label per face": one.mean.overall.ap_at_iou,
        f"face AP at IoU {external.iou:g} on external photos, with stage 2's face score": one.faces.overall.ap_at_iou,
    }


def stock_cross_dataset(file: Path, external: ExternalData) -> FoldMetrics:
    """Return the stock cascade's metrics on external photos, kept in `file`: they are the same for every fold."""
    if not external.images:
        return {}
    if not file.is_file():
        write_text(file, json.dumps(cross_dataset(stock_detector(), external, 0.0)) + "\n")
    return json.loads(file.read_text(encoding="utf-8"))


def write_fold(scores_file: Path, samples_file: Path, scores: list[DetectorScore], samples: list[Sample]) -> None:
    """Write a fold's detections, then its scores, whose file says that the fold is finished."""
    write_text(samples_file, json.dumps([vars(sample) for sample in samples], default=np.ndarray.tolist) + "\n")
    write_text(scores_file, json.dumps([asdict(score) for score in scores], indent=1) + "\n")


def read_scores(file: Path) -> list[DetectorScore]:
    """Return a fold's scores; raise UserError when the file is damaged."""
    try:
        return [DetectorScore(**record) for record in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}); remove it to score this fold again") from error


def read_samples(file: Path, classes: int) -> list[Sample]:
    """Return a fold's detections with scores of `classes` classes; raise UserError when the file is damaged."""
    try:
        return [
            Sample(
                r["image_id"],
                **{name: np.array(r[name]) for name in SAMPLE_ARRAYS},
                class_scores=np.array(r["class_scores"]).reshape(-1, classes),  # without detections: (0, C)
            )
            for r in json.loads(file.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = f"remove {file.name.replace('.samples', '')} to score this fold again"
        raise UserError(f"{file}: damaged or missing ({error}); {fix}") from error
