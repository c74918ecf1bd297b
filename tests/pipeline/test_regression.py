"""The default bundle's figures on real photos do not fall: code that detects worse by more than rounding fails here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.evaluate.command import main

SHARED = Path(__file__).resolve().parents[2].parent / "shared/data"
EVERY = 8
NOISE = 0.005  # other processors round differently; the weights are the same


def subset(data: Path, folder: Path) -> Path:
    """Every eighth annotated photo of `data`, as links."""
    for part in ("images", "annotations"):
        (folder / part).mkdir(parents=True)
    for image in sorted((data / "images").iterdir())[::EVERY]:
        (folder / "images" / image.name).symlink_to(image)
        (folder / "annotations" / f"{image.stem}.xml").symlink_to(data / "annotations" / f"{image.stem}.xml")
    return folder


# As measured with the bundle of 2026-11-26 (its own photos it has learned from: a check of the code, not of how good it
# is); set anew with a new bundle, and only then. Web photos have boxes of whole heads, so IoU 0.35, and two classes.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "figures"),
    [
        ("face-mask-detection", (), {"mAP": 0.893, "mean AP": 0.578, "face AP": 0.930, "face recall": 0.960}),
        (
            "other-photos",
            ("--iou", "0.35", "--merge", "mask_weared_incorrect=without_mask"),
            {"mAP": 0.891, "face AP": 0.885, "face recall": 0.948},
        ),
    ],
)
def test_figures(tmp_path: Path, name: str, options: tuple[str, ...], figures: dict[str, float]) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip("the real photos (../shared) are not here")
    data = subset(SHARED / name, tmp_path / "data")
    assert main(["--data", str(data), "--split", "all", "--out", str(tmp_path / "out"), *options]) == 0
    (ours,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["detectors"]
    scores = ours["each_class"]
    now = {
        "mAP": scores["mean"]["overall"]["ap_at_iou"],
        "mean AP": scores["mean"]["overall"]["ap"],
        "face AP": scores["faces"]["overall"]["ap_at_iou"],
        "face recall": scores["faces"]["overall"]["recall_at_iou"],
    }
    assert all(now[key] >= value - NOISE for key, value in figures.items()), now
