"""Draws hands, cups, scarves and microphones before the mouth of a bare face, which stays a bare face.

A network that has seen only masks before mouths takes whatever covers a mouth for a mask. Sizes are those of real
things: half a face is 7 to 8 cm wide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stage2_classifier.data.face_edits.canvas import Along, FaceCanvas, Grid

Occluder = Literal["hand", "cup", "scarf", "microphone"]
OCCLUDERS: tuple[Occluder, ...] = get_args(Occluder)
SHARES = (0.4, 0.25, 0.2, 0.15)  # of OCCLUDERS, where the kind is drawn: hands are the most frequent in photos

# RGB in neutral light.
CUPS = ((235, 233, 228), (222, 219, 210), (196, 160, 116), (150, 106, 70), (176, 44, 40), (48, 92, 60), (40, 52, 92),
        (62, 60, 62), (214, 178, 60), (120, 172, 190))  # fmt: skip
CLOTHS = ((60, 58, 62), (34, 40, 62), (120, 30, 38), (150, 140, 128), (196, 184, 164), (88, 96, 76), (84, 52, 40),
          (170, 172, 178), (46, 74, 104), (186, 142, 60), (214, 208, 204), (128, 84, 110))  # fmt: skip
FOAMS = ((28, 28, 30), (40, 40, 44), (22, 22, 22), (150, 28, 34), (30, 60, 130), (30, 96, 60))


def paste_occluder(
    image: NDArray[np.uint8],
    landmarks: NDArray[np.floating],
    rng: np.random.Generator,
    kind: Occluder | None = None,
) -> NDArray[np.uint8]:
    """Return a copy of a crop, uint8 (H, W, 3) RGB, with something before the mouth.

    Args:
        image: the crop of a bare face.
        landmarks: (5, 2) pixels of the crop.
        rng: decides the place, the size and the colours.
        kind: what is drawn; None: drawn by SHARES.

    Raises:
        ValueError: the landmarks do not span a face.
    """
    canvas = FaceCanvas(image, landmarks)
    chosen = OCCLUDERS[int(rng.choice(len(OCCLUDERS), p=SHARES))] if kind is None else kind
    _DRAWERS[chosen](canvas, rng)
    return canvas.compose(rng)


def _pick(colours: tuple[tuple[int, int, int], ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return one of some colours (3,), varied."""
    colour = np.array(colours[int(rng.integers(len(colours)))], np.float32)
    return np.clip(colour * rng.uniform(0.85, 1.12) + rng.normal(0, 6, 3), 8, 245).astype(np.float32)


def _round(along: Along, dark: float = 0.62) -> Grid:
    """Return the brightness (H, W, 1) of a round bar: 1 along its middle, `dark` at its edges."""
    shade = dark + (1 - dark) * np.sqrt(np.clip(1 - along.across**2, 0, 1))
    return np.asarray(shade[..., None], np.float32)


def _line(values: Grid, at: float, width: float) -> Grid:
    """Return 1 where values are `at`, falling to 0 over `width`."""
    return np.exp(-(((values - at) / width) ** 2))


class _Hand:
    """Fingers, palm and arm with one direction; coordinates are canvas units."""

    def __init__(self, canvas: FaceCanvas, rng: np.random.Generator, side: int) -> None:
        self.canvas, self.rng, self.side = canvas, rng, side  # 1: the thumb is on the right of the fingers' direction
        tint = np.array([1.0, rng.uniform(0.94, 1.02), rng.uniform(0.92, 1.02)], np.float32)
        self.skin = np.clip(canvas.skin * rng.uniform(0.82, 1.08) * tint, 0, 250).astype(np.float32)
        self._mottle = 1 + 0.03 * canvas.noise(rng, (9, 9))[..., None]

    def finger(self, start: NDArray[np.floating], end: NDArray[np.floating], radius: float, nail: bool = True) -> None:
        """Paint one finger with its edge, joints and nail."""
        bar = self.canvas.capsule(start, end, radius, radius * 0.86)
        shade = _round(bar, 0.68) * self._mottle
        for joint in (0.36, 0.68):
            shade = shade - 0.07 * _line(bar.along, joint, 0.02)[..., None]
        self.canvas.paint(bar.distance - 0.012, self.skin * 0.5, opacity=0.6)  # the shadow between fingers
        self.canvas.paint(bar.distance, self.skin * shade)
        if nail:
            tip = start + (end - start) * 1.02
            inner = self.canvas.capsule(start + (end - start) * 0.93, tip, radius * 0.55)
            self.canvas.paint(inner.distance, np.clip(self.skin * (1.08, 1.0, 1.0) + 14, 0, 250), opacity=0.55)

    def fingers(
        self, root: NDArray[np.floating], direction: NDArray[np.floating], length: float, radius: float, nails: bool
    ) -> None:
        """Paint four fingers from `root`, the middle of the knuckles; the little finger first."""
        across = np.array([-direction[1], direction[0]]) * self.side
        gap = radius * self.rng.uniform(1.6, 2.1)
        fan = self.rng.uniform(0.0, 0.12)
        for place, share in ((-1.5, 0.78), (-0.5, 0.95), (0.5, 1.0), (1.5, 0.9)):
            start = root + across * gap * place
            slant = direction + across * fan * place + self.rng.normal(0, 0.03, 2)
            thick = radius * (0.88 if place == -1.5 else 1.0)
            self.finger(start, start + slant * length * share, thick, nails)

    def palm_and_arm(
        self, root: NDArray[np.floating], direction: NDArray[np.floating], half: tuple[float, float]
    ) -> None:
        """Paint arm, sleeve and palm behind `root`; `half` is half the palm's length and width."""
        wrist = root - direction * 2 * half[0]
        bend = direction + np.array([-direction[1], direction[0]]) * self.rng.uniform(-0.3, 0.3)
        arm = self.canvas.capsule(wrist + direction * 0.2, wrist - bend * 4, half[1] * 0.68, half[1] * 0.95)
        self.canvas.paint(arm.distance, self.skin * _round(arm, 0.6) * self._mottle)
        if self.rng.random() < 0.6:
            start = wrist - bend * self.rng.uniform(0.0, 0.6)
            sleeve = self.canvas.capsule(start, wrist - bend * 4, half[1] * 0.85, half[1] * 1.3)
            cloth = self.canvas.material(_pick(CLOTHS, self.rng))
            self.canvas.paint(
                sleeve.distance,
                cloth * _round(sleeve, 0.55) * (1 + 0.06 * self.canvas.noise(self.rng, (14, 14))[..., None]),
            )
        palm = self.canvas.box(root - direction * half[0], direction, (half[0] * 1.08, half[1]), 0.22)
        shade = np.clip(0.86 - 0.28 * palm, 0.7, 1.02)[..., None] * self._mottle
        self.canvas.paint(palm, self.skin * shade)


def _unit(x: float, y: float) -> NDArray[np.float64]:
    return np.array([x, y]) / np.hypot(x, y)


def _hand(canvas: FaceCanvas, rng: np.random.Generator) -> None:
    """Paint a hand before the mouth: open from below, open from the side, a fist, or a finger or two on the lips."""
    side = int(rng.choice((-1, 1)))
    hand = _Hand(canvas, rng, side * int(rng.choice((-1, 1))))
    radius = rng.uniform(0.115, 0.15)
    length = rng.uniform(0.95, 1.2)
    mouth = np.array([canvas.mouth_x + rng.normal(0, 0.1), canvas.mouth + rng.normal(0, 0.07)])
    pose = rng.choice(("below", "side", "fist", "lips"), p=(0.35, 0.3, 0.25, 0.1))
    if pose == "fist":
        _fist(hand, mouth, radius, _unit(side * rng.uniform(0.1, 0.9), -1))
        return
    tilt = rng.uniform(0.15, 0.9) if pose != "side" else rng.uniform(1.6, 5.0)
    direction = _unit(-side * tilt, -1)
    if pose == "lips":
        root = mouth - direction * length * rng.uniform(0.75, 0.95)
        hand.palm_and_arm(root, direction, (0.5, 4 * radius))
        across = np.array([-direction[1], direction[0]]) * hand.side
        for place in (-1.5, -0.5):  # two fingers are bent into the palm
            knuckle = root + across * 2 * radius * place
            hand.finger(knuckle, knuckle + direction * 0.12, radius * 1.1, nail=False)
        for place in (0.5, 1.5)[: int(rng.integers(1, 3))]:
            knuckle = root + across * 2 * radius * place
            hand.finger(knuckle, knuckle + direction * length, radius)
        return
    root = mouth - direction * length * rng.uniform(0.4, 0.62)
    half = (0.5, 4 * radius * 1.02)
    hand.palm_and_arm(root, direction, half)
    hand.fingers(root, direction, length, radius, nails=bool(rng.random() < 0.6))
    across = np.array([-direction[1], direction[0]]) * hand.side
    thumb = root - direction * 0.55 + across * half[1] * 0.9
    hand.finger(thumb, thumb + direction * rng.uniform(0.45, 0.7) + across * rng.uniform(0.05, 0.4), radius * 1.15)


def _fist(hand: _Hand, mouth: NDArray[np.float64], radius: float, direction: NDArray[np.float64]) -> None:
    """Paint a fist whose bent fingers are at `mouth`, with the arm along `direction`."""
    root = mouth - direction * 0.12
    half = (0.42, 4 * radius)
    hand.palm_and_arm(root, direction, half)
    across = np.array([-direction[1], direction[0]]) * hand.side
    for place in (-1.5, -0.5, 0.5, 1.5):
        knuckle = root + across * 2 * radius * place + direction * (0.06 - 0.03 * abs(place))
        hand.finger(knuckle - direction * 0.42, knuckle + direction * 0.08, radius * 1.12, nail=False)
    thumb = root - direction * 0.36 + across * half[1] * 0.95
    hand.finger(thumb, thumb - across * 0.62 + direction * 0.12, radius * 1.1)


def _cup(canvas: FaceCanvas, rng: np.random.Generator) -> None:
    """Paint a cup, a glass or a can at the mouth, mostly with the hand that holds it."""
    side = int(rng.choice((-1, 1)))
    lean = rng.normal(0, 0.16)
    down = _unit(lean, 1)
    across = np.array([down[1], -down[0]])
    top = np.array([canvas.mouth_x + rng.normal(0, 0.08), canvas.mouth - rng.uniform(0.0, 0.32)])
    half_top = rng.uniform(0.42, 0.66)
    half_bottom = half_top * rng.uniform(0.68, 0.98)
    height = rng.uniform(0.75, 1.5)
    hand = _Hand(canvas, rng, side) if rng.random() < 0.8 else None
    hold = top + down * height * rng.uniform(0.45, 0.65)
    radius = rng.uniform(0.115, 0.145)
    if hand is not None:  # the palm is behind the cup, the arm comes from below
        hand.palm_and_arm(hold + across * side * half_top * 0.7, _unit(-side * rng.uniform(0.5, 1.4), -1), (0.45, 0.5))
    _cup_body(canvas, rng, top, down, (half_top, half_bottom, height))
    if hand is not None:
        for k in range(4):
            start = hold + across * side * half_top * 1.12 + down * (k - 1.5) * 2 * radius
            end = start - across * side * half_top * rng.uniform(0.85, 1.15) + down * rng.normal(0, 0.02)
            hand.finger(start, end, radius)


def _cup_body(
    canvas: FaceCanvas,
    rng: np.random.Generator,
    top: NDArray[np.float64],
    down: NDArray[np.float64],
    size: tuple[float, float, float],
) -> None:
    """Paint a tapered cylinder; `top` is the middle of the rim, `size` half its width at both ends, and its height."""
    half_top, half_bottom, height = size
    px, py = canvas.x - np.float32(top[0]), canvas.y - np.float32(top[1])
    t = (px * down[0] + py * down[1]) / height  # 0 at the rim, 1 at the bottom
    s = px * down[1] - py * down[0]
    half = half_top + (half_bottom - half_top) * np.clip(t, 0, 1)
    across = np.clip(s / half, -1, 1)
    # Seen from a little below while it is tilted: rim and bottom are arcs.
    bow = rng.uniform(0.05, 0.2) * half_top
    arc = bow * (np.sqrt(np.clip(1 - across**2, 0, 1)) - 1)
    upper, lower = -t * height - arc * rng.uniform(-1, 1), (t - 1) * height - arc
    body = np.maximum(np.maximum(upper, lower), np.abs(s) - half).astype(np.float32)
    colour = canvas.material(_pick(CUPS, rng))
    light = rng.uniform(-0.5, 0.5)
    shade = 0.5 + 0.5 * np.sqrt(np.clip(1 - (0.85 * (across - 0.5 * light)) ** 2, 0.02, 1))
    shade = shade + 0.25 * _line(across, light, 0.12) * rng.random()
    paint = colour * shade[..., None]
    if rng.random() < 0.5:  # a sleeve, a band or a print
        start, end = np.sort(rng.uniform(0.15, 0.95, 2))
        band = 1 / (1 + np.exp(-np.minimum(t - start, end - t) / 0.02))
        if rng.random() < 0.5:
            band = band * (np.abs(across - light) < rng.uniform(0.2, 0.6))
        paint = paint * (1 - band[..., None]) + canvas.material(_pick(CUPS, rng)) * shade[..., None] * band[..., None]
    canvas.paint(body, paint, opacity=rng.uniform(0.55, 0.8) if rng.random() < 0.12 else 1.0)
    canvas.paint(np.abs(body) - 0.012, paint * 0.6, opacity=0.5)
    rim = np.maximum(np.abs(upper + 0.03) - 0.03, np.abs(s) - half).astype(np.float32)
    canvas.paint(rim, np.clip(paint * 1.2 + 12, 0, 250), opacity=0.8)


def _scarf(canvas: FaceCanvas, rng: np.random.Generator) -> None:
    """Paint a scarf or a collar over mouth and chin, from beyond one cheek to beyond the other and down the neck."""
    colour = canvas.material(_pick(CLOTHS, rng))
    x = canvas.x - canvas.mouth_x
    edge = canvas.mouth + rng.uniform(-0.5, 0.1)
    neck, widen = rng.uniform(1.0, 1.2), rng.uniform(0.2, 1.0)
    half = neck + widen * np.clip(canvas.y - canvas.mouth - 0.4, 0, 3) + 0.03 * canvas.noise(rng, (3, 6))
    seed = int(rng.integers(2**32))
    for _ in range(int(rng.integers(1, 4))):  # one turn of the cloth over the other, each lower
        # The edge hangs down to the ears or rises to them, and leans to one side.
        bend, tilt = rng.uniform(-0.2, 0.45), rng.normal(0, 0.16)
        top = edge + bend * np.clip(x, -1.4, 1.4) ** 2 + tilt * x + 0.04 * canvas.noise(rng, (5, 2))
        shape = np.maximum(top - canvas.y, np.abs(x) - half).astype(np.float32)
        depth = canvas.y - top
        fall = depth - rng.uniform(0.1, 0.5) * np.cos(np.clip(x, -1.6, 1.6)) + 0.08 * canvas.noise(rng, (4, 3))
        folds = 0.14 * np.sin(fall * rng.uniform(7, 13)) + 0.09 * canvas.noise(rng, (6, 14))
        shade = np.clip((1 - 0.3 * np.clip(np.abs(x), 0, 1.4) ** 2) + folds, 0.3, 1.2)
        shade = shade * np.clip(0.7 + depth / 0.15 * 0.3, 0.7, 1)  # the rolled upper edge
        paint = colour * _cloth_pattern(canvas, np.random.default_rng(seed), fall, colour) * shade[..., None]
        canvas.paint(shape - 0.05, paint * 0.45, opacity=0.5, softness=0.15)  # the shadow on what is below
        canvas.paint(shape, paint, softness=max(canvas.softness, 0.05))
        edge += rng.uniform(0.3, 0.6)


def _cloth_pattern(canvas: FaceCanvas, rng: np.random.Generator, fall: Grid, colour: NDArray[np.float32]) -> Grid:
    """Return what multiplies a cloth's colour, (H, W, 3): plain, knitted, striped or checked."""
    kind = rng.choice(("plain", "knit", "stripes", "checks"), p=(0.4, 0.25, 0.2, 0.15))
    plain = np.ones_like(canvas.colour)
    if kind == "plain":
        return plain
    if kind == "knit":
        pitch = rng.uniform(28, 45)
        ribs = np.sin(canvas.x * pitch) * np.cos(fall * pitch * 0.8)
        return np.asarray(plain * (1 + 0.18 * ribs[..., None]), np.float32)
    other = np.clip(canvas.material(_pick(CLOTHS, rng)) / np.maximum(colour, 1), 0, 245 / np.maximum(colour, 1))
    waves = [np.sin(fall * rng.uniform(10, 26)) > rng.uniform(0.0, 0.7)]
    if kind == "checks":
        waves.append(np.sin(canvas.x * rng.uniform(10, 20)) > rng.uniform(0.0, 0.7))
    share = np.mean(waves, axis=0)[..., None]
    return np.asarray(plain * (1 - share) + other * share, np.float32)


def _microphone(canvas: FaceCanvas, rng: np.random.Generator) -> None:
    """Paint a microphone before the mouth, mostly with the fist that holds it."""
    lean = rng.uniform(-0.8, 0.8)
    down = _unit(lean, 1)
    radius = rng.uniform(0.26, 0.42)
    ball = np.array([canvas.mouth_x + rng.normal(0, 0.12), canvas.mouth + rng.uniform(-0.1, 0.28)])
    stick = canvas.capsule(ball, ball + down * 4, radius * 0.62, radius * 0.5)
    metal = canvas.material(_pick(FOAMS[:3], rng))
    canvas.paint(stick.distance, metal * (_round(stick, 0.5) + 0.9 * _line(stick.across, 0.35, 0.15)[..., None]))
    head = canvas.capsule(ball, ball + down * radius * rng.uniform(0.1, 0.7), radius)
    foam = canvas.material(_pick(FOAMS, rng))
    light = ball + radius * np.array([rng.uniform(-0.5, 0.5), -0.45])
    glow = np.exp(-((canvas.x - light[0]) ** 2 + (canvas.y - light[1]) ** 2) / (radius * 0.6) ** 2)
    mesh = np.sin(canvas.x * 42) * np.sin(canvas.y * 42) if rng.random() < 0.5 else 0.6 * canvas.noise(rng, (60, 60))
    shade = np.clip(0.75 + 1.1 * glow + 0.18 * mesh - 0.5 * np.clip(head.distance / radius + 0.4, 0, 1), 0.3, 3)
    canvas.paint(head.distance, np.clip(foam * shade[..., None], 0, 245))
    if rng.random() < 0.5:  # the ring below the head, or a station's cube
        ring = canvas.box(
            ball + down * radius * 1.35, down, (rng.uniform(0.06, 0.3), radius * rng.uniform(0.8, 1.1)), 0.05
        )
        canvas.paint(ring, canvas.material(_pick((*CUPS, *FOAMS), rng)) * _round(stick, 0.6))
    if rng.random() < 0.7:
        side = int(rng.choice((-1, 1)))
        hand = _Hand(canvas, rng, side)
        across = np.array([down[1], -down[0]]) * side
        grip = ball + down * (radius + rng.uniform(0.45, 0.9))
        thick = rng.uniform(0.115, 0.145)
        hand.palm_and_arm(grip + across * 0.3, _unit(-side * rng.uniform(0.3, 1.0), -1), (0.35, 0.42))
        for k in range(4):
            start = grip + across * 0.42 + down * (k - 1.5) * 2 * thick
            hand.finger(start, start - across * rng.uniform(0.6, 0.75), thick, nail=False)


_DRAWERS: dict[Occluder, Callable[[FaceCanvas, np.random.Generator], None]] = {
    "hand": _hand,
    "cup": _cup,
    "scarf": _scarf,
    "microphone": _microphone,
}
