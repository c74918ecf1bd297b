"""A bundle: a directory with bundle.json and four ONNX graphs, all that inference needs."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import BundleError, UserError, first_line
from common.files import check_folder, naming
from pipeline.inference.device import Device
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.graph_spec import SIDE, graph_specs
from pipeline.inference.graphs import Graph, load_graph
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.detector import FaceDetector
from stage1_faces.faces import Detector
from stage1_faces.stock.mtcnn import MtcnnConfig, MtcnnDetector

FORMAT_VERSION = 4
READABLE = (1, 2, 3, FORMAT_VERSION)  # 1: stock cascade only; 2: no score fusion; 3: fields under other names
GRAPHS = ("pnet", "rnet", "onet", "classifier")
REPORT = "report.md"  # may stand beside them: what the bundle scored, for people
DEFAULT = Path(__file__).parents[1] / "models" / "default"
Search = CascadeConfig | MtcnnConfig
# What bundle.json calls the cascades, by how each is searched.
CASCADES: dict[str, type[CascadeConfig] | type[MtcnnConfig]] = {"fine-tuned": CascadeConfig, "stock": MtcnnConfig}


@dataclass(frozen=True)
class BundleMeta:
    """bundle.json: what the graphs need to be used rightly, and where they come from.

    input_size: the classifier's, pixels a side. mean, std: per channel, of pixels scaled to 0..1. margin: context
    around a face box, as a fraction of its longer side, on each side. search: the cascade's settings, whose type tells
    which cascade the graphs are: the fine-tuned one's CascadeConfig or the stock one's MtcnnConfig.
    judge: how stage 2's verdicts join stage 1's.
    score_threshold: `score` from which on a face is reported unless told otherwise. metrics: figures measured when
    the bundle was made. provenance: data, runs and versions it was made from. sha256: of each graph file.

    Raises BundleError when a value does not fit.
    """

    class_names: tuple[str, ...]
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    margin: float
    search: Search
    score_threshold: float
    fusion: ScoreFusion = field(default_factory=ScoreFusion)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise BundleError(f"class names {self.class_names} are empty or repeat")
        if not 8 <= self.input_size <= 1024:
            raise BundleError(f"input size {self.input_size} is none of 8 to 1024 pixels")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise BundleError(f"mean {self.mean} and std {self.std} must be three numbers each, std above 0")
        if not (0 <= self.score_threshold <= 1 and 0 <= self.margin <= 4):
            raise BundleError(f"score threshold {self.score_threshold} or margin {self.margin} is out of range")

    @property
    def cascade(self) -> str:
        """Which cascade the graphs are: "fine-tuned" or "stock"."""
        return next(name for name, kind in CASCADES.items() if type(self.search) is kind)

    @property
    def thresholds(self) -> dict[str, float]:
        """The probabilities that pass each stage; "score" is the final one."""
        return {"pnet": self.search.pnet_threshold, "rnet": self.search.rnet_threshold, "score": self.score_threshold}


class Bundle:
    """A bundle read from disk: its metadata, its graphs' verified bytes, and sessions made from them."""

    def __init__(self, path: Path, meta: BundleMeta, graphs: Mapping[str, bytes]) -> None:
        self.path, self.meta, self._graphs = path, meta, graphs

    @classmethod
    def load(cls, path: Path | str | None = None) -> Bundle:
        """Reads and verifies a bundle directory; the default one when none is named.

        Raises BundleError, naming the file and the mend, when something is missing, malformed, newer than this
        program, or differs from its recorded sha256.
        """
        root = DEFAULT if path is None else Path(path)
        meta = _read_meta(root)
        graphs = {}
        for name in GRAPHS:
            file = root / f"{name}.onnx"
            if not file.is_file():
                raise BundleError(f"{file}: graph is missing; copy the whole bundle directory or pack it anew")
            graphs[name] = file.read_bytes()
            if hashlib.sha256(graphs[name]).hexdigest() != meta.sha256.get(name):
                raise BundleError(f"{file}: does not match the sha256 in bundle.json; copy or pack the bundle anew")
        return cls(root, meta, graphs)

    def graph_bytes(self, name: str) -> bytes:
        """A graph's file, as verified."""
        return self._graphs[name]

    def graph(self, name: str, threads: int = 1, device: Device = "cpu") -> Graph:
        """A graph as a function from float32 input to its outputs, on ONNX Runtime.

        Raises BundleError when ONNX Runtime cannot load it, when the classifier's class count or input size is not the
        bundle's, or a net of stage 1 not one of its cascade, and UserError when it cannot run on the device.
        """
        file = f"{self.path / name}.onnx"
        if name != "classifier":
            return self._net(name, file, threads, device)
        graph = load_graph(self._graphs[name], file, threads, device, len(self.meta.class_names))
        size = self.meta.input_size
        try:
            graph(np.zeros((1, 3, size, size), np.float32))
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            what = f"does not take the {size} pixels of bundle.json ({first_line(error)})"
            raise BundleError(f"{file}: {what}; pack the bundle anew") from error
        return graph

    def _net(self, name: str, file: str, threads: int, device: Device) -> Graph:
        """A net of stage 1, held to the cascade that bundle.json names."""
        wanted = graph_specs(self.meta.cascade)[name]
        net = load_graph(self._graphs[name], file, threads, device, net=wanted)
        if wanted.cells is not None:
            try:
                given = net(np.zeros((1, 3, SIDE, SIDE), np.float32))[0].shape[1:]
            except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
                what = f"does not take {SIDE}x{SIDE} pixels ({first_line(error)})"
                raise BundleError(f"{file}: {what}; pack the bundle anew") from error
            if given != (wanted.cells, wanted.cells):
                what = f"makes {given[0]}x{given[1]} cells of {SIDE}x{SIDE} pixels"
                own = f"the {wanted.cascade} cascade's {wanted.cells}x{wanted.cells}"
                raise BundleError(f"{file}: {what}, {own}; pack the bundle anew")
        return net

    def detector(self, threads: int = 1, device: Device = "cpu") -> Detector:
        """The cascade of the bundle. Raises what `graph` does."""
        pnet, rnet, onet = (self.graph(name, threads, device) for name in ("pnet", "rnet", "onet"))
        search = self.meta.search
        if isinstance(search, MtcnnConfig):
            return MtcnnDetector(pnet, rnet, onet, search)
        return FaceDetector(pnet, rnet, onet, search)

    def describe(self) -> dict[str, Any]:
        """The metadata as plain JSON values, with the bundle's name."""
        return {"name": self.path.resolve().name, **_to_json(self.meta)}


def write_bundle(out: Path | str, meta: BundleMeta, graphs: Mapping[str, bytes], report: str | None = None) -> Bundle:
    """Writes a bundle directory in one step and loads it back, so that what was written is known to be good.

    `meta.sha256` is filled in from the graphs. report: the text of report.md; none is written without. An existing
    bundle at `out` is replaced, report and all. Raises BundleError as
    `check_place` does, or when a graph is missing.
    """
    out = Path(out).resolve()  # a link to a bundle stays one
    if set(graphs) != set(GRAPHS):
        raise BundleError(f"{out}: a bundle needs the graphs {', '.join(GRAPHS)}, got {', '.join(sorted(graphs))}")
    check_place(out)
    sha256 = {name: hashlib.sha256(graphs[name]).hexdigest() for name in GRAPHS}
    record = {**_to_json(meta), "sha256": sha256}
    out.parent.mkdir(parents=True, exist_ok=True)
    with naming(out):
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        with naming(out):
            for name, graph in graphs.items():
                (temporary / f"{name}.onnx").write_bytes(graph)
            (temporary / "bundle.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            if report is not None:
                (temporary / REPORT).write_text(report, encoding="utf-8")
            temporary.chmod(0o755)
        Bundle.load(temporary)
        if out.exists():
            old = temporary.with_name(temporary.name + ".old")
            out.replace(old)
            temporary.replace(out)
            shutil.rmtree(old)
        else:
            temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Bundle.load(out)


def check_place(out: Path) -> None:
    """Raises BundleError when a bundle written to `out` would replace anything but a bundle, OSError when it cannot be.

    To be called before long work, too.
    """
    check_folder(out.resolve().parent)
    if not out.exists():
        return
    if not out.is_dir():
        raise BundleError(f"{out}: is a file; choose another place")
    here = {path.name for path in out.iterdir()}
    strange = sorted(here - {"bundle.json", REPORT, *(f"{name}.onnx" for name in GRAPHS)})
    if here and "bundle.json" not in here:
        raise BundleError(f"{out}: exists and is no bundle; choose another place")
    if strange:
        raise BundleError(f"{out}: holds {strange[0]!r} beside a bundle, which would be lost; choose another place")
    check_folder(out)  # its files are removed when the new ones are in place


def _to_json(meta: BundleMeta) -> dict[str, Any]:
    record = asdict(meta)
    record["search"] = {"cascade": meta.cascade, **record["search"]}
    record["thresholds"] = meta.thresholds
    return json.loads(json.dumps({"format_version": record.pop("format_version"), **record}))


def _read_meta(root: Path) -> BundleMeta:
    file = root / "bundle.json"
    if not file.is_file():
        raise BundleError(f"{file}: not found; name a bundle directory (one with bundle.json and four .onnx graphs)")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        version = record["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{file}: is not a bundle description ({error}); pack the bundle anew") from error
    if version not in READABLE:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        mend = "update the program" if newer else "pack the bundle anew"
        what = f"has format {json.dumps(version)}, this program reads {READABLE[0]} to {FORMAT_VERSION}"
        raise BundleError(f"{file}: {what}; {mend}")
    try:
        return BundleMeta(
            class_names=tuple(str(name) for name in record["class_names"]),
            input_size=int(record["input_size"]),
            mean=_numbers(record["mean"]),
            std=_numbers(record["std"]),
            margin=float(record["margin"]),
            search=_search(record["search"]),
            score_threshold=float(record["score_threshold"]),
            fusion=_fusion(record.get("fusion", record.get("judge", {}))),  # formats 1 and 2 had none, 3 another name
            metrics=dict(record["metrics"]),
            provenance=dict(record["provenance"]),
            sha256={str(k): str(v) for k, v in record["sha256"].items()},
        )
    except KeyError as error:
        raise BundleError(f"{file}: the field {error} is missing; pack the bundle anew") from error
    except (ValueError, TypeError, AttributeError, OverflowError, UserError) as error:
        raise BundleError(f"{file}: {error}; pack the bundle anew") from error


# Fields of bundle.json that formats 1 to 3 recorded under another name.
_RENAMED_SEARCH = {
    "pnet": "pnet_threshold",
    "rnet": "rnet_threshold",
    "again": "onet2_threshold",
    "onet": "score_threshold",
    "most_pnet": "max_pnet",
    "most_rnet": "max_rnet",
    "most_again": "max_onet2",
    "soft": "soft_nms_sigma",
    "vote": "box_voting_iou",
}
_RENAMED_FUSION = {
    "stage1": "detector_weight",
    "stage2": "classifier_weight",
    "box_share": "box_blend",
    "floor": "min_detector_score",
    "most": "max_face_logit",
    "unsure": "unsure_margin",
    "mirrored": "flip_tta",
}


def _search(record: Mapping[str, Any]) -> Search:
    """Return the cascade's settings; whole numbers where the settings are whole."""
    name = record.get("cascade", "stock")
    if name not in CASCADES:
        raise ValueError(f"the cascade {name!r} is none of {', '.join(CASCADES)}")
    kind = CASCADES[name]
    default = kind()
    values = {"soft_nms_sigma": 0.0, **_renamed(record, _RENAMED_SEARCH)}  # format 2 had hard suppression only
    return kind(**{f.name: type(getattr(default, f.name))(values[f.name]) for f in fields(kind)})


def _fusion(record: Mapping[str, Any]) -> ScoreFusion:
    default = ScoreFusion()
    values = _renamed(record, _RENAMED_FUSION)
    return replace(default, **{name: type(getattr(default, name))(value) for name, value in values.items()})


def _renamed(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in record.items()}


def _numbers(values: Sequence[Any]) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    if not all(math.isfinite(v) for v in (a, b, c)):
        raise ValueError(f"{values} are not finite numbers")
    return a, b, c
