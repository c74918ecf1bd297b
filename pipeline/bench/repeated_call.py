"""Searches one picture several times, as a process whose memory is measured.

Example: python -m pipeline.bench.repeated_call PIXELS.npy BUNDLE, or FILE.onnx in place of BUNDLE
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

CALLS = 3  # ONNX Runtime may take more memory from the second call on


def main(argv: list[str]) -> int:
    """Search the picture argv[0], an array, with the bundle or exported file argv[1], on argv[2] threads.

    The smallest face is of argv[3] pixels; without it, that of the bundle.
    """
    pixels, detector, threads = np.load(argv[0]), Path(argv[1]), int(argv[2])
    min_face = float(argv[3]) if len(argv) > 3 else None
    if detector.suffix == ".onnx":
        from pipeline.export.exported_detector import open_session

        session = open_session(detector, threads)
        inputs = {"image": pixels} if min_face is None else {"image": pixels, "min_face": np.float32(min_face)}
        for _ in range(CALLS):
            session.run(None, inputs)
    else:
        from pipeline.inference.predictor import Predictor

        predictor = Predictor.load(detector, threads)
        for _ in range(CALLS):
            predictor.detect(pixels, min_face=min_face)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
