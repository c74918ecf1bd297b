"""Training samples for the cascade: augmented patches for P-Net, augmented windows for R-Net and O-Net.

Each sample is cropped from the photo in one resampling (scale, rotation, mirror), then its colours and quality change.
A face of any size is shown at the size that the net searches for. So a net learns from all faces; large faces also
teach how small ones look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from common.annotations.source import EdgeTrust
from common.boxes import Boxes, as_boxes
from common.images import Pixels
from stage1_faces.cascade_config import MIN_LEVEL_FACE
from stage1_faces.detector import FLIPPED_LANDMARKS, PNET_ANCHOR, STRIDE
from stage1_faces.roi_crop import GREY, Mipmaps

Affine = NDArray[np.float64]  # (2, 3): from a sample's pixels to the photo's
Rng = np.random.Generator

PATCH_SIZE = 160  # px, side of P-Net's patches
CELLS = PATCH_SIZE // STRIDE  # per side of a patch
CELL_PLACES = np.arange(CELLS) * STRIDE + 0.5  # px, centres of the cells along a side
CELL_CENTRES = np.stack(np.meshgrid(CELL_PLACES, CELL_PLACES), axis=-1)  # (CELLS, CELLS, 2) x, y
# Face sizes, sqrt(area) in px of a patch, that are P-Net's positives. Other sizes up to the last are ignored.
POSITIVE_SIZES = (0.88 * MIN_LEVEL_FACE, 2.28 * MIN_LEVEL_FACE)
MAX_IGNORED_SIZE = 3 * MIN_LEVEL_FACE
MIN_VISIBLE_SHARE = 0.5  # a face of which this or less is in the patch is ignored, too
MAX_ZOOM = 2.0  # no photo is enlarged more
# Augmentations of patches and windows. Faces are tilted little in photos.
PATCH_TILT, WINDOW_TILT = 6.0, 3.5  # degrees, standard deviation
PATCH_STRETCH, WINDOW_STRETCH = 0.06, 0.03  # standard deviation of the aspect ratio's logarithm
PATCH_CUT_PROB, WINDOW_CUT_PROB = 0.25, 0.15
WINDOW_SHRINK_PROB = 0.2
LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class PhotometricRanges:
    """Range and probability (`*_p`) of each change of a sample's colours and sharpness; chosen by hand, not tuned.

    EXPERIMENTS.md, 2026-11-30, has what dim light and colour casts bring.
    """

    light_p: float = 0.7  # of contrast, tint, saturation and brightness together
    contrast: tuple[float, float] = (0.65, 1.4)  # factor of all channels
    dim_p: float = 0.3  # of these changes: the factor is of the next range, drawn by its logarithm
    dim: tuple[float, float] = (0.15, 0.65)
    dark_p: float = 0.5  # of the dim ones: black stays black; the others are anything from dark to hazy
    tint: tuple[float, float] = (0.93, 1.07)  # factor of each channel
    cast_p: float = 0.25  # of these changes: the factors are of the next range, as in coloured light
    cast: tuple[float, float] = (0.4, 1.2)
    colour_p: float = 0.8  # of these; the others are grey
    saturation: tuple[float, float] = (0.4, 1.4)  # factor
    brightness: float = 30.0  # +-, of 255
    low_resolution_p: float = 0.2
    low_resolution: tuple[float, float] = (0.35, 0.9)  # factor of the side
    blur_p: float = 0.15  # of the samples without low resolution
    blur_sigma: tuple[float, float] = (0.4, 1.3)  # px
    noise_p: float = 0.2
    noise_std: tuple[float, float] = (2.0, 12.0)  # of 255
    jpeg_p: float = 0.25
    jpeg_quality: tuple[int, int] = (25, 90)  # the second is never reached


PHOTOMETRIC = PhotometricRanges()


@dataclass(frozen=True)
class TrainingPhoto:
    """A training photo with its faces."""

    maps: Mipmaps
    boxes: Boxes  # (N, 4) xyxy, pixels
    labels: tuple[str, ...]
    landmarks: NDArray[np.float32]  # (N, 5, 2) pixels; nan where unknown
    complete: bool = True  # False: a face may lack its box, so that nothing in the photo is known to be background
    # What follows is only for photos of several sources (common.sources).
    source: str = ""  # name of the photo's source
    main: bool = True  # of the main source
    edges: EdgeTrust = "same"  # how the edges of the boxes are learned
    face_free: bool = False  # of a source of photos without any face
    source_incomplete: bool = False  # not complete, but only because its source does not box every face
    ignored: Boxes = field(default_factory=lambda: as_boxes(()))  # (K, 4) xyxy: neither face nor background
    class_known: NDArray[np.bool_] | None = None  # (N,) False: only a face; None: all classes are known
    # How much more often the source's faces are drawn; of a face-free photo, its share of the patches from anywhere.
    source_factor: float = 1.0
    face_factors: NDArray[np.float64] | None = None  # (N,) how much more often each face is drawn; None: alike

    @property
    def known_labels(self) -> tuple[str, ...]:
        """Return the classes of the faces whose class is known."""
        known = np.ones(len(self.labels), bool) if self.class_known is None else self.class_known
        return tuple(label for label, trusted in zip(self.labels, known, strict=True) if trusted)


def affine(
    centre: NDArray[np.floating] | Sequence[float], step: float, degrees: float, stretch: float, mirror: bool, side: int
) -> Affine:
    """Return a view of a photo, (2, 3) from the view's pixels to the photo's.

    Args:
        centre: the photo's point (x, y) in the middle of the view.
        step: photo pixels per pixel of the view.
        degrees: rotation.
        stretch: photo pixels per pixel across, divided by those down; `step` is their geometric mean.
        mirror: whether left and right change places.
        side: of the view, in px.
    """
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    scale = np.diag([step * math.sqrt(stretch) * (-1 if mirror else 1), step / math.sqrt(stretch)])
    linear = np.array([[c, -s], [s, c]]) @ scale
    return np.concatenate([linear, (np.asarray(centre) - linear @ [side / 2, side / 2])[:, None]], axis=1)


def transform_boxes(boxes: Boxes, view: Affine) -> Boxes:
    """Return the photo's boxes (N, 4) in a view: centres move, sides scale (a slightly tilted face keeps its sides)."""
    centre = transform_points((boxes[:, :2] + boxes[:, 2:]) / 2, view)
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 / np.hypot(view[0, :2], view[1, :2])
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def transform_points(points: NDArray[np.floating], view: Affine) -> NDArray[np.float64]:
    """Return the photo's points (..., 2) in a view."""
    return (points - view[:, 2]) @ np.linalg.inv(view[:, :2]).T


def photometric_augment(image: Pixels, rng: Rng) -> Pixels:
    """Change light, contrast, tint and saturation; then add low resolution or blur, noise, JPEG.

    Args:
        image: uint8 (H, W, 3) RGB.
        rng: of the draws.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    ranges, (height, width) = PHOTOMETRIC, image.shape[:2]
    if rng.random() < ranges.light_p:
        is_dim, is_dark, is_cast = rng.random(3) < (ranges.dim_p, ranges.dark_p, ranges.cast_p)
        contrast = math.exp(rng.uniform(*np.log(ranges.dim))) if is_dim else rng.uniform(*ranges.contrast)
        gain = contrast * rng.uniform(*(ranges.cast if is_cast else ranges.tint), 3)
        saturation = rng.uniform(*ranges.saturation) if rng.random() < ranges.colour_p else 0.0
        matrix = gain[:, None] * (saturation * np.eye(3) + (1 - saturation) * LUMA_WEIGHTS)
        brightness = ranges.brightness * min(contrast, 1.0)  # more would leave nothing of a dark sample
        lift = 0.0 if is_dim and is_dark else rng.uniform(0, 1)
        offset = rng.uniform(-brightness, brightness) + GREY * (1 - gain.mean()) * lift
        image = np.asarray(cv2.transform(image, np.hstack([matrix, np.full((3, 1), offset)])), np.uint8)
    if rng.random() < ranges.low_resolution_p:
        low = rng.uniform(*ranges.low_resolution)
        small = cv2.resize(image, (max(int(width * low), 8), max(int(height * low), 8)), interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    elif rng.random() < ranges.blur_p:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(*ranges.blur_sigma)), np.uint8)
    if rng.random() < ranges.noise_p:
        noise = np.float32(rng.uniform(*ranges.noise_std)) * rng.standard_normal(image.shape, dtype=np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < ranges.jpeg_p:
        # Encoding and decoding keep the channels' order, whichever it is.
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*ranges.jpeg_quality))])
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return image


def cut_edges(image: Pixels, boxes: Boxes, face: NDArray[np.float32], rng: Rng) -> tuple[Pixels, Boxes]:
    """Return the image with some sides grey, as beyond a photo's edge, and the boxes (N, 4) clipped to the rest.

    An edge is near the box `face` (4,), and takes at most a tenth of that box's side.
    """
    grace = 0.1 * (face[2:] - face[:2])
    is_cut = rng.random(4) < 0.5
    reach = rng.random(4) ** 0.7
    size = np.array([image.shape[1], image.shape[0]])
    # The low and high corner (x, y) of what stays visible.
    low = np.where(is_cut[:2], reach[:2] * np.maximum(face[:2], 0) + grace * rng.random(2), 0)
    low = np.clip(np.minimum(low, face[:2] + grace), 0, None).astype(int)
    high = np.where(is_cut[2:], size - reach[2:] * np.maximum(size - face[2:], 0) - grace * rng.random(2), size)
    high = np.ceil(np.clip(np.maximum(high, face[2:] - grace), None, size)).astype(int)
    out = np.full_like(image, GREY)
    out[low[1] : high[1], low[0] : high[0]] = image[low[1] : high[1], low[0] : high[0]]
    return out, np.concatenate([np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high)], axis=1)


def sample_patch(
    photo: TrainingPhoto, face: int | None, rng: Rng
) -> tuple[Pixels, NDArray[np.int8], NDArray[np.float32]]:
    """Return a patch (PATCH_SIZE, PATCH_SIZE, 3) for P-Net, and its objectness and box deltas (`cell_targets`).

    It is near the face of that index, or anywhere at any scale for None. In a photo that is not complete, all cells
    but those of faces are ignored. Where edges are not learned, the box deltas of faces are nan.
    """
    if face is None:
        width, height = photo.maps.size
        step = min(2 ** rng.uniform(-0.6, 4), max(width, height) / 40)
        centre = rng.random(2) * (width, height)
    else:
        box = photo.boxes[face]
        size = math.sqrt(float(np.prod(box[2:] - box[:2])))
        step = max(size / (MIN_LEVEL_FACE * 2 ** rng.uniform(-0.2, 1.2)), 1 / MAX_ZOOM)
        centre = (box[:2] + box[2:]) / 2 + rng.uniform(-0.42, 0.42, 2) * PATCH_SIZE * step
    tilt, stretch = rng.normal(0, PATCH_TILT), math.exp(rng.normal(0, PATCH_STRETCH))
    view = affine(centre, step, tilt, stretch, rng.random() < 0.5, PATCH_SIZE)
    image = photometric_augment(photo.maps.warp_crop(view, PATCH_SIZE), rng)
    whole = boxes = transform_boxes(photo.boxes, view)
    if face is not None and rng.random() < PATCH_CUT_PROB:
        image, boxes = cut_edges(image, boxes, boxes[face], rng)
    objectness, box_deltas = cell_targets(boxes, whole, transform_boxes(photo.ignored, view))
    if photo.edges == "none":
        box_deltas[objectness == 1] = np.nan
    if not photo.complete:
        objectness[objectness == 0] = -1
    return image, objectness, box_deltas


def cell_targets(
    boxes: Boxes, whole: Boxes, ignored: Boxes | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return P-Net's targets: objectness (h, w), 1 face, 0 background, -1 ignore; and box deltas (h, w, 4) where 1.

    Where faces overlap, a cell belongs to the smaller one.

    Args:
        boxes: (N, 4) faces in patch pixels, clipped to the patch.
        whole: (N, 4) the same boxes before clipping.
        ignored: (K, 4) boxes in patch pixels. Their cells are ignored, except for those of a face.
    """
    objectness = np.zeros((CELLS, CELLS), np.int8)
    for box in as_boxes(() if ignored is None else ignored):
        objectness[_over(box)[0]] = -1
    box_deltas = np.zeros((CELLS, CELLS, 4), np.float32)
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    visible = areas / np.prod(whole[:, 2:] - whole[:, :2], axis=1) if len(boxes) else areas
    for k in np.argsort(-areas):
        size = math.sqrt(areas[k])
        if not 0 < size <= MAX_IGNORED_SIZE:
            continue
        centre, sides = (boxes[k, :2] + boxes[k, 2:]) / 2, boxes[k, 2:] - boxes[k, :2]
        over, distance = _over(boxes[k])
        objectness[over & (objectness != 1)] = -1
        if POSITIVE_SIZES[0] <= size <= POSITIVE_SIZES[1] and visible[k] > MIN_VISIBLE_SHARE:
            # The face's middle: at least the cells that the middle is between.
            reach = np.maximum(0.3 * sides, STRIDE / 2 + 0.01, dtype=np.float64)
            middle = (distance < reach).all(axis=-1)
            objectness[middle] = 1
            box_deltas[middle, :2] = (centre - CELL_CENTRES[middle]) / PNET_ANCHOR
            box_deltas[middle, 2:] = np.log(sides / PNET_ANCHOR)
    return objectness, box_deltas


def _over(box: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which cells (h, w) are over a box (4,) in patch pixels, and their distance (h, w, 2) from its centre."""
    centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    distance = np.abs(CELL_CENTRES - centre)
    return np.asarray((distance < sides / 2 + 1).all(axis=-1)), np.asarray(distance, np.float64)


def sample_window(
    photo: TrainingPhoto, anchor: NDArray[np.float32], face: int | None, context: float, side: int, rng: Rng
) -> tuple[Pixels, NDArray[np.float32], NDArray[np.float32]]:
    """Return a window (side, side, 3) for R-Net or O-Net, and the box deltas (4,) and landmarks (5, 2) of its face.

    Landmarks are in anchor units. Unknown targets are nan, as are box deltas of edges not learned.

    Args:
        photo: the photo.
        anchor: (3,) of the proposal that the window is around.
        face: index of the face; None: background.
        context: the window's side / anchor unit.
        side: px, side of the window.
        rng: draws the window's place and the changes of its pixels.
    """
    anchor = anchor.astype(np.float64)
    centre = anchor[:2] + rng.normal(0, 0.05, 2) * anchor[2]
    unit = anchor[2] * math.exp(rng.normal(0, 0.1))
    mirror = rng.random() < 0.5
    tilt, stretch = rng.normal(0, WINDOW_TILT), math.exp(rng.normal(0, WINDOW_STRETCH))
    view = affine(centre, unit * context / side, tilt, stretch, mirror, side)
    scale = side / context  # px of the window per anchor unit
    image = photometric_augment(_crop_window(photo, view, unit, scale, side, rng), rng)
    box_deltas = np.full(4, np.nan, np.float32)
    points = np.full((5, 2), np.nan, np.float32)
    if face is not None:
        box = transform_boxes(photo.boxes[face][None], view)
        if rng.random() < WINDOW_CUT_PROB:
            image, box = cut_edges(image, box, box[0], rng)
        if photo.edges != "none":
            box_deltas[:2] = ((box[0, :2] + box[0, 2:]) / 2 - side / 2) / scale
            box_deltas[2:] = np.log(np.maximum(box[0, 2:] - box[0, :2], 0.5) / scale)
        points = ((transform_points(photo.landmarks[face], view) - side / 2) / scale).astype(np.float32)
        if mirror:
            points = points[FLIPPED_LANDMARKS]
    return image, box_deltas, points


def _crop_window(photo: TrainingPhoto, view: Affine, unit: float, scale: float, side: int, rng: Rng) -> Pixels:
    """Return the view, sometimes at the resolution of a smaller face of 8 px or more, enlarged again."""
    if unit > 2 * MIN_LEVEL_FACE and rng.random() < WINDOW_SHRINK_PROB:
        low = math.exp(rng.uniform(math.log(MIN_LEVEL_FACE), math.log(min(unit, scale))))
        small = max(round(side * low / scale), 8)
        if small < side:
            coarse = view.copy()
            coarse[:, :2] *= side / small
            crop = photo.maps.warp_crop(coarse, small)
            return np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
    return photo.maps.warp_crop(view, side)
