"""Draws detections into a picture: box, label, score and landmarks, legible for tiny and large faces."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from common.images import Pixels, to_rgb
from pipeline.inference.detections import Detections

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Area = tuple[int, int, int, int]  # x1, y1, x2, y2; right and bottom exclusive

# Okabe and Ito's palette, distinct to colour-blind eyes (jfly.uni-koeln.de/color); with the default classes
# green is with_mask, vermillion without_mask, yellow mask_weared_incorrect.
PALETTE = ((0, 158, 115), (213, 94, 0), (240, 228, 66), (86, 180, 233), (204, 121, 167), (230, 159, 0), (0, 114, 178))
MIN_FONT = 10  # px; the built-in typeface is hard to read below this size
CROWD_SIZE = 30  # faces; in a larger crowd only scores and a legend are drawn: class names would cover the picture
MAX_TEXTS = 300  # best first; nobody reads more, and finding room for each would take seconds


def class_colour(index: int | np.integer) -> Colour:
    """Return the RGB colour of the class at `index` of class_names; the colours repeat after seven classes."""
    return PALETTE[int(index) % len(PALETTE)]


def draw(
    image: Pixels, detections: Detections, track_numbers: Sequence[int] | None = None, landmarks: bool = True
) -> Pixels:
    """Return a copy of an image with every detection drawn, the best on top.

    Each text is next to its box, where it hides no face and no other text. Where "label score" does not fit, the score
    alone is drawn, or nothing: the colour of the box shows the class, and a legend explains the colours. The label of
    an unsure face ends in "?"; where the label does not fit, the score ends in "?".

    Args:
        image: uint8 (H, W, 3) RGB.
        detections: the faces.
        track_numbers: the number of each face's track in a video, written before its label.
        landmarks: whether landmarks are drawn.
    """
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    size = canvas.size
    count, ids = len(detections), detections.label_ids
    for i in reversed(range(count)):
        points = detections.landmarks[i] if landmarks else np.zeros((0, 2), np.float32)
        _draw_face(pen, detections.boxes[i], points, class_colour(ids[i]), size)

    texts = min(count, MAX_TEXTS)
    taken = np.full((count + texts + 1, 4), np.nan, np.float32)  # faces, texts, the legend; NaN overlaps nothing
    taken[:count] = detections.boxes
    scores_only = count > CROWD_SIZE
    names = {int(i): detections.class_names[i] for i in sorted(set(ids))}
    if scores_only:
        taken[-1] = _draw_legend(pen, names, size, taken) or np.nan
    all_fit = True
    rows = zip(detections.labels[:texts], detections.scores, detections.unsure, strict=False)
    for i, (label, score, unsure) in enumerate(rows):
        taken[i] = np.nan  # a text may be inside its own box
        font = _font(_font_size(detections.boxes[i], size))
        mark, number = "?" if unsure else "", f"{track_numbers[i]} " if track_numbers is not None else ""
        long, short = f"{number}{label}{mark} {score:.2f}", f"{number}{score:.2f}{mark}"
        for text in (short,) if scores_only else (long, short):
            area = _find_place(detections.boxes[i], _text_size(text, font), size, taken)
            if area is not None:
                _draw_text(pen, area, text, font, class_colour(ids[i]))
                taken[count + i] = area
                break
        all_fit = all_fit and area is not None and text != short
        taken[i] = detections.boxes[i]
    if not (all_fit or scores_only):
        _draw_legend(pen, names, size, taken)
    return to_rgb(canvas)


def _draw_face(
    pen: ImageDraw.ImageDraw,
    box: NDArray[np.float32],
    landmarks: NDArray[np.float32],
    colour: Colour,
    size: tuple[int, int],
) -> None:
    width, height = size
    left, top = max(round(float(box[0])), 0), max(round(float(box[1])), 0)
    right, bottom = min(round(float(box[2])), width), min(round(float(box[3])), height)
    if left >= right or top >= bottom:
        return
    face = min(right - left, bottom - top)
    line = int(np.clip(round(face / 40), 1, max(1, round(min(size) / 150))))
    pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=line)
    if face < 16:  # five points would hide the face
        return
    radius = face / 50
    for x, y in landmarks.tolist():
        if face < 40:  # a disc would hide the eye
            pen.point((round(x), round(y)), fill=colour)
        else:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _font_size(box: NDArray[np.float32], size: tuple[int, int]) -> int:
    """Return a size in pixels that grows with the face, within limits that depend on the picture."""
    low = max(MIN_FONT, min(size) / 60)
    return round(float(np.clip((box[2] - box[0]) / 8, low, max(low, min(size) / 25))))


@lru_cache(maxsize=64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _text_size(text: str, font: Font) -> tuple[int, int]:
    """Return width and height, in pixels, of a line with its background; all texts in a font have the same height."""
    padding = _padding(font)
    return int(np.ceil(font.getlength(text))) + 2 * padding, int(np.ceil(font.getbbox("Ayg_")[3])) + padding


def _padding(font: Font) -> int:
    return max(1, round(getattr(font, "size", MIN_FONT) / 6))


def _find_place(
    box: NDArray[np.float32], text: tuple[int, int], size: tuple[int, int], taken: NDArray[np.float32]
) -> Area | None:
    """Return an area for a text of (width, height) next to or in its box, inside the picture and free; or None."""
    for x, y in _candidate_corners(box, text, size):
        area = (x, y, x + text[0], y + text[1])
        if min(x, y) >= 0 and area[2] <= size[0] and area[3] <= size[1] and not _overlaps(area, taken):
            return area
    return None


def _candidate_corners(
    box: NDArray[np.float32], text: tuple[int, int], size: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """Yield top left corners to try: above, below, right, left of the box; inside a box that is much larger."""
    left, top, right, bottom = (round(float(v)) for v in box)
    width, height = text
    shifted = max(min(left, size[0] - width), 0)  # moved left, to end before the picture's right edge
    aligned = max(right - width, 0)  # right edges of text and box aligned
    yield from ((shifted, top - height), (shifted, bottom), (aligned, top - height), (aligned, bottom))
    yield from ((right, top), (right, bottom - height), (left - width, top), (left - width, bottom - height))
    if right - left >= width and bottom - top >= 5 * height:
        yield from ((max(left, 0), max(top, 0)), (max(left, 0), min(bottom, size[1]) - height))


def _overlaps(area: Area, taken: NDArray[np.float32]) -> bool:
    overlaps = np.maximum(taken[:, :2], area[:2]) < np.minimum(taken[:, 2:], area[2:])  # in x, in y
    return bool(overlaps.all(axis=1).any())


def _draw_text(pen: ImageDraw.ImageDraw, area: Area, text: str, font: Font, colour: Colour) -> None:
    """Draw a text on a background of the class's colour, in black or white, whichever contrasts more."""
    pen.rectangle((area[0], area[1], area[2] - 1, area[3] - 1), fill=colour)
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    ink = "black" if luma > 110 else "white"
    pen.text((area[0] + _padding(font), area[1]), text, fill=ink, font=font)


def _draw_legend(
    pen: ImageDraw.ImageDraw, names: dict[int, str], size: tuple[int, int], taken: NDArray[np.float32]
) -> Area | None:
    """Draw each class's colour where it hides nothing, at an edge if possible; return the area, None without room."""
    font = _font(round(max(MIN_FONT, min(size) / 50)))
    width = max(_text_size(name, font)[0] for name in names.values())
    line = _text_size("", font)[1]
    height = line * len(names)
    right, bottom = size[0] - width, size[1] - height
    for down, along in itertools.product((4, 0, 1, 2, 3), (0, 8, 1, 7, 2, 6, 3, 5, 4)):
        x, y = right * along // 8, bottom * down // 4
        area = (x, y, x + width, y + height)
        if min(right, bottom) >= 0 and not _overlaps(area, taken):
            for row, (i, name) in enumerate(names.items()):
                _draw_text(pen, (x, y + row * line, x + width, y + (row + 1) * line), name, font, class_colour(i))
            return area
    return None
