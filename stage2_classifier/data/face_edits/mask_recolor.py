"""Gives the mask of a masked face another colour or a print, with its folds and light; the class stays.

Most masks in photos are white or light blue, so a network learns little of black, red and printed ones.
"""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from stage2_classifier.data.face_edits.canvas import NEUTRAL_SKIN, Grid, blur_and_noise
from stage2_classifier.data.mask_transfer import CHIN, transfer_axes

MaskPrint = Literal["plain", "stripes", "dots", "letters", "patches"]
PRINTS: tuple[MaskPrint, ...] = get_args(MaskPrint)
SHARES = (0.55, 0.13, 0.1, 0.1, 0.12)  # of PRINTS
# RGB in neutral light: black most often, then dark blue, red, grey, green, brown, pink, yellow.
COLOURS = ((26, 26, 28), (36, 36, 40), (20, 20, 24), (30, 38, 70), (22, 30, 54), (150, 28, 36), (110, 20, 32),
           (96, 98, 102), (44, 72, 56), (96, 70, 52), (190, 110, 130), (206, 178, 70), (226, 222, 216),
           (92, 60, 112))  # fmt: skip
MAX_SIDE = 160  # px: larger crops are recoloured by a layer of this size, which is enlarged
TILE = 96  # px: side of a print's tile, which is as wide as half a face
MIN_COVER = 0.35  # least share of the mask's usual place that has the mask's colour


def recolor_mask(
    image: NDArray[np.uint8],
    landmarks: NDArray[np.floating],
    rng: np.random.Generator,
    kind: MaskPrint | None = None,
) -> NDArray[np.uint8] | None:
    """Return a copy of a crop, uint8 (H, W, 3) RGB, whose mask has another colour or a print.

    The mask is where the colour is nearer to that around the mouth than to that of forehead and cheeks. None: the two
    are too alike to tell the mask from the skin.

    Args:
        image: the crop of a face whose mask is over nose and mouth.
        landmarks: (5, 2) pixels of the crop.
        rng: decides the colours.
        kind: the print; None: drawn by SHARES.

    Raises:
        ValueError: the landmarks do not span a face.
    """
    if (found := transfer_axes(landmarks)) is None:
        raise ValueError("the landmarks do not span a face")
    height, width = image.shape[:2]
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = image if scale == 1 else np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    u, v = _face_grid(size, found[0] * scale, found[1] * scale)
    chosen = PRINTS[int(rng.choice(len(PRINTS), p=SHARES))] if kind is None else kind
    print_colours = _print(chosen, u, v, rng)
    if (alpha := _find_mask(small, u, v)) is None:
        return None
    pixels = small.astype(np.float32)
    grey = pixels.mean(axis=2)
    mean = float((grey * alpha).sum() / max(float(alpha.sum()), 1e-6))
    forehead = (np.abs(u) < 0.5) & (v < -0.25) & (v > -0.6)
    exposure = float(np.clip((grey[forehead].mean() if forehead.any() else mean) / NEUTRAL_SKIN, 0.3, 1.25))
    # Folds and shadows stay. A dark cloth still reflects some light, so its folds are weaker.
    folds = np.clip(grey / max(mean, 1.0), 0.35, 1.6) ** rng.uniform(0.7, 1.1)
    cloth = print_colours * folds[..., None] * np.float32(exposure) + 6 * (folds[..., None] - 0.6)
    layer = np.dstack([cloth, alpha]).astype(np.float32)
    layer = np.asarray(cv2.resize(layer, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    if (blur := blur_and_noise(image)[0]) > 0.3:  # a print is as sharp as the crop
        layer[..., :3] = cv2.GaussianBlur(layer[..., :3], (0, 0), blur)
    cover = layer[..., 3:]
    # The grain of the crop stays in the cloth.
    grain = (image.astype(np.float32) - cv2.GaussianBlur(image, (0, 0), 1.0)).mean(axis=2, keepdims=True) * 0.6
    result = image * (1 - cover) + (layer[..., :3] + grain) * cover
    return np.round(np.clip(result, 0, 255)).astype(np.uint8)


def _face_grid(size: tuple[int, int], eyes: NDArray[np.float64], axes: NDArray[np.float64]) -> tuple[Grid, Grid]:
    """Return each pixel's place in the face's axes; `size` is (width, height)."""
    inverse = np.linalg.inv(axes)
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    u = inverse[0, 0] * (x - eyes[0]) + inverse[0, 1] * (y - eyes[1])
    v = inverse[1, 0] * (x - eyes[0]) + inverse[1, 1] * (y - eyes[1])
    return np.asarray(u, np.float32), np.asarray(v, np.float32)


def _find_mask(image: NDArray[np.uint8], u: Grid, v: Grid) -> Grid | None:
    """Return the mask's opacity (H, W); None when its colour cannot be told from the skin's."""
    lab = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), np.float32)
    core = (np.abs(u) < 0.45) & (v > 0.75) & (v < 1.25)
    skin = (np.abs(u) < 0.75) & (v > -0.55) & (v < 0.12)
    if core.sum() < 6 or skin.sum() < 6:
        return None
    middle, spread = np.median(lab[core], axis=0), lab[core].std(axis=0)
    away, away_spread = np.median(lab[skin], axis=0), lab[skin].std(axis=0)
    # Folds change the lightness, so it counts less than the hue.
    weights = np.array([0.5, 1.3, 1.3], np.float32)
    if np.hypot.reduce((middle - away) * weights) < 9:
        return None
    to_mask = (((lab - middle) * weights / np.maximum(spread, 5)) ** 2).sum(axis=2)
    to_skin = (((lab - away) * weights / np.maximum(away_spread, 7)) ** 2).sum(axis=2)
    likely = 1 / (1 + np.exp(-np.clip((to_skin - to_mask) * 0.4 + 0.5, -30, 30)))
    # The usual place of a mask, and what has the mask's colour a little beyond it.
    bottom = CHIN + 0.2 - 0.35 * np.abs(u) ** 3
    inside: Grid = _smooth((v - 0.28) / 0.04) * _smooth((1.18 - np.abs(u)) / 0.05) * _smooth((bottom - v) / 0.06)
    centre = _smooth((v - 0.62) / 0.05) * _smooth((0.6 - np.abs(u)) / 0.08) * _smooth((1.4 - v) / 0.08)
    alpha = np.asarray(inside * np.maximum(likely, centre), np.float32)
    unit = 1 / max(float(np.hypot(*np.gradient(u)).mean()), 1e-3)  # px of half a face
    kernel = np.ones((max(round(unit * 0.12), 1) | 1,) * 2, np.uint8)
    closed = cv2.morphologyEx(alpha, cv2.MORPH_CLOSE, kernel)
    alpha = np.asarray(cv2.morphologyEx(closed, cv2.MORPH_OPEN, kernel), np.float32)
    usual = (np.abs(u) < 0.7) & (v > 0.55) & (v < 1.4)
    if not usual.any() or likely[usual].mean() < MIN_COVER:
        return None
    return np.asarray(np.clip(cv2.GaussianBlur(alpha, (0, 0), max(0.02 * unit, 0.5)), 0, 1), np.float32)


def _smooth(x: NDArray[np.floating]) -> Grid:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))), np.float32)


def _colour(rng: np.random.Generator) -> NDArray[np.float32]:
    colour = np.array(COLOURS[int(rng.integers(len(COLOURS)))], np.float32)
    return np.clip(colour * rng.uniform(0.8, 1.2) + rng.normal(0, 5, 3), 5, 245).astype(np.float32)


def _print(kind: MaskPrint, u: Grid, v: Grid, rng: np.random.Generator) -> Grid:
    """Return the colours (H, W, 3) of a print, bent around the face."""
    ground = _colour(rng)
    if kind == "plain":
        return np.broadcast_to(ground, (*u.shape, 3)).astype(np.float32)
    ink = _colour(rng)
    if np.abs(ink - ground).sum() < 90:
        ink = 255 - ground if rng.random() < 0.5 else np.array([225, 222, 216], np.float32)
    tile = np.zeros((TILE, TILE), np.uint8)
    if kind == "stripes":
        width = int(rng.integers(8, 24))
        for start in range(0, TILE, 2 * width):
            tile[:, start : start + width] = 255
    elif kind == "dots":
        step = int(rng.choice((16, 24, 32)))
        for row, y in enumerate(range(step // 2, TILE, step)):
            for x in range(step // 2 + (row % 2) * step // 2, TILE, step):
                cv2.circle(tile, (x, y), max(int(step * rng.uniform(0.18, 0.34)), 2), 255, -1, cv2.LINE_AA)
    elif kind == "letters":
        word = "".join(rng.choice(list("ABCDEFGHKLMNOPRSTUVXYZ"), int(rng.integers(1, 5))))
        size = float(rng.uniform(0.8, 2.0)) / len(word) ** 0.5
        place = (int(rng.integers(0, 20)), int(rng.integers(TILE // 3, TILE - 8)))
        cv2.putText(tile, word, place, cv2.FONT_HERSHEY_DUPLEX, size, 255, int(rng.integers(2, 6)), cv2.LINE_AA)
    else:
        patches = cv2.resize(
            rng.standard_normal((8, 8)).astype(np.float32), (TILE, TILE), interpolation=cv2.INTER_CUBIC
        )
        tile[patches > rng.uniform(-0.2, 0.5)] = 255
    unit = 1 / max(float(np.hypot(*np.gradient(u)).mean()), 1e-3)  # px of half a face
    if unit < TILE:  # sampling would skip pixels of the tile
        tile = np.asarray(cv2.GaussianBlur(tile, (0, 0), 0.5 * TILE / unit), np.uint8)
    turn = rng.uniform(0, np.pi) if kind == "stripes" else rng.normal(0, 0.1)
    bent = np.arcsin(np.clip(u, -0.98, 0.98))
    x = (bent * np.cos(turn) - v * np.sin(turn)) * TILE * rng.uniform(0.7, 1.3) + rng.uniform(0, TILE)
    y = (bent * np.sin(turn) + v * np.cos(turn)) * TILE * rng.uniform(0.7, 1.3) + rng.uniform(0, TILE)
    share = cv2.remap(tile, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    share = share.astype(np.float32)[..., None] / 255
    return np.asarray(ground * (1 - share) + ink * share, np.float32)
