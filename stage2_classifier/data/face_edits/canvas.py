"""A transparent layer over a face, on which shapes are painted in the face's own units, light and sharpness.

Shapes are signed distances (Quilez, "2D distance functions"): negative inside, in units of half a face. So their edges
are soft at any size of the face.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stage2_classifier.data.mask_transfer import transfer_axes

MAX_SIDE = 160  # px: larger crops get a layer of this size, which is enlarged
SHADOW = 0.25  # share by which the layer darkens the face next to it
NEUTRAL_SKIN = 165.0  # brightness of skin in neutral light, of 255
# Of 122 sharp crops, blurred with sigmas of 0.7 to 4 px: the ratio at a scale equal to sigma is 0.38 to 0.41, while a
# sharp crop's is 0.5 to 0.7 at all scales.
BLUR_RATIO = 0.395
BLUR_SCALES = tuple(0.7 * 2 ** (k / 2) for k in range(8))  # px

Grid = NDArray[np.float32]  # (H, W), or (H, W, 3) for colours
Colour = NDArray[np.float32] | tuple[float, float, float]  # RGB of 0..255, one or (H, W, 3)
Point = tuple[float, float] | NDArray[np.floating]  # x, y in units of half a face


class Along(NamedTuple):
    """Where the pixels are along a capsule."""

    distance: Grid  # signed distance to the edge
    along: Grid  # 0 at the first end, 1 at the second
    across: Grid  # -1 and 1 at the sides


class FaceCanvas:
    """A layer over a crop, empty at first.

    The origin is the midpoint of the eyes; x goes right along the line of the eyes, y goes down the face. The unit
    is half the width of a face. The mouth is at (`mouth_x`, `mouth`), with `mouth_x` near 0 unless the face is turned;
    the chin is near mouth + 0.75.

    Args:
        image: uint8 (H, W, 3) RGB, the crop.
        landmarks: (5, 2) pixels of the crop.

    Raises:
        ValueError: the landmarks do not span a face.
    """

    def __init__(self, image: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> None:
        if (found := transfer_axes(landmarks)) is None:
            raise ValueError("the landmarks do not span a face")
        self.image = image
        height, width = image.shape[:2]
        scale = min(1.0, MAX_SIDE / max(height, width))
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        small = image if scale == 1 else np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        eyes, axes = found[0] * scale, found[1] * scale
        right, down = axes.T
        self.unit = float(np.hypot(*right))  # px of the layer
        ex = right / self.unit
        ey = np.array([-ex[1], ex[0]]) * (1 if ex[0] * down[1] - ex[1] * down[0] > 0 else -1)
        rows, columns = np.mgrid[: size[1], : size[0]].astype(np.float32) + np.float32(0.5)
        dx, dy = (columns - eyes[0]) / self.unit, (rows - eyes[1]) / self.unit
        self.x: Grid = np.asarray(dx * ex[0] + dy * ex[1], np.float32)
        self.y: Grid = np.asarray(dx * ey[0] + dy * ey[1], np.float32)
        self.mouth_x, self.mouth = float(np.dot(down, ex) / self.unit), float(np.dot(down, ey) / self.unit)
        self._small = small.astype(np.float32)
        self.skin = self._skin_colour()
        # Dark skin is not a dark picture: the brightest parts of the crop count, too.
        brightest = float(np.percentile(self._small.mean(axis=2), 95))
        self.exposure = float(np.clip(0.5 * self.skin.mean() / NEUTRAL_SKIN + 0.5 * brightest / 230, 0.25, 1.2))
        cheeks = [
            self._median((np.abs(self.x - side * 0.6) < 0.2) & (np.abs(self.y - 0.45) < 0.25)) for side in (-1, 1)
        ]
        self._slope = float(np.clip((cheeks[1] - cheeks[0]).mean() / max(self.skin.mean(), 1), -0.4, 0.4))
        self.softness = max(0.8 / self.unit, 0.02)
        self.colour: Grid = np.zeros_like(self._small)  # already multiplied by the opacity
        self.alpha: Grid = np.zeros(self._small.shape[:2], np.float32)

    def _skin_colour(self) -> NDArray[np.float32]:
        """Return the skin's colour (3,): the brighter part of forehead, nose and cheeks, without hair and glasses."""
        forehead = (np.abs(self.x) < 0.5) & (self.y < -0.25) & (self.y > -0.6)
        nose = (np.abs(self.x - 0.6 * self.mouth_x) < 0.2) & (self.y > 0.15) & (self.y < 0.6)
        cheeks = (np.abs(np.abs(self.x) - 0.5) < 0.25) & (self.y > 0.25) & (self.y < 0.65)
        where = forehead | nose | cheeks
        pixels = self._small[where] if where.any() else self._small.reshape(-1, 3)
        bright = pixels.mean(axis=1)
        low, high = np.percentile(bright, (50, 85))
        chosen = pixels[(bright >= low) & (bright <= high)]  # of two pixels, neither is between
        return np.asarray((chosen if len(chosen) else pixels).mean(axis=0), np.float32)

    def _median(self, where: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the median colour (3,) of some pixels, of the whole crop where there are none."""
        pixels = self._small[where] if where.any() else self._small.reshape(-1, 3)
        return np.asarray(np.median(pixels, axis=0), np.float32)

    def material(self, rgb: Colour) -> NDArray[np.float32]:
        """Return a colour as it looks in the light of this face."""
        return np.asarray(rgb, np.float32) * np.float32(self.exposure)

    def paint(self, distance: Grid, colour: Colour, opacity: float = 1.0, softness: float | None = None) -> None:
        """Paint a shape over what is there; `softness` is the width of its edge in units."""
        width = self.softness if softness is None else softness
        cover = np.clip(0.5 - distance / width, 0, 1)[..., None] * np.float32(opacity)
        self.colour = np.asarray(self.colour * (1 - cover) + np.asarray(colour, np.float32) * cover, np.float32)
        self.alpha = np.asarray(self.alpha * (1 - cover[..., 0]) + cover[..., 0], np.float32)

    def capsule(self, start: Point, end: Point, radius: float, end_radius: float | None = None) -> Along:
        """Return a rounded bar from `start` to `end`, whose radius may change on the way."""
        (x1, y1), (x2, y2) = start, end
        dx, dy = x2 - x1, y2 - y1
        length = max(float(np.hypot(dx, dy)), 1e-6)
        free = ((self.x - x1) * dx + (self.y - y1) * dy) / length**2
        along = np.clip(free, 0, 1)
        side = ((self.x - x1) * -dy + (self.y - y1) * dx) / length
        away = np.hypot(self.x - x1 - along * dx, self.y - y1 - along * dy)
        thick = radius + ((radius if end_radius is None else end_radius) - radius) * along
        across = np.clip(side / thick, -1, 1)
        return Along(np.asarray(away - thick, np.float32), np.asarray(free, np.float32), np.asarray(across, np.float32))

    def box(self, centre: Point, direction: Point, half: tuple[float, float], rounding: float) -> Grid:
        """Return a rounded box; `half` is half its length along `direction` and half its width."""
        dx, dy = np.asarray(direction) / max(float(np.hypot(*direction)), 1e-6)
        px, py = self.x - centre[0], self.y - centre[1]
        a, b = np.abs(px * dx + py * dy) - half[0] + rounding, np.abs(py * dx - px * dy) - half[1] + rounding
        outside = np.hypot(np.maximum(a, 0), np.maximum(b, 0))
        return np.asarray(outside + np.minimum(np.maximum(a, b), 0) - rounding, np.float32)

    def noise(self, rng: np.random.Generator, cells: tuple[int, int]) -> Grid:
        """Return smooth noise of standard deviation near 1; `cells` is its number of waves across and down."""
        grid = rng.standard_normal((max(cells[1], 1) + 1, max(cells[0], 1) + 1)).astype(np.float32)
        size = (self.alpha.shape[1], self.alpha.shape[0])
        return np.asarray(cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC), np.float32)

    def compose(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the crop under the layer, uint8 (H, W, 3): lit from the face's side, as sharp and noisy as it is."""
        height, width = self.image.shape[:2]
        image = self.image.astype(np.float32)
        lit = self.colour * np.clip(1 + self._slope * self.x, 0.6, 1.4)[..., None]
        offset = np.array([[1, 0, 0.04 * self.unit], [0, 1, 0.08 * self.unit]], np.float32)
        blur = max(0.12 * self.unit, 0.5)
        moved = cv2.warpAffine(self.alpha, offset, self.alpha.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        dark = 1 - SHADOW * cv2.GaussianBlur(moved, (0, 0), blur)
        layer = np.dstack([lit, self.alpha, dark]).astype(np.float32)
        layer = np.asarray(cv2.resize(layer, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        sharpness, noise = blur_and_noise(self.image)
        if sharpness > 0.3:
            layer[..., :4] = cv2.GaussianBlur(layer[..., :4], (0, 0), sharpness)
        alpha = np.clip(layer[..., 3:4], 0, 1)
        grain = rng.standard_normal((height, width, 1)).astype(np.float32) * noise
        result = image * (1 - alpha) * layer[..., 4:] + layer[..., :3] + grain * alpha
        return np.round(np.clip(result, 0, 255)).astype(np.uint8)


def blur_and_noise(image: NDArray[np.uint8]) -> tuple[float, float]:
    """Return how blurred a picture is (the sigma of a Gaussian, px) and how noisy (sigma, of 255), both estimates.

    More blur takes little from a blurred picture. So what a blur of s takes is compared with what one of 2 s takes. The
    noise is the median of the differences that no line or slope has (Immerkaer 1996, "Fast noise variance
    estimation").
    """
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
    taken = [float((grey - cv2.GaussianBlur(grey, (0, 0), s)).std()) for s in BLUR_SCALES]
    ratios = [fine / max(coarse, 1e-3) for fine, coarse in zip(taken, taken[2:], strict=False)]
    # The scale at which the ratio passes BLUR_RATIO: between the last one below it and the next.
    below = [k for k, ratio in enumerate(ratios) if ratio < BLUR_RATIO]
    blur = 0.0
    if below and taken[-1] > 1:  # an even picture has no sharpness
        k = below[-1]
        upper = ratios[k + 1] if k + 1 < len(ratios) else BLUR_RATIO
        step = (BLUR_RATIO - ratios[k]) / max(upper - ratios[k], 1e-3)
        blur = BLUR_SCALES[k] * 2 ** (0.5 * float(np.clip(step, 0, 1)))
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    noise = float(np.median(np.abs(cv2.filter2D(grey, -1, kernel)))) / 0.6745 / 6
    return blur, float(np.clip(noise, 0, 8))
