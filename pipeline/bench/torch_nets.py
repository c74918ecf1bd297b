"""The benchmark's torch part: the nets of a training in PyTorch, on a GPU where one is, by several photos a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.cli import progress, requires_extra
from common.errors import UserError
from common.images import Pixels
from pipeline.bench.photos import BenchPhoto
from pipeline.bench.timing import TimedDetector, time_interleaved, timing_stats
from pipeline.evaluate.report import Table
from pipeline.inference.bundle import GRAPHS, Bundle
from pipeline.inference.device import Device
from pipeline.inference.graphs import Graph
from pipeline.inference.predictor import Predictor

BATCHES = (1, 16, 64)  # photos per call
ONNX = "ONNX Runtime, CPU"


class TorchBundle(Bundle):
    """A bundle's settings with the nets of a training in PyTorch."""

    def __init__(self, bundle: Bundle, nets: dict[str, Any]) -> None:
        super().__init__(bundle.path, bundle.meta, {name: bundle.graph_bytes(name) for name in GRAPHS})
        self._nets = nets

    def graph(self, name: str, threads: int = 1, device: Device = "cpu") -> Graph:
        """Return a net as a function from its float32 input to its outputs; its threads are PyTorch's."""
        import torch

        net = self._nets[name].eval().to(device)

        def run(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            with torch.inference_mode():
                return [output.cpu().numpy() for output in net(torch.from_numpy(values).to(device))]

        return run


def check_device(device: Device) -> None:
    """Raise UserError when PyTorch cannot compute on the device."""
    with requires_extra("train"):
        from stage1_faces.training.compute import choose_compute
    choose_compute(device, "no")


def training_nets(folder: Path, bundle: Bundle) -> dict[str, Any]:
    """Return the nets of a training by the names of a bundle's graphs.

    Args:
        folder: of one training, with `cascade` and `runs`: `part` in the working folder of pipeline.train_all.
        bundle: whose settings the nets will have.

    Raises:
        UserError: a net is missing or damaged, or the bundle's classifier has another input or other classes.
    """
    with requires_extra("train"):
        from pipeline.training.packing.classifier_source import ClassifierEnsemble, load_classifiers
        from stage1_faces.training.nets import ExportWrapper
        from stage1_faces.training.run_folder import NETS, load_net
    nets: dict[str, Any] = {name: ExportWrapper(load_net(folder / "cascade", name)) for name in NETS}
    runs = sorted(path for path in (folder / "runs").glob("*") if path.is_dir())
    if not runs:
        raise UserError(f"--training {folder}: has no folder `runs` with finished runs; give a folder with both stages")
    models, _, meta = load_classifiers(runs)
    nets["classifier"] = ClassifierEnsemble(models, meta.heads)
    for name in ("class_names", "input_size", "margin"):
        ours, theirs = getattr(meta, name), getattr(bundle.meta, name)
        if ours != theirs:
            raise UserError(f"--training {folder}: its {name} {ours} differs from the bundle's {theirs}; give --bundle")
    return nets


def time_torch(
    bundle: Bundle,
    training: Path,
    photos: Sequence[BenchPhoto],
    min_face: float | None,
    threads: int,
    device: Device,
    rounds: int,
) -> dict[str, Any]:
    """Return the record of the times in PyTorch by BATCHES photos a call, and of the bundle in ONNX Runtime by one."""
    torch_predictor = Predictor(TorchBundle(bundle, training_nets(training, bundle)), threads, device)
    onnx_predictor = Predictor(bundle, threads)
    detectors = [
        TimedDetector(name, _counter(predictor, min_face), batch)
        for name, predictor, batch in (
            (ONNX, onnx_predictor, 1),
            *((f"PyTorch, {device}", torch_predictor, min(batch, len(photos))) for batch in BATCHES),
        )
    ]
    with progress() as bar:
        # PyTorch chooses its algorithms, and a GPU raises its clock, in the first calls.
        task = bar.add_task("warming up", total=len(photos))
        time_interleaved(detectors, [photo.read for photo in photos], 1)
        bar.reset(task, description="timing photos")
        timings = time_interleaved(
            detectors, [photo.read for photo in photos], rounds, on_progress=lambda count: bar.advance(task, count)
        )
    rows = [
        {"name": each.name, "batch": each.batch, **asdict(timing_stats(timing))}
        for each, timing in zip(detectors, timings, strict=True)
    ]
    return {"training": training.name, "gpu": _gpu_name(device), "photos": len(photos), "detectors": rows}


def _counter(predictor: Predictor, min_face: float | None) -> Any:
    """Return a function from photos to the number of faces found in each."""

    def count(photos: Sequence[Pixels]) -> list[int]:
        return [len(found) for found in predictor.detect_batch(photos, min_face=min_face)]

    return count


def _gpu_name(device: Device) -> str | None:
    """Return the GPU's name, or None for a CPU."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else None


def torch_tables(record: dict[str, Any]) -> list[Table]:
    """Return the table of photos per second."""
    rows = tuple(
        (
            row["name"],
            str(row["batch"]),
            f"{1000 / row['mean_ms']:.1f}",
            f"{row['mean_ms']:.1f}",
            f"{row['faces_per_photo']:.2f}",
        )
        for row in record["detectors"]
    )
    where = record["gpu"] or "no GPU"
    note = f"{record['photos']} decoded photos, {where}. The CPU makes pyramids and crops, and merges boxes."
    header = ("", "photos a call", "photos/s", "ms per photo", "faces")
    return [Table("Nets in PyTorch", header, rows, note)]
