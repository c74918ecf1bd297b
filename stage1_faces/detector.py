"""FaceDetector: the fine-tuned cascade, batched over images of mixed sizes, on any runtime (numpy in, numpy out).

The three steps are MTCNN's (Zhang et al. 2016): P-Net proposes boxes over an image pyramid, R-Net refines them, O-Net
scores them and places five landmarks. The nets differ (stage1_faces.training.nets). P-Net and R-Net read a wide view:
half of the faces are under 24 px, where context helps as much as the face. O-Net runs twice; the second pass
reads the boxes of the first and their mirror images, unless `second_look` is off. The weighted face logits of the
three nets make the score.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, area, clip, nms, soft_nms
from common.images import Pixels
from stage1_faces.anchors import box_anchors, decode, stack_anchors
from stage1_faces.cascade import NetSpec, run_on_windows
from stage1_faces.cascade_config import MIN_LEVEL_FACE, CascadeConfig
from stage1_faces.face_logits import log_odds, min_logit, sigmoid
from stage1_faces.faces import Detector, Faces, Net
from stage1_faces.proposals import Proposals, top_proposals, vote_boxes
from stage1_faces.pyramid import PyramidLevel, build_pyramid
from stage1_faces.roi_crop import Mipmaps

# The nets, of float32 (N, 3, H, W) pixels of 0..255:
#   P-Net (sides multiples of PNET_MULTIPLE): face probability (N, H/4, W/4), box deltas (N, 4, H/4, W/4);
#   R-Net (32x32): face probability (N,), box deltas (N, 4);
#   O-Net (48x48): face probability (N,), box deltas (N, 4), landmarks (N, 5, 2) from the centre, in anchor units.
# The anchor unit of P-Net is PNET_ANCHOR pixels, that of the others the longer side of the proposed box.

PNET_ANCHOR = MIN_LEVEL_FACE * 2**0.5
STRIDE = 4  # px between P-Net's cells
R_SIZE, O_SIZE = 32, 48
R_CONTEXT, O_CONTEXT = 2.0, 1.2  # side of a net's window / longer side of the proposed box
# Weights of the nets' face logits in the score: P-Net, R-Net, O-Net's first and second pass. Chosen on validation
# photos among a handful (EXPERIMENTS.md).
PNET_WEIGHT, RNET_WEIGHT, ONET_WEIGHT, ONET2_WEIGHT = 0.125, 0.125, 0.25, 0.5
# How much, in calibrated log odds, O-Net's second pass can raise a box. A box that lacks more to the smallest wanted
# score is skipped. That loses one in 598 of the faces found on validation photos at a score of 0.1, and none at 0.2
# or 0.38 (EXPERIMENTS.md).
MAX_ONET2_GAIN = 2.5
ONET2_BOX_WEIGHT = 2 / 3  # share of the second pass in the final box
# Bounds on one call, so that a net's memory depends neither on the photo's size nor on the number of windows.
MAX_TILE = 512  # px, side of P-Net's input: 10 MB less than 1024, for 1.5% more time
TILE_MARGIN = 40  # px: more than half of P-Net's receptive field (63 px), so that tiles give the cells of the whole
R_BATCH, O_BATCH = 64, 16  # 32 for O-Net: as quick, 10 MB more
FLIPPED_LANDMARKS = [1, 0, 2, 4, 3]  # the landmark that each becomes in a mirror image

RNET = NetSpec(R_SIZE, R_CONTEXT, R_BATCH, ((), (4,)))
ONET = NetSpec(O_SIZE, O_CONTEXT, O_BATCH, ((), (4,), (5, 2)))


class FaceDetector(Detector):
    """The cascade. It holds no runtime: the three nets are plain functions, so ONNX and torch both fit."""

    def __init__(self, pnet: Net, rnet: Net, onet: Net, config: CascadeConfig | None = None) -> None:
        """Join three nets, each from float32 pixels (N, 3, h, w) in 0..255 to its outputs.

        Args:
            pnet: gives probabilities (N, rows, columns) and box deltas (N, 4, rows, columns), one cell per 4 px.
            rnet: gives probabilities (N,) and box deltas (N, 4) for windows of R_SIZE px.
            onet: gives probabilities (N,), box deltas (N, 4) and landmarks (N, 5, 2) for windows of O_SIZE px.
            config: thresholds and limits of the search; the defaults when None.
        """
        self.config = config or CascadeConfig()
        self._pnet, self._rnet, self._onet = pnet, rnet, onet

    def _search(self, images: Sequence[Pixels], min_face: float | None, min_score: float | None) -> list[Faces]:
        config = self.config
        if min_face is not None:
            config = replace(config, min_face=min_face, max_side=np.inf)
        if min_score is not None:
            config = replace(config, score_threshold=min_score)
        maps = [Mipmaps(image) for image in images]
        proposals = self.run_rnet(maps, self.run_pnet(maps, config), config)
        return self.run_onet(maps, proposals, config)

    def run_pnet(self, maps: Sequence[Mipmaps], config: CascadeConfig | None = None) -> list[Proposals]:
        """Return P-Net's proposals over each image's pyramid: boxes in pixels of the image, best first."""
        config = config or self.config
        # Levels of equal shape, from any of the images, go through the net together.
        by_shape: dict[tuple[int, ...], list[PyramidLevel]] = {}
        for i, photo in enumerate(maps):
            for level in build_pyramid(i, photo, config):
                by_shape.setdefault(level.picture.shape, []).append(level)
        found: list[list[Proposals]] = [[] for _ in maps]
        for shape, levels in by_shape.items():
            per_call = max(MAX_TILE**2 // (shape[0] * shape[1]), 1)
            for start in range(0, len(levels), per_call):
                chunk = levels[start : start + per_call]
                for image, proposals in self._propose(chunk, config.pnet_threshold):
                    found[image].append(proposals)
        return [
            top_proposals(Proposals.concatenated(parts), photo.size, config.nms_pnet, config.max_pnet)
            for photo, parts in zip(maps, found, strict=True)
        ]

    def _propose(self, levels: Sequence[PyramidLevel], threshold: float) -> Iterable[tuple[int, Proposals]]:
        """Yield image index and proposals of each level of one shape, tile by tile."""
        for row, column, probability, box_deltas in self._pnet_cells(levels):
            for k, level in enumerate(levels):
                rows, columns = np.nonzero(probability[k] >= threshold)
                centres = np.stack([columns + column, rows + row], axis=1) * STRIDE + 0.5
                boxes = decode(stack_anchors(centres, PNET_ANCHOR), box_deltas[k][:, rows, columns].T)
                scores = probability[k][rows, columns]
                yield level.image, Proposals(boxes * np.tile(level.step, 2), scores, PNET_WEIGHT * log_odds(scores))

    def _pnet_cells(
        self, levels: Sequence[PyramidLevel]
    ) -> Iterable[tuple[int, int, NDArray[np.float32], NDArray[np.float32]]]:
        """Yield first row and column, probabilities and box deltas of each tile of levels of one shape."""
        pixels = np.stack([level.picture for level in levels]).transpose(0, 3, 1, 2)
        height, width = pixels.shape[2:]
        for top in range(0, height, MAX_TILE):
            for left in range(0, width, MAX_TILE):
                # A tile reads a margin around it, and gives its inner cells only.
                y, x = max(top - TILE_MARGIN, 0), max(left - TILE_MARGIN, 0)
                tile = pixels[:, :, y : top + MAX_TILE + TILE_MARGIN, x : left + MAX_TILE + TILE_MARGIN]
                probability, box_deltas = self._pnet(np.ascontiguousarray(tile, np.float32))
                inner = (
                    slice((top - y) // STRIDE, (top - y + MAX_TILE) // STRIDE),
                    slice((left - x) // STRIDE, (left - x + MAX_TILE) // STRIDE),
                )
                yield top // STRIDE, left // STRIDE, probability[:, *inner], box_deltas[:, :, *inner]

    def run_rnet(
        self, maps: Sequence[Mipmaps], proposals: Sequence[Proposals], config: CascadeConfig | None = None
    ) -> list[Proposals]:
        """Return what R-Net makes of the proposals: fewer, better boxes per image."""
        config = config or self.config
        outputs = _run_on_boxes(self._rnet, RNET, maps, proposals)
        refined = []
        for photo, before, (scores, box_deltas) in zip(maps, proposals, outputs, strict=True):
            logits = before.face_logits + RNET_WEIGHT * log_odds(scores)
            probability = sigmoid(logits / (PNET_WEIGHT + RNET_WEIGHT))
            after = Proposals(decode(box_anchors(before.boxes), box_deltas), probability, logits)
            after = after[probability >= config.rnet_threshold]
            refined.append(top_proposals(after, photo.size, config.nms_rnet, config.max_rnet))
        return refined

    def run_onet(
        self, maps: Sequence[Mipmaps], proposals: Sequence[Proposals], config: CascadeConfig | None = None
    ) -> list[Faces]:
        """Return each image's faces: O-Net on the proposals, then again on its own boxes and their mirror images.

        Without `second_look`, O-Net runs once.
        """
        config = config or self.config
        outputs = _run_on_boxes(self._onet, ONET, maps, proposals)
        found = list(zip(maps, proposals, outputs, strict=True))
        if not config.second_look:
            return [_onet_only_pass(photo.size, before, output, config) for photo, before, output in found]
        proposals = [_onet_first_pass(photo.size, before, output, config)[0] for photo, before, output in found]
        outputs = _run_on_boxes(with_flip_tta(self._onet), ONET, maps, proposals)
        return [
            _onet_second_pass(photo.size, before, output, config)
            for photo, before, output in zip(maps, proposals, outputs, strict=True)
        ]


def _onet_first_pass(
    size: tuple[int, int], before: Proposals, output: Sequence[NDArray[np.float32]], config: CascadeConfig
) -> tuple[Proposals, NDArray[np.intp]]:
    """Return one image's boxes for O-Net's second pass, and the row of `before` of each."""
    scores, box_deltas, _ = output
    logits = before.face_logits + ONET_WEIGHT * log_odds(scores)
    probability = sigmoid(logits / (PNET_WEIGHT + RNET_WEIGHT + ONET_WEIGHT))
    after = Proposals(clip(decode(box_anchors(before.boxes), box_deltas), size), probability, logits)
    (rows,) = np.nonzero((probability >= config.onet2_threshold) & (area(after.boxes) > 0))
    after = after[rows]
    kept = nms(after.boxes, after.scores, config.nms_onet)[: config.max_onet2]
    # The score so far, as if the second pass agreed with it.
    expected = config.slope * log_odds(after.scores[kept]) + config.intercept
    kept = kept[expected >= min_logit(config.score_threshold) - MAX_ONET2_GAIN]
    voted = clip(vote_boxes(after.boxes, after.scores, kept, config.box_voting_iou), size)
    return Proposals(voted, after.scores[kept], after.face_logits[kept]), rows[kept]


def _onet_only_pass(
    size: tuple[int, int], before: Proposals, output: Sequence[NDArray[np.float32]], config: CascadeConfig
) -> Faces:
    """Return one image's faces where O-Net has no second pass: the score is as if that pass agreed with the first."""
    found, rows = _onet_first_pass(size, before, output, config)
    anchors = box_anchors(before.boxes[rows])
    landmarks = anchors[:, None, :2] + output[2][rows] * anchors[:, None, 2:]
    return _best_faces(
        found.boxes, sigmoid(config.slope * log_odds(found.scores) + config.intercept), landmarks, config
    )


def _onet_second_pass(
    size: tuple[int, int], before: Proposals, output: Sequence[NDArray[np.float32]], config: CascadeConfig
) -> Faces:
    """Return one image's faces from O-Net's second pass."""
    scores, box_deltas, points = output
    anchors = box_anchors(before.boxes)
    boxes = clip(ONET2_BOX_WEIGHT * decode(anchors, box_deltas) + (1 - ONET2_BOX_WEIGHT) * before.boxes, size)
    logits = before.face_logits + ONET2_WEIGHT * log_odds(scores)
    probability = sigmoid(config.slope * logits + config.intercept)
    landmarks = anchors[:, None, :2] + points * anchors[:, None, 2:]
    return _best_faces(boxes, probability, landmarks, config)


def _best_faces(
    boxes: Boxes, probability: NDArray[np.float32], landmarks: NDArray[np.float32], config: CascadeConfig
) -> Faces:
    """Return the boxes from the wanted score on as faces, after NMS and soft NMS."""
    passed = np.nonzero((probability >= config.score_threshold) & (area(boxes) > 0))[0]
    kept = passed[nms(boxes[passed], probability[passed], config.nms_onet)]
    order, probability = soft_nms(boxes[kept], probability[kept], config.soft_nms_sigma)
    survived = probability >= config.score_threshold
    kept = kept[order[survived]]
    return Faces(boxes[kept], probability[survived], landmarks[kept].astype(np.float32))


def with_flip_tta(net: Net) -> Net:
    """Return O-Net with its outputs averaged over each window and its mirror image."""

    def averaged(pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        scores, box_deltas, points = net(pixels)
        flipped_scores, flipped_deltas, flipped_points = net(np.ascontiguousarray(pixels[..., ::-1]))
        flipped_deltas = flipped_deltas * np.array([-1, 1, 1, 1], np.float32)
        flipped_points = flipped_points[:, FLIPPED_LANDMARKS] * np.array([-1, 1], np.float32)
        logits = (log_odds(scores) + log_odds(flipped_scores)) / 2
        means = [(box_deltas + flipped_deltas) / 2, (points + flipped_points) / 2]
        return [sigmoid(logits), *(mean.astype(np.float32) for mean in means)]

    return averaged


def _run_on_boxes(
    net: Net, spec: NetSpec, maps: Sequence[Mipmaps], proposals: Sequence[Proposals]
) -> list[tuple[NDArray[np.float32], ...]]:
    """Return for each image the net's outputs on its boxes with their context."""
    squares = []
    for before in proposals:
        anchors = box_anchors(before.boxes)
        half = anchors[:, 2:] * (spec.context / 2)
        squares.append(np.concatenate([anchors[:, :2] - half, anchors[:, :2] + half], axis=1))
    return run_on_windows(net, spec, squares, lambda image, some: maps[image].crop_boxes(some, spec.size))
