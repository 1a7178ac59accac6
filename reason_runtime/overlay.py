"""The anomaly map as a heat map over the image it belongs to."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reason_runtime.atomic import write_bytes
from reason_runtime.detector import Detector
from reason_runtime.errors import ConfigurationError
from reason_runtime.image import InputFormat, as_pillow, covered

T = TypeVar("T", np.float32, np.uint8)
LONGEST_SIDE_PX = 1024  # of a picture: a 100-megapixel image gets no 100-megapixel overlay
_OPACITY = 0.7  # of the colour at the top of the scale; 0 at its bottom, so that good regions stay visible
_LINES = (((0, 0, 0), 3), ((255, 255, 255), 1))  # RGB and width: white on black is seen on bright and dark parts


def map_scale(detector: Detector, *, asked: float | None = None) -> float:
    """The map value at the top of the colour scale, the same for every picture; the bottom is 0.

    What is asked for, else twice the pixel threshold, else twice the highest score of the held-out good images. Never
    the picture's own maximum: good parts must look good.

    Raises:
        ConfigurationError: The value is not positive, or nothing is known to choose one by.
    """
    if asked is not None:
        if not (np.isfinite(asked) and asked > 0):
            raise ConfigurationError(f"a map scale of {asked} is not a positive number")
        return asked
    statistics = detector.bundle.manifest.score_statistics
    for known in (detector.pixel_threshold, statistics.maximum if statistics else None):
        if known is not None and known > 0:
            return 2 * known
    raise ConfigurationError(
        f"{detector.bundle.path}: neither a threshold nor score statistics to scale the maps by; give --map-scale"
    )


def heat_map(anomaly_map: NDArray[np.float32], *, scale: float) -> NDArray[np.uint8]:
    """The map in colours, from blue at 0 to red at `scale` and above.

    Args:
        anomaly_map: (H, W), raw units.
        scale: From `map_scale`.

    Returns:
        (H, W, 3) RGB.
    """
    colours = cv2.applyColorMap(np.round(255 * _height(anomaly_map, scale)).astype(np.uint8), cv2.COLORMAP_TURBO)
    return np.ascontiguousarray(colours[:, :, ::-1], dtype=np.uint8)


def overlay(
    image: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32],
    *,
    input_format: InputFormat,
    scale: float,
    pixel_threshold: float | None,
    longest_side_px: int = LONGEST_SIDE_PX,
) -> NDArray[np.uint8]:
    """The image under its heat map, with a white line on black around what is at or above the pixel threshold.

    The heat map is more opaque where the map is higher, so that good regions stay visible.

    Args:
        image: (H, W, C), in its own size.
        anomaly_map: (S, S), raw units.
        input_format: Says which part of the image the map covers.
        scale: From `map_scale`.
        pixel_threshold: In raw units; None draws no line.
        longest_side_px: Of the picture, at most.

    Returns:
        (h, w, 3) RGB of the image's proportions.

    Raises:
        ImageError: The part that is looked at does not lie within the image.
    """
    picture = np.array(thumbnail(image, longest_side_px=longest_side_px).convert("RGB"), dtype=np.uint8)
    if input_format.crop_px is None:
        rows, columns = covered(picture.shape, input_format=input_format)
    else:
        rows, columns = covered(image.shape, input_format=input_format)
        rows = _scaled(rows, picture.shape[0] / image.shape[0])
        columns = _scaled(columns, picture.shape[1] / image.shape[1])
    target = picture[rows, columns]  # a view: what is drawn here is drawn on the picture
    size = (target.shape[1], target.shape[0])
    shrunk = shrink(anomaly_map, height_px=size[1], width_px=size[0])
    resized = cv2.resize(shrunk, size, interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
    opacity = _OPACITY * _height(resized, scale)[:, :, None]
    target[:] = np.round((1 - opacity) * target + opacity * heat_map(resized, scale=scale)).astype(np.uint8)
    if pixel_threshold is not None:
        above = (resized >= pixel_threshold).astype(np.uint8)
        outlines, _ = cv2.findContours(above, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        lined = np.ascontiguousarray(target)
        for colour, width_px in _LINES:
            cv2.drawContours(lined, outlines, -1, colour, width_px)
        target[:] = lined
    return picture


def thumbnail(image: NDArray[np.uint8], *, longest_side_px: int) -> Image.Image:
    """The image (H, W, C) at no more than this size."""
    picture = as_pillow(image)
    picture.thumbnail((longest_side_px, longest_side_px), Image.Resampling.BILINEAR)
    return picture


def shrink(values: NDArray[T], *, height_px: int, width_px: int) -> NDArray[T]:
    """(H, W) to at most this size, each pixel the highest of those it stands for: a small peak is not lost."""
    for axis, length in enumerate((height_px, width_px)):
        if values.shape[axis] > length:
            values = np.maximum.reduceat(values, np.arange(length) * values.shape[axis] // length, axis=axis)
    return values


def save_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write an RGB picture; the suffix says the format.

    Raises:
        ReasonError: The system refused to write.
    """
    content = BytesIO()  # Pillow does not notice that a disk is full when it writes a JPEG itself
    Image.fromarray(picture).save(content, format=Image.registered_extensions()[path.suffix.lower()])
    write_bytes(path, content.getvalue())


def _height(anomaly_map: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """0 at the bottom of the scale and for what is not a number, 1 at its top and above."""
    height: NDArray[np.float32] = np.clip(np.nan_to_num(anomaly_map / np.float32(scale), nan=0.0), 0, 1)
    return height


def _scaled(pixels: slice, factor: float) -> slice:
    """The same pixels of a side that was made smaller, one at least."""
    first = math.floor(pixels.start * factor)
    return slice(first, max(first + 1, round(pixels.stop * factor)))
