"""The default bundle's scores on real photos do not fall by more than rounding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.evaluate.command import main

SHARED = Path(__file__).resolve().parents[2].parent / "shared/data"
PHOTO_STRIDE = 8
TOLERANCE = 0.005  # other processors round differently


def subset(data: Path, folder: Path) -> Path:
    """Link every eighth annotated photo of `data` into `folder`."""
    for part in ("images", "annotations"):
        (folder / part).mkdir(parents=True)
    for image in sorted((data / "images").iterdir())[::PHOTO_STRIDE]:
        (folder / "images" / image.name).symlink_to(image)
        (folder / "annotations" / f"{image.stem}.xml").symlink_to(data / "annotations" / f"{image.stem}.xml")
    return folder


# Measured with the bundle of 2026-11-29; change the values only with a new bundle. The bundle was trained on the first
# dataset: its scores check the code, not the quality (a bundle that knows the photos less by heart has lower ones).
# Web photos have boxes of whole heads (so IoU 0.35), two classes, and were never learned from: their values are those
# of the bundles before, which the present one reaches.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "minimums"),
    [
        ("face-mask-detection", (), {"mAP": 0.883, "mean AP": 0.540, "face AP": 0.906, "face recall": 0.941}),
        (
            "other-photos",
            ("--iou", "0.35", "--merge", "mask_weared_incorrect=without_mask"),
            {"mAP": 0.891, "face AP": 0.885, "face recall": 0.948},
        ),
    ],
)
def test_scores_do_not_fall(tmp_path: Path, name: str, options: tuple[str, ...], minimums: dict[str, float]) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip("the real photos (../shared) are not here")
    data = subset(SHARED / name, tmp_path / "data")
    assert main(["--data", str(data), "--split", "all", "--out", str(tmp_path / "out"), *options]) == 0
    (detector,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["detectors"]
    scores = detector["each_class"]
    measured = {
        "mAP": scores["mean"]["overall"]["ap_at_iou"],
        "mean AP": scores["mean"]["overall"]["ap"],
        "face AP": scores["faces"]["overall"]["ap_at_iou"],
        "face recall": scores["faces"]["overall"]["recall_at_iou"],
    }
    assert all(measured[key] >= value - TOLERANCE for key, value in minimums.items()), measured
