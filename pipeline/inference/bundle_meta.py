"""The metadata of a bundle: bundle.json, read, checked and written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import BundleError, UserError
from pipeline.inference.fusion import ScoreFusion
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.stock.mtcnn import MtcnnConfig

FORMAT_VERSION = 5
# Format 1: stock cascade only. Format 2: no score fusion. Format 3: some fields under other names.
# Format 4: weights in float32, and neither second_look nor box_passes.
READABLE_VERSIONS = (1, 2, 3, 4, FORMAT_VERSION)
WEIGHTS_DTYPES = ("float16", "float32")
Search = CascadeConfig | MtcnnConfig
# The cascades by their name in bundle.json.
CASCADES: dict[str, type[CascadeConfig] | type[MtcnnConfig]] = {"fine-tuned": CascadeConfig, "stock": MtcnnConfig}
# Fields of bundle.json that formats 1 to 3 recorded under another name.
_RENAMED_SEARCH = {
    "pnet": "pnet_threshold", "rnet": "rnet_threshold", "again": "onet2_threshold", "onet": "score_threshold",
    "most_pnet": "max_pnet", "most_rnet": "max_rnet", "most_again": "max_onet2",
    "soft": "soft_nms_sigma", "vote": "box_voting_iou",
}  # fmt: skip
_RENAMED_FUSION = {
    "stage1": "detector_weight", "stage2": "classifier_weight", "floor": "min_detector_score",
    "most": "max_face_logit", "box_share": "box_blend", "unsure": "unsure_margin", "mirrored": "flip_tta",
}  # fmt: skip


@dataclass(frozen=True)
class BundleMeta:
    """The content of bundle.json: how to use the graphs, and where they come from.

    Raises:
        BundleError: a value is out of range.
    """

    class_names: tuple[str, ...]  # the classes, in the order of the classifier's outputs
    input_size: int  # side of the classifier's input, in pixels
    mean: tuple[float, float, float]  # mean of each RGB channel, of pixels scaled to 0..1
    std: tuple[float, float, float]  # standard deviation of each RGB channel, of pixels scaled to 0..1
    margin: float  # context around a face box on each side, as a fraction of the box's longer side
    search: Search  # settings of the cascade; their type shows which cascade the graphs are
    score_threshold: float  # smallest `score` that is reported by default
    fusion: ScoreFusion = field(default_factory=ScoreFusion)  # how the outputs of both stages are joined
    metrics: Mapping[str, Any] = field(default_factory=dict)  # figures measured when the bundle was made
    provenance: Mapping[str, Any] = field(default_factory=dict)  # data, runs and versions that the bundle was made from
    weights_dtype: str = "float32"  # type on disk of weights in floating point, of WEIGHTS_DTYPES
    sha256: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of each graph file, by graph
    format_version: int = FORMAT_VERSION  # version of bundle.json's format

    def __post_init__(self) -> None:
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise BundleError(f"class names {self.class_names} are empty or repeat")
        if not 8 <= self.input_size <= 1024:
            raise BundleError(f"input size {self.input_size} is not in 8 to 1024 pixels")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise BundleError(f"mean {self.mean} and std {self.std} must be three numbers each, std above 0")
        if not (0 <= self.score_threshold <= 1 and 0 <= self.margin <= 4):
            raise BundleError(f"score threshold {self.score_threshold} or margin {self.margin} is out of range")

        if self.weights_dtype not in WEIGHTS_DTYPES:
            raise BundleError(f"weights_dtype {self.weights_dtype!r} is unknown; known are {', '.join(WEIGHTS_DTYPES)}")

    @property
    def cascade(self) -> str:
        """The name of the cascade: "fine-tuned" or "stock"."""
        return next(name for name, kind in CASCADES.items() if type(self.search) is kind)

    @property
    def thresholds(self) -> dict[str, float]:
        """The probabilities that pass P-Net and R-Net, and the final score threshold."""
        return {"pnet": self.search.pnet_threshold, "rnet": self.search.rnet_threshold, "score": self.score_threshold}


def meta_to_json(meta: BundleMeta) -> dict[str, Any]:
    """Return the metadata as JSON values, as bundle.json has them."""
    record = asdict(meta)
    record["search"] = {"cascade": meta.cascade, **record["search"]}
    record["thresholds"] = meta.thresholds
    return json.loads(json.dumps({"format_version": record.pop("format_version"), **record}))


def upgrade_description(description: dict[str, Any]) -> dict[str, Any]:
    """Return a description of format 3 or 4 as format 5 has it, for results of pipeline.batch; others unchanged."""
    version = description.get("format_version")
    if version == 3:
        description = _upgrade_names(description)
    if version not in (3, 4):
        return description
    search, fusion = dict(description["search"]), {**description["fusion"], "box_passes": 1}
    if search.get("cascade") == "fine-tuned":
        search["second_look"] = True
    return {**description, "format_version": 5, "weights_dtype": "float32", "search": search, "fusion": fusion}


def _upgrade_names(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description of format 3 in format 4's names."""
    parts = {key: value for key, value in description.items() if key != "judge"}
    search, fusion = _renamed(description["search"], _RENAMED_SEARCH), _renamed(description["judge"], _RENAMED_FUSION)
    return {**parts, "format_version": 4, "search": search, "fusion": fusion}


def read_meta(root: Path) -> BundleMeta:
    """Read the bundle.json of a bundle directory.

    Raises:
        BundleError: the file is missing, malformed or of a format that this program cannot read.
    """
    file = root / "bundle.json"
    if not file.is_file():
        raise BundleError(f"{file}: not found; name a bundle directory (one with bundle.json and four .onnx graphs)")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        version = record["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{file}: is not a bundle description ({error}); pack the bundle again") from error
    if version not in READABLE_VERSIONS:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        fix = "update the program" if newer else "pack the bundle again"
        what = f"has format {json.dumps(version)}, this program reads {READABLE_VERSIONS[0]} to {FORMAT_VERSION}"
        raise BundleError(f"{file}: {what}; {fix}")
    try:
        return _from_json(record)
    except KeyError as error:
        raise BundleError(f"{file}: the field {error} is missing; pack the bundle again") from error
    except (ValueError, TypeError, AttributeError, OverflowError, UserError) as error:
        raise BundleError(f"{file}: {error}; pack the bundle again") from error


def _from_json(record: Mapping[str, Any]) -> BundleMeta:
    return BundleMeta(
        class_names=tuple(str(name) for name in record["class_names"]),
        input_size=int(record["input_size"]),
        mean=_three_numbers(record["mean"]),
        std=_three_numbers(record["std"]),
        margin=float(record["margin"]),
        search=_search(record["search"]),
        score_threshold=float(record["score_threshold"]),
        fusion=_fusion(record.get("fusion", record.get("judge", {}))),  # format 3: "judge"; formats 1 and 2: absent
        metrics=dict(record["metrics"]),
        provenance=dict(record["provenance"]),
        weights_dtype=str(record.get("weights_dtype", "float32")),  # formats 1 to 4: absent
        sha256={str(k): str(v) for k, v in record["sha256"].items()},
    )


def _search(record: Mapping[str, Any]) -> Search:
    """Return the cascade's settings, each of its default's type: counts stay whole numbers."""
    name = record.get("cascade", "stock")
    if name not in CASCADES:
        raise ValueError(f"the cascade {name!r} is unknown; known are {', '.join(CASCADES)}")
    kind = CASCADES[name]
    # Format 2 had hard suppression only; formats 2 to 4 always ran O-Net's second pass.
    values = {"soft_nms_sigma": 0.0, "second_look": True, **_renamed(record, _RENAMED_SEARCH)}
    return kind(**{name: type(default)(values[name]) for name, default in asdict(kind()).items()})


def _fusion(record: Mapping[str, Any]) -> ScoreFusion:
    default = ScoreFusion()
    values = _renamed(record, _RENAMED_FUSION)
    return replace(default, **{name: type(getattr(default, name))(value) for name, value in values.items()})


def _renamed(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in record.items()}


def _three_numbers(values: Sequence[Any]) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    if not all(math.isfinite(v) for v in (a, b, c)):
        raise ValueError(f"{values} are not finite numbers")
    return a, b, c
