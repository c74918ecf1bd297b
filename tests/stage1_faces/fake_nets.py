"""Fake nets with given outputs for the cascade, and settings that let much pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from common.images import Pixels
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.faces import Net

Cells = Callable[[int, int, int], np.ndarray]

# Low thresholds, independent of the defaults.
LOW = CascadeConfig(
    min_face=8, max_side=1280, pnet_threshold=0.02, rnet_threshold=0.02, onet2_threshold=0.01, score_threshold=0.5,
    max_pnet=200, max_rnet=100, max_onet2=100, nms_pnet=0.6, nms_rnet=0.6, nms_onet=0.45, soft_nms_sigma=0,
    box_voting_iou=0.6,
)  # fmt: skip

LIVELY = replace(LOW, min_face=6, pnet_threshold=0.3)  # for the nets of conftest, which find faces at many places

UNLIMITED = dict.fromkeys(("max_pnet", "max_rnet", "max_onet2"), 10_000)

KEEP_ALL = replace(LOW, nms_pnet=1, nms_rnet=1, nms_onet=1, box_voting_iou=1, **UNLIMITED)


def fake_pnet(
    cells: Cells, box_deltas: Sequence[float] = (0, 0, 0, 0), seen: list[tuple[int, ...]] | None = None
) -> Net:
    """Return a P-Net with the probabilities cells(N, rows, columns); every cell gives the same box deltas."""

    def net(pixels: np.ndarray) -> list[np.ndarray]:
        assert pixels.dtype == np.float32 and pixels.flags.c_contiguous
        n, _, height, width = pixels.shape
        assert height % 8 == width % 8 == 0
        if seen is not None:
            seen.append(pixels.shape)
        shape = (n, height // 4, width // 4)
        boxes = np.tile(np.float32(box_deltas)[None, :, None, None], (n, 1, *shape[1:]))
        return [np.asarray(cells(*shape), np.float32), boxes]

    return net


def fake_net(
    score: float | Callable[[np.ndarray], np.ndarray] = 0.5,
    box_deltas: Sequence[float] = (0, 0, 0, 0),
    points: Any = None,
) -> Net:
    """Return an R-Net or, with points (5, 2), an O-Net; the score may depend on the pixels."""

    def net(pixels: np.ndarray) -> list[np.ndarray]:
        assert pixels.dtype == np.float32 and pixels.flags.c_contiguous
        n = len(pixels)
        scores = score(pixels) if callable(score) else np.full(n, score)
        found = [np.asarray(scores, np.float32), np.tile(np.float32(box_deltas), (n, 1))]
        return found if points is None else [*found, np.tile(np.float32(points), (n, 1, 1))]

    return net


def one_cell(row: int, column: int, score: float = 0.5, only: tuple[int, int] | None = None) -> Cells:
    """Return a face probability in one cell, for inputs of `only` (rows, columns) if given."""

    def cells(n: int, height: int, width: int) -> np.ndarray:
        out = np.zeros((n, height, width))
        if only in (None, (height, width)):
            out[:, row, column] = score
        return out

    return cells


def everywhere(score: float) -> Cells:
    return lambda *shape: np.full(shape, score)


def grey(width: int, height: int) -> Pixels:
    return np.full((height, width, 3), 128, np.uint8)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


CENTRED = np.zeros((5, 2))


def at_width(pnet: Net, width: int) -> Net:
    """Return the net for the level of the given width; other levels show no face."""

    def net(pixels: np.ndarray) -> list[np.ndarray]:
        probability, box_deltas = pnet(pixels) if pixels.shape[3] == width else fake_pnet(everywhere(0))(pixels)
        return [probability, box_deltas]

    return net
