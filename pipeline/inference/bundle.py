"""A bundle: a directory with bundle.json and four ONNX graphs, all that inference needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import BundleError, UserError, first_line
from common.files import check_writable_folder, replaced_folder
from pipeline.inference.bundle_meta import BundleMeta, meta_to_json, read_meta
from pipeline.inference.device import Device
from pipeline.inference.graphs import PROBE_SIDE, Graph, graph_specs, load_graph
from stage1_faces.detector import FaceDetector
from stage1_faces.faces import Detector
from stage1_faces.stock.mtcnn import MtcnnConfig, MtcnnDetector

GRAPHS = ("pnet", "rnet", "onet", "classifier")
REPORT = "report.md"  # optional: the bundle's scores, for people
MODELS = Path(__file__).parents[1] / "models"  # the bundles that come with the project, each under its name
DEFAULT = MODELS / "default"


def bundle_names() -> tuple[str, ...]:
    """Return the names of the bundles that come with the project."""
    return tuple(sorted(file.parent.name for file in MODELS.glob("*/bundle.json")))


def bundle_folder(bundle: Path | str | None) -> Path:
    """Return the folder of a bundle: a folder as named, or a bundle that comes with the project.

    Args:
        bundle: a folder, or a name of `bundle_names` where no such folder holds a bundle; the default bundle when None.

    Raises:
        BundleError: there is neither such a folder nor such a name.
    """
    if bundle is None:
        return DEFAULT
    folder = Path(bundle)
    if (folder / "bundle.json").is_file():
        return folder
    if str(bundle) in bundle_names():
        return MODELS / str(bundle)
    if folder.exists() or len(folder.parts) != 1:  # `read_meta` reports what the folder lacks
        return folder
    known = ", ".join(bundle_names())
    what = "not found; name a bundle directory (one with bundle.json and four .onnx graphs)"
    raise BundleError(f"{folder / 'bundle.json'}: {what}, or a bundle of the project: {known}")


def check_no_bundle_file(flag: str, path: Path) -> None:
    """Raise UserError where an output would replace a file of a bundle.

    Args:
        flag: the flag that names the output.
        path: the output.
    """
    if path.exists() and (path.parent / "bundle.json").is_file():
        raise UserError(f"{path}: is a file of a bundle, which needs it; name another file with {flag}")


class Bundle:
    """A bundle as read from disk: its metadata and the verified bytes of its graphs."""

    def __init__(self, path: Path, meta: BundleMeta, graphs: Mapping[str, bytes]) -> None:
        self.path, self.meta, self._graphs = path, meta, graphs

    @classmethod
    def load(cls, path: Path | str | None = None) -> Bundle:
        """Read and verify a bundle directory.

        Args:
            path: the directory, or the name of a bundle of the project; the default bundle when None.

        Raises:
            BundleError: a file is missing, malformed, of a newer format, or differs from its recorded sha256.
        """
        root = bundle_folder(path)
        meta = read_meta(root)
        graphs = {}
        for name in GRAPHS:
            file = root / f"{name}.onnx"
            if not file.is_file():
                raise BundleError(f"{file}: graph is missing; copy the whole bundle directory or pack it again")
            graphs[name] = file.read_bytes()
            if hashlib.sha256(graphs[name]).hexdigest() != meta.sha256.get(name):
                raise BundleError(f"{file}: does not match the sha256 in bundle.json; copy or pack the bundle again")
        return cls(root, meta, graphs)

    def graph_bytes(self, name: str) -> bytes:
        """Return the file of a graph, as verified."""
        return self._graphs[name]

    def graph(self, name: str, threads: int = 1, device: Device = "cpu") -> Graph:
        """Return a graph as a function from its float32 input to its outputs.

        Args:
            name: one of GRAPHS.
            threads: threads that the graph may use.
            device: what the graph runs on.

        Raises:
            BundleError: ONNX Runtime cannot load the graph, or its shapes are not those of bundle.json.
            UserError: the graph cannot run on the device.
        """
        file = f"{self.path / name}.onnx"
        if name == "classifier":
            size = self.meta.input_size
            graph = load_graph(self._graphs[name], file, threads, device, len(self.meta.class_names))
            _run_once(graph, file, size, f"the {size} pixels of bundle.json")
            return graph
        spec = graph_specs(self.meta.cascade)[name]
        graph = load_graph(self._graphs[name], file, threads, device, spec=spec)
        if spec.cells is not None:
            square = f"{PROBE_SIDE}x{PROBE_SIDE} pixels"
            height, width = _run_once(graph, file, PROBE_SIDE, square)[0].shape[1:]
            if (height, width) != (spec.cells, spec.cells):
                what = f"makes {height}x{width} cells of {square}"
                expected = f"the {spec.cascade} cascade's {spec.cells}x{spec.cells}"
                raise BundleError(f"{file}: {what}, {expected}; pack the bundle again")
        return graph

    def detector(self, threads: int = 1, device: Device = "cpu") -> Detector:
        """Return the face detector of the bundle's cascade; raises as `graph` does."""
        pnet, rnet, onet = (self.graph(name, threads, device) for name in ("pnet", "rnet", "onet"))
        search = self.meta.search
        if isinstance(search, MtcnnConfig):
            return MtcnnDetector(pnet, rnet, onet, search)
        return FaceDetector(pnet, rnet, onet, search)

    def describe(self) -> dict[str, Any]:
        """Return the metadata as JSON values, with the bundle's name."""
        return {"name": self.path.resolve().name, **meta_to_json(self.meta)}


def _run_once(graph: Graph, file: str, size: int, what: str) -> list[NDArray[np.float32]]:
    """Return the outputs for a black square of `size` pixels; raise BundleError when the graph does not take it."""
    try:
        return graph(np.zeros((1, 3, size, size), np.float32))
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise BundleError(f"{file}: does not take {what} ({first_line(error)}); pack the bundle again") from error


def write_bundle(out: Path | str, meta: BundleMeta, graphs: Mapping[str, bytes], report: str | None = None) -> Bundle:
    """Write a bundle directory in one step, and return it as loaded and verified; a bundle at `out` is replaced.

    Args:
        out: the directory.
        meta: the metadata; `meta.sha256` is ignored and computed from the graphs.
        graphs: the file of each graph of GRAPHS.
        report: the text of report.md; the bundle has no such file when None.

    Raises:
        BundleError: a graph is missing or cannot be used, or `check_destination` refuses `out`.
    """
    out = Path(out).resolve()  # a link to a bundle stays a link
    if set(graphs) != set(GRAPHS):
        raise BundleError(f"{out}: a bundle needs the graphs {', '.join(GRAPHS)}, got {', '.join(sorted(graphs))}")
    check_destination(out)
    record = {**meta_to_json(meta), "sha256": {name: hashlib.sha256(graphs[name]).hexdigest() for name in GRAPHS}}
    with replaced_folder(out) as folder:
        for name, graph in graphs.items():
            (folder / f"{name}.onnx").write_bytes(graph)
        (folder / "bundle.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if report is not None:
            (folder / REPORT).write_text(report, encoding="utf-8")
        Bundle.load(folder)
    return Bundle.load(out)


def check_destination(out: Path) -> None:
    """Check that a bundle can be written to `out`; also called before long work.

    Raises:
        BundleError: `out` is not a bundle directory, or holds other files, which would be lost.
        OSError: the directory cannot be written.
    """
    check_writable_folder(out.resolve().parent)
    if not out.exists():
        return
    if not out.is_dir():
        raise BundleError(f"{out}: is a file; choose another place")
    present = {path.name for path in out.iterdir()}
    foreign = sorted(present - {"bundle.json", REPORT, *(f"{name}.onnx" for name in GRAPHS)})
    if present and "bundle.json" not in present:
        raise BundleError(f"{out}: exists and is not a bundle; choose another place")
    if foreign:
        raise BundleError(f"{out}: holds {foreign[0]!r} next to a bundle, which would be lost; choose another place")
    check_writable_folder(out)  # its files are removed after the new ones are written
