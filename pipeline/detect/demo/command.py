"""Command pipeline.detect.demo: runs pipeline.detect on a photo, or on a real face without and with drawn masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from common.arguments import parse_args
from common.cli import requires_extra, run_cli
from common.errors import UserError
from common.images import read_image
from pipeline.detect import command as detect
from pipeline.inference.image_writer import write_image
from pipeline.inference.predictor import Predictor
from stage2_classifier.data.mask_drawing import draw_mask


@dataclass(frozen=True)
class DemoArgs:
    """Find the faces of a photo and report how each wears its mask; the default is a portrait of Grace Hopper."""

    photo: Annotated[Path | None, tyro.conf.Positional] = None
    """Your photo."""
    out: Path = Path("detections")
    """Folder for the annotated picture and the JSON."""


def portrait() -> NDArray[np.uint8]:
    """Return Grace Hopper's portrait (US Navy, public domain) from matplotlib's sample data, uint8 (H, W, 3) RGB.

    Raises:
        UserError: matplotlib is not installed.
    """
    with requires_extra("demo"):
        from matplotlib import cbook
    return read_image(Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))))[:420]


def tiled_photo(predictor: Predictor, face: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the portrait three times in a row: without a mask, masked over nose and mouth, masked below the nose.

    Args:
        predictor: finds the face to draw on.
        face: uint8 (H, W, 3) RGB.

    Raises:
        UserError: no face is found.
    """
    detections = predictor.detect(face, min_score=0.3)
    if not len(detections):
        raise UserError("the bundle finds no face in the demo's portrait; use another photo: make demo PHOTO=me.jpg")
    landmarks = detections.landmarks[0]
    masked = [draw_mask(face, landmarks, position) for position in ("correct", "nose_out")]
    return np.concatenate([face, *masked], axis=1)


def run(args: DemoArgs) -> int:
    """Make the photo where no photo is named, then run pipeline.detect."""
    photo = args.photo
    if photo is None:
        photo = args.out / "demo" / "photo.png"
        write_image(photo, tiled_photo(Predictor.default(), portrait()))
    print(f"$ python -m pipeline.detect {photo} --out {args.out}")
    return detect.main([str(photo), "--out", str(args.out)])


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, run the demo, and return its exit code."""
    return run_cli(lambda: run(parse_args(DemoArgs, argv, "pipeline.detect.demo")))
