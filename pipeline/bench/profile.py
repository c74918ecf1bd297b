"""The benchmark's profile part: where the time of one photo goes, net by net and step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes
from common.cli import progress
from common.errors import UserError
from common.images import Pixels
from pipeline.bench.photos import FACES, SIZES
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.evaluate.report import Table
from pipeline.inference.bundle import Bundle
from pipeline.inference.device import Device
from pipeline.inference.graphs import Graph
from pipeline.inference.predictor import ClassifierOutput, Predictor
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.detector import FaceDetector
from stage1_faces.faces import Faces, Net
from stage1_faces.proposals import Proposals
from stage1_faces.roi_crop import Mipmaps

NETS = {"pnet": "P-Net", "rnet": "R-Net", "onet": "O-Net", "classifier": "classifier"}
AROUND, REST = "rest of step", "other"


@dataclass
class Clock:
    """The time of nets and steps, and the amount of their input, since the last `reset`."""

    nets: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NETS, 0.0))  # s
    steps: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NETS, 0.0))  # s, with the nets
    windows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NETS, 0))  # of P-Net: pixels

    def reset(self) -> None:
        """Set everything to 0."""
        for amounts in (self.nets, self.steps, self.windows):
            amounts.update(dict.fromkeys(NETS, 0))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of a block to a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.steps[name] += time.perf_counter() - start

    def timed(self, name: str, net: Graph) -> Graph:
        """Return a net that adds its time and its input."""

        def run(pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            start = time.perf_counter()
            outputs = net(pixels)
            self.nets[name] += time.perf_counter() - start
            self.windows[name] += pixels.size // 3 if name == "pnet" else len(pixels)
            return outputs

        return run


class _TimedDetector(FaceDetector):
    """The cascade, whose steps are timed."""

    def __init__(self, clock: Clock, nets: Mapping[str, Net], config: CascadeConfig) -> None:
        super().__init__(nets["pnet"], nets["rnet"], nets["onet"], config)
        self._clock = clock

    def run_pnet(self, maps: Sequence[Mipmaps], config: CascadeConfig | None = None) -> list[Proposals]:
        with self._clock.step("pnet"):
            return super().run_pnet(maps, config)

    def run_rnet(
        self, maps: Sequence[Mipmaps], proposals: Sequence[Proposals], config: CascadeConfig | None = None
    ) -> list[Proposals]:
        with self._clock.step("rnet"):
            return super().run_rnet(maps, proposals, config)

    def run_onet(
        self, maps: Sequence[Mipmaps], proposals: Sequence[Proposals], config: CascadeConfig | None = None
    ) -> list[Faces]:
        with self._clock.step("onet"):
            return super().run_onet(maps, proposals, config)


class _TimedPredictor(Predictor):
    """Both stages, whose steps are timed."""

    def __init__(self, clock: Clock, bundle: Bundle, threads: int, device: Device) -> None:
        search = bundle.meta.search
        if not isinstance(search, CascadeConfig):
            raise UserError("--parts profile: the bundle has the stock cascade; name one with a fine-tuned cascade")
        nets = {name: clock.timed(name, bundle.graph(name, threads, device)) for name in ("pnet", "rnet", "onet")}
        super().__init__(bundle, threads, device, _TimedDetector(clock, nets, search))
        self._clock = clock
        self._classifier = clock.timed("classifier", self._classifier)

    def run_classifier(self, images: Sequence[Pixels], boxes: Sequence[Boxes]) -> list[ClassifierOutput]:
        with self._clock.step("classifier"):
            return super().run_classifier(images, boxes)


def profile_sizes(
    bundle: Bundle,
    min_face: float | None,
    threads: int,
    device: Device,
    rounds: int,
) -> list[dict[str, Any]]:
    """Profile synthetic photos of several sizes and numbers of faces.

    Args:
        bundle: the pipeline.
        min_face: smallest face to find, pixels; None for the bundle's.
        threads: threads of each net.
        device: what the nets run on.
        rounds: how often each photo is searched; the round of the median time counts.

    Returns:
        A record for each photo: "width", "height", "faces", "found", and "ms" and "windows" by part.

    Raises:
        UserError: the bundle has the stock cascade.
    """
    clock = Clock()
    predictor = _TimedPredictor(clock, bundle, threads, device)
    records = []
    with progress() as bar:
        for (width, height), faces in bar.track(list(product(SIZES, FACES)), description="profiling"):
            photo = synthetic_photo(width, height, faces)
            predictor.detect(photo, min_face=min_face)  # warms up
            runs = sorted((_profile(clock, predictor, photo, min_face) for _ in range(rounds)), key=_total)
            records.append({"width": width, "height": height, "faces": faces, **runs[len(runs) // 2]})
    return records


def _profile(clock: Clock, predictor: Predictor, photo: Pixels, min_face: float | None) -> dict[str, Any]:
    """Return the record of one search of a photo."""
    clock.reset()
    start = time.perf_counter()
    found = len(predictor.detect(photo, min_face=min_face))
    total = time.perf_counter() - start
    ms = {}
    for name in NETS:
        ms[f"{name}: net"] = clock.nets[name] * 1000
        ms[f"{name}: {AROUND}"] = (clock.steps[name] - clock.nets[name]) * 1000
    ms[REST] = (total - sum(clock.steps.values())) * 1000
    return {"found": found, "ms": ms, "windows": dict(clock.windows)}


def _total(record: dict[str, Any]) -> float:
    """Return the milliseconds of a record."""
    return float(sum(record["ms"].values()))


def profile_tables(records: Sequence[dict[str, Any]]) -> list[Table]:
    """Return the table of milliseconds and the table of what the nets had to do; one row per photo."""
    photos = [(f"{one['width']}x{one['height']}", str(one["faces"])) for one in records]
    parts = [part for title in NETS.values() for part in (title, "+")]
    times = [(*(f"{ms:.1f}" for ms in one["ms"].values()), f"{_total(one):.1f}") for one in records]
    work = [(str(one["found"]), *_amounts(one["windows"])) for one in records]
    inputs = "P-Net: megapixels; the others: windows, mirror images counted."
    titles = (f"{NETS['pnet']}, MP", *list(NETS.values())[1:])
    note = "The round of the median time. +: the rest of a net's step (pyramid or windows, suppression; crops)."
    return [
        Table("Where the time goes, ms", ("photo", "faces", *parts, REST, "whole"), _rows(photos, times), note),
        Table("What the nets had to do", ("photo", "faces", "found", *titles), _rows(photos, work), inputs),
    ]


def _amounts(windows: Mapping[str, int]) -> list[str]:
    """Return what each net had to do as text."""
    return [f"{count / 1e6:.2f}" if name == "pnet" else str(count) for name, count in windows.items()]


def _rows(photos: Sequence[tuple[str, ...]], cells: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Return rows of a photo's name and its cells."""
    return tuple((*photo, *more) for photo, more in zip(photos, cells, strict=True))
