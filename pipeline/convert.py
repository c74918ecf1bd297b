"""Detections in other libraries' types: supervision, pandas, COCO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.extras import needs_package

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv

    from pipeline.predictor import Detections


def to_supervision(found: Detections) -> sv.Detections:
    """supervision.Detections: xyxy, confidence = score, class_id; data has class_name, face_score and unsure.

    Raises PipelineError when supervision is not installed.
    """
    with needs_package("supervision"):
        import supervision as sv
    return sv.Detections(
        xyxy=found.boxes.copy(),
        confidence=found.scores,
        class_id=found.label_ids.astype(int),
        data={
            "class_name": _array(found.labels),
            "face_score": found.face_scores.copy(),
            "unsure": found.unsure,
        },
    )


def to_pandas(found: Detections) -> pd.DataFrame:
    """A row a face: x1, y1, x2, y2, label, score, face_score, p_<class> for each class, unsure.

    Raises PipelineError when pandas is not installed.
    """
    with needs_package("pandas"):
        import pandas as pd
    columns: dict[str, Any] = dict(zip(("x1", "y1", "x2", "y2"), found.boxes.T.copy(), strict=True))
    columns |= {"label": _array(found.labels), "score": found.scores, "face_score": found.face_scores.copy()}
    columns |= {f"p_{name}": found.class_probs[:, k].copy() for k, name in enumerate(found.class_names)}
    return pd.DataFrame(columns | {"unsure": found.unsure})


def to_coco(found: Detections, image_id: int | str, category_ids: dict[str, int] | None = None) -> list[dict[str, Any]]:
    """COCO's results format: a dict a face with image_id, category_id, bbox [x, y, width, height] and score.

    category_ids: those of your annotations by class name; 1, 2, ... in class_names' order when not given.
    Raises KeyError for a label that it lacks.
    """
    ids = category_ids or {name: k + 1 for k, name in enumerate(found.class_names)}
    results = []
    for (x1, y1, x2, y2), label, score in zip(found.boxes.tolist(), found.labels, found.scores.tolist(), strict=True):
        box = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
        results.append({"image_id": image_id, "category_id": ids[label], "bbox": box, "score": round(score, 6)})
    return results


def _array(labels: tuple[str, ...]) -> NDArray[np.str_]:
    return np.array(labels, dtype=str)
