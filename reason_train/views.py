"""Small changes that no inspection should mind: a part lies a little askew, the light is a little weaker.

Each training image is also shown in a few such views, made once from the seed, so that their teacher features can be
kept like those of the image itself. They are resampled by Lanczos' filter: blurred views teach the student a blurred
texture. Where a shift of 3 % or a turn of 5 degrees is a defect, train with `--views 0`.

Departure: REASON trains on the images alone; `--preset paper` uses no views.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

LARGEST_TURN_DEGREES = 5.0
LARGEST_ZOOM = 0.03
LARGEST_SHIFT = 1 / 32
"""Of the image's side."""
LARGEST_CONTRAST, LARGEST_BRIGHTNESS = 0.08, 8.0
LARGEST_NOISE_STD = 3.0
"""Grey levels."""


def change_view(image: NDArray[np.uint8], *, random: np.random.Generator) -> NDArray[np.uint8]:
    """Another view of the same part: turned, zoomed, shifted, lit and noisy a little differently.

    Args:
        image: (H, W, C).
        random: Every draw comes from it.

    Returns:
        The same shape; what comes in at the borders is mirrored.
    """
    height, width = image.shape[:2]
    turn = random.uniform(-LARGEST_TURN_DEGREES, LARGEST_TURN_DEGREES)
    zoom = random.uniform(1 - LARGEST_ZOOM, 1 + LARGEST_ZOOM)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), turn, zoom)
    matrix[:, 2] += random.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, 2) * np.array([width, height])
    moved = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT_101
    ).reshape(image.shape)
    levels = moved.astype(np.float32)
    contrast = random.uniform(1 - LARGEST_CONTRAST, 1 + LARGEST_CONTRAST)
    levels = (levels - levels.mean()) * contrast + levels.mean()
    levels += random.uniform(-LARGEST_BRIGHTNESS, LARGEST_BRIGHTNESS)
    levels += random.standard_normal(levels.shape, np.float32) * random.uniform(0, LARGEST_NOISE_STD)
    changed: NDArray[np.uint8] = np.clip(np.round(levels), 0, 255).astype(np.uint8)
    return changed
