"""Draws contact sheets: a grid of small pictures with captions, enlarged so that single pixels are visible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FONT_PX = 12
_GAP = 6


@dataclass(frozen=True)
class Cell:
    """One place of a contact sheet."""

    image: NDArray[np.uint8] | None  # uint8 (H, W, 3) RGB; None leaves the place empty
    caption: str = ""


def contact_sheet(
    rows: Sequence[Sequence[Cell]], side: int = 112, row_labels: Sequence[str] = (), caption_lines: int = 1
) -> Image.Image:
    """Draw rows of cells on white, with captions below the pictures and row labels to the left.

    Args:
        rows: the cells; rows may differ in length.
        side: side of each picture in pixels. Pictures are enlarged without smoothing and shrunk by area.
        row_labels: text to the left of the rows.
        caption_lines: lines below each picture.
    """
    font = ImageFont.load_default(FONT_PX)
    line = FONT_PX + 3
    left = _GAP + max((round(font.getlength(label)) + _GAP for label in row_labels), default=0)
    step_x, step_y = side + _GAP, side + caption_lines * line + _GAP
    columns = max((len(row) for row in rows), default=0)
    sheet = Image.new("RGB", (left + columns * step_x, _GAP + len(rows) * step_y), "white")
    draw = ImageDraw.Draw(sheet)
    for r, row in enumerate(rows):
        y = _GAP + r * step_y
        if r < len(row_labels):
            draw.text((_GAP, y + side // 2 - line // 2), row_labels[r], fill="black", font=font)
        for c, cell in enumerate(row):
            x = left + c * step_x
            if cell.image is not None:
                enlarge = max(cell.image.shape[:2]) <= side
                method = Image.Resampling.NEAREST if enlarge else Image.Resampling.BOX
                sheet.paste(Image.fromarray(cell.image).resize((side, side), method), (x, y))
            draw.multiline_text((x, y + side + 1), cell.caption, fill="black", font=font, spacing=2)
    return sheet
