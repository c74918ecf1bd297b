"""FaceDetector: the fine-tuned cascade, batched over images of mixed sizes, on any runtime (numpy in, numpy out).

The three steps are MTCNN's (Zhang et al. 2016): P-Net proposes boxes over an image pyramid, R-Net refines them, O-Net
judges them and places five landmarks. The nets differ (stage1_faces.training.nets): P-Net and R-Net read a wide view, for half
of the faces are under 22 px, where what surrounds a face tells as much as the face. O-Net looks twice, the second
time at its own boxes and their mirror images, and the three nets' verdicts make the score together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, area, clip, iou, nms, soft_nms
from stage1_faces.faces import Faces, Net, Pixels, check_images
from stage1_faces.roi_crop import GREY, Mipmaps

# The nets, of float32 (N, 3, H, W) pixels of 0..255:
#   P-Net (sides multiples of 8): face probability (N, H/4, W/4), box numbers (N, 4, H/4, W/4);
#   R-Net (32x32): face probability (N,), box numbers (N, 4);
#   O-Net (48x48): face probability (N,), box numbers (N, 4), landmarks (N, 5, 2) from the centre, in units.
# Box numbers are a centre's shift in x and y and the logarithms of width and height, in units of REFERENCE pixels for
# P-Net, of the judged box's longer side for the others.

CELL = 8.0  # px: the smallest face, sqrt(area), that a level of the pyramid is for; the largest is twice that
REFERENCE = CELL * 2**0.5
STRIDE, EVEN = 4, 8  # px between P-Net's cells; its input's sides are multiples of EVEN
R_SIZE, O_SIZE = 32, 48
R_CONTEXT, O_CONTEXT = 2.0, 1.2  # side of the window that a net sees / longer side of the box it judges
# Shares of the nets' verdicts (log odds) in the score: P-Net, R-Net, O-Net at first sight and at second sight. Chosen
# on validation photos among a handful (EXPERIMENTS.md).
PNET_WEIGHT, RNET_WEIGHT, ONET_WEIGHT, ONET2_WEIGHT = 0.125, 0.125, 0.25, 0.5
# How far, in calibrated log odds, O-Net's second sight may still raise a box. What lacks more to the smallest score
# wanted is not looked at again: of the faces found on validation photos that loses one in 598 at a score of 0.1 and
# none at 0.2 or 0.38 (EXPERIMENTS.md).
MAX_ONET2_GAIN = 2.5
ONET2_BOX_WEIGHT = 2 / 3  # share of the second sight in where the box lies
# Bounds on one call, so that a net's memory depends neither on the photo's size nor on the number of windows.
MAX_TILE = 512  # px a side of P-Net's input: 10 MB less than by 1024, for 1.5% more time
TILE_MARGIN = 40  # px: more than half of P-Net's receptive field (63 px), so that tiles give the cells of the whole
R_BATCH, O_BATCH = 64, 16  # 32 for O-Net: as quick, 10 MB more
BBOX_XFORM_CLIP = 4.0  # no net may move a side by more than a factor of 55
MOST_CELLS = 8  # cells considered per proposal wanted, best first: suppression takes the square of their number
PROB_EPS = 1e-6  # probabilities are kept this far from 0 and 1 where their log odds are taken
MIRRORED_POINTS = [1, 0, 2, 4, 3]  # the landmark that each becomes in a mirror


@dataclass(frozen=True)
class CascadeConfig:
    """How the cascade searches.

    min_face: smallest face looked for, sqrt(area) in pixels. max_side: longer side, in pixels, of the largest level
    that a photo is searched at; in a photo that would be larger, the smallest face looked for grows with it.
    pnet, rnet, again: smallest face probability that passes P-Net, P- and R-Net together, and all three together, so
    that O-Net looks again. onet: smallest score of a face. most_*: boxes a photo that pass each step, at most, best
    first. nms_*: IoU above which the weaker of two boxes goes, after each net. soft: sigma of the soft suppression that
    lowers the scores of what is left at the end (boxes.soft_nms); 0 is none. vote: IoU from which the boxes that
    O-Net gave around a face have a say in where it lies. slope, intercept: of the log odds that make the score a
    probability (Platt 1999), fitted on validation photos.
    Raises ValueError when a value is out of range.
    """

    min_face: float = 6.0
    max_side: float = 800.0
    pnet_threshold: float = 0.2
    rnet_threshold: float = 0.15
    onet2_threshold: float = 0.05
    score_threshold: float = 0.5
    max_pnet: int = 500
    max_rnet: int = 300
    max_onet2: int = 300
    nms_pnet: float = 0.5
    nms_rnet: float = 0.5
    nms_onet: float = 0.65
    soft_nms_sigma: float = 0.3
    box_voting_iou: float = 0.6
    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        for name in ("min_face", "max_side", "max_pnet", "max_rnet", "max_onet2"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be 1 or more")
        for name in (
            *("pnet_threshold", "rnet_threshold", "onet2_threshold", "score_threshold"),
            *("nms_pnet", "nms_rnet", "nms_onet", "box_voting_iou"),
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must lie in 0..1")
        if not 0 <= self.soft_nms_sigma < np.inf:
            raise ValueError(f"soft_nms_sigma is {self.soft_nms_sigma}, must be 0 or more")
        if not (self.slope > 0 and np.isfinite(self.slope) and np.isfinite(self.intercept)):
            raise ValueError(f"slope {self.slope} and intercept {self.intercept} must be numbers, the slope above 0")

    def min_face_for(self, size: tuple[int, int], min_face: float | None = None) -> float:
        """The smallest face, sqrt(area) in pixels, looked for in a photo of `size` (width, height).

        min_face: what detect is asked for, in place of this configuration's.
        """
        return max(self.min_face, CELL * max(size) / self.max_side) if min_face is None else min_face


@dataclass(frozen=True)
class Proposals:
    """Boxes (N, 4) of one image inside it, in pixels, best first.

    scores (N,): face probability by the nets so far. verdict (N,): their log odds, by their shares.
    """

    boxes: Boxes
    scores: NDArray[np.float32]
    verdict: NDArray[np.float32]

    def __getitem__(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Proposals:
        return Proposals(self.boxes[index], self.scores[index], self.verdict[index])


@dataclass(frozen=True)
class _Level:
    """One level of one image's pyramid: its picture, and image pixels per pixel of it, across and down."""

    image: int
    picture: Pixels
    step: NDArray[np.float32]


class FaceDetector:
    """The cascade. Holds no runtime: the three nets are plain functions, so ONNX and torch both fit."""

    def __init__(self, pnet: Net, rnet: Net, onet: Net, config: CascadeConfig | None = None) -> None:
        self.config = config or CascadeConfig()
        self._pnet, self._rnet, self._onet = pnet, rnet, onet

    def detect(self, image: Pixels, *, min_face: float | None = None, min_score: float | None = None) -> Faces:
        """Faces in one image (H, W, 3 uint8 RGB); see `detect_batch`."""
        return self.detect_batch([image], min_face=min_face, min_score=min_score)[0]

    def detect_batch(
        self, images: Sequence[Pixels], *, min_face: float | None = None, min_score: float | None = None
    ) -> list[Faces]:
        """Faces in each image (H, W, 3 uint8 RGB, any sizes).

        min_face replaces the configured smallest face, and then photos of any size are searched for it (max_side
        does not hold). min_score replaces the smallest score of a face; 0 keeps every one that O-Net looks at twice.
        The result for an image does not depend on the others, up to float rounding.
        Raises ValueError for anything but uint8 (H, W, 3) with at least one pixel.
        """
        check_images(images)
        config = self.config
        if min_face is not None:
            config = replace(config, min_face=min_face, max_side=np.inf)
        if min_score is not None:
            config = replace(config, score_threshold=min_score)
        maps = [Mipmaps(image) for image in images]
        candidates = self.refine(maps, self.propose(maps, config), config)
        return self.run_onet(maps, candidates, config)

    def propose(self, maps: Sequence[Mipmaps], config: CascadeConfig | None = None) -> list[Proposals]:
        """P-Net over each image's pyramid: the boxes that may be faces."""
        config = config or self.config
        # Levels of equal shape, from any of the images, go through the net together.
        by_shape: dict[tuple[int, ...], list[_Level]] = {}
        for i, photo in enumerate(maps):
            for level in _pyramid(i, photo.image, config):
                by_shape.setdefault(level.picture.shape, []).append(level)
        found: list[list[Proposals]] = [[] for _ in maps]
        for shape, alike in by_shape.items():
            per_call = max(MAX_TILE**2 // (shape[0] * shape[1]), 1)
            for start in range(0, len(alike), per_call):
                chunk = alike[start : start + per_call]
                for row, column, probability, numbers in self._cells(chunk):
                    for k, level in enumerate(chunk):
                        rows, columns = np.nonzero(probability[k] >= config.pnet_threshold)
                        centre = np.stack([columns + column, rows + row], axis=1) * STRIDE + 0.5
                        boxes = decode(_frames(centre, REFERENCE), numbers[k][:, rows, columns].T)
                        scores = probability[k][rows, columns]
                        cells = Proposals(boxes * np.tile(level.step, 2), scores, PNET_WEIGHT * log_odds(scores))
                        found[level.image].append(cells)
        return [
            _best(_joined(cells), photo.size, config.nms_pnet, config.max_pnet)
            for photo, cells in zip(maps, found, strict=True)
        ]

    def _cells(self, levels: Sequence[_Level]) -> Iterable[tuple[int, int, NDArray[np.float32], NDArray[np.float32]]]:
        """P-Net on levels of one shape, by tiles: first row and column, probability and box numbers of the cells."""
        pixels = np.stack([level.picture for level in levels]).transpose(0, 3, 1, 2)
        height, width = pixels.shape[2:]
        for top in range(0, height, MAX_TILE):
            for left in range(0, width, MAX_TILE):
                # A tile sees what lies around it, and answers for its own cells only.
                y, x = max(top - TILE_MARGIN, 0), max(left - TILE_MARGIN, 0)
                tile = pixels[:, :, y : top + MAX_TILE + TILE_MARGIN, x : left + MAX_TILE + TILE_MARGIN]
                probability, numbers = self._pnet(np.ascontiguousarray(tile, np.float32))
                own = (
                    slice((top - y) // STRIDE, (top - y + MAX_TILE) // STRIDE),
                    slice((left - x) // STRIDE, (left - x + MAX_TILE) // STRIDE),
                )
                yield top // STRIDE, left // STRIDE, probability[:, *own], numbers[:, :, *own]

    def refine(
        self, maps: Sequence[Mipmaps], candidates: Sequence[Proposals], config: CascadeConfig | None = None
    ) -> list[Proposals]:
        """R-Net on the candidates of all images at once: fewer, better boxes per image."""
        config = config or self.config
        outputs = _run(self._rnet, maps, candidates, (R_SIZE, R_CONTEXT, R_BATCH), ((), (4,)))
        refined = []
        for photo, before, (scores, numbers) in zip(maps, candidates, outputs, strict=True):
            verdict = before.verdict + RNET_WEIGHT * log_odds(scores)
            chance = _probability(verdict / (PNET_WEIGHT + RNET_WEIGHT))
            now = Proposals(decode(anchors(before.boxes), numbers), chance, verdict)
            refined.append(_best(now[chance >= config.rnet_threshold], photo.size, config.nms_rnet, config.max_rnet))
        return refined

    def run_onet(
        self, maps: Sequence[Mipmaps], candidates: Sequence[Proposals], config: CascadeConfig | None = None
    ) -> list[Faces]:
        """O-Net on the candidates of all images at once, and again on what it makes of them: each image's faces."""
        config = config or self.config
        how, shapes = (O_SIZE, O_CONTEXT, O_BATCH), ((), (4,), (5, 2))
        seen = []
        outputs = _run(self._onet, maps, candidates, how, shapes)
        for photo, before, (scores, numbers, _) in zip(maps, candidates, outputs, strict=True):
            verdict = before.verdict + ONET_WEIGHT * log_odds(scores)
            chance = _probability(verdict / (PNET_WEIGHT + RNET_WEIGHT + ONET_WEIGHT))
            now = Proposals(clip(decode(anchors(before.boxes), numbers), photo.size), chance, verdict)
            now = now[(chance >= config.onet2_threshold) & (area(now.boxes) > 0)]
            kept = nms(now.boxes, now.scores, config.nms_onet)[: config.max_onet2]
            # The verdict at first sight as if it were the last one's share, too.
            first = config.slope * log_odds(now.scores[kept]) + config.intercept
            kept = kept[first >= _wanted(config.score_threshold) - MAX_ONET2_GAIN]
            voted = clip(_vote(now.boxes, now.scores, kept, config.box_voting_iou), photo.size)
            seen.append(Proposals(voted, now.scores[kept], now.verdict[kept]))
        faces = []
        outputs = _run(with_flip_tta(self._onet), maps, seen, how, shapes)
        for photo, before, (scores, numbers, points) in zip(maps, seen, outputs, strict=True):
            frame = anchors(before.boxes)
            boxes = clip(ONET2_BOX_WEIGHT * decode(frame, numbers) + (1 - ONET2_BOX_WEIGHT) * before.boxes, photo.size)
            verdict = before.verdict + ONET2_WEIGHT * log_odds(scores)
            chance = _probability(config.slope * verdict + config.intercept)
            landmarks = frame[:, None, :2] + points * frame[:, None, 2:]
            passed = np.nonzero((chance >= config.score_threshold) & (area(boxes) > 0))[0]
            kept = passed[nms(boxes[passed], chance[passed], config.nms_onet)]
            order, chance = soft_nms(boxes[kept], chance[kept], config.soft_nms_sigma)
            alive = chance >= config.score_threshold
            kept = kept[order[alive]]
            faces.append(Faces(boxes[kept], chance[alive], landmarks[kept].astype(np.float32)))
        return faces


def log_odds(probability: NDArray[np.floating]) -> NDArray[np.float32]:
    """log(p / (1 - p)), finite for 0 and 1, too."""
    inside = np.clip(probability.astype(np.float64), PROB_EPS, 1 - PROB_EPS)
    return np.log(inside / (1 - inside)).astype(np.float32)


def _probability(odds: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-odds.astype(np.float64))), np.float32)


def _wanted(score: float) -> float:
    """The log odds of a smallest score; none of 0 is too low."""
    return float(log_odds(np.array([score]))[0]) if score > 0 else -np.inf


def with_flip_tta(net: Net) -> Net:
    """O-Net's answers averaged over each window and its mirror image."""

    def averaged(pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        (score, numbers, points), (other_score, other_numbers, other_points) = (
            net(pixels),
            net(np.ascontiguousarray(pixels[..., ::-1])),
        )
        turned = other_numbers * np.array([-1, 1, 1, 1], np.float32)
        turned_points = other_points[:, MIRRORED_POINTS] * np.array([-1, 1], np.float32)
        odds = (log_odds(score) + log_odds(other_score)) / 2
        halves = [(numbers + turned) / 2, (points + turned_points) / 2]
        return [_probability(odds), *(half.astype(np.float32) for half in halves)]

    return averaged


def decode(frame: NDArray[np.float32], numbers: NDArray[np.float32]) -> Boxes:
    """Boxes (N, 4) from frames (N, 3: centre x, y and unit, pixels) and a net's box numbers (N, 4)."""
    unit = frame[:, 2:]
    centre = frame[:, :2] + numbers[:, :2] * unit
    half = np.exp(np.clip(numbers[:, 2:], -BBOX_XFORM_CLIP, BBOX_XFORM_CLIP)) * unit / 2
    return np.asarray(np.concatenate([centre - half, centre + half], axis=1), np.float32)


def anchors(boxes: Boxes) -> NDArray[np.float32]:
    """(N, 3): centre and unit (the longer side, at least a pixel) of each box (N, 4), as R- and O-Net count."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return _frames((boxes[:, :2] + boxes[:, 2:]) / 2, np.maximum(sides.max(axis=1), 1) if len(boxes) else 1.0)


def _frames(centres: NDArray[np.floating], unit: float | NDArray[np.float32]) -> NDArray[np.float32]:
    units = np.broadcast_to(np.asarray(unit, np.float32), len(centres))
    return np.concatenate([centres.astype(np.float32), units[:, None]], axis=1)


def _pyramid(index: int, image: Pixels, config: CascadeConfig) -> Iterable[_Level]:
    """Octaves of one image, largest first, each padded to sides that P-Net takes; a face fits one of them.

    The last one shows the whole image no larger than the largest face of a level.
    """
    height, width = image.shape[:2]
    scale = min(CELL / config.min_face, config.max_side / max(height, width))
    picture = image
    while True:
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        way = cv2.INTER_LINEAR if size[0] > picture.shape[1] else cv2.INTER_AREA
        picture = np.asarray(cv2.resize(picture, size, interpolation=way), np.uint8)
        below, right = -size[1] % EVEN, -size[0] % EVEN
        padded = cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(GREY, GREY, GREY))
        step = np.array([width / size[0], height / size[1]], np.float32)
        yield _Level(index, np.asarray(padded, np.uint8), step)
        if max(size) <= 2 * CELL:
            return
        scale /= 2


def _joined(parts: Sequence[Proposals]) -> Proposals:
    return Proposals(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.verdict for part in parts]),
    )


def _best(candidates: Proposals, size: tuple[int, int], overlap: float, most: int) -> Proposals:
    """The `most` best candidates, cut to an image of `size`, that do not overlap a better one."""
    boxes = clip(candidates.boxes, size)
    order = np.argsort(-candidates.scores, kind="stable")
    order = order[area(boxes)[order] > 0][: most * MOST_CELLS]
    kept = order[nms(boxes[order], candidates.scores[order], overlap)[:most]]
    return Proposals(boxes[kept], candidates.scores[kept], candidates.verdict[kept])


def _run(
    net: Net,
    maps: Sequence[Mipmaps],
    candidates: Sequence[Proposals],
    how: tuple[int, float, int],
    shapes: Sequence[tuple[int, ...]],
) -> list[list[NDArray[np.float32]]]:
    """A net on every image's boxes with their context, batched over images.

    how: the window's side in pixels, its context, and windows a call. Gives for each image a list with an array for
    each output of the net, of per-box shape `shapes[k]`.
    """
    size, context, batch = how
    owner = np.repeat(np.arange(len(maps)), [len(c.boxes) for c in candidates])
    frame = np.concatenate([np.zeros((0, 3), np.float32), *(anchors(c.boxes) for c in candidates)])
    half = frame[:, 2:] * (context / 2)
    squares = np.concatenate([frame[:, :2] - half, frame[:, :2] + half], axis=1)
    outputs = [np.empty((len(owner), *shape), np.float32) for shape in shapes]
    for start in range(0, len(owner), batch):
        stop = min(start + batch, len(owner))
        pixels = np.empty((stop - start, size, size, 3), np.uint8)
        for image in range(owner[start], owner[stop - 1] + 1):
            mine = owner[start:stop] == image
            pixels[mine] = maps[image].squares(squares[start:stop][mine], size)
        results = net(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32))
        for output, result in zip(outputs, results, strict=True):
            output[start:stop] = result
    ends = np.cumsum([len(c.boxes) for c in candidates])[:-1]
    parts = [np.split(output, ends) for output in outputs]
    return [[part[i] for part in parts] for i in range(len(maps))]


def _vote(boxes: Boxes, scores: NDArray[np.float32], kept: NDArray[np.intp], overlap: float) -> Boxes:
    """Each kept box as the mean, weighted by score, of the boxes that overlap it (Gidaris & Komodakis 2015)."""
    weights = np.where(iou(boxes[kept], boxes) >= overlap, scores[None], 0)
    return np.asarray(weights @ boxes / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9), np.float32)
