"""Training samples for the cascade: augmented patches for P-Net, augmented windows for R-Net and O-Net.

Each is cut from the photo in one resampling (scale, turn, mirror), then recoloured and degraded. Whatever a face's size
in its photo, it is shown at the size that the net looks for: so a net learns from all faces, and from large ones also
how small ones look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes
from stage1_faces.detector import CELL, MIRRORED_POINTS, REFERENCE, STRIDE
from stage1_faces.faces import Pixels
from stage1_faces.roi_crop import GREY, Mipmaps

Affine = NDArray[np.float64]  # (2, 3): from a sample's pixels to the photo's
Rng = np.random.Generator

PATCH = 160  # px a side of P-Net's patches
# Face sizes, sqrt(area) in px of a patch, that P-Net learns to find; around this range it is not told either way.
LEARNED = (0.88 * CELL, 2.28 * CELL)
IGNORED_TO = 3 * CELL
LARGEST_ZOOM = 2.0  # no photo is enlarged more
# Shares of the augmentations (probabilities) and their ranges; faces are tilted little in photos.
TILT_P, TILT_O = 6.0, 3.5  # degrees, standard deviation
STRETCH_P, STRETCH_O = 0.06, 0.03  # of the aspect ratio's logarithm
CUT_P, CUT_O = 0.25, 0.15
SHRINK_O = 0.2
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class TrainingPhoto:
    """A training photo: boxes (N, 4), labels and landmarks (N, 5, 2; nan where unknown) of its faces, in pixels."""

    maps: Mipmaps
    boxes: Boxes
    labels: tuple[str, ...]
    landmarks: NDArray[np.float32]


def affine(
    centre: NDArray[np.floating] | Sequence[float], step: float, degrees: float, stretch: float, mirror: bool, side: int
) -> Affine:
    """The view of a photo whose middle (side / 2) is at `centre`, with `step` photo pixels a pixel."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    scale = np.diag([step * math.sqrt(stretch) * (-1 if mirror else 1), step / math.sqrt(stretch)])
    turn = np.array([[c, -s], [s, c]]) @ scale
    return np.concatenate([turn, (np.asarray(centre) - turn @ [side / 2, side / 2])[:, None]], axis=1)


def see_boxes(boxes: Boxes, view: Affine) -> Boxes:
    """Boxes (N, 4) of the photo in a view: centres move, sides scale (a face tilted a little keeps its sides)."""
    centre = see_points((boxes[:, :2] + boxes[:, 2:]) / 2, view)
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 / np.hypot(view[0, :2], view[1, :2])
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)


def see_points(points: NDArray[np.floating], view: Affine) -> NDArray[np.float64]:
    """Points (..., 2) of the photo in a view."""
    return (points - view[:, 2]) @ np.linalg.inv(view[:, :2]).T


def recolour(image: Pixels, rng: Rng) -> Pixels:
    """Light, contrast, tint, saturation; low resolution or blur; noise; JPEG."""
    height, width = image.shape[:2]
    if rng.random() < 0.7:
        gain = rng.uniform(0.65, 1.4) * rng.uniform(0.93, 1.07, 3)
        saturation = rng.uniform(0.4, 1.4) if rng.random() < 0.8 else 0.0
        matrix = gain[:, None] * (saturation * np.eye(3) + (1 - saturation) * LUMA)
        offset = rng.uniform(-30, 30) + GREY * (1 - gain.mean()) * rng.uniform(0, 1)
        image = np.asarray(cv2.transform(image, np.hstack([matrix, np.full((3, 1), offset)])), np.uint8)
    if rng.random() < 0.2:
        low = rng.uniform(0.35, 0.9)
        small = cv2.resize(image, (max(int(width * low), 8), max(int(height * low), 8)), interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    elif rng.random() < 0.15:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3)), np.uint8)
    if rng.random() < 0.2:
        noise = np.float32(rng.uniform(2, 12)) * rng.standard_normal(image.shape, dtype=np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        # The channels' order does not matter: they come back as they went.
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return image


def cut_edges(image: Pixels, boxes: Boxes, kept: NDArray[np.float32], rng: Rng) -> tuple[Pixels, Boxes]:
    """Greys some sides up to somewhere near the face `kept`, as a photo's edge would; boxes are cut likewise.

    The new edge takes at most a tenth of that face's side.
    """
    height, width = image.shape[:2]
    grace = 0.1 * (kept[2:] - kept[:2])
    edge = rng.random(4) < 0.5
    reach = rng.random(4) ** 0.7
    low = np.where(edge[:2], reach[:2] * np.maximum(kept[:2], 0) + grace * rng.random(2), 0)
    low = np.clip(np.minimum(low, kept[:2] + grace), 0, None).astype(int)
    whole = np.array([width, height])
    high = np.where(edge[2:], whole - reach[2:] * np.maximum(whole - kept[2:], 0) - grace * rng.random(2), whole)
    high = np.ceil(np.clip(np.maximum(high, kept[2:] - grace), None, whole)).astype(int)
    out = np.full_like(image, GREY)
    out[low[1] : high[1], low[0] : high[0]] = image[low[1] : high[1], low[0] : high[0]]
    return out, np.concatenate([np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high)], axis=1)


def patch(photo: TrainingPhoto, face: int | None, rng: Rng) -> tuple[Pixels, NDArray[np.int8], NDArray[np.float32]]:
    """A patch for P-Net around a face of the photo, or anywhere at any scale: (PATCH, PATCH, 3) and `cell_targets`."""
    if face is None:
        width, height = photo.maps.size
        step = min(2 ** rng.uniform(-0.6, 4), max(width, height) / 40)
        centre = rng.random(2) * (width, height)
    else:
        box = photo.boxes[face]
        size = math.sqrt(float(np.prod(box[2:] - box[:2])))
        step = max(size / (CELL * 2 ** rng.uniform(-0.2, 1.2)), 1 / LARGEST_ZOOM)
        centre = (box[:2] + box[2:]) / 2 + rng.uniform(-0.42, 0.42, 2) * PATCH * step
    view = affine(centre, step, rng.normal(0, TILT_P), math.exp(rng.normal(0, STRETCH_P)), rng.random() < 0.5, PATCH)
    image = recolour(photo.maps.cut(view, PATCH), rng)
    whole = boxes = see_boxes(photo.boxes, view)
    if face is not None and rng.random() < CUT_P:
        image, boxes = cut_edges(image, boxes, boxes[face], rng)
    return image, *cell_targets(boxes, whole)


def cell_targets(boxes: Boxes, whole: Boxes) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """What P-Net should say: (h, w) 1 face, 0 none, -1 not told; (h, w, 4) box numbers where 1.

    boxes: faces in pixels of the patch, cut by its edges; whole: the same faces uncut. Where faces overlap, a cell
    belongs to the smaller one.
    """
    cells = PATCH // STRIDE
    at = np.arange(cells) * STRIDE + 0.5
    told = np.zeros((cells, cells), np.int8)
    numbers = np.zeros((cells, cells, 4), np.float32)
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    share = areas / np.prod(whole[:, 2:] - whole[:, :2], axis=1) if len(boxes) else areas
    for k in np.argsort(-areas):
        size = math.sqrt(areas[k])
        if not 0 < size <= IGNORED_TO:
            continue
        x1, y1, x2, y2 = boxes[k]
        width, height, x, y = x2 - x1, y2 - y1, (x1 + x2) / 2, (y1 + y2) / 2
        right, down = np.abs(at - x), np.abs(at - y)
        around = (down < height / 2 + 1)[:, None] & (right < width / 2 + 1)
        told[around & (told != 1)] = -1
        if LEARNED[0] <= size <= LEARNED[1] and share[k] > 0.5:
            # The face's middle: at least the cells that the middle lies between.
            near = STRIDE / 2 + 0.01
            middle = (down < max(0.3 * height, near))[:, None] & (right < max(0.3 * width, near))
            rows, columns = np.nonzero(middle)
            told[rows, columns] = 1
            numbers[rows, columns, 0] = (x - at[columns]) / REFERENCE
            numbers[rows, columns, 1] = (y - at[rows]) / REFERENCE
            numbers[rows, columns, 2:] = np.log(np.array([width, height]) / REFERENCE)
    return told, numbers


def window(
    photo: TrainingPhoto, frame: NDArray[np.float32], face: int | None, context: float, side: int, rng: Rng
) -> tuple[Pixels, NDArray[np.float32], NDArray[np.float32]]:
    """A window for R- or O-Net on a candidate's frame (centre x, y and unit), and what the net should say.

    Gives (side, side, 3), box numbers (4,) and landmarks (5, 2) of the face, nan where there is none or it is unknown.
    """
    frame = frame.astype(np.float64)
    centre = frame[:2] + rng.normal(0, 0.05, 2) * frame[2]
    unit = frame[2] * math.exp(rng.normal(0, 0.1))
    mirror = rng.random() < 0.5
    view = affine(
        centre, unit * context / side, rng.normal(0, TILT_O), math.exp(rng.normal(0, STRETCH_O)), mirror, side
    )
    inside = side / context  # px of the window that the unit takes
    image = recolour(_shrunk(photo, view, unit, inside, side, rng), rng)
    numbers = np.full(4, np.nan, np.float32)
    points = np.full((5, 2), np.nan, np.float32)
    if face is not None:
        box = see_boxes(photo.boxes[face][None], view)
        if rng.random() < CUT_O:
            image, box = cut_edges(image, box, box[0], rng)
        numbers[:2] = ((box[0, :2] + box[0, 2:]) / 2 - side / 2) / inside
        numbers[2:] = np.log(np.maximum(box[0, 2:] - box[0, :2], 0.5) / inside)
        points = ((see_points(photo.landmarks[face], view) - side / 2) / inside).astype(np.float32)
        if mirror:
            points = points[MIRRORED_POINTS]
    return image, numbers, points


def _shrunk(photo: TrainingPhoto, view: Affine, unit: float, inside: float, side: int, rng: Rng) -> Pixels:
    """The view; now and then at the resolution of a smaller face of 8 px or more, enlarged again."""
    if unit > 2 * CELL and rng.random() < SHRINK_O:
        low = math.exp(rng.uniform(math.log(CELL), math.log(min(unit, inside))))
        small = max(round(side * low / inside), 8)
        if small < side:
            coarse = view.copy()
            coarse[:, :2] *= side / small
            enlarged = cv2.resize(photo.maps.cut(coarse, small), (side, side), interpolation=cv2.INTER_LINEAR)
            return np.asarray(enlarged, np.uint8)
    return photo.maps.cut(view, side)
