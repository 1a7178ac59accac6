"""Small changes that no inspection should mind: a part lies a little askew, the light is a little weaker.

Each training image is also shown in such views, always new ones. A view is taken of the picture before that is resized
to the graph's input, at up to twice its size, so that it is no more blurred than the image itself: blurred views teach
the student a blurred texture. Where a shift of 3 % or a turn of 5 degrees is a defect, train with `--views 0`.

Departure: REASON trains on the images alone; `--preset paper` uses no views.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from reason_runtime.image import InputFormat, once_if_mono, resample, resize_image

LARGEST_TURN_DEGREES = 5.0
LARGEST_ZOOM = 0.03
LARGEST_SHIFT = 1 / 32
"""Of the image's side."""
LARGEST_CONTRAST, LARGEST_BRIGHTNESS = 0.08, 8.0
LARGEST_NOISE_STD = 3.0
"""Grey levels."""
LARGEST_SCALE = 2.0
"""Of a picture against the graph's input: finer detail would not be left after the resize."""
LONGEST_SIDE_PX = 16384
"""Of a picture that is turned: OpenCV refuses twice that."""
_NORMAL = ndtri((np.arange(256) + 0.5) / 256)
"""256 values that are as likely as one another, in place of normal ones: much faster to draw."""


def at_view_scale(picture: NDArray[np.uint8], *, input_format: InputFormat) -> NDArray[np.uint8]:
    """The picture at the scale that views are taken at: one to two times the graph's input, its aspect ratio kept.

    Args:
        picture: (H, W, C), as decoded.
        input_format: What it will be resized to.
    """
    height, width = picture.shape[:2]
    least = max(input_format.resize_height_px / height, input_format.resize_width_px / width)
    factor = min(max(least, min(1.0, LARGEST_SCALE * least)), LONGEST_SIDE_PX / max(height, width))
    return resample(picture, height_px=round(height * factor), width_px=round(width * factor))


def change_view(
    picture: NDArray[np.uint8], *, input_format: InputFormat, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Another view of the same part, as the graph takes it: turned, zoomed, shifted, lit a little differently, noisy.

    Args:
        picture: (H, W, C), from `at_view_scale`; what comes in at the borders is mirrored.
        input_format: The sizes.
        random: Every draw comes from it.

    Returns:
        (height_px, width_px, C).
    """
    least_pixels = input_format.resize_height_px * input_format.resize_width_px
    # the resize that follows hides what a faster filter would blur
    interpolation = cv2.INTER_CUBIC if picture[:, :, 0].size >= 2 * least_pixels else cv2.INTER_LANCZOS4
    return _lit_differently(resize_image(_moved(picture, random, interpolation), input_format=input_format), random)


def _moved(picture: NDArray[np.uint8], random: np.random.Generator, interpolation: int) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    turn = random.uniform(-LARGEST_TURN_DEGREES, LARGEST_TURN_DEGREES)
    zoom = random.uniform(1 - LARGEST_ZOOM, 1 + LARGEST_ZOOM)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), turn, zoom)
    matrix[:, 2] += random.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, 2) * np.array([width, height])

    def warped(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        moved = cv2.warpAffine(picture, matrix, (width, height), flags=interpolation, borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(moved, np.uint8).reshape(picture.shape)

    return once_if_mono(picture, warped)


def _lit_differently(image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    mean = image.mean()
    contrast = random.uniform(1 - LARGEST_CONTRAST, 1 + LARGEST_CONTRAST)
    brightness = random.uniform(-LARGEST_BRIGHTNESS, LARGEST_BRIGHTNESS)
    lit = ((np.arange(256) - mean) * contrast + mean + brightness).astype(np.float32)
    noise = (_NORMAL * random.uniform(0, LARGEST_NOISE_STD)).astype(np.float32)
    drawn = random.integers(0, 256, image.shape, np.uint8)
    changed = cv2.add(cv2.LUT(image, lit), cv2.LUT(drawn, noise), dtype=cv2.CV_8U)  # rounded, and held within 0..255
    return np.asarray(changed, np.uint8).reshape(image.shape)
