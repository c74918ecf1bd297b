"""Area resampling of images and of their windows, exact and vectorised by integral images.

The stock MTCNN weights expect `torch.nn.functional.interpolate(mode="area")` (adaptive average pooling): output
pixel i averages the input pixels floor(i*n/m) .. ceil((i+1)*n/m)-1. OpenCV's INTER_AREA weighs partial pixels, and
it interpolates when it enlarges. On faces of 10 to 30 px that changes what the cascade finds.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

# Most pixels of one integral image: int32 takes 12 bytes per pixel, 48 MB in all.
MAX_PIXELS = 1 << 22


def _bins(length: int | NDArray[np.intp], bins: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return first and one-past-last input pixel of each output pixel; (N, bins) each for `length` (N,)."""
    index = np.arange(bins)
    n = np.asarray(length)[..., None]
    return index * n // bins, -((index + 1) * n // -bins)


def _integral(image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return (H+1, W+1, 3) sums over all pixels above and to the left."""
    return np.asarray(cv2.integral(image, sdepth=cv2.CV_32S), dtype=np.int32)


def _means(
    table: NDArray[np.int32], rows: tuple[NDArray[np.intp], NDArray[np.intp]], columns: tuple[NDArray[np.intp], ...]
) -> NDArray[np.float32]:
    """Return the mean of every bin, from an integral image (H+1, W+1, 3); int32 differences survive overflow.

    rows and columns are (first, past-last) index arrays (..., h) and (..., w); the result is (..., h, w, 3).
    """
    (top, bottom), (left, right) = rows, columns
    flat = table.reshape(-1, 3)
    stride = table.shape[1]
    top_rows, bottom_rows = (top * stride)[..., :, None], (bottom * stride)[..., :, None]
    left_columns, right_columns = left[..., None, :], right[..., None, :]
    sums = flat.take(bottom_rows + right_columns, axis=0)
    sums -= flat.take(top_rows + right_columns, axis=0)
    sums -= flat.take(bottom_rows + left_columns, axis=0)
    sums += flat.take(top_rows + left_columns, axis=0)
    counts = (bottom - top)[..., :, None] * (right - left)[..., None, :]
    return np.divide(sums, counts[..., None], dtype=np.float32)


def area_resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Resize (H, W, 3) to float32 (height, width, 3) by adaptive averaging, in bands that bound the memory."""
    top, bottom = _bins(image.shape[0], height)
    columns = _bins(image.shape[1], width)
    band = max(MAX_PIXELS // image.shape[1], 1)
    out = np.empty((height, width, 3), np.float32)
    start = 0
    while start < height:
        # All output rows whose input rows fit the band; at least one.
        stop = max(int(np.searchsorted(bottom, top[start] + band, side="right")), start + 1)
        first, last = top[start], bottom[stop - 1]
        table = _integral(image[first:last])
        out[start:stop] = _means(table, (top[start:stop] - first, bottom[start:stop] - first), columns)
        start = stop
    return out


class WindowSampler:
    """Crops many windows from one image (H, W, 3 uint8) and resizes them to one size."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self._image = image
        self.size = (image.shape[1], image.shape[0])  # width, height
        self._table: NDArray[np.int32] | None = None

    def windows(self, boxes: NDArray[np.intp], size: int) -> NDArray[np.float32]:
        """Return float32 (N, size, size, 3) of windows (N, 4): xyxy in whole pixels, inside the image, not empty."""
        if math.prod(self.size) > MAX_PIXELS:
            parts = [area_resize(self._image[y1:y2, x1:x2], size, size) for x1, y1, x2, y2 in boxes]
            return np.stack(parts) if parts else np.zeros((0, size, size, 3), np.float32)
        if self._table is None:
            self._table = _integral(self._image)
        x1, y1, x2, y2 = boxes.T
        left, right = _bins(x2 - x1, size)
        top, bottom = _bins(y2 - y1, size)
        rows = (y1[:, None] + top, y1[:, None] + bottom)
        return _means(self._table, rows, (x1[:, None] + left, x1[:, None] + right))
