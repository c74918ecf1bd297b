"""MtcnnDetector: the stock MTCNN cascade, facenet-pytorch's number for number, batched over images of mixed sizes.

Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks", 2016. P-Net slides
over an image pyramid and proposes windows, R-Net refines them, O-Net scores them and places five landmarks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, area, clip, nms, square
from common.images import Pixels
from stage1_faces.cascade import BoxTable, NetSpec, run_on_windows
from stage1_faces.faces import Detector, Faces, Net
from stage1_faces.stock.resample import WindowSampler, area_resize

# The nets, of float32 (N, 3, H, W) pixels of 0..255:
#   P-Net: face probability (N, h, w), box offsets (N, 4, h, w), one cell for every 12x12 window at stride 2;
#   R-Net (24x24): face probability (N,), box offsets (N, 4);
#   O-Net (48x48): face probability (N,), box offsets (N, 4), landmarks (N, 5, 2) as fractions of the window.

STRIDE, CELL = 2, 12  # px: step and side of P-Net's windows, given by its layers
R_SIZE, O_SIZE = 24, 48
# Bounds on one call, so that a net's memory depends neither on the photo's size nor on the number of windows.
MAX_TILE = 512  # P-Net cells per side: 1034 px
R_BATCH, O_BATCH = 64, 16


RNET = NetSpec(R_SIZE, 1.0, R_BATCH, ((), (4,)))
ONET = NetSpec(O_SIZE, 1.0, O_BATCH, ((), (4,), (5, 2)))


@dataclass(frozen=True)
class MtcnnConfig:
    """Settings of the cascade's search. Raise ValueError where a value is out of range.

    The defaults are facenet-pytorch's, after Zhang et al. 2016.
    """

    min_face: float = 20.0  # smallest face that is searched for, pixels
    factor: float = 0.709  # size ratio of neighbouring pyramid levels
    # Smallest face probability that passes P-Net, R-Net, O-Net.
    pnet_threshold: float = 0.6
    rnet_threshold: float = 0.7
    score_threshold: float = 0.7
    # IoU above which the weaker of two boxes is removed.
    nms_level: float = 0.5  # within a pyramid level
    nms_pnet: float = 0.7  # over all levels
    nms_rnet: float = 0.7
    nms_onet: float = 0.7  # after O-Net: intersection over the smaller box

    def __post_init__(self) -> None:
        if not self.min_face >= 1:
            raise ValueError(f"min_face is {self.min_face}, must be 1 pixel or more")
        if not 0 < self.factor < 1:
            raise ValueError(f"factor is {self.factor}, must be between 0 and 1")
        thresholds = ("pnet_threshold", "rnet_threshold", "score_threshold")
        for name in (*thresholds, "nms_level", "nms_pnet", "nms_rnet", "nms_onet"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be in 0..1")


@dataclass(frozen=True)
class _Windows(BoxTable):
    """Windows of one image, 1-based with inclusive ends, as the stock weights were trained.

    `refined` and `_pnet_windows` keep facenet-pytorch's arithmetic (widths of x2-x1, or +1 after R-Net and O-Net),
    because the weights compensate for it. Faces leave the detector 0-based with exclusive ends.
    """

    boxes: Boxes  # (N, 4)
    scores: NDArray[np.float32]  # (N,)
    offsets: NDArray[np.float32]  # (N, 4), as fractions of the window's sides

    def refined(self, extra: float) -> Boxes:
        """Return the boxes moved by their offsets, which are fractions of (side + `extra`)."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2] + np.float32(extra)
        return self.boxes + self.offsets * np.tile(sides, 2)


NO_WINDOWS = _Windows(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))


class MtcnnDetector(Detector):
    """The cascade. Holds no runtime: the three nets are plain functions (see `Net`), so ONNX and torch both fit."""

    def __init__(self, pnet: Net, rnet: Net, onet: Net, config: MtcnnConfig | None = None) -> None:
        self.config = config or MtcnnConfig()
        self._pnet, self._rnet, self._onet = pnet, rnet, onet

    def _search(self, images: Sequence[Pixels], min_face: float | None, min_score: float | None) -> list[Faces]:
        given = {"min_face": min_face, "score_threshold": min_score}
        config = replace(self.config, **{name: value for name, value in given.items() if value is not None})
        samplers = [WindowSampler(image) for image in images]
        squares = self._run_rnet(samplers, self._run_pnet(images, config), config)
        return self._run_onet(samplers, squares, config)

    def _run_pnet(self, images: Sequence[Pixels], config: MtcnnConfig) -> list[Boxes]:
        """Return P-Net's squares over each image's pyramid."""
        found = [[NO_WINDOWS] for _ in images]
        # Levels of equal shape, from any of the images, go through the net together.
        by_shape: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for index, image in enumerate(images):
            for scale in pyramid_scales(image.shape[0], image.shape[1], config):
                shape = (int(image.shape[0] * scale + 1), int(image.shape[1] * scale + 1))
                by_shape.setdefault(shape, []).append((index, scale))
        for shape, levels in by_shape.items():
            per_call = max(MAX_TILE**2 * STRIDE**2 // (shape[0] * shape[1]), 1)
            for start in range(0, len(levels), per_call):
                chunk = levels[start : start + per_call]
                pixels = np.stack([area_resize(images[index], *shape) for index, _ in chunk])
                scales = [scale for _, scale in chunk]
                for (index, _), windows in zip(chunk, self._search_levels(pixels, scales, config), strict=True):
                    found[index].append(windows[nms(windows.boxes, windows.scores, config.nms_level)])
        squares = []
        for parts in found:
            windows = _Windows.concatenated(parts)
            windows = windows[nms(windows.boxes, windows.scores, config.nms_pnet)]
            squares.append(square(windows.refined(0)))
        return squares

    def _search_levels(
        self, pixels: NDArray[np.float32], scales: Sequence[float], config: MtcnnConfig
    ) -> list[_Windows]:
        """Return P-Net's windows of each level (N, H, W, 3) of one shape, tile by tile."""
        parts = [[NO_WINDOWS] for _ in scales]
        for row, column, tile in _tiles(pixels.transpose(0, 3, 1, 2)):
            scores, offsets = self._pnet(tile)
            for k, scale in enumerate(scales):
                parts[k].append(_pnet_windows(scores[k], offsets[k], (row, column), scale, config.pnet_threshold))
        return [_Windows.concatenated(part) for part in parts]

    def _run_rnet(
        self, samplers: Sequence[WindowSampler], squares: Sequence[Boxes], config: MtcnnConfig
    ) -> list[Boxes]:
        """Return what R-Net makes of the squares: fewer, better squares per image."""
        refined = []
        for outputs in _run_on_squares(self._rnet, RNET, samplers, squares):
            windows = _Windows(*outputs)
            windows = windows[windows.scores > config.rnet_threshold]
            windows = windows[nms(windows.boxes, windows.scores, config.nms_rnet)]
            refined.append(square(windows.refined(1)))
        return refined

    def _run_onet(
        self, samplers: Sequence[WindowSampler], squares: Sequence[Boxes], config: MtcnnConfig
    ) -> list[Faces]:
        """Return each image's faces: O-Net on the squares of all images at once."""
        outputs = _run_on_squares(self._onet, ONET, samplers, squares)
        faces = []
        for sampler, (boxes, score, offset, point) in zip(samplers, outputs, strict=True):
            passed = score >= config.score_threshold
            windows = _Windows(boxes, score, offset)[passed]
            sides = windows.boxes[:, None, 2:] - windows.boxes[:, None, :2] + 1
            landmarks = windows.boxes[:, None, :2] + sides * point[passed] - 1
            # From 1-based inclusive to 0-based exclusive: the low edges move by one, the high ones stay.
            found = clip(windows.refined(1) - np.array([1, 1, 0, 0], np.float32), sampler.size)
            inside = area(found) > 0
            found, inside_scores, landmarks = found[inside], windows.scores[inside], landmarks[inside]
            pick = nms(found, inside_scores, config.nms_onet, "min")
            faces.append(Faces(found[pick], inside_scores[pick], landmarks[pick].astype(np.float32)))
        return faces


def pyramid_scales(height: int, width: int, config: MtcnnConfig) -> list[float]:
    """Return the scales at which a face of `min_face` pixels or more fills P-Net's 12 px; [] for a smaller image."""
    scale = CELL / config.min_face
    side = min(height, width) * scale
    scales = []
    while side >= CELL:
        scales.append(scale)
        scale *= config.factor
        side *= config.factor
    return scales


def _tiles(pixels: NDArray[np.float32]) -> Iterable[tuple[int, int, NDArray[np.float32]]]:
    """Yield first row, first column and pixels of tiles of a level (N, 3, H, W), whose cells are those of the whole.

    Neighbours overlap by the receptive field less the stride; the last tile ends at the edge.
    """
    height, width = pixels.shape[2:]
    span, overlap = MAX_TILE * STRIDE, CELL - STRIDE
    rows, columns = _tile_starts(height, span), _tile_starts(width, span)
    for i, row in enumerate(rows):
        bottom = height if i == len(rows) - 1 else row + span + overlap
        for j, column in enumerate(columns):
            right = width if j == len(columns) - 1 else column + span + overlap
            tile = np.ascontiguousarray(pixels[:, :, row:bottom, column:right])
            yield row // STRIDE, column // STRIDE, tile


def _tile_starts(length: int, span: int) -> list[int]:
    """Return where tiles start; a rest shorter than CELL joins the tile before it."""
    return [start for start in range(0, length, span) if start == 0 or length - start >= CELL]


def _pnet_windows(
    scores: NDArray[np.float32], offsets: NDArray[np.float32], first: tuple[int, int], scale: float, threshold: float
) -> _Windows:
    """Return P-Net's cells (h, w) that reach the threshold as windows of the image; `first` is their row, column."""
    rows, columns = np.nonzero(scores >= threshold)
    corner = np.stack([columns + first[1], rows + first[0]], axis=1).astype(np.float32) * STRIDE
    low = np.floor((corner + 1) / np.float32(scale))
    high = np.floor((corner + CELL) / np.float32(scale))
    return _Windows(np.concatenate([low, high], axis=1), scores[rows, columns], offsets[:, rows, columns].T)


def _pixel_windows(boxes: Boxes, size: tuple[int, int]) -> NDArray[np.intp]:
    """Return windows in whole pixels, 0-based with exclusive ends, clipped to an image of `size` (width, height)."""
    whole = np.clip(np.trunc(boxes), -(2**31), 2**31).astype(np.intp)
    low = np.maximum(whole[:, :2], 1) - 1
    high = np.minimum(whole[:, 2:], np.array(size))
    return np.concatenate([low, high], axis=1)


def _run_on_squares(
    net: Net, spec: NetSpec, samplers: Sequence[WindowSampler], squares: Sequence[Boxes]
) -> list[tuple[NDArray[np.float32], ...]]:
    """Return for each image the squares that touch it, and the net's outputs on them; others have no pixels."""
    kept, windows = [], []
    for sampler, boxes in zip(samplers, squares, strict=True):
        whole = _pixel_windows(boxes, sampler.size)
        touches = (whole[:, 2:] > whole[:, :2]).all(axis=1)
        kept.append(boxes[touches])
        windows.append(whole[touches])
    outputs = run_on_windows(net, spec, windows, lambda image, some: samplers[image].windows(some, spec.size))
    return [(boxes, *arrays) for boxes, arrays in zip(kept, outputs, strict=True)]
