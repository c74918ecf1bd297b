"""An exported file with the interface of Predictor, so that both are scored and timed alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pipeline.inference.bundle import Bundle
from pipeline.inference.detections import Detections


def open_session(graph: Path | bytes, threads: int = 0) -> ort.InferenceSession:
    """Return a session of a file, or of its content, without warnings of optional inputs; 0 threads: one per core."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    options.enable_mem_pattern = False  # photos differ in size: less memory from the second call on, no slower
    content = graph if isinstance(graph, bytes) else str(graph)
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class ExportedDetector:
    """Detects with an exported graph."""

    def __init__(self, graph: Path | bytes, bundle: Bundle, threads: int = 0) -> None:
        """Load an exported graph.

        Args:
            graph: the file, or its content.
            bundle: that it was exported from.
            threads: of ONNX Runtime; 0 for one per core.
        """
        self.bundle, self._session = bundle, open_session(graph, threads)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, image: NDArray[np.uint8], **more: float) -> dict[str, NDArray[np.generic]]:
        """Return the graph's outputs by name; `more` are min_score and min_face."""
        inputs = {"image": image, **{name: np.array(value, np.float32) for name, value in more.items()}}
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))

    def detect(
        self, image: NDArray[np.uint8], min_score: float | None = None, min_face: float | None = None
    ) -> Detections:
        """Return the faces, as Predictor.detect."""
        given = {"min_score": min_score, "min_face": min_face}
        found = self.run(image, **{name: value for name, value in given.items() if value is not None})
        probs = np.asarray(found["class_probs"], np.float32)
        face_scores = np.asarray(found["scores"], np.float32) / np.maximum(probs.max(axis=1, initial=0), 1e-9)
        meta = self.bundle.meta
        margin, boxes = meta.fusion.unsure_margin, np.asarray(found["boxes"], np.float32)
        landmarks = np.asarray(found["landmarks"], np.float32)
        return Detections(boxes, np.minimum(face_scores, 1), probs, landmarks, meta.class_names, margin)
