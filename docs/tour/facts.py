"""The numbers in the tour's text, read from the results of its steps."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.annotations import Annotations
from docs.tour.figures import drawn_shares, face_sides, longer_sides
from docs.tour.plan import (
    ALTERNATIVES,
    BASELINE,
    BUNDLE,
    CROPS,
    DEFAULT_DETECTIONS,
    DETECTIONS,
    EVALUATION,
    RUNS,
    SECOND_SEED,
    SPLITS_FILE,
    TEST_REPORT,
    VAL_REPORT,
    best_f1,
)
from docs.tour.portrait import TILES
from pipeline.evaluate.report import KIND_NAMES
from pipeline.evaluate.tide_errors import STAGE
from pipeline.inference.bundle import Bundle
from stage2_classifier.augment.policy import DEFAULT_POLICY
from stage2_classifier.config import EXPERIMENTS, TrainConfig
from stage2_classifier.data.crop_manifest import read_crop_set

CSV_ROWS = 3


def collect_facts(work: Path, annotations: Annotations, epochs: int, chosen: str) -> dict[str, Any]:
    """Return the template's variables, except the outputs of the steps."""
    base, val = EXPERIMENTS[BASELINE], _classes(work / VAL_REPORT / chosen)
    return {
        "epochs": epochs,
        "base": base,
        "dataset": _dataset(annotations, base),
        "groups": _groups(work),
        "crops": _crops(work),
        "draws": _draws(work, base.sampler_power),
        "runs": {name: _run(work, name) for name in (BASELINE, *ALTERNATIVES, SECOND_SEED)},
        "descriptions": {name: EXPERIMENTS[name].description for name in (*ALTERNATIVES, SECOND_SEED)},
        "alternatives": ALTERNATIVES,
        "second_seed": SECOND_SEED,
        "chosen": chosen,
        "chance": abs(best_f1(work, SECOND_SEED) - best_f1(work, BASELINE)),
        "comparisons": _comparisons(work),
        "val": val,
        "weakest": _weakest(val),
        "bundle": _bundle(work),
        "test_crops": _classes(work / TEST_REPORT / chosen),
        "test": _test(work),
        "tables": _tables(work),
        "found": _detected(work / DETECTIONS, annotations.class_names),
        "found_default": _detected(work / DEFAULT_DETECTIONS, annotations.class_names),
        "faces_shown": len(TILES),
        "experiments": len(EXPERIMENTS),
        "policy": DEFAULT_POLICY,
    }


def _dataset(annotations: Annotations, base: TrainConfig) -> dict[str, Any]:
    """Return counts and sizes of the faces."""
    counts = Counter(label for image in annotations.images for label in image.labels)
    by_count = sorted(annotations.class_names, key=lambda name: -counts[name])
    most, rarest = by_count[0], by_count[-1]
    windows = (1 + 2 * base.margin) * longer_sides(annotations)
    return {
        "photos": len(annotations.images),
        "faces": counts.total(),
        "class_names": annotations.class_names,
        "most": most,
        "rarest": rarest,
        "rare_faces": counts[rarest],
        "ratio": counts[most] / max(counts[rarest], 1),
        "share": counts[most] / counts.total(),
        "median_side": float(np.median(face_sides(annotations))),
        "smaller": float((windows < base.input_size).mean()),
        "most_in_a_photo": max(len(image.boxes) for image in annotations.images),
    }


def read_groups(work: Path) -> dict[str, int]:
    """Return {image_id: group} of splits.csv."""
    with (work / SPLITS_FILE).open(newline="", encoding="utf-8") as file:
        return {row["image_id"]: int(row["group"]) for row in csv.DictReader(file)}


def _groups(work: Path) -> dict[str, int]:
    """Return the number of near-duplicate groups, and of photos in them."""
    several = [count for count in Counter(read_groups(work).values()).values() if count > 1]
    return {"count": len(several), "photos": sum(several)}


def _crops(work: Path) -> dict[str, Any]:
    """Return the crop set as a tree, and the first rows of crops.csv."""
    crops = read_crop_set(work / CROPS)
    counts = Counter((record.split, record.label) for record in crops.records)
    width = max(len(name) for name in crops.class_names) + 6
    tree = [f"{CROPS}/"]
    for split in ("train", "val", "test"):
        tree.append(f"  {split}/")
        tree += [f"    {name + '/':{width}}{counts[split, name]:6} pictures" for name in crops.class_names]
    rows = (work / CROPS / "crops.csv").read_text(encoding="utf-8").splitlines()[: CSV_ROWS + 1]
    return {"tree": "\n".join(tree), "rows": "\n".join(rows), "margin": crops.margin}


def _draws(work: Path, power: float) -> dict[str, Any]:
    """Return the rarest training class, its share of the crops, and its share of an epoch's draws."""
    names, counts = training_counts(work)
    rarest = int(np.argmin(counts))
    share = counts[rarest] / sum(counts)
    return {"rarest": names[rarest], "share": share, "drawn": float(drawn_shares(counts, power)[rarest])}


def training_counts(work: Path) -> tuple[tuple[str, ...], list[int]]:
    """Return the classes and their numbers of training crops."""
    crops = read_crop_set(work / CROPS)
    counts = Counter(record.label for record in crops.split("train"))
    return crops.class_names, [counts[name] for name in crops.class_names]


def _run(work: Path, name: str) -> dict[str, Any]:
    """Return the metrics and facts of one training."""
    record = _json(work / RUNS / name / "summary.json")
    rows = (work / RUNS / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    report = _json(work / VAL_REPORT / name / "classification_report.json")
    last = json.loads(rows[-1])
    return {
        "f1": float(record["best"]["val_macro_f1"]),
        "accuracy": float(record["best"]["val_accuracy"]),
        "epoch": record["best_epoch"],
        "epochs": record["epochs_run"],
        "minutes": record["seconds"] / 60,
        "weights": record["parameters"],
        "device": record["device"],
        "last_f1": float(last["val_macro_f1"]),
        "train_f1": float(report["train_macro_f1"]),
        "gap": float(report["train_macro_f1"]) - float(record["best"]["val_macro_f1"]),
    }


def _classes(folder: Path) -> dict[str, Any]:
    """Return a classification report."""
    return _json(folder / "classification_report.json")


def _weakest(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class with the lowest F1, of those with crops."""
    present = {name: scores for name, scores in report["classes"].items() if scores["support"]}
    name = min(present, key=lambda name: present[name]["f1"])
    return {"name": name, **present[name]}


def _comparisons(work: Path) -> str:
    """Return the report's sections that compare runs, one level deeper, without pictures."""
    text = (work / VAL_REPORT / "report.md").read_text(encoding="utf-8")
    _, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    kept = [s for s in sections if s.startswith(("All runs", "In which order")) or "\nBy " in s]
    return "\n".join(f"### {section.rstrip()}\n" for section in kept)


def _bundle(work: Path) -> dict[str, Any]:
    """Return the packed bundle's facts, and the metrics of the bundle `kaggle` if it has the same validation photos."""
    bundle, full = Bundle.load(work / BUNDLE), Bundle.load("kaggle")
    files = sorted((file.name, file.stat().st_size) for file in bundle.path.iterdir())
    learned = full.meta.provenance.get("settings_and_metrics_from", full.meta.provenance)
    splits = (one.get("data", {}).get("splits_sha256") for one in (bundle.meta.provenance, learned))
    same = len(set(splits)) == 1
    return {
        "files": files,
        "size": sum(size for _, size in files),
        "threshold": bundle.meta.score_threshold,
        "box_bias": bundle.meta.provenance["stage1"]["box_shift"],
        "calibration": bundle.meta.metrics["val_calibration_error"],
        "val": bundle.meta.metrics["val"],
        "full_val": full.meta.metrics.get("val") if same else None,
    }


def _test(work: Path) -> dict[str, Any]:
    """Return the results on the test split."""
    record = _json(work / EVALUATION / "evaluation.json")
    ours = record["detectors"][0]
    errors, now = ours["errors"], ours["scores"]["mean"]["overall"]["ap_at_iou"]
    by_stage = {stage: sum(n for kind, n in errors["kinds"].items() if STAGE[kind] == stage) for stage in (1, 2)}
    gains = {kind: value - now for kind, value in ours["mended"].items() if value is not None and now is not None}
    worst = max(gains, key=lambda kind: gains[kind]) if gains else None
    return {
        "photos": record["photos"],
        "map50": ours["intervals"]["mAP50"],
        "face_ap50": ours["scores"]["faces"]["overall"]["ap50"],
        "errors": errors,
        "by_stage": by_stage,
        "worst": None if worst is None else {"name": KIND_NAMES[worst], "stage": STAGE[worst], "gain": gains[worst]},
        "detector": ours,
        "most_missed": _most_missed(errors["by_size"]),
    }


def _most_missed(by_size: Mapping[str, Mapping[str, int]]) -> dict[str, Any] | None:
    """Return the size whose faces are missed most often; None when no face is missed."""
    shares = {size: row["missed"] / row["truths"] for size, row in by_size.items() if row["truths"]}
    size = max(shares, key=lambda name: shares[name], default=None)
    if size is None or not shares[size]:
        return None
    return {"size": size.replace("<", "under ").replace(">", "over "), "share": shares[size]}


def _tables(work: Path) -> dict[str, str]:
    """Return the tables of evaluation.md by title, as Markdown."""
    text = (work / EVALUATION / "evaluation.md").read_text(encoding="utf-8")
    _, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    return {title: body.strip() for title, _, body in (section.partition("\n") for section in sections)}


def _detected(folder: Path, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Return the faces found in the portrait, and how many of the three have the right class."""
    record = _json(folder / "detections.json")
    image = record["images"][0]
    tile = image["width"] / len(TILES)
    true = [label for _, label in TILES]
    comparable = set(true) <= set(class_names)
    tiles: dict[int, str] = {}
    for face in image["faces"]:  # best first
        tiles.setdefault(int((face["box"][0] + face["box"][2]) / 2 // tile), face["label"])
    right = sum(label == true[k] for k, label in tiles.items() if 0 <= k < len(true))
    first = ""
    if image["faces"]:
        fields = (f'  "{name}": {json.dumps(value)}' for name, value in image["faces"][0].items())
        first = "{\n" + ",\n".join(fields) + "\n}"
    return {"faces": len(image["faces"]), "right": right if comparable else None, "first": first}


def _json(file: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))
