"""Boxes around shapes: the upright hulls of polygons, rotated boxes and ellipses, in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Box = tuple[float, float, float, float]  # xyxy
NO_BOX: Box = (math.nan,) * 4  # which `Collector` refuses


def hull(points: Iterable[Sequence[float]]) -> Box:
    """Return the box around points (N, 2); NO_BOX without points, or where one is not two finite numbers."""
    found = [tuple(point) for point in points]
    if not found or not all(len(point) == 2 and all(map(math.isfinite, point)) for point in found):
        return NO_BOX
    xs, ys = [point[0] for point in found], [point[1] for point in found]
    return (min(xs), min(ys), max(xs), max(ys))


def rotated_box_hull(cx: float, cy: float, width: float, height: float, angle: float) -> Box:
    """Return the box around a box that is rotated by `angle` radians about its centre."""
    if not (width > 0 and height > 0 and math.isfinite(angle)):
        return NO_BOX
    sin, cos = abs(math.sin(angle)), abs(math.cos(angle))
    x, y = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return (cx - x, cy - y, cx + x, cy + y)


def ellipse_hull(cx: float, cy: float, rx: float, ry: float, angle: float) -> Box:
    """Return the box around an ellipse with the radii rx and ry that is rotated by `angle` radians."""
    if not (rx > 0 and ry > 0 and math.isfinite(angle)):
        return NO_BOX
    sin, cos = math.sin(angle), math.cos(angle)
    x, y = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return (cx - x, cy - y, cx + x, cy + y)
