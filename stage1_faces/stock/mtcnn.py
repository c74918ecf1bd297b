"""MtcnnDetector: the stock MTCNN cascade, facenet-pytorch's number for number, batched over images of mixed sizes.

Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional Networks", 2016. P-Net slides
over an image pyramid and proposes windows, R-Net refines them, O-Net judges them and places five landmarks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, area, clip, nms, square
from stage1_faces.faces import Faces, Net, check_images
from stage1_faces.stock.resample import WindowSampler, area_resize

# The nets, of float32 (N, 3, H, W) pixels of 0..255:
#   P-Net: face probability (N, h, w), box offsets (N, 4, h, w), one cell for every 12x12 window at stride 2;
#   R-Net (24x24): face probability (N,), box offsets (N, 4);
#   O-Net (48x48): face probability (N,), box offsets (N, 4), landmarks (N, 5, 2) as fractions of the window.

STRIDE, CELL = 2, 12  # P-Net's, by its layers
R_SIZE, O_SIZE = 24, 48
# Bounds on one call, so that a net's memory depends neither on the photo's size nor on the number of windows.
MAX_TILE = 512  # P-Net cells a side: 1034 px
R_BATCH, O_BATCH = 64, 16


@dataclass(frozen=True)
class MtcnnConfig:
    """How the cascade searches. The defaults are facenet-pytorch's, after Zhang et al. 2016.

    min_face: smallest face looked for, pixels. factor: size ratio of neighbouring pyramid levels.
    pnet, rnet, onet: smallest face probability that passes each net. The nms_* are overlaps above which the weaker
    of two boxes goes: within a pyramid level, over all levels, after R-Net (IoU), after O-Net (over the smaller box).
    Raises ValueError when a value is out of range.
    """

    min_face: float = 20.0
    factor: float = 0.709
    pnet_threshold: float = 0.6
    rnet_threshold: float = 0.7
    score_threshold: float = 0.7
    nms_level: float = 0.5
    nms_pnet: float = 0.7
    nms_rnet: float = 0.7
    nms_onet: float = 0.7

    def __post_init__(self) -> None:
        if not self.min_face >= 1:
            raise ValueError(f"min_face is {self.min_face}, must be 1 pixel or more")
        if not 0 < self.factor < 1:
            raise ValueError(f"factor is {self.factor}, must lie between 0 and 1")
        for name in (
            "pnet_threshold",
            "rnet_threshold",
            "score_threshold",
            "nms_level",
            "nms_pnet",
            "nms_rnet",
            "nms_onet",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must lie in 0..1")


@dataclass(frozen=True)
class _Windows:
    """Candidate windows of one image, 1-based with inclusive ends: the convention the stock weights were trained in.

    `refined` and `_cells` keep facenet-pytorch's arithmetic (widths of x2-x1, or +1 after R and O), because
    the weights compensate for it. Faces leave the detector 0-based with exclusive ends.
    """

    boxes: Boxes  # (N, 4)
    scores: NDArray[np.float32]  # (N,)
    offsets: NDArray[np.float32]  # (N, 4), as fractions of the window's sides

    def __getitem__(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> _Windows:
        return _Windows(self.boxes[index], self.scores[index], self.offsets[index])

    def refined(self, extra: float) -> Boxes:
        """The boxes moved by their offsets; `extra` is added to the sides that the offsets are fractions of."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2] + np.float32(extra)
        return self.boxes + self.offsets * np.tile(sides, 2)

    @staticmethod
    def joined(parts: Sequence[_Windows]) -> _Windows:
        if not parts:
            return _Windows(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))
        return _Windows(
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.offsets for p in parts]),
        )


class MtcnnDetector:
    """The cascade. Holds no runtime: the three nets are plain functions (see `Net`), so ONNX and torch both fit."""

    def __init__(self, pnet: Net, rnet: Net, onet: Net, config: MtcnnConfig | None = None) -> None:
        self.config = config or MtcnnConfig()
        self._pnet, self._rnet, self._onet = pnet, rnet, onet

    def detect(
        self, image: NDArray[np.uint8], *, min_face: float | None = None, min_score: float | None = None
    ) -> Faces:
        """Faces in one image (H, W, 3 uint8 RGB); see `detect_batch`."""
        return self.detect_batch([image], min_face=min_face, min_score=min_score)[0]

    def detect_batch(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        min_face: float | None = None,
        min_score: float | None = None,
    ) -> list[Faces]:
        """Faces in each image (H, W, 3 uint8 RGB, any sizes).

        min_face and min_score replace the configured smallest face and O-Net threshold; min_score 0 keeps every
        candidate that O-Net saw and non-maximum suppression left. The result for an image does not depend on the
        others. Raises ValueError for anything but uint8 (H, W, 3) with at least one pixel.
        """
        check_images(images)
        if not images:
            return []
        config = replace(
            self.config,
            min_face=self.config.min_face if min_face is None else min_face,
            score_threshold=self.config.score_threshold if min_score is None else min_score,
        )
        samplers = [WindowSampler(image) for image in images]
        sizes = [(image.shape[1], image.shape[0]) for image in images]
        proposals = self._propose(images, config)
        refined = self._refine(samplers, sizes, proposals, config)
        return self._judge(samplers, sizes, refined, config)

    def _propose(self, images: Sequence[NDArray[np.uint8]], config: MtcnnConfig) -> list[Boxes]:
        """P-Net over each image's pyramid: candidate squares per image."""
        found: list[list[_Windows]] = [[] for _ in images]
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
                pixels = np.stack([area_resize(images[index], *shape) for index, _ in chunk]).transpose(0, 3, 1, 2)
                parts: list[list[_Windows]] = [[] for _ in chunk]
                for row, column, tile in _tiles(pixels):
                    scores, offsets = self._pnet(tile)
                    for k, (_, scale) in enumerate(chunk):
                        cells = _cells(scores[k], offsets[k], row, column, scale, config.pnet_threshold)
                        parts[k].append(cells)
                for (index, _), part in zip(chunk, parts, strict=True):
                    windows = _Windows.joined(part)
                    found[index].append(windows[nms(windows.boxes, windows.scores, config.nms_level)])
        proposals = []
        for levels_found in found:
            windows = _Windows.joined(levels_found)
            windows = windows[nms(windows.boxes, windows.scores, config.nms_pnet)]
            proposals.append(square(windows.refined(0)))
        return proposals

    def _refine(
        self,
        samplers: Sequence[WindowSampler],
        sizes: Sequence[tuple[int, int]],
        proposals: Sequence[Boxes],
        config: MtcnnConfig,
    ) -> list[Boxes]:
        """R-Net on the proposals of all images at once: fewer, better squares per image."""
        kept, (scores, offsets) = _run(self._rnet, samplers, sizes, proposals, R_SIZE, R_BATCH, ((), (4,)))
        refined = []
        for boxes, score, offset in zip(kept, scores, offsets, strict=True):
            windows = _Windows(boxes, score, offset)
            windows = windows[windows.scores > config.rnet_threshold]
            windows = windows[nms(windows.boxes, windows.scores, config.nms_rnet)]
            refined.append(square(windows.refined(1)))
        return refined

    def _judge(
        self,
        samplers: Sequence[WindowSampler],
        sizes: Sequence[tuple[int, int]],
        refined: Sequence[Boxes],
        config: MtcnnConfig,
    ) -> list[Faces]:
        """O-Net on the squares of all images at once: the faces of each image."""
        shapes: tuple[tuple[int, ...], ...] = ((), (4,), (5, 2))
        kept, (scores, offsets, points) = _run(self._onet, samplers, sizes, refined, O_SIZE, O_BATCH, shapes)
        faces = []
        for size, boxes, score, offset, point in zip(sizes, kept, scores, offsets, points, strict=True):
            passed = score >= config.score_threshold
            windows = _Windows(boxes, score, offset)[passed]
            sides = windows.boxes[:, None, 2:] - windows.boxes[:, None, :2] + 1
            landmarks = windows.boxes[:, None, :2] + sides * point[passed] - 1
            # From 1-based inclusive to 0-based exclusive: the low edges move by one, the high ones stay.
            found = clip(windows.refined(1) - np.array([1, 1, 0, 0], np.float32), size)
            found, keep_score, landmarks = _drop_empty(found, windows.scores, landmarks)
            pick = nms(found, keep_score, config.nms_onet, "min")
            faces.append(Faces(found[pick], keep_score[pick], landmarks[pick].astype(np.float32)))
        return faces


def pyramid_scales(height: int, width: int, config: MtcnnConfig) -> list[float]:
    """Scales at which a face of `min_face` pixels or more fills P-Net's 12 px cell; none for a smaller image."""
    scale = CELL / config.min_face
    side = min(height, width) * scale
    scales = []
    while side >= CELL:
        scales.append(scale)
        scale *= config.factor
        side *= config.factor
    return scales


def _tiles(pixels: NDArray[np.float32]) -> Iterable[tuple[int, int, NDArray[np.float32]]]:
    """Pieces of a level (N, 3, H, W) that give P-Net the same cells as the whole: (first row, first column, piece).

    Neighbours overlap by the receptive field less the stride; the last piece runs to the edge.
    """
    height, width = pixels.shape[2:]
    span = MAX_TILE * STRIDE
    overlap = CELL - STRIDE
    rows = _tile_starts(height, span)
    columns = _tile_starts(width, span)
    for i, row in enumerate(rows):
        bottom = height if i == len(rows) - 1 else row + span + overlap
        for j, column in enumerate(columns):
            right = width if j == len(columns) - 1 else column + span + overlap
            piece = np.ascontiguousarray(pixels[:, :, row:bottom, column:right])
            yield row // STRIDE, column // STRIDE, piece


def _tile_starts(length: int, span: int) -> list[int]:
    # A rest shorter than a cell joins the tile before it, which then ends at the edge.
    return [start for start in range(0, length, span) if start == 0 or length - start >= CELL]


def _cells(
    scores: NDArray[np.float32],
    offsets: NDArray[np.float32],
    first_row: int,
    first_column: int,
    scale: float,
    threshold: float,
) -> _Windows:
    """P-Net's cells (h, w) of a level at `scale` that reach the threshold, as windows of the image."""
    rows, columns = np.nonzero(scores >= threshold)
    corner = np.stack([columns + first_column, rows + first_row], axis=1).astype(np.float32) * STRIDE
    low = np.floor((corner + 1) / np.float32(scale))
    high = np.floor((corner + CELL) / np.float32(scale))
    return _Windows(np.concatenate([low, high], axis=1), scores[rows, columns], offsets[:, rows, columns].T)


def _pixel_windows(boxes: Boxes, size: tuple[int, int]) -> NDArray[np.intp]:
    """Windows in whole pixels, 0-based with exclusive ends, cut to the image of `size` (width, height)."""
    width, height = size
    whole = np.clip(np.trunc(boxes), -(2**31), 2**31).astype(np.intp)
    low = np.maximum(whole[:, :2], 1) - 1
    high = np.minimum(whole[:, 2:], np.array([width, height]))
    return np.concatenate([low, high], axis=1)


def _run(
    net: Net,
    samplers: Sequence[WindowSampler],
    sizes: Sequence[tuple[int, int]],
    candidates: Sequence[Boxes],
    size: int,
    batch: int,
    shapes: Sequence[tuple[int, ...]],
) -> tuple[list[Boxes], list[list[NDArray[np.float32]]]]:
    """A net on every image's candidate windows, batched over images.

    Returns the candidates per image that touch it (a window outside the image has no pixels to judge), and for each
    output of the net, of per-window shape `shapes[k]`, an array per image.
    """
    kept: list[Boxes] = []
    windows: list[NDArray[np.intp]] = []
    for boxes, image_size in zip(candidates, sizes, strict=True):
        whole = _pixel_windows(boxes, image_size)
        touches = (whole[:, 2:] > whole[:, :2]).all(axis=1)
        kept.append(boxes[touches])
        windows.append(whole[touches])
    owner = np.repeat(np.arange(len(kept)), [len(boxes) for boxes in kept])
    flat = np.concatenate(windows)
    outputs = [np.empty((len(flat), *shape), np.float32) for shape in shapes]
    for start in range(0, len(flat), batch):
        stop = min(start + batch, len(flat))
        pixels = np.concatenate(
            [
                samplers[image].windows(flat[start:stop][owner[start:stop] == image], size)
                for image in np.unique(owner[start:stop])
            ]
        )
        results = net(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        for output, result in zip(outputs, results, strict=True):
            output[start:stop] = result
    ends = np.cumsum([len(boxes) for boxes in kept])[:-1]
    return kept, [np.split(output, ends) for output in outputs]


def _drop_empty(
    boxes: Boxes, scores: NDArray[np.float32], landmarks: NDArray[np.float32]
) -> tuple[Boxes, NDArray[np.float32], NDArray[np.float32]]:
    """Without the boxes that lie outside the image once clipped to it."""
    inside = area(boxes) > 0
    return boxes[inside], scores[inside], landmarks[inside]
