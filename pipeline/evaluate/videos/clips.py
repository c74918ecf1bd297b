"""Makes short videos from annotated photos, with the true place of each face in each frame.

A camera moves over a photo, so faces enter and leave at known frames. Nothing that is in the photo moves by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from common.annotations import AnnotatedImage
from common.images import Pixels
from pipeline.evaluate.videos.truth import ClipTruth

Motion = Literal["pan", "zoom", "shake", "still", "whip"]
MOTIONS: tuple[Motion, ...] = ("pan", "shake", "zoom", "still", "whip")
SIZES = ((480, 270), (640, 360), (320, 180))  # width and height of a video in pixels
RATES = (12, 8, 25)  # frames per second
BIT_RATES = (200, 90, 45)  # kilobits per second, at 480x270 pixels and 12 frames per second
NOISES = (2.0, 7.0, 14.0)  # standard deviation in grey levels
FLICKERS = (0.03, 0.12, 0.25)  # largest relative change of the exposure
EXPOSURES = (0.3, 0.6, 0.9)  # share of a frame's time in which the shutter is open
LOSSES = (0.0, 0.05, 0.12)  # share of dropped frames, and of repeated ones
MAX_DRAW_WEIGHT = 6  # a photo is drawn in proportion to its number of faces, up to this one
SUB_EXPOSURES = 5  # pictures averaged to one frame
SHAKE = 0.012  # standard deviation of a hand's shake, as a share of the view's width


@dataclass(frozen=True)
class ClipRecipe:
    """How one video is made from one photo."""

    image_id: str
    motion: Motion
    size: tuple[int, int]  # width and height in pixels
    rate: int  # frames per second
    seconds: float
    bit_rate: int  # bits per second of the H.264 stream
    noise: float  # standard deviation in grey levels
    flicker: float  # largest relative change of the exposure
    exposure: float  # share of a frame's time in which the shutter is open
    loss: float  # share of dropped frames, and of repeated ones
    seed: int


@dataclass(frozen=True)
class CameraPath:
    """Where the camera looks, at any time: the centre of the view and the view's width, in pixels of the photo."""

    times: NDArray[np.float64]  # (K,) seconds, rising
    views: NDArray[np.float64]  # (K, 3) centre x, centre y, width

    def view(self, time: float) -> tuple[float, float, float]:
        """Return (centre x, centre y, width) at `time` seconds, in pixels of the photo."""
        x, y, width = (float(np.interp(time, self.times, self.views[:, i])) for i in range(3))
        return x, y, width


def draw_recipes(images: Sequence[AnnotatedImage], count: int, seconds: float, seed: int) -> list[ClipRecipe]:
    """Return one recipe per photo, for `count` photos drawn at random (fewer where there are fewer).

    A photo is drawn in proportion to its number of faces, up to MAX_DRAW_WEIGHT. Photos without a face are not used,
    nor photos that may show a face without a box. All motions are used equally often; the qualities are drawn.
    Recipes 2k and 2k + 1 have the same motion: one for each half.
    """
    usable = [image for image in images if len(image.boxes) and image.complete]
    if not usable:
        return []
    generator = np.random.default_rng(seed)
    weights = np.array([min(len(image.boxes), MAX_DRAW_WEIGHT) for image in usable], np.float64)
    drawn = generator.choice(len(usable), min(count, len(usable)), replace=False, p=weights / weights.sum())
    recipes = []
    for i, index in enumerate(drawn.tolist()):
        size = SIZES[int(generator.integers(len(SIZES)))]
        rate = RATES[int(generator.integers(len(RATES)))]
        kilobits = BIT_RATES[int(generator.integers(len(BIT_RATES)))]
        pixels = size[0] * size[1] / (SIZES[0][0] * SIZES[0][1])
        recipes.append(
            ClipRecipe(
                image_id=usable[index].image_id,
                motion=MOTIONS[i // 2 % len(MOTIONS)],
                size=size,
                rate=rate,
                seconds=seconds,
                bit_rate=round(1000 * kilobits * pixels * math.sqrt(rate / RATES[0])),
                noise=float(generator.choice(NOISES)),
                flicker=float(generator.choice(FLICKERS)),
                exposure=float(generator.choice(EXPOSURES)),
                loss=float(generator.choice(LOSSES)),
                seed=int(generator.integers(2**31)),
            )
        )
    return recipes


def camera_path(recipe: ClipRecipe, photo_size: tuple[int, int], boxes: NDArray[np.float32]) -> CameraPath:
    """Return the path of a recipe's camera.

    Args:
        recipe: the recipe.
        photo_size: width and height of the photo in pixels.
        boxes: (N, 4) the photo's faces, N at least 1; the camera passes one of them.

    Returns:
        The path. The view stays in the photo at all times.
    """
    generator = np.random.default_rng(recipe.seed)
    width, height = photo_size
    full = min(float(width), height * recipe.size[0] / recipe.size[1])
    sides = boxes[:, 2:] - boxes[:, :2]
    target = boxes[int(generator.choice(len(boxes), p=sides.prod(axis=1) / sides.prod(axis=1).sum()))]
    x, y = (float(v) for v in (target[:2] + target[2:]) / 2)
    times = np.arange(0, recipe.seconds + 0.02, 0.02)
    part = times / recipe.seconds  # 0 to 1
    wide = np.full(len(times), full * float(generator.uniform(0.5, 0.65)))
    xs, ys = np.full(len(times), x), np.full(len(times), y)
    if recipe.motion == "pan":  # from one edge over the photo to the other one
        xs = width * (part if generator.random() < 0.5 else 1 - part)
    elif recipe.motion == "zoom":  # out and in again
        wide = full * (0.4 + 0.55 * np.sin(np.pi * part) ** 2)
    elif recipe.motion == "still":
        wide[:] = 0.9 * full
    elif recipe.motion == "whip":  # away from the face for some tenths of a second, once or twice
        for start in (0.35, 0.7)[: int(generator.integers(1, 3))]:
            length = float(generator.uniform(0.3, 1.2))
            swing = np.clip((times - start * recipe.seconds) / length, 0, 1)
            xs = xs + (1 if x < width / 2 else -1) * 0.7 * wide * np.sin(np.pi * swing)
    if recipe.motion != "still":
        hand = 2.0 if recipe.motion == "shake" else 0.4
        xs = xs + hand * SHAKE * wide * _tremor(times, generator)
        ys = ys + hand * SHAKE * wide * _tremor(times, generator)
    tall = wide * recipe.size[1] / recipe.size[0]
    xs = np.clip(xs, wide / 2, np.maximum(width - wide / 2, wide / 2))
    ys = np.clip(ys, tall / 2, np.maximum(height - tall / 2, tall / 2))
    return CameraPath(times, np.stack([xs, ys, wide], axis=1))


def _tremor(times: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return a hand's shake (K,) of standard deviation 1: waves of 0.5 to 6 per second."""
    waves = [np.sin(2 * np.pi * (generator.uniform(0.5, 6) * times + generator.uniform())) for _ in range(6)]
    return np.asarray(np.sum(waves, axis=0) / math.sqrt(3))


def view_matrix(view: tuple[float, float, float], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the (2, 3) matrix that maps edge coordinates of the photo to those of a frame of `size`."""
    x, y, width = view
    scale = size[0] / width
    return np.array([[scale, 0, size[0] / 2 - scale * x], [0, scale, size[1] / 2 - scale * y]])


def render(photo: Pixels, view: tuple[float, float, float], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return what the camera sees, float32 (H, W, 3) from 0 to 255."""
    matrix = view_matrix(view, size)
    scale = float(matrix[0, 0])
    if scale < 1:  # a mean over the pixels that fall into one
        photo = np.asarray(cv2.GaussianBlur(photo, (0, 0), 0.5 / scale), np.uint8)
    # Pixel centres are at half numbers of edge coordinates, at whole numbers for OpenCV.
    matrix[:, 2] += 0.5 * scale - 0.5
    seen = cv2.warpAffine(photo, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(seen, np.float32)


def make_clip(photo: Pixels, image: AnnotatedImage, recipe: ClipRecipe) -> tuple[list[Pixels], ClipTruth]:
    """Make the frames of a video before it is encoded, and their truth.

    A frame is the mean of SUB_EXPOSURES pictures along the camera's path (motion blur), times the exposure's flicker,
    with noise. A repeated frame shows the frame before it, and has the truth of that one.

    Args:
        photo: uint8 (H, W, 3) RGB.
        image: the photo's annotations.
        recipe: how the video is made.

    Returns:
        T frames, uint8 (height, width, 3) RGB, and their truth.
    """
    generator = np.random.default_rng(recipe.seed + 1)
    path = camera_path(recipe, image.size, image.boxes)
    phase, beat = float(generator.uniform()), float(generator.uniform(0.5, 4))
    frames: list[Pixels] = []
    times: list[float] = []
    boxes: list[NDArray[np.float64]] = []
    for index in range(round(recipe.seconds * recipe.rate)):
        time = index / recipe.rate
        lot = float(generator.random())
        if frames and lot < recipe.loss:
            continue  # dropped
        times.append(time)
        if frames and lot < 2 * recipe.loss:
            frames.append(frames[-1])
            boxes.append(boxes[-1])
            continue
        offsets = (np.arange(SUB_EXPOSURES) - (SUB_EXPOSURES - 1) / 2) / SUB_EXPOSURES * recipe.exposure / recipe.rate
        views = sorted({path.view(max(time + offset, 0.0)) for offset in offsets.tolist()})
        seen = np.mean([render(photo, view, recipe.size) for view in views], axis=0)
        seen *= 1 + recipe.flicker * math.sin(2 * math.pi * (beat * time + phase))
        seen += generator.normal(0, recipe.noise, seen.shape)
        frames.append(np.asarray(np.clip(np.rint(seen), 0, 255), np.uint8))
        matrix = view_matrix(path.view(time), recipe.size)
        boxes.append(np.asarray(image.boxes * matrix[0, 0] + np.tile(matrix[:, 2], 2), np.float64))
    return frames, ClipTruth(np.array(times), np.stack(boxes), image.labels, recipe.size)
