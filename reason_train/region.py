"""Where defects count: a rectangle, a mask of what to ignore, or both, as a constant factor on the anomaly map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reason_runtime.digest import file_sha256
from reason_runtime.errors import ConfigurationError
from reason_runtime.image import Crop, InputFormat, input_of
from reason_train.datasets.masks import HALF, read_mask_levels

Roi = tuple[float, float, float, float]
"""Left, top, width, height, as shares of the whole image's width and height."""


def parse_crop(text: str) -> Crop:
    """`LEFT,TOP,WIDTH,HEIGHT`, in pixels; `InputFormat` says which are refused.

    Raises:
        ConfigurationError: Not four whole numbers.
    """
    try:
        left, top, width, height = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigurationError(
            f"--crop {text}: expected LEFT,TOP,WIDTH,HEIGHT in pixels, such as 400,300,1600,1200"
        ) from error
    return left, top, width, height


def parse_roi(text: str) -> Roi:
    """`LEFT,TOP,WIDTH,HEIGHT`, each a share of the whole image.

    Raises:
        ConfigurationError: Not four numbers, or not inside the image.
    """
    try:
        left, top, width, height = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigurationError(f"--roi {text}: expected LEFT,TOP,WIDTH,HEIGHT, such as 0.1,0.1,0.8,0.8") from error
    check_roi((left, top, width, height))
    return left, top, width, height


def check_roi(roi: Roi) -> None:
    """Check that a rectangle lies inside the image.

    Raises:
        ConfigurationError: It does not, or it is empty.
    """
    left, top, width, height = roi
    if not (0 <= left < left + width <= 1 and 0 <= top < top + height <= 1):
        raise ConfigurationError(f"region {roi}: expected shares of the image, left + width <= 1 and top + height <= 1")


def mask_sha256(path: Path) -> str:
    """SHA-256 of an ignore mask's file.

    Raises:
        ConfigurationError: There is no such file.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path}: no such file; expected an image, white where defects do not count")
    return file_sha256(path)


def counted_region(
    *, roi: Roi | None, ignore_mask: Path | None, input_format: InputFormat, picture_px: tuple[int, int] | None = None
) -> NDArray[np.float32] | None:
    """1 where the map counts and 0 where it does not, after the same cut and resize as images; None: everywhere.

    Args:
        roi: Rectangle that counts.
        ignore_mask: Image white where defects do not count, read as masks of defects are
            (`reason_train.datasets.masks`); of any size, or of the pictures' where only a part of these is looked at.
        input_format: Sizes; the map is as large as the graph's input.
        picture_px: Width and height of all pictures; needed where only a part of them is looked at.

    Returns:
        (S, S) float32.

    Raises:
        ImageError: The mask cannot be read.
        ConfigurationError: Nothing is left that counts, or the mask ignores nothing or is not of the pictures' size.
    """
    if roi is None and ignore_mask is None:
        return None
    form = InputFormat(
        height_px=input_format.height_px,
        width_px=input_format.width_px,
        channels=1,
        resize_height_px=input_format.resize_height_px,
        resize_width_px=input_format.resize_width_px,
        crop_px=input_format.crop_px,
    )
    width, height = picture_px or (form.resize_width_px, form.resize_height_px)
    counted = np.ones((form.height_px, form.width_px), np.bool_)
    if roi is not None:
        inside = np.zeros((height, width, 1), np.uint8)
        rows = slice(round(roi[1] * height), round((roi[1] + roi[3]) * height))
        inside[rows, round(roi[0] * width) : round((roi[0] + roi[2]) * width)] = 255
        counted &= input_of(inside, input_format=form)[:, :, 0] >= HALF
    if ignore_mask is not None:
        ignored = read_mask_levels(ignore_mask)
        if ignored.max() < HALF:
            raise ConfigurationError(
                f"{ignore_mask}: is black all over; expected an image, white where defects do not count"
            )
        if form.crop_px is not None and ignored.shape[:2] != (height, width):
            raise ConfigurationError(
                f"{ignore_mask}: is {ignored.shape[1]} x {ignored.shape[0]} pixels and the pictures, of which --crop "
                f"takes a part, {width} x {height}; give a mask of their size"
            )
        counted &= input_of(ignored, input_format=form)[:, :, 0] < HALF
    if not counted.any():
        raise ConfigurationError("the region of interest and the ignore mask leave no pixel that counts")
    return counted.astype(np.float32)
