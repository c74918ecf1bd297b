"""What both cascades share: tables of boxes, and calls of a net on windows of many images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stage1_faces.faces import Net


@dataclass(frozen=True)
class BoxTable:
    """Fields are arrays with one row per box."""

    def __getitem__(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Self:
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def concatenated(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of all parts (one or more), in order."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


@dataclass(frozen=True)
class NetSpec:
    """How R-Net or O-Net is called."""

    size: int  # px, side of a window
    context: float  # side of a window / longer side of its box
    batch: int  # most windows per call
    shapes: tuple[tuple[int, ...], ...]  # of each output, for one window


def run_on_windows(
    net: Net, spec: NetSpec, windows: Sequence[NDArray[Any]], crop: Callable[[int, NDArray[Any]], NDArray[Any]]
) -> list[tuple[NDArray[np.float32], ...]]:
    """Return for each image the net's outputs on its windows; calls are batched over images.

    Args:
        net: a function of pixels (N, 3, size, size).
        spec: how it is called.
        windows: (N, 4) for each image.
        crop: returns pixels (N, size, size, 3) for the index of an image and some of its windows.
    """
    image_index = np.repeat(np.arange(len(windows)), [len(part) for part in windows])
    flat = np.concatenate(windows)
    outputs = [np.empty((len(flat), *shape), np.float32) for shape in spec.shapes]
    for start in range(0, len(flat), spec.batch):
        call = slice(start, start + spec.batch)
        images = sorted(set(image_index[call].tolist()))  # not np.unique, which imports all of numpy.ma
        pixels = np.concatenate([crop(image, flat[call][image_index[call] == image]) for image in images])
        results = net(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32))
        for output, result in zip(outputs, results, strict=True):
            output[call] = result
    ends = np.cumsum([len(part) for part in windows])[:-1]
    return list(zip(*(np.split(output, ends) for output in outputs), strict=True))
